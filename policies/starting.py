"""Noticing while nothing runs: what starts, or why it does not yet.

Rules:
- A person's wish (undo, retry) comes before what entered the trigger.
- Whatever starts is admitted first (`admission_rules.py`), an emergency too; only an undo is not asked: it served.
- An older version that served before and enters the trigger again is an undo: what served is started as it served, in
  one step. One that was stopped since has to take every step.
- A version that is tagged `sluice.emergency: "true"` starts while the service burns, while the baseline is away and
  while stable cannot be brought in place; it takes the route once it is warm, because a failing stable is a bad host.
  Without such trouble the tag means nothing: every step is taken.
- Nothing else starts while the service burns its error budget, or before Ray matches Git.
- A baseline that is unavailable delays a start by the metrics deadline at most. Then the rollout starts with phi 1 and
  without a budget, and says so: its steps are judged, and freeze where there is still nothing to judge by.

This module must not change a release.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from policies.admission import lines
from policies.admission_rules import admission_of
from policies.application import Application
from policies.budget import allowances, burning
from policies.dispersion import dispersions
from policies.facts import Idle, Noticed, Observed, Rules, Signal, Start
from policies.observations import RegisteredVersion
from policies.promotion import Nothing, application_of, at_trigger, wanted
from policies.release import Ask, Purpose, Quarantined, Refused, Release, Wish
from policies.wishes import undone_to

EMERGENCY_TAG = "sluice.emergency"
"""A version that carries it with the value true may start while the service burns."""

_ANSWERS = "the registry answers"
_IN_PLACE = "Ray matches Git"


def notice_steady(release: Release, observed: Observed, rules: Rules, now: datetime) -> Noticed | Idle | Refused:
    """STARTED with what starts, or why nothing does, or a version that is refused."""
    start = what_starts(release, observed, rules)
    if not isinstance(start, Start):
        return start
    burns = burning(observed.baseline, rules.policy.budget, now) if rules.policy.budget else ()
    start = _as_emergency(start, observed, burns)
    if start.purpose is None and (wait := _waits(start, observed, rules, burns, now)):
        return wait
    start = _measured(start, observed, rules, now)
    return Noticed(signal=Signal.STARTED, start=start, reasons=start.reasons, by=start.asked_by)


def what_starts(release: Release, observed: Observed, rules: Rules) -> Start | Idle | Refused:
    """What is wanted and admitted, before anybody asked for the baseline."""
    ask = release.ask
    if ask and ask.wish is Wish.UNDO:
        return _undo(release, ask, observed)
    if observed.versions is None:
        return Idle(reason=f"the registry cannot be read: {observed.registry_reason}", ends=_ANSWERS)
    if rules.settings is None:
        raise ValueError(f"{release.model} has no document: it is removed, not looked after")
    if ask and ask.wish is Wish.RETRY and ask.version is not None:
        why = f"{ask.by} asked to try v{ask.version} again: {ask.why}"
        cleared = dataclasses.replace(release, quarantine=_without(release.quarantine, ask.version, observed))
        return _admitted(cleared, ask.version, (why,), observed, rules, asked_by=ask.by)
    want = wanted(release, rules.trigger, at_trigger(rules.trigger, observed.versions), rules.settings)
    if isinstance(want, Nothing):
        return Idle(reason=want.reason, ends="a version enters the trigger, or its document asks for other settings")
    why = "was refused before, and may be tried by now" if want.again else f"entered {rules.trigger}"
    return _admitted(release, want.version, (f"v{want.version} {why}",), observed, rules)


def _undo(release: Release, ask: Ask, observed: Observed) -> Start | Idle:
    target = undone_to(release)
    if target is None:
        raise ValueError(f"{release.model}: an undo that is in vain was not refused")
    if observed.runtime_reason:
        return Idle(reason=f"{ask.by} asked to undo; Ray cannot be seen: {observed.runtime_reason}", ends="Ray answers")
    reasons = (f"{ask.by} asked to undo: {ask.why}", f"v{target.version} served before")
    return Start(candidate=target, reasons=reasons, purpose=Purpose.UNDO, asked_by=ask.by)


def _admitted(
    release: Release, version: int, reasons: tuple[str, ...], observed: Observed, rules: Rules, *, asked_by: str = ""
) -> Start | Idle | Refused:
    """One version, if it may start: Ray is in place, the registry has it, and it passes its admission."""
    registered = (observed.versions or {}).get(version)
    before = _served_before(release, version, observed)
    urgent = before is not None or _is_emergency(registered)
    if observed.out_of_place and (observed.runtime_reason or not urgent):
        why = f"v{version} is wanted; first Ray must match Git: {observed.out_of_place}"
        return Idle(reason=why, ends=_IN_PLACE)
    if registered is None:
        why = f"v{version} is wanted with new settings, but it is not in the registry any more"
        return Idle(reason=why, ends="the document asks for the settings that serve, or another version enters")
    if not registered.ready:
        return Idle(reason=f"v{version} is wanted, but the registry has not finished registering it", ends=_ANSWERS)
    artifact = observed.artifacts.get(version)
    if artifact is None:
        why = f"v{version} is wanted, but its artifact cannot be read: {observed.artifact_reason}"
        return Idle(reason=why, ends="the artifact store answers")
    if before is not None:
        reasons = (*reasons, f"v{version} served before v{release.stable.version if release.stable else 0}: an undo")
        return Start(candidate=before, reasons=reasons, purpose=Purpose.UNDO, asked_by=asked_by)
    if rules.settings is None:
        raise ValueError(f"{release.model} has no document: it is removed, not looked after")
    candidate = application_of(version, artifact, rules.settings)
    asked = admission_of(release, candidate, observed, rules)
    if isinstance(asked, str):
        return Idle(reason=f"v{version} is wanted, but what is asked of it cannot be read: {asked}", ends=_ANSWERS)
    if not asked.admitted:
        return Refused(version=version, reason=asked.reason, checks=asked.checks)
    return Start(
        candidate=candidate, reasons=(*reasons, *lines(asked.checks)), asked_by=asked_by, admission=asked.checks
    )


def _served_before(release: Release, version: int, observed: Observed) -> Application | None:
    """The application as it served, where this is an older version than stable and was not stopped since."""
    if release.stable is None or version >= release.stable.version:
        return None
    if any(q.version == version for q in release.quarantine):
        return None
    artifact = observed.artifacts.get(version)
    same = (a for a in reversed(release.served) if artifact and (a.version, a.digest) == (version, artifact.digest))
    return next(same, None)


def _without(quarantine: tuple[Quarantined, ...], version: int, observed: Observed) -> tuple[Quarantined, ...]:
    """The quarantine without what a person wants to try again, under whatever number its artifact was stopped."""
    artifact = observed.artifacts.get(version)
    digest = artifact.digest if artifact else None
    return tuple(q for q in quarantine if q.version != version and q.digest != digest)


# --- the baseline ---------------------------------------------------------------------------------------------


def _as_emergency(start: Start, observed: Observed, burns: tuple[str, ...]) -> Start:
    """The same as an emergency, where its version is tagged so and there is trouble."""
    trouble = (*burns, *_unavailable(observed), *filter(None, (observed.out_of_place,)))
    if not trouble or not _is_emergency((observed.versions or {}).get(start.candidate.version)):
        return start
    words = f"v{start.candidate.version} is tagged {EMERGENCY_TAG}: it takes the route once it is warm"
    return dataclasses.replace(start, purpose=Purpose.EMERGENCY, reasons=(*start.reasons, words, *trouble))


def _waits(start: Start, observed: Observed, rules: Rules, burns: tuple[str, ...], now: datetime) -> Idle | None:
    """Why an ordinary rollout does not start yet."""
    version = start.candidate.version
    if burns:
        words = "; ".join(burns)
        ends = f"it burns no longer over one of the two windows; the tag {EMERGENCY_TAG} on v{version} starts it now"
        return Idle(reason=f"v{version} is wanted, but the service burns its error budget: {words}", ends=ends)
    deadline = (observed.unavailable_since or now) + rules.policy.metrics_deadline
    if (trouble := _unavailable(observed)) and now < deadline:
        why = f"v{version} is wanted; how stable does is not known yet: {'; '.join(trouble)}"
        return Idle(reason=why, until=deadline)
    return None


def _measured(start: Start, observed: Observed, rules: Rules, now: datetime) -> Start:
    """With phi and budget from the baseline."""
    dispersion, budget = dispersions(observed.baseline), rules.policy.budget
    return dataclasses.replace(
        start,
        dispersion=dispersion,
        budget=allowances(observed.baseline, budget, dispersion, now) if budget else {},
        reasons=(*start.reasons, *_in_words(dispersion), *_unmeasured(observed)),
    )


def _unavailable(observed: Observed) -> tuple[str, ...]:
    return tuple(dict.fromkeys(e.source.reason for e in observed.baseline if not e.source.available))


def _unmeasured(observed: Observed) -> tuple[str, ...]:
    names = [e.objective.name for e in observed.baseline if not e.source.available]
    return (f"{', '.join(names)}: not measured before the start: phi is 1, and no budget is counted",) if names else ()


def _in_words(dispersion: Mapping[str, float]) -> tuple[str, ...]:
    if not dispersion:
        return ()
    return (", ".join(f"{name}: errors come in clusters, phi {phi:g}" for name, phi in sorted(dispersion.items())),)


def _is_emergency(registered: RegisteredVersion | None) -> bool:
    return registered is not None and registered.tags.get(EMERGENCY_TAG, "").lower() == "true"
