"""What is done after the commit: the registry is told, and people are asked by pull requests.

Rules:
- Everything can be repeated: what a look before did is found done.
- One thing that goes wrong is said and keeps nothing else from being done; the next look tries again.

This module must not decide.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import assert_never

from pipelines.consents import ask, tell, withdraw
from pipelines.look import Doors, Look
from policies.actions import (
    Action,
    Annotate,
    AskConsent,
    RemoveRelease,
    Restore,
    TellReviewers,
    UseConsent,
    Wait,
    WithdrawConsent,
    WriteHistory,
    WriteRecord,
    WriteRelease,
)
from policies.errors import SluiceError, Stalled
from policies.promotion import TAG_PREFIX

_LOG = logging.getLogger(__name__)


def carry_out(doors: Doors, actions: Sequence[Action], look: Look, tip: str) -> Iterator[str]:
    """Carry out what is not a commit to the branch, which is at `tip`; yields what went wrong."""
    for action in actions:
        try:
            _carry_out(doors, action, look, tip)
        except SluiceError as error:
            yield str(error)


def _carry_out(doors: Doors, action: Action, look: Look, tip: str) -> None:
    match action:
        case Annotate():
            tags = {**action.tags, f"{TAG_PREFIX}{action.environment}.commit": tip}
            doors.registry(look.registry).annotate(action.model, action.version, tags)
        case Restore():
            trigger = look.environments[action.environment].document.trigger
            registry = doors.registry(look.registry)
            moved = registry.restore(action.model, trigger, action.candidate, action.stable)
            _LOG.info("%s: v%s left %s: %s", action.model, action.candidate, trigger, moved)
        case AskConsent() | WithdrawConsent() | TellReviewers():
            _with_people(doors, action, look, tip)
        case WriteRelease() | WriteRecord() | WriteHistory() | RemoveRelease() | UseConsent() | Wait():
            pass  # the commit carried them, or there is nothing to do
        case _:
            assert_never(action)


def _with_people(doors: Doors, action: AskConsent | WithdrawConsent | TellReviewers, look: Look, tip: str) -> None:
    target = look.documents.sluice.forge
    if target is None or doors.forge is None:
        raise Stalled("sluice.yaml names no forge any more: there are no pull requests")
    forge = doors.forge(target)
    match action:
        case AskConsent():
            ask(doors.repo, forge, action, tip)
        case WithdrawConsent():
            withdraw(doors.repo, forge, action)
        case TellReviewers():
            tell(forge, action)
        case _:
            assert_never(action)
