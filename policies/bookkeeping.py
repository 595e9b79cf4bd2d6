"""What changes about a release without a change of phase: wishes, the trigger's books, revisions. Pure."""

from __future__ import annotations

import dataclasses

from policies.actions import Action, WriteRelease
from policies.admission import lines
from policies.facts import Idle, Observed, Rules
from policies.promotion import at_trigger, keep_books, lift_settings
from policies.release import Phase, Refused, Release
from policies.wishes import carried_out


def books(release: Release, observed: Observed, rules: Rules) -> tuple[Release, str]:
    """The release with everything that changes without a change of phase, and what became of a wish, in words."""
    kept, wish = carried_out(_obey(release, observed), observed.versions)
    if observed.versions is not None:
        kept = keep_books(kept, at_trigger(rules.trigger, observed.versions))
    return (lift_settings(kept, rules.settings) if rules.settings else kept), wish


def _obey(release: Release, observed: Observed) -> Release:
    """A release that a person's commit changed: what was learnt since is kept, its revision is the highest.

    That of a model which was removed and came back counts from what its replicas know, or they would ignore it.
    """
    before = observed.taken_back_from
    if before is None:
        if observed.known_revision <= release.traffic_revision:
            return release
        return dataclasses.replace(release, revision=max(release.revision + 1, observed.known_revision))
    known = {(q.version, q.build): q for q in (*before.quarantine, *release.quarantine)}
    return dataclasses.replace(
        release,
        # Never its own: wishes on top of a revert raise that, and the hosts would not be told anew.
        revision=max(release.revision + 1, before.revision, observed.known_revision),
        seen=tuple(sorted({*release.seen, *before.seen})),
        quarantine=tuple(known.values()),
        ask=None,
    )


def book_entries(release: Release, kept: Release, noticed: Idle | Refused, wish: str) -> tuple[Action, ...]:
    """The commit of what was kept and of a version that was refused, if anything is new."""
    subject = wish or _books_in_words(release, kept)
    if isinstance(noticed, Refused):
        kept = _refused(kept, noticed)
        subject = f"v{noticed.version} refused"
    if kept == release:
        return ()
    reasons = lines(noticed.checks) if isinstance(noticed, Refused) and noticed.checks else (noticed.reason,)
    return (WriteRelease(release=revised(release, kept), subject=subject, reasons=reasons),)


def _refused(release: Release, refused: Refused) -> Release:
    """The release that knows of it. Only the newest one is asked again; a person's wish to try it is answered.

    What is asked again at every look and refused for the same reason is no news, whatever its other checks say by now.
    """
    before = release.refused[-1] if release.refused else None
    if before and before.checks and (before.version, before.reason) == (refused.version, refused.reason):
        refused = before
    others = (dataclasses.replace(r, checks=()) for r in release.refused if r.version != refused.version)
    ask = release.ask if release.ask and release.ask.version != refused.version else None
    seen = tuple(sorted({*release.seen, refused.version}))
    return dataclasses.replace(release, refused=(*others, refused), seen=seen, queued=None, ask=ask)


def _books_in_words(release: Release, kept: Release) -> str:
    if kept.queued != release.queued and kept.queued is not None:
        return f"v{kept.queued} queued behind the running rollout"
    left = sorted(set(release.seen) - set(kept.seen))
    came = sorted(set(kept.seen) - set(release.seen))
    words = [f"v{n} left the trigger" for n in left] + [f"v{n} is at the trigger again" for n in came]
    if not words and dataclasses.replace(kept, revision=release.revision) == release:
        return "its revision goes on from what Ray was told"
    return ", ".join(words) or "a person's commit taken up"


def revised(before: Release, after: Release) -> Release:
    """`after` with the next revision; `traffic_revision` follows only where something else serves than before.

    `before` is the release in Git. Where a person's commit took it back, the hosts already know higher revisions.
    """
    revision = after.revision + 1
    moved = _serving(before) != _serving(after) or after.revision != before.revision
    return dataclasses.replace(
        after, revision=revision, traffic_revision=revision if moved else before.traffic_revision
    )


def _serving(release: Release) -> tuple[object, ...]:
    """Everything of a release that a replica or a route can tell."""
    paused_from = release.rollout.paused_from if release.rollout else None
    phase = paused_from if release.phase is Phase.PAUSED else release.phase
    return (phase, release.stable, release.candidate, release.weight_percent)
