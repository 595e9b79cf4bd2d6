"""When not to ask at all: what is away is left alone, and tried again by one question at a time.

Two use it: a host for its candidate (`challenger.py`), and a version for where its features are (`look_ups.py`).

Rules:
- Failures are what gives no answer: timeouts, exceptions. A wrong answer came: that is somebody else's business.
- Pure: `now` is an argument, a monotonic time in seconds.
"""

from __future__ import annotations

# In a row. One or two happen to what is healthy (a replica that is replaced, a store that fails over loses what is in
# flight on it); five of them with no answer in between are one chance in 10,000 even for what loses 15 % of its
# requests.
FAILURES_TO_OPEN = 5

# The first pause is short, so that what restarts is back soon; doubling stops at half a minute, so that what hangs
# holds at most one request for its timeout in that time.
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0


class Breaker:
    """Opens after failures in a row; after a pause lets one probe through, and closes when an answer comes."""

    def __init__(self) -> None:
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._open_until: float | None = None
        self._probing = False

    @property
    def is_open(self) -> bool:
        """True from the failure that opened it to the next answer."""
        return self._open_until is not None

    def allows(self, now: float) -> bool:
        """May a question be asked now? The asker must report how it ended.

        While open: one at a time, after the pause.
        """
        if self._open_until is None:
            return True
        if self._probing or now < self._open_until:
            return False
        self._probing = True
        return True

    def answered(self) -> None:
        """A question was answered."""
        self.__init__()  # type: ignore[misc]

    def failed(self, now: float) -> None:
        """A question was not answered."""
        self._failures += 1
        if self._open_until is not None:
            if not self._probing:
                return  # one that was asked before it opened
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        elif self._failures < FAILURES_TO_OPEN:
            return
        self._probing = False
        self._open_until = now + self._pause_s
