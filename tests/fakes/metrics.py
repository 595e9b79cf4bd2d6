"""The port `Metrics` in memory: counts are told to it, and the clock is the caller's.

It speaks of what happened (a version answered, the scrape stopped), not of series; what the real door makes of series
is held against it in `tests/contracts/test_metrics_contract.py`. Here, Prometheus scrapes at every edge.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from pipelines.ports import EvidenceRequest
from policies.application import Application
from policies.counters import VersionKey, moment
from policies.counting import NOTHING, first_edge, last_edge
from policies.evidence import Bin, Counts, Discordant, Evidence, Objective, Sli, Source
from policies.observations import Trip
from serving_runtime.scrape_health import STALE_SCRAPES

_Who = tuple[str, VersionKey]
_Page = tuple[str, VersionKey, VersionKey | None, Sli, float | None, int]


@dataclasses.dataclass
class _Tally:
    """What one version answered in one bin."""

    total: int = 0
    bad: int = 0
    rescued: int = 0
    pairs: Discordant | None = None
    agreement: Counts = NOTHING
    feedback: Counts = NOTHING
    queried: Counts = NOTHING
    latencies: dict[float, int] = dataclasses.field(default_factory=lambda: defaultdict(int))

    def counts(self, objective: Objective) -> Counts:
        if objective.sli is Sli.ERRORS:
            return Counts(self.total, self.bad)
        if objective.sli is Sli.AGREEMENT:
            return self.agreement
        if objective.sli is Sli.FEEDBACK:
            return self.feedback
        if objective.sli is Sli.QUERIES:
            return self.queried
        assert objective.threshold_ms is not None
        late = sum(n for ms, n in self.latencies.items() if ms > objective.threshold_ms)
        return Counts(sum(self.latencies.values()), late)


class FakeMetrics:
    """Tell it what happened, then ask it as the reconciler does."""

    def __init__(self, width: timedelta = timedelta(seconds=15), began: datetime | None = None) -> None:
        """Prometheus that `began` to run then has no bins from before."""
        self.width = width
        self._began = began
        self._width_ms = width // timedelta(milliseconds=1)
        self._tallies: dict[_Who, dict[int, _Tally]] = defaultdict(lambda: defaultdict(_Tally))
        self._finished: dict[_Page, list[Bin]] = {}
        self._away = ""
        self._spoiled: dict[str, str] = {}
        self._stopped: datetime | None = None
        self._trips: dict[str, Trip] = {}

    # --- what happens -----------------------------------------------------------------------------------------

    def answered(
        self,
        model: str,
        version: Application,
        at: datetime,
        *,
        good: int = 0,
        bad: int = 0,
        rescued: int = 0,
        latency_ms: float | None = 10.0,
    ) -> None:
        """That many requests that started at `at`; with `latency_ms` None they never reached its own server.

        `bad` reached the user, or were copies; `rescued` were bad too, and stable answered them well.
        """
        tally = self._tally(model, version, at)
        tally.total += good + bad + rescued
        tally.bad += bad + rescued
        tally.rescued += rescued
        if latency_ms is not None:
            tally.latencies[latency_ms] += good + bad + rescued

    def shadowed(
        self,
        model: str,
        candidate: Application,
        at: datetime,
        *,
        same: int = 0,
        candidate_bad: int = 0,
        stable_bad: int = 0,
    ) -> None:
        """Copies in shadow: both alike, or only one of the two bad. What each answered is told by `answered`."""
        tally = self._tally(model, candidate, at)
        if same + candidate_bad + stable_bad:
            before = tally.pairs or Discordant()
            tally.pairs = Discordant(before.candidate + candidate_bad, before.stable + stable_bad)

    def agreed(self, model: str, candidate: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        """Predictions in shadow that were stable's, and that were not."""
        self._tally(model, candidate, at).agreement += Counts(good + bad, bad)

    def reported(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        """What users said at `at` about answers of this version."""
        self._tally(model, version, at).feedback += Counts(good + bad, bad)

    def counted(self, model: str, version: Application, at: datetime, *, good: int = 0, bad: int = 0) -> None:
        """Events of the documents' own queries."""
        self._tally(model, version, at).queried += Counts(good + bad, bad)

    def _tally(self, model: str, version: Application, at: datetime) -> _Tally:
        late = [p for p, bins in self._finished.items() if p[0] == model and bins and bins[-1].start + self.width > at]
        for page in late:  # a story that is told backwards: count again
            del self._finished[page]
        return self._tallies[model, _key(version)][last_edge(at, self.width)]

    def go_away(self, reason: str = "Prometheus cannot be reached") -> None:
        """From now on nothing is known, until `come_back`."""
        self._away = reason

    def come_back(self) -> None:
        """Prometheus answers again; what was scraped meanwhile is there."""
        self._away = ""

    def stop_scraping(self, at: datetime) -> None:
        """Prometheus answers, and has no sample younger than this, until `resume_scraping`."""
        self._stopped = at

    def resume_scraping(self) -> None:
        """Counters went on meanwhile, so nothing is lost."""
        self._stopped = None

    def spoil(self, model: str, reason: str = "a counter reads nan: that is no count") -> None:
        """This model's samples cannot be believed any more."""
        self._spoiled[model] = reason

    # --- the port ---------------------------------------------------------------------------------------------

    def evidence(self, requests: Sequence[EvidenceRequest], now: datetime) -> Mapping[str, tuple[Evidence, ...]]:
        """Evidence by the request's model, one for each objective in order."""
        return {r.model: tuple(self._evidence(r, o, now) for o in r.objectives) for r in requests}

    def trips(self, requests: Sequence[EvidenceRequest], now: datetime) -> Mapping[str, Trip]:
        """What `trip` was told, while Prometheus answers."""
        known = {} if self._away else {build: trip for build, trip in self._trips.items() if trip.at <= now}
        return {r.model: known[r.candidate.build] for r in requests if r.candidate.build in known}

    def trip(self, version: Application, at: datetime, *, requests: float = 3, bad: float = 3) -> None:
        """A host's guard has stopped this candidate."""
        self._trips.setdefault(version.build, Trip(build=version.build, hosts=1, requests=requests, bad=bad, at=at))

    def let_go(self, version: Application) -> None:
        """The hosts' guards no longer stop this candidate, or the hosts are gone."""
        self._trips.pop(version.build, None)

    def _evidence(self, request: EvidenceRequest, objective: Objective, now: datetime) -> Evidence:
        newest = moment(last_edge(min(now, self._stopped or now), self.width))
        age = now - newest
        stale = f"stale: the newest sample is {age.total_seconds():g} s old" if age > STALE_SCRAPES * self.width else ""
        reason = self._away or stale or self._spoiled.get(request.model, "")
        query = f"{objective.sli}{{model={request.model!r}}}"
        source = Source(available=not reason, query=query, reason=reason, age=None if self._away else age)
        bins = () if reason else self._bins(request, objective, last_edge(newest, self.width))
        return Evidence(objective=objective, width=self.width, bins=bins, source=source)

    def _bins(self, request: EvidenceRequest, objective: Objective, upto_ms: int) -> tuple[Bin, ...]:
        first_ms = first_edge(max(request.since, self._began or request.since), self.width)
        compared = request.stable if objective.sli is not Sli.AGREEMENT else None  # it is what is compared with
        candidate, stable = _key(request.candidate), _key(compared) if compared else None
        page = (request.model, candidate, stable, objective.sli, objective.threshold_ms, first_ms)
        bins = self._finished.setdefault(page, [])
        for start_ms in range(first_ms + len(bins) * self._width_ms, upto_ms, self._width_ms):
            counts = (self._counts(request.model, version, objective, start_ms) for version in (candidate, stable))
            bins.append(Bin(moment(start_ms), *counts, *self._more(request.model, candidate, objective, start_ms)))
        return tuple(bins[: max(0, (upto_ms - first_ms) // self._width_ms)])

    def _more(
        self, model: str, candidate: VersionKey, objective: Objective, start_ms: int
    ) -> tuple[float | None, Discordant | None]:
        """Rescued, and the pairs."""
        if objective.sli is not Sli.ERRORS:
            return None, None
        tally = self._tallies[model, candidate].get(start_ms)
        return (tally.rescued, tally.pairs) if tally else (0.0, None)

    def _counts(self, model: str, version: VersionKey | None, objective: Objective, start_ms: int) -> Counts:
        tally = self._tallies[model, version].get(start_ms) if version else None
        return tally.counts(objective) if tally else NOTHING


def _key(version: Application) -> VersionKey:
    return str(version.version), version.build
