"""Waiting in tests: for a condition, never for a time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

POLL_S = 0.02
"""Between two looks: short beside what is waited for, and no load on two shared cores."""


def wait_until(predicate: Callable[[], object], timeout_s: float, what: str) -> None:
    """Return as soon as `predicate()` is true. Fails with `what` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        assert time.monotonic() < deadline, f"not after {timeout_s:g} s: {what}"
        threading.Event().wait(POLL_S)


async def turns(number: int = 1) -> None:
    """So many turns of the event loop: everybody does what they can do now. No time passes."""
    for _ in range(number):
        await asyncio.sleep(0)
