"""What a version's files are: MLmodel read for admission, and files that Python's pickle would load.

Rules:
- Nothing is ever loaded. A file counts as pickled by its name or by its first bytes: the header of pickle's protocols
  2 to 5, a NumPy array of objects, PyTorch's archive. It is no scan: what a pickle would do, nobody can say for sure
  (ADR 25), so the question is only whether there is one.
- Not seen: a pickle of protocol 0 or 1 under another name, or one inside an archive or behind compression under
  another name.
- The flavor is the one whose loader MLflow's pyfunc would run, whatever else MLmodel names.

This module must not open files: it is given their names and first bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import yaml

from policies.artifact_digest import MLMODEL, MLMODEL_BYTES, NO_MLMODEL
from policies.errors import BadInput
from policies.model_signatures import Signature, parse_signature

HEAD_BYTES = 512
"""Enough for each header below."""
MOST_NAMED = 10
"""Of a version's pickled files that are remembered by name: enough to find out where they come from."""
_SUFFIXES = (".pkl", ".pickle", ".p", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt")
_PROTOCOLS = re.compile(rb"\x80[\x02-\x05]")
_OBJECT_ARRAY = re.compile(rb"\x93NUMPY.*'descr': *(\[.*)?'\|?O", re.DOTALL)
_TORCH_ARCHIVE = re.compile(rb"PK\x03\x04.{26}[^/\x00]*/?data\.pkl", re.DOTALL)
_FLAVORS_OF_PYFUNC = ("pyfunc",)


def is_pickled(path: str, head: bytes) -> bool:
    """Would loading this file run pickle, by its name or its first HEAD_BYTES?"""
    if path.lower().endswith(_SUFFIXES):
        return True
    return any(pattern.match(head) is not None for pattern in (_PROTOCOLS, _OBJECT_ARRAY, _TORCH_ARCHIVE))


def described(mlmodel: bytes) -> tuple[Signature | None, str]:
    """The signature and the flavor that an MLmodel names. Raises BadInput where it cannot be read."""
    if len(mlmodel) > MLMODEL_BYTES:
        raise BadInput(f"{MLMODEL} has more than {MLMODEL_BYTES:,} bytes and is not read")
    try:
        keys = yaml.safe_load(mlmodel)
    except NO_MLMODEL as error:
        raise BadInput(f"{MLMODEL} cannot be read: {error}") from error
    if not isinstance(keys, Mapping):
        raise BadInput(f"{MLMODEL} is no mapping")
    return parse_signature(keys.get("signature")), _flavor(keys.get("flavors"))


def _flavor(flavors: object) -> str:
    function = flavors.get("python_function") if isinstance(flavors, Mapping) else None
    loader = str(function.get("loader_module", "")) if isinstance(function, Mapping) else ""
    family, _, rest = loader.partition(".")
    if family != "mlflow" or not rest:
        return loader
    name = rest.split(".")[0]
    return "python_function" if name in _FLAVORS_OF_PYFUNC else name
