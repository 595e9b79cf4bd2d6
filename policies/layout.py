"""Where things are in a config repo: paths to what they hold, and back.

Rules:
- A path is put together from checked names only (`names.py`), so it cannot leave its folder whatever a model is called.
- The folders of design are named here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import re
from enum import StrEnum

from policies.errors import BadInput
from policies.names import ROLLOUT_ID, check_environment_name, is_slug

SLUICE = "sluice.yaml"
ALLOWED_SIGNERS = "policies/allowed_signers"
RULES = "policies/rules.yaml"
FOLDERS = ("models/", "ensembles/", "policies/", "environments/", "history/", "clusters/")

_ROLLOUT_ID = re.compile(ROLLOUT_ID)


class Place(StrEnum):
    """What a file of the config repo is."""

    SLUICE = "sluice"
    MODEL = "model"
    ENSEMBLE = "ensemble"
    POLICY = "policy"
    CLUSTER = "cluster"
    RELEASE = "release"
    SERVE = "serve"
    RAY_SERVICE = "rayservice"
    RECORD = "record"
    CONSENT = "consent"
    """What people agreed to by merging a pull request."""
    ACCEPTED_HISTORY = "accepted history"
    HISTORY = "history"
    ALLOWED_SIGNERS = "allowed signers"
    """Whose signatures count, in ssh-keygen's format."""
    SIDE = "side"
    """A README or .gitkeep: for people and Git, not read."""


@dataclasses.dataclass(frozen=True)
class Located:
    """A path, understood."""

    place: Place
    environment: str = ""
    slug: str = ""


_PATTERNS = (
    (Place.SLUICE, re.compile(r"sluice\.yaml")),
    (
        Place.SIDE,
        re.compile(
            r"(?:models|ensembles|policies|environments|history|clusters)/(?:[^/]+/){0,3}(?:README\.md|\.gitkeep)"
        ),
    ),
    (Place.MODEL, re.compile(r"models/(?P<slug>[^/]+)\.yaml")),
    (Place.ENSEMBLE, re.compile(r"ensembles/(?P<slug>[^/]+)\.yaml")),
    (Place.ALLOWED_SIGNERS, re.compile(r"policies/allowed_signers")),
    (Place.POLICY, re.compile(r"policies/[^/]+\.yaml")),
    (Place.CLUSTER, re.compile(r"clusters/(?P<environment>[^/]+)\.yaml")),
    (Place.RELEASE, re.compile(r"environments/(?P<environment>[^/]+)/releases/(?P<slug>[^/]+)\.yaml")),
    (Place.RECORD, re.compile(r"environments/(?P<environment>[^/]+)/records/(?P<slug>[^/]+)\.json")),
    (Place.CONSENT, re.compile(r"environments/(?P<environment>[^/]+)/consents/(?P<slug>[^/]+)\.yaml")),
    (Place.ACCEPTED_HISTORY, re.compile(r"environments/(?P<environment>[^/]+)/accepted-history\.yaml")),
    (Place.SERVE, re.compile(r"environments/(?P<environment>[^/]+)/serve\.yaml")),
    (Place.RAY_SERVICE, re.compile(r"environments/(?P<environment>[^/]+)/rayservice\.yaml")),
    (Place.HISTORY, re.compile(r"history/(?P<environment>[^/]+)/(?P<slug>[^/]+)/[^/]+\.json")),
)


def locate(path: str) -> Located | None:
    """What the file at `path` is; none where the layout has no such place."""
    if any(part in ("", ".", "..") for part in path.split("/")):
        return None
    for place, pattern in _PATTERNS:
        match = pattern.fullmatch(path)
        if match:
            return Located(place, **match.groupdict())
    return None


def model_path(slug: str) -> str:
    """`models/<slug>.yaml`. Raises BadInput for what is no slug."""
    return f"models/{_checked_slug(slug)}.yaml"


def ensemble_path(name: str) -> str:
    """`ensembles/<name>.yaml`. Raises BadInput for what is no safe name."""
    return f"ensembles/{_checked_slug(name)}.yaml"


def release_path(environment: str, slug: str) -> str:
    """`environments/<environment>/releases/<slug>.yaml`. Raises BadInput."""
    return f"environments/{check_environment_name(environment)}/releases/{_checked_slug(slug)}.yaml"


def serve_path(environment: str) -> str:
    """`environments/<environment>/serve.yaml`. Raises BadInput."""
    return f"environments/{check_environment_name(environment)}/serve.yaml"


def accepted_history_path(environment: str) -> str:
    """`environments/<environment>/accepted-history.yaml`. Raises BadInput."""
    return f"environments/{check_environment_name(environment)}/accepted-history.yaml"


def cluster_path(environment: str) -> str:
    """`clusters/<environment>.yaml`. Raises BadInput."""
    return f"clusters/{check_environment_name(environment)}.yaml"


def ray_service_path(environment: str) -> str:
    """`environments/<environment>/rayservice.yaml`. Raises BadInput."""
    return f"environments/{check_environment_name(environment)}/rayservice.yaml"


def record_path(environment: str, slug: str) -> str:
    """`environments/<environment>/records/<slug>.json`. Raises BadInput."""
    return f"environments/{check_environment_name(environment)}/records/{_checked_slug(slug)}.json"


def consent_path(environment: str, slug: str) -> str:
    """`environments/<environment>/consents/<slug>.yaml`. Raises BadInput."""
    return f"environments/{check_environment_name(environment)}/consents/{_checked_slug(slug)}.yaml"


def history_path(environment: str, slug: str, rollout: str) -> str:
    """`history/<environment>/<slug>/<rollout>.json`. Raises BadInput."""
    if not _ROLLOUT_ID.fullmatch(rollout):
        raise BadInput(f"{rollout[:80]!r} is no id for a rollout: letters, digits, - and _ only")
    return f"history/{check_environment_name(environment)}/{_checked_slug(slug)}/{rollout}.json"


def _checked_slug(slug: str) -> str:
    if not is_slug(slug):
        raise BadInput(f"{slug[:80]!r} is no slug: take policies.names.slug() of the model's name")
    return slug
