"""The judge at the host: stops a candidate within a few bad answers, on this replica's own counts.

It is a bet against "the candidate's bad rate is at most `allowed`", kept up from request to request: where that holds,
the chance that its worth E *ever* reaches 1/alpha is at most alpha (Ville 1939), however long it goes on.

Over alternatives p_j above p_0 = `allowed` with weights w_j, and start times k with stakes h_k (k counts the
candidate's requests; the stakes add up to 1):

    R_j <- (R_j + h_k) LR_j        LR_j = p_j / p_0 for a bad answer, (1 - p_j) / (1 - p_0) for a good one
    E    = sum_j w_j R_j + (1 - sum_k h_k)

which is the mixture of the likelihood ratios of "from request k on, the rate is p_j" (over start times: Lorden 1971,
Pollak 1978; as an e-process: Shin, Ramdas and Rinaldo 2024). Half of the stake lies on the first request; the rest is
spread so thinly that it lasts for ever, h_k ~ 1 / (k log^2 k): a hundred thousand good answers do not hide a change.

Rules:
- A bad answer is evidence only where stable, asked in the candidate's place or on the same request, answered well.
  Where stable failed as well, nothing is known. Leaving those out cannot raise the rate: of a share p of bad answers,
  (p - x) / (1 - x) <= p is left without the share x of all that both failed.
- While stable itself fails at this replica, more is allowed: p_0 = max(allowed, `Recent.rate`), from answers before
  this one, so that E stays a bet against `allowed`; alternatives that are not above p_0 do not bet. Without it, an
  outage in which either version fails every other request looks like a bad candidate that stable covers for.
- In shadow both answer the same requests and no user waits for the candidate, so more is asked for: the pairs that
  differ must blame the candidate too, `Pairs`. An outage of both, of whatever shape, does not.
- Where stable answers fewer users than the candidate, too little would be known of it: while `suspects`, whoever feeds
  the guard asks stable also what the candidate has answered well (a control).
- After the trip nothing changes any more: what tripped it is what is shown.

It is the recursion of `policies/stakes.py`, without logarithms and with start times that never end: 3 us a request
instead of 50. Nothing here knows requests, Ray, metrics or a clock.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from policies.bets import harm_grid
from policies.stakes import FloatArray
from serving_runtime.user_config import GuardTerms

BETA_PRIOR = 10.0
"""Half of the prior over bad rates is Beta(1, 10): faulty versions mostly fail on some requests, a tenth or so. The
other half is uniform, for those that fail on all: with the first half alone such a version, after 100,000 good answers,
gets 8 bad answers instead of 6 (SLO 99 %), or 13 instead of 10 (SLO 95 %)."""

RECENT_ANSWERS = (8, 32, 128)
"""How many of stable's answers count as lately: the shortest sees an outage at its first bad answer, the longest does
not forget a mild one between two of them."""

PAIR_RISKS = np.geomspace(1.5, 100.0, 8)
"""How many times as often as stable the candidate is the one that fails, in bets on pairs."""


@dataclasses.dataclass(frozen=True)
class Tripped:
    """What tripped it: of `requests` of the candidate that were evidence, `bad`; `log_e` is the natural logarithm."""

    requests: int
    bad: int
    log_e: float


class Guard:
    """One candidate at one host replica. Costs a few microseconds per request."""

    def __init__(self, terms: GuardTerms) -> None:
        """`terms` says what is allowed, and how often a version within it may be stopped."""
        self.terms = terms
        self.tripped: Tripped | None = None
        self._grid = harm_grid(terms.allowed)
        self._weights = prior(self._grid, terms.allowed)
        self._worth = np.zeros_like(
            self._grid
        )  # the R_j; no logarithms: stakes keep them from 0, the trip from growing
        self._bad, self._good = ratios(self._grid, terms.allowed)
        self._stable = Recent()
        self._pairs = Pairs()
        self._requests = 0
        self._failures = 0
        self._e = 1.0

    @property
    def suspects(self) -> bool:
        """Is there more for than against "too many are bad"? Not before the first bad answer."""
        return self.tripped is None and self._e > 1.0

    def stable_answered(self, *, well: bool) -> None:
        """Stable answered some request: a user's, in the candidate's place, or a control."""
        self._stable.add(bad=not well)

    def candidate_answered(self, *, well: bool) -> bool:
        """The candidate answered a user well; or badly, and stable well in its place. True when this trips it."""
        if self.tripped is None:
            self._trip(self._bet(well=well))
            return self.tripped is not None
        return False

    def both_answered(self, *, candidate_well: bool, stable_well: bool) -> bool:
        """Both answered one request in shadow. True when this trips it."""
        if self.tripped is not None or not (candidate_well or stable_well):
            return False
        if candidate_well != stable_well:
            self._pairs.add(candidate_bad=stable_well)
        self._trip(min(self._bet(well=candidate_well), self._pairs.worth))
        return self.tripped is not None

    def _bet(self, *, well: bool) -> float:
        """E after one more of the candidate's answers."""
        allowed = max(self.terms.allowed, self._stable.rate)
        bad, good = (self._bad, self._good) if allowed == self.terms.allowed else ratios(self._grid, allowed)
        self._worth = (self._worth + stake(self._requests)) * (good if well else bad)
        self._requests += 1
        self._failures += not well
        self._e = float(self._weights @ self._worth) + unplaced(self._requests)
        return self._e

    def _trip(self, worth: float) -> None:
        if worth * self.terms.alpha >= 1.0:
            self.tripped = Tripped(self._requests, self._failures, math.log(worth))


class Recent:
    """Stable's bad rate lately: the largest of exponentially weighted means over `RECENT_ANSWERS`, 0 at first."""

    def __init__(self) -> None:
        self._rates = [0.0] * len(RECENT_ANSWERS)
        self.rate = 0.0

    def add(self, *, bad: bool) -> None:
        """One more answer."""
        self._rates = [rate + (bad - rate) / over for rate, over in zip(self._rates, RECENT_ANSWERS, strict=True)]
        self.rate = max(self._rates)


class Pairs:
    """A bet against "of the pairs that differ, at most every second blames the candidate".

    That holds whenever the candidate is no worse than stable at each moment, whatever both fail from and however that
    changes. The module's recursion with p_0 = 1/2, p_j = r_j / (1 + r_j) and equal weights; k counts such pairs.
    """

    def __init__(self) -> None:
        self._worth = np.zeros_like(PAIR_RISKS)
        self._pairs = 0
        self.worth = 1.0

    def add(self, *, candidate_bad: bool) -> None:
        """One more pair that differs."""
        ratio = 2.0 * PAIR_RISKS / (1.0 + PAIR_RISKS) if candidate_bad else 2.0 / (1.0 + PAIR_RISKS)
        self._worth = (self._worth + stake(self._pairs)) * ratio
        self._pairs += 1
        self.worth = float(self._worth.mean()) + unplaced(self._pairs)


# --- the parts of the formula -----------------------------------------------------------------------------------


def prior(grid: FloatArray, allowed: float) -> FloatArray:
    """The weights w_j: the prior's mass between the (geometric) middles of neighbouring alternatives; they add up to 1.

    The first alternative has what lies between `allowed` and it, the last what lies above.
    """
    edges = np.concatenate(([allowed], np.sqrt(grid[1:] * grid[:-1]), [1.0]))
    uniform = np.diff(edges) / (1.0 - allowed)
    above = (1.0 - edges) ** BETA_PRIOR  # Beta(1, b) has the survival function (1 - p)^b
    return np.asarray((uniform + (above[:-1] - above[1:]) / above[0]) / 2.0)


def ratios(grid: FloatArray, allowed: float) -> tuple[FloatArray, FloatArray]:
    """LR_j of one bad and of one good answer; exactly 1 for alternatives that are not above `allowed`."""
    limit = np.minimum(grid, allowed)
    return grid / limit, (1.0 - grid) / (1.0 - limit)


def unplaced(steps: int) -> float:
    """What of the stake is left after so many steps: 1, then 1 / (2 log2(k + 1))."""
    return 1.0 if steps == 0 else 0.5 / math.log2(steps + 1)


def stake(step: int) -> float:
    """h_k, what is placed on step k, counted from 0."""
    return unplaced(step) - unplaced(step + 1)


def words(tripped: Tripped, terms: GuardTerms) -> str:
    """The arithmetic of a trip, for people."""
    return (
        f"{tripped.bad} bad answers, which stable gave well, of {tripped.requests} requests; the SLO allows "
        f"{terms.allowed * 100:g} %; e-value {math.exp(tripped.log_e):.3g} >= {1 / terms.alpha:.3g}"
    )
