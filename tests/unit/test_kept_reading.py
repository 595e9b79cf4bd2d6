"""Something outside that is read again and again, the last good reading kept."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from policies.errors import BadInput
from serving_runtime.kept_reading import (
    LIMIT_BYTES,
    SLOW_S,
    URL_AT_MOST_EVERY_S,
    URL_EVERY_S,
    URL_LIMIT_BYTES,
    FilePlace,
    KeptReading,
    Place,
    UrlPlace,
    VariablePlace,
)
from tests.conditions import turns
from tests.fakes.key_server import KeyServer, answering


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def parse(raw: bytes) -> str:
    if raw == b"broken":
        raise BadInput("it is broken")
    if raw == b"a bug":
        raise ZeroDivisionError
    return raw.decode()


def kept(place: Place) -> KeptReading[str]:
    return KeptReading(place, parse)


def look(reading: KeptReading[str], times: int = 1) -> tuple[str | None, str]:
    async def looks() -> None:
        for _ in range(times):
            await reading.look()

    asyncio.run(looks())
    return reading.value, reading.trouble


def replace(path: Path, content: str) -> None:
    """As it should be done: nobody sees half of it."""
    aside = path.with_suffix(".new")
    aside.write_text(content)
    aside.rename(path)


# --- a file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("one")
    return path


def test_a_file_is_there_at_the_first_look(file: Path) -> None:
    assert look(kept(FilePlace(str(file)))) == ("one", "")


@pytest.mark.parametrize("write", [Path.write_text, replace])
def test_a_file_that_has_changed_is_read_once_it_holds_still(file: Path, write: Callable[[Path, str], None]) -> None:
    reading = kept(FilePlace(str(file)))
    look(reading)
    write(file, "two!")
    assert look(reading) == ("one", "")
    assert look(reading) == ("two!", "")


def test_a_file_that_is_still_being_written_is_left_alone(file: Path) -> None:
    reading = kept(FilePlace(str(file)))
    look(reading)
    for length in range(4, 9):
        file.write_text("x" * length)
        assert look(reading) == ("one", "")
    assert look(reading) == ("x" * 8, "")


def test_what_a_link_leads_to_may_change(file: Path, tmp_path: Path) -> None:
    """As Kubernetes does it with its secrets."""
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(file)
    reading = kept(FilePlace(str(link)))
    look(reading)
    other.write_text("two")
    link.unlink()
    link.symlink_to(other)
    assert look(reading, times=2) == ("two", "")


@pytest.mark.parametrize("content", ["broken", "a bug"])
def test_a_broken_file_keeps_what_was_read_and_says_so(file: Path, content: str) -> None:
    reading = kept(FilePlace(str(file)))
    look(reading)
    replace(file, content)
    value, trouble = look(reading, times=5)
    assert (value, trouble) == (
        "one",
        {"broken": "it is broken", "a bug": "ZeroDivisionError while it was read"}[content],
    )
    replace(file, "three")
    assert look(reading, times=2) == ("three", "")


def test_a_file_that_is_gone_keeps_what_was_read_and_may_come_back(file: Path) -> None:
    reading = kept(FilePlace(str(file)))
    look(reading)
    content = file.read_text()
    file.unlink()
    assert look(reading) == ("one", f"{file}: No such file or directory")
    file.write_text(content)
    assert look(reading, times=2) == ("one", "")


def test_a_file_that_never_was_there_lets_nobody_in(tmp_path: Path) -> None:
    value, trouble = look(kept(FilePlace(str(tmp_path / "none"))))
    assert value is None
    assert "No such file" in trouble


def test_a_file_that_everybody_may_write_is_not_taken(file: Path) -> None:
    file.chmod(0o666)
    value, trouble = look(kept(FilePlace(str(file))))
    assert (value, "chmod o-w" in trouble) == (None, True)
    file.chmod(0o644)


def test_what_is_no_file_and_what_is_too_large_is_not_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        assert look(kept(FilePlace(str(path))))[1].endswith("is no file")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    assert "larger than" in look(kept(FilePlace(str(large))))[1]


# --- a variable ---------------------------------------------------------------------------------------------------


def test_a_variable_is_read_as_a_text_with_its_last_line_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEYS", "one\ntwo")
    assert look(kept(VariablePlace("SOME_KEYS")), times=2) == ("one\ntwo\n", "")


def test_a_variable_that_is_not_set_is_named() -> None:
    assert look(kept(VariablePlace("NOT_SET"))) == (
        None,
        "the environment variable NOT_SET is not set for this replica",
    )


# --- an address ---------------------------------------------------------------------------------------------------


def test_an_address_is_asked_now_and_then_and_sooner_in_a_hurry_and_after_a_failure() -> None:
    clock = Clock()
    with KeyServer(answering(b"one")) as server:
        place = UrlPlace(server.url, clock)
        assert place.read(hurry=False) == b"one"
        clock.now += URL_AT_MOST_EVERY_S - 1
        assert (place.read(hurry=True), place.may_hurry()) == (None, False)
        clock.now += 2
        assert place.may_hurry()
        assert place.read(hurry=False) is None
        assert place.read(hurry=True) == b"one"
        clock.now += URL_EVERY_S
        server.behaviour = answering(b"", 500)
        with pytest.raises(BadInput, match="answered 500"):
            place.read(hurry=False)
        assert place.read(hurry=True) is None
        clock.now += URL_AT_MOST_EVERY_S
        server.behaviour = answering(b"two")
        assert place.read(hurry=False) == b"two"
        assert server.asked == 4


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        (answering(b"x" * (URL_LIMIT_BYTES + 1)), f"more than {URL_LIMIT_BYTES} bytes"),
        (answering(b"", 302, location="http://127.0.0.1:1/elsewhere"), "answered 302"),
        (answering(b"no", 404), "answered 404"),
        (lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"), "ClientResponseError"),
        (lambda handler: handler.wfile.write(b""), "ServerDisconnectedError"),
    ],
)
def test_an_address_that_answers_badly_is_trouble(
    behaviour: Callable[[BaseHTTPRequestHandler], None], says: str
) -> None:
    with KeyServer(behaviour) as server:
        value, trouble = look(kept(UrlPlace(server.url)))
    assert value is None
    assert says in trouble


def test_an_answer_without_an_end_is_cut_off() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * 65536)

    with KeyServer(endless) as server:
        assert "more than" in look(kept(UrlPlace(server.url)))[1]


@pytest.mark.parametrize("drips", [b"", b"HTTP/1.1 200 OK\r\nx-slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_never_comes_or_comes_in_drops_takes_no_longer_than_allowed(drips: bytes) -> None:
    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(drips)
        while drips and not server.over.wait(0.05):
            handler.wfile.write(b"x")
        server.over.wait(30)

    with KeyServer(slow) as server:
        began = time.monotonic()
        _, trouble = look(kept(UrlPlace(server.url, fetch_s=0.3)))
    assert "did not answer within 0.3 s" in trouble
    assert time.monotonic() - began < 5.0


def test_an_address_that_nobody_listens_on_is_trouble() -> None:
    assert "ClientConnectorError" in look(kept(UrlPlace("http://127.0.0.1:1/keys")))[1]


# --- one look at a time -------------------------------------------------------------------------------------------


WAIT_S = 20.0  # never reached when all is well


class Hanging:
    """A file system that does not answer."""

    def __init__(self) -> None:
        self.asked = 0
        self.over = threading.Event()

    def read(self, *, hurry: bool) -> bytes | None:  # noqa: ARG002 the port's
        self.asked += 1
        assert self.over.wait(WAIT_S)
        return b"one"


def test_a_place_that_hangs_is_asked_once_holds_up_nobody_and_is_trouble() -> None:
    clock, place = Clock(), Hanging()

    async def scenario() -> None:
        reading = KeptReading(place, parse, clock)
        first = reading.look()
        assert reading.look(hurry=True) is first
        await turns()
        assert reading.trouble == ""
        clock.now += SLOW_S + 1
        assert "still being read" in reading.trouble
        place.over.set()
        await first
        assert (reading.value, reading.trouble, place.asked) == ("one", "", 1)

    asyncio.run(scenario())
