"""The built-in policies and SLOs, as text: `policies` does no I/O, so it is read here.

This module must not interpret them: `policies/config_repo_documents.py` does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources


@functools.cache
def built_in_documents() -> Mapping[str, str]:
    """Text of every built-in document by file name, `rollout-default.yaml` and the SLOs, comments included."""
    folder = resources.files("policies") / "defaults"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {name: (folder / name).read_text(encoding="utf-8") for name in names}
