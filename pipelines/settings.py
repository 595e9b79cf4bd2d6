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
| SLUICE_FORGE_TOKEN, SLUICE_FORGE_TOKEN_FILE | token for the forge, or the file that holds it |
| SLUICE_GITHUB_APP_ID | a GitHub App in the token's place: its id |
| SLUICE_GITHUB_APP_INSTALLATION, SLUICE_GITHUB_APP_KEY_FILE | where it is installed, and its key |
| SLUICE_FORGE_WEBHOOK_SECRET, SLUICE_FORGE_WEBHOOK_SECRET_FILE | what the forge signs its webhooks with |
| SLUICE_MLFLOW_WEBHOOK_SECRET, SLUICE_MLFLOW_WEBHOOK_SECRET_FILE | what MLflow signs its webhooks with |
| RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH | Ray's own: the token of the dashboard |
| MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN | MLflow's own; MLflow reads them itself |

It must not open connections or decide: it only reads and checks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from policies.errors import BadInput


@dataclasses.dataclass(frozen=True, kw_only=True)
class GitHubApp:
    """Who signs for a GitHub App."""

    id: str
    installation: str
    key_file: Path


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
    forge_token: str | None = dataclasses.field(default=None, repr=False)
    forge_token_file: Path | None = None
    github_app: GitHubApp | None = None
    """A GitHub App in the token's place."""
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
        allowed_signers=_path(environment, "SLUICE_ALLOWED_SIGNERS"),
        gpg_home=_path(environment, "SLUICE_GPG_HOME"),
        trusted_commit=environment.get("SLUICE_TRUSTED_COMMIT") or None,
        forge_token=environment.get("SLUICE_FORGE_TOKEN") or None,
        forge_token_file=_path(environment, "SLUICE_FORGE_TOKEN_FILE"),
        github_app=_github_app(environment),
        environment=environment,
    )


_WEBHOOK_SECRETS: Final = {
    "mlflow": ("SLUICE_MLFLOW_WEBHOOK_SECRET", "SLUICE_MLFLOW_WEBHOOK_SECRET_FILE"),
    "forge": ("SLUICE_FORGE_WEBHOOK_SECRET", "SLUICE_FORGE_WEBHOOK_SECRET_FILE"),
}


def webhook_secret(environment: Mapping[str, str], sender: Literal["mlflow", "forge"]) -> str | None:
    """What they sign their webhooks with; None where that is not set. Raises BadInput for a file without one."""
    variable, file_variable = _WEBHOOK_SECRETS[sender]
    file = _path(environment, file_variable)
    if file is None:
        return environment.get(variable) or None
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file_variable} names {file}, which cannot be read: {type(error).__name__}") from error
    if not secret:
        raise BadInput(f"{file_variable} names {file}, which is empty")
    return secret


def _github_app(environment: Mapping[str, str]) -> GitHubApp | None:
    id_, installation = environment.get("SLUICE_GITHUB_APP_ID"), environment.get("SLUICE_GITHUB_APP_INSTALLATION")
    key_file = _path(environment, "SLUICE_GITHUB_APP_KEY_FILE")
    if not (id_ or installation or key_file):
        return None
    if not (id_ and installation and key_file and installation.isdecimal()):
        raise BadInput(
            "a GitHub App needs SLUICE_GITHUB_APP_ID, SLUICE_GITHUB_APP_INSTALLATION (a number) and "
            "SLUICE_GITHUB_APP_KEY_FILE"
        )
    return GitHubApp(id=id_, installation=installation, key_file=key_file)


def _path(environment: Mapping[str, str], variable: str) -> Path | None:
    given = environment.get(variable)
    return Path(given) if given else None


def _here() -> str | None:
    """The current folder, where it is a config repo."""
    here = Path.cwd()
    return str(here) if (here / "sluice.yaml").is_file() and (here / ".git").exists() else None
