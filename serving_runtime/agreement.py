"""Do two answers predict the same? Pure: bytes in, a comparison out.

Rules:
- Answers are MLflow's, a JSON object whose `predictions` are numbers, strings, booleans, nulls, lists and objects of
  those, or the Open Inference Protocol's, whose `outputs` are tensors in JSON. Equal bytes agree, whatever they are.
- Predictions agree when they have the same shape (lengths, keys) and every value agrees: numbers within the tolerance,
  relative to stable's (so that next to 0 only 0 agrees), or equal without one; NaN with NaN, infinity with itself;
  everything else when it is equal. A number is no boolean, but 1 is 1.0.
- A request agrees when all of its predictions do.
- A candidate whose answer cannot be read as predictions, or has another shape, disagrees: whoever reads stable's
  answers could not read its. Where stable's own cannot be read, or an answer is too large, nothing is known: no guess
  is counted.
- Never raises, for whatever a model may have written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Final

SIZE_LIMIT_BYTES: Final = 1024 * 1024
"""Larger answers are not parsed: 1 MiB of JSON is some 50,000 predictions, and 20 ms of a processor."""

_ABSENT: Final = object()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`agrees` is none where nothing is known; `reason` says why, or what about the candidate's answer is wrong."""

    agrees: bool | None
    reason: str = ""


def compare(candidate: bytes, stable: bytes, tolerance: float | None) -> Comparison:
    """Two good answers to one request. `tolerance` is relative to stable's numbers; none wants them equal."""
    if candidate == stable:
        return Comparison(agrees=True)
    if max(len(candidate), len(stable)) > SIZE_LIMIT_BYTES:
        return Comparison(None, f"an answer is larger than {SIZE_LIMIT_BYTES} bytes")
    theirs = _predictions(stable)
    if theirs is _ABSENT:
        return Comparison(None, "stable's answer is no JSON object with predictions")
    ours = _predictions(candidate)
    if ours is _ABSENT:
        return Comparison(agrees=False, reason="the candidate's answer is no JSON object with predictions")
    return Comparison(_agree(ours, theirs, tolerance))


def _predictions(body: bytes) -> Any:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, a number with too many digits; nested too deeply
        return _ABSENT
    if not isinstance(answer, dict):
        return _ABSENT
    # An answer of the Open Inference Protocol names its version, too, which is another one on purpose.
    return answer.get("predictions", answer.get("outputs", _ABSENT) if "model_name" in answer else _ABSENT)


def _agree(candidate: Any, stable: Any, tolerance: float | None) -> bool:
    """Walks both without recursion: depth is the model's choice."""
    pairs = [(candidate, stable)]
    while pairs:
        ours, theirs = pairs.pop()
        if isinstance(ours, list) and isinstance(theirs, list):
            if len(ours) != len(theirs):
                return False
            pairs.extend(zip(ours, theirs, strict=True))
        elif isinstance(ours, dict) and isinstance(theirs, dict):
            if ours.keys() != theirs.keys():
                return False
            pairs.extend((ours[key], theirs[key]) for key in theirs)
        elif not _same(ours, theirs, tolerance):
            return False
    return True


def _same(ours: Any, theirs: Any, tolerance: float | None) -> bool:
    if not (_is_number(ours) and _is_number(theirs)):
        return type(ours) is type(theirs) and bool(ours == theirs)
    if ours == theirs or (ours != ours and theirs != theirs):  # noqa: PLR0124 only NaN differs from itself
        return True
    return tolerance is not None and _near(ours, theirs, tolerance)


def _near(ours: float, theirs: float, tolerance: float) -> bool:
    try:
        difference, limit = abs(float(ours) - float(theirs)), tolerance * abs(float(theirs))
    except OverflowError:  # a whole number beyond every float
        return False
    return math.isfinite(difference) and difference <= limit


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
