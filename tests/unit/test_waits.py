"""Every wait has a deadline, or names the event that ends it; left alone, any release comes to rest. Rule 6."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from policies.actions import Wait, WriteRelease
from policies.convergence import Failed, Ready, Starting
from policies.facts import Idle, Observed
from policies.release import Ask, Cause, CauseKind, Phase, Purpose, Quarantined, Release, Wish
from policies.rollout import decide
from tests.unit.releases import (
    AWAY,
    FAILING,
    HEALTHY,
    MINUTE,
    NOW,
    RULES,
    THIN,
    application,
    in_phase,
    observed,
    only,
    rolling,
    ruled,
    steady,
    versions,
)

STOPPED = Quarantined(
    version=2, digest=application(2).digest, build=application(2).build, rollout="r0", since=NOW, reasons=("bad",)
)
STEADIES = [
    steady(None),
    steady(1),
    steady(1, seen=(1, 2)),
    steady(2, seen=(1, 2), served=(application(1),), ask=Ask(wish=Wish.UNDO, by="Ada", why="x")),
    steady(1, seen=(1, 2), quarantine=(STOPPED,), ask=Ask(wish=Wish.RETRY, by="Ada", why="x", version=2)),
]
PAUSES = [
    rolling(Phase.PAUSED, weight=10, step=1, paused_from=origin, cause=Cause(kind=kind, reasons=("x",)))
    for origin in (Phase.WARMING, Phase.SHADOW, Phase.CANARY, Phase.SETTLING)
    for kind in (CauseKind.ASKED, CauseKind.INCONCLUSIVE, CauseKind.NO_METRICS, CauseKind.NOT_READY)
]
RUNNING = [in_phase(phase) for phase in Phase if phase not in (Phase.STEADY, Phase.PAUSED)]
LATE = [rolling(phase, weight=10, live=False) for phase in (Phase.SHADOW, Phase.CANARY, Phase.SETTLING)]
UNUSUAL = [in_phase(Phase.CANARY, purpose=Purpose.UNDO), rolling(Phase.WARMING, purpose=Purpose.EMERGENCY)]
RELEASES = [*STEADIES, *PAUSES, *RUNNING, *LATE, *UNUSUAL]

REGISTRIES = [
    None,
    {},
    versions(v1="Production", v2="Production"),
    versions(v1="Archived", v3="Production"),
    versions(v1="Production", v2="Production", v3="Production"),
]
OTHERS = [
    {},
    {"out_of_place": "fraud--v1: UNHEALTHY", "candidate": Starting(reason="DEPLOYING")},
    {"out_of_place": "Ray cannot be seen", "runtime_reason": "no answer", "candidate": Starting(reason="?")},
    {"candidate": Failed(message="ImportError")},
    {"artifacts": {}, "artifact_reason": "the artifact store is away"},
    {"evidence": THIN},
    {"evidence": HEALTHY},
    {"evidence": FAILING},
    {"evidence": AWAY, "unavailable_since": NOW - MINUTE},
    {"baseline": (AWAY[0],), "unavailable_since": NOW - MINUTE},
]


def facts(registry: dict | None, others: dict) -> Observed:
    seen = observed(registry or {}, **{"candidate": Ready(), **others})
    return seen if registry is not None else dataclasses.replace(seen, versions=None, registry_reason="down")


def test_a_wait_without_an_end_cannot_be_made():
    with pytest.raises(ValueError, match="a wait without an end"):
        Idle(reason="just because")


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: f"{r.phase}")
def test_rule_6_every_wait_has_a_deadline_or_names_the_event_that_ends_it(release: Release):
    for registry, others in itertools.product(REGISTRIES, OTHERS):
        for wait in only(Wait, decide(release, facts(registry, others), RULES, NOW)):
            assert wait.until is None or wait.until > NOW, wait
            assert wait.until or wait.ends, wait


AT_REST = (Phase.STEADY, Phase.PAUSED)


@pytest.mark.parametrize("release", RELEASES, ids=lambda r: f"{r.phase}")
@pytest.mark.parametrize("rules", [RULES, ruled(on_inconclusive="rollback", on_metrics_down="rollback")])
def test_left_alone_any_release_reaches_steady_or_paused_and_one_more_look_changes_nothing(release, rules):
    """Traps: deadlines not honoured; a failed state that never leaves; hooks that wait for ever."""
    for registry, others in itertools.product((None, REGISTRIES[2]), OTHERS):
        seen, now, now_is = facts(registry, others), NOW, release
        for _ in range(60):
            (*writes,) = only(WriteRelease, decide(now_is, seen, rules, now))
            now_is = writes[0].release if writes else now_is
            if not writes and now_is.phase in AT_REST:
                break
            now += 20 * MINUTE
        assert now_is.phase in AT_REST, (now_is, seen)
        assert not only(WriteRelease, decide(now_is, seen, rules, now)), (now_is, seen)
