"""The record of a rollout: what each look that moved it saw, and the bins that it was judged by.

From a record alone a rollout can be explained, and judged again with another policy. Rules:

- A look is recorded that changed something about the rollout, or carried out what a person asked.
- Recorded bins are never changed: what is counted later is added behind them, without a gap. Where the objective
  itself changed (target, threshold, width) its old counts answer another question: it starts anew.
- What cannot be a count (NaN, below 0, above MAX_COUNT) ends what is recorded: nobody could read it again.
- A record stays below MOST_CHARACTERS: first the oldest bins become coarser, then the oldest looks lose their figures.
- Prometheus is believed as long as it knows what it knew. One that lost its history (another one took its place) is
  helped out: what was recorded counts, and what it shows for the first time afterwards does not. That is the counters'
  whole life and would be counted twice. Less is counted then, never more.

This module must not judge or say what follows.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from policies.documents import RolloutPolicy
from policies.evidence import Bin, Counts, Discordant, Evidence, Objective, Source
from policies.facts import Noticed, Observed
from policies.judged import states_of
from policies.release import Release
from policies.rollout_record import LookRecord, Record, RecordedEvidence
from policies.stored_documents import plain, record_text
from policies.stored_values import MAX_COUNT
from policies.verdict import Measure

SLUICEGATE = "sluicegate"
"""The actor of what nobody asked for."""

MOST_CHARACTERS = 800_000
"""Of a record as a file: a file of the config repo has 1 MiB at most, and the history's phases come on top."""

MERGED = 4
"""Bins that become one where a record is too long."""

SHORTEST_MERGED = 64
"""Lists shorter than this are not what makes a record long."""

LOOKS_WITH_FIGURES = 20
"""The newest looks that keep their figures where a record without fine bins is too long: about one rollout's steps."""

MOST_LOOKS = 200
"""Looks that are kept then: the newest, and of a rollout's beginning FIRST_LOOKS."""

FIRST_LOOKS = 20

LONGEST_GAP = 20_000
"""Bins without a count that are filled in: more than three days at 15 s. Behind a longer gap it starts anew."""

_CHARACTERS_AROUND = 1_000
"""Of the names of an objective's fields and its figures."""

NEW_COUNTERS_BINS = 2
"""Processes are first scraped within one interval of each other; it touches two bins."""

_HALF_AN_EVENT = 0.5
"""Counts are whole numbers in floats."""


# --- looks ----------------------------------------------------------------------------------------------------


def looked(
    before: Release,
    after: Release,
    noticed: Noticed,
    *,
    observed: Observed,
    policy: RolloutPolicy,
    now: datetime,
) -> Record:
    """The rollout's record with this look, and with the bins that came since the last one.

    Raises ValueError where there is no rollout before or after the look: that is a bug.
    """
    verdict = noticed.judged
    rollout = after.rollout or before.rollout
    if rollout is None:
        raise ValueError(f"{before.model} has no rollout that a look could be recorded of")
    known = observed.record if observed.record and observed.record.rollout == rollout.id else None
    record = known or Record(rollout=rollout.id)
    said = plain(policy)
    look = LookRecord(
        at=now,
        signal=noticed.signal.name,
        phase=before.phase,
        following=after.phase,
        weight_percent=after.weight_percent,
        actor=_actor(noticed),
        tip=observed.tip,
        reasons=noticed.reasons,
        verdict=verdict.kind if verdict else noticed.verdict,
        mean_harm=_figure(verdict.mean_harm) if verdict else None,
        measures=tuple(map(_storable, verdict.measures)) if verdict else (),
        ask=before.ask if before.ask and before.ask.by == noticed.by else None,
        new_policy=bool(record.policy) and record.policy != said,
    )
    return fitted(
        dataclasses.replace(
            record,
            policy=said,
            looks=(*record.looks, look),
            state=states_of(rollout, observed.evidence, policy, now) or record.state,
            evidence=continued(record.evidence, observed.evidence),
        )
    )


def _actor(noticed: Noticed) -> str:
    """Who moved it: the person whose wish or commit it was, else Sluicegate."""
    return noticed.by or (noticed.start.asked_by if noticed.start else "") or SLUICEGATE


def _storable(measure: Measure) -> Measure:
    """An e-value of 0 has no logarithm that JSON could say; then there is no figure."""
    changes: dict[str, Any] = {
        field.name: None
        for field in dataclasses.fields(measure)
        if isinstance(value := getattr(measure, field.name), float)
        and field.default is None
        and not math.isfinite(value)
    }
    return dataclasses.replace(measure, **changes)


def _figure(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


# --- bins -----------------------------------------------------------------------------------------------------


def continued(recorded: Sequence[RecordedEvidence], evidence: Sequence[Evidence]) -> tuple[RecordedEvidence, ...]:
    """What is recorded, with the new bins of the evidence behind it. No evidence at all changes nothing."""
    if not evidence:
        return tuple(recorded)
    return tuple(part for each in evidence for part in _continued(_parts(recorded, each), each))


def _parts(recorded: Iterable[RecordedEvidence], evidence: Evidence) -> tuple[RecordedEvidence, ...]:
    """What is recorded of this evidence, oldest first; nothing where it was counted by another rule."""
    parts = tuple(r for r in recorded if r.objective == evidence.objective.name)
    asked = dataclasses.replace(evidence.objective, queries=None)
    same = all(_objective(part) == asked for part in parts)
    return parts if parts and same and parts[-1].width_s == evidence.width.total_seconds() else ()


def _continued(parts: tuple[RecordedEvidence, ...], evidence: Evidence) -> tuple[RecordedEvidence, ...]:
    bins = _countable(evidence.bins)
    if not parts:
        return (_columns(evidence, bins),) if bins else ()
    *older, last = parts
    new = [b for b in bins if b.start >= last.until]
    if not new:
        return parts
    missing, off = divmod(new[0].start - last.until, evidence.width)
    if off or missing > LONGEST_GAP:
        return (_columns(evidence, bins),)
    gap = [Bin(last.until + i * evidence.width, Counts(), Counts()) for i in range(missing)]
    return (*older, _joined(last, _columns(evidence, (*gap, *new))))


def _countable(bins: Sequence[Bin]) -> Sequence[Bin]:
    """The bins up to the first that holds what is no count."""
    figures = (
        (b.candidate.total, b.candidate.bad, b.stable.total, b.stable.bad, b.rescued or 0.0)
        + ((b.pairs.candidate, b.pairs.stable) if b.pairs else ())
        for b in bins
    )
    wrong = next((i for i, each in enumerate(figures) if not all(0 <= n <= MAX_COUNT for n in each)), len(bins))
    return bins[:wrong]


def _columns(evidence: Evidence, bins: Sequence[Bin]) -> RecordedEvidence:
    """These bins, one at least, as lists."""
    objective = evidence.objective
    return RecordedEvidence(
        objective=objective.name,
        sli=objective.sli,
        target=objective.target,
        threshold_ms=objective.threshold_ms,
        window_s=objective.window.total_seconds(),
        query=evidence.source.query,
        width_s=evidence.width.total_seconds(),
        since=bins[0].start,
        candidate=tuple((b.candidate.total, b.candidate.bad) for b in bins),
        stable=tuple((b.stable.total, b.stable.bad) for b in bins),
        rescued=tuple(b.rescued for b in bins) if any(b.rescued is not None for b in bins) else None,
        pairs=tuple(_pair(b.pairs) for b in bins) if any(b.pairs is not None for b in bins) else None,
    )


def _pair(pairs: Discordant | None) -> tuple[float, ...]:
    return (pairs.candidate, pairs.stable) if pairs else ()


def _joined(one: RecordedEvidence, two: RecordedEvidence) -> RecordedEvidence:
    """Both in one, the second behind the first; of one width, and without a gap between them."""
    rescued = pairs = None
    if one.rescued is not None or two.rescued is not None:
        rescued = (*(one.rescued or _nones(one)), *(two.rescued or _nones(two)))
    if one.pairs is not None or two.pairs is not None:
        pairs = (*(one.pairs or ((),) * len(one.candidate)), *(two.pairs or ((),) * len(two.candidate)))
    return dataclasses.replace(
        one,
        query=two.query,
        candidate=(*one.candidate, *two.candidate),
        stable=(*one.stable, *two.stable),
        rescued=rescued,
        pairs=pairs,
    )


def _nones(part: RecordedEvidence) -> tuple[None, ...]:
    return (None,) * len(part.candidate)


# --- a record that stays small --------------------------------------------------------------------------------


def fitted(record: Record) -> Record:
    """The record below MOST_CHARACTERS: the oldest bins coarser, then the oldest looks without their figures."""
    while _characters(record) > MOST_CHARACTERS:
        smaller = _coarser(record) or _thinner(record)
        if smaller == record:
            return record
        record = smaller
    return record


def _characters(record: Record) -> int:
    """How long its text is at most: counts as floats are two characters longer than they are written."""
    looks = len(record_text(dataclasses.replace(record, evidence=())))
    return looks + sum(_CHARACTERS_AROUND + len(json.dumps(_lists(part))) for part in record.evidence)


def _lists(part: RecordedEvidence) -> tuple[object, ...]:
    return part.candidate, part.stable, part.rescued, part.pairs, part.query


def _coarser(record: Record) -> Record | None:
    """The older half of the longest list of bins with MERGED bins in one; none where all lists are short."""
    longest = max(record.evidence, key=lambda part: len(part.candidate), default=None)
    if longest is None or len(longest.candidate) < SHORTEST_MERGED:
        return None
    at = len(longest.candidate) // 2 // MERGED * MERGED
    evidence: list[RecordedEvidence] = []
    for part in record.evidence:
        if part is not longest:
            evidence.append(part)
            continue
        merged, before = _merged(_slice(part, 0, at)), evidence[-1] if evidence else None
        if before and before.objective == part.objective and before.width_s == merged.width_s:
            evidence[-1] = _joined(before, merged)
        else:
            evidence.append(merged)
        evidence.append(_slice(part, at, len(part.candidate)))
    return dataclasses.replace(record, evidence=tuple(evidence))


def _slice(part: RecordedEvidence, first: int, last: int) -> RecordedEvidence:
    return dataclasses.replace(
        part,
        since=part.since + first * timedelta(seconds=part.width_s),
        candidate=part.candidate[first:last],
        stable=part.stable[first:last],
        rescued=part.rescued and part.rescued[first:last],
        pairs=part.pairs and part.pairs[first:last],
    )


def _merged(part: RecordedEvidence) -> RecordedEvidence:
    groups = range(0, len(part.candidate), MERGED)
    return dataclasses.replace(
        part,
        width_s=part.width_s * MERGED,
        candidate=tuple(_sum(part.candidate[i : i + MERGED]) for i in groups),
        stable=tuple(_sum(part.stable[i : i + MERGED]) for i in groups),
        rescued=part.rescued and tuple(_sum_known(part.rescued[i : i + MERGED]) for i in groups),
        pairs=part.pairs and tuple(_sum_pairs(part.pairs[i : i + MERGED]) for i in groups),
    )


def _sum(counts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return sum(total for total, _ in counts), sum(bad for _, bad in counts)


def _sum_known(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None


def _sum_pairs(pairs: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return (sum(p[0] for p in pairs), sum(p[1] for p in pairs)) if all(pairs) else ()


def _thinner(record: Record) -> Record:
    """Without the figures of old looks; where they are gone already, without the looks between."""
    old, new = record.looks[:-LOOKS_WITH_FIGURES], record.looks[-LOOKS_WITH_FIGURES:]
    if any(look.measures for look in old):
        old = tuple(dataclasses.replace(look, measures=()) for look in old)
    elif len(record.looks) > MOST_LOOKS:
        old = (*old[:FIRST_LOOKS], *old[len(old) - (MOST_LOOKS - FIRST_LOOKS - LOOKS_WITH_FIGURES) :])
    return dataclasses.replace(record, looks=(*old, *new))


# --- evidence from a record -----------------------------------------------------------------------------------


def recorded_evidence(record: Record) -> tuple[Evidence, ...]:
    """What is recorded as evidence, one for each objective; its width is that of the newest bins."""
    names = dict.fromkeys(part.objective for part in record.evidence)
    return tuple(_evidence([p for p in record.evidence if p.objective == name]) for name in names)


def _evidence(parts: Sequence[RecordedEvidence]) -> Evidence:
    last = parts[-1]
    return Evidence(
        objective=_objective(last),
        width=timedelta(seconds=last.width_s),
        bins=tuple(b for part in parts for b in _bins(part)),
        source=Source(available=True, query=last.query),
    )


def _objective(part: RecordedEvidence) -> Objective:
    return Objective(
        name=part.objective,
        sli=part.sli,
        target=part.target,
        threshold_ms=part.threshold_ms,
        window=timedelta(seconds=part.window_s),
    )


def _bins(part: RecordedEvidence) -> Iterable[Bin]:
    width = timedelta(seconds=part.width_s)
    for i, (candidate, stable) in enumerate(zip(part.candidate, part.stable, strict=True)):
        pair = part.pairs[i] if part.pairs else ()
        yield Bin(
            start=part.since + i * width,
            candidate=Counts(*candidate),
            stable=Counts(*stable),
            rescued=part.rescued[i] if part.rescued else None,
            pairs=Discordant(*pair) if pair else None,
        )


def evidence_with(record: Record | None, evidence: Sequence[Evidence]) -> tuple[Evidence, ...]:
    """The evidence to judge: as Prometheus tells it or, where that lost what it knew, with what was recorded."""
    return tuple(_remembered(_parts(record.evidence, each), each) if record else each for each in evidence)


def _remembered(parts: tuple[RecordedEvidence, ...], evidence: Evidence) -> Evidence:
    if not parts or not evidence.source.available or not evidence.bins:
        return evidence
    recorded = tuple(b for part in parts for b in _bins(part))
    if not _forgot(recorded, parts, evidence):
        return evidence
    until = parts[-1].until
    new = [b for b in evidence.bins if b.start >= until]
    ends = (
        _known_from(evidence, until, [b.candidate for b in evidence.bins]),
        _known_from(evidence, until, [b.stable for b in evidence.bins]),
    )
    return dataclasses.replace(evidence, bins=(*recorded, *(_known(b, *ends) for b in new)))


def _forgot(recorded: Sequence[Bin], parts: Sequence[RecordedEvidence], evidence: Evidence) -> bool:
    """Does Prometheus show fewer requests than were recorded, in the time that both tell of?"""
    first, last = evidence.bins[0].start, min(evidence.bins[-1].start + evidence.width, parts[-1].until)
    ends = [*(b.start for b in recorded[1:]), parts[-1].until]
    known = sum(_requests(b) for b, end in zip(recorded, ends, strict=True) if b.start >= first and end <= last)
    shown = sum(_requests(b) for b in evidence.bins if b.start < last)
    return shown < known - _HALF_AN_EVENT


def _requests(one: Bin) -> float:
    return one.candidate.total + one.stable.total


def _known_from(evidence: Evidence, until: datetime, counts: Sequence[Counts]) -> datetime:
    """From when on a version's counts behind `until` are known.

    A counter that is seen for the first time shows all of its life; one that was seen before shows what came since.
    """
    first = next((b.start for b, count in zip(evidence.bins, counts, strict=True) if count.total), None)
    return until if first is None or first < until else first + NEW_COUNTERS_BINS * evidence.width


def _known(one: Bin, candidate_from: datetime, stable_from: datetime) -> Bin:
    """The bin without what is not known of it."""
    candidate = one.candidate if one.start >= candidate_from else Counts()
    stable = one.stable if one.start >= stable_from else Counts()
    rescued = one.rescued if one.start >= candidate_from or one.rescued is None else 0.0
    pairs = one.pairs if one.start >= max(candidate_from, stable_from) or one.pairs is None else Discordant()
    return Bin(one.start, candidate, stable, rescued, pairs)
