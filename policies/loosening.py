"""What a change loosens: SLOs that models are held to before it, and not as strictly after it.

An SLO is as strict where the model still has one of the same indicator and counts, with a target at least as high, a
threshold at most as high, and the same window. A model that is new, or gone, is held to nothing less than before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from policies.config_repo_documents import ConfigRepo
from policies.evidence import Objective
from policies.strict_yaml import Path

_INDICATOR: Path = ("spec", "indicator")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Looser:
    """One SLO of one model."""

    model: str
    """Its slug."""
    slo: str
    at: tuple[str, str, Path]
    """Section, name and path of the field that says so now (`ConfigRepo.note`)."""
    words: str
    mend: str


def loosened(before: ConfigRepo, after: ConfigRepo) -> Iterator[Looser]:
    """Every SLO of every model that was stricter before, by model."""
    for key, model in sorted(before.models.items()):
        if key not in after.models:
            continue
        now = {name: after.slos[name] for name in after.models[key].slos}
        for name in model.slos:
            was = before.slos[name]
            if not any(as_strict(one, was) for one in now.values()):
                yield _looser(key, was, now.get(name))


def as_strict(one: Objective, other: Objective) -> bool:
    """Is whoever keeps `one` sure to keep `other`?"""
    if not same_counts(one, other) or one.window != other.window or one.target < other.target:
        return False
    if one.threshold_ms is None or other.threshold_ms is None:
        return one.threshold_ms == other.threshold_ms
    return one.threshold_ms <= other.threshold_ms


def same_counts(one: Objective, other: Objective) -> bool:
    """Do both count the same events of the same source, whatever they ask of them?"""
    return (one.sli, one.queries) == (other.sli, other.queries)


def _looser(key: str, was: Objective, now: Objective | None) -> Looser:
    if now is None:
        words = f"{key} is no longer held to the SLO {was.name} ({asks(was)})"
        return Looser(
            model=key, slo=was.name, at=("models", key, ("slos",)), words=words, mend=f"name {was.name} again"
        )
    if not same_counts(now, was):
        words = f"the SLO {was.name} of {key} counts something else than before: nobody can say that it is as strict"
        at = ("slos", was.name, _INDICATOR)
        return Looser(model=key, slo=was.name, at=at, words=words, mend="give it another name")
    words = f"the SLO {was.name} of {key} asks less than before: {asks(now)}, it was {asks(was)}"
    path: Path = ("spec", "objectives", 0, "target") if now.target < was.target else ("spec", "objectives", 0)
    at = ("slos", was.name, path if now.window == was.window else ("spec", "timeWindow"))
    return Looser(model=key, slo=was.name, at=at, words=words, mend=f"write {asks(was)}")


def asks(objective: Objective) -> str:
    """What it asks, in words: `99 % of events, within 200 ms, over 30d`."""
    within = f" within {objective.threshold_ms:g} ms" if objective.threshold_ms is not None else ""
    days = objective.window.total_seconds() / 86_400
    return f"{objective.target * 100:.6g} %{within} over {days:g}d"
