"""What the process's environment says; the only module that reads it for Sluicegate's own settings.

| variable | meaning |
| --- | --- |
| SLUICE_REPO | address or folder of the config repo, where `--repo` is not given |
| SLUICE_BRANCH | its branch, `main` |
| SLUICE_GIT_TOKEN | token for a config repo over http or https |
| SLUICE_SIGNING_KEY | what our commits are signed with: the path of an SSH key, or a GPG key's id |
| SLUICE_ALLOWED_SIGNERS | file of the SSH keys whose changes count; it goes before the repo's own |
| SLUICE_GPG_HOME | folder of GnuPG with the keys whose changes count, and our own |
| SLUICE_TRUSTED_COMMIT | the commit from which on changes must be signed |
| SLUICE_CACHE | folder for clones and artifacts, `~/.cache/sluicegate` |
| RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH | Ray's own: the token of the dashboard |
| MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN | MLflow's own; MLflow reads them itself |

It must not open connections or decide: it only reads and checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from policies.errors import BadInput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Where things are, and the secrets to reach them; secrets never show in `repr`."""

    repo: str
    branch: str
    cache: Path
    git_token: str | None = dataclasses.field(default=None, repr=False)
    signing_key: str | None = None
    """A path, or a GPG key's id: no secret itself."""
    allowed_signers: Path | None = None
    gpg_home: Path | None = None
    trusted_commit: str | None = None
    environment: Mapping[str, str] = dataclasses.field(repr=False)
    """Everything, for the doors that follow another program's own rules (Ray's token)."""


def settings(environment: Mapping[str, str], *, repo: str | None = None, branch: str | None = None) -> Settings:
    """Read them; `repo` and `branch` from the command line go first. Raises BadInput without a config repo."""
    place = repo or environment.get("SLUICE_REPO") or _here()
    if place is None:
        raise BadInput(
            "no config repo: give its address or folder with --repo or in SLUICE_REPO, or run this in its folder"
        )
    folder = environment.get("SLUICE_CACHE")
    return Settings(
        repo=place,
        branch=branch or environment.get("SLUICE_BRANCH") or "main",
        cache=Path(folder) if folder else Path(environment.get("HOME", ".")) / ".cache" / "sluicegate",
        git_token=environment.get("SLUICE_GIT_TOKEN") or None,
        signing_key=environment.get("SLUICE_SIGNING_KEY") or None,
        allowed_signers=_path(environment.get("SLUICE_ALLOWED_SIGNERS")),
        gpg_home=_path(environment.get("SLUICE_GPG_HOME")),
        trusted_commit=environment.get("SLUICE_TRUSTED_COMMIT") or None,
        environment=environment,
    )


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _here() -> str | None:
    """The current folder, where it is a config repo."""
    here = Path.cwd()
    return str(here) if (here / "sluice.yaml").is_file() and (here / ".git").exists() else None
