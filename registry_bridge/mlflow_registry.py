"""The door to MLflow: what is registered, which version stands where, and what we tell people there.

Rules:
- Look at state, never at timestamps or events: a stage transition fires no webhook, and our own restore is the
  newest change.
- A look is two calls for a hundred models: one for aliases, one for versions (their search never returns aliases, and
  `latest_versions` knows one version per stage where several may stand).
- A look either shows every version or says that it is unavailable: half a look would read as "a person moved it away".
- What we write is small and can be repeated: tags, and one version's way out of the trigger. Others are never archived.
- Stable is put there before the candidate is taken out: after a crash in between the candidate is still at the trigger,
  and the next try finishes.

It must not decide anything, hold state that matters, or import `mlflow` before the first call (4 s).
"""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policies.documents import Trigger
from policies.errors import Retry, SluiceError, Stalled
from policies.observations import Artifact, RegisteredVersion, RegistrySnapshot, VersionFacts
from registry_bridge.mlflow_words import in_our_words, name_filters, set_patience
from registry_bridge.version_artifacts import Key, VersionArtifacts
from registry_bridge.version_facts import FactsOfVersions

_LOG = logging.getLogger(__name__)

ARCHIVED = "Archived"
READY = "READY"
PENDING = "PENDING_REGISTRATION"
MODELS_PER_CALL = 100
"""Models in one search; MLflow answers 1,000 at most on a page, and one page is one consistent look."""
VERSIONS_PER_CALL = 20_000
"""Versions in one answer: 8 s at the 0.4 ms each that were measured on an idle server, within our patience.

More would come on further pages, and pages shift while somebody deletes a version: one would be missing for a look.
"""


class MlflowRegistry:
    """The MLflow registry at `tracking_uri`; credentials come from MLflow's own environment variables.

    `scratch` is a folder for one downloaded file at a time; none means the system's.
    """

    def __init__(self, tracking_uri: str, scratch: Path | None = None) -> None:
        set_patience()
        self._tracking_uri = tracking_uri
        self._lazy_client: Any = None
        self._artifacts = VersionArtifacts(tracking_uri, scratch)
        self._facts = FactsOfVersions(lambda: self._client, tracking_uri, scratch)

    def snapshot(self, models: Collection[str]) -> RegistrySnapshot:
        """Every version of these models with stage, aliases and tags. Never raises: it is unavailable then."""
        try:
            found: dict[str, dict[int, RegisteredVersion]] = {}
            for names in name_filters(models, MODELS_PER_CALL):
                found |= self._look(names)
        except SluiceError as error:
            return RegistrySnapshot(available=False, reason=str(error))
        return RegistrySnapshot(available=True, models={name: found[name] for name in found if name in models})

    def artifact(self, model: str, version: int) -> Artifact:
        """What the version's files are and ask for; read once, then remembered.

        Raises Retry while it is registered or read for longer than the loop can wait, and when MLflow is away; Stalled
        when the version or its artifact is not there or is no artifact.
        """
        registered = self._ready(model, version)
        return self._artifacts.of(_key(model, version, registered), self._uri(model, version))

    def facts(self, model: str, version: int) -> VersionFacts:
        """What the version says about itself, and the metrics that were logged with it so far.

        Raises Retry while it is registered and when MLflow or the artifact store is away, Stalled when it is not there.
        """
        registered = self._ready(model, version)
        run = str(registered.run_id or "")
        return self._facts.of(_key(model, version, registered), lambda: self._uri(model, version), run)

    def annotate(self, model: str, version: int, tags: Mapping[str, str]) -> None:
        """Set these tags on the version; those it has already cost nothing. Raises Retry, Stalled."""
        present = self._version(model, version).tags
        for key, value in tags.items():
            if present.get(key) != value:
                self._set_tag(model, version, key, value)

    def restore(self, model: str, trigger: Trigger, candidate: int, stable: int | None) -> bool:
        """Take `candidate` out of the trigger and put `stable` there; a stable version that was deleted counts as none.

        Reads again first; acts only while `candidate` is still at the trigger, moves nothing else. Returns False when a
        person was faster. Raises Retry, Stalled. MLflow has no compare-and-swap: a person's change in the milliseconds
        between our read and our write is overwritten.
        """
        if trigger.stage is not None:
            done = self._restore_stage(model, trigger.stage, candidate, stable)
        elif trigger.alias is not None:
            done = self._restore_alias(model, trigger.alias, candidate, stable)
        else:
            key, _, value = (trigger.tag or "").partition("=")
            done = self._restore_tag(model, key, value, candidate, stable)
        _LOG.info("%s: restore of %s from version %s to %s: %s", model, trigger, candidate, stable, done)
        return done

    # --- looking ----------------------------------------------------------------------------------------------

    def _look(self, names: str) -> dict[str, dict[int, RegisteredVersion]]:
        """One group of models. Aliases first: the versions they name exist by then, so the second answer has them."""
        with in_our_words(f"looking at MLflow ({self._tracking_uri})"):
            models = self._client.search_registered_models(names, max_results=MODELS_PER_CALL)
            versions = self._client.search_model_versions(names, max_results=VERSIONS_PER_CALL)
        if models.token or versions.token:
            raise Stalled(
                f"looking at MLflow: more than {VERSIONS_PER_CALL:,} versions; delete old ones of these models: {names}"
            )
        aliases: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
        for model in models:
            for alias, number in model.aliases.items():
                aliases[model.name, int(number)].add(alias)
        found: dict[str, dict[int, RegisteredVersion]] = {model.name: {} for model in models}
        for version in versions:
            number = int(version.version)
            found.setdefault(version.name, {})[number] = _registered(version, aliases[version.name, number])
        return found

    def _version(self, model: str, version: int) -> Any:
        with in_our_words(f"reading version {version} of {model} from MLflow"):
            found = self._client.get_model_version(model, str(version))
        if (found.name, str(found.version)) != (model, str(version)):
            raise Retry(f"asked for version {version} of {model}, MLflow answered {found.name!r} {found.version!r}")
        return found

    def _ready(self, model: str, version: int) -> Any:
        registered = self._version(model, version)
        if registered.status == PENDING:
            raise Retry(f"version {version} of {model} is still being registered in MLflow")
        if registered.status != READY:
            raise Stalled(f"version {version} of {model} is {registered.status} in MLflow; register it again")
        return registered

    def _uri(self, model: str, version: int) -> str:
        with in_our_words(f"asking MLflow where version {version} of {model} lies"):
            return str(self._client.get_model_version_download_uri(model, str(version)))

    # --- restoring, one way for each trigger ------------------------------------------------------------------

    def _restore_stage(self, model: str, stage: str, candidate: int, stable: int | None) -> bool:
        here = self._shown(model)
        if candidate not in here or here[candidate].stage != stage:
            return False
        if stable is not None and stable in here and here[stable].stage != stage:
            self._transition(model, stable, stage)
        self._transition(model, candidate, ARCHIVED)
        return True

    def _restore_alias(self, model: str, alias: str, candidate: int, stable: int | None) -> bool:
        here = self._shown(model)
        if candidate not in here or alias not in here[candidate].aliases:
            return False
        with in_our_words(f"moving the alias {alias} of {model} in MLflow"):
            if stable is not None and stable in here:
                self._client.set_registered_model_alias(model, alias, str(stable))
            else:
                self._client.delete_registered_model_alias(model, alias)
        return True

    def _restore_tag(self, model: str, key: str, value: str, candidate: int, stable: int | None) -> bool:
        here = self._shown(model)
        if candidate not in here or here[candidate].tags.get(key) != value:
            return False
        if stable is not None and stable in here and here[stable].tags.get(key) != value:
            self._set_tag(model, stable, key, value)
        with in_our_words(f"taking the tag {key} from version {candidate} of {model} in MLflow"):
            self._client.delete_model_version_tag(model, str(candidate), key)
        return True

    def _shown(self, model: str) -> Mapping[int, RegisteredVersion]:
        """The versions of one model now; none where it was deleted: then a person was faster."""
        return self._look(next(name_filters([model], MODELS_PER_CALL))).get(model, {})

    # --- writing ----------------------------------------------------------------------------------------------

    def _set_tag(self, model: str, version: int, key: str, value: str) -> None:
        with in_our_words(f"setting the tag {key} on version {version} of {model} in MLflow"):
            self._client.set_model_version_tag(model, str(version), key, value)

    def _transition(self, model: str, version: int, stage: str) -> None:
        with in_our_words(f"moving version {version} of {model} to {stage} in MLflow"), _deprecation_known():
            self._client.transition_model_version_stage(model, str(version), stage, archive_existing_versions=False)

    @property
    def _client(self) -> Any:
        if self._lazy_client is None:
            from mlflow import MlflowClient

            self._lazy_client = MlflowClient(tracking_uri=self._tracking_uri, registry_uri=self._tracking_uri)
        return self._lazy_client


def _key(model: str, version: int, registered: Any) -> Key:
    return (model, version, str(registered.source), int(registered.creation_timestamp or 0))


def _registered(version: Any, aliases: Iterable[str]) -> RegisteredVersion:
    return RegisteredVersion(
        number=int(version.version),
        stage=str(version.current_stage),
        aliases=frozenset(aliases),
        tags=dict(version.tags),
        ready=version.status == READY,
        source=str(version.source or ""),
    )


@contextmanager
def _deprecation_known() -> Iterator[None]:
    """Stages are deprecated since MLflow 2.9 and people use them: said once in the docs, not at every transition."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
