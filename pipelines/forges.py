"""The door to the forge that `sluice.yaml` names, with the credentials that the process's environment has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pipelines.ports import Forge
from pipelines.settings import Settings
from policies.errors import BadInput
from policies.forges import ForgeTarget
from registry_bridge import gitea, github, gitlab
from registry_bridge.forge import Dialect, ForgeDoor
from registry_bridge.forge_http import Credentials, ForgeHttp
from registry_bridge.forge_tokens import App, AppToken, Token, TokenSource

_HOMES: Final = {"github": "https://github.com", "gitlab": "https://gitlab.com"}
_NAMES: Final = {"github": "GitHub", "gitea": "Gitea", "forgejo": "Forgejo", "gitlab": "GitLab"}


def forge_door(target: ForgeTarget, branch: str, settings: Settings) -> Forge:
    """Pull requests into `branch` of that repository. Opens no connection yet. Raises BadInput.

    The token itself is read when it is first needed: without one, Git goes on, and pull requests say what is missing.
    """
    url = (target.url or _HOMES[target.kind]).rstrip("/")
    return ForgeDoor(_dialect(target, url, branch, settings))


def _dialect(target: ForgeTarget, url: str, branch: str, settings: Settings) -> Dialect:
    name = _NAMES[target.kind]
    if target.kind == "github":
        api = github.api_of(url)
        credentials = _github_credentials(api, settings)
        http = ForgeHttp(name, api, credentials, headers=github.HEADERS, environment=settings.environment)
        return github.GitHub(http, target.repository, branch, target.merge_method)
    if settings.github_app is not None:
        raise BadInput(f"SLUICE_GITHUB_APP_ID is set, and the forge is a {name}: unset it, and set SLUICE_FORGE_TOKEN")
    if target.kind == "gitlab":
        token = Token(_token(settings), "PRIVATE-TOKEN")
        http = ForgeHttp(name, url + gitlab.API, token, environment=settings.environment)
        return gitlab.GitLab(http, target.repository, branch, target.merge_method)
    token = Token(_token(settings), "Authorization", "token")
    http = ForgeHttp(name, url + gitea.API, token, environment=settings.environment)
    return gitea.Gitea(http, target.repository, branch, target.merge_method)


def _github_credentials(api: str, settings: Settings) -> Credentials:
    given = settings.github_app
    if given is None:
        return Token(_token(settings), "Authorization", "Bearer")
    app = App(id=given.id, key_file=given.key_file, installation=given.installation)

    def exchange(path: str, headers: Mapping[str, str]) -> object:
        signed = _Signed(headers)
        http = ForgeHttp("GitHub", api, signed, headers=github.HEADERS, environment=settings.environment)
        return http.send("POST", path, None).body

    return AppToken(app, exchange)


class _Signed:
    """An App's own token, for the one call that fetches an installation's."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def headers(self) -> Mapping[str, str]:
        """As it was signed."""
        return self._headers

    def refused(self) -> None:
        """It is signed anew each time."""


def _token(settings: Settings) -> TokenSource:
    return TokenSource(token=settings.forge_token, file=settings.forge_token_file)
