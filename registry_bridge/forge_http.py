"""How we speak HTTP to a forge: one session, bounded patience, limits respected, answers in our words.

Rules:
- Every call has a deadline. A read that met a broken connection or a 5xx is tried once more; a write never is: whether
  it arrived, the next look sees.
- A forge that limits us is left alone until the time it named (`Retry-After`, `X-RateLimit-Reset`, `RateLimit-Reset`):
  until then no call leaves this process, whoever makes it. Going on is what forges ban for.
- Redirects are not followed and pages of other hosts are not fetched, so that the token goes to the one address that
  was configured. It appears in no message.
- Certificates are checked, by REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE where one is set.

It must not know what a pull request is.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from policies.errors import Retry, SluiceError, Stalled
from policies.loopback import is_loopback

_LOG = logging.getLogger(__name__)

CONNECT_S: Final = 5.0
"""A forge on the internet accepts within 0.3 s; three SYN retries fit."""
ANSWER_S: Final = 20.0
"""GitHub ends a request of its own after 10 s."""
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""A page of 100 pull requests with long bodies stays below 8 MiB."""
PAGES: Final = 50
"""Of one listing: 5,000 things."""
PAGE_SIZE: Final = 100
"""The largest page of all three; Gitea gives 50 and says where the next one is."""
BREATH_S: Final = 0.5
"""Before a read is tried once more."""
AWAY: Final = timedelta(seconds=15)
UNSAID: Final = timedelta(seconds=60)
"""How long a limit lasts that names no time: what GitHub asks for."""
LONGEST: Final = timedelta(hours=1)
"""GitHub's own window: no limit is believed to last longer."""
WORDS: Final = 400

_OK, _REDIRECT, _MISUSE, _BROKEN = 200, 300, 400, 500
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _BUSY = 401, 403, 404, frozenset({408, 425, 429})
_TOO_MANY = 429
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class Credentials(Protocol):
    """What shows a forge who we are."""

    def headers(self) -> Mapping[str, str]:
        """Headers of the next request. Raises Stalled, Retry."""

    def refused(self) -> None:
        """The forge said 401: whatever is remembered is not worth keeping."""


class Answer:
    """A forge's answer: its status, its JSON, its headers."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str], following: str | None) -> None:
        self.status, self.body, self.headers, self.following = status, body, headers, following

    @property
    def words(self) -> str:
        """What the forge says for people, on one line."""
        return forge_words(self.body)


def forge_words(body: Any) -> str:
    """The text of a forge's error: `message` (a string, a list or an object), `error`, GitHub's `errors`."""
    if not isinstance(body, Mapping):
        return ""
    said = body.get("message") or body.get("error") or ""
    texts = [said if isinstance(said, str) else str(said)]
    texts += [
        str(each.get("message") or each if isinstance(each, Mapping) else each) for each in body.get("errors") or ()
    ]
    return " ".join("; ".join(text for text in texts if text).split())[:WORDS]


class ForgeHttp:
    """One forge's API below `api`; safe to use from several threads."""

    def __init__(
        self,
        name: str,
        api: str,
        credentials: Credentials,
        *,
        headers: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
        answer_s: float = ANSWER_S,
    ) -> None:
        """`name` begins every message; `headers` go with every call; `now` is the wall clock of limits."""
        self._name, self._api, self._credentials = name, api.rstrip("/"), credentials
        self._now, self._answer_s = now, answer_s
        self._silent_until = 0.0
        self._session = requests.Session()
        self._session.headers.update({"User-Agent": "sluicegate", **(headers or {})})
        given = os.environ if environment is None else environment
        self._session.verify = next((given[name] for name in _CA_VARIABLES if given.get(name)), True)
        # A proxy from the environment must not get between us and a loopback address.
        self._session.trust_env = not is_loopback(urlsplit(api).hostname or "")
        self._lock = threading.Lock()

    def get(self, path: str, *, params: Mapping[str, Any] | None = None, also: Collection[int] = ()) -> Answer:
        """Read; tried once more where the connection broke or the forge did. `also`: statuses that are answers here."""
        try:
            return self._call("GET", self._api + path, params=params, also=also)
        except _BrokenError as broken:
            _LOG.info("%s: once more after %s", self._name, broken)
        threading.Event().wait(BREATH_S)
        return self._call("GET", self._api + path, params=params, also=also)

    def send(self, method: str, path: str, body: Mapping[str, Any] | None, *, also: Collection[int] = ()) -> Answer:
        """Write, once."""
        return self._call(method, self._api + path, body=body, also=also)

    def pages(self, path: str, params: Mapping[str, Any] | None = None, size: str = "per_page") -> Iterator[Any]:
        """Everything that a listing holds, in its order, page by page as it is asked for. `size` is its own word."""
        answer = self.get(path, params={**(params or {}), size: PAGE_SIZE})
        for _ in range(PAGES):
            if not isinstance(answer.body, list):
                raise Retry(f"{self._name}: {path} is no list", AWAY)
            yield from answer.body
            if answer.following is None:
                return
            answer = self.get(self._below(answer.following))
        raise Stalled(f"{self._name}: {path} has more than {PAGES} pages: close or remove what is no longer needed")

    def _below(self, address: str) -> str:
        """The next page's path, where it is one of this API's."""
        if not address.startswith(self._api + "/"):
            raise Stalled(f"{self._name}: the next page lies elsewhere ({_place(address)}): is the url right?")
        return address[len(self._api) :]

    def _call(
        self,
        method: str,
        address: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        also: Collection[int] = (),
    ) -> Answer:
        what = f"{self._name}: {method} {urlsplit(address).path}"
        self._keep_silent(what)
        auth = _Headers(self._credentials.headers())
        try:
            with self._lock:  # a session's connections may be shared, its cookies may not
                got = self._session.request(
                    method, address, params=params, json=body, auth=auth,
                    timeout=(CONNECT_S, self._answer_s), allow_redirects=False, stream=True,
                )  # fmt: skip
                answer = _read(what, got)
                self._session.cookies.clear()
        except requests.exceptions.SSLError as error:
            words = "its certificate is not trusted: name your authority's file in REQUESTS_CA_BUNDLE"
            raise Stalled(f"{what} failed: {words}") from error
        except requests.RequestException as error:
            raise _BrokenError(f"{what} failed: {_cause(error)}", AWAY) from error
        if _OK <= answer.status < _REDIRECT or answer.status in also:
            return answer
        raise self._error(what, answer)

    def _keep_silent(self, what: str) -> None:
        left = self._silent_until - self._now()
        if left > 0:
            raise Retry(f"{what} is not sent: the forge limits us for {left:.0f} s more", timedelta(seconds=left))

    def _error(self, what: str, answer: Answer) -> SluiceError:
        said = f"{what} was answered {answer.status}: {answer.words or 'without a word'}"
        if (pause := limit_s(answer, self._now())) is not None:
            self._silent_until = self._now() + pause
            return Retry(said, timedelta(seconds=pause))
        if answer.status >= _BROKEN:
            return _BrokenError(said, AWAY)
        if answer.status in _BUSY:
            return Retry(said, AWAY)
        if answer.status == _UNAUTHORIZED:
            self._credentials.refused()
            return Stalled(f"{said}; the forge's token is missing, wrong or expired: see docs/forges.md")
        if answer.status in {_FORBIDDEN, _NOT_FOUND}:
            return Stalled(f"{said}; is the repository right, and may the token do this? See docs/forges.md")
        if answer.status < _MISUSE:
            place = _place(answer.headers.get("location", ""))
            return Stalled(f"{said}; it points to {place}: name the forge's own address and the repository's new name")
        return Stalled(said)


class _BrokenError(Retry):
    """No answer, or one that says the forge is broken: a read may be tried once more."""


class _Headers(AuthBase):
    """Sets the token, and by being there keeps `requests` from taking another out of ~/.netrc."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


def limit_s(answer: Answer, now: float) -> float | None:
    """Seconds for which a forge wants no calls; None where this answer is about something else.

    GitHub answers 403 or 429, GitLab and Gitea 429; where no time is named GitHub asks for a minute.
    """
    named = _number(answer.headers.get("retry-after"))
    spent = "0" in {answer.headers.get("x-ratelimit-remaining"), answer.headers.get("ratelimit-remaining")}
    limited = answer.status == _TOO_MANY or (
        answer.status == _FORBIDDEN and (spent or named is not None or "rate limit" in answer.words.lower())
    )
    if not limited:
        return None
    reset = _number(answer.headers.get("x-ratelimit-reset") or answer.headers.get("ratelimit-reset"))
    if named is None and spent and reset is not None:
        named = reset - now
    pause = UNSAID.total_seconds() if named is None else named
    return min(max(pause, 1.0), LONGEST.total_seconds())


def _read(what: str, got: requests.Response) -> Answer:
    with got:
        raw = bytearray()
        for chunk in got.iter_content(64 * 1024):
            raw += chunk
            if len(raw) > MAX_ANSWER_BYTES:
                raise Stalled(f"{what}: the answer is larger than {MAX_ANSWER_BYTES // 2**20} MiB")
        got._content = bytes(raw)  # noqa: SLF001  (what `stream` leaves to us)
        headers = {name.lower(): value for name, value in got.headers.items()}
        following = (got.links.get("next") or {}).get("url")
    try:
        return Answer(got.status_code, got.json() if raw else None, headers, following)
    except ValueError:
        if got.status_code < _REDIRECT:
            raise Retry(f"{what}: the answer is no JSON: is the url that of the forge?", AWAY) from None
        return Answer(got.status_code, None, headers, following)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:  # a date, as HTTP allows and no forge writes
        return None


def _place(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname}{parts.path}" if parts.hostname else parts.path or "nowhere"


def _cause(error: requests.RequestException) -> str:
    """Without the pool's repr and, with certainty, without headers."""
    if isinstance(error, requests.ReadTimeout):
        return "no answer in time"
    return "no connection in time" if isinstance(error, requests.ConnectTimeout) else type(error).__name__
