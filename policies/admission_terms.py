"""What a rollout policy asks of a version before it is tried: `admission` in a RolloutPolicy.

Rules:
- The defaults refuse nothing that serves well today but a changed signature: that breaks callers whatever the evidence
  says later. What depends on how a team works (tags, approvals, metrics, formats) is asked where somebody wrote it.
- Each field's docstring is its description in the JSON Schema and in `docs/config-repo.md`.

This module must not hold what the terms mean: that is `admission_rules.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as document

from policies.wrong_fields import WrongFields

_STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)
_Finite = Annotated[float, Field(ge=-1e300, le=1e300, allow_inf_nan=False)]
_TagKey = Annotated[str, Field(min_length=1, max_length=250)]
_Flavor = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=100)]

ANY_VALUE = "*"
"""As a required tag's value: whatever it is, but not empty."""


@document(frozen=True, kw_only=True, config=_STRICT)
class MetricTerm:
    """One evaluation metric of the version's MLflow run, compared with stable's and with bounds."""

    metric: Annotated[str, Field(min_length=1, max_length=250)]
    """Its name in MLflow."""
    higher_is_better: bool = True
    """false for losses and errors."""
    margin: _Finite = 0.0
    """How much worse than stable's it may be, in the metric's own units; below 0: how much better it must be."""
    at_least: _Finite | None = None
    """A bound whatever stable has; the only one that a first version can be held to."""
    at_most: _Finite | None = None
    """The same from above."""

    def __post_init__(self) -> None:
        """Raises ValueError where no value could pass."""
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise WrongFields(f"at_least {self.at_least:g} is above at_most {self.at_most:g}", "at_least")


@document(frozen=True, kw_only=True, config=_STRICT)
class AdmissionTerms:
    """What is asked of a version before it is tried. docs/admission.md says each check and how to mend it."""

    signature: Literal["compatible", "same", "any"] = "compatible"
    """Against stable's: what its callers send must still be accepted, and what they read still be answered; the very
    same; or whatever it is."""
    tags: Mapping[_TagKey, str] = dataclasses.field(default_factory=dict)
    """Tags that the version must carry, with their values; * is any value."""
    approvals: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$", max_length=100)], ...] = ()
    """Who must have approved: each is a tag approved.<this> on the version whose value says who did; two approvals
    cannot be one person's."""
    metrics: tuple[MetricTerm, ...] = ()
    """Evaluation metrics against stable's."""
    flavors: tuple[_Flavor, ...] | None = None
    """MLflow flavors that may be loaded (sklearn, xgboost, python_function, ...); none: all."""
    pickle: Literal["allow", "warn", "deny"] = "warn"
    """Files that Python's pickle reads can run anything when they are loaded: allowed, said, or refused."""
    pickle_flavors: tuple[_Flavor, ...] = ()
    """Flavors that may have such files whatever `pickle` says."""
    max_size_mib: Annotated[float, Field(gt=0)] | None = None
    """All files of the version together; none: as much as can be read (200 GiB)."""
    capacity: Literal["ignore", "warn", "require"] = "warn"
    """Whether the cluster must have room for the candidate beside stable: nobody asks, it is said, or it is not tried
    before there is."""

    def __post_init__(self) -> None:
        """Raises ValueError where two terms speak of one metric, or an allow rule would mean nothing."""
        names = [term.metric for term in self.metrics]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise WrongFields(f"metrics names {name!r} twice", ("metrics", i))
        if self.pickle_flavors and self.pickle == "allow":
            raise WrongFields("pickle_flavors means nothing while pickle is allow", "pickle_flavors")
