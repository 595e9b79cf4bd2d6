"""What a person wants, read from the registry: which version should be tried, or why not.

Rules:
- Level-triggered: only the set of versions at the trigger counts, never the time or the order of events.
- What newly *entered* the trigger is wanted: present now, and not in the release's `seen`.
- Two that entered at once are a tie: refused in words until a person leaves one.
- While a rollout runs, the version that entered last is queued; it is tried when the rollout has ended, if it is still
  there. The candidate itself is not queued, but when it is entered again after it was stopped.
- A quarantined version is tried again only after it left the trigger and entered again.
- A version that its admission refused (`admission_rules.py`) is asked again at every look, after everything else that
  could be wanted, for as long as it is at the trigger and nothing was refused or started since: a tag, an approval or
  a metric that comes later lets it in without a word.
- A change of a model document's settings is a rollout of the stable version with the new settings. Settings that were
  stopped are tried again only after the document asked for others.

This module must not decide what happens to a running rollout: that is `rollout.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from policies.admission import Check, summary
from policies.application import Application, Settings
from policies.documents import Trigger
from policies.observations import Artifact, RegisteredVersion
from policies.release import Phase, Quarantined, Release

TAG_PREFIX = "sluice."
# MLflow's stages in which a version serves nobody.
_NOWHERE = ("None", "Archived")
# MLflow keeps 5,000 characters of a tag's value; a sentence that long helps nobody.
_TAG_VALUE_LIMIT = 500


def at_trigger(trigger: Trigger, versions: Mapping[int, RegisteredVersion]) -> frozenset[int]:
    """The versions that are at the trigger now."""
    return frozenset(number for number, version in versions.items() if _is_at(trigger, version))


def _is_at(trigger: Trigger, version: RegisteredVersion) -> bool:
    if trigger.stage is not None:
        return version.stage == trigger.stage
    if trigger.alias is not None:
        return trigger.alias in version.aliases
    key, _, value = (trigger.tag or "").partition("=")
    return version.tags.get(key) == value


# --- what entered, what left ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Movement:
    """What changed at the trigger since the release last looked."""

    entered: frozenset[int]
    left: frozenset[int]

    @property
    def tie(self) -> bool:
        """More than one entered: nobody can say which is wanted."""
        return len(self.entered) > 1


def movement(release: Release, present: frozenset[int]) -> Movement:
    """Compare the trigger with what the release has seen there. The stable version's return is nothing new."""
    stable = release.stable.version if release.stable else None
    entered = present - frozenset(release.seen) - {stable}
    return Movement(entered=entered, left=frozenset(release.seen) - present)


def keep_books(release: Release, present: frozenset[int]) -> Release:
    """The release with `seen` and `queued` brought up to date.

    A tie is not written into `seen`: it stays a tie until a person leaves one. Nor is what enters while nothing runs:
    that is written together with what became of it.
    """
    moved = movement(release, present)
    queued = release.queued if release.queued in present else None
    if release.phase is Phase.STEADY or moved.tie:
        return dataclasses.replace(release, seen=tuple(sorted(present - moved.entered)), queued=queued)
    for version in moved.entered:
        queued = None if _runs(release, version) else version
    return dataclasses.replace(release, seen=tuple(sorted(present)), queued=queued)


def _runs(release: Release, version: int) -> bool:
    """Is it the version that is on its way up? Who enters that one again wants what happens already."""
    candidate = release.candidate.version if release.candidate else None
    return candidate == version and release.phase is not Phase.ROLLING_BACK


def tie_in_words(trigger: Trigger, entered: frozenset[int]) -> str:
    """Why nothing is tried, and what ends it."""
    names = " and ".join(f"v{n}" for n in sorted(entered))
    return f"{names} are new at {trigger} at the same time: leave only the one that is wanted there"


# --- what should be tried -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Try this version; `again` where its admission refused it before."""

    version: int
    again: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nothing:
    """Nothing is wanted, or not yet, and why."""

    reason: str


def wanted(release: Release, trigger: Trigger, present: frozenset[int], settings: Settings) -> Wanted | Nothing:
    """The version to try next while no rollout is running."""
    moved = movement(release, present)
    if moved.tie:
        return Nothing(reason=tie_in_words(trigger, moved.entered))
    if moved.entered:
        (version,) = moved.entered
        return Wanted(version=version)
    if release.queued is not None and release.queued in present and not _serves(release, release.queued):
        return Wanted(version=release.queued)
    if release.stable and release.stable.settings != settings and not _settings_quarantined(release, settings):
        return Wanted(version=release.stable.version)
    if (refused := _asked_again(release, present)) is not None:
        return Wanted(version=refused, again=True)
    return Nothing(reason=_steady_in_words(release, trigger, settings))


def _serves(release: Release, version: int) -> bool:
    return release.stable is not None and release.stable.version == version


def _asked_again(release: Release, present: frozenset[int]) -> int | None:
    last = release.refused[-1] if release.refused else None
    waits = last is not None and last.checks and last.version in present and not _serves(release, last.version)
    return last.version if last is not None and waits else None


def _settings_quarantined(release: Release, settings: Settings) -> bool:
    if release.stable is None or not release.quarantine:
        return False
    build = dataclasses.replace(release.stable, settings=settings).build
    return any(q.build == build for q in release.quarantine)


def _steady_in_words(release: Release, trigger: Trigger, settings: Settings) -> str:
    if release.stable is None:
        return f"no version has entered {trigger} yet"
    if _settings_quarantined(release, settings):
        return (
            f"v{release.stable.version} serves; its new settings were rolled back and are not tried again until its "
            "document has asked for the ones that serve"
        )
    return f"v{release.stable.version} serves and nothing new is at {trigger}"


# --- what would be tried --------------------------------------------------------------------------------------


def application_of(version: int, artifact: Artifact, settings: Settings) -> Application:
    """The version as it would serve with these settings."""
    requirements = artifact.requirements if settings.installs_requirements else ()
    return Application(version=version, digest=artifact.digest, settings=settings, requirements=requirements)


def lift(quarantine: tuple[Quarantined, ...], version: int) -> tuple[Quarantined, ...]:
    """The quarantine without a version that a person entered again."""
    return tuple(q for q in quarantine if q.version != version)


def lift_settings(release: Release, settings: Settings) -> Release:
    """While its document asks for what serves, no new settings are wanted: those that were stopped may come again."""
    steady = release.phase is Phase.STEADY and release.stable is not None and release.stable.settings == settings
    return without_settings(release) if steady else release


def without_settings(release: Release) -> Release:
    """The release without quarantined settings of its stable version; what is quarantined of it is never itself."""
    if release.stable is None:
        return release
    return dataclasses.replace(release, quarantine=lift(release.quarantine, release.stable.version))


# --- what the registry is told --------------------------------------------------------------------------------


def may_enter(version: int, trigger: Trigger, versions: Mapping[int, RegisteredVersion]) -> bool:
    """May the version be put at the trigger by us? Not where it stands elsewhere.

    A version has one stage: one that a person took on to another must not be pulled back from there.
    """
    shown = versions.get(version)
    return trigger.stage is None or shown is None or shown.stage in (*_NOWHERE, trigger.stage)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InReview:
    """A version that people are asked about before its rollout starts."""

    version: int
    url: str
    """Of the pull request."""


def tags_wanted(
    release: Release, versions: Mapping[int, RegisteredVersion], in_review: InReview | None = None
) -> dict[int, dict[str, str]]:
    """Tags by version that the registry should carry for this environment, those that differ only.

    Keys are `sluice.<environment>.phase`, `.rollout`, `.verdict`, `.admission` and `.review`; our own tags never move a
    trigger.
    """
    prefix = f"{TAG_PREFIX}{release.environment}."
    differing = {}
    for number, said in _said(release, versions, prefix, in_review).items():
        tags = {prefix + key: value[:_TAG_VALUE_LIMIT] for key, value in said.items()}
        have = versions[number].tags if number in versions else {}
        missing = {key: value for key, value in tags.items() if have.get(key) != value}
        if number in versions and missing:
            differing[number] = tags
    return differing


def _said(
    release: Release, versions: Mapping[int, RegisteredVersion], prefix: str, in_review: InReview | None
) -> dict[int, dict[str, str]]:
    said = {
        n: {"phase": "RETIRED"} for n, v in versions.items() if v.tags.get(prefix + "phase", "RETIRED") != "RETIRED"
    }
    for refused in release.refused:
        said[refused.version] = {"phase": "REFUSED", "verdict": refused.reason, **_asked(refused.checks)}
    for q in release.quarantine:
        said[q.version] = {"phase": "QUARANTINED", "rollout": q.rollout, "verdict": "; ".join(q.reasons)}
    if in_review:
        said[in_review.version] = {"phase": "IN_REVIEW", "review": in_review.url}
    if release.candidate and release.rollout:
        said[release.candidate.version] = {
            "phase": _phase_in_words(release),
            "rollout": release.rollout.id,
            **_asked(release.rollout.admission),
        }
    if release.stable and not (release.candidate and release.candidate.version == release.stable.version):
        said[release.stable.version] = {"phase": "STABLE"}
    return said


def _asked(checks: tuple[Check, ...]) -> dict[str, str]:
    return {"admission": summary(checks)} if checks else {}


def _phase_in_words(release: Release) -> str:
    return f"{release.phase} {release.weight_percent} %" if release.phase is Phase.CANARY else str(release.phase)
