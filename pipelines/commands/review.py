"""`sluice review`: what a change of the config repo is, before it is merged.

Five questions: is every document right (lint), does the change keep the repo's rules, what differs in the Serve config
and what that does to what serves, and what a changed policy or SLO would have decided about the last rollouts.

Rules:
- Both commits are read from Git's objects (`registry_bridge/local_repo.py`); nothing of a stranger's is opened on disk.
- The change is everything since the commit that both have: what others merged meanwhile is not this change's doing.
- Rollouts that are judged again are those of before the change: nobody brings his own evidence.
- What could not be looked at is said, and no answer is made up for it.

This module must not print, write a file or ask a forge.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from datetime import datetime

from pipelines.commands.commit_documents import DOCUMENTS, HISTORY, Side, is_bearable, new_lines, side
from pipelines.commands.impact import Ask, capacity_of, remarks
from pipelines.serve_configs import Config, meant, rolled_out, standing
from policies.change_rules import Finding, Proposal, judge_change, unchecked
from policies.config_repo_documents import ConfigRepo
from policies.document_reading import read_document
from policies.errors import BadInput, Stalled
from policies.impact import Impact, impact
from policies.layout import RULES, Place, locate
from policies.notes import Note, Severity, errors
from policies.past_rollout import finished
from policies.rejudging import Rejudged, concerned, judged_again
from policies.repo_rules import RepoRules
from policies.stored_documents import parse_history
from registry_bridge.local_repo import Differing, LocalRepo
from registry_bridge.repo_files import Entry

MOST_ROLLOUTS = 5
"""Rollouts judged again for one model in one environment: the newest say how things are."""
MOST_REPLAYS = 40
"""Of all models: a replay takes up to a second, and a table of more is read by nobody."""
MOST_CHANGED = 5_000
MOST_CHANGED_BYTES = 16 * 1024 * 1024
"""Files and bytes of documents that a change may touch. A stranger's YAML takes 3 s for a megabyte to read; a change of
every document of a thousand models has 2,000 files with 3 MB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvironmentChange:
    """What differs in one environment's Serve config."""

    name: str
    before: Config
    after: Config
    """Once everything that the change starts has gone well."""
    at_once: Impact
    """What the next commit does."""
    in_the_end: Impact | None
    """What the rollouts do that follow: settings that changed are rolled out like a new version. None: none follow."""
    rolled_out: tuple[str, ...]
    """The models of these rollouts, by slug."""
    remarks: tuple[str, ...] = ()
    """What the Serve config does not show."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Review:
    """Everything that is said about one change."""

    base: str
    """The commit that the change began from."""
    head: str
    changed: tuple[str, ...]
    lint: tuple[Note, ...]
    findings: tuple[Finding, ...]
    environments: tuple[EnvironmentChange, ...]
    rejudged: tuple[Rejudged, ...]
    unsaid: tuple[str, ...]
    """What could not be looked at, and why."""

    @property
    def failures(self) -> int:
        """Why it must not be merged as it is, counted."""
        return len(errors(self.lint)) + len(errors(f.note for f in self.findings))

    @property
    def warnings(self) -> int:
        """What a reviewer should have seen, counted."""
        return len(self.lint) + len(self.findings) - self.failures


@dataclasses.dataclass(frozen=True, kw_only=True)
class People:
    """Who is behind the change, as the forge says; a clone cannot tell."""

    author: str = ""
    approvers: frozenset[str] = frozenset()


def review(repo: LocalRepo, base: str, head: str, people: People, now: datetime, ask: Ask | None = None) -> Review:
    """Review what `head` changes since it left `base`; `ask` says what a cluster has, none: nobody is asked.

    Raises BadInput for a revision that is not there, Stalled.
    """
    after_commit = repo.commit(head)
    before_commit = repo.common(repo.commit(base), after_commit)
    differing = repo.differing(before_commit, after_commit)
    _check_size(differing)
    old = side(repo, before_commit)
    new = side(repo, after_commit)
    added, unsearched = new_lines(repo, differing)
    rules, about_rules = _rules(old.files, new.files)
    proposal = Proposal(
        before=old.repo,
        after=new.repo,
        changed=tuple(one.path for one in differing),
        new_lines=added,
        author=people.author,
        approvers=people.approvers,
        now=now,
    )
    pairs = (old.repo, new.repo) if old.repo and new.repo else None
    rejudged, about_replays = _rejudged(repo, before_commit, *pairs) if pairs else ((), ())
    return Review(
        base=before_commit,
        head=after_commit,
        changed=proposal.changed,
        lint=_of_this_change(new.notes, old.notes, proposal.changed),
        findings=_once(judge_change(proposal, rules), new.notes),
        environments=tuple(_environments(*pairs, ask)) if pairs else (),
        rejudged=rejudged,
        unsaid=(*_unread(old, new), *_unchecked(proposal, rules), *about_rules, *unsearched, *about_replays),
    )


def _check_size(differing: tuple[Differing, ...]) -> None:
    """Raises Stalled for more than is read of a stranger's."""
    read = [one.after for one in differing if one.after is not None and one.path.startswith(DOCUMENTS)]
    count, size = len(read), sum(entry.size for entry in read if is_bearable(entry))
    if count > MOST_CHANGED or size > MOST_CHANGED_BYTES:
        raise Stalled(
            f"the change has {count:,} documents with {size:,} bytes: at most {MOST_CHANGED:,} with "
            f"{MOST_CHANGED_BYTES:,} bytes are reviewed in one; split it"
        )


# --- one commit -----------------------------------------------------------------------------------------------


def _of_this_change(now: tuple[Note, ...], before: tuple[Note, ...], changed: tuple[str, ...]) -> tuple[Note, ...]:
    """Every error, and the warnings that are new or in a file that changes: old ones elsewhere are nobody's news."""
    known, touched = {(n.file, n.field, n.message) for n in before}, set(changed)
    return tuple(
        n for n in now if n.severity is Severity.ERROR or n.file in touched or (n.file, n.field, n.message) not in known
    )


def _rules(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[RepoRules, tuple[str, ...]]:
    """The rules in force: those of before, or where there are none, those that the change brings."""
    before, after = (_rules_in(files.get(RULES)) for files in (old, new))
    if before is not None:
        return before, ()
    if RULES in old:
        return after or RepoRules(), (f"{RULES} could not be read before this change: it is judged by its own rules",)
    return after or RepoRules(), ()


def _rules_in(text: str | None) -> RepoRules | None:
    value = read_document(RULES, text, Place.POLICY).value if text is not None else None
    return value if isinstance(value, RepoRules) else None


def _unread(old: Side, new: Side) -> Iterator[str]:
    if old.repo is None:
        yield "the documents could not be read before this change: what it changes in serving cannot be said"
    if new.repo is None:
        yield "the documents cannot be read after this change: what it changes in serving cannot be said"


def _unchecked(proposal: Proposal, rules: RepoRules) -> Iterator[str]:
    if names := unchecked(proposal, rules):
        yield f"rules that were not checked, for not every document can be read: {', '.join(names)}"


# --- what the change adds -------------------------------------------------------------------------------------


def _once(findings: tuple[Finding, ...], notes: tuple[Note, ...]) -> tuple[Finding, ...]:
    """Lint and the rules both look for secrets: one of the two is enough for a line, where it weighs as much."""
    said = {(n.file, n.line, n.severity) for n in notes if "secret" in n.message}
    return tuple(f for f in findings if f.rule != "secrets" or (f.note.file, f.note.line, f.note.severity) not in said)


# --- what serves ----------------------------------------------------------------------------------------------


_NOTHING: Config = {"applications": []}


def _environments(before: ConfigRepo, after: ConfigRepo, ask: Ask | None) -> Iterator[EnvironmentChange]:
    for name in sorted({*before.sluice.environments, *after.sluice.environments}):
        was = standing(before, name) if name in before.sluice.environments else _NOTHING
        waiting = rolled_out(before, name) if name in before.sluice.environments else ()
        there = name in after.sluice.environments
        now = standing(after, name) if there else _NOTHING
        new = tuple(key for key in rolled_out(after, name) if key not in waiting) if there else ()
        said = tuple(remarks(name, before, after))
        if was == now and not new and not said:
            continue
        then = meant(after, name, new) if new else now
        # At the address of before the change: the token goes there.
        target = before.sluice.environments[name].ray if name in before.sluice.environments else None
        capacity, unknown = capacity_of(target, ask)
        yield EnvironmentChange(
            name=name,
            before=was,
            after=then,
            at_once=impact(was, now, capacity),
            in_the_end=impact(now, then, capacity) if new else None,
            rolled_out=new,
            remarks=(*said, f"the cluster was not asked what it has: {unknown}") if unknown and ask else said,
        )


# --- what would have been -------------------------------------------------------------------------------------


def _rejudged(
    repo: LocalRepo, base: str, before: ConfigRepo, after: ConfigRepo
) -> tuple[tuple[Rejudged, ...], tuple[str, ...]]:
    """The last rollouts of every model whose policy or SLOs change, and what was left out."""
    found: list[Rejudged] = []
    said: list[str] = []
    left_out = 0
    models = concerned(before, after)
    records = _records(repo, base) if models else {}
    for key, held_to in models.items():
        for environment in sorted(before.environments_of(before.models[key])):
            paths = records.get((environment, key), [])[:MOST_ROLLOUTS]
            room = MOST_REPLAYS - len(found)
            left_out += max(0, len(paths) - room)
            contents = repo.contents(entry for _, entry in paths[:room])
            for path, entry in paths[:room]:
                try:
                    past = finished(parse_history(contents[entry.blob].decode("utf-8", "replace"), path))
                except BadInput as error:
                    said.append(f"not judged again: {error}")
                else:
                    found.append(judged_again(past, held_to))
    if left_out:
        said.append(f"{left_out} more rollouts are not judged again: {MOST_REPLAYS} are enough to see what changes")
    return tuple(found), tuple(said)


def _records(repo: LocalRepo, commit: str) -> dict[tuple[str, str], list[tuple[str, Entry]]]:
    """Records of rollouts by environment and slug, the newest first: their names begin with when they began."""
    found: dict[tuple[str, str], list[tuple[str, Entry]]] = {}
    for entry in repo.entries(commit, (HISTORY,)):
        path = entry.path.decode("utf-8", "backslashreplace")
        at = locate(path)
        if at is not None and at.place is Place.HISTORY and is_bearable(entry):
            found.setdefault((at.environment, at.slug), []).append((path, entry))
    return {key: sorted(records, key=lambda one: one[0], reverse=True) for key, records in found.items()}
