"""What model versions say about themselves: signature and flavor from MLmodel, metrics from their run.

Rules:
- MLmodel never changes: it is read once for a version, in the background (`read_once.py`). Metrics may be logged later
  than the version: they are read anew each time.
- A metric of the logged model (MLflow 3) counts before one of the same name of its run, which may have trained several.
- What is not there (a run that was deleted, an MLmodel that cannot be read) is said in the facts; an outside that is
  away raises.

It must not load a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from policies.artifact_digest import MLMODEL, MLMODEL_BYTES, Content
from policies.artifact_formats import described
from policies.errors import BadInput, Retry, Stalled
from policies.model_signatures import Signature
from policies.observations import VersionFacts
from registry_bridge.mlflow_words import in_our_words
from registry_bridge.model_artifacts import artifact_files
from registry_bridge.read_once import ReadOnce
from registry_bridge.version_artifacts import Key

_LOGGED_MODEL = "models:/"
_MODEL_ID = "m-"
MOST_METRICS = 10_000
"""Of a run, in the order in which MLflow names them; a training run logs tens."""


class FactsOfVersions:
    """Facts by version. `scratch` is where one file at a time is put; none means the system's folder."""

    def __init__(self, client: Callable[[], Any], tracking_uri: str, scratch: Path | None = None) -> None:
        self._client, self._tracking_uri, self._scratch = client, tracking_uri, scratch
        self._described: ReadOnce[tuple[Signature | None, str, str]] = ReadOnce()

    def of(self, key: Key, uri: Callable[[], str], run_id: str) -> VersionFacts:
        """Of the version whose files lie at `uri`, which is asked for once. Raises Retry."""
        what = f"{MLMODEL} of version {key[1]} of {key[0]}"
        try:
            signature, flavor, reason = self._described.of(key, what, lambda: self._describe(uri, what))
        except Stalled as error:
            signature, flavor, reason = None, "", str(error)
        metrics, missing = self._metrics(run_id, _model_id(key[2]), f"version {key[1]} of {key[0]}")
        return VersionFacts(
            signature=signature,
            flavor=flavor,
            signature_reason=reason,
            run=_places(run_id, key[2]),
            metrics=metrics,
            metrics_reason=missing,
        )

    def _describe(self, uri: Callable[[], str], what: str) -> tuple[Signature | None, str, str]:
        """Signature and flavor, or what is wrong with the text: that stays so, for a version never changes."""
        content = artifact_files(uri(), self._tracking_uri, self._scratch, what).get(MLMODEL)
        if content is None:
            raise Stalled(f"{what} is not among its files")
        try:
            return (*described(_beginning(content)), "")
        except BadInput as error:
            return None, "", str(error)
        except OSError as error:  # the scratch folder: full, or not ours
            raise Retry(f"reading {what} failed: {error}") from error

    def _metrics(self, run_id: str, model_id: str, what: str) -> tuple[Mapping[str, float], str]:
        """The last value of each, and why there are none at all."""
        found: dict[str, float] = {}
        missing = [] if run_id or model_id else ["it was registered without a run"]
        for name, read in ((run_id, self._of_run), (model_id, self._of_model)):
            try:
                found |= read(name, what) if name else {}
            except Stalled as error:
                missing.append(str(error))
        return dict(list(found.items())[:MOST_METRICS]), "" if found else "; ".join(missing)

    def _of_run(self, run_id: str, what: str) -> dict[str, float]:
        with in_our_words(f"reading the metrics of {what} from its run {run_id}"):
            return {str(name): float(value) for name, value in self._client().get_run(run_id).data.metrics.items()}

    def _of_model(self, model_id: str, what: str) -> dict[str, float]:
        with in_our_words(f"reading the metrics of {what} from its logged model {model_id}"):
            logged = self._client().get_logged_model(model_id).metrics or ()
        in_order = sorted(logged, key=lambda metric: (metric.step or 0, metric.timestamp or 0))
        return {str(metric.key): float(metric.value) for metric in in_order}


def _beginning(content: Content) -> bytes:
    """One byte more than an MLmodel may have is enough to know that it has."""
    read = bytearray()
    for chunk in content():
        read += chunk[: MLMODEL_BYTES + 1 - len(read)]
        if len(read) > MLMODEL_BYTES:
            break
    return bytes(read)


def _model_id(source: str) -> str:
    """The logged model that a source names; MLflow's REST answer about a version does not."""
    name = source.removeprefix(_LOGGED_MODEL)
    return name if source.startswith(_LOGGED_MODEL) and name.startswith(_MODEL_ID) and "/" not in name else ""


def _places(run_id: str, source: str) -> str:
    model_id = _model_id(source)
    named = ([f"run {run_id}"] if run_id else []) + ([f"logged model {model_id}"] if model_id else [])
    return " and ".join(named)
