"""Lint of a whole config repo: documents that are right one by one and wrong together.

Rules:
- Each check is a small function from the repo to notes; `CHECKS` lists them all.
- An error is what would lose requests, mix up evidence, make two writers fight, or publish a secret. What is only
  unwise is a warning.
- A value that may be a secret is never repeated.

What a document alone can get wrong is `documents.py`; what does not exist at all is `config_repo_documents.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta

from policies.application import Settings
from policies.cluster_consistency import CHECKS as CLUSTER_CHECKS
from policies.config_repo_documents import BUILT_IN, ConfigRepo
from policies.documents import Bake, EnvironmentDocument, ModelDocument, RolloutPolicy
from policies.durations import format_duration
from policies.evidence import Sli
from policies.loopback import leads_to_loopback
from policies.notes import Note, Severity, in_order
from policies.packages import conflicts
from policies.query_templates import read_pair
from policies.secret_values import has_secret_shape, is_random, is_secret
from policies.strict_yaml import Path, dotted

# A first scrape has the series, a second a difference; two more and one lost scrape is no gap. Flagger and Argo wait
# about as long.
MIN_SCRAPES = 4
# One look is a Git fetch, a registry page, a Ray status and a few queries: half a second when all is near.
LOOK_FLOOR = timedelta(seconds=1)
# Below this four services are asked more often than any of them changes.
LOOK_ADVISED = timedelta(seconds=5)


def check(repo: ConfigRepo) -> tuple[Note, ...]:
    """Everything that the documents of one repo get wrong together, in order."""
    return in_order(note for one in CHECKS for note in one(repo))


def candidate_timeout(model: ModelDocument) -> timedelta:
    """When the host answers in the candidate's place: half of the request's time where nothing is written."""
    return model.candidate_timeout or model.request_timeout / 2


# --- environments ---------------------------------------------------------------------------------------------


def _pairs(repo: ConfigRepo) -> Iterator[tuple[tuple[str, EnvironmentDocument], tuple[str, EnvironmentDocument]]]:
    return itertools.combinations(repo.sluice.environments.items(), 2)


def _one_writer_per_trigger(repo: ConfigRepo) -> Iterator[Note]:
    """Two environments that both move the trigger back would undo each other's decisions."""
    for (first, one), (second, other) in _pairs(repo):
        if one.trigger == other.trigger and one.on_rollback == other.on_rollback == "restore":
            message = (
                f"{first} watches {other.trigger} too, and both would restore it after a rollback; "
                "only one may write to the registry: write on_rollback: annotate here"
            )
            yield repo.note("sluice", "", ("environments", second, "on_rollback"), message)


def _one_environment_per_cluster(repo: ConfigRepo) -> Iterator[Note]:
    """Serve's config is submitted whole: what it leaves out is deleted."""
    for (first, one), (second, other) in _pairs(repo):
        if _address(one.ray.dashboard) == _address(other.ray.dashboard):
            message = f"{first} has this Ray cluster already; the two would delete each other's applications"
            yield repo.note("sluice", "", ("environments", second, "ray", "dashboard"), message)


def _evidence_apart(repo: ConfigRepo) -> Iterator[Note]:
    """The metrics of two clusters differ in the labels of Prometheus only."""
    for (first, one), (second, other) in _pairs(repo):
        same = _address(one.prometheus.url) == _address(other.prometheus.url)
        if same and one.prometheus.labels == other.prometheus.labels:
            message = (
                f"{first} reads the same series from this Prometheus, so each would count the other's answers: "
                "give both labels that tell them apart"
            )
            yield repo.note("sluice", "", ("environments", second, "prometheus", "labels"), message)


def _address(url: str) -> str:
    return url.rstrip("/").lower()


def _look_interval(repo: ConfigRepo) -> Iterator[Note]:
    for name, environment in repo.sluice.environments.items():
        path: Path = ("environments", name, "look_interval")
        interval = repo.as_written("sluice", "", path, environment.look_interval)
        if environment.look_interval < LOOK_FLOOR:
            yield repo.note("sluice", "", path, f"{interval} is shorter than a look takes: write at least 1s")
        elif environment.look_interval < LOOK_ADVISED and not repo.sluice.is_on_one_machine(name):
            message = f"{interval} asks four services more often than they change: 5s or more is enough"
            yield repo.note("sluice", "", path, message, Severity.WARNING)


def _scrape_interval(repo: ConfigRepo) -> Iterator[Note]:
    for name, environment in repo.sluice.environments.items():
        if environment.prometheus.scrape_interval < LOOK_FLOOR:
            path: Path = ("environments", name, "prometheus", "scrape_interval")
            yield repo.note("sluice", "", path, "is shorter than Ray exports its metrics: write at least 1s")


def _access_is_said(repo: ConfigRepo) -> Iterator[Note]:
    """Replicas that others reach refuse everybody until somebody has said who may call."""
    for name, environment in repo.sluice.environments.items():
        if environment.access is None and not leads_to_loopback(environment.ray.dashboard):
            message = (
                "is not written, and this Ray cluster is no loopback one: where Serve takes requests from elsewhere, "
                "every one would be refused; write keys or jwt, or open: true to let anybody call"
            )
            yield repo.note("sluice", "", ("environments", name, "access"), message)


def _reviews_have_a_forge(repo: ConfigRepo) -> Iterator[Note]:
    """Git alone has no pull requests: people could never answer."""
    for name, environment in repo.sluice.environments.items():
        if environment.review != "none" and repo.sluice.forge is None:
            message = "asks people by pull requests, and nobody says where: write forge in sluice.yaml, or review: none"
            yield repo.note("sluice", "", ("environments", name, "review"), message)


def _keys_of_tokens_come_safely(repo: ConfigRepo) -> Iterator[Note]:
    """Whoever can change that answer on its way can make tokens for everything."""
    for name, environment in repo.sluice.environments.items():
        url = environment.access.jwt.jwks_url if environment.access and environment.access.jwt else None
        if url is not None and not url.startswith("https://") and not leads_to_loopback(url):
            path: Path = ("environments", name, "access", "jwt", "jwks_url")
            yield repo.note("sluice", "", path, "is not https: who changes the keys on their way may call as anybody")


# --- models ---------------------------------------------------------------------------------------------------


def _time_for_stable(repo: ConfigRepo) -> Iterator[Note]:
    """When the candidate does not answer, the host needs time to do it."""
    for key, model in repo.models.items():
        path: Path = ("candidate_timeout",)
        if candidate_timeout(model) >= model.request_timeout:
            limit = repo.as_written("models", key, path, candidate_timeout(model))
            whole = repo.as_written("models", key, ("request_timeout",), model.request_timeout)
            message = (
                f"{limit} leaves stable no time to answer in its place: must be shorter than request_timeout, {whole}"
            )
            yield repo.note("models", key, path, message)


def _time_to_be_slow(repo: ConfigRepo) -> Iterator[Note]:
    """A candidate that is cut off at the SLO's threshold is never seen to be slow."""
    for key, model in repo.models.items():
        limit = candidate_timeout(model)
        field = "request_timeout" if model.candidate_timeout is None else "candidate_timeout"
        for name in model.slos:
            threshold = repo.slos[name].threshold_ms
            if threshold is not None and limit <= timedelta(milliseconds=threshold):
                given = repo.as_written("models", key, ("candidate_timeout",), limit)
                message = (
                    f"the candidate is given {given}, but the SLO {name} allows {threshold:g} ms: "
                    "a slow answer would be cut off before it could be called slow"
                )
                yield repo.note("models", key, (field,), message)


def _time_after_features(repo: ConfigRepo) -> Iterator[Note]:
    """A version that waits for features as long as anybody waits for it has no time left to predict."""
    for key, model in repo.models.items():
        features, limit = model.settings.features, candidate_timeout(model)
        if features is not None and timedelta(milliseconds=features.timeout_ms) >= limit:
            whole = repo.as_written("models", key, ("candidate_timeout",), limit)
            message = f"must be shorter than a candidate's whole time, {whole}"
            yield repo.note("models", key, ("settings", "features", "timeout_ms"), message)


def _agreement_has_evidence(repo: ConfigRepo) -> Iterator[Note]:
    """Predictions are compared in shadow, and nowhere else."""
    for key, model in repo.models.items():
        agreement = [i for i, name in enumerate(model.slos) if repo.slos[name].sli is Sli.AGREEMENT]
        if agreement and len(agreement) == len(model.slos):
            message = (
                "a first version has no stable to agree with, and would never be proved healthy: name another SLO "
                "beside it, such as errors"
            )
            yield repo.note("models", key, ("slos",), message)
        if agreement and repo.policies[model.rollout].shadow is None:
            message = (
                f"{model.slos[agreement[0]]} compares predictions in shadow, and the policy {model.rollout} has no "
                "shadow: no rollout is held to it"
            )
            yield repo.note("models", key, ("slos", agreement[0]), message, Severity.WARNING)


def _counted_exactly(repo: ConfigRepo) -> Iterator[Note]:
    """An expression is evaluated, and what it counts is an estimate."""
    for name, objective in repo.slos.items():
        if objective.queries is None or read_pair(objective.queries).exact:
            continue
        message = (
            "its counts are estimates, in bins of four scrapes: Prometheus evaluates the expressions, and increase() "
            "sees nothing before a series' first scrape. Counters written alone, as name{...}, are counted exactly"
        )
        yield repo.note("slos", name, ("spec", "indicator"), message, Severity.WARNING)


def _served_somewhere(repo: ConfigRepo) -> Iterator[Note]:
    for section, documents in (("models", repo.models), ("ensembles", repo.ensembles)):
        for key, served in documents.items():
            if served.environments == ():
                message = f"is empty: no environment serves this {section[:-1]}; leave the line out for all"
                yield repo.note(section, key, ("environments",), message, Severity.WARNING)


def _time_for_members(repo: ConfigRepo) -> Iterator[Note]:
    """A host answers in its candidate's place: an ensemble that gave up before never hears of it."""
    patience = {model.name: candidate_timeout(model) for model in repo.models.values()}
    for key, ensemble in repo.ensembles.items():
        for i, name in enumerate(ensemble.members):
            if ensemble.patience <= patience[name]:
                message = (
                    f"{name} waits {format_duration(patience[name])} for a candidate before it answers in its place, "
                    f"and a member has {format_duration(ensemble.patience)} here: a hanging candidate would fail the "
                    "ensemble"
                )
                yield repo.note("ensembles", key, ("members", i), message, Severity.WARNING)


def _minimum_counts(repo: ConfigRepo) -> Iterator[Note]:
    """A number that nobody reads is not what its author means."""
    for key, ensemble in repo.ensembles.items():
        _, parsed = repo.sources[("ensembles", key)]
        if ensemble.on_failure == "fail" and parsed.value(("minimum",)) is not None:
            everybody = f"{ensemble.minimum} is not read while on_failure is fail: then all members must answer well"
            message = f"{everybody}; write on_failure: leave_out, or leave minimum out"
            yield repo.note("ensembles", key, ("minimum",), message, Severity.WARNING)


def _packages_can_be_had(repo: ConfigRepo) -> Iterator[Note]:
    """What admission would refuse of a version for what its document says."""
    served = [("models", key, model.settings) for key, model in repo.models.items()]
    served += [("ensembles", key, ensemble.settings) for key, ensemble in repo.ensembles.items()]
    for section, key, settings in served:
        path: Path = ("settings", "packages")
        shown = {i: package for i, package in enumerate(settings.packages) if not has_secret_shape(package)}
        alone = [((*path, i), why) for i, package in shown.items() for why in conflicts([package])]
        for where, why in alone or [(path, why) for why in conflicts(shown.values())]:
            yield repo.note(section, key, where, why)


def _somebody_may_force(repo: ConfigRepo) -> Iterator[Note]:
    """A permission needs a key that carries it."""
    for key, model in repo.models.items():
        if model.forced_version is None or model.forced_version.to != "keys":
            continue
        for name, environment in repo.sluice.environments.items():
            if key in repo.serves(name) and (environment.access is None or environment.access.open):
                message = f"nobody can: {name} asks nobody for a key (environments.{name}.access in sluice.yaml)"
                yield repo.note("models", key, ("forced_version", "to"), message, Severity.WARNING)


# --- policies -------------------------------------------------------------------------------------------------


def _bakes(policy: RolloutPolicy) -> Iterator[tuple[str, Bake]]:
    if policy.shadow is not None:
        yield "shadow", policy.shadow
    yield "step", policy.step
    yield "settle", policy.settle


def _long_enough_to_measure(repo: ConfigRepo) -> Iterator[Note]:
    """Where a policy is used, its steps last for some scrapes."""
    for environment in repo.sluice.environments:
        for name in sorted({model.rollout for model in repo.serves(environment).values()}):
            for part, bake in _bakes(repo.policies[name]):
                yield from _bake_in(repo, environment, name, part, bake)


def _bake_in(repo: ConfigRepo, environment: str, name: str, part: str, bake: Bake) -> Iterator[Note]:
    needed = MIN_SCRAPES * repo.sluice.environments[environment].prometheus.scrape_interval
    scrapes = f"is shorter than {MIN_SCRAPES} scrapes in {environment}, {format_duration(needed)}"
    least, most = (
        repo.as_written("policies", name, (part, field), getattr(bake, field))
        for field in ("min_duration", "max_duration")
    )
    if bake.max_duration < needed:
        message = f"{most} {scrapes}: nothing could ever pass"
        yield _about_policy(repo, name, (part, "max_duration"), environment, message, Severity.ERROR)
    elif bake.min_duration < needed:
        message = f"{least} {scrapes}: it would pass on hardly any evidence"
        yield _about_policy(repo, name, (part, "min_duration"), environment, message, Severity.WARNING)


def _about_policy(repo: ConfigRepo, name: str, path: Path, environment: str, message: str, severity: Severity) -> Note:
    """At the policy, or at the scrape interval where the policy is a built-in one that nobody can edit."""
    source = repo.sources.get(("policies", name))
    if source is None or not source[0].startswith(BUILT_IN):
        return repo.note("policies", name, path, message, severity)
    at: Path = ("environments", environment, "prometheus", "scrape_interval")
    return repo.note("sluice", "", at, f"in the built-in policy {name}, {dotted(path)}: {message}", severity)


def _room_for_every_step(repo: ConfigRepo) -> Iterator[Note]:
    for name, policy in repo.policies.items():
        shadow = policy.shadow.min_duration if policy.shadow is not None else timedelta()
        least = shadow + len(policy.steps) * policy.step.min_duration + policy.settle.min_duration
        if least > policy.max_duration:
            most = repo.as_written("policies", name, ("max_duration",), policy.max_duration)
            message = f"{most} is shorter than its steps together, {format_duration(least)}: no rollout could end"
            yield repo.note("policies", name, ("max_duration",), message)


# --- secrets --------------------------------------------------------------------------------------------------


def _no_secrets(repo: ConfigRepo) -> Iterator[Note]:
    """What is in Git is read by many and stays for ever."""
    for key, model in repo.models.items():
        yield from _no_secrets_in(repo, "models", key, model.settings)
    for key, ensemble in repo.ensembles.items():
        yield from _no_secrets_in(repo, "ensembles", key, ensemble.settings)
        for name, value in ensemble.options.items():
            if isinstance(value, str):
                yield from _not_secret(repo, "ensembles", key, ("options", name), value)


def _no_secrets_in(repo: ConfigRepo, section: str, key: str, settings: Settings) -> Iterator[Note]:
    for name, value in settings.env.items():
        yield from _not_secret(repo, section, key, ("settings", "env", name), value)
    for name, option in ({} if settings.features is None else settings.features.options).items():
        yield from _not_secret(repo, section, key, ("settings", "features", "options", name), str(option))
    for i, package in enumerate(settings.packages):
        if has_secret_shape(package):
            message = "holds a password or token: configure pip on the Ray nodes instead"
            yield repo.note(section, key, ("settings", "packages", i), message)


def _not_secret(repo: ConfigRepo, section: str, key: str, path: Path, value: str) -> Iterator[Note]:
    if is_secret(str(path[-1]), value):
        message = "looks like a secret: set it in the environment of the Ray nodes, and never in Git"
        yield repo.note(section, key, path, message)
    elif is_random(value):
        message = "looks random, like a secret: if it is one, set it in the environment of the Ray nodes"
        yield repo.note(section, key, path, message, Severity.WARNING)


CHECKS: tuple[Callable[[ConfigRepo], Iterator[Note]], ...] = (
    _one_writer_per_trigger,
    _one_environment_per_cluster,
    _evidence_apart,
    _look_interval,
    _scrape_interval,
    _access_is_said,
    _keys_of_tokens_come_safely,
    _reviews_have_a_forge,
    _time_for_stable,
    _time_to_be_slow,
    _time_after_features,
    _agreement_has_evidence,
    _counted_exactly,
    _served_somewhere,
    _time_for_members,
    _minimum_counts,
    _packages_can_be_had,
    _somebody_may_force,
    _long_enough_to_measure,
    _room_for_every_step,
    _no_secrets,
    *CLUSTER_CHECKS,
)
