"""What users report about answers: whose answer it was, and that it counts once.

`POST <route>/feedback` with `{"request_id": "...", "good": true}`, and `"receipt": "..."` as the answer's header
`x-sluice-receipt` had it. A request's **arm** is the version that it was drawn for and that was asked.

Rules:
- Where stable answered in the candidate's place, the arm is the candidate still: what its users met is what is
  compared, and to leave out those that it failed would flatter it. A request that the candidate was never asked for
  belongs to stable, as it does everywhere (`host.py`, rule 3).
- A replica remembers the arms of its own latest answers, REMEMBERED of them for REMEMBERED_S at most. The receipt names
  the arm, so that every other replica, and this one after it has forgotten or restarted, can count as well: nothing is
  shared between replicas. It is not signed: whoever may report can report what they like.
- Each id counts once at each replica. A report that is repeated at another one counts twice; clients repeat what
  failed, whichever version they met, so both arms have it alike.
- What cannot be joined to an arm is refused with a reason, and counted by it. Late is unknown.
- A forced request has no arm: nobody drew it, so it is no evidence.

This module must not know HTTP, Ray or metrics, and reads no clock of its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum
from typing import Final, TypeAlias

from serving_runtime.outcomes import Served
from serving_runtime.protocol import Answer, error_answer

RECEIPT_HEADER: Final = "x-sluice-receipt"

REMEMBERED: Final = 100_000
"""Some 30 MB at most, with ids of 36 characters. At 100 requests a second it is the last quarter of an hour; what comes
later needs the receipt."""

REMEMBERED_S: Final = 24 * 3600.0
"""A day: an id that a client makes up anew each day never meets its old self."""

ARMS_KNOWN: Final = 8
"""Versions that reports may still name: the own one and its last challengers. Older ones are judged no more."""

BODY_LIMIT_BYTES: Final = 4 * 1024
"""An id of 128 characters, a receipt and a truth value take 300."""

ID_LIMIT_CHARS: Final = 128
"""As long as the ids that are taken from requests."""

EXAMPLE: Final = '{"request_id": "...", "good": true, "receipt": "..."}'


class Refusal(StrEnum):
    """Why a report was not counted."""

    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    """Nobody answered this id here, or too long ago, and no receipt names a version that is known."""
    REPEATED = "repeated"
    FORCED = "forced"


@dataclasses.dataclass(frozen=True)
class Report:
    """What a user says."""

    request_id: str
    good: bool
    receipt: str = ""


class _Counted:
    """In place of an arm: its outcome is known."""


_COUNTED: Final = _Counted()
_Entry: TypeAlias = "Served | _Counted | None"


class Arms:
    """Whose answers were whose, at one host replica. One event loop owns it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, _Entry]] = OrderedDict()
        self._known: OrderedDict[str, Served] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def know(self, arm: Served) -> None:
        """From now on receipts may name this version."""
        self._known[receipt(arm)] = arm
        self._known.move_to_end(receipt(arm))
        while len(self._known) > ARMS_KNOWN:
            self._known.popitem(last=False)

    def answered(self, request_id: str, arm: Served | None) -> None:
        """A request was answered; no arm for one that was forced. An id that is used again means the later request."""
        if request_id:
            self._enter(request_id, arm)

    def settle(self, report: Report) -> Served | Refusal:
        """The arm that this report counts for, from now on never again; or why it does not count."""
        self._forget()
        _, arm = self._entries.get(report.request_id, (0.0, _ABSENT))
        if arm is _ABSENT:
            arm = self._known.get(report.receipt, _ABSENT) if report.receipt != FORCED_RECEIPT else None
        match arm:
            case Served():
                self._enter(report.request_id, _COUNTED)
                return arm
            case _Counted():
                return Refusal.REPEATED
            case None:
                return Refusal.FORCED
            case _:
                return Refusal.UNKNOWN

    def _enter(self, request_id: str, arm: _Entry) -> None:
        self._entries[request_id] = (self._clock(), arm)
        self._entries.move_to_end(request_id)
        self._forget()

    def _forget(self) -> None:
        oldest = self._clock() - REMEMBERED_S
        while self._entries:
            entered, _ = next(iter(self._entries.values()))
            if entered > oldest and len(self._entries) <= REMEMBERED:
                return
            self._entries.popitem(last=False)


_ABSENT: Final = object()

FORCED_RECEIPT: Final = "forced"
"""The receipt of a request that nobody drew."""


def receipt(arm: Served | None) -> str:
    """What an answer carries: `7-1a2b3c4d`, version and build; FORCED_RECEIPT for none."""
    return FORCED_RECEIPT if arm is None else f"{arm.version}-{arm.build}"


def read_report(body: bytes) -> Report | Answer:
    """The report, or the 400 that names what is wrong with it. Never raises."""
    if len(body) > BODY_LIMIT_BYTES:
        return _malformed(f"a report has at most {BODY_LIMIT_BYTES} bytes")
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):  # not JSON, not UTF-8; nested too deeply
        return _malformed("the body is not JSON")
    if not isinstance(raw, dict):
        return _malformed("the body is no JSON object")
    request_id, good, given = raw.get("request_id"), raw.get("good"), raw.get("receipt", "")
    if not isinstance(request_id, str) or not 0 < len(request_id) <= ID_LIMIT_CHARS:
        return _malformed(f"request_id must be a text of 1 to {ID_LIMIT_CHARS} characters")
    if not isinstance(good, bool):
        return _malformed("good must be true or false")
    if not isinstance(given, str):
        return _malformed("receipt must be a text: the answer's header " + RECEIPT_HEADER)
    if unknown := sorted(set(raw) - {"request_id", "good", "receipt"}):
        return _malformed(f"unknown field {unknown[0][:50]!r}")
    return Report(request_id, good, given)


def _malformed(what: str) -> Answer:
    return error_answer(400, "BAD_REQUEST", f"{what}; expected {EXAMPLE}")


def answer_of(refusal: Refusal | None) -> Answer:
    """What the reporter is told: counted, or why not. A repetition is no error: clients repeat what failed."""
    match refusal:
        case None:
            return Answer(200, b'{"counted": true}')
        case Refusal.UNKNOWN:
            message = (
                "No answer with this id is known here (any more). Send the answer's header "
                f"{RECEIPT_HEADER} along as receipt: with it every replica knows."
            )
            return error_answer(404, "RESOURCE_DOES_NOT_EXIST", message)
        case _:
            return Answer(200, json.dumps({"counted": False, "reason": refusal}).encode())


NOT_ASKED: Final = error_answer(
    404, "ENDPOINT_NOT_FOUND", "No SLO of this model counts feedback: name one with sli: feedback under its slos."
)
