"""What `sluice.yaml` says of the forge that hosts the config repo, and of webhooks; as strict as its other nouns."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.durations import Duration, format_duration
from policies.wrong_fields import WrongFields

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_LAST_PORT = 65535
# Within it every delivery is remembered.
_LONGEST_WINDOW = timedelta(hours=1)


@document(frozen=True, kw_only=True, config=_STRICT)
class ForgeTarget:
    """The forge that hosts this config repo. Its token comes from SLUICE_FORGE_TOKEN or SLUICE_FORGE_TOKEN_FILE."""

    kind: Literal["github", "gitea", "forgejo", "gitlab"]
    """Which API it speaks."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    """Its address as people open it; none means github.com or gitlab.com."""
    repository: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)+$", max_length=250)]
    """The config repo there: owner/name."""
    merge_method: Literal["merge", "squash", "rebase"] = "merge"
    """How its pull requests are merged. On GitLab the project says so, apart from squash."""

    def __post_init__(self) -> None:
        """Raises ValueError where nobody knows where it is, or what is meant."""
        if self.url is None and self.kind in {"gitea", "forgejo"}:
            raise ValueError(f"url is missing: there is no one {self.kind}")
        if self.repository.count("/") > 1 and self.kind != "gitlab":
            raise WrongFields("repository is owner/name; only GitLab has groups in groups", "repository")


@document(frozen=True, kw_only=True, config=_STRICT)
class Webhooks:
    """Where the reconciler hears of changes at once; each webhook only makes it look sooner."""

    listen: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:\[\]-]+:[0-9]{1,5}$")] = "127.0.0.1:8790"
    """Address and port, in the reconciler's process: 0.0.0.0:8790 for every address."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    """Where MLflow and the forge reach that; `sluice webhooks install` registers it. None: the address itself."""
    window: Duration = timedelta(minutes=5)
    """How far the time that a webhook is signed with may be from ours."""

    def __post_init__(self) -> None:
        """Raises ValueError for a port that is none, or a window of no time."""
        if not 0 < int(self.listen.rpartition(":")[2]) <= _LAST_PORT:
            raise WrongFields(f"listen names no port between 1 and {_LAST_PORT}", "listen")
        if not timedelta() < self.window <= _LONGEST_WINDOW:
            raise WrongFields(f"window is above 0s and at most 1h, not {format_duration(self.window)}", "window")
