"""`sluice init`: a config repo that works, with comments that say what to change.

Rules:
- What it writes passes `sluice lint`; answers that would not are refused in lint's words, before anything is written.
- Nothing is overwritten. Everything is written beside its place first and then moved there, `sluice.yaml` last: a
  folder without it is no config repo, so a half-written one is never taken for a whole one.

This module must not print, and knows no Git: committing is the caller's.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pipelines.defaults import built_in_documents
from policies.config_repo_documents import read_repo
from policies.consistency import check
from policies.durations import format_duration
from policies.errors import BadInput
from policies.layout import FOLDERS, SLUICE, model_path
from policies.loopback import leads_to_loopback
from policies.names import slug
from policies.notes import errors
from policies.strict_yaml import dump

_README = "README.md"
_FOR_EXPERIMENTS = ("rollout-experiment.yaml", "slo-feedback.yaml")
"""Built in too, but not for everybody: who runs one copies them (docs/experiments.md)."""
_FIFTEEN_SECONDS = timedelta(seconds=15)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """What a config repo must know; every field has an answer that suits parts on this machine."""

    environment: str = "production"
    trigger_kind: Literal["stage", "alias", "tag"] = "stage"
    trigger: str = "Production"
    """The stage, the alias without its @, or key=value."""
    registry: str = "http://127.0.0.1:5000"
    ray: str = "http://127.0.0.1:8265"
    prometheus: str = "http://127.0.0.1:9090"
    scrape_interval: timedelta = _FIFTEEN_SECONDS
    look_interval: timedelta = _FIFTEEN_SECONDS
    grpc: bool = False
    """Serve was started for gRPC, and models answer it."""
    models: tuple[str, ...] = ()
    """Registered models by name; none: one example."""


def init(folder: Path, answers: Answers) -> tuple[str, ...]:
    """Write a config repo into `folder`; returns the paths written. A README.md that is there stays as it is.

    Raises BadInput when something there would be overwritten, or for answers that `sluice lint` would refuse.
    """
    files = repo_files(answers)
    _refuse_to_overwrite(folder)
    if os.path.lexists(folder / _README):
        files = {path: text for path, text in files.items() if path != _README}
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
    near = folder if folder.exists() else folder.parent
    aside = Path(tempfile.mkdtemp(prefix=".sluice-init-", dir=near))
    try:
        staged = aside / "repo"  # mkdtemp's own folder is for its owner only; a config repo is read by others too
        _write(staged, files)
        _move(staged, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)  # what is left there is a copy nobody needs
    return tuple(sorted(files))


def repo_files(answers: Answers) -> Mapping[str, str]:
    """The text of every file that `init` writes, by path. Raises BadInput for answers that lint would refuse."""
    files = {
        SLUICE: _sluice_text(answers),
        _README: _README_TEXT,
        **{f"policies/{name}": text for name, text in built_in_documents().items() if name not in _FOR_EXPERIMENTS},
    }
    for name in answers.models or ("example",):
        path = model_path(slug(name))
        if files.get(path, _model_text(name)) != _model_text(name):
            raise BadInput(f"two models have the same safe name, {slug(name)}: rename one, or leave {name!r} out")
        files[path] = _model_text(name)
    reading = read_repo({path: text for path, text in files.items() if path != _README})
    wrong = errors([*reading.notes, *(check(reading.repo) if reading.repo is not None else ())])
    if wrong:
        raise BadInput("these answers make no working config repo:\n" + "\n".join(str(note) for note in wrong))
    return files


def _refuse_to_overwrite(folder: Path) -> None:
    if os.path.lexists(folder) and not folder.is_dir():
        raise BadInput(f"{folder} is no folder: give a new one, or an empty one")
    for name in (SLUICE, *(part.rstrip("/") for part in FOLDERS)):
        there = folder / name
        if os.path.lexists(there) and not _is_empty_folder(there):
            raise BadInput(f"{there} is there already and is not overwritten: give a new folder, or change the file")


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _write(staged: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8", newline="\n")


def _move(staged: Path, folder: Path) -> None:
    """Move everything into place; what was moved is taken back when a later move fails."""
    if not folder.exists():
        staged.rename(folder)
        return
    names = sorted((entry.name for entry in staged.iterdir()), key=lambda name: (name == SLUICE, name))
    moved: list[str] = []
    try:
        for name in names:
            (staged / name).rename(folder / name)
            moved.append(name)
    except OSError:
        for name in moved:
            (folder / name).rename(staged / name)
        raise


# --- texts ----------------------------------------------------------------------------------------------------


def _scalar(value: str) -> str:
    """Text as YAML, quoted where it needs to be."""
    return dump(value).rstrip("\n")


def _sluice_text(answers: Answers) -> str:
    return f"""\
# The environments of this config repo: for each, what in the registry means "serve this here", and where its Ray
# cluster and its Prometheus are. Secrets are never written here; they come from environment variables.
apiVersion: sluicegate/v1
kind: Sluice

registry:
  # Credentials come from MLflow's own variables: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or
  # MLFLOW_TRACKING_TOKEN.
  tracking_uri: {_scalar(answers.registry)}

environments:
  {_scalar(answers.environment)}:
    # A version that newly enters this is tried here. One of
    #   stage: Production
    #   alias: champion
    #   tag: key=value
    trigger:
      {_scalar(answers.trigger_kind)}: {_scalar(answers.trigger)}
    ray:
      # Its token, where it asks for one, comes from RAY_AUTH_TOKEN.
      dashboard: {_scalar(answers.ray)}
    prometheus:
      url: {_scalar(answers.prometheus)}
      # How often it scrapes Ray; evidence is counted in bins of this width.
      scrape_interval: {format_duration(answers.scrape_interval)}
    # After a rollback: restore moves the registry back to the version that serves, annotate only writes tags.
    on_rollback: restore
    # How often everything is looked at.
    look_interval: {format_duration(answers.look_interval)}
{_GRPC if answers.grpc else ""}{"" if leads_to_loopback(answers.ray) else _ACCESS}"""


_GRPC = """\
    # The Open Inference Protocol over gRPC, for every model. Serve is started for it, or this has no effect.
    grpc:
      enabled: true
"""
_ACCESS = """\
    # Who may call. Here: who has a key whose hash is in this file on each node (sluice keys new NAME). Or tokens of an
    # identity provider (jwt), or open: true, which lets anybody call.
    access:
      keys:
        file: /etc/sluice/keys
"""


def _model_text(name: str) -> str:
    return f"""\
# How one registered model is served. Every field: `sluice schema Model`.
apiVersion: sluicegate/v1
kind: Model

# As it is called in the MLflow registry. It is reached at
#   /models/{slug(name)}/invocations
# unless `route` says otherwise.
name: {_scalar(name)}

# What each replica reserves. A change here restarts replicas, so it is rolled out like a new version.
settings:
  cpus: 1

# How many replicas; changes in place.
autoscaling:
  min_replicas: 1
  max_replicas: 1

# After this an answer is a failure; replicas that go away may finish for longer than this.
request_timeout: 30s
graceful_shutdown: 40s

# How a new version becomes stable, and what it is judged by: documents in policies/.
rollout: default
slos: [errors, latency]
"""


_README_TEXT = """\
# Config repo

What serves here is what this repository says. Sluicegate reads it, brings Ray Serve to it, and commits every step of
every rollout to it, with the evidence in the message.

| path | written by | what it is |
|---|---|---|
| `sluice.yaml` | people | environments: trigger, Ray cluster, Prometheus |
| `models/<model>.yaml` | people | how a registered model is served |
| `ensembles/<name>.yaml` | people | several models behind one route |
| `policies/*.yaml` | people | rollout policies and SLOs (OpenSLO v1) |
| `environments/<env>/releases/<model>.yaml` | Sluicegate | what should serve: stable, candidate, phase, weight |
| `environments/<env>/serve.yaml` | Sluicegate | the Ray Serve config, exactly what is applied |
| `history/<env>/<model>/<rollout>.json` | Sluicegate | the record of a finished rollout |

## For reviewers

- Change `sluice.yaml`, `models/`, `ensembles/` and `policies/` by pull request; leave the rest to Sluicegate.
  `sluice lint .` names every mistake with file, line and what would be right. Run it on each pull request.
- `settings` of a model restarts replicas: it is rolled out like a new version. `autoscaling` and the timeouts change in
  place. A changed policy holds from the next look on, also for a rollout that is under way.
- No secrets, also not in `settings.env`: whatever is here is read by many and stays for ever.
- To undo a promotion, `git revert` its commit: Ray goes back without losing a request. `git log` is the audit trail;
  the trailers (`Sluice-Rollout:`, `Sluice-Verdict:`) say which rollout a commit belongs to.
"""
