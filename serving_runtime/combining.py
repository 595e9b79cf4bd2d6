"""Several members' predictions as one: the functions that an ensemble document may name, and how yours is found. Pure.

A function is called with the predictions by member, `{"fraud-tree": [0.2, 0.7], "fraud-net": [0.4, 0.9]}`, in the
document's order and without those that were left out, and with the document's options. What it returns is the
ensemble's prediction; it must be JSON. Each value is what the member answered under `predictions`.

Rules:
- `mean` and `median` go through lists and mappings element by element, and want the same shape of all members. An
  element that one of them does not know (null) nobody knows.
- `vote` takes row by row what most members say; a tie is the first member's, in the document's order.
- What cannot be combined raises Incombinable, in words that name the members and nothing that they predicted.
"""

from __future__ import annotations

import importlib
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from policies.errors import BadInput

Options = Mapping[str, Any]
Combine = Callable[[Mapping[str, Any], Options], Any]


class Incombinable(Exception):
    """Predictions that do not go together."""


def combining(name: str) -> Combine:
    """The function that a document names: one of ours, or `module:function`. Imports it; raises BadInput."""
    if name in _OURS:
        return _OURS[name]
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"combine: {name} cannot be imported: {error}") from error
    if not callable(found):
        raise BadInput(f"combine: {name} is no function")
    combine: Combine = found
    return combine


def mean(predictions: Mapping[str, Any], options: Options) -> Any:
    """The weighted mean of numbers; `options` are weights by member, 1 where there is none."""
    weights = [float(options.get(name, 1.0)) for name in predictions]
    total = sum(weights)
    return _each(predictions, lambda numbers: sum(w * n for w, n in zip(weights, numbers, strict=True)) / total)


def median(predictions: Mapping[str, Any], _: Options) -> Any:
    """The middle one of numbers; of an even count the mean of the middle two."""
    return _each(predictions, statistics.median)


def first(predictions: Mapping[str, Any], _: Options) -> Any:
    """What the first member says that answered: the others stand in for it."""
    return next(iter(predictions.values()))


def vote(predictions: Mapping[str, Any], options: Options) -> Any:
    """What most members say, row by row; `options` are weights by member, 1 where there is none."""
    weights = [float(options.get(name, 1.0)) for name in predictions]
    said = list(predictions.values())
    if not all(isinstance(each, list) for each in said):
        return _most(said, weights)
    _same_lengths(predictions)
    return [_most(row, weights) for row in zip(*said, strict=True)]


_OURS: Mapping[str, Combine] = {"mean": mean, "median": median, "vote": vote, "first": first}


# --- element by element -------------------------------------------------------------------------------------------


def _each(predictions: Mapping[str, Any], of: Callable[[Sequence[float]], float]) -> Any:
    said = list(predictions.values())
    if any(each is None for each in said):
        return None
    if all(isinstance(each, int | float) for each in said):
        return of(said)
    if all(isinstance(each, list) for each in said):
        _same_lengths(predictions)
        rows = zip(*said, strict=True)
        return [_each(dict(zip(predictions, row, strict=True)), of) for row in rows]
    if all(isinstance(each, dict) for each in said) and all(each.keys() == said[0].keys() for each in said):
        return {key: _each({name: each[key] for name, each in predictions.items()}, of) for key in said[0]}
    kinds = ", ".join(f"{name} {type(each).__name__}" for name, each in predictions.items())
    raise Incombinable(f"only numbers in the same places can be combined, and members predict: {kinds}")


def _same_lengths(predictions: Mapping[str, Any]) -> None:
    lengths = {name: len(each) for name, each in predictions.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise Incombinable(f"members predict for different numbers of rows: {told}")


def _most(said: Sequence[Any], weights: Sequence[float]) -> Any:
    votes: dict[str, float] = {}
    value_of: dict[str, Any] = {}
    for each, weight in zip(said, weights, strict=True):
        key = json.dumps(each, sort_keys=True)
        votes[key] = votes.get(key, 0.0) + weight
        value_of.setdefault(key, each)
    return value_of[max(votes, key=lambda key: votes[key])]  # of equals the one that came first
