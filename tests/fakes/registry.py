"""MLflow's registry in memory: the port `Registry`, with ways to play the people and the accidents around it.

Like the real one: version numbers start at 1 and are never used again while the model exists; an alias stands on one
version of its model at most; a stage may hold several versions; a transition archives the others only when it is asked
to; a version that was deleted takes its aliases along. `tests/contracts/test_registry_contract.py` runs on both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

from policies.artifact_digest import artifact_digest
from policies.documents import Trigger
from policies.errors import Retry, Stalled
from policies.model_signatures import Column, Signature, Type
from policies.observations import Artifact, RegisteredVersion, RegistrySnapshot, VersionFacts
from policies.promotion import at_trigger

ARCHIVED = "Archived"
SIGNATURE = Signature(inputs=(Column("amount", Type("double")),))
"""Of every version that is registered."""
STAGES = ("None", "Staging", "Production", ARCHIVED)


@dataclasses.dataclass(frozen=True)
class _Version:
    shown: RegisteredVersion
    artifact: Artifact
    facts: VersionFacts = dataclasses.field(default_factory=VersionFacts)


class FakeRegistry:
    """A `Registry` without MLflow."""

    def __init__(self) -> None:
        self._models: dict[str, dict[int, _Version]] = {}
        self._numbers: dict[str, int] = {}
        self.away: str | None = None
        """Set to a reason, the registry answers the port no more; people still can do things."""
        self.unknown: str | None = None
        """Set to a reason, it does not say what versions say about themselves: their store is away."""

    # --- the port ---------------------------------------------------------------------------------------------

    def snapshot(self, models: Collection[str]) -> RegistrySnapshot:
        """Every version of these models as it is now."""
        if self.away is not None:
            return RegistrySnapshot(available=False, reason=self.away)
        known = {model: self._models[model] for model in models if model in self._models}
        return RegistrySnapshot(
            available=True,
            models={model: {number: v.shown for number, v in versions.items()} for model, versions in known.items()},
        )

    def artifact(self, model: str, version: int) -> Artifact:
        """Of what it was registered with."""
        found = self._asked(model, version)
        if not found.shown.ready:
            raise Retry(f"version {version} of {model} is still being registered")
        return found.artifact

    def facts(self, model: str, version: int) -> VersionFacts:
        """What it was registered with, and what was logged since."""
        found = self._asked(model, version)
        if self.unknown is not None:
            raise Retry(self.unknown)
        if not found.shown.ready:
            raise Retry(f"version {version} of {model} is still being registered")
        return found.facts

    def annotate(self, model: str, version: int, tags: Mapping[str, str]) -> None:
        """Set these tags."""
        self._asked(model, version)
        for key, value in tags.items():
            self.set_tag(model, version, key, value)

    def restore(self, model: str, trigger: Trigger, candidate: int, stable: int | None) -> bool:
        """As the port says."""
        self._answer()
        versions = self._models.get(model, {})
        if candidate not in at_trigger(trigger, {number: version.shown for number, version in versions.items()}):
            return False
        target = stable if stable in versions else None
        if trigger.stage is not None:
            if target is not None:
                self.transition(model, target, trigger.stage)
            self.transition(model, candidate, ARCHIVED)
        elif trigger.alias is not None:
            self.set_alias(model, trigger.alias, target)
        else:
            key, _, value = (trigger.tag or "").partition("=")
            if target is not None:
                self.set_tag(model, target, key, value)
            self.set_tag(model, candidate, key, None)
        return True

    # --- what people do ---------------------------------------------------------------------------------------

    def register(self, model: str, payload: str | None = None, requirements: tuple[str, ...] = ("numpy",)) -> int:
        """A new version of the model; with none, its payload is unlike every other's. Returns its number."""
        number = self._numbers.get(model, 0) + 1
        self._numbers[model] = number
        content = (payload if payload is not None else f"{model} version {number}").encode()
        shown = RegisteredVersion(number=number, stage="None", source=f"memory:{model}/{number}")
        digest = artifact_digest({"model.bin": lambda: [content]})
        artifact = Artifact(digest=digest, requirements=requirements, size_bytes=len(content))
        facts = VersionFacts(signature=SIGNATURE, flavor="python_function", run=f"run {model}-{number}")
        self._models.setdefault(model, {})[number] = _Version(shown, artifact, facts)
        return number

    def sign(self, model: str, version: int, signature: Signature | None) -> None:
        """As if it had been logged with this signature."""
        before = self._models[model][version]
        facts = dataclasses.replace(before.facts, signature=signature)
        self._models[model][version] = dataclasses.replace(before, facts=facts)

    def pickle(self, model: str, version: int, *files: str) -> None:
        """As if these of its files were read by pickle."""
        before = self._models[model][version]
        artifact = dataclasses.replace(before.artifact, pickled=files)
        self._models[model][version] = dataclasses.replace(before, artifact=artifact)

    def register_signed(self, model: str, signature: Signature) -> int:
        """A new version with this signature, logged in a run."""
        version = self.register(model)
        self.sign(model, version, signature)
        return version

    def register_pickled(self, model: str) -> int:
        """A new version that is a pickled object of Python."""
        version = self.register(model)
        self.pickle(model, version, "python_model.pkl")
        return version

    def log_metric(self, model: str, version: int, name: str, value: float) -> None:
        """To the version's run, at any time."""
        before = self._models[model][version]
        facts = dataclasses.replace(before.facts, metrics={**before.facts.metrics, name: value})
        self._models[model][version] = dataclasses.replace(before, facts=facts)

    def transition(self, model: str, version: int, stage: str, *, archive_existing: bool = False) -> None:
        """Move the version; with `archive_existing`, others at that stage are archived."""
        if stage not in STAGES:
            raise ValueError(f"{stage} is none of {STAGES}")
        for number, other in self._models[model].items():
            if archive_existing and number != version and other.shown.stage == stage:
                self._show(model, number, stage=ARCHIVED)
        self._show(model, version, stage=stage)

    def set_alias(self, model: str, alias: str, version: int | None) -> None:
        """Put the alias on the version; none takes it away."""
        for number, other in self._models[model].items():
            self._show(model, number, aliases=other.shown.aliases - {alias})
        if version is not None:
            self._show(model, version, aliases=self._models[model][version].shown.aliases | {alias})

    def set_tag(self, model: str, version: int, key: str, value: str | None) -> None:
        """Set the tag on the version; none removes it."""
        tags = {**self._models[model][version].shown.tags}
        tags.pop(key, None)
        self._show(model, version, tags=tags if value is None else {**tags, key: value})

    def set_ready(self, model: str, version: int, *, ready: bool) -> None:
        """As if MLflow were still registering it."""
        self._show(model, version, ready=ready)

    def delete_version(self, model: str, version: int) -> None:
        """Its number is not used again."""
        del self._models[model][version]

    def delete_model(self, model: str) -> None:
        """With all its versions; made again, it starts at 1."""
        del self._models[model]
        del self._numbers[model]

    # --- inside -----------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        if self.away is not None:
            raise Retry(self.away)

    def _asked(self, model: str, version: int) -> _Version:
        self._answer()
        found = self._models.get(model, {}).get(version)
        if found is None:
            raise Stalled(f"version {version} of {model} is not in the registry")
        return found

    def _show(self, model: str, version: int, **changes: object) -> None:
        before = self._models[model][version]
        shown = dataclasses.replace(before.shown, **changes)  # type: ignore[arg-type]
        self._models[model][version] = dataclasses.replace(before, shown=shown)
