"""A verdict's reasons: its arithmetic in words, for an engineer at three in the morning.

Rules:
- One line per objective, what decided first. It states counts of both versions, estimate, limit, e-values and
  thresholds; what lasts (PASS, FAIL) also states window, age and query, so that the record alone explains it.
- E-values are rounded down: none reads larger than it is.
- Nothing is computed here that decides.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from policies.bets import harm_grid, requests_to_prove
from policies.documents import RolloutPolicy
from policies.durations import format_duration
from policies.evidence import Counts, Objective, Sli
from policies.findings import SUSPECTED, Finding
from policies.stakes import FIRST
from policies.standing import NOTHING, Harm, least_effect
from policies.verdict import VerdictKind

LONGEST_FORECAST = timedelta(days=30)
"""A proof further away than this is not worth a figure; the line says "more than"."""

_LARGEST_PLAIN_EXPONENT = 3
"""E-values beyond a thousand, or below a thousandth, are written with an exponent: zeros are hard to count."""

_ROUNDING = 1e-9
"""Forgiven before rounding down, so that ln 100 reads 100 and not 99.9."""

_AGAINST = {Harm.SLO: "against the SLO", Harm.STABLE: "against stable"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """What a verdict has to say."""

    kind: VerdictKind
    policy: RolloutPolicy
    findings: Sequence[Finding]
    mean_harm: float
    """Logarithm of the mean that is compared with 1/alpha."""
    step_since: datetime | None
    now: datetime

    def reasons(self) -> tuple[str, ...]:
        """A line per objective, and for a verdict that lasts one more that says where its counts come from."""
        ranked = sorted(self.findings, key=self._rank)
        lines = [self._line(finding) for finding in ranked]
        if self.kind in (VerdictKind.PASS, VerdictKind.FAIL):
            lines += [_measured(finding) for finding in ranked if not finding.trouble]
        return tuple(lines)

    def _rank(self, finding: Finding) -> float:
        """What decided comes first: the most harm, or what is unavailable, or what is still lacking."""
        if self.kind is VerdictKind.FAIL:
            return -finding.worst
        if finding.trouble:
            return 0
        return 2 if finding.passes else 1

    def _line(self, finding: Finding) -> str:
        if finding.trouble:
            return _unavailable(finding)
        parts = [_counted(finding), self._harm(finding)]
        if self.kind is not VerdictKind.FAIL:
            parts += [self._proof(finding), _step(finding)]
        return "; ".join(parts)

    def _harm(self, finding: Finding) -> str:
        """Both harms; the worst of all objectives also carries the comparison that decides."""
        each = ", ".join(f"{e_value(finding.harm[h])} {_AGAINST[h]}" for h in Harm)
        text = f"harm e-value {each}"
        small = any(c < h - NOTHING for c, h in zip(finding.counted, finding.harm, strict=True))
        if small:
            least = least_effect(finding.objective.allowed_bad_rate, self.policy.min_effect)
            side = "below" if finding.objective.good_is_rare else "above"
            text += f" (counts as 1: less than {percent(least)} {side} what it is compared with)"
        if finding is not max(self.findings, key=lambda f: f.worst):
            return text
        return f"{text}, {self._mean()} {self._comparison()}"

    def _mean(self) -> str:
        tests = len(self.findings) * len(Harm)
        away = tests - sum(len(f.counted) for f in self.findings)
        note = f" ({away} unavailable, counted as 0)" if away else ""
        return f"mean of {tests} tests{note} {e_value(self.mean_harm)}"

    def _comparison(self) -> str:
        threshold = e_value(-math.log(self.policy.alpha))
        return f">= {threshold} -> FAIL" if self.kind is VerdictKind.FAIL else f"< {threshold}"

    def _proof(self, finding: Finding) -> str:
        threshold = e_value(-math.log(self.policy.beta))
        if finding.proved_at:
            best, what = (finding.equal, " (against stable)") if finding.by_stable else (finding.proof, "")
            return f"proof e-value {e_value(best)}{what} >= {threshold} since {finding.proved_at:%H:%M:%S} UTC"
        return f"proof e-value {e_value(finding.proof)} < {threshold}, {self._lacking(finding)}"

    def _lacking(self, finding: Finding) -> str:
        """What the proof still needs: at the rate seen so far or, where that never proves it, if all goes well."""
        if finding.objective.good_is_rare:
            return self._lacking_good(finding)
        counts, allowed = finding.counts, finding.objective.allowed_bad_rate
        goal = -math.log(self.policy.beta) - math.log(FIRST)  # the part of the stakes that began with the first bin
        if not counts.total:
            return f"about {requests_to_prove(counts, allowed, goal, rate=0):,.0f} good requests"
        needed = requests_to_prove(counts, allowed, goal, rate=counts.bad / counts.total)
        if math.isfinite(needed):
            return f"about {needed:,.0f} more requests at this rate{self._pace(finding, needed)}"
        needed = requests_to_prove(counts, allowed, goal, rate=0)
        return f"never at this rate, about {needed:,.0f} more requests without a bad one{self._pace(finding, needed)}"

    def _lacking_good(self, finding: Finding) -> str:
        """The same where good events are the rare ones: a proof is that there are more of them than asked for."""
        good, target = _good(finding.counts), finding.objective.target
        goal = -math.log(self.policy.beta) - math.log(FIRST)
        at_this_rate = good.bad / good.total if good.total else 1.0
        needed = requests_to_prove(good, target, goal, rate=at_this_rate, grid=harm_grid(target))
        if math.isfinite(needed):
            how = " at this rate" if good.total else ", all good"
            return f"about {needed:,.0f} more reports{how}{self._pace(finding, needed)}"
        return "never at this rate"

    def _pace(self, finding: Finding, needed: float) -> str:
        """How long that takes at this step's traffic, where there is any."""
        if not (self.step_since and self.now > self.step_since and finding.step and finding.step.total):
            return ""
        seconds = needed * (self.now - self.step_since).total_seconds() / finding.step.total
        if seconds > LONGEST_FORECAST.total_seconds():
            return f" (more than {format_duration(LONGEST_FORECAST)})"
        return f" (some {format_duration(timedelta(seconds=math.ceil(seconds)))})"


def e_value(log_e: float) -> str:
    """An e-value of three digits at most from its logarithm, rounded down: `0.0213`, `85.1`, `1,230`, `4.1e6`, `0`."""
    if log_e == -math.inf:
        return "0"
    shifted = log_e + _ROUNDING
    exponent = math.floor(shifted / math.log(10))
    mantissa = math.exp(shifted - exponent * math.log(10)) + _ROUNDING
    if abs(exponent) > _LARGEST_PLAIN_EXPONENT:
        return f"{math.floor(mantissa * 10) / 10:.1f}e{exponent}"
    value = math.floor(mantissa * 100) / 100 * 10.0**exponent
    return f"{value:,.0f}" if exponent == _LARGEST_PLAIN_EXPONENT else f"{value:.3g}"


def percent(rate: float) -> str:
    """A share with three digits: `2.57 %`."""
    return f"{100 * rate:.3g} %"


def _counted(finding: Finding) -> str:
    objective, stable = finding.objective, finding.stable
    if not finding.counts.total:
        return f"{objective.name}: no requests yet"
    beside = ""
    if stable.total:
        beside = f", stable {_number(stable.bad)} of {_number(stable.total)} ({percent(stable.bad / stable.total)})"
    if objective.good_is_rare:
        beside = beside and f", stable {_bad_of(objective, stable)}"
        return (
            f"{objective.name}: {_bad_of(objective, finding.counts)}{beside}, SLO asks for {percent(objective.target)}"
        )
    allowed = percent(objective.allowed_bad_rate)
    return f"{objective.name}: {_bad_of(objective, finding.counts)}{beside}, SLO allows {allowed}"


def _bad_of(objective: Objective, counts: Counts) -> str:
    """`31 bad of 1,204 (2.57 %)`, `3 of 5,210 over 200 ms (0.0576 %)`. Needs at least one request."""
    if objective.good_is_rare:
        good = _good(counts)
        return f"{_number(good.bad)} good of {_number(good.total)} ({percent(good.bad / good.total)})"
    share = percent(counts.bad / counts.total)
    if objective.sli is Sli.LATENCY and objective.threshold_ms is not None:
        return f"{_number(counts.bad)} of {_number(counts.total)} over {objective.threshold_ms:g} ms ({share})"
    return f"{_number(counts.bad)} bad of {_number(counts.total)} ({share})"


def _good(counts: Counts) -> Counts:
    """Good events in the place of bad ones."""
    return Counts(counts.total, counts.total - counts.bad)


def _step(finding: Finding) -> str:
    if finding.step is None:
        return "this step's weights are not live yet"
    if not finding.step.total:
        if not finding.asked:
            return "nobody can report in shadow"
        return "no requests in this step yet" if not finding.measured else "nothing to compare in this step"
    counts = "all of these" if finding.step == finding.counts else _bad_of(finding.objective, finding.step)
    worst = max(finding.step_suspicion)
    if worst > SUSPECTED:
        return f"this step {counts}, harm e-value {e_value(worst)} > {e_value(SUSPECTED)}: harm is suspected"
    over_all = "; over all it is above 1: harm is suspected" if finding.suspected else ""
    return f"this step {counts}, harm e-value {e_value(worst)} <= {e_value(SUSPECTED)}{over_all}"


def _unavailable(finding: Finding) -> str:
    source = finding.evidence.source
    return f"{finding.objective.name}: unavailable: {finding.trouble}{_age(source.age)}; query: {source.query}"


def _measured(finding: Finding) -> str:
    evidence = finding.evidence
    span = f"{len(evidence.bins):,} {'bin' if len(evidence.bins) == 1 else 'bins'} of {format_duration(evidence.width)}"
    if evidence.bins:
        span += f" from {evidence.bins[0].start:%Y-%m-%d %H:%M:%S} UTC"
    return f"{finding.objective.name}: counted in {span}{_age(evidence.source.age)}; query: {evidence.source.query}"


def _age(age: timedelta | None) -> str:
    if age is None:
        return ""
    return f", newest sample {format_duration(timedelta(seconds=round(age.total_seconds())))} old"


def _number(events: float) -> str:
    return f"{events:,.0f}" if events == int(events) else f"{events:,.1f}"
