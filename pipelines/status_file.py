"""What the reconciler said last, as a small JSON file beside the stack: why each release waits, and what went wrong.

It is a convenience for `sluice status` and the demo's timeline; nothing depends on it, and a missing or old one only
means that the reason is not shown.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.reconciler import Tick
from policies.actions import Wait
from policies.secret_values import hidden_in

SCHEMA = 1
SILENT_AFTER = timedelta(minutes=2)
"""Looks are due every 15 s by default; one that reads a slow registry and a slow Prometheus takes a minute."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """The reconciler's last words."""

    at: datetime
    waits: tuple[Wait, ...]
    problems: tuple[str, ...]


def write(path: Path, tick: Tick, webhooks: Mapping[str, Mapping[str, int]] | None = None) -> None:
    """Replace the file by what this tick said, whole or not at all; `webhooks` are counts by source and outcome."""
    said: dict[str, Any] = {
        "schema": SCHEMA,
        "at": tick.at.isoformat(),
        "waits": [
            {**dataclasses.asdict(wait), "until": wait.until.isoformat() if wait.until else None} for wait in tick.waits
        ],
        "problems": list(tick.problems),
        "webhooks": webhooks or {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(hidden_in(said), indent=2) + "\n", encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> Said | None:
    """The last words; none where there is no such file or it is of another schema."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(said, dict) or said.get("schema") != SCHEMA:
        return None
    waits = (
        Wait(**{**wait, "until": datetime.fromisoformat(wait["until"]) if wait["until"] else None})
        for wait in said["waits"]
    )
    return Said(at=datetime.fromisoformat(said["at"]), waits=tuple(waits), problems=tuple(said["problems"]))


def silence(said: Said, now: datetime) -> tuple[str, ...]:
    """A warning where the last words are old: whoever should look, does not."""
    age = now - said.at
    if age < SILENT_AFTER:
        return ()
    return (f"the reconciler looked last {age.total_seconds():,.0f} s ago: is `sluice run` still running?",)
