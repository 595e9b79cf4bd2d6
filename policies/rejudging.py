"""What a changed policy or SLO would have decided about rollouts that were: which models it concerns, and the replays.

Rules:
- A replay is `replay.py`'s, with the policy and the SLOs as the change would have them; nothing here decides.
- Recorded counts are judged by another target, and never by another threshold or other events than were counted: an
  SLO that was not counted then is left out of the replay, and that is said.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from policies.config_repo_documents import ConfigRepo
from policies.documents import RolloutPolicy
from policies.errors import BadInput
from policies.evidence import Evidence, Objective, Sli
from policies.loosening import same_counts
from policies.past_rollout import Past
from policies.replay import Replay, replay
from policies.rollout_record import LookRecord


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldTo:
    """What candidates of one model are held to, before a change and after it."""

    policy_before: RolloutPolicy
    policy: RolloutPolicy
    slos_before: tuple[Objective, ...]
    slos: tuple[Objective, ...]

    @property
    def words(self) -> str:
        """What is another than before."""
        parts = []
        if not _same(self.policy_before, self.policy):
            parts.append(f"policy {self.policy.name}")
        parts += [f"SLO {one.name}" for one in self.slos if one not in self.slos_before]
        parts += [f"without SLO {one.name}" for one in self.slos_before if all(o.name != one.name for o in self.slos)]
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejudged:
    """One recorded rollout, judged again; `replay` is none where that cannot be, and `unknown` says why."""

    past: Past
    held_to: HeldTo
    replay: Replay | None
    unknown: tuple[str, ...]
    """What cannot be known about it."""


def concerned(before: ConfigRepo, after: ConfigRepo) -> Mapping[str, HeldTo]:
    """The models, by slug, whose candidates are held to something else after the change."""
    return dict(_concerned(before, after))


def _concerned(before: ConfigRepo, after: ConfigRepo) -> Iterator[tuple[str, HeldTo]]:
    for key, model in sorted(after.models.items()):
        if key not in before.models:
            continue
        was = before.models[key]
        held = HeldTo(
            policy_before=before.policies[was.rollout],
            policy=after.policies[model.rollout],
            slos_before=tuple(before.slos[name] for name in was.slos),
            slos=tuple(after.slos[name] for name in model.slos),
        )
        if not _same(held.policy_before, held.policy) or held.slos_before != held.slos:
            yield key, held


def _same(one: RolloutPolicy, other: RolloutPolicy) -> bool:
    """Whatever it is called."""
    return dataclasses.replace(one, name=other.name) == other


def judged_again(past: Past, held_to: HeldTo) -> Rejudged:
    """The rollout with the policy and the SLOs after the change."""
    evidence, unknown = _evidence(past, held_to)
    if past.evidence and not evidence:
        return Rejudged(past=past, held_to=held_to, replay=None, unknown=unknown)
    budget = {name: events * _share(past, evidence, name) for name, events in past.budget.items()}
    try:
        again = replay(dataclasses.replace(past, evidence=evidence, budget=budget), held_to.policy)
    except BadInput as error:
        return Rejudged(past=past, held_to=held_to, replay=None, unknown=(*unknown, str(error)))
    return Rejudged(past=past, held_to=held_to, replay=again, unknown=(*unknown, *again.unknown))


def _evidence(past: Past, held_to: HeldTo) -> tuple[tuple[Evidence, ...], tuple[str, ...]]:
    """The recorded counts that the new SLOs can be judged by, and what cannot."""
    found, unknown = [], []
    for wanted in held_to.slos:
        counted = next((e for e in past.evidence if _counts(e.objective, wanted, held_to)), None)
        if counted is not None:
            # As a record has it, so that what does not change is judged as it was.
            asked = dataclasses.replace(counted.objective, target=wanted.target, window=wanted.window)
            found.append(dataclasses.replace(counted, objective=asked))
        elif past.evidence and (wanted.sli is not Sli.AGREEMENT or wanted not in held_to.slos_before):
            unknown.append(f"the SLO {wanted.name} was not counted then as it is written now: it is left out")
    return tuple(found), tuple(unknown)


def _counts(recorded: Objective, wanted: Objective, held_to: HeldTo) -> bool:
    if (recorded.name, recorded.sli, recorded.threshold_ms) != (wanted.name, wanted.sli, wanted.threshold_ms):
        return False
    # A record does not say which queries: those of before the change are the best that is known.
    was = next((one for one in held_to.slos_before if one.name == wanted.name), None)
    return was is not None and same_counts(was, wanted)


def _share(past: Past, evidence: Sequence[Evidence], name: str) -> float:
    """What it might spend grows with what the SLO allows."""
    was = next((e.objective for e in past.evidence if e.objective.name == name), None)
    now = next((e.objective for e in evidence if e.objective.name == name), None)
    return now.allowed_bad_rate / was.allowed_bad_rate if was and now and was.allowed_bad_rate else 1.0


def turning_point(one: Replay) -> LookRecord | None:
    """The first look that did something else than the recorded one; none where it only did less."""
    recorded = one.past.record.looks
    for i, mine in enumerate(one.looks):
        if i >= len(recorded) or _moved(mine) != _moved(recorded[i]):
            return mine
    return None


def _moved(look: LookRecord) -> tuple[str, str, int]:
    return look.signal, look.following, look.weight_percent


def lasted(one: Replay) -> timedelta | None:
    """How long the rollout would have taken; none where it has no end."""
    return one.ended_at - one.past.started_at if one.ended_at is not None else None
