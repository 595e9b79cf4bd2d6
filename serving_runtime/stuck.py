"""A replica whose model does not come back: when it has to go.

A thread cannot be ended from outside. A predict that never returns keeps its thread, what it has allocated, and, where
it computes, a share of the interpreter, for as long as the replica lives. So the replica is replaced as one that leaks
is (`memory.py`): it says that it is unhealthy, Serve routes what is new elsewhere, and what it can still answer in time
it answers.

Rules:
- Slow is not stuck. Whoever asked is told so when the request's time is over; a predict that comes back some time later
  has done no harm that lasts. It counts as stuck after TIMES that time, and never before LEAST_S.
- Where every thread there may be has been in one predict for longer than anybody waits, the replica answers nobody,
  and that cannot wait as long.
- It is about one predict. A visit to the line that answers many requests one by one moves with each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

TIMES: Final = 5
"""Of the request's time. A model that is only slow (a cold cache, a machine with every core busy) is done before."""
LEAST_S: Final = 60.0
"""What a model does once, at a request that its example did not show it (compiling, loading more), may take a minute,
however short its requests' time is."""
ALL_LEAST_S: Final = 10.0
"""Serve asks every ten seconds, three times: so at least 30 s in which nothing came back in time."""


def stuck(computing_s: Sequence[float], threads: int, timeout_s: float) -> str:
    """Why the replica has to go; empty for no reason.

    `computing_s` says for how long each thread that computes has been in its predict, `threads` how many there may be,
    `timeout_s` how long a request may take.
    """
    if not computing_s:
        return ""
    patience_s = max(timeout_s, ALL_LEAST_S)
    if len(computing_s) >= threads and min(computing_s) > patience_s:
        return (
            f"all {threads} threads have been in one predict for more than {patience_s:g} s each, and a request may "
            f"take {timeout_s:g} s: this replica answers nobody, and is replaced"
        )
    longest_s = max(computing_s)
    if longest_s > max(TIMES * timeout_s, LEAST_S):
        return (
            f"a predict has not come back for {longest_s:.0f} s, and a request may take {timeout_s:g} s: this replica "
            f"is replaced"
        )
    return ""
