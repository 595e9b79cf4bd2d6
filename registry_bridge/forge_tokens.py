"""Who we are at a forge: a token, or a GitHub App.

Rules:
- A token's file is read at each use, so that one that is rotated is taken without a restart.
- An App's key signs a JSON Web Token of minutes; with it an installation token is fetched, which lives an hour and is
  fetched anew before it ends, or when the forge refuses it.
- Secrets appear in no message and in no `repr`.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from policies.errors import BadInput, Retry, Stalled

LEEWAY_S: Final = 60
"""GitHub advises to date a token a minute back: clocks drift."""
SIGNED_S: Final = 540
"""An App's own token; GitHub takes 10 minutes at most."""
EARLY_S: Final = 300
"""An installation token is replaced this long before it ends."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenSource:
    """A token as it is, or the file that holds it."""

    token: str | None = dataclasses.field(default=None, repr=False)
    file: Path | None = None

    def read(self) -> str:
        """The token. Raises Stalled where there is none."""
        if self.file is None:
            if not self.token:
                raise Stalled("no token for the forge: set SLUICE_FORGE_TOKEN or SLUICE_FORGE_TOKEN_FILE")
            return self.token
        return read_secret(self.file, "the forge's token")


def read_secret(file: Path, what: str) -> str:
    """A secret's file without the line's end. Raises Stalled where it cannot be read or is empty."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Stalled(f"the file of {what}, {file}, cannot be read: {type(error).__name__}") from error
    if not text:
        raise Stalled(f"the file of {what}, {file}, is empty")
    return text


class Token:
    """A personal, project or bot token, in the header that the forge wants."""

    def __init__(self, source: TokenSource, header: str, scheme: str = "") -> None:
        """GitHub: `Authorization: Bearer`; Gitea: `Authorization: token`; GitLab: `PRIVATE-TOKEN`."""
        self._source, self._header, self._scheme = source, header, scheme

    def headers(self) -> Mapping[str, str]:
        """With the token as it is now."""
        return {self._header: f"{self._scheme} {self._source.read()}".strip()}

    def refused(self) -> None:
        """Nothing is remembered."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class App:
    """A GitHub App's identity."""

    id: str
    """Its App ID or client ID."""
    key_file: Path
    """Its private key, PEM."""
    installation: str
    """The installation on the config repo's owner: the number in its settings' address."""


Exchange = Callable[[str, Mapping[str, str]], Any]
"""`POST` to this path with these headers; the JSON of the answer. Raises Retry, Stalled."""


class AppToken:
    """Installation tokens of a GitHub App, one at a time.

    https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app
    """

    def __init__(self, app: App, exchange: Exchange, now: Callable[[], float] = time.time) -> None:
        self._app, self._exchange, self._now = app, exchange, now
        self._token, self._ends = "", 0.0
        self._lock = threading.Lock()

    def headers(self) -> Mapping[str, str]:
        """With a token that lives for some minutes more."""
        with self._lock:
            if self._now() > self._ends - EARLY_S:
                self._fetch()
            return {"Authorization": f"Bearer {self._token}"}

    def refused(self) -> None:
        """Fetch another next time: the installation may have been changed."""
        with self._lock:
            self._ends = 0.0

    def _fetch(self) -> None:
        path = f"/app/installations/{self._app.installation}/access_tokens"
        got = self._exchange(path, {"Authorization": f"Bearer {self.signed()}"})
        try:
            ends = datetime.fromisoformat(got["expires_at"]).timestamp()
            self._token, self._ends = str(got["token"]), ends
        except (KeyError, TypeError, ValueError) as error:
            raise Retry(f"GitHub's answer to {path} holds no token: {type(error).__name__}") from error

    def signed(self) -> str:
        """The App's own token, signed with its key. Raises Stalled, BadInput."""
        import jwt

        key = read_secret(self._app.key_file, "the GitHub App's key")
        now = int(self._now())
        claims = {"iat": now - LEEWAY_S, "exp": now + SIGNED_S, "iss": self._app.id}
        try:
            return jwt.encode(claims, key, algorithm="RS256")
        except (ValueError, TypeError, jwt.PyJWTError) as error:  # what it says may quote the key
            raise BadInput(f"{self._app.key_file} is no private RSA key in PEM: {type(error).__name__}") from None
