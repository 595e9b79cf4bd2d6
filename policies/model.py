"""The nouns. Frozen values that the rest of Sluicegate speaks in; the glossary is in ARCHITECTURE.md.

Rules:
- Every value is immutable and holds its invariants from construction on; nothing checks it again.
- What is stored in Git (`Release`, `Rollout`, ...) is a strict pydantic dataclass: unknown keys are an error.
- Times are timezone-aware UTC datetimes, durations are timedeltas, shares are percent where the name says so
  and fractions in [0, 1] otherwise.

This module must not do I/O, read a clock or hold a rule about what follows what: that is `rollout.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AwareDatetime, ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.commit_message import one_line
from policies.names import ROLLOUT_ID
from policies.serving import Features, Placement

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)

MAX_COUNT = 1e12
"""Requests in a bin: a million a second for eleven days. Sums of many stay far from where floats lose whole numbers."""
Percent = Annotated[int, Field(ge=0, le=100)]


def _words(text: str) -> str:
    return text if text.isprintable() else one_line(text, len(text))


Words = Annotated[str, AfterValidator(_words)]
"""What somebody said, on one line: no character of it moves a cursor, turns a line or begins another one."""
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]

_YEARS = range(2000, 2201)
"""Of what is stored: what is earlier or later may be no moment any more in UTC, or with a duration added."""


class Phase(StrEnum):
    """Where a release is. What follows what is the TRANSITIONS table of `rollout.py`."""

    STEADY = "STEADY"
    WARMING = "WARMING"
    SHADOW = "SHADOW"
    CANARY = "CANARY"
    PAUSED = "PAUSED"
    SETTLING = "SETTLING"
    ROLLING_BACK = "ROLLING_BACK"


PAUSES = (Phase.WARMING, Phase.SHADOW, Phase.CANARY, Phase.SETTLING)
"""Phases that can be paused, and gone on with."""


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"


class Purpose(StrEnum):
    """What a rollout that is no ordinary one is for."""

    UNDO = "undo"
    """Back to a version that served before: one step, then 100 %; still guarded."""
    EMERGENCY = "emergency"
    """The version carries the emergency tag: it may start while the service burns its error budget."""


# --- what serves ----------------------------------------------------------------------------------------------


@document(frozen=True, kw_only=True, config=_STRICT)
class Settings:
    """The part of a model document whose change restarts replicas; frozen into an application when it starts."""

    cpus: Annotated[float, Field(gt=0, le=512)] = 1.0
    """CPUs each replica reserves."""
    gpus: Annotated[float, Field(ge=0, le=64)] = 0.0
    """GPUs each replica reserves; fractions share one."""
    memory_mib: Annotated[int, Field(ge=64)] | None = None
    """Memory each replica reserves, MiB; none reserves nothing."""
    custom: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Custom Ray resources each replica reserves."""
    environment: Literal["inherit", "pip", "uv", "image"] = "inherit"
    """Where the packages that the version itself asks for come from: they are those of the cluster, or Ray's
    runtime_env installs the version's own requirements with pip or uv, or a container image has them."""
    image: Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$", max_length=300)] | None = None
    """With `environment: image`: the image, by digest or tag."""
    packages: tuple[str, ...] = ()
    """Requirements that Ray's runtime_env installs besides (with uv where `environment` is uv, else with pip)."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment variables of the replicas. Never secrets: this lies in Git."""
    placement: Placement | None = None
    """A placement group for each replica; none: one node with the resources above."""
    features: Features | None = None
    """Values that are looked up for each row; none: the request has all."""

    def __post_init__(self) -> None:
        """Raises ValueError where the image is missing, or nobody would use it, or packages would come from two."""
        if (self.environment == "image") != (self.image is not None):
            raise ValueError("image is written exactly where environment is image")
        if self.image and self.packages:
            raise ValueError("with environment: image the packages are part of the image; leave packages out")

    @property
    def installs_requirements(self) -> bool:
        """Does Ray install what the version's own requirements ask for?"""
        return self.environment in ("pip", "uv")

    @property
    def fields(self) -> dict[str, Any]:
        """What tells two of them apart; a field that came later counts where somebody wrote it only."""
        written = dataclasses.asdict(self)
        return {key: value for key, value in written.items() if key not in _LATER or value != _LATER[key]}


_LATER: Mapping[str, Any] = {"environment": "inherit", "image": None, "placement": None, "features": None}
"""Fields of Settings that older Sluicegates did not have, as they are where nobody wrote them: builds stay the same."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Application:
    """One version with the settings whose change would restart it. It never changes after it starts."""

    version: Annotated[int, Field(ge=1)]
    digest: Digest
    """Digest of the artifact's payload files (`artifact_digest.py`)."""
    settings: Settings = dataclasses.field(default_factory=Settings)
    requirements: tuple[Words, ...] = ()
    """What the version's own requirements.txt asks for, where `settings.environment` installs it."""

    @functools.cached_property
    def build(self) -> str:
        """Eight hex digits over every field of this application: two that differ never share a name.

        The requirements are among the files that the digest is over.
        """
        fields = {"version": self.version, "digest": self.digest, "settings": self.settings.fields}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    def name(self, slug: str) -> str:
        """The Serve application's name, `<slug>--v<version>-<build>`."""
        return f"{slug}--v{self.version}-{self.build}"


# --- evidence and verdicts ------------------------------------------------------------------------------------


class Sli(StrEnum):
    """What is counted."""

    ERRORS = "errors"
    LATENCY = "latency"
    AGREEMENT = "agreement"
    """In shadow: the candidate's prediction is stable's (the policy says how near)."""
    FEEDBACK = "feedback"
    """What users reported about answers, by the version that they were drawn for."""
    QUERIES = "queries"
    """Any pair of counters, in PromQL of the SLO document's own."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Queries:
    """The PromQL of an SLO document's own counts; exactly one of `good` and `bad`.

    `{{model}}`, `{{version}}` and `{{window}}` stand for patterns of label values and for a duration.
    """

    total: str
    good: str = ""
    bad: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Objective:
    """One SLO as the judge needs it: of all events, at least `target` are good.

    For `Sli.LATENCY` an event is good when it was answered within `threshold_ms`, which is a bucket edge.
    """

    name: str
    sli: Sli
    target: float
    threshold_ms: float | None = None
    queries: Queries | None = None
    """With `Sli.QUERIES`."""
    window: timedelta = timedelta(days=30)
    """The rolling window of the error budget."""

    @property
    def allowed_bad_rate(self) -> float:
        """Share of bad events the SLO allows, in (0, 1)."""
        return 1.0 - self.target

    @property
    def good_is_rare(self) -> bool:
        """Are good events the few that tell versions apart, as with purchases, of which 5 in 100 is much?"""
        return self.target < 0.5  # noqa: PLR2004 the rarer half


@dataclasses.dataclass(frozen=True)
class Counts:
    """Events of one version in one bin. `0 <= bad <= total`."""

    total: float = 0.0
    bad: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.total + other.total, self.bad + other.bad)


@dataclasses.dataclass(frozen=True)
class Discordant:
    """Requests that both versions answered (shadow), one well and the other not."""

    candidate: float = 0.0
    """Only the candidate was bad."""
    stable: float = 0.0
    """Only stable was bad."""


@dataclasses.dataclass(frozen=True)
class Bin:
    """Counts of both versions in `[start, start + Evidence.width)`."""

    start: datetime
    candidate: Counts
    stable: Counts
    rescued: float | None = None
    """Of the candidate's bad answers those that stable, asked in its place, answered well; none where the indicator
    cannot tell."""
    pairs: Discordant | None = None
    """In shadow, where the indicator can tell: the pairs that differ."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where evidence comes from and whether it may be believed. `reason` is empty only when available."""

    available: bool
    query: str
    reason: str = ""
    age: timedelta | None = None
    """Age of the newest sample when it was read."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """Counts of good and total events per version for one objective, in clock-aligned bins, oldest first."""

    objective: Objective
    width: timedelta
    bins: tuple[Bin, ...]
    source: Source

    def since(self, moment: datetime) -> Evidence:
        """The same evidence without the bins that start before `moment`."""
        return dataclasses.replace(self, bins=tuple(b for b in self.bins if b.start >= moment))

    @property
    def candidate(self) -> Counts:
        """All of the candidate's counts."""
        return sum((b.candidate for b in self.bins), Counts())

    @property
    def stable(self) -> Counts:
        """All of the stable version's counts."""
        return sum((b.stable for b in self.bins), Counts())


class VerdictKind(StrEnum):
    """What the evidence says."""

    PASS = "PASS"
    FAIL = "FAIL"
    INSUFFICIENT = "INSUFFICIENT"
    UNAVAILABLE = "UNAVAILABLE"


@document(frozen=True, kw_only=True, config=_STRICT)
class Measure:
    """What one look found for one objective, in figures: a verdict can be recomputed from them and the record's bins.

    Rates are shares in [0, 1]; e-values are decimal logarithms (2 is an e-value of 100).
    """

    objective: str
    sli: Sli
    allowed: float
    """Share of bad events that the SLO allows."""
    query: str
    since: AwareDatetime | None = None
    """Start of the first bin that was judged."""
    until: AwareDatetime | None = None
    """End of the last."""
    age_s: float | None = None
    """Age of the newest sample, seconds."""
    trouble: str = ""
    """Why the evidence cannot be believed; then there are no figures."""
    candidate_total: float = 0.0
    candidate_bad: float = 0.0
    stable_total: float = 0.0
    stable_bad: float = 0.0
    step_total: float = 0.0
    """The candidate's events in this step."""
    step_bad: float = 0.0
    rate: float | None = None
    """The candidate's bad rate."""
    lower: float | None = None
    """Its bound from below, valid at any time with confidence 1 - alpha."""
    upper: float | None = None
    """Its bound from above, valid at any time with confidence 1 - beta."""
    stable_rate: float | None = None
    dispersion: float = 1.0
    """phi: variance over mean of stable's bad events per bin before the rollout, at least 1."""
    harm_slo: float | None = None
    """E-value of harm against the SLO (shared outages taken out), log10."""
    harm_stable: float | None = None
    """E-value of harm against stable, log10."""
    proof: float | None = None
    """Largest e-value of the proof of health so far, log10."""
    equal: float | None = None
    """Largest e-value so far that the candidate is within the margin of stable, log10."""
    proved_at: AwareDatetime | None = None
    """The end of the bin with which a proof was reached."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Verdict:
    """What the evidence says, with its arithmetic in words and figures: one reason per objective at least."""

    kind: VerdictKind
    reasons: tuple[str, ...]
    measures: tuple[Measure, ...] = ()
    mean_harm: float | None = None
    """The mean e-value of harm that is compared with 1/alpha, log10."""


# --- the release ----------------------------------------------------------------------------------------------


class CauseKind(StrEnum):
    """Why a rollout stopped on its way up."""

    FAILED = "failed"
    """The evidence said FAIL."""
    GUARD = "guard"
    """The guard at a host stopped the candidate."""
    BUDGET = "budget spent"
    """The rollout has spent its share of the error budget."""
    SUPERSEDED = "superseded"
    """A newer version entered the trigger, and the policy lets it."""
    NOT_READY = "not ready"
    """The candidate could not start, or not before its deadline."""
    INCONCLUSIVE = "inconclusive"
    """The time of a step passed without a PASS."""
    NO_METRICS = "no metrics"
    """The evidence was unavailable for longer than the policy waits."""
    WITHDRAWN = "withdrawn"
    """A person took the candidate out of the trigger."""
    REVERTED = "reverted"
    """A person's commit took the release back."""
    ASKED = "asked"
    """A person asked for it."""
    REMOVED = "removed"
    """The model's document was removed."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Cause:
    """Why a release is PAUSED or ROLLING_BACK."""

    kind: CauseKind
    reasons: tuple[Words, ...]

    @property
    def quarantines(self) -> bool:
        """True where the version itself is to blame; a person's change of mind blames nobody."""
        return self.kind in (
            CauseKind.FAILED,
            CauseKind.GUARD,
            CauseKind.BUDGET,
            CauseKind.NOT_READY,
            CauseKind.INCONCLUSIVE,
        )


@document(frozen=True, kw_only=True, config=_STRICT)
class PhaseRecord:
    """One phase or step of a rollout, as it was. `until` and `verdict` are none while it lasts."""

    phase: Phase
    weight_percent: Percent
    since: AwareDatetime
    live_since: AwareDatetime | None = None
    """When every replica was seen to have this phase's weights: evidence counts from here."""
    until: AwareDatetime | None = None
    verdict: VerdictKind | None = None
    reasons: tuple[Words, ...] = ()


@document(frozen=True, kw_only=True, config=_STRICT)
class TestState:
    """Every test's stakes on one objective: the state from which the judge could go on without older bins."""

    __test__ = False
    """It is no test of pytest's."""

    objective: str
    until: AwareDatetime
    """The end of the last bin that is in it."""
    stakes: Mapping[str, tuple[float, ...]]
    """By test: natural logarithms, one for each alternative, the unplaced stake last."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Rollout:
    """One attempt of a candidate to become stable."""

    id: Annotated[str, Field(pattern=f"^{ROLLOUT_ID}$")]
    started_at: AwareDatetime
    step: Annotated[int, Field(ge=0)] = 0
    """Index into the policy's steps; counts in CANARY, and in PAUSED when paused from there."""
    records: tuple[PhaseRecord, ...]
    """Every phase so far, the current one last."""
    paused_from: Phase | None = None
    clock_since: AwareDatetime | None = None
    """When a person resumed it last: the policy's max_duration counts from there; none: from the start."""
    cause: Cause | None = None
    """Why it is PAUSED or ROLLING_BACK."""
    purpose: Purpose | None = None
    """None: an ordinary rollout, with every step of the policy."""
    asked_by: Words = ""
    """Who asked for it (`sluice undo`, `sluice retry`); empty: its version entered the trigger."""
    dispersion: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """phi by objective, measured before the rollout; one that is not named counts as 1."""
    budget: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Bad events in excess that it may cause, by objective; one that is not named is not counted."""

    def __post_init__(self) -> None:
        """A rollout is in some phase. Raises ValueError."""
        if not self.records:
            raise ValueError("a rollout has at least one phase record")

    @property
    def moments(self) -> tuple[datetime, ...]:
        """All that it names."""
        of_phases = (moment for r in self.records for moment in (r.since, r.live_since, r.until))
        return tuple(m for m in (self.started_at, self.clock_since, *of_phases) if m is not None)

    @property
    def current(self) -> PhaseRecord:
        """The phase that lasts now."""
        return self.records[-1]

    def lasted(self, now: datetime) -> timedelta:
        """How long it has been under way since a person started or resumed it; while PAUSED the clock stands still."""
        since = self.clock_since or self.started_at
        spans = ((max(r.since, since), r.until or now) for r in self.records if r.phase is not Phase.PAUSED)
        return sum((max(end - start, timedelta()) for start, end in spans), timedelta())

    @property
    def traffic_since(self) -> datetime | None:
        """When the candidate first saw requests, copies included: the judge's start."""
        phases = (Phase.SHADOW, Phase.CANARY, Phase.SETTLING, Phase.PAUSED)
        seen = [r.live_since for r in self.records if r.live_since and r.phase in phases]
        return seen[0] if seen else None


@document(frozen=True, kw_only=True, config=_STRICT)
class Quarantined:
    """A version that was rolled back; neither it nor its digest under another number is tried again by itself."""

    version: int
    digest: Digest
    build: str
    """The application that was rolled back: where only the settings were new, only they are quarantined."""
    rollout: str
    since: AwareDatetime
    reasons: tuple[Words, ...]


@document(frozen=True, kw_only=True, config=_STRICT)
class Refused:
    """A version that entered the trigger and was not tried, with the reason."""

    version: int
    reason: Words


class Wish(StrEnum):
    """What a person can ask of a release."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    PROMOTE = "promote"
    """Go on to the next step, without waiting for its evidence; harm still takes it back."""
    UNDO = "undo"
    """Back to the version that served before this one; while nothing runs."""
    RETRY = "retry"
    """Try a version that was stopped again, on fresh evidence; while nothing runs."""
    LIFT = "lift"
    """Take a version out of the quarantine."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Ask:
    """A person's wish, committed to a release; the next look carries it out and removes it."""

    wish: Wish
    by: Words
    why: Words
    version: int | None = None
    """With RETRY and LIFT: which."""


@document(frozen=True, kw_only=True, config=_STRICT)
class Release:
    """The desired state of one model in one environment. It lives in Git and nowhere else."""

    model: Annotated[str, Field(min_length=1)]
    """The registered model's name in MLflow."""
    environment: Annotated[str, Field(min_length=1)]
    revision: Annotated[int, Field(ge=0)] = 0
    """Grows with every change."""
    traffic_revision: Annotated[int, Field(ge=0)] = 0
    """The revision that last changed what serves; hosts ignore a lower one."""
    phase: Phase = Phase.STEADY
    stable: Application | None = None
    candidate: Application | None = None
    weight_percent: Percent = 0
    """Share of requests that the candidate answers."""
    rollout: Rollout | None = None
    seen: tuple[int, ...] = ()
    """Versions seen at the trigger, ascending: only what is new there is wanted."""
    queued: int | None = None
    """The version that entered the trigger last while a rollout was running."""
    quarantine: tuple[Quarantined, ...] = ()
    refused: tuple[Refused, ...] = ()
    ask: Ask | None = None
    served: tuple[Application, ...] = ()
    """Applications that were stable before this one, the latest last."""

    @property
    def candidate_takes_the_route(self) -> bool:
        """Is it answered by the candidate itself at 100 %, without a host? A failing stable version is a bad one."""
        emergency = self.rollout is not None and self.rollout.purpose is Purpose.EMERGENCY
        return self.candidate is not None and (self.stable is None or emergency)

    @property
    def waits_for_a_person(self) -> bool:
        """Is it PAUSED because a person wanted it so? Other pauses may end by themselves."""
        cause = self.rollout.cause if self.rollout else None
        return self.phase is Phase.PAUSED and (cause is None or cause.kind in (CauseKind.ASKED, CauseKind.REVERTED))

    @property
    def contradiction(self) -> str:
        """What the state machine could not have written; empty for nothing. A person can commit anything."""
        running = self.phase is not Phase.STEADY
        if running != (self.rollout is not None) or running != (self.candidate is not None):
            return f"{self.phase} has {'a rollout and a candidate' if running else 'neither a rollout nor a candidate'}"
        if self.phase is Phase.PAUSED and self.rollout and self.rollout.paused_from not in PAUSES:
            return f"PAUSED says in paused_from what goes on: one of {', '.join(PAUSES)}"
        moments = (*(q.since for q in self.quarantine), *(self.rollout.moments if self.rollout else ()))
        if wrong := next((m for m in moments if m.year not in _YEARS), None):
            return f"{wrong.isoformat()} is no moment of a rollout"
        return ""


@document(frozen=True, kw_only=True, config=_STRICT)
class LookRecord:
    """One look that changed something about a rollout, or was asked for."""

    at: AwareDatetime
    signal: str
    """What was noticed, by the signal's name in the table (PASSED, STOPPED, ...)."""
    phase: Phase
    """The phase that was looked at."""
    following: Phase
    """The phase after it."""
    weight_percent: Percent
    """The candidate's share after it."""
    actor: Words
    """Who moved it: `sluicegate`, or the person whose wish or commit it was."""
    tip: str
    """The commit that was looked at; the decision is the next commit of this release on the branch."""
    reasons: tuple[Words, ...] = ()
    verdict: VerdictKind | None = None
    mean_harm: float | None = None
    """The mean e-value of harm, log10."""
    measures: tuple[Measure, ...] = ()
    ask: Ask | None = None
    """The person's wish that it carried out."""
    new_policy: bool = False
    """The policy is another one than at the look before."""


_DAY_S = 86_400.0


@document(frozen=True, kw_only=True, config=_STRICT)
class RecordedEvidence:
    """The bins of one objective as they were judged; what is needed to judge them again.

    One that became too long for a file has its oldest bins in an element of its own before it, several to a bin.
    """

    objective: str
    sli: Sli
    target: float
    threshold_ms: float | None = None
    window_s: Annotated[float, Field(gt=0)] = 30 * 86_400.0
    """The rolling window of the error budget, seconds."""
    query: str
    width_s: Annotated[float, Field(gt=0)]
    """Width of a bin, seconds."""
    since: AwareDatetime
    """Start of the first bin; the others follow without a gap."""
    candidate: tuple[tuple[float, float], ...]
    """(total, bad) of each bin."""
    stable: tuple[tuple[float, float], ...]
    rescued: tuple[float | None, ...] | None = None
    """Of the candidate's bad answers in each bin those that stable, asked in its place, answered well."""
    pairs: tuple[tuple[float, ...], ...] | None = None
    """(only the candidate bad, only stable bad) of each bin; empty where nothing is known of pairs."""

    def __post_init__(self) -> None:
        """Every list has an element for each bin, and what cannot be is refused. Raises ValueError.

        A person can write anything into a record, and a look must be able to count with it.
        """
        if not (self.since.year in _YEARS and self.width_s <= _DAY_S and self.window_s <= 3660 * _DAY_S):
            raise ValueError(f"the bins of {self.objective} lie outside of what can be counted")
        pairs = (*self.candidate, *self.stable, *(self.pairs or ()))
        figures = (*(figure for pair in pairs for figure in pair), *(r or 0.0 for r in self.rescued or ()))
        if not all(0 <= figure <= MAX_COUNT for figure in figures):
            raise ValueError(f"a bin of {self.objective} holds what is no count")
        others = (self.stable, self.rescued, self.pairs)
        if any(other is not None and len(other) != len(self.candidate) for other in others):
            raise ValueError(f"the lists of {self.objective} differ in length: each has an element for each bin")
        if any(len(pair) not in (0, 2) for pair in self.pairs or ()):
            raise ValueError(f"a pair of {self.objective} is two counts, or empty")

    @property
    def until(self) -> datetime:
        """The end of the last bin."""
        return self.since + len(self.candidate) * timedelta(seconds=self.width_s)


@document(frozen=True, kw_only=True, config=_STRICT)
class Record:
    """What a rollout can be explained and judged again from; while it is under way it lies beside its release."""

    rollout: str
    policy: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The RolloutPolicy that was in force at the last look, as its document says it."""
    looks: tuple[LookRecord, ...] = ()
    state: tuple[TestState, ...] = ()
    """Where the tests stood at the last look that moved the release, by objective: recomputable from the bins."""
    evidence: tuple[RecordedEvidence, ...] = ()

    @property
    def contradiction(self) -> str:
        """What no look could have recorded; empty for nothing. A person can commit anything."""
        moments = (*(look.at for look in self.looks), *(state.until for state in self.state))
        wrong = next((m for m in moments if m.year not in _YEARS), None)
        return f"{wrong.isoformat()} is no moment of a look" if wrong else ""


@document(frozen=True, kw_only=True, config=_STRICT)
class HistoryRecord:
    """A finished rollout: `history/<env>/<model>/<rollout>.json`."""

    model: str
    environment: str
    rollout: str
    version: int
    digest: Digest
    stable_version: int | None
    outcome: Outcome
    started_at: AwareDatetime
    ended_at: AwareDatetime
    cause: Cause | None
    phases: tuple[PhaseRecord, ...]
    purpose: Purpose | None = None
    """None: an ordinary rollout, with every step of the policy."""
    dispersion: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """phi by objective, as it was measured before the rollout."""
    budget: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Bad events in excess that it might cause, by objective."""
    record: Record | None = None
    """None in those of older Sluicegates."""
