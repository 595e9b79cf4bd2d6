"""What an application of one version is, for as long as it runs: the `args` of its Serve config.

`serve_config.py` reads the file in Git with it, `app.py` what Serve hands to a replica. A change restarts replicas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass as document

from policies.document_errors import adapter
from policies.errors import BadInput
from policies.serving import Features
from policies.stored_values import Digest

IMPORT_PATH = "serving_runtime.app:build"


@document(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class AppArguments:
    """One version with all that would restart it."""

    model: str
    slug: str
    version: int
    digest: Digest
    build: str
    tracking_uri: str
    features: Features | None = None

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> AppArguments:
        """From a Serve config's `args`. Raises BadInput for a missing, unknown or ill-typed one."""
        try:
            arguments: AppArguments = adapter(AppArguments).validate_json(json.dumps(raw), strict=True)
        except (TypeError, ValidationError) as error:
            raise BadInput(f"args of {IMPORT_PATH}: {error}") from error
        return arguments
