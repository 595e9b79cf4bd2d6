"""Where a local stack is, as `.sluice/stack.json`: so that `sluice status` and the like find it from the same folder.

It holds addresses and paths, never a secret: Ray's token stays in a file of its own, named here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from policies.errors import BadInput

NAME = "stack.json"


def write(folder: Path, environment: Mapping[str, str], addresses: Mapping[str, str]) -> None:
    """Replace the file, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{NAME}.new"
    draft.write_text(json.dumps({"environment": dict(environment), "addresses": dict(addresses)}, indent=2) + "\n")
    draft.replace(folder / NAME)


def remove(folder: Path) -> None:
    """The stack has stopped."""
    (folder / NAME).unlink(missing_ok=True)


def environment_of(folder: Path) -> dict[str, str]:
    """Environment variables that lead to the stack of this folder; none where none runs. Raises BadInput."""
    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["environment"]
        return {str(key): str(value) for key, value in said.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path} is no file of `sluice up` ({error!r}): remove it") from error
