"""Does a change of a config repo keep the repo's rules: from the repo before and after it to findings.

Rules:
- The rules that were in force before the change judge it. Where there were none, those that it brings do.
- What the change itself makes wrong fails. What was as wrong before only warns, and only where its file changes: a rule
  that comes later stops nobody's other work.
- Nobody approves a change of their own; names count without regard to upper and lower case, as forges take them.
- A finding says the line that mends it, and never repeats a text that may be a secret.

This module must not read files, ask a forge or read a clock: who approved, what changed and when it is are arguments.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum

from policies.application import Settings
from policies.config_repo_documents import BUILT_IN, ConfigRepo
from policies.documents import Autoscaling, RolloutPolicy
from policies.durations import format_duration
from policies.layout import RULES, SLUICE, Place, ensemble_path, locate, model_path
from policies.loosening import loosened
from policies.notes import Note, Severity
from policies.repo_rules import RepoRules
from policies.secret_values import assigns_secret, has_secret_shape, is_random, is_secret, long_tokens, named_value
from policies.strict_yaml import Path

_DOCUMENTS = (SLUICE, "models/", "ensembles/", "policies/")
_OURS = frozenset({Place.RELEASE, Place.SERVE, Place.RAY_SERVICE, Place.RECORD, Place.HISTORY})
_MOST_SUSPECTED = 5
"""Lines of one file that only look random: most of them are digests, and a list of those hides what fails."""
_MOST_SECRETS = 20
"""Lines of one file with a secret: a pasted dump has thousands, and the first say it. What is left out is counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """A change that somebody wants to make."""

    before: ConfigRepo | None
    """None where it could not be read."""
    after: ConfigRepo | None
    changed: tuple[str, ...]
    """Paths of the files that differ, added and removed ones included."""
    new_lines: Mapping[str, tuple[tuple[int, str], ...]]
    """By path, the lines that were not in the file before, with their numbers from 1."""
    author: str
    """Who proposes it, by the name at the forge; empty where nobody said so."""
    approvers: frozenset[str]
    """Who approved it as it stands."""
    now: datetime

    def approved_by(self, people: Collection[str]) -> bool:
        """Did one of them approve who is not its author?"""
        others = {name.casefold() for name in self.approvers} - {self.author.casefold()}
        return any(name.casefold() in others for name in people)

    def whom_to_ask(self, people: Collection[str]) -> str:
        """What to do for an approval of one of them: nobody approves what they propose."""
        others = [name for name in people if name.casefold() != self.author.casefold()]
        if others:
            return f"ask {_one_of(others)} for an approval"
        return f"let somebody else propose it: {self.author} is the only one who may approve it, and proposed it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One rule that a change breaks, or that it is odd by."""

    rule: str
    """By its field in `policies/rules.yaml`, or a word of its own."""
    note: Note
    """An error fails the review."""
    mend: str = ""
    """What to write, or whom to ask."""


def judge_change(proposal: Proposal, rules: RepoRules) -> tuple[Finding, ...]:
    """Everything that the change does against the rules, failures first, then by file and line."""
    found = {finding for check in CHECKS for finding in check(proposal, rules)}
    return tuple(
        sorted(
            found, key=lambda f: (f.note.severity, f.note.file, f.note.line or 0, f.note.field, f.rule, f.note.message)
        )
    )


def unchecked(proposal: Proposal, rules: RepoRules) -> tuple[str, ...]:
    """The rules in force that nobody could check, by their fields: they ask what documents say that cannot be read."""
    asked = {
        "max_replicas": rules.max_replicas is not None,
        "max_gpus": rules.max_gpus is not None,
        "min_canary": rules.min_canary is not None,
        "require_owners": rules.require_owners,
    }
    names = [name for name, is_asked in asked.items() if is_asked and proposal.after is None]
    return (*names, *(["slo_approvers"] if proposal.before is None or proposal.after is None else []))


# --- ceilings -------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """Something with replicas, and where its document says so."""

    section: str
    key: str
    below: Path
    autoscaling: Autoscaling
    settings: Settings | None

    @property
    def gpus(self) -> float:
        """GPUs of all its replicas."""
        if self.settings is None:
            return 0.0
        placement = self.settings.placement
        each = sum(b.get("GPU", 0.0) for b in placement.bundles) if placement else self.settings.gpus
        return each * self.autoscaling.max_replicas


def _scaled(repo: ConfigRepo | None) -> Iterator[_Scaled]:
    if repo is None:
        return
    for key, model in repo.models.items():
        yield _Scaled("models", key, (), model.autoscaling, model.settings)
    for key, ensemble in repo.ensembles.items():
        yield _Scaled("ensembles", key, (), ensemble.autoscaling, ensemble.settings)
    for key, environment in repo.sluice.environments.items():
        if environment.grpc.enabled:
            yield _Scaled("sluice", "", ("environments", key, "grpc"), environment.grpc.autoscaling, None)


def _replicas(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    if rules.max_replicas is None or proposal.after is None:
        return
    before = {(s.section, s.key, s.below): s.autoscaling.max_replicas for s in _scaled(proposal.before)}
    for scaled in _scaled(proposal.after):
        now, path = scaled.autoscaling.max_replicas, (*scaled.below, "autoscaling", "max_replicas")
        if now > rules.max_replicas:
            message = f"{now} replicas are more than the {rules.max_replicas} that the rules allow"
            note = proposal.after.note(scaled.section, scaled.key, path, message)
            was = before.get((scaled.section, scaled.key, scaled.below))
            mend = f"autoscaling.max_replicas: {rules.max_replicas}"
            yield from _weighed("max_replicas", note, mend, proposal, as_before=was is not None and now <= was)


def _gpus(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    if rules.max_gpus is None or proposal.after is None:
        return
    before = {(s.section, s.key): s.gpus for s in _scaled(proposal.before)}
    for scaled in _scaled(proposal.after):
        if scaled.gpus > rules.max_gpus and scaled.settings is not None:
            most = scaled.autoscaling.max_replicas
            message = (
                f"{scaled.gpus:g} GPUs, of {most} replicas at most, are more than the {rules.max_gpus:g} that the "
                "rules allow"
            )
            field = "placement" if scaled.settings.placement else "gpus"
            note = proposal.after.note(scaled.section, scaled.key, ("settings", field), message)
            fit = math.floor(rules.max_gpus / (scaled.gpus / most))
            mend = f"autoscaling.max_replicas: {fit}" if fit >= 1 else f"settings.gpus: {rules.max_gpus:g} at most"
            was = before.get((scaled.section, scaled.key))
            yield from _weighed("max_gpus", note, mend, proposal, as_before=was is not None and scaled.gpus <= was)


def _weighed(rule: str, note: Note, mend: str, proposal: Proposal, *, as_before: bool) -> Iterator[Finding]:
    """A failure where the change makes it so; else a warning, where it touches the file."""
    if not as_before:
        yield Finding(rule=rule, note=note, mend=mend)
    elif note.file in proposal.changed:
        words = f"{note.message}, as before this change"
        yield Finding(rule=rule, note=dataclasses.replace(note, severity=Severity.WARNING, message=words), mend=mend)


# --- rollouts and SLOs ----------------------------------------------------------------------------------------


def canary_time(policy: RolloutPolicy) -> timedelta:
    """How long a candidate has less than 100 % of the requests at the soonest; shadow is no traffic."""
    return len(policy.steps) * policy.step.min_duration


def _canary(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    after, least = proposal.after, rules.min_canary
    if least is None or after is None:
        return
    for key, model in after.models.items():
        policy = after.policies[model.rollout]
        now = canary_time(policy)
        if now >= least:
            continue
        message = (
            f"the canary of policy {policy.name} lasts {format_duration(now)} at the soonest, and the rules want "
            f"{format_duration(least)}"
        )
        yield from _weighed(
            "min_canary",
            _at_policy(proposal, after, key, policy.name, message),
            _longer(policy, least),
            proposal,
            as_before=_was_as_short(proposal.before, key, now),
        )


def _was_as_short(before: ConfigRepo | None, key: str, now: timedelta) -> bool:
    model = before.models.get(key) if before else None
    return before is not None and model is not None and canary_time(before.policies[model.rollout]) <= now


def _at_policy(proposal: Proposal, after: ConfigRepo, key: str, policy: str, message: str) -> Note:
    """At the policy where its file changes, else at the model that names it."""
    file = after.sources[("policies", policy)][0]
    if file in proposal.changed:
        field: Path = ("step", "min_duration") if after.policies[policy].steps else ("steps",)
        return after.note("policies", policy, field, message)
    return after.note("models", key, ("rollout",), message)


def _longer(policy: RolloutPolicy, least: timedelta) -> str:
    if not policy.steps:
        return f"steps: [10, 50] and step.min_duration: {format_duration(_whole(least / 2))}"
    return f"step.min_duration: {format_duration(_whole(least / len(policy.steps)))}"


def _whole(duration: timedelta) -> timedelta:
    return timedelta(seconds=math.ceil(duration.total_seconds()))


def _slos(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    before, after = proposal.before, proposal.after
    if before is None or after is None:
        return
    approved = proposal.approved_by(rules.slo_approvers)
    for looser in loosened(before, after):
        section, key, path = looser.at
        if section == "slos" and after.sources[(section, key)][0].startswith(BUILT_IN):
            section, key, path = "models", looser.model, ("slos",)
        needed = bool(rules.slo_approvers) and not approved
        why = "approved" if approved else "nobody needs to approve it (slo_approvers)"
        note = after.note(
            section,
            key,
            path,
            looser.words if needed else f"{looser.words}; {why}",
            Severity.ERROR if needed else Severity.WARNING,
        )
        mend = f"{looser.mend}, or ask {_one_of(rules.slo_approvers)} for an approval" if needed else looser.mend
        yield Finding(rule="slo_approvers", note=note, mend=mend)


# --- people and times -----------------------------------------------------------------------------------------


def _owned(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    for path in proposal.changed:
        for entry in rules.owners:
            if entry.own(path) and not proposal.approved_by(entry.owners):
                note = _about(path, f"a change of it needs an approval of {_one_of(entry.owners)}")
                yield Finding(rule="owners", note=note, mend=proposal.whom_to_ask(entry.owners))


def _everything_owned(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    if not rules.require_owners or proposal.after is None:
        return
    owned = proposal.after.rules.owners if proposal.after.rules else ()
    paths = {"models": model_path, "ensembles": ensemble_path}
    for section, path_of in paths.items():
        for key in getattr(proposal.after, section):
            path = path_of(key)
            if not any(entry.own(path) for entry in owned):
                there = proposal.before is not None and key in getattr(proposal.before, section)
                was = there and not any(entry.own(path) for entry in rules.owners)
                mend = f"add it to owners in {RULES}"
                note = _about(path, "nobody owns it, and the rules want an owner for each")
                yield from _weighed("require_owners", note, mend, proposal, as_before=was)


def _rules_kept(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    """Who changes the rules changes what is asked of the next change."""
    if RULES in proposal.changed and not any(entry.own(RULES) for entry in rules.owners):
        note = _about(RULES, "the rules themselves change, and nobody needs to approve that", Severity.WARNING)
        yield Finding(rule="owners", note=note, mend=f"give {RULES} an entry in owners")


def _frozen(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    touched = [path for path in proposal.changed if path.startswith(_DOCUMENTS)]
    for window in rules.frozen:
        if touched and window.holds(proposal.now):
            end = f" until {window.until:%Y-%m-%d %H:%M} UTC" if window.until else f" on {', '.join(window.days)}"
            said = f"documents do not change{end}: {window.why}"
            let = proposal.approved_by(window.unless)
            note = _about(touched[0], f"{said}; approved all the same" if let else said)
            who = f", or ask {_one_of(window.unless)} for an approval" if window.unless else ""
            if let:
                note = dataclasses.replace(note, severity=Severity.WARNING)
            yield Finding(rule="frozen", note=note, mend="" if let else f"wait for its end{who}")


def _ours(proposal: Proposal, _rules: RepoRules) -> Iterator[Finding]:
    """What a person's commit to a release means is said where it is judged (docs/adr/0004)."""
    by_us = [path for path in proposal.changed if (at := locate(path)) is not None and at.place in _OURS]
    for path in by_us[:1]:
        more = f" (and {len(by_us) - 1} more such files)" if len(by_us) > 1 else ""
        message = f"Sluicegate writes this file, and takes a person's change of it for a wish{more}"
        note = _about(path, message, Severity.WARNING)
        yield Finding(rule="written by Sluicegate", note=note, mend="use `sluice`, or revert a commit")


def _one_of(people: Collection[str]) -> str:
    return f"one of {', '.join(people)}" if len(people) > 1 else "".join(people)


def _about(path: str, message: str, severity: Severity = Severity.ERROR) -> Note:
    return Note(severity=severity, file=path, line=None, field="", message=message)


# --- secrets --------------------------------------------------------------------------------------------------


def _secrets(proposal: Proposal, rules: RepoRules) -> Iterator[Finding]:
    """In every new line of every file, comments included: what was pushed once is read by many."""
    suspected = Severity.ERROR if rules.random_text == "fail" else Severity.WARNING
    for path, lines in proposal.new_lines.items():
        found: dict[_Look, list[int]] = {}
        for number, line in lines:
            look = _look_of(line, named=path.endswith(_WITH_NAMES))
            if look is not None:
                found.setdefault(look, []).append(number)
        certain = sorted((n, look) for look, numbers in found.items() if look is not _Look.RANDOM for n in numbers)
        random = [(n, _Look.RANDOM) for n in found.get(_Look.RANDOM, ())]
        yield from _listed(path, certain, _MOST_SECRETS, Severity.ERROR)
        yield from _listed(path, random, _MOST_SUSPECTED, suspected)


def _listed(path: str, found: Sequence[tuple[int, _Look]], most: int, severity: Severity) -> Iterator[Finding]:
    """The first of these lines, and how many are left out: what fails and what is suspected never share a limit."""
    mend = "take it out, make the secret worthless, and give it to the nodes in their environment"
    said = [(number, look.value) for number, look in found[:most]]
    if len(found) > most:
        left = len(found) - most
        words = "line of this file looks" if left == 1 else "lines of this file look"
        said.append((found[most][0], f"from here on {left:,} more {words} like that, and not each is listed"))
    for number, message in said:
        note = Note(severity=severity, file=path, line=number, field="", message=message)
        yield Finding(rule="secrets", note=note, mend=mend if severity is Severity.ERROR else "")


class _Look(StrEnum):
    """Why a line is suspected."""

    SHAPE = "has the shape of a key, a token or a password: it is not repeated here"
    NAME = "by its name it is a secret: it is not repeated here"
    RANDOM = "looks random, as a secret would: if it is one, it does not belong here"


_WITH_NAMES = (".yaml", ".yml", ".json", ".toml", ".ini", ".cfg", ".env", ".properties", ".sh")
"""Files in which `password: x` is a value with its name, and no sentence about passwords."""


def _look_of(line: str, *, named: bool) -> _Look | None:
    name, value = named_value(line) if named else ("", "")
    if has_secret_shape(line):
        return _Look.SHAPE
    if (name and is_secret(name, value)) or assigns_secret(line):
        return _Look.NAME
    return _Look.RANDOM if any(is_random(token) for token in long_tokens(line)) else None


CHECKS: tuple[Callable[[Proposal, RepoRules], Iterator[Finding]], ...] = (
    _replicas,
    _gpus,
    _canary,
    _slos,
    _owned,
    _everything_owned,
    _rules_kept,
    _frozen,
    _ours,
    _secrets,
)
