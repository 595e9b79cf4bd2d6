"""Consent: which steps of a rollout people must agree to, and what follows from what they did with the pull request.

Rules:
- Asked is what gives a candidate more: that a rollout starts and, with `review: every_step`, each PASS that leads on.
  What goes back is never asked: a rollback, an abort, an undo. A person's wish to go on (`sluice promote`) is consent.
- Given is what lies on the branch, word for word as it was asked, out of a merged pull request whose head has the
  approvals asked for. An approval of another commit, one of the author's own or one that the forge does not count is
  none.
- What was agreed to is used once: the commit that carries it out takes the document away. A pull request whose document
  was used, or taken away by a revert, is an old one, and people are asked anew; so is one whose document a revert of
  that commit brings back.
- Closed by a person: the version is refused, and asked about again only after it entered anew or by `sluice retry`. A
  step that is refused does not happen; the rollout stays where it is, judged as ever.
- Closed by us says so in its text, so that it is never taken for a person's no.
- A forge that is away keeps waiting what must be asked, and nothing else.

Nothing is remembered: the same Git and the same forge give the same answer to whoever looks. This module must not talk
to either.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from policies.actions import Action, AskConsent, TellReviewers, UseConsent, WithdrawConsent
from policies.application import Application
from policies.commit_message import one_line
from policies.consent import STABLE, Consent, ConsentLook, branches_of
from policies.consent_words import WITHDRAWN, body, title, withdrawn
from policies.facts import Idle, Noticed, Observed, Rules, Signal, Start, candidate_of, rollout_of
from policies.promotion import Wanted, at_trigger, movement, wanted
from policies.pull_requests import Approval, PullRequest, PullRequestState, fresh, stale
from policies.release import Phase, Purpose, Refused, Release, Wish
from policies.starting import what_starts

_STEPS = frozenset({Signal.PASSED, Signal.PASSED_LAST, Signal.SETTLED})
_USES = _STEPS | {Signal.STARTED, Signal.ENDED, Signal.STOPPED, Signal.SKIPPED, Signal.SKIPPED_LAST}
"""Signals after which a consent that lies at the tip is an old one."""
_STEPPED = frozenset({Phase.SHADOW, Phase.CANARY, Phase.SETTLING})
_REASON = 1000
"""Characters of a reason: a forge's or a Git server's own words may be in it."""

# --- what is asked --------------------------------------------------------------------------------------------


def foreseen(release: Release, observed: Observed, rules: Rules) -> Consent | None:
    """What people are or would be asked about next, as far as it can be told before the evidence is read."""
    if rules.review == "none" or rules.settings is None:
        return None
    if release.phase is Phase.STEADY:
        start = what_starts(release, observed, rules)
        return _of_start(release, start) if isinstance(start, Start) else None
    return _of_step(release, rules) if release.phase in _STEPPED else None


def _asked(release: Release, noticed: Noticed, rules: Rules) -> Consent | None:
    """What this signal needs people's consent for; none where it needs none."""
    if rules.review == "none":
        return None
    if noticed.start is not None:
        return _of_start(release, noticed.start)
    return _of_step(release, rules) if noticed.signal in _STEPS else None


def _of_start(release: Release, start: Start) -> Consent | None:
    return None if start.purpose is Purpose.UNDO else _consent(release, start.candidate)


def _of_step(release: Release, rules: Rules) -> Consent | None:
    rollout = rollout_of(release)
    if rules.review != "every_step" or rollout.purpose is not None:
        return None
    higher = (str(share) for share in rules.policy.steps if share > release.weight_percent)
    to = STABLE if release.phase is Phase.SETTLING else next(higher, "100")
    return dataclasses.replace(_consent(release, candidate_of(release)), to=to, rollout=rollout.id)


def _consent(release: Release, candidate: Application) -> Consent:
    return Consent(
        model=release.model,
        environment=release.environment,
        version=candidate.version,
        digest=candidate.digest,
        build=candidate.build,
    )


# --- what is asked no more ------------------------------------------------------------------------------------


def outdated(release: Release, observed: Observed, rules: Rules, branches: Collection[str]) -> Mapping[str, str]:
    """Which of this model's branches ask what nobody needs to answer any more, each with the reason in words."""
    consent = foreseen(release, observed, rules)
    others = [branch for branch in branches if consent is None or branch != consent.branch]
    return {branch: why for branch in others if (why := _why_outdated(release, observed, rules, branch))}


def _why_outdated(release: Release, observed: Observed, rules: Rules, branch: str) -> str:
    """Empty where it cannot be told, or may be asked again soon: the registry is away, Ray is not in place."""
    if rules.settings is None:
        return "the model's document was removed"
    if rules.review == "none":
        return "nobody is asked any more: review is none"
    name = branch.removeprefix(branches_of(release.environment, release.model))
    if release.phase is not Phase.STEADY:
        rollout = rollout_of(release)
        waits = release.phase is Phase.PAUSED and name.startswith(f"{rollout.id}-to-")
        return "" if waits else f"the rollout {rollout.id} is in {release.phase}"
    if observed.versions is None:
        return ""
    start = what_starts(release, observed, rules)
    if isinstance(start, Start):
        other = " with other settings" if name.startswith(f"v{start.candidate.version}-") else ""
        return f"superseded: v{start.candidate.version}{other} is what is wanted now"
    if isinstance(start, Refused):
        return start.reason
    version = _waiting(release, observed, rules)
    if version == 0 or name.startswith(f"v{version}-"):
        return ""
    return f"superseded: v{version} is what is wanted now" if version else f"it is wanted no longer: {start.reason}"


def _waiting(release: Release, observed: Observed, rules: Rules) -> int | None:
    """The version that is wanted and cannot start yet; 0 where nobody can say; none where none is."""
    if release.ask and release.ask.wish in (Wish.UNDO, Wish.RETRY):
        return release.ask.version or 0
    present = at_trigger(rules.trigger, observed.versions or {})
    if movement(release, present).tie or rules.settings is None:
        return 0
    want = wanted(release, rules.trigger, present, rules.settings)
    return want.version if isinstance(want, Wanted) else None


# --- what follows from the answer -----------------------------------------------------------------------------

Outcome = Noticed | Idle | Refused


def consented(
    release: Release, noticed: Outcome, observed: Observed, rules: Rules
) -> tuple[Outcome, tuple[Action, ...]]:
    """What was noticed, if it needs no consent or has it; else why it waits, or that it is refused. And what to do."""
    tidied = tuple(_withdrawals(release, observed.consent))
    use = UseConsent(model=release.model, environment=release.environment)
    brought_back = observed.taken_back_from is not None and observed.consent_given is not None
    if brought_back:  # a revert of the commit that used it
        observed, tidied = dataclasses.replace(observed, consent_given=None), (*tidied, use)
    if not isinstance(noticed, Noticed):
        return noticed, tidied
    consent = _asked(release, noticed, rules)
    if consent is not None:
        outcome, actions = _answered(_Question(consent, release, noticed, observed, rules))
        if not isinstance(outcome, Noticed):
            return outcome, (*tidied, *actions)
        noticed = outcome
    used = observed.consent_given is not None and noticed.signal in _USES
    return noticed, (*tidied, use) if used else tidied


@dataclasses.dataclass(frozen=True)
class _Question:
    """A consent that something waits for."""

    consent: Consent
    release: Release
    noticed: Noticed
    observed: Observed
    rules: Rules

    def wait(self, why: str, ends: str) -> Idle:
        return Idle(reason=one_line(f"{self.consent.what}; {why}", _REASON), ends=ends)

    def tell(self, pull: PullRequest, words: str) -> tuple[Action, ...]:
        """Say it below the pull request, too."""
        where = {"model": self.release.model, "environment": self.release.environment}
        return (TellReviewers(**where, number=pull.number, words=one_line(words, _REASON)),)

    def ask(self, look: ConsentLook, *, push: bool) -> AskConsent:
        consent = self.consent
        return AskConsent(
            model=consent.model,
            environment=consent.environment,
            branch=consent.branch,
            path=consent.path,
            text=consent.text,
            title=title(consent, self.release),
            body=body(consent, self.release, self.noticed, self.observed, self.rules),
            push=push,
            replaces=look.head,
        )


def _answered(question: _Question) -> tuple[Outcome, tuple[Action, ...]]:
    look, consent = question.observed.consent, question.consent
    if look is None or look.consent != consent:
        return question.wait("its review was not looked at yet", "the next look"), ()
    if look.reason:
        return question.wait(f"its review cannot be read: {look.reason}", "the forge answers"), ()
    if question.observed.consent_given == consent.text:
        return _on_the_branch(question, look)
    pull = look.pull
    if pull is None or _is_old(pull, look, question.release):
        return _ask_anew(question, look)
    if pull.state is PullRequestState.OPEN:
        return _open(question, look, pull)
    if pull.state is PullRequestState.MERGED:
        return question.wait(f"{_named(pull)} is merged, and Git does not show it yet", "Git shows it"), ()
    return _closed(question, pull), ()


def _is_old(pull: PullRequest, look: ConsentLook, release: Release) -> bool:
    """Is what became of it no answer to what is asked now?"""
    if pull.state is PullRequestState.MERGED:
        return look.arrived
    answered = {refused.pull_request for refused in release.refused}
    return pull.state is PullRequestState.CLOSED and (WITHDRAWN in pull.body or pull.number in answered)


def _ask_anew(question: _Question, look: ConsentLook) -> tuple[Outcome, tuple[Action, ...]]:
    there = look.pull is None and look.head_text == question.consent.text  # it was pushed, and nothing more
    why = f"people are asked by a pull request from {question.consent.branch}"
    if look.pull and look.pull.state is PullRequestState.MERGED and question.observed.consent_given is not None:
        why = f"what {_named(look.pull)} brought is not what was asked: {why}"
    return question.wait(why, _ends(question)), (question.ask(look, push=not there),)


def _ends(question: _Question) -> str:
    no = f"closed: v{question.consent.version} is refused then" if not question.consent.rollout else "`sluice abort`"
    return f"it is approved and merged, or {no}"


def _open(question: _Question, look: ConsentLook, pull: PullRequest) -> tuple[Outcome, tuple[Action, ...]]:
    ask, consent = question.ask(look, push=False), question.consent
    written: tuple[Action, ...] = () if _says(pull, ask) else (ask,)
    if look.head_text != consent.text:
        words = (
            f"somebody changed the branch: at {(look.head or 'no commit')[:8]} {consent.path} is not what was asked. "
            f"{consent.what.capitalize()} only as it was asked: take the change back, or close the pull request"
        )
        ends = "its branch says again what was asked, or it is closed"
        return question.wait(f"{_named(pull)}: {words}", ends), (*written, *question.tell(pull, words))
    counting, needed = _counting(look, pull), question.rules.review_approvals
    if len(counting) >= needed:
        by = f" (approved by {_people(counting)})" if counting else ""
        return question.wait(f"{_named(pull)} may be merged{by}", _ends(question)), written
    why = _lacking(look, pull, counting, needed)
    return question.wait(f"{_named(pull)} {why}", _ends(question)), written


def _says(pull: PullRequest, ask: AskConsent) -> bool:
    return (pull.title, pull.body.replace("\r\n", "\n").rstrip()) == (ask.title, ask.body.rstrip())


def _on_the_branch(question: _Question, look: ConsentLook) -> tuple[Outcome, tuple[Action, ...]]:
    """It lies at the tip: does a merged pull request with its approvals stand behind it?"""
    pull, consent = look.pull, question.consent
    if pull is None or pull.state is not PullRequestState.MERGED:
        seen = f"{_named(pull)} is {pull.state}" if pull else f"there is no pull request from {consent.branch}"
        why = f"{consent.path} is on the branch, and {seen}: it does not count before a merge"
        return question.wait(why, "the pull request is merged, or the file is taken away"), ()
    counting, needed = _counting(look, pull), question.rules.review_approvals
    if len(counting) < needed:
        words = f"was merged at {pull.head[:8]} and {_lacking(look, pull, counting, needed)}"
        ends = "that commit is approved, or the merge is reverted: then people are asked anew"
        told = f"This {words}. Nothing was started by it. It ends when {ends}."
        return question.wait(f"{_named(pull)} {words}", ends), question.tell(pull, told)
    by = f", approved by {_people(counting)}" if counting else ""
    why = one_line(f"{_named(pull)} was merged{by}", _REASON)
    noticed = question.noticed
    reasons = (*noticed.reasons, why)
    start = noticed.start and dataclasses.replace(noticed.start, reasons=(*noticed.start.reasons, why))
    return dataclasses.replace(noticed, reasons=reasons, start=start, agreed=True), ()


def _closed(question: _Question, pull: PullRequest) -> Outcome:
    consent, release = question.consent, question.release
    if consent.rollout:
        ends = "it is opened again, or by `sluice promote` or `sluice abort`"
        return question.wait(f"{_named(pull)} was closed: the rollout stays where it is", ends)
    if release.stable and release.stable.version == consent.version:
        ends = "it is opened again, or the document asks for other settings"
        return question.wait(f"{_named(pull)}, which asks about its new settings, was closed", ends)
    reason = one_line(f"v{consent.version} was not agreed to: {_named(pull)} was closed", _REASON)
    return Refused(version=consent.version, reason=reason, pull_request=pull.number)


def _counting(look: ConsentLook, pull: PullRequest) -> tuple[Approval, ...]:
    """Approvals of the head, by others than who opened it."""
    return tuple(each for each in fresh(look.approvals, pull.head) if each.by != pull.author)


def _lacking(look: ConsentLook, pull: PullRequest, counting: Collection[Approval], needed: int) -> str:
    lacks = f"has {len(counting)} of {needed} approvals" if counting or needed > 1 else "has no approval"
    late = [
        f"{a.by} approved {a.commit[:8]}, another commit" if a.commit else f"{a.by} approved a commit of no known name"
        for a in stale(look.approvals, pull.head)
    ]
    said = f": {'; '.join(late)}, so that is stale" if late else ""
    return f"{lacks} of its head {pull.head[:8]}{said}"


def _people(approvals: Collection[Approval]) -> str:
    return ", ".join(sorted(each.by for each in approvals))


def _named(pull: PullRequest) -> str:
    return f"pull request {pull.number} ({pull.url})"


def _withdrawals(release: Release, look: ConsentLook | None) -> list[Action]:
    if look is None or look.reason:
        return []
    return [
        WithdrawConsent(
            model=release.model,
            environment=release.environment,
            branch=branch,
            head=old.head,
            number=old.pull.number if old.pull and old.pull.state is PullRequestState.OPEN else None,
            title=old.pull.title if old.pull else "",
            body=withdrawn(old.pull.body, old.why) if old.pull else "",
            words=old.why,
        )
        for branch, old in sorted(look.outdated.items())
    ]
