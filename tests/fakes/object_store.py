"""The port `ObjectStore` in memory, with what stores do: be away for a while, refuse, be slow."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from policies.errors import SluiceError
from serving_runtime.object_store import Stored, check_name


class MemoryStore:
    """Files in a dict. While `fails` is set, every call raises it; while `gate` is clear, a put waits for it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fails: SluiceError | None = None
        self.puts = 0
        self.gate = threading.Event()
        self.gate.set()

    def put(self, name: str, content: bytes) -> None:
        check_name(name)
        self.puts += 1
        self.gate.wait()
        self._answer()
        self.files[name] = content

    def list(self, prefix: str = "") -> Iterator[Stored]:
        self._answer()
        for name in sorted(self.files):
            if name.startswith(prefix):
                yield Stored(name, len(self.files[name]))

    def get(self, name: str) -> bytes | None:
        check_name(name)
        self._answer()
        return self.files.get(name)

    def _answer(self) -> None:
        if self.fails is not None:
            raise self.fails
