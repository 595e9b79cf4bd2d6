"""What the registry is told: tags, and its trigger after a rollback or a person's wish. Pure."""

from __future__ import annotations

from policies.actions import Action, Annotate, Restore
from policies.facts import Observed, Rules, candidate_of, rollout_of
from policies.noticing import restores
from policies.promotion import InReview, at_trigger, may_enter, tags_wanted
from policies.pull_requests import PullRequestState
from policies.release import Phase, Release


def tell(release: Release, observed: Observed, rules: Rules) -> tuple[Action, ...]:
    """What the registry should show by now and does not: tags, and its trigger after a rollback or a person's wish."""
    if observed.versions is None:
        return ()
    differing = tags_wanted(release, observed.versions, _in_review(release, observed))
    tags = tuple(
        Annotate(model=release.model, environment=release.environment, version=n, tags=said)
        for n, said in sorted(differing.items())
    )
    present = at_trigger(rules.trigger, observed.versions)
    move = _back(release, observed, rules, present) or _forward(release, observed, rules, present)
    return (*tags, move) if move else tags


def _in_review(release: Release, observed: Observed) -> InReview | None:
    """The version that people are asked about, and where."""
    look = observed.consent
    if release.phase is not Phase.STEADY or look is None or look.consent is None or look.pull is None:
        return None
    if look.pull.state is not PullRequestState.OPEN:
        return None
    return InReview(version=look.consent.version, url=look.pull.url)


def _back(release: Release, observed: Observed, rules: Rules, present: frozenset[int]) -> Restore | None:
    """After a rollback the trigger goes back to stable, where stable may return."""
    if release.phase is not Phase.ROLLING_BACK or not restores(release, rules):
        return None
    candidate, stable = candidate_of(release).version, release.stable.version if release.stable else None
    if candidate not in present:
        return None
    versions = observed.versions or {}
    returns = stable if stable is not None and may_enter(stable, rules.trigger, versions) else None
    return Restore(model=release.model, environment=release.environment, candidate=candidate, stable=returns)


def _forward(release: Release, observed: Observed, rules: Rules, present: frozenset[int]) -> Restore | None:
    """At 100 % the trigger follows a rollout that a person asked for, or registry and Git would not agree.

    Only from stable to the candidate, and only while the candidate is not there: a person who moves either of them
    since is not fought. The candidate is known at the trigger from then on, so who takes it out aborts.
    """
    asked = release.phase is Phase.SETTLING and rollout_of(release).asked_by and rules.on_rollback == "restore"
    if not asked or release.stable is None:
        return None
    candidate, stable = candidate_of(release).version, release.stable.version
    gone = stable not in present or candidate in present
    if gone or not may_enter(candidate, rules.trigger, observed.versions or {}):
        return None
    return Restore(model=release.model, environment=release.environment, candidate=stable, stable=candidate)
