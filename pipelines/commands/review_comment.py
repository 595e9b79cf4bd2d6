"""A review as one comment of a pull request, in Markdown.

Rules:
- Whatever strangers wrote is shown and obeyed by nobody: `policies/markdown.py`.
- The comment has at most MOST_BYTES. What does not fit is cut at the end of a table or a difference, and the comment
  says how much is missing and where it is to be read; failures are cut last.
- The hidden marker at its top is what it is found by when it is written again.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from pipelines.commands.review import EnvironmentChange, Review
from policies.durations import format_duration
from policies.impact import DeploymentImpact, Impact
from policies.impact_words import reserved_lines, value_in_words
from policies.markdown import code, fenced, prose, table
from policies.notes import Note, Severity
from policies.pull_requests import CommitStatus, StatusState
from policies.rejudging import Rejudged, lasted, turning_point
from policies.release import Outcome
from policies.secret_values import hidden, hidden_line
from policies.strict_yaml import dump

MARKER = "sluicegate:review"
"""What our comment is found by."""
CONTEXT = "sluice/review"
"""The name of our commit status."""
MOST_BYTES = 60_000
"""GitHub takes 65,536 characters and no forge fewer; bytes are at least as many, and a door to a forge adds a line."""
_FOR_THE_REST = 1_000
"""Bytes for headings and for saying what was cut."""
_SHARES = {"findings": 0.45, "impact": 0.6, "replays": 0.75, "difference": 1.0}
"""Of the whole, what is used up after each part at most: a part leaves to the next what it does not need."""
_WEIGHT = {Severity.ERROR: "❌ fails", Severity.WARNING: "⚠️ warns"}
_CONTEXT_LINES = 3
_MOST_LINES = 20
"""Of lists that nobody cuts: a change that somebody reads has fewer."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """One part of the comment: `rows` may be cut from their end, `head` and `tail` stay."""

    share: str
    head: tuple[str, ...]
    rows: tuple[str, ...]
    tail: tuple[str, ...] = ()


def comment(review: Review) -> str:
    """The whole comment, marker included."""
    return f"<!-- {MARKER} -->\n{body(review)}"


def body(review: Review) -> str:
    """The comment without its marker, for a door that puts its own there."""
    head = [f"### Sluicegate review: {verdict(review)}", "", _scope(review), ""]
    tail = [*_unsaid(review), f"<sub>`sluice review --base {review.base[:12]}` says all of it in a terminal.</sub>", ""]
    used = _size(head) + _size(tail) + _FOR_THE_REST
    lines, left_out = list(head), 0
    for part in _parts(review):
        fitted = _fitted(part, int(MOST_BYTES * _SHARES[part.share]) - used)
        left_out += not fitted
        used += _size(fitted)
        lines += fitted
    more = [f"*{left_out:,} more parts are not shown here.*", ""] if left_out else []
    return "\n".join([*lines, *more, *tail])


def verdict(review: Review) -> str:
    """`2 failures, 1 warning`, or that there is nothing."""
    counts = ((review.failures, "failure"), (review.warnings, "warning"))
    said = ", ".join(f"{n} {word}{'' if n == 1 else 's'}" for n, word in counts if n)
    return said or "nothing to object to"


def status(review: Review, url: str | None = None) -> CommitStatus:
    """The line beside the commit."""
    state = StatusState.FAILURE if review.failures else StatusState.SUCCESS
    return CommitStatus(context=CONTEXT, state=state, description=verdict(review), url=url)


def _scope(review: Review) -> str:
    count = len(review.changed)
    return f"{count} file{'' if count == 1 else 's'} changed, `{review.base[:12]}` to `{review.head[:12]}`."


def _parts(review: Review) -> Iterator[_Part]:
    yield from _findings(review)
    for environment in review.environments:
        yield from _impacts(environment)
    yield from _replays(review)
    for environment in review.environments:
        if environment.before != environment.after:
            yield _difference(environment)


def _fitted(part: _Part, room: int) -> list[str]:
    """The part with as many rows as there is room for, and how many are missing; nothing where none fits."""
    left = room - _size(part.head) - _size(part.tail)
    rows: list[str] = []
    for row in part.rows:
        left -= len(row.encode()) + 1
        if left < 0:
            break
        rows.append(row)
    if not rows:
        return []
    missing = len(part.rows) - len(rows)
    said = [f"*{missing:,} more lines are not shown here.*", ""] if missing else []
    return [*part.head, *rows, *part.tail, *said]


def _size(lines: Sequence[str]) -> int:
    return sum(len(line.encode()) + 1 for line in lines)


def _unsaid(review: Review) -> list[str]:
    if not review.unsaid:
        return []
    return ["**Not looked at**", "", *(f"- {prose(one)}" for one in review.unsaid[:_MOST_LINES]), ""]


# --- findings -------------------------------------------------------------------------------------------------


def _findings(review: Review) -> Iterator[_Part]:
    rows = [
        *((note, "lint", "") for note in review.lint),
        *((finding.note, finding.rule, finding.mend) for finding in review.findings),
    ]
    if not rows:
        return
    rows.sort(key=lambda row: row[0].severity)  # errors first; a sort keeps the order within them
    head, rule, *lines = table(("", "where", "rule", "what", "to mend it"), (_row(*row) for row in rows))
    yield _Part("findings", ("#### Findings", "", head, rule), tuple(lines), ("",))


def _row(note: Note, rule: str, mend: str) -> tuple[str, ...]:
    place = note.file if note.line is None else f"{note.file}:{note.line}"
    what = f"{code(note.field)}: {prose(note.message)}" if note.field else prose(note.message)
    return _WEIGHT[note.severity], code(place), code(rule), what, code(mend) if _is_yaml(mend) else prose(mend)


def _is_yaml(mend: str) -> bool:
    """Is it something to be written into a document, and no sentence?"""
    return ": " in mend and " ask " not in mend


# --- impact ---------------------------------------------------------------------------------------------------


def _impacts(environment: EnvironmentChange) -> Iterator[_Part]:
    where = code(environment.name)
    if environment.in_the_end is None:
        yield _impact(f"#### Impact in {where}", environment.at_once, remarks=environment.remarks)
        return
    if environment.at_once.deployments or environment.remarks:
        yield _impact(f"#### Impact in {where}, at once", environment.at_once, remarks=environment.remarks)
    names = ", ".join(code(key) for key in environment.rolled_out[:_MOST_LINES])
    words = f"New settings of {names} are rolled out like a new version. Once that has gone well:"
    yield _impact(f"#### Impact in {where}, by rollouts", environment.in_the_end, words=(words, ""))


def _impact(title: str, found: Impact, *, words: tuple[str, ...] = (), remarks: tuple[str, ...] = ()) -> _Part:
    said = [f"- {prose(line)}" for line in remarks]
    if not found.deployments:
        return _Part("impact", (title, ""), tuple(said) or ("- what serves stays as it is",), ("",))
    head, rule, *rows = table(
        ("deployment", "what happens", "because of", "requests"),
        (row for each in found.deployments for row in _deployment(each)),
    )
    after = [*said[:_MOST_LINES], *(f"- {prose(line)}" for line in reserved_lines(found)[:_MOST_LINES])]
    return _Part("impact", (title, "", *words, head, rule), tuple(rows), ("", *after, ""))


def _deployment(each: DeploymentImpact) -> Iterator[tuple[str, ...]]:
    """A row for each field that changes; what is of the whole deployment stands in the first."""
    stall = f"{'**stall or fail**' if each.stall.stalls else 'no stall'}: {prose(each.stall.why)}"
    name, requests = code(each.application), stall
    for change in each.changes:
        because = prose(change.why)
        if change.field and change.effect.value not in ("starts", "stops"):
            moves = f"{code(value_in_words(change.before))} → {code(value_in_words(change.after))}"
            because = f"{code(change.field)}: {moves} ({because})"
        yield name, f"**{change.effect.value}**", because, requests
        name, requests = "", ""


# --- replays --------------------------------------------------------------------------------------------------


def _replays(review: Review) -> Iterator[_Part]:
    if not review.rejudged:
        return
    other = sum(one.replay is not None and not one.replay.same for one in review.rejudged)
    told = sum(one.replay is not None for one in review.rejudged)
    count = f"{other} of the last {told} rollouts would have gone another way." if told else ""
    head, rule, *rows = table(
        ("rollout", "judged by", "as it was", "as it would have been", "where it turns", "cannot be known"),
        (_replay(one) for one in review.rejudged),
    )
    title = ("#### What the new rules would have decided", "", count, "", head, rule)
    yield _Part("replays", title, tuple(rows), ("",))


def _replay(one: Rejudged) -> tuple[str, ...]:
    past, again = one.past, one.replay
    over = f" over v{past.stable_version}" if past.stable_version is not None else ""
    name = f"{code(past.model)} v{past.version}{over}, {code(past.environment)}, {past.started_at:%Y-%m-%d %H:%M} UTC"
    was = _end(past.outcome, past.ended_at - past.started_at if past.ended_at else None)
    if again is None:
        return name, prose(one.held_to.words), was, "not judged again", "", _unknown(one.unknown)
    would = "the same" if again.same else f"**{_end(again.outcome, lasted(again))}**"
    turn = None if again.same else turning_point(again)
    reason = prose("; ".join(turn.reasons[:2])) if turn else prose(again.waits)
    where = f"{turn.at:%H:%M:%S} {turn.phase.value} → {turn.following.value}: {reason}" if turn else reason
    return name, prose(one.held_to.words), was, would, "" if again.same else where, _unknown(one.unknown)


def _end(outcome: Outcome | None, duration: timedelta | None) -> str:
    if outcome is None or duration is None:
        return "still under way"
    seconds = timedelta(seconds=round(duration.total_seconds()))
    return f"{outcome.value.replace('_', ' ')} after {format_duration(seconds)}"


def _unknown(reasons: Sequence[str]) -> str:
    return "<br>".join(prose(reason) for reason in reasons)


# --- the difference -------------------------------------------------------------------------------------------


def _difference(environment: EnvironmentChange) -> _Part:
    lines = tuple(difference(environment))
    added = sum(line.startswith("+") for line in lines[2:])
    removed = sum(line.startswith("-") for line in lines[2:])
    summary = f"<summary>serve.yaml of {environment.name}: {_lines(added)} more, {removed} fewer</summary>"
    fence, *clean, end = fenced(lines, "diff")
    return _Part("difference", ("<details>", summary, "", fence), tuple(clean), (end, "", "</details>", ""))


def _lines(number: int) -> str:
    return "1 line" if number == 1 else f"{number} lines"


def difference(environment: EnvironmentChange) -> Iterator[str]:
    """The unified difference of `serve.yaml`, application by application.

    Its name stands where others have line numbers, which no reader has a file for. One that takes another's place is
    compared with that. What looks like a secret is hidden once it has been compared: that it changes is seen.
    """
    path = f"environments/{environment.name}/serve.yaml"
    yield f"--- {path}"
    yield f"+++ {path}"
    before, after = _by_name(environment.before), _by_name(environment.after)
    instead = {
        e.application: e.replaces for e in (environment.in_the_end or environment.at_once).deployments if e.replaces
    }
    pairs = [(instead.get(name, name), name) for name in after]
    gone = before.keys() - {old for old, _ in pairs}
    for old, new in [*pairs, *((name, "") for name in before if name in gone)]:
        was, now = before.get(old, []), after.get(new, [])
        if was != now:
            title = new if old == new or old not in before else f"{old} -> {new}" if new else old
            for line in list(difflib.unified_diff(was, now, n=_CONTEXT_LINES, lineterm=""))[2:]:
                yield f"@@ {hidden(title)} @@" if line.startswith("@@ ") else line[0] + hidden_line(line[1:])


def _by_name(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """The lines of each application, by its name."""
    return {str(app["name"]): dump({"applications": [app]}).splitlines()[1:] for app in config["applications"]}
