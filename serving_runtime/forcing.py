"""A version that a request names itself, by the header `x-sluice-force-version`: for testers and demonstrations.

Rules:
- Only where the model document allows it, and to whom it does. Who may not is told 403, and nothing about versions.
- A version that does not serve here is 400 and names those that do; nothing is answered in its place. Who names a
  version wants to see that one, its failures included.
- A forced request is evidence about nobody: nobody drew it, so it would not be comparable, and whoever may force could
  move a rollout. It counts in what users got (`sluice_answers`) and nowhere else.
- Few at once: a candidate's places are for the requests that it was drawn for.

Pure: the answering is `host.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from policies.serving import ForcedVersion
from serving_runtime.outcomes import Fallback, Served
from serving_runtime.protocol import Answer, Call, error_answer, try_again

FORCE_HEADER: Final = "x-sluice-force-version"

FORCED_AT_ONCE: Final = 4
"""At the candidate, per host replica: a person or two, or a smoke test. A quarter of the places that a candidate has by
default; more would take from the requests that are evidence."""

UNAVAILABLE: Final = 503
"""It is there and takes nothing now: nobody was asked."""

_LONGEST_SHOWN = 40


def refused(allowed: ForcedVersion | None, *, may_force: bool) -> Answer | None:
    """403, where this caller may not name a version; `may_force` is the permission of the caller's key."""
    if allowed is None:
        return error_answer(
            403, "PERMISSION_DENIED", f"This model lets nobody name a version: leave {FORCE_HEADER} out."
        )
    if allowed.to == "keys" and not may_force:
        message = f"Only a caller whose key has the permission force may send {FORCE_HEADER}."
        return error_answer(403, "PERMISSION_DENIED", message)
    return None


def named(call: Call, serving: Sequence[Served]) -> Served | Answer:
    """Which of those that serve the call names, by `7` or `7-1a2b3c4d`; or the 400 that says what it could name."""
    asked = call.headers.get(FORCE_HEADER, "").strip()
    found = [one for one in serving if asked in (str(one.version), f"{one.version}-{one.build}")]
    if len(found) == 1:
        return found[0]
    which = ", ".join(f"{one.version}-{one.build}" if found else str(one.version) for one in serving)
    what = "is served with two settings" if found else "does not serve here"
    return error_answer(400, "BAD_REQUEST", f"{FORCE_HEADER} {asked[:_LONGEST_SHOWN]!r} {what}; there is: {which}")


def unavailable(served: Served, why: Fallback, request_id: str) -> Answer:
    """503, and why."""
    return try_again(
        f"Version {served.version} takes no request now ({why}). Request id {request_id}.", request_id=request_id
    )
