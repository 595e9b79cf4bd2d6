"""How often one caller may ask: a token bucket for each, in this replica.

Rules:
- It knows this replica's requests only: n host replicas together let through n times the rate. A counter that all of
  them share would be one more service between a user and an answer.
- Bounded: of `CALLERS` buckets the one that was not used for longest goes first, and starts full when it is needed
  again.

Pure: `now` is a monotonic time in seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from policies.serving import Rate
from serving_runtime.callers import Caller

CALLERS = 10_000
"""As many as a file of keys may have (`api_keys.py`); 2.1 MB were measured. Subjects of tokens have no bound."""


class RateLimit:
    """The buckets of all callers of one replica. One event loop owns it."""

    def __init__(self, rate: Rate, callers: int = CALLERS) -> None:
        """`rate` is for each caller; `callers` are remembered at once."""
        self._rate = rate
        self._callers = callers
        self._buckets: OrderedDict[tuple[str, bool], tuple[float, float]] = OrderedDict()  # requests left at that time

    def wait_s(self, caller: Caller, now: float) -> int:
        """Take one request from the caller's bucket: 0, or the whole seconds to wait where it is empty."""
        who = (caller.name, caller.by_token)
        left, at = self._buckets.pop(who, (float(self._rate.burst), now))
        left = min(left + max(now - at, 0.0) * self._rate.per_s, float(self._rate.burst))
        taken = left >= 1.0
        self._buckets[who] = (left - 1.0 if taken else left, now)
        if len(self._buckets) > self._callers:
            self._buckets.popitem(last=False)
        return 0 if taken else max(1, math.ceil((1.0 - left) / self._rate.per_s))

    def __len__(self) -> int:
        return len(self._buckets)
