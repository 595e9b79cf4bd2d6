"""`sluice replay`: recorded rollouts, or Prometheus's data of them, judged again with another policy.

Rules:
- What would have happened stands beside what did, with what a replay cannot know.
- Bins come from the record; where it has none, or where that is wished, from Prometheus for the same window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.commands.explain import chosen, rollouts
from pipelines.defaults import built_in_documents
from pipelines.look import Doors
from pipelines.ports import EvidenceRequest, Repo
from policies.config_repo_documents import ConfigRepo, read_repo, with_defaults
from policies.document_reading import read_document
from policies.documents import RolloutPolicy
from policies.durations import format_duration
from policies.errors import BadInput
from policies.evidence import Evidence
from policies.layout import Place, history_path, record_path, release_path
from policies.names import slug
from policies.notes import errors
from policies.observations import Tip
from policies.past_rollout import Past, finished, under_way
from policies.rejudging import turning_point
from policies.release import Phase, PhaseRecord, Release
from policies.replay import Replay, replay
from policies.slo import asked_of
from policies.stored_documents import parse_history, parse_record, parse_release, plain

LOG = 2_000
"""Commits of one release that are searched for a rollout's own."""


# --- what is asked --------------------------------------------------------------------------------------------


def policy_of(name_or_file: str, repo: ConfigRepo) -> RolloutPolicy:
    """A policy from a file, or one of the config repo by its name. Raises BadInput."""
    path = Path(name_or_file)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BadInput(f"{name_or_file} is no text in UTF-8: a RolloutPolicy in YAML is asked for") from error
        read = read_document(name_or_file, text, Place.POLICY)
        if errors(read.notes):
            raise BadInput("\n".join(str(n) for n in errors(read.notes)))
        if isinstance(read.value, RolloutPolicy):
            return read.value
        raise BadInput(f"{name_or_file} holds a {read.kind}: a RolloutPolicy is asked for")
    if name_or_file not in repo.policies:
        raise BadInput(
            f"there is no policy {name_or_file!r}: name one of {', '.join(sorted(repo.policies))}, or a .yaml file"
        )
    return repo.policies[name_or_file]


def documents(tip: Tip) -> ConfigRepo:
    """The tip's documents. Raises BadInput with what is wrong with them."""
    reading = read_repo(with_defaults(tip.files, built_in_documents()))
    if reading.repo is None:
        raise BadInput("\n".join(str(n) for n in errors(reading.notes)))
    return reading.repo


def pasts(tip: Tip, rollout: str | None, since: datetime | None, model: str | None) -> tuple[Past, ...]:
    """The rollout of that id, or all that began since then, oldest first. Raises BadInput."""
    told = [one for one in rollouts(tip) if model in (None, one.model)]
    if since is not None:
        told = [one for one in told if one.started_at >= since]
        if not told:
            raise BadInput(f"no rollout has begun since {since:%Y-%m-%d %H:%M} UTC")
    else:
        told = [chosen(told, rollout, model)]
    return tuple(_past(tip, one.environment, one.model, one.rollout) for one in told)


def _past(tip: Tip, environment: str, model: str, rollout: str) -> Past:
    path = history_path(environment, slug(model), rollout)
    if path in tip.files:
        return finished(parse_history(tip.files[path], path))
    release = release_path(environment, slug(model))
    record = record_path(environment, slug(model))
    known = parse_record(tip.files[record], record) if record in tip.files else None
    return under_way(parse_release(tip.files[release], release), known if known and known.rollout == rollout else None)


# --- Prometheus's data ----------------------------------------------------------------------------------------


def from_prometheus(past: Past, doors: Doors, tip: Tip, now: datetime) -> Past:
    """The same rollout with the bins that Prometheus has of its time. Raises BadInput where it has none."""
    repo = documents(tip)
    release = _release_of(past, doors.repo)
    key = slug(past.model)
    since = next((p.live_since for p in past.phases if p.live_since and p.phase not in _WITHOUT_TRAFFIC), None)
    if since is None or release.candidate is None or release.rollout is None:
        raise BadInput(f"{past.rollout} never had traffic: there is nothing to judge")
    if key not in repo.models or past.environment not in repo.sluice.environments:
        raise BadInput(f"{past.model} ({past.environment}) is in the config repo no longer: its SLOs are not known")
    request = EvidenceRequest(
        model=key,
        candidate=release.candidate,
        stable=release.stable,
        objectives=asked_of(release.rollout, [repo.slos[name] for name in repo.models[key].slos]),
        since=since,
    )
    target = repo.sluice.environments[past.environment].prometheus
    evidence = doors.metrics(target).evidence([request], past.ended_at or now)[key]
    away = next((e for e in evidence if not e.source.available), None)
    if away is not None:
        raise BadInput(f"{past.rollout}: Prometheus cannot tell of that time: {away.source.reason}")
    return dataclasses.replace(past, evidence=evidence)


_WITHOUT_TRAFFIC = (Phase.WARMING, Phase.ROLLING_BACK)


def _release_of(past: Past, repo: Repo) -> Release:
    """The release as it was while that rollout ran: the versions' builds are there. Raises BadInput."""
    path = release_path(past.environment, slug(past.model))
    for entry in repo.log(LOG, path):
        if past.rollout in entry.trailers.get("Sluice-Rollout", "").split(", "):
            texts = repo.read_at(entry.commit, [path])
            release = parse_release(texts[path], path) if path in texts else None
            if release and release.rollout and release.rollout.id == past.rollout:
                return release
    raise BadInput(f"{past.rollout} is not in the last {LOG:,} commits of {path}: its builds are not known")


def judged_again(
    all_of_them: Sequence[Past], policy: RolloutPolicy, doors: Doors, tip: Tip, now: datetime, *, prometheus: bool
) -> tuple[tuple[Replay, ...], tuple[str, ...]]:
    """Replays of these rollouts, and why there are none of others.

    Bins come from Prometheus where that is wished, or where a record has none. Raises BadInput where there is no replay
    at all.
    """
    replays, problems = [], []
    for past in all_of_them:
        try:
            had_traffic = any(p.live_since and p.phase not in _WITHOUT_TRAFFIC for p in past.phases)
            asked = had_traffic and (prometheus or not past.evidence)
            replays.append(replay(from_prometheus(past, doors, tip, now) if asked else past, policy))
        except BadInput as error:
            problems.append(str(error))
    if not replays:
        raise BadInput("\n".join(problems))
    return tuple(replays), tuple(problems)


# --- in words -------------------------------------------------------------------------------------------------


def lines(replays: Sequence[Replay]) -> Iterator[str]:
    """Each rollout as it was and as it would have been; of several, a line that counts them at the end."""
    for one in replays:
        yield from _block(one)
    if len(replays) > 1:
        other = sum(not one.same for one in replays)
        yield f"{len(replays)} rollouts: {len(replays) - other} would have gone the same way, {other} another"


def _block(one: Replay) -> Iterator[str]:
    past = one.past
    over = f"over v{past.stable_version}" if past.stable_version is not None else "as the first version"
    yield f"{past.model} ({past.environment}) v{past.version} {over}, rollout {past.rollout}"
    policy = past.record.policy.get("name", "unknown")
    yield f"  as it was, by policy {policy}: {_end(past.outcome, past.ended_at, past.started_at)}"
    yield from (f"    {line}" for line in _phases(past.phases))
    same = "the same" if one.same else "another way"
    yield f"  by policy {one.policy.name}, {same}: {_end(one.outcome, one.ended_at, past.started_at)}"
    yield from (f"    {line}" for line in _phases(one.phases))
    turn = None if one.same else turning_point(one)
    if turn is not None:
        yield f"    it turns off at {turn.at:%H:%M:%S} UTC, {turn.phase} -> {turn.following}:"
        yield from (f"      {reason}" for reason in turn.reasons)
    if one.waits and not one.same:
        yield f"    it waits: {one.waits}"
    yield from (f"  cannot be known: {unknown}" for unknown in one.unknown)


def _end(outcome: Any, ended_at: datetime | None, started_at: datetime) -> str:
    if outcome is None or ended_at is None:
        return "still under way"
    return f"{outcome.value.replace('_', ' ')} after {format_duration(_whole(ended_at - started_at))}"


def _whole(duration: timedelta) -> timedelta:
    """To a second: no look is worth more digits."""
    return timedelta(seconds=round(duration.total_seconds()))


def _phases(phases: Sequence[PhaseRecord]) -> Iterator[str]:
    for phase in phases:
        end = f"{phase.until:%H:%M:%S}" if phase.until else "..."
        weight = f" {phase.weight_percent} %" if phase.phase in (Phase.CANARY, Phase.PAUSED) else ""
        verdict = f" {phase.verdict.value}" if phase.verdict else ""
        yield f"{phase.since:%H:%M:%S}-{end} {phase.phase.value}{weight}{verdict}"


def as_data(one: Replay) -> Mapping[str, Any]:
    """One replay for programs."""
    past = one.past
    return {
        "model": past.model,
        "environment": past.environment,
        "rollout": past.rollout,
        "policy": one.policy.name,
        "same": one.same,
        "recorded": {
            "policy": past.record.policy.get("name"),
            "outcome": past.outcome,
            "ended_at": plain(past.ended_at),
            "phases": plain(past.phases),
        },
        "replayed": {
            "outcome": one.outcome,
            "ended_at": plain(one.ended_at),
            "phases": plain(one.phases),
            "cause": plain(one.cause),
            "looks": plain(one.looks),
            "waits": one.waits,
        },
        "unknown": list(one.unknown),
        "bins": {e.objective.name: _span(e) for e in past.evidence},
    }


def _span(evidence: Evidence) -> Mapping[str, Any]:
    bins = evidence.bins
    return {
        "bins": len(bins),
        "since": plain(bins[0].start) if bins else None,
        "until": plain(bins[-1].start + evidence.width) if bins else None,
    }
