"""Facts for the state machine's tests: releases, rollouts, evidence and registries, each in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from policies.actions import Action, Wait, WriteRelease
from policies.application import Application, Settings
from policies.convergence import Ready
from policies.documents import Bake, RolloutPolicy, Trigger
from policies.evidence import Bin, Counts, Evidence, Objective, Sli, Source
from policies.facts import Observed, Rules
from policies.model_signatures import Column, Signature, Type
from policies.observations import Artifact, RegisteredVersion, VersionFacts
from policies.release import Cause, CauseKind, Phase, PhaseRecord, Release, Rollout

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PRODUCTION = Trigger(stage="Production")
ERRORS = Objective(name="errors", sli=Sli.ERRORS, target=0.99)
LATENCY = Objective(name="latency", sli=Sli.LATENCY, target=0.95, threshold_ms=200)
POLICY = RolloutPolicy(name="default", step=Bake(min_requests=50))
RULES = Rules(policy=POLICY, trigger=PRODUCTION, on_rollback="restore", settings=Settings())


FACTS = VersionFacts(signature=Signature(inputs=(Column("amount", Type("double")),)), flavor="sklearn", run="run r")


def digest(version: int) -> str:
    return f"sha256:{version:064x}"


def application(version: int, **settings: Any) -> Application:
    return Application(version=version, digest=digest(version), settings=Settings(**settings))


def versions(**stages: str) -> dict[int, RegisteredVersion]:
    """`versions(v1="Production", v2="None")`."""
    numbers = {int(name[1:]): stage for name, stage in stages.items()}
    return {n: RegisteredVersion(number=n, stage=stage) for n, stage in numbers.items()}


def steady(version: int | None = 1, **fields: Any) -> Release:
    stable = application(version) if version else None
    seen = (version,) if version else ()
    return Release(**{"model": "fraud", "environment": "production", "stable": stable, "seen": seen, **fields})


_OF_A_ROLLOUT = ("cause", "paused_from", "purpose", "asked_by", "budget", "dispersion", "started_at")


def rolling(phase: Phase, *, weight: int = 0, step: int = 0, live: bool = True, **fields: Any) -> Release:
    """v2 on its way over v1, in `phase` since six minutes, live since then."""
    since = NOW - 6 * MINUTE
    before = since - MINUTE
    shadow = PhaseRecord(phase=Phase.SHADOW, weight_percent=0, since=before, live_since=before, until=since)
    record = PhaseRecord(phase=phase, weight_percent=weight, since=since, live_since=since if live else None)
    records = (record,) if phase in (Phase.WARMING, Phase.SHADOW) else (shadow, record)
    if phase is Phase.PAUSED:
        fields.setdefault("paused_from", Phase.CANARY)
    rollout_fields = {k: fields.pop(k) for k in _OF_A_ROLLOUT if k in fields}
    rollout_fields.setdefault("started_at", since - 2 * MINUTE)
    rollout = Rollout(id="r1", step=step, records=records, **rollout_fields)
    known = {
        "phase": phase,
        "candidate": application(2),
        "weight_percent": weight,
        "rollout": rollout,
        "seen": (1, 2),
        "revision": 7,
    }
    return steady(1, **{**known, **fields})


def evidence(
    objective: Objective = ERRORS,
    *,
    total: float = 2000,
    bad: float = 0,
    stable_bad: float = 0,
    minutes: int = 6,
    ends: datetime = NOW,
    reason: str = "",
) -> Evidence:
    """Counts of the candidate spread evenly over the `minutes` before `ends`, in bins of 15 s; stable's are as many."""
    width = timedelta(seconds=15)
    n = minutes * 4
    bins = tuple(
        Bin(
            start=ends - (n - i) * width,
            candidate=Counts(total / n, bad / n),
            stable=Counts(total / n, stable_bad / n),
        )
        for i in range(n)
    )
    source = Source(available=not reason, query="sum(x)", reason=reason, age=timedelta(seconds=5))
    return Evidence(objective=objective, width=width, bins=bins, source=source)


HEALTHY = (evidence(), evidence(LATENCY))
FAILING = (evidence(bad=300), evidence(LATENCY))
THIN = (evidence(total=6), evidence(LATENCY, total=6))
AWAY = (evidence(total=0, reason="Prometheus did not answer within 30 s"), evidence(LATENCY))


def observed(registry: dict[int, RegisteredVersion] | None = None, **fields: Any) -> Observed:
    """Everything in place: v1 and v2 in Production, the candidate warm, their artifacts known."""
    if registry is None:
        registry = versions(v1="Production", v2="Production")
    known = {
        "versions": registry,
        "artifacts": {n: Artifact(digest=digest(n)) for n in registry},
        "facts": dict.fromkeys(registry, FACTS),
        "candidate": Ready(),
    }
    return Observed(**{**known, **fields})


def ruled(**changes: Any) -> Rules:
    """RULES with other policy fields, or with other fields of its own."""
    own = {k: changes.pop(k) for k in ("on_rollback", "settings", "trigger") if k in changes}
    return dataclasses.replace(RULES, policy=dataclasses.replace(POLICY, **changes), **own)


# --- readings of what was decided ---------------------------------------------------------------------------------


def written(actions: Iterable[Action]) -> Release:
    (write,) = [a for a in actions if isinstance(a, WriteRelease)]
    return write.release


def reason(actions: Iterable[Action]) -> str:
    (wait,) = [a for a in actions if isinstance(a, Wait)]
    return wait.reason


def only(kind: type, actions: Iterable[Action]) -> list:
    return [a for a in actions if isinstance(a, kind)]


def in_phase(phase: Phase, **fields) -> Release:
    if phase is Phase.PAUSED:
        cause = Cause(kind=CauseKind.ASKED, reasons=("a person asked",))
        return rolling(phase, weight=10, step=1, paused_from=Phase.CANARY, cause=cause, **fields)
    weights = {Phase.CANARY: 10, Phase.SETTLING: 100}
    return rolling(phase, weight=weights.get(phase, 0), step=1 if phase is Phase.CANARY else 0, **fields)
