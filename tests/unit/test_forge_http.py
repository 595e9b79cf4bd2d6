"""How a forge is spoken to: limits, redirects, pages of other hosts, answers that are none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler

import pytest

from policies.errors import Retry, Stalled
from registry_bridge.forge_http import Answer, ForgeHttp, forge_words, limit_s
from tests.fakes.key_server import KeyServer, answering

NOW = 1_000_000.0


class Shown:
    """Credentials that remember whether they were refused."""

    def __init__(self) -> None:
        self.was_refused = False

    def headers(self) -> Mapping[str, str]:
        return {"Authorization": "Bearer s3cret"}

    def refused(self) -> None:
        self.was_refused = True


def http(server: KeyServer, **options: float) -> ForgeHttp:
    return ForgeHttp("Forge", server.url.removesuffix("/keys"), Shown(), environment={}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("status", "headers", "body", "seconds"),
    [
        (429, {"retry-after": "7"}, None, 7),
        (403, {"retry-after": "7"}, None, 7),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": str(int(NOW) + 90)}, None, 90),
        (429, {"ratelimit-remaining": "0", "ratelimit-reset": str(int(NOW) + 90)}, None, 90),
        (403, {}, {"message": "You have exceeded a secondary rate limit."}, 60),
        (429, {}, None, 60),
        (429, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None, 60),
        (429, {"retry-after": "-5"}, None, 1),
        (429, {"retry-after": "999999"}, None, 3600),
        (403, {}, {"message": "Resource not accessible"}, None),
        (403, {"x-ratelimit-remaining": "12"}, None, None),
        (404, {"x-ratelimit-remaining": "0"}, None, None),
        (200, {"x-ratelimit-remaining": "0"}, None, None),
    ],
)
def test_how_long_a_limit_lasts(status: int, headers: Mapping[str, str], body: object, seconds: float | None) -> None:
    assert limit_s(Answer(status, body, headers, None), NOW) == seconds


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "Not Found"}, "Not Found"),
        ({"message": ["one", "two"]}, "['one', 'two']"),
        ({"error": "insufficient_scope"}, "insufficient_scope"),
        ({"message": "Failed", "errors": [{"message": "a\nb"}, {"code": "x"}, "c"]}, "Failed; a b; {'code': 'x'}; c"),
        (["no object"], ""),
        (None, ""),
    ],
)
def test_what_a_forge_says_is_on_one_line(body: object, words: str) -> None:
    assert forge_words(body) == words


def test_a_limit_ends_when_it_said() -> None:
    clock = [NOW]
    with KeyServer(answering(b"{}", 429, **{"Retry-After": "20"})) as server:
        door = ForgeHttp("Forge", server.url.removesuffix("/keys"), Shown(), environment={}, now=lambda: clock[0])
        with pytest.raises(Retry) as limited:
            door.get("/keys")
        assert limited.value.after == timedelta(seconds=20)
        server.behaviour = answering(b"{}")
        clock[0] += 19
        with pytest.raises(Retry, match="1 s more"):
            door.send("POST", "/keys", {})
        clock[0] += 1
        assert door.get("/keys").status == 200
        assert server.asked == 2


def test_a_redirect_is_not_followed_so_the_token_goes_nowhere_else() -> None:
    with (
        KeyServer(answering(b"{}")) as elsewhere,
        KeyServer(answering(b"", 301, Location=f"{elsewhere.url}?x=s3cret")) as server,
    ):
        with pytest.raises(Stalled, match="it points to http://127") as refused:
            http(server).get("/keys")
        assert elsewhere.asked == 0
    assert "s3cret" not in str(refused.value)


def test_a_next_page_of_another_host_is_not_fetched() -> None:
    with KeyServer(answering(b"[]")) as elsewhere:
        with (
            KeyServer(answering(b"[1]", Link=f'<{elsewhere.url}>; rel="next"')) as server,
            pytest.raises(Stalled, match="the next page lies elsewhere"),
        ):
            list(http(server).pages("/keys"))
        assert elsewhere.asked == 0


def test_a_listing_without_an_end_is_given_up() -> None:
    with KeyServer(answering(b"[1]")) as server:
        server.behaviour = answering(b"[1]", Link=f'<{server.url}>; rel="next"')
        with pytest.raises(Stalled, match="more than 50 pages"):
            list(http(server).pages("/keys"))


def test_a_page_for_people_is_no_answer() -> None:
    with KeyServer(answering(b"<html>sign in</html>")) as server, pytest.raises(Retry, match="is the url that of"):
        http(server).get("/keys")


def test_a_listing_that_is_none_is_no_answer() -> None:
    with KeyServer(answering(b'{"message": "hi"}')) as server, pytest.raises(Retry, match="is no list"):
        list(http(server).pages("/keys"))


def test_an_answer_that_is_too_large_is_not_read() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            try:
                handler.wfile.write(b" " * 2**20)
            except OSError:
                return

    with KeyServer(endless) as server, pytest.raises(Stalled, match="larger than 16 MiB"):
        http(server).get("/keys")


def test_an_answer_that_does_not_come_is_tried_once_more_and_then_later() -> None:
    with KeyServer(lambda _handler: server.over.wait()) as server:  # type: ignore[func-returns-value]
        with pytest.raises(Retry, match="no answer in time"):
            http(server, answer_s=0.1).get("/keys")
        assert server.asked == 2
        server.over.set()


def test_a_token_that_is_refused_is_not_kept() -> None:
    with KeyServer(answering(b'{"message": "Bad credentials"}', 401)) as server:
        credentials = Shown()
        door = ForgeHttp("Forge", server.url.removesuffix("/keys"), credentials, environment={})
        with pytest.raises(Stalled, match="Bad credentials; the forge's token is missing"):
            door.get("/keys")
        assert credentials.was_refused
