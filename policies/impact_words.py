"""An impact in words, for the terminal and for whoever puts it into a comment: one sentence a line, no markup."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from policies.capacity import Amounts, Capacity, in_words
from policies.impact import Change, DeploymentImpact, Impact
from policies.secret_values import hidden_in

_LONGEST_VALUE = 60
"""Characters of a value: what is longer is read in the files."""


def lines(impact: Impact) -> list[str]:
    """A block for each deployment that differs, then what all of them reserve."""
    if not impact.deployments:
        return ["what serves stays as it is"]
    return [*deployment_lines(impact), *reserved_lines(impact)]


def deployment_lines(impact: Impact) -> list[str]:
    """A block for each deployment that differs; nothing where none does."""
    return [line for each in impact.deployments for line in _block(each)]


def reserved_lines(impact: Impact) -> list[str]:
    """What is reserved in addition, against what the cluster has."""
    extra, after = impact.extra_meanwhile, impact.extra_after
    now, then = in_words(impact.reserved.after), in_words(impact.reserved.at_most)
    said = [
        f"reserved: {_more(extra)} meanwhile, {_more(after)} after",
        f"reserved after: {now} at min_replicas, {then} at max_replicas",
    ]
    if impact.capacity is None:
        return [*said, "what the cluster has is not known"]
    verdict = impact.shortage or ("enough",) * bool(extra)
    return [*said, _has(impact.capacity, impact.reserved.at_most), *verdict]


def value_in_words(value: Any) -> str:
    """As JSON, cut where it is long; `none` where there is nothing."""
    if value is None:
        return "none"
    value = hidden_in(value, by_name=True)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


def _block(each: DeploymentImpact) -> Iterator[str]:
    yield f"{each.application}: {', '.join(each.effects)}"
    yield from (f"  {_change(change)}" for change in each.changes)
    stalls = "requests stall or fail" if each.stall.stalls else "no request stalls"
    yield f"  {stalls}: {each.stall.why}"


def _change(change: Change) -> str:
    if not change.field:
        return f"{change.effect}: {change.why}"
    moves = f"{value_in_words(change.before)} -> {value_in_words(change.after)}"
    return f"{change.effect}: {change.field}: {moves} ({change.why})"


def _more(extra: Amounts) -> str:
    more = {name: amount for name, amount in extra.items() if amount > 0}
    less = {name: -amount for name, amount in extra.items() if amount < 0}
    said = [f"{in_words(more)} more"] if more else []
    said += [f"{in_words(less)} less"] if less else []
    return " and ".join(said) or "nothing more"


def _has(capacity: Capacity, asked: Amounts) -> str:
    """Of what is asked for, what there is: a cluster has a dozen resources that nobody reserves."""
    total, free = capacity.total, capacity.free
    named = {name: total.get(name, 0.0) for name in asked}
    nodes = f"{len(capacity.nodes)} node{'' if len(capacity.nodes) == 1 else 's'}"
    return f"the cluster has {in_words(named)} on {nodes}; free now: {in_words({n: free.get(n, 0.0) for n in asked})}"
