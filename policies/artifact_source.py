"""Where a model version's artifact may be fetched from: a source is written by whoever registers a model.

Rules:
- MLflow's client sends its credentials with every HTTP request for an artifact, to whatever server the source names.
  So a source that is fetched over HTTP must lie on the tracking server itself.
- Other stores (S3 and the like, folders) have credentials and permissions of their own, bound to them.

It must not resolve names or talk to anybody.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from policies.errors import BadInput

_OVER_HTTP = frozenset({"http", "https"})
_PROXIED = "mlflow-artifacts"
"""MLflow's scheme for "ask the tracking server"; with a host in it, "ask that server"."""


def check_artifact_source(source: str, tracking_uri: str) -> None:
    """Raises BadInput where fetching `source` would send MLflow's credentials to another server than `tracking_uri`."""
    try:
        there, here = urlsplit(source.strip()), urlsplit(tracking_uri)
    except ValueError as error:
        raise BadInput(f"the source {source!r} is no address: {error}") from error
    if there.scheme in _OVER_HTTP:
        same = (there.scheme, there.netloc) == (here.scheme, here.netloc)
    else:
        same = there.scheme != _PROXIED or there.netloc in ("", here.netloc)
    if not same:
        raise BadInput(
            f"the source {source!r} lies on another server than the registry ({tracking_uri}), which would be sent the "
            "registry's credentials; log the model to this registry and register that"
        )
