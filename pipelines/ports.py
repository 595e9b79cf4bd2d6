"""The doors as the reconciler needs them. Each real door and its in-memory fake pass one contract suite.

Doors raise `Retry` (away, busy, timed out), `Conflict` (a push that lost) and `Stalled` (a person must act), and
nothing else of the outside's own errors. Looking never raises for an outside that is away where the type can say so:
the observation carries `available=False` with a reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from policies.application import Application
from policies.capacity import Capacity
from policies.documents import Trigger
from policies.evidence import Evidence, Objective
from policies.observations import Artifact, RegistrySnapshot, RuntimeObservation, Tip, Trip, VersionFacts
from policies.pull_requests import Approval, CommitStatus, PullRequest
from policies.signatures import Change, Signature
from registry_bridge.config_repo import CommitEntry


class Repo(Protocol):
    """The config repo: one branch."""

    def read(self) -> Tip:
        """Fetch and return the tip. Raises Retry when Git is away, Stalled when the branch does not exist."""

    def commit(self, parent: str, changes: Mapping[str, str | None], message: str) -> str:
        """Commit on top of `parent` and push: compare-and-swap.

        `changes` maps paths to new text, None removes the file. Returns the new commit's hash. Raises Conflict when the
        branch is no longer at `parent` (nothing is left behind), Retry when Git is away, Stalled when the server
        refuses (a protected branch, a hook) with the server's words.
        """

    def applied(self, environment: str) -> str | None:
        """The commit that was last applied there (`refs/sluice/applied/<environment>`)."""

    def mark_applied(self, environment: str, commit: str) -> None:
        """Move that ref. Raises Retry, Stalled."""

    def descends(self, commit: str, ancestor: str) -> bool:
        """Is `ancestor` in the history of `commit`, or the same? False for a commit that is unknown."""

    def read_at(self, commit: str, paths: Collection[str]) -> Mapping[str, str]:
        """Text of those files at an older commit; what did not exist there is left out.

        A path that ends in / means every file below it.
        """

    def log(self, limit: int, path: str | None = None) -> Sequence[CommitEntry]:
        """The branch's newest commits, newest first; with `path` those that changed it."""

    def vouched(self) -> str | None:
        """The commit up to which every change is vouched for (`refs/sluice/vouched`), if signatures are asked for."""

    def mark_vouched(self, commit: str) -> None:
        """Move that ref. Raises Retry, Stalled."""

    def changes(self, since: str, tip: str) -> tuple[Change, ...]:
        """The commits of `tip` that are not in `since`, parents first. Raises Stalled where one is unknown."""

    def signature(self, commit: str, signers: str) -> Signature:
        """Whether the commit's signature counts; `signers` is the text of an allowed_signers file."""

    def branches(self, prefix: str) -> Mapping[str, str]:
        """Heads of the branches below `sluice/` that begin with `prefix`, as they were at the last read."""

    def propose(
        self, branch: str, parent: str, changes: Mapping[str, str | None], message: str, replaces: str | None
    ) -> str:
        """A commit on `parent` as the head of that branch, which is at `replaces` (none: not there yet); its hash.

        Raises Conflict where the branch is elsewhere, else as `commit`.
        """

    def drop(self, branch: str, head: str) -> None:
        """Delete that branch; one that is gone already is well. Raises Conflict where it moved, Retry, Stalled."""


class Registry(Protocol):
    """The MLflow registry."""

    def snapshot(self, models: Collection[str]) -> RegistrySnapshot:
        """Every version of these models with stage, aliases and tags, in a few calls."""

    def artifact(self, model: str, version: int) -> Artifact:
        """What the version's files are and ask for (downloads them once). Raises Retry, Stalled."""

    def facts(self, model: str, version: int) -> VersionFacts:
        """What the version says about itself, and its metrics so far. Raises Retry, Stalled.

        What it says and cannot be read, and metrics of which none are known, are reasons in the answer.
        """

    def annotate(self, model: str, version: int, tags: Mapping[str, str]) -> None:
        """Set these tags on the version. Raises Retry, Stalled."""

    def restore(self, model: str, trigger: Trigger, candidate: int, stable: int | None) -> bool:
        """Take `candidate` out of the trigger and put `stable` there (none: only out).

        Reads again first; acts only while `candidate` is still at the trigger, moves nothing else. Returns False when a
        person was faster. Raises Retry, Stalled.
        """


class Runtime(Protocol):
    """Ray Serve's control door."""

    def observe(self) -> RuntimeObservation:
        """What runs, and what was submitted."""

    def apply(self, config: Mapping[str, Any]) -> None:
        """Submit the whole Serve config (`PUT`); returns at once. Raises Retry, Stalled (Serve refuses it: its words).

        Never submits a config without applications: raises Stalled.
        """

    def capacity(self) -> Capacity:
        """What the cluster has, and what of it is free. Raises Retry, Stalled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvidenceRequest:
    """What the judge wants to know about one rollout."""

    model: str
    """The model's slug: the label `model` of the metrics."""
    candidate: Application
    stable: Application | None
    objectives: tuple[Objective, ...]
    since: datetime
    """Bins from the first clock-aligned edge at or after this."""


class Metrics(Protocol):
    """Prometheus."""

    def evidence(self, requests: Sequence[EvidenceRequest], now: datetime) -> Mapping[str, tuple[Evidence, ...]]:
        """Evidence by the request's model, one for each objective in order; a few queries for all of them.

        Never raises for a backend that is away: the evidence says so in its source.
        """

    def trips(self, requests: Sequence[EvidenceRequest], now: datetime) -> Mapping[str, Trip]:
        """Guards of hosts that have stopped the request's candidate, by model; none where none has.

        One query for all. A backend that is away shows none: the host's guard holds without being seen.
        """


class Clock(Protocol):
    """Time, so that a simulation can have its own."""

    def now(self) -> datetime:
        """UTC, aware."""

    def wait(self, duration: timedelta) -> None:
        """Sleep at most that long; a webhook or a signal may end it sooner."""


class Forge(Protocol):
    """What GitHub, Gitea, Forgejo or GitLab knows of the config repo beside Git: pull requests into its branch.

    Every call raises Retry where the forge is away, busy or limits us (`after` is what it asked for), and Stalled where
    a person must act: a token without the right, a repository that is not there, a forge that refuses.
    """

    def find(self, branch: str) -> PullRequest | None:
        """The pull request from `branch`: the open one, else the newest; None where there never was one."""

    def pull_request(self, number: int) -> PullRequest:
        """That one. Raises Stalled where there is none."""

    def open(self, branch: str, title: str, body: str) -> PullRequest:
        """Open one from `branch`, which must have been pushed. One that is open already is brought up to date."""

    def update(self, number: int, title: str, body: str) -> PullRequest:
        """Give it this title and body; nothing is sent where it has them."""

    def close(self, number: int, comment: str | None = None) -> PullRequest:
        """Close it without merging, with a word why; one that is closed or merged stays as it is, without the word."""

    def merge(self, number: int, head: str) -> str:
        """Merge it if its branch is still at `head`; returns the commit on the base branch.

        One that is merged already, from that head, returns its commit. Raises Conflict where the head moved, Stalled
        where the forge refuses (protected branch, checks, approvals, text conflicts), with its words.
        """

    def approvals(self, number: int) -> Sequence[Approval]:
        """The approvals that stand, one for each person. Whether they are stale says `pull_requests.fresh`."""

    def comment(self, number: int, marker: str, body: str) -> str:
        """Our one comment with this marker: written where there is none, else replaced. Returns its address.

        The marker (a word) is put into the comment where readers do not see it; others' comments are never touched.
        """

    def set_status(self, commit: str, status: CommitStatus) -> None:
        """Show this status beside the commit."""
