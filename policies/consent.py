"""What people are asked to agree to before it happens, and what the forge shows of their answer: nouns only.

A consent is a small document that says one step of one rollout. Asked for, it lies on a branch of its own with a pull
request; merged, it lies on the config repo's branch, until the commit that carries it out takes it away. Nothing in it
depends on the moment or on other models, so a branch never has to follow the one that it is merged into.

What is asked, and what an answer means, is `consenting.py`. This module must not decide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

from policies.layout import consent_path
from policies.names import slug
from policies.pull_requests import Approval, PullRequest
from policies.strict_yaml import dump

BRANCHES: Final = "sluice/"
"""Branches below this are Sluicegate's: `sluice/<environment>/<slug>/...`."""
START: Final = "start"
STABLE: Final = "stable"

_COMMENT = "# Written by Sluicegate: whoever merges this agrees. To say no, close its pull request.\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Consent:
    """One step of one rollout that people are asked to agree to."""

    model: str
    environment: str
    version: int
    digest: str
    build: str
    """The application: version and settings."""
    to: str = START
    """`start`; a share in percent, 100 included; or `stable`."""
    rollout: str = ""
    """The running rollout's id; empty for a start."""

    @property
    def branch(self) -> str:
        """The same for the same consent, so that whoever comes later finds what was done already."""
        name = f"{self.rollout}-to-{self.to}" if self.rollout else f"v{self.version}-{self.build}"
        return branches_of(self.environment, self.model) + name

    @property
    def path(self) -> str:
        """Where it lies, on its own branch and after its merge."""
        return consent_path(self.environment, slug(self.model))

    @property
    def text(self) -> str:
        """The same bytes for the same consent."""
        fields = {"apiVersion": "sluicegate/v1", "kind": "Consent", **dataclasses.asdict(self)}
        return _COMMENT + dump({key: value for key, value in fields.items() if value != ""})

    @property
    def what(self) -> str:
        """What is asked, for a sentence."""
        if self.to == START:
            return f"v{self.version} is wanted"
        share = "become stable" if self.to == STABLE else f"get {self.to} %"
        return f"v{self.version} is to {share}"


def branches_of(environment: str, model: str) -> str:
    """What the names of all branches begin with that ask about this model there."""
    return f"{BRANCHES}{environment}/{slug(model)}/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outdated:
    """A branch of ours whose question nobody needs to answer any more."""

    head: str
    pull: PullRequest | None
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConsentLook:
    """What Git and the forge show of one model's questions."""

    consent: Consent | None = None
    """What people are asked, or would be; none: nothing now."""
    reason: str = ""
    """Why the forge could not be asked."""
    head: str | None = None
    """Of the consent's branch in Git; none where it has none."""
    head_text: str | None = None
    """What the branch says at the consent's place."""
    pull: PullRequest | None = None
    """From that branch: the open one, else the newest."""
    approvals: tuple[Approval, ...] = ()
    """Of the pull request, where it is open or was merged."""
    arrived: bool = False
    """It was merged, and the tip has its commit."""
    outdated: Mapping[str, Outdated] = dataclasses.field(default_factory=dict)
    """By branch."""
