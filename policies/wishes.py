"""What a person wants of a release (`sluice pause`, ..., `sluice lift`): which wishes are in vain, and what some do.

Rules:
- A wish that would change nothing is refused in words, by the command where it can know and by the next look
  otherwise: it must not lie in the release and act in a later phase.
- Of two wishes before one look the later counts, but an abort that waits is replaced by no other wish.
- A wish that a revert brings back was carried out already; it is dropped (ADR 4).
- RETRY and LIFT name their version; only RETRY of the stable version means its settings.

This module must not start or move anything: what a wish leads to is `starting.py` and `noticing.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from policies.application import Application
from policies.observations import RegisteredVersion
from policies.release import Ask, Phase, Release, Wish

Versions = Mapping[int, RegisteredVersion]

# --- in vain --------------------------------------------------------------------------------------------------


def in_vain(release: Release, ask: Ask, versions: Versions | None = None) -> str:
    """Why the wish would change nothing, for a sentence that begins with the model; empty where it would.

    `versions` are those in the registry, none where they are not known.
    """
    if ask.wish in _OF_A_ROLLOUT and release.rollout is None:
        return f"is {release.phase}: no rollout is running that could be changed"
    if ask.wish in _OF_A_ROLLOUT and release.phase is Phase.ROLLING_BACK:
        return "is on its way back to stable already"
    if (before := release.ask) is not None and release.rollout is not None and _goes_first(before.wish, ask.wish):
        return f"waits for the next look, which carries out the wish of {before.by} to {before.wish.value}"
    if ask.wish in (Wish.UNDO, Wish.RETRY) and release.candidate is not None:
        return f"is in {release.phase}: v{release.candidate.version} is on its way; abort it, or wait for its end"
    return _CHECKS[ask.wish](release, ask, versions)


def _goes_first(waits: Wish, other: Wish) -> bool:
    """Is the wish that waits for more safety than the other one, which may not take its place then?"""
    return (waits in _SAFE and other not in _SAFE) or (waits is Wish.ABORT and other is Wish.PAUSE)


_SAFE = frozenset({Wish.ABORT, Wish.PAUSE})
"""Wishes that no other takes the place of before they are carried out, but an abort that of a pause."""

_OF_A_ROLLOUT = frozenset({Wish.PAUSE, Wish.RESUME, Wish.ABORT, Wish.PROMOTE})


def _pause(release: Release, ask: Ask, _: Versions | None) -> str:
    replaces_another = release.ask not in (None, ask)
    return "is paused already: resume or abort it" if release.waits_for_a_person and not replaces_another else ""


def _resume(release: Release, _: Ask, __: Versions | None) -> str:
    paused = release.phase is Phase.PAUSED
    return "" if paused else f"is in {release.phase}, not paused: there is nothing to resume"


def _abort(_: Release, __: Ask, ___: Versions | None) -> str:
    return ""


def _promote(release: Release, _: Ask, __: Versions | None) -> str:
    paused_from = release.rollout.paused_from if release.rollout else None
    if Phase.WARMING not in (release.phase, paused_from):
        return ""
    return f"is in {release.phase} and its candidate is not warm: there is no step yet that could be skipped"


def _undo(release: Release, _: Ask, versions: Versions | None) -> str:
    target = undone_to(release)
    if target is None:
        return "has no version that served before this one: there is nothing to go back to"
    if versions is not None and target.version not in versions:
        return f"cannot go back to v{target.version}: it is not in the registry any more"
    return ""


def _retry(release: Release, ask: Ask, versions: Versions | None) -> str:
    stable = release.stable.version if release.stable else None
    if ask.version is None:
        return "has no version that was stopped last: say with --version which one to try again"
    if ask.version == stable and not _quarantined(release, ask.version):
        return f"is served by v{ask.version} already: there is nothing to try again"
    if versions is not None and ask.version not in versions:
        return f"has no v{ask.version} in the registry: there is nothing to try again"
    return ""


def _lift(release: Release, ask: Ask, _: Versions | None) -> str:
    if ask.version is None:
        return "needs --version: which version is to be lifted from the quarantine"
    if _quarantined(release, ask.version):
        return ""
    there = ", ".join(f"v{n}" for n in sorted({q.version for q in release.quarantine})) or "nothing"
    return f"has no v{ask.version} in its quarantine; there is {there}"


_CHECKS: Mapping[Wish, Callable[[Release, Ask, Versions | None], str]] = {
    Wish.PAUSE: _pause,
    Wish.RESUME: _resume,
    Wish.ABORT: _abort,
    Wish.PROMOTE: _promote,
    Wish.UNDO: _undo,
    Wish.RETRY: _retry,
    Wish.LIFT: _lift,
}


# --- what some do ---------------------------------------------------------------------------------------------


def carried_out(release: Release, versions: Versions | None) -> tuple[Release, str]:
    """The release without a wish that moves nothing, and what became of it in words; empty words where none did."""
    ask = release.ask
    if ask is None:
        return release, ""
    if why := in_vain(release, ask, versions):
        without = dataclasses.replace(release, ask=None)
        return without, f"the wish of {ask.by} to {ask.wish.value} is refused: {release.model} {why}"
    lifts = ask.wish is Wish.LIFT or (ask.wish is Wish.RETRY and _is_stable(release, ask.version))
    if lifts and ask.version is not None:
        return lifted(release, ask.version), f"v{ask.version} is lifted from the quarantine; {ask.by}: {ask.why}"
    return release, ""


def lifted(release: Release, version: int) -> Release:
    """The release without that version in its quarantine. Where it is at the trigger, it counts as new there."""
    return dataclasses.replace(
        release,
        ask=None,
        quarantine=tuple(q for q in release.quarantine if q.version != version),
        seen=tuple(n for n in release.seen if n != version or _is_stable(release, version)),
    )


def undone_to(release: Release) -> Application | None:
    """What served before the stable version; none where nothing did."""
    return release.served[-1] if release.served else None


def last_stopped(release: Release) -> int | None:
    """The version that was quarantined last: what `sluice retry` means where it is told no other."""
    return max(release.quarantine, key=lambda q: q.since).version if release.quarantine else None


def only_asks(before: Release, after: Release) -> bool:
    """Did a person's commit by hand add a wish to the release and change nothing else?"""
    return after.ask is not None and after.ask != before.ask and dataclasses.replace(after, ask=before.ask) == before


def _quarantined(release: Release, version: int) -> bool:
    return any(q.version == version for q in release.quarantine)


def _is_stable(release: Release, version: int | None) -> bool:
    return release.stable is not None and release.stable.version == version
