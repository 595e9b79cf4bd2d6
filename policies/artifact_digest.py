"""The digest of a model version's artifact: what was judged is what serves, under any number.

Rules:
- It covers every payload file, by path and content, and nothing that only says where or when it was logged: registering
  one artifact twice gives one digest.
- It is computed where a version is admitted and where it is loaded, from streams; only `MLmodel` is held in memory.
- Every part is hashed or length-prefixed before it is joined, so that no two trees collide by concatenation.
- `MLmodel` is read with the parser MLflow reads it with (`yaml.safe_load`): what is left out is what MLflow understands
  by these keys, never what merely looks like them. One that cannot be read so counts as it stands, byte by byte.

It must not open files: it is given them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import yaml

from policies.errors import BadInput

FORMAT = b"sluicegate artifact 1"
"""Begins what is hashed; another rule is another format, so that its digests never equal these by chance."""
NOT_PAYLOAD = frozenset({"registered_model_meta"})
"""Written by MLflow's client beside a download: the name and the number it was asked by."""
VOLATILE_KEYS = frozenset({"artifact_path", "model_id", "model_size_bytes", "model_uuid", "run_id", "utc_time_created"})
"""Keys of MLmodel that differ between two `log_model` calls of one model (MLflow 3.17); the size follows."""
CODE_PATH = "model_code_path"
"""Of the python_function flavor: where the code of a model from code lay on the machine that logged it."""
MLMODEL = "MLmodel"
MLMODEL_BYTES = 1 << 20
"""A signature with thousands of columns takes 200 kB; a larger MLmodel counts as it stands."""
YAML_NODES = 100_000
"""The same in nodes, aliases counted each time: YAML can say 2^50 nodes in a kilobyte."""
YAML_DEPTH = 50
"""MLmodel is 5 deep, metadata that people add a little more."""

NO_MLMODEL = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What the parser raises for what is no YAML, or for a tag that lies about its value (`!!bool 7` is a KeyError)."""

Content = Callable[[], Iterable[bytes]]
"""Opens one file and gives its bytes, in chunks of any size."""


def artifact_digest(files: Mapping[str, Content]) -> str:
    """`sha256:<64 hex>` over the files of one artifact, by path relative to its root. Their order does not matter.

    Raises BadInput where there is no payload, a path leaves the root, or two paths are one file's.
    """
    whole = hashlib.sha256(FORMAT)
    for path, content in sorted(_normal_paths(files).items()):
        name = path.encode("utf-8", "surrogateescape")
        whole.update(len(name).to_bytes(8, "big") + name + _file_digest(path, content))
    return f"sha256:{whole.hexdigest()}"


def _normal_paths(files: Mapping[str, Content]) -> dict[str, Content]:
    normal: dict[str, Content] = {}
    for given, content in files.items():
        path = _normal_path(given)
        if path in normal:
            raise BadInput(f"the artifact has two files with the path {path!r}; rename one and log the model again")
        if path not in NOT_PAYLOAD:
            normal[path] = content
    if not normal:
        raise BadInput("the artifact has no files; was the model logged completely?")
    return normal


def _normal_path(given: str) -> str:
    """With `/` between parts on every system, and one way to write an accented letter (macOS has another)."""
    parts = [
        part for part in unicodedata.normalize("NFC", given).replace("\\", "/").split("/") if part not in ("", ".")
    ]
    if not parts or ".." in parts or given.startswith("/"):
        raise BadInput(f"the artifact has a file with the path {given!r}, which is not below the artifact's root")
    return "/".join(parts)


def _file_digest(path: str, content: Content) -> bytes:
    if path != MLMODEL:
        return _raw_digest(content())
    read = bytearray()
    for chunk in content():
        read += chunk
        if len(read) > MLMODEL_BYTES:
            return _raw_digest(content())
    return _mlmodel_digest(bytes(read))


def _raw_digest(chunks: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256(b"raw ")
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()


def _mlmodel_digest(text: bytes) -> bytes:
    try:
        keys = yaml.safe_load(text)
        if not isinstance(keys, dict):
            return _raw_digest([text])
        kept = {key: value for key, value in keys.items() if key not in VOLATILE_KEYS}
        return hashlib.sha256(b"MLmodel " + _Canonical().write(_without_places(kept))).digest()
    except NO_MLMODEL:
        return _raw_digest([text])


def _without_places(keys: dict[str, Any]) -> dict[str, Any]:
    """MLmodel without where things lay on the logging machine.

    MLflow loads a code file by its last name and an artifact by its `path` in the version, and neither by these.
    """
    flavors = keys.get("flavors")
    function = flavors.get("python_function") if isinstance(flavors, dict) else None
    if not isinstance(flavors, dict) or not isinstance(function, dict):
        return keys
    function = dict(function)
    if isinstance(function.get(CODE_PATH), str):
        function[CODE_PATH] = function[CODE_PATH].replace("\\", "/").rpartition("/")[2]
    if isinstance(function.get("artifacts"), dict):
        kept = {name: _without_uri(artifact) for name, artifact in function["artifacts"].items()}
        function["artifacts"] = kept
    return {**keys, "flavors": {**flavors, "python_function": function}}


def _without_uri(artifact: object) -> object:
    if not isinstance(artifact, dict) or "path" not in artifact:
        return artifact
    return {key: value for key, value in artifact.items() if key != "uri"}


class _Canonical:
    """Writes YAML's values so that equal ones are equal bytes and different ones differ; counts what it writes."""

    def __init__(self) -> None:
        self._left = YAML_NODES

    def write(self, node: object, depth: int = 0) -> bytes:
        """Raises ValueError where there is too much of it."""
        self._left -= 1
        if self._left < 0 or depth > YAML_DEPTH:
            raise ValueError("too many nodes, or too deep")
        if isinstance(node, dict):
            pairs = ((self.write(key, depth + 1), self.write(value, depth + 1)) for key, value in node.items())
            return _frame(b"map", *(part for pair in sorted(pairs) for part in pair))
        if isinstance(node, list | tuple):
            return _frame(b"list", *(self.write(item, depth + 1) for item in node))
        if isinstance(node, set):
            return _frame(b"set", *sorted(self.write(item, depth + 1) for item in node))
        return _frame(type(node).__name__.encode(), repr(node).encode("utf-8", "surrogateescape"))


def _frame(kind: bytes, *parts: bytes) -> bytes:
    return kind + b"".join(b" %d:%b" % (len(part), part) for part in (*parts, b""))
