"""The ports of the local stack's last start, so that the next one has the same addresses where they are free.

A convenience: a file that is missing or cannot be read costs other ports, which are written where they are needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pipelines.processes import free_port, port_is_free


class KeptPorts:
    """Ports by the name of who listens."""

    def __init__(self, path: Path) -> None:
        """`path` is a JSON file; it is read now and written by `keep`."""
        self._path = path
        self.of_before = _read(path)
        """The last start's, free or not."""
        self._taken = set(self.of_before.values())

    def of(self, name: str) -> int:
        """The port of before if it is free, else a free one that nobody had before."""
        before = self.of_before.get(name)
        if before is not None and port_is_free(before):
            return before
        port = free_port(self._taken)
        self._taken.add(port)
        return port

    def keep(self, ports: Mapping[str, int]) -> None:
        """Write them for the next start; a name that is not among them keeps its port."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(self._path.name + ".new")
        draft.write_text(json.dumps({**self.of_before, **ports}, indent=2) + "\n", encoding="utf-8")
        draft.replace(self._path)


def _read(path: Path) -> dict[str, int]:
    """What the file says; none where there is none, or another's. No port is taken twice."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    pairs = said.items() if isinstance(said, dict) else ()
    by_port = {port: name for name, port in pairs if type(port) is int and 0 < port < 2**16}
    return {name: port for port, name in by_port.items()}
