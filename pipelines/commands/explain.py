"""What `sluice explain` tells of one rollout: what was tried over what, every look with its arithmetic, and a chart.

Rules:
- It tells what the record holds and computes nothing that decides. What is not known is left out.
- A look's commit is the one that follows the tip it looked at: decisions are commits on top of what was seen.
- JSON carries the same values as the words.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from rich.text import Text

from pipelines.commands.chart import Marks, charts
from policies.document_reading import read_document
from policies.durations import format_duration
from policies.errors import BadInput
from policies.evidence import Sli
from policies.facts import Signal
from policies.layout import Place, locate
from policies.limit import Truth, fewest_events, fewest_events_to_prove
from policies.observations import Tip
from policies.release import Cause, Outcome, Phase, PhaseRecord, Purpose, Release
from policies.rollout_record import HistoryRecord, LookRecord, Record
from policies.stored_documents import parse_history, parse_record
from policies.verdict import Measure, VerdictKind
from policies.verdict_words import e_value, percent
from registry_bridge.config_repo import CommitEntry

NEAR_IDS = 5
"""Ids that are offered in place of one that does not exist."""

LOG = 5_000
"""Commits that are searched for a rollout's own: about twenty a rollout, and those of everybody else between."""

_ROLLOUT_TRAILER = "Sluice-Rollout"
_SIGNALS = {signal.name: signal.value for signal in Signal}
_LEAST_SHOWN = 1e-5
"""A smaller bound of a rate is none that anybody would act on."""
_MINUTE_S = 60

_SEEN = 1.0
"""Harm e-value, log10, from which it was harm that was there to be shown, and no health to be proved."""
_LN_10 = math.log(10)
_STYLES = {VerdictKind.PASS: "green", VerdictKind.FAIL: "bold red", VerdictKind.UNAVAILABLE: "yellow"}


# --- what is told ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Told:
    """One rollout, finished or under way."""

    model: str
    environment: str
    rollout: str
    version: int
    stable_version: int | None
    started_at: datetime
    phases: tuple[PhaseRecord, ...]
    outcome: Outcome | None = None
    """None: it is under way."""
    ended_at: datetime | None = None
    cause: Cause | None = None
    purpose: Purpose | None = None
    dispersion: Mapping[str, float] = dataclasses.field(default_factory=dict)
    record: Record | None = None
    """None in what older Sluicegates wrote."""
    commits: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """The commit of each look's decision, by the tip it looked at."""

    @property
    def last_moved_at(self) -> datetime:
        """When it ended, or moved last."""
        return self.ended_at or self.phases[-1].since


def rollouts(tip: Tip) -> tuple[Told, ...]:
    """All of them, the one that moved last at the end. Raises BadInput where a file of ours cannot be read."""
    told = []
    for path, text in tip.files.items():
        located = locate(path)
        if located and located.place is Place.HISTORY:
            told.append(_finished(parse_history(text, path)))
        elif located and located.place is Place.RELEASE:
            release = read_document(path, text, Place.RELEASE).value
            if isinstance(release, Release) and release.rollout and release.candidate:
                told.append(_running(release, _record(tip, path, release.rollout.id)))
    return tuple(sorted(told, key=lambda one: (one.last_moved_at, one.rollout)))


def _record(tip: Tip, release: str, rollout: str) -> Record | None:
    path = release.replace("/releases/", "/records/").replace(".yaml", ".json")
    record = parse_record(tip.files[path], path) if path in tip.files else None
    return record if record and record.rollout == rollout else None


def _finished(history: HistoryRecord) -> Told:
    return Told(
        model=history.model,
        environment=history.environment,
        rollout=history.rollout,
        version=history.version,
        stable_version=history.stable_version,
        started_at=history.started_at,
        phases=history.phases,
        outcome=history.outcome,
        ended_at=history.ended_at,
        cause=history.cause,
        purpose=history.purpose,
        dispersion=history.dispersion,
        record=history.record,
    )


def _running(release: Release, record: Record | None) -> Told:
    rollout, candidate = release.rollout, release.candidate
    if rollout is None or candidate is None:
        raise BadInput(f"{release.model} ({release.environment}) is {release.phase}: no rollout is under way")
    return Told(
        model=release.model,
        environment=release.environment,
        rollout=rollout.id,
        version=candidate.version,
        stable_version=release.stable.version if release.stable else None,
        started_at=rollout.started_at,
        phases=rollout.records,
        cause=rollout.cause,
        purpose=rollout.purpose,
        dispersion=rollout.dispersion,
        record=record,
    )


def chosen(all_of_them: Sequence[Told], rollout: str | None, model: str | None) -> Told:
    """The one that is meant: by its id, or by a beginning of it that no other has; else the newest.

    Raises BadInput, with the ids that are near.
    """
    known = [one for one in all_of_them if model in (None, one.model)]
    if not known:
        models = ", ".join(sorted({one.model for one in all_of_them}))
        raise BadInput(f"{model!r} has had no rollout; these have: {models}" if models else "no rollout has begun yet")
    if rollout is None:
        return known[-1]
    exactly = [one for one in known if one.rollout == rollout]
    found = exactly or [one for one in known if one.rollout.startswith(rollout)]
    if len(found) == 1:
        return found[0]
    ids = [one.rollout for one in (found or known)]
    near = ids[-NEAR_IDS:] if found else difflib.get_close_matches(rollout, ids, n=NEAR_IDS, cutoff=0.3)
    what = f"{len(found)} rollouts begin with {rollout!r}" if found else f"there is no rollout {rollout!r}"
    raise BadInput(f"{what}; near it: {', '.join(near or ids[-NEAR_IDS:])}")


def with_commits(told: Told, log: Sequence[CommitEntry]) -> Told:
    """The same with the commits of its looks; `log` is the branch's, newest first."""
    after = {before.commit: entry for entry, before in itertools.pairwise(log)}
    tips = [look.tip for look in told.record.looks] if told.record else []
    ours = {
        tip: after[tip].commit
        for tip in tips
        if tip in after and told.rollout in after[tip].trailers.get(_ROLLOUT_TRAILER, "").split(", ")
    }
    return dataclasses.replace(told, commits=ours)


# --- in words -------------------------------------------------------------------------------------------------


def lines(told: Told, *, width: int, marks: Marks) -> Iterator[Text]:
    """The whole story, for a terminal of that many columns."""
    yield from _head(told)
    yield Text()
    looks = told.record.looks if told.record else ()
    day = told.started_at.date()
    for look in looks:
        if look.at.date() != day:
            day = look.at.date()
            yield Text(f"{day:%Y-%m-%d}", style="dim")
        yield from _look(told, look)
    if not looks:
        yield from _phases(told.phases)
    if told.record:
        yield from _limits(told.record)
        yield from charts(told.record, width=width, marks=marks)


def _head(told: Told) -> Iterator[Text]:
    over = f"over v{told.stable_version}" if told.stable_version is not None else "as the first version"
    if told.stable_version == told.version:
        over = "with new settings"
    what = {Purpose.UNDO: " (an undo)", Purpose.EMERGENCY: " (an emergency)"}.get(told.purpose) if told.purpose else ""
    yield Text(f"{told.model} ({told.environment}): v{told.version} {over}{what or ''}", style="bold")
    yield Text(f"  rollout {told.rollout}, begun {told.started_at:%Y-%m-%d %H:%M:%S} UTC")
    if told.outcome and told.ended_at:
        lasted = _duration(told.ended_at - told.started_at)
        style = "green" if told.outcome is Outcome.PROMOTED else "bold red"
        yield Text("  ").append(told.outcome.value.replace("_", " "), style=style).append(f" after {lasted}")
    else:
        current = told.phases[-1]
        yield Text(f"  under way: {_phase(current.phase, current.weight_percent)} since {current.since:%H:%M:%S} UTC")
    if told.cause:
        yield Text(f"  because: {told.cause.kind.value}")
    if told.record and told.record.policy:
        yield from (Text(f"  {line}") for line in _policy(told.record.policy))
    for query in dict.fromkeys((part.objective, part.query) for part in (told.record.evidence if told.record else ())):
        yield Text(f"  {query[0]} is counted by {query[1]}", style="dim")


def _policy(policy: Mapping[str, object]) -> Iterator[str]:
    steps = policy.get("steps")
    shares = f"steps {', '.join(map(str, steps))} %, then " if isinstance(steps, Sequence) and steps else ""
    yield f"policy {policy.get('name')}: {'shadow, ' if policy.get('shadow') else ''}{shares}100 %"
    alpha, beta = _figure(policy, "alpha"), _figure(policy, "beta")
    if alpha is not None and beta is not None:
        yield "over the whole rollout, however often it is looked at:"
        yield f"  a healthy version is taken back with a chance of {percent(alpha)} at most (alpha)"
        yield f"  one outside an SLO passes with a chance of {percent(beta)} at most (beta), unless it is proved to be"
        yield "  as good as a stable version that is itself near its SLO"


def _look(told: Told, look: LookRecord) -> Iterator[Text]:
    head = Text(f"{look.at:%H:%M:%S}  ")
    head.append(look.signal, style="bold").append(f"  {_move(look)}")
    head.append(f"  by {look.actor}")
    if look.verdict:
        head.append("  ").append(look.verdict.value, style=_STYLES.get(look.verdict, ""))
    if commit := told.commits.get(look.tip):
        head.append(f"  [{commit[:10]}]", style="dim")
    yield head
    yield from (Text(f"          {reason}") for reason in _other_reasons(look))
    if look.new_policy:
        yield Text("          the policy is another one than at the look before", style="yellow")
    for measure in look.measures:
        yield from (Text(f"          {line}") for line in _measure(told, look, measure))


def _other_reasons(look: LookRecord) -> Sequence[str]:
    """Why it moved, without what is said of objectives whose figures follow; a signal without a reason says itself."""
    told = tuple(f"{measure.objective}: " for measure in look.measures)
    return [r for r in look.reasons if not r.startswith(told)] if look.reasons else [_SIGNALS.get(look.signal, "")]


def _move(look: LookRecord) -> str:
    if look.phase is look.following and look.signal == Signal.LIVE.name:
        return _phase(look.following, look.weight_percent)
    return f"{look.phase.value} -> {_phase(look.following, look.weight_percent)}"


def _phase(phase: Phase, weight_percent: int) -> str:
    return f"{phase.value} {weight_percent} %" if phase in (Phase.CANARY, Phase.PAUSED) else phase.value


def _measure(told: Told, look: LookRecord, measure: Measure) -> Iterator[str]:
    """One objective at one look: counts, estimates and bounds, e-values and thresholds, window and age."""
    if measure.trouble:
        yield f"{measure.objective}: not to be believed: {measure.trouble}{_age(measure)}"
        return
    if measure.rate is None:
        yield f"{measure.objective}: no requests yet{_age(measure)}"
        return
    word = "late" if measure.sli is Sli.LATENCY else "bad"
    counts = f"v{told.version} {_counts(measure.candidate_bad, measure.candidate_total, word)}{_bounds(measure)}"
    if measure.stable_total:
        counts += f"; v{told.stable_version} {_counts(measure.stable_bad, measure.stable_total, word)}"
    yield f"{measure.objective}: {counts}; the SLO allows {percent(measure.allowed)}"
    for words in (_harm(told, look, measure), _proof(told, measure)):
        if words:
            yield f"  {words}"
    step = f"this step {_counts(measure.step_bad, measure.step_total, word)}; " if measure.step_total else ""
    yield f"  {step}{_window(measure)}{_age(measure)}{_dispersion(measure)}"


def _counts(bad: float, total: float, word: str) -> str:
    return f"{bad:,.0f} {word} of {total:,.0f} ({percent(bad / total)})"


def _bounds(measure: Measure) -> str:
    if measure.lower is None or measure.upper is None:
        return ""
    return f", at any time {_bound(measure.lower)} to {_bound(measure.upper)}"


def _bound(rate: float) -> str:
    return f"under {percent(_LEAST_SHOWN)}" if 0 < rate < _LEAST_SHOWN else percent(rate)


def _harm(told: Told, look: LookRecord, measure: Measure) -> str:
    tests = ((measure.harm_slo, "against the SLO"), (measure.harm_stable, "against stable"))
    said = [f"{_e(value)} {words}" for value, words in tests if value is not None]
    if look.mean_harm is not None:
        limit = _threshold(told, "alpha")
        failed = " -> FAIL" if limit is not None and look.mean_harm >= limit else ""
        said.append(f"mean of all tests {_e(look.mean_harm)}{_against(look.mean_harm, limit)}{failed}")
    return f"harm: e-value {', '.join(said)}" if said else ""


def _proof(told: Told, measure: Measure) -> str:
    limit = _threshold(told, "beta")
    tests = ((measure.proof, "of health"), (measure.equal, "of being as good as stable"))
    said = [f"{words} {_e(value)}{_against(value, limit)}" for value, words in tests if value is not None]
    if measure.proved_at is not None:
        said.append(f"given at {measure.proved_at:%H:%M:%S} UTC")
    return f"proof: e-value {', '.join(said)}" if said else ""


# --- how soon anybody could know ------------------------------------------------------------------------------


def _limits(record: Record) -> Iterator[Text]:
    """T* for what was seen: what any test would have needed that errs as seldom and knew the rates beforehand."""
    last = next((look for look in reversed(record.looks) if any(m.rate is not None for m in look.measures)), None)
    lines = [line for measure in (last.measures if last else ()) if (line := _limit(record.policy, measure))]
    if lines:
        yield Text()
        yield Text("the fewest that any test needs in the mean (T*), at the rates and the traffic that were seen:")
        yield from (Text(f"  {line}") for line in lines)


def _limit(policy: Mapping[str, object], measure: Measure) -> str:
    alpha, beta, tolerance = (_figure(policy, name) for name in ("alpha", "beta", "tolerance"))
    if alpha is None or beta is None or tolerance is None:
        return ""
    if measure.rate is None or measure.since is None or measure.until is None:
        return ""
    minutes = (measure.until - measure.since).total_seconds() / _MINUTE_S
    events = measure.candidate_total / minutes
    seen = f"{events:,.0f} events a minute; {measure.candidate_total:,.0f} were seen"
    harm = max(measure.harm_slo or 0.0, measure.harm_stable or 0.0)
    if measure.rate < measure.allowed and harm < _SEEN:
        fewest = fewest_events_to_prove(measure.rate, beta=beta, allowed=measure.allowed)
        return f"{measure.objective}: {_number(fewest)} to prove {percent(measure.rate)} healthy, of {seen}"
    truth = Truth(
        candidate_rate=measure.rate,
        stable_rate=measure.stable_rate or 0.0,
        candidate_events=events,
        stable_events=measure.stable_total / minutes,
    )
    fewest = fewest_events(truth, alpha=alpha, allowed=measure.allowed, tolerance=tolerance)
    if not math.isfinite(fewest):
        return ""
    return f"{measure.objective}: {_number(fewest)} to show that {percent(measure.rate)} is harm, of {seen}"


def _figure(policy: Mapping[str, object], name: str) -> float | None:
    """A number of the policy; none where the record has none: a person can write anything into it."""
    value = policy.get(name)
    return float(value) if isinstance(value, int | float) and value > 0 else None


def _number(events: float) -> str:
    return f"{math.ceil(events):,} events"


def _threshold(told: Told, name: str) -> float | None:
    """1/alpha or 1/beta, log10."""
    value = _figure(told.record.policy, name) if told.record else None
    return None if value is None else -math.log10(value)


def _against(log10: float, threshold: float | None) -> str:
    return "" if threshold is None else f" {'>=' if log10 >= threshold else '<'} {_e(threshold)}"


def _e(log10: float) -> str:
    return e_value(log10 * _LN_10)


def _window(measure: Measure) -> str:
    if measure.since is None or measure.until is None:
        return "no bin yet"
    return f"counted {measure.since:%H:%M:%S} to {measure.until:%H:%M:%S} UTC"


def _age(measure: Measure) -> str:
    return "" if measure.age_s is None else f", newest sample {_duration(timedelta(seconds=measure.age_s))} old"


def _dispersion(measure: Measure) -> str:
    return "" if measure.dispersion == 1 else f"; phi {measure.dispersion:.3g}: bad answers come in clusters"


def _phases(phases: Sequence[PhaseRecord]) -> Iterator[Text]:
    """What older records have: the phases alone."""
    for phase in phases:
        end = f"{phase.until:%H:%M:%S}" if phase.until else "..."
        verdict = f" {phase.verdict.value}" if phase.verdict else ""
        yield Text(f"{phase.since:%H:%M:%S}-{end} {_phase(phase.phase, phase.weight_percent)}{verdict}")
        yield from (Text(f"          {reason}") for reason in phase.reasons)


def _duration(duration: timedelta) -> str:
    return format_duration(timedelta(seconds=max(0, round(duration.total_seconds()))))
