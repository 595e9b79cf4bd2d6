"""An application: one version with the settings whose change would restart its replicas.

This module must not do I/O, and knows no Ray: how it is served is `serving_runtime/serve_config.py`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass as document

from policies.capacity import CPU, GPU, MEMORY, Amounts, added, beyond, in_words
from policies.reserved_amounts import SMALLEST, Amount, CustomResource
from policies.serving import Features, Placement
from policies.stored_values import STRICT, Digest, Words
from policies.wrong_fields import WrongFields

_MIB = 2**20


@document(frozen=True, kw_only=True, config=STRICT)
class Settings:
    """The part of a model document whose change restarts replicas; frozen into an application when it starts."""

    cpus: Annotated[float, Field(ge=SMALLEST, le=512)] = 1.0
    """CPUs each replica reserves."""
    gpus: Annotated[Amount, Field(ge=0, le=64)] = 0.0
    """GPUs each replica reserves; fractions share one, of 0.0001 and more."""
    memory_mib: Annotated[int, Field(ge=64)] | None = None
    """Memory each replica reserves, MiB; none reserves nothing."""
    custom: Mapping[CustomResource, Amount] = dataclasses.field(default_factory=dict)
    """Custom Ray resources each replica reserves: amounts of 0.0001 and more, by the names that nodes give them."""
    environment: Literal["inherit", "pip", "uv", "image"] = "inherit"
    """Where the packages that the version itself asks for come from: they are those of the cluster, or Ray's
    runtime_env installs the version's own requirements with pip or uv, or a container image has them."""
    image: Annotated[str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*$", max_length=300)] | None = None
    """With `environment: image`: the image, by digest or tag."""
    packages: tuple[str, ...] = ()
    """Requirements that Ray's runtime_env installs besides (with uv where `environment` is uv, else with pip)."""
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment variables of the replicas. Never secrets: this lies in Git."""
    placement: Placement | None = None
    """A placement group for each replica; none: one node with the resources above."""
    features: Features | None = None
    """Values that are looked up for each row; none: the request has all."""

    def __post_init__(self) -> None:
        """Raises ValueError where the image is missing, or nobody would use it, or packages would come from two."""
        if (self.environment == "image") != (self.image is not None):
            raise WrongFields("image is written exactly where environment is image", "image", "environment")
        if self.image and self.packages:
            message = "with environment: image the packages are part of the image; leave packages out"
            raise WrongFields(message, "packages")
        if self.placement and (missing := beyond(self.reserved, self.placement.bundles[0])):
            raise WrongFields(
                "the replica itself runs in the first bundle of its placement, which must hold what the other fields "
                f"reserve: there it lacks {in_words(missing)}",
                ("placement", "bundles", 0),
            )

    @property
    def reserved(self) -> Amounts:
        """What the replica itself takes, by Ray's names."""
        own = {CPU: self.cpus, GPU: self.gpus, MEMORY: (self.memory_mib or 0) * _MIB}
        return added(own, self.custom)

    @property
    def installs_requirements(self) -> bool:
        """Does Ray install what the version's own requirements ask for?"""
        return self.environment in ("pip", "uv")

    @property
    def fields(self) -> dict[str, Any]:
        """What tells two of them apart; a field that came later counts where somebody wrote it only."""
        written = dataclasses.asdict(self)
        return {key: value for key, value in written.items() if key not in _LATER or value != _LATER[key]}


_LATER: Mapping[str, Any] = {"environment": "inherit", "image": None, "placement": None, "features": None}
"""Fields of Settings that older Sluicegates did not have, as they are where nobody wrote them: builds stay the same."""


@document(frozen=True, kw_only=True, config=STRICT)
class Application:
    """One version with the settings whose change would restart it. It never changes after it starts."""

    version: Annotated[int, Field(ge=1)]
    digest: Digest
    """Digest of the artifact's payload files (`artifact_digest.py`)."""
    settings: Settings = dataclasses.field(default_factory=Settings)
    requirements: tuple[Words, ...] = ()
    """What the version's own requirements.txt asks for, where `settings.environment` installs it."""

    @functools.cached_property
    def build(self) -> str:
        """Eight hex digits over every field of this application: two that differ never share a name.

        The requirements are among the files that the digest is over.
        """
        fields = {"version": self.version, "digest": self.digest, "settings": self.settings.fields}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:8]

    def name(self, slug: str) -> str:
        """The Serve application's name, `<slug>--v<version>-<build>`."""
        return f"{slug}--v{self.version}-{self.build}"
