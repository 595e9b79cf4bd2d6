"""Look, decide, act: the loop that carries releases.

Rules:
- One tick is one attempt. It is safe to stop anywhere and to run again: what was decided is in Git before anything else
  happens, and everything after that is derived from Git again at the next tick.
- One commit for all that changed in a look, on the tip that was looked at. If somebody else was faster, the decision is
  void and nothing of it is carried out.
- Then Ray (traffic), then the registry (words): in that order, so that safety never waits for a record.
- The tip is read again immediately before anything is submitted to Ray, which has no compare-and-swap of its own.
- Without Git, where it takes no commit, and where an environment's tip is refused, one thing is still done: a candidate
  that must not stay in traffic is held in Ray (`policies/holding.py`), by the tip that was seen last and not refused.
  Its rollback is recorded by whoever has Git, or the mended tip, first.

This module must not have opinions about what follows what: they are in `policies`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, assert_never

from pipelines.action_files import said_of, written
from pipelines.carrying_out import carry_out
from pipelines.look import Doors, EnvironmentLook, Look, Looker, ModelLook
from pipelines.ports import Clock
from pipelines.ray_service_file import manifest_changes, manifest_message, manifest_words
from pipelines.serve_configs import serve_config
from pipelines.vouched import Trust
from pipelines.without_git import seen_to_be_live, stops
from policies.actions import Action, RemoveRelease, TellReviewers, Wait, WriteRelease
from policies.convergence import InPlace, Refused, Step, Submit, Waiting, converge
from policies.documents import EdgeDocument
from policies.edges import promoted, serves_the_same
from policies.errors import Conflict, Retry, SluiceError
from policies.holding import Stop, has_traffic, held, holds, why_not, with_holds
from policies.layout import serve_path
from policies.names import slug
from policies.release import Phase, Release
from policies.rollout import decide
from policies.stepping import NextManifest
from serving_runtime.serve_config import text as serve_text

_LOG = logging.getLogger(__name__)

# While something is on its way (a PUT, a warm-up, a rollback), Ray is asked again soon: its statuses change in 0.2-1 s.
_SOON = timedelta(seconds=1)
# A person has to act; looking again costs little and sees that they did.
_STALLED = timedelta(seconds=15)
_ON_THE_WAY = frozenset({Phase.WARMING, Phase.ROLLING_BACK})
# A decision that lost the race is void; the next look is due at once, but not in a busy loop.
_AT_ONCE = timedelta(milliseconds=100)
# Without Git, Ray and the evidence are as fresh as ever, and the tip only counts while Ray runs what it says. What may
# be out of date are people's policies: after a day without Git, holding a candidate is for people to say.
LAST_TIP_COUNTS = timedelta(days=1)

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What one look led to, before anything is done."""

    look: Look
    actions: Mapping[str, tuple[Action, ...]]
    """By environment."""
    changes: Mapping[str, str | None]
    """Files of the commit, by path; none removes."""
    message: str
    manifests: Mapping[str, NextManifest] = dataclasses.field(default_factory=dict)
    """KubeRay's, by environment: what a second commit makes of them."""

    @functools.cached_property
    def submits(self) -> Mapping[str, str]:
        """What Ray would be told, by environment, in words; environments that are in place are left out."""
        told = {name: _submit_in_words(environment) for name, environment in self.look.environments.items()}
        return {**{name: words for name, words in told.items() if words}, **manifest_words(self.manifests)}

    @property
    def waits(self) -> tuple[Wait, ...]:
        """Why nothing moves, by model."""
        return tuple(a for actions in self.actions.values() for a in actions if isinstance(a, Wait))

    @property
    def moves(self) -> bool:
        """Would the next tick change anything?"""
        said_again = Wait | TellReviewers
        others = any(not isinstance(a, said_again) for actions in self.actions.values() for a in actions)
        return bool(others or self.changes or self.submits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tick:
    """What one attempt did."""

    at: datetime
    plan: Plan | None
    commit: str | None = None
    submitted: tuple[str, ...] = ()
    waits: tuple[Wait, ...] = ()
    problems: tuple[str, ...] = ()
    """What went wrong, in words; the next tick tries again."""
    remarks: tuple[str, ...] = ()
    """What was out of the ordinary, and nobody's trouble."""
    again_after: timedelta = _SOON


class Reconciler:
    """Carries every release of one config repo. Two of them on one repo are harmless."""

    def __init__(self, doors: Doors, clock: Clock, defaults: Mapping[str, str], trust: Trust | None = None) -> None:
        self._doors = doors
        self._clock = clock
        self._looker = Looker(doors, defaults, trust or Trust())
        self._vouched: str | None = None
        """Where the ref of what is vouched for was put last."""
        self._last: dict[str, Look] = {}
        """By environment: the last look that Git answered and whose tip was not refused, with what it led to in Git."""
        self._without_git_since: datetime | None = None

    def plan(self) -> Plan:
        """Look and decide.

        Raises Retry when Git is away, Conflict when somebody committed meanwhile, Stalled when the repo cannot be read.
        """
        look = self._looker.look(self._clock.now())
        now = self._clock.now()  # later than everything that was seen
        actions = {name: tuple(_decide(environment, now)) for name, environment in look.environments.items()}
        changes = _changes(look, actions)
        said = said_of(actions, changes)
        return Plan(look=look, actions=actions, changes=changes, message=said, manifests=_manifests(look, actions))

    def tick(self) -> Tick:
        """One attempt. Never raises for an outside that is away; what went wrong is in the tick."""
        plan: Plan | None = None
        try:
            plan = self.plan()
            commit = self._doors.repo.commit(plan.look.tip.commit, plan.changes, plan.message) if plan.changes else None
            self._last = self._remembered(_as_committed(plan))
        except Conflict as error:
            remark = f"somebody else committed first, so this look's decision is void and the next decides: {error}"
            return Tick(at=self._clock.now(), plan=plan, remarks=(remark,), again_after=_AT_ONCE)
        except SluiceError as error:
            return self._act_without_git(plan, error)
        self._without_git_since = None
        return self._act(plan, commit)

    def run(self, stop: Callable[[], bool], report: Callable[[Tick], None]) -> None:
        """Tick until `stop`; `report` gets every tick."""
        while not stop():
            tick = self.tick()
            report(tick)
            self._clock.wait(tick.again_after)

    # --- without Git ----------------------------------------------------------------------------------------------

    def _act_without_git(self, plan: Plan | None, error: SluiceError) -> Tick:
        """Nothing can be recorded. Hold what must not stay in traffic; all else waits."""
        now = self._clock.now()
        self._without_git_since = self._without_git_since or now
        if plan is not None:  # what is remembered of the same tip knows more: what has become live since
            same = {name: look for name, look in self._last.items() if look.tip.commit == plan.look.tip.commit}
            self._last = self._remembered(plan.look) | same
        problems = [f"nothing can be committed since {self._without_git_since:%H:%M:%S}: {error}"]
        if not self._last:
            problems.append("this process has not seen the config repo yet: it can stop nothing until it has")
        submitted = self._stop_without_git(self._last, now, problems)
        return Tick(
            at=now, plan=plan, submitted=tuple(submitted), problems=tuple(problems), again_after=_patience(error)
        )

    def _remembered(self, look: Look) -> dict[str, Look]:
        """What counts without Git after this look. A refused tip counts only where nothing better was ever seen.

        Even then it does no harm: only what Ray was told by it is held.
        """
        environments = look.environments.items()
        return {name: self._last.get(name, look) if seen.refused else look for name, seen in environments}

    def _stop_without_git(self, last: Mapping[str, Look], now: datetime, problems: list[str]) -> list[str]:
        """Hold what must not stay in traffic, by these looks; the environments of which something was submitted."""
        submitted = []
        for environment, actions in self._decided_without_git(last, now, problems):
            to_stop = tuple(stops(environment, actions, now))
            if to_stop and self._hold(environment, to_stop, problems):
                submitted.append(environment.name)
        return submitted

    def _decided_without_git(
        self, last: Mapping[str, Look], now: datetime, problems: list[str]
    ) -> Iterator[tuple[EnvironmentLook, tuple[Action, ...]]]:
        """What would be decided on the tips of these looks."""
        young = {name: look for name, look in last.items() if now - look.at <= LAST_TIP_COUNTS}
        problems += [
            f"{name}: the tip was seen last at {look.at:%Y-%m-%d %H:%M}: too long ago to stop anything by it"
            for name, look in last.items()
            if name not in young
        ]
        for name, environment in self._looker.look_without_git(young, now).items():
            actions = tuple(_decide(environment, now))
            self._last[name] = seen_to_be_live(young[name], environment, actions)
            yield environment, actions

    def _hold(self, environment: EnvironmentLook, stops: Sequence[Stop], problems: list[str]) -> bool:
        """Take these candidates out of traffic by Ray alone. Was anything submitted?"""
        if by := environment.applier.stops_only_by:
            problems += [
                f"{stop.subject} should stop, and {by}; until then it is out of traffic only where a host's guard has "
                f"stopped it: {'; '.join(stop.cause.reasons)}"
                for stop in stops
            ]
            return False
        runtime = self._doors.runtime(environment.document.ray)
        observed = runtime.observe()  # the look is older than what a second reconciler may have submitted
        possible = []
        for stop in stops:
            why = "; ".join(stop.cause.reasons)
            if reason := why_not(stop, observed):
                problems.append(f"{stop.subject} should stop, and cannot without a commit: {reason}; {why}")
            elif has_traffic(stop.release, stop.slug, observed):
                possible.append(stop)
                problems.append(f"{stop.subject} is taken out of traffic without a commit, and held: {why}")
            elif cause := held(stop.release, stop.slug, observed):
                said = "; ".join(cause.reasons)
                problems.append(f"{stop.subject} is held out of traffic; its rollback is still to be committed: {said}")
        try:
            if possible:
                runtime.apply(with_holds(possible, observed))
        except SluiceError as error:
            problems.append(f"{environment.name}: {error}")
            return False
        return bool(possible)

    # --- acting ---------------------------------------------------------------------------------------------------

    def _act(self, plan: Plan, commit: str | None) -> Tick:
        tip = commit or plan.look.tip.commit
        problems = [str(n) for n in plan.look.notes]
        remarks: list[str] = []
        submitted, busy = [], False
        written = self._commit_manifests(plan, tip, problems, remarks)
        tip = written or tip
        for name, environment in plan.look.environments.items():
            manifest = plan.manifests.get(name)
            if manifest and manifest.changed and not written:
                continue  # what stood in the way is said, and the next look writes it
            step = (
                self._committed(environment, manifest.step, tip)
                if manifest
                else self._converge(plan.look, environment, _after(environment, plan.actions[name]), tip)
            )
            match step:
                case Submit():
                    submitted.append(name)
                case Refused(reason):
                    problems.append(f"{name}: {reason}")
                case Waiting(reason) if manifest:
                    remarks.append(f"{name} waits: {reason}")
                case Waiting() | InPlace():
                    pass
                case str():
                    problems.append(f"{name}: {step}")
                case _:
                    assert_never(step)
            # What somebody else applies takes minutes: it is looked at as often as everything.
            busy = busy or not isinstance(step, (InPlace | Refused | Waiting) if manifest else (InPlace | Refused))
        refused = {name: self._last[name] for name, seen in plan.look.environments.items() if seen.refused}
        submitted += self._stop_without_git(refused, self._clock.now(), problems)
        for actions in plan.actions.values():
            problems += carry_out(self._doors, actions, plan.look, tip)
        problems += self._mark_vouched(plan.look.vouched)
        return Tick(
            at=self._clock.now(),
            plan=plan,
            commit=commit,
            submitted=tuple(submitted),
            waits=plan.waits,
            problems=tuple(problems),
            remarks=tuple(remarks),
            again_after=_pace(plan, busy=busy or commit is not None),
        )

    def _converge(
        self, look: Look, environment: EnvironmentLook, releases: Mapping[str, Release], tip: str
    ) -> Submit | InPlace | Waiting | Refused | str:
        """One step of Ray toward the tip; a text is what went wrong."""
        if environment.refused:
            return Refused(environment.refused)
        desired = _config(environment, releases, look)
        step = converge(desired, environment.runtime, expected_empty=not desired["applications"])
        try:
            if isinstance(step, Submit):
                if self._doors.repo.read().commit != tip:
                    return Waiting("the branch moved; the next look decides anew")
                runtime = self._doors.runtime(environment.document.ray)
                if holds(runtime.observe()) - holds(environment.runtime):
                    return Waiting("a reconciler without Git has stopped something; the next look records it")
                runtime.apply(step.config)
                _LOG.info("%s: submitted: %s", environment.name, step.reason)
            if not isinstance(step, Refused) and self._doors.repo.applied(environment.name) != tip:
                self._doors.repo.mark_applied(environment.name, tip)
        except SluiceError as error:
            return str(error)
        return step

    def _mark_vouched(self, commit: str | None) -> Iterator[str]:
        """Say in Git how far changes are vouched for; yields what went wrong."""
        if commit is None or commit == self._vouched:
            return
        try:
            self._doors.repo.mark_vouched(commit)
            self._vouched = commit
        except SluiceError as error:
            yield str(error)

    def _commit_manifests(self, plan: Plan, tip: str, problems: list[str], remarks: list[str]) -> str | None:
        """Write the next steps of KubeRay's manifests, in a commit of their own; none where there is none."""
        words, changes = manifest_words(plan.manifests), manifest_changes(plan.manifests)
        if not changes:
            return None
        try:
            return self._doors.repo.commit(tip, changes, manifest_message(words))
        except Conflict as error:
            remarks.append(f"somebody else committed first, so the next look writes rayservice.yaml: {error}")
        except SluiceError as error:
            problems.append(f"{', '.join(words)}: rayservice.yaml is not written: {error}")
        return None

    def _committed(self, environment: EnvironmentLook, step: Step, tip: str) -> Step | str:
        """Where KubeRay's manifest is on its way; a text is what went wrong."""
        try:
            if not isinstance(step, Refused) and self._doors.repo.applied(environment.name) != tip:
                self._doors.repo.mark_applied(environment.name, tip)
        except SluiceError as error:
            return str(error)
        return step


# --- deciding for an environment ---------------------------------------------------------------------------------


def _decide(environment: EnvironmentLook, now: datetime) -> Iterator[Action]:
    for model in environment.models.values():
        if environment.refused:
            release = model.release
            yield Wait(model=release.model, environment=release.environment, reason=environment.refused)
        else:
            yield from _decided(model, now)


def _decided(model: ModelLook, now: datetime) -> Sequence[Action]:
    """What is decided for one model. What cannot be computed with keeps this model waiting, and no other."""
    release = model.release
    try:
        return tuple(decide(release, model.observed, model.rules, now))
    except (ArithmeticError, ValueError) as error:
        _LOG.exception("%s (%s): cannot be decided", release.model, release.environment)
        reason = f"nothing can be decided, for a document or a record holds what cannot be computed with: {error}"
        return (Wait(model=release.model, environment=release.environment, reason=reason),)


def _after(environment: EnvironmentLook, actions: Iterable[Action]) -> dict[str, Release]:
    """The environment's releases as the actions leave them, by slug."""
    releases = {key: model.release for key, model in environment.models.items()}
    for action in actions:
        if isinstance(action, WriteRelease):
            releases[slug(action.release.model)] = action.release
        if isinstance(action, RemoveRelease):
            del releases[slug(action.release.model)]
    return releases


def _config(
    environment: EnvironmentLook, releases: Mapping[str, Release], look: Look, edge: EdgeDocument | None = None
) -> Config:
    """The environment's Serve config, or that of an edge that follows it."""
    return serve_config(look.documents, environment.name, releases, edge)


def _as_committed(plan: Plan) -> Look:
    """The look with the releases that its commit wrote: the tip, as far as it can be known without reading it again."""
    look = plan.look
    if not plan.changes:
        return look
    after = {name: _after(environment, plan.actions[name]) for name, environment in look.environments.items()}
    releases = {(name, key): release for name, each in after.items() for key, release in each.items()}
    serve = {name: _config(environment, after[name], look) for name, environment in look.environments.items()}
    return dataclasses.replace(look, documents=dataclasses.replace(look.documents, releases=releases, serve=serve))


# --- the commit --------------------------------------------------------------------------------------------------


def _changes(look: Look, actions: Mapping[str, tuple[Action, ...]]) -> dict[str, str | None]:
    """Every file that the actions change, the Serve configs included."""
    changes: dict[str, str | None] = {}
    for name, environment in look.environments.items():
        if environment.refused:
            continue
        changes.update(_edges_behind(look, environment, _after(environment, actions[name])))
        for action in actions[name]:
            changes.update(written(name, action))
        config = _config(environment, _after(environment, actions[name]), look)
        if config != environment.desired and (config["applications"] or environment.desired):
            changes[serve_path(name)] = serve_text(config)
    return {path: text for path, text in changes.items() if text is not None or path in look.tip.files}


def _edges_behind(
    look: Look, environment: EnvironmentLook, releases: Mapping[str, Release]
) -> Iterator[tuple[str, str]]:
    """The Serve configs of edges that do not serve yet what this environment has promoted, by path."""
    for name, edge in look.documents.sluice.edges.items():
        if edge.follows != environment.name:
            continue
        config, before = _config(environment, promoted(releases), look, edge), look.documents.serve.get(name) or {}
        if config["applications"] and not serves_the_same(config, before):
            yield serve_path(name), serve_text(config)


def _manifests(look: Look, actions: Mapping[str, tuple[Action, ...]]) -> dict[str, NextManifest]:
    """What becomes of KubeRay's manifests, by environment."""
    manifests = {}
    for name, environment in look.environments.items():
        if environment.refused:
            continue
        releases = _after(environment, actions[name])
        config = functools.partial(_config, environment, releases, look)
        manifest = environment.applier.next_manifest(config, environment.runtime, releases.values())
        if manifest is not None:
            manifests[name] = manifest
    return manifests


# --- Ray ---------------------------------------------------------------------------------------------------------


def _submit_in_words(environment: EnvironmentLook) -> str:
    """What the next tick would submit for the tip as it is; empty for nothing."""
    if environment.refused:
        return ""
    desired, runtime = environment.desired, environment.runtime
    return environment.applier.submits(desired, runtime, expected_empty=not _serving(environment))


def _serving(environment: EnvironmentLook) -> bool:
    return any(m.release.stable or m.release.candidate for m in environment.models.values())


def _patience(error: SluiceError) -> timedelta:
    return error.after if isinstance(error, Retry) else _STALLED


def _pace(plan: Plan, *, busy: bool) -> timedelta:
    """How long until the next look: soon while something is on its way, else the shortest interval there is."""
    environments = plan.look.environments.values()
    shortest = max(_SOON, min((e.document.look_interval for e in environments), default=_STALLED))
    warming = any(m.release.phase in _ON_THE_WAY for e in environments for m in e.models.values())
    return min(shortest, _SOON) if busy or warming else shortest
