"""The demo's documents: what it adds to a config repo that `sluice init` wrote.

They lie beside this module as files that a reader can copy from. This module must not write anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from policies.document_reading import read_document
from policies.documents import RolloutPolicy
from policies.errors import BadInput
from policies.layout import Place

MODEL = "breast-cancer"
"""The registered model's name, and its slug."""

_FOLDER = Path(__file__).parent / "policies"
_PLACES = {
    f"models/{MODEL}.yaml": f"model-{MODEL}.yaml",
    "policies/rollout-demo.yaml": "rollout-demo.yaml",
    "policies/slo-demo-latency.yaml": "slo-demo-latency.yaml",
}


def documents() -> Mapping[str, str]:
    """Text by path in the config repo."""
    return {path: (_FOLDER / file).read_text(encoding="utf-8") for path, file in _PLACES.items()}


def demo_policy() -> RolloutPolicy:
    """The rollout policy that these documents hold. Raises BadInput where it is none."""
    path = "policies/rollout-demo.yaml"
    read = read_document(path, documents()[path], Place.POLICY)
    if not isinstance(read.value, RolloutPolicy):
        raise BadInput("\n".join(str(note) for note in read.notes) or f"{path} is no RolloutPolicy")
    return read.value
