"""Ray's metrics in memory: what a process would export, and nothing is ever taken back, as in Ray."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence

Series = tuple[str, tuple[tuple[str, str], ...]]


class RayMetrics:
    """Takes the place of the module `ray.serve.metrics`; `values` is what is exported, by name and labels."""

    def __init__(self) -> None:
        self.values: dict[Series, float] = collections.defaultdict(float)
        self.names: set[str] = set()

    def Counter(self, name: str, *, description: str, tag_keys: Sequence[str]) -> _Metric:  # noqa: N802 Ray's name
        return self._made(name, description, tag_keys)

    Gauge = Counter

    def Histogram(  # noqa: N802 Ray's name
        self, name: str, *, description: str, boundaries: Sequence[float], tag_keys: Sequence[str]
    ) -> _Metric:
        assert list(boundaries) == sorted(boundaries)
        return self._made(name, description, tag_keys)

    def _made(self, name: str, description: str, tag_keys: Sequence[str]) -> _Metric:
        assert description
        assert name not in self.names, f"{name} is there twice"
        self.names.add(name)
        return _Metric(self, name, frozenset(tag_keys))


class _Metric:
    def __init__(self, home: RayMetrics, name: str, tag_keys: frozenset[str]) -> None:
        self._home, self._name, self._tag_keys = home, name, tag_keys

    def inc(self, value: float, *, tags: Mapping[str, str]) -> None:
        assert value > 0, "Ray refuses 0"
        self._home.values[self._series(tags)] += value

    def _record(self, value: float, *, tags: Mapping[str, str]) -> None:
        self._home.values[self._series(tags)] += value

    def set(self, value: float, *, tags: Mapping[str, str]) -> None:
        self._home.values[self._series(tags)] = value

    def observe(self, value: float, *, tags: Mapping[str, str]) -> None:
        assert value > 0, "Ray refuses 0"
        self._home.values[self._series(tags)] += 1

    def _series(self, tags: Mapping[str, str]) -> Series:
        assert set(tags) == self._tag_keys, f"{self._name} has {sorted(self._tag_keys)}, not {sorted(tags)}"
        assert all(isinstance(value, str) for value in tags.values())
        return self._name, tuple(sorted(tags.items()))
