"""A version that a request names itself: by a header, or by its path.

The header is `x-sluice-force-version`, for testers and demonstrations. The path is one of the Open Inference Protocol,
`/v2/models/fraud/versions/3/infer`; over gRPC it is `model_version`.

Rules:
- Only where the model document allows it, and to whom it does. Who may not is told 403, and nothing about versions.
- The protocol says that a version that is asked for answers, or nobody. So it may always name the version that serves
  here, which answers without a draw; the candidate's it names as the header does; any other is 404.
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


def asked_for(
    call: Call, version: str | None, serving: Sequence[Served], allowed: ForcedVersion | None, *, may_force: bool
) -> Served | Answer:
    """Which of those that serve a call names, the host's own first; or why it gets none.

    `version` is the one in its path, if there is one; `may_force` the permission of the caller's key.
    """
    header = FORCE_HEADER in call.headers
    if version is None:
        return refused(allowed, may_force=may_force) or named(call, serving)
    in_path = next((one for one in serving if str(one.version) == version), None)
    if in_path is None:
        return unknown(version, serving[0])
    if in_path == serving[0] and not header:
        return in_path
    refusal = refused(allowed, may_force=may_force)
    if refusal is not None or not header:
        return refusal or in_path
    which = named(call, serving)
    if isinstance(which, Served) and which.version != in_path.version:
        message = f"The path names version {in_path.version}, and {FORCE_HEADER} names version {which.version}."
        return error_answer(400, "BAD_REQUEST", message)
    return which


def refused(allowed: ForcedVersion | None, *, may_force: bool) -> Answer | None:
    """403, where this caller may not name a version; `may_force` is the permission of the caller's key."""
    if allowed is None:
        message = f"This model lets nobody name a version: leave {FORCE_HEADER} out, and a version in the path."
        return error_answer(403, "PERMISSION_DENIED", message)
    if allowed.to == "keys" and not may_force:
        message = f"Only a caller whose key has the permission force may send {FORCE_HEADER} or name a candidate."
        return error_answer(403, "PERMISSION_DENIED", message)
    return None


def unknown(version: str, own: Served) -> Answer:
    """404, for a version in a path that does not serve here."""
    message = f"Here is version {own.version}, and no version {version[:_LONGEST_SHOWN]!r}."
    return error_answer(404, "RESOURCE_DOES_NOT_EXIST", message)


def named(call: Call, serving: Sequence[Served]) -> Served | Answer:
    """Which of those that serve the call names, by `7` or `7-1a2b3c4d`; or the 400 that says what it could name."""
    asked = call.headers.get(FORCE_HEADER, "").strip()
    found = [one for one in serving if asked in (str(one.version), f"{one.version}-{one.build}")]
    if len(found) == 1:
        return found[0]
    each = sorted({(one.version, one.build if found else "") for one in serving})
    which = ", ".join(f"{number}-{build}" if found else str(number) for number, build in each)
    what = "is served with two settings" if found else "does not serve here"
    return error_answer(400, "BAD_REQUEST", f"{FORCE_HEADER} {asked[:_LONGEST_SHOWN]!r} {what}; there is: {which}")


def unavailable(served: Served, why: Fallback, request_id: str) -> Answer:
    """503, and why."""
    return try_again(
        f"Version {served.version} takes no request now ({why}). Request id {request_id}.", request_id=request_id
    )
