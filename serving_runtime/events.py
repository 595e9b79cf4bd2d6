"""What a host counts, and the port that takes it. `telemetry.py` makes metrics of it."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from serving_runtime.feedback import Refusal
from serving_runtime.outcomes import Fallback, Joint, Outcome, Served, UserOutcome


@dataclasses.dataclass(frozen=True)
class VersionEvent:
    """One request as evidence about a version."""

    served: Served
    outcome: Outcome


@dataclasses.dataclass(frozen=True)
class ShadowEvent:
    """One copied request as evidence about the pair; `served` is the candidate."""

    served: Served
    joint: Joint


@dataclasses.dataclass(frozen=True)
class AgreementEvent:
    """One copied request that both answered well: do all predictions agree? `served` is the candidate."""

    served: Served
    agrees: bool


@dataclasses.dataclass(frozen=True)
class FallbackEvent:
    """Stable answered what was drawn for the candidate `served`."""

    served: Served
    why: Fallback


@dataclasses.dataclass(frozen=True)
class FeedbackEvent:
    """A user said what became of an answer; `served` is the version that the request was drawn for."""

    served: Served
    good: bool


@dataclasses.dataclass(frozen=True)
class RefusedFeedbackEvent:
    """A user said something that belongs to no answer."""

    why: Refusal


Event = VersionEvent | ShadowEvent | AgreementEvent | FallbackEvent | FeedbackEvent | RefusedFeedbackEvent


class Tally(Protocol):
    """Where counts go. Cheap; never raises."""

    def count(self, event: Event, number: int) -> None:
        """Add `number` of these."""

    def answered(self, outcome: UserOutcome) -> None:
        """A user got this."""

    def announce(self, served: Served, *, candidate: bool) -> None:
        """From now on this version can be counted: its series start at 0."""

    def segment_took(self, version: int, segment: str, elapsed_ms: float) -> None:
        """A user of this segment, which is one of a closed set, waited that long; `version` gave the answer."""
