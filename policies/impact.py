"""What a change of the rendered Serve config does to what serves, deployment by deployment.

`impact` compares two Serve configs (the parsed `serve.yaml` before and after) and says for each deployment that
differs: what stays as it is and is told in place, what restarts its replicas and whether requests would stall
meanwhile, what starts, what stops, what moves traffic; and what it reserves before, meanwhile and after, against what
the cluster has.

Rules:
- What a field does stands in `impact_rules.py`, once.
- An application that starts has no traffic before it is ready, and one that is replaced stops after its successor has
  proved itself: that is how `convergence.py` goes from one config to the other.
- Reservations are those of `min_replicas`, the least that is sure to run. What runs above that, nobody knows here.

This module must not know documents, nor which config comes next: `pipelines/commands/impact.py` renders both.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from policies.capacity import Amounts, Capacity, added, beyond, bundles, fits_nowhere, in_words, larger, times, unplaced
from policies.impact_rules import Effect
from policies.serve_changes import Change, changes

__all__ = ["Change", "Config", "DeploymentImpact", "Effect", "Impact", "Reserved", "Stall", "impact"]

Config = Mapping[str, Any]

ROLLING_UPDATE_SHARE = 0.2
"""Of replicas that Serve replaces at once where nothing surges: its own default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stall:
    """Whether requests would wait or fail while it is carried out, and after."""

    stalls: bool
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reserved:
    """What replicas reserve together."""

    before: Amounts
    """At `min_replicas`, as the other two."""
    meanwhile: Amounts
    """At most, while old and new run side by side."""
    after: Amounts
    at_most: Amounts
    """After, with `max_replicas`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeploymentImpact:
    """One deployment that differs."""

    application: str
    deployment: str
    model: str
    """The slug of the model that it is a version of, or the name of the front."""
    changes: tuple[Change, ...]
    stall: Stall
    reserved: Reserved
    replaces: str = ""
    """For one that starts: the application of the same model that stops once it has proved itself."""

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Each once, in the order of `Effect`."""
        return tuple(effect for effect in Effect if any(change.effect is effect for change in self.changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Impact:
    """What a change of the Serve config does."""

    deployments: tuple[DeploymentImpact, ...]
    """Those that differ: as they stand in the config after, then those that stop."""
    reserved: Reserved
    """Of all deployments, those that do not differ included."""
    capacity: Capacity | None
    """None: nobody knows what the cluster has."""
    shortage: tuple[str, ...] = ()
    """What the cluster does not have, in words; empty where all fits, or nobody knows."""

    @property
    def extra_meanwhile(self) -> Amounts:
        """What is reserved in addition while it is carried out, at most."""
        return beyond(self.reserved.meanwhile, self.reserved.before)

    @property
    def extra_after(self) -> Amounts:
        """What is reserved in addition when it is done; below 0 where less."""
        return added(self.reserved.after, times(self.reserved.before, -1))


def impact(before: Config, after: Config, capacity: Capacity | None) -> Impact:
    """What going from one Serve config to the other does. `capacity` is what the cluster has, None where unknown."""
    pairs = tuple(_pairs(before, after))
    differing = tuple(found for pair in pairs if (found := _compared(pair, pairs)).changes)
    every = [_reserved(pair) for pair in pairs]
    return Impact(
        deployments=differing,
        reserved=Reserved(
            before=added(*(each.before for each in every)),
            meanwhile=added(*(each.meanwhile for each in every)),
            after=added(*(each.after for each in every)),
            at_most=added(*(each.at_most for each in every)),
        ),
        capacity=capacity,
        shortage=tuple(_shortage(pairs, capacity)) if capacity else (),
    )


# --- pairs ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Pair:
    """One deployment with its application, before and after; empty where it is not there."""

    name: str
    deployment: str
    old_app: Config
    new_app: Config
    old: Config
    new: Config

    @property
    def any(self) -> Config:
        return self.new or self.old

    @property
    def model(self) -> str:
        told = self.any.get("user_config")
        told = told if isinstance(told, Mapping) else {}
        return str(told.get("model") or told.get("front") or self.name)

    @functools.cached_property
    def changes(self) -> tuple[Change, ...]:
        """Of one that is there before and after."""
        return tuple(changes(self.old_app, self.new_app, self.old, self.new)) if self.stays else ()

    @property
    def stays(self) -> bool:
        return bool(self.old_app and self.new_app) and bool(self.old) == bool(self.new)

    @property
    def restarts(self) -> bool:
        return any(change.effect is Effect.RESTARTS for change in self.changes)


def _pairs(before: Config, after: Config) -> Iterator[_Pair]:
    """Every deployment of either config, those of the config after first, in its order."""
    olds, news = _by_name(before.get("applications")), _by_name(after.get("applications"))
    for name in [*news, *(name for name in olds if name not in news)]:
        old_app, new_app = olds.get(name, {}), news.get(name, {})
        old, new = _by_name(old_app.get("deployments")), _by_name(new_app.get("deployments"))
        for deployment in [*new, *(each for each in old if each not in new)] or [""]:
            yield _Pair(name, deployment, old_app, new_app, old.get(deployment, {}), new.get(deployment, {}))


def _by_name(named: Any) -> dict[str, Config]:
    return {each["name"]: each for each in named or ()}


def _compared(pair: _Pair, pairs: tuple[_Pair, ...]) -> DeploymentImpact:
    changes = tuple(_with_its_fate(pair, pairs))
    return DeploymentImpact(
        application=pair.name,
        deployment=pair.deployment,
        model=pair.model,
        changes=changes,
        stall=_stall(pair, pairs),
        reserved=_reserved(pair),
        replaces="" if pair.old else _other_half(pair, pairs),
    )


def _with_its_fate(pair: _Pair, pairs: tuple[_Pair, ...]) -> Iterator[Change]:
    """Its changes; of one that starts or stops that it does, and the route it takes or leaves."""
    if pair.stays:
        yield from pair.changes
        return
    effect = Effect.STARTS if pair.new else Effect.STOPS
    yield Change(field="", effect=effect, why=_why_it_comes(pair, pairs) if pair.new else _why_it_goes(pair, pairs))
    if not pair.old_app and (route := pair.new_app.get("route_prefix")):
        why = "it has the route once it has proved itself" if _other_half(pair, pairs) else "its route is new"
        yield Change(field="route_prefix", effect=Effect.MOVES_TRAFFIC, why=why, after=route)
    if not pair.new_app and (route := pair.old_app.get("route_prefix")) and not _is_kept(route, pairs):
        yield Change(field="route_prefix", effect=Effect.MOVES_TRAFFIC, why="its route goes with it", before=route)


def _why_it_comes(pair: _Pair, pairs: tuple[_Pair, ...]) -> str:
    other = _other_half(pair, pairs)
    if not other:
        stays = next((each.name for each in pairs if each.old and each.new and each.model == pair.model), "")
        return f"a candidate beside {stays}, which gives it requests once it is ready" if stays else "it is new"
    old = next(each for each in pairs if each.name == other)
    same = _version(old.old) == _version(pair.new)
    what = "the same version with other settings" if same else "another version"
    return f"{what}, so an application of its own beside {other}: a rollout, by the steps of its policy"


def _why_it_goes(pair: _Pair, pairs: tuple[_Pair, ...]) -> str:
    other = _other_half(pair, pairs)
    limit_s = pair.old.get("graceful_shutdown_timeout_s", 20)
    ending = f"requests in progress have {limit_s:g} s to end"
    return f"once {other} has proved itself; {ending}" if other else f"nothing names it any more; {ending}"


def _other_half(pair: _Pair, pairs: tuple[_Pair, ...]) -> str:
    """Of one that starts, the one of its model that stops, and the other way round."""
    goes_other_way = (each for each in pairs if bool(each.old) != bool(pair.old) and bool(each.new) != bool(pair.new))
    return next((each.name for each in goes_other_way if each.model == pair.model), "")


def _is_kept(route: str, pairs: tuple[_Pair, ...]) -> bool:
    return any(each.new_app.get("route_prefix") == route for each in pairs)


def _version(deployment: Config) -> Any:
    return (deployment.get("user_config") or {}).get("version")


# --- would requests stall? --------------------------------------------------------------------------------------


def _stall(pair: _Pair, pairs: tuple[_Pair, ...]) -> Stall:
    route = pair.old_app.get("route_prefix")
    if route and not _is_kept(route, pairs):
        return Stall(stalls=True, why=f"requests to {route} are answered 404 from then on: nothing else has that route")
    if not pair.old_app:
        return Stall(stalls=False, why="it gets requests once it is ready")
    if not pair.new_app:
        return Stall(stalls=False, why="it gets no requests any more when it stops")
    if not pair.restarts:
        return Stall(stalls=False, why="no replica is replaced")
    return _restart_stalls(pair.new)


def _restart_stalls(deployment: Config) -> Stall:
    replicas = _replicas(deployment, "min_replicas")
    surge = _surge(deployment)
    if surge:
        number = f"{surge} {'successor' if surge == 1 else 'successors'}"
        return Stall(stalls=False, why=f"{number} at a time, and a replica stops when its own is ready")
    if replicas <= 1:
        return Stall(
            stalls=True,
            why="its one replica stops before the next one starts (max_surge_percent 0): for its whole load time "
            "nobody answers",
        )
    at_once = max(int(replicas * ROLLING_UPDATE_SHARE), 1)
    why = f"{at_once} of {replicas} replicas stop at a time (max_surge_percent 0), and the others answer meanwhile"
    return Stall(stalls=False, why=why)


def _surge(deployment: Config) -> int:
    """Replicas that may run above the number that is asked for: Serve rounds up."""
    percent, replicas = int(deployment.get("max_surge_percent") or 0), _replicas(deployment, "min_replicas")
    return (percent * replicas + 99) // 100


def _replicas(deployment: Config, which: str) -> int:
    if not deployment:
        return 0
    scaling = deployment.get("autoscaling_config")
    if isinstance(scaling, Mapping):
        return int(scaling.get(which, 1))
    number = deployment.get("num_replicas")
    return number if isinstance(number, int) else 1


# --- what is reserved -------------------------------------------------------------------------------------------


def _reserved(pair: _Pair) -> Reserved:
    before, after = _all_replicas(pair.old, "min_replicas"), _all_replicas(pair.new, "min_replicas")
    # A replica that stops keeps its place until its last request has ended: a surge takes both in full.
    surges = pair.restarts and _surge(pair.new) > 0
    return Reserved(
        before=before,
        meanwhile=added(before, after) if surges else larger(before, after),
        after=after,
        at_most=_all_replicas(pair.new, "max_replicas"),
    )


def _all_replicas(deployment: Config, which: str) -> dict[str, float]:
    return times(added(*bundles(deployment)), _replicas(deployment, which)) if deployment else {}


def _shortage(pairs: tuple[_Pair, ...], capacity: Capacity) -> Iterator[str]:
    """What has to start, against what is free now."""
    coming = [(pair, bundle) for pair in pairs for bundle in bundles(pair.new) * _coming(pair)]
    never = {pair.name: bundle for pair, bundle in coming if fits_nowhere(bundle, capacity)}
    for name, bundle in never.items():
        yield f"{name}: no node has {in_words(bundle)}, so its replicas can never start"
    reserved = [_reserved(pair) for pair in pairs if pair.name not in never]
    wanted, free = added(*(beyond(each.meanwhile, each.before) for each in reserved)), capacity.free
    if missing := beyond(wanted, free):
        has = {name: free.get(name, 0.0) for name in missing}
        yield f"{in_words(wanted)} more is reserved meanwhile, {in_words(has)} is free: {in_words(missing)} is missing"
    elif left := unplaced((bundle for pair, bundle in coming if pair.name not in never), capacity):
        yield f"{in_words(left[0])} is free in sum and on no single node: {len(left)} cannot be placed"


def _coming(pair: _Pair) -> int:
    """Replicas that start while those before still hold their places."""
    after, before = _replicas(pair.new, "min_replicas"), _replicas(pair.old, "min_replicas")
    if pair.new and (not pair.old or (pair.restarts and _surge(pair.new))):
        return after
    return max(after - before, 0)
