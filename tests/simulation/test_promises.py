"""The promises of the design under everything at once, in histories by seed.

`make test` plays a share of them; `make test-simulation` plays ten thousand. A history that breaks a promise is
shortened and printed as a program to play again.
"""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.simulation.histories import play_all, shortened

LONG = bool(os.environ.get("SLUICE_LONG_SIMULATION"))
HISTORIES = 10_000 if LONG else 80
WORKERS = 2
CHUNK = 20
SHOWN = 5
"""Failures that are shortened and shown: the others are mostly the same."""

HAPPENS = (
    "promoted",
    "rolled_back",
    "aborted",
    "held",
    "guards tripped",
    "crashes",
    "cause: failed",
    "cause: not ready",
    "cause: withdrawn",
    "cause: asked",
)
"""What a share of histories must show, or it proves nothing."""


@pytest.mark.timeout(14_400 if LONG else 300)
def test_every_promise_is_kept_in_every_history():
    chunks = [range(first, min(first + CHUNK, HISTORIES)) for first in range(0, HISTORIES, CHUNK)]
    failed, happened = [], Counter()
    with ProcessPoolExecutor(WORKERS) as workers:
        for broken, seen in workers.map(play_all, chunks):
            failed += broken
            happened += seen
    assert not failed, "\n\n".join(
        [f"{len(failed)} of {HISTORIES} histories", *(str(shortened(f)) for f in failed[:SHOWN])]
    )
    assert happened["histories"] == HISTORIES
    assert not [what for what in HAPPENS if not happened[what]], happened
