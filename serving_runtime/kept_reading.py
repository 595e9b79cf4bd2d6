"""Something that lies outside and may change while we run (keys): read again and again, the last good reading kept.

Rules:
- Reading and parsing are off the event loop, one at a time, and never raise: `trouble` says what is wrong, and `value`
  stays what it was.
- A file is looked at, not read: only when its time, size or inode is another than at the last reading, and only once it
  has been the same in two looks, so that one that is being written is left alone until its writer is done.
- What can be read is bounded in size, a URL also in time (the whole answer, not each packet of it). Redirects are not
  followed: the address was written by the people of the config repo, what it points to by others.
- A file that everybody may write is not taken: whoever writes it decides who may call.

It must not know what is read.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import time
from collections.abc import Callable
from contextvars import Context
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from policies.errors import BadInput

_log = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_BYTES = 4 * 1024 * 1024
"""A file of 10,000 keys has 1.2 MB. A set of public keys has a few kB."""
URL_LIMIT_BYTES = 256 * 1024
"""The largest set of an identity provider in public use has under 20 kB."""
FETCH_S = 5.0
"""For the whole answer. Providers answer in tens of milliseconds; waiting longer helps nobody who is waiting."""
URL_EVERY_S = 300.0
"""Keys are published hours before they are used, and withdrawn for good within minutes."""
URL_AT_MOST_EVERY_S = 10.0
"""After a failure, and for a key that is not known: what strangers make up must not become load on the provider."""
SLOW_S = 30.0
"""A reading that takes longer is trouble too: a file system that hangs."""


class Place(Protocol):
    """Where it lies."""

    def read(self, *, hurry: bool) -> bytes | None:
        """The bytes; None where nothing is new. Blocks. Raises BadInput with what is wrong.

        `hurry`: what is there is known not to be enough.
        """


class VariablePlace:
    """An environment variable: read once, it cannot change while a process runs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._read = False

    def read(self, *, hurry: bool) -> bytes | None:  # noqa: ARG002 the port's
        """Its value, the first time."""
        if self._read:
            return None
        value = os.environ.get(self._name)
        if value is None:
            raise BadInput(f"the environment variable {self._name} is not set for this replica")
        self._read = True
        return f"{value.rstrip()}\n".encode()


class FilePlace:
    """A file on this node."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, ...] | None = None
        self._taken: tuple[int, ...] | None = None

    def read(self, *, hurry: bool) -> bytes | None:  # noqa: ARG002 the port's
        """The content, where the file is another than last time and has stopped changing."""
        try:
            return self._read_if_new()
        except OSError as error:
            self._taken = None  # it is new again when it is back
            raise BadInput(f"{self._path}: {error.strerror or error}") from error

    def _read_if_new(self) -> bytes | None:
        about = self._path.stat()
        if not stat.S_ISREG(about.st_mode):
            raise BadInput(f"{self._path} is no file")
        before, self._seen = self._seen, _mark(about)
        if self._seen == self._taken:
            return None
        if before is not None and self._seen != before:
            return None  # it is changing: what is in force stays for one look more
        with self._path.open("rb") as file:
            about = os.fstat(file.fileno())
            if about.st_mode & stat.S_IWOTH:
                raise BadInput(f"{self._path} may be written by everybody: chmod o-w")
            content = file.read(LIMIT_BYTES + 1)
        if len(content) > LIMIT_BYTES:
            raise BadInput(f"{self._path} is larger than {LIMIT_BYTES} bytes")
        self._taken = _mark(about)
        return content


def _mark(about: os.stat_result) -> tuple[int, ...]:
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_mode)


class UrlPlace:
    """An address that answers GET."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic, *, fetch_s: float = FETCH_S) -> None:
        """`fetch_s` is the limit for the whole answer."""
        self._url, self._fetch_s = url, fetch_s
        self._clock = clock
        self._tried_at: float | None = None
        self._failed = False

    def may_hurry(self) -> bool:
        """Would a look in a hurry ask the address? Cheap."""
        return self._tried_at is None or self._clock() - self._tried_at >= URL_AT_MOST_EVERY_S

    def read(self, *, hurry: bool) -> bytes | None:
        """The answer, where it is time to ask again."""
        now, every = self._clock(), URL_AT_MOST_EVERY_S if hurry or self._failed else URL_EVERY_S
        if self._tried_at is not None and now - self._tried_at < every:
            return None
        self._tried_at, self._failed = now, True
        # A loop of its own, in this thread: only there is one time limit for the whole of an answer to be had.
        content = asyncio.run(_fetch(self._url, self._fetch_s))
        self._failed = False
        return content


async def _fetch(url: str, limit_s: float) -> bytes:
    import aiohttp

    try:
        timeout = aiohttp.ClientTimeout(total=limit_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.get(url, allow_redirects=False, headers={"accept-encoding": "identity"}) as answer,
        ):
            if answer.status != 200:  # noqa: PLR2004 OK
                raise BadInput(f"{url} answered {answer.status}")
            content = bytearray()
            async for chunk in answer.content.iter_any():
                content += chunk
                if len(content) > URL_LIMIT_BYTES:
                    raise BadInput(f"{url} answered with more than {URL_LIMIT_BYTES} bytes")
            return bytes(content)
    except TimeoutError as error:
        raise BadInput(f"{url} did not answer within {limit_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise BadInput(f"{url}: {type(error).__name__}") from error


class KeptReading(Generic[T]):
    """The last good reading of one place. One event loop owns it."""

    def __init__(self, place: Place, parse: Callable[[bytes], T], clock: Callable[[], float] = time.monotonic) -> None:
        """`parse` raises BadInput for what it does not take."""
        self.value: T | None = None
        self._place, self._parse, self._clock = place, parse, clock
        self._trouble = ""
        self._began_at = 0.0
        self._look: asyncio.Task[None] | None = None

    @property
    def trouble(self) -> str:
        """What was wrong with the last reading; empty when it was good."""
        if self._look is not None and not self._look.done() and self._clock() - self._began_at > SLOW_S:
            return f"still being read after {SLOW_S:g} s"
        return self._trouble

    def look(self, *, hurry: bool = False) -> asyncio.Task[None]:
        """Read it again, if it is new; a look that is under way is the same look. The task never raises."""
        if self._look is None or self._look.done():
            self._began_at = self._clock()
            # A context of its own: it outlives the request that was in a hurry.
            work = self._look_once(hurry=hurry)
            self._look = asyncio.get_running_loop().create_task(work, context=Context())
        return self._look

    async def _look_once(self, *, hurry: bool) -> None:
        try:
            news = await asyncio.to_thread(self._read_and_parse, hurry=hurry)
        except BadInput as error:
            self._say(str(error))
        except Exception as error:  # noqa: BLE001 a stranger's bytes; what is in force must stay so
            self._say(f"{type(error).__name__} while it was read")
            _log.debug("reading failed", exc_info=True)
        else:
            if news is not None:
                (self.value,) = news
                self._say("")

    def _read_and_parse(self, *, hurry: bool) -> tuple[T] | None:
        content = self._place.read(hurry=hurry)
        return None if content is None else (self._parse(content),)

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            kept = "nobody is let in by it" if self.value is None else "what was read before stays in force"
            _log.error("%s; %s", trouble, kept)
        elif self._trouble and not trouble:
            _log.info("read well again")
        self._trouble = trouble
