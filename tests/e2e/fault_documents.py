"""The models of the fault stories: what is wrong with each, and the documents they are served and rolled out by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tests.e2e.brisk_documents import LENIENT, SHADOW, STRICT, model_text, policy_text, slo_text
from tests.e2e.world import MODEL_FILE, ROOT, Begun

PROMOTED, TAKEN_BACK, SWAPPED = "promoted", "taken-back", "swapped"
KILLED, HOARDING, STARVED, HANGING = "killed", "hoarding", "starved", "hanging"
TWINS, LEAKING, POISONED = "twins", "leaking", "poisoned"

ILL_MODEL = ROOT / "tests" / "fakes" / "ill_model.py"
CPUS = 0.25  # what replicas reserve of the session's virtual ones: ten models at once

GOOD = {"scale": 1.0, "unlucky": False}
BETTER = {"scale": 2.0, "unlucky": False}
UNLUCKY = {"scale": 3.0, "unlucky": True}
WELL: Mapping[str, object] = {"ill": ""}

LEAK_LIMIT_MIB = 400
"""A replica of these has some 300 MiB when it is loaded."""
HOARD_LIMIT_MIB = 640

_LIMITS = {LEAKING: LEAK_LIMIT_MIB, HOARDING: HOARD_LIMIT_MIB, POISONED: 2048}
_REPLICAS = {TWINS: 2, LEAKING: 2}


def documents() -> Mapping[str, str]:
    """Text by path in the config repo."""
    return {
        "policies/slo-strict.yaml": slo_text(STRICT, 0.97),
        "policies/slo-lenient.yaml": slo_text(LENIENT, 0.80),
        "policies/rollout-whole.yaml": policy_text("whole", shadow=SHADOW, steps=[10, 50]),
        # Judged by Prometheus alone: the guard would take the candidate out before it has failed often.
        "policies/rollout-judged.yaml": policy_text("judged", shadow="null", steps=[50], guard="null"),
        # Its step is long enough for an accident to happen in it, and for a candidate that is away to be judged.
        "policies/rollout-held.yaml": policy_text("held", shadow="null", steps=[50], step_s=(15, 300)),
        **{f"models/{name}.yaml": _model(name, "whole", STRICT) for name in (PROMOTED, SWAPPED)},
        f"models/{TAKEN_BACK}.yaml": _model(TAKEN_BACK, "judged", STRICT),
        f"models/{KILLED}.yaml": _model(KILLED, "held", LENIENT),
        **{f"models/{name}.yaml": _model(name, "held", STRICT) for name in (HOARDING, STARVED, HANGING)},
        **{f"models/{name}.yaml": _model(name, "whole", LENIENT) for name in (TWINS, LEAKING, POISONED)},
    }


def begun() -> list[Begun]:
    """What serves already."""
    return [
        *(_begun(name, MODEL_FILE, GOOD, BETTER) for name in (PROMOTED, SWAPPED, KILLED)),
        _begun(TAKEN_BACK, MODEL_FILE, GOOD, UNLUCKY),
        _begun(HOARDING, ILL_MODEL, WELL, {"ill": "hoards"}),
        _begun(STARVED, ILL_MODEL, WELL, {"ill": "is killed"}),
        _begun(HANGING, ILL_MODEL, WELL, {"ill": "hangs"}),
        _begun(TWINS, ILL_MODEL, WELL),
        _begun(LEAKING, ILL_MODEL, {"ill": "leaks", "leaks_kib": 100}),
        _begun(POISONED, ILL_MODEL, WELL),
    ]


def _begun(name: str, code: Path, *configs: Mapping[str, object]) -> Begun:
    return Begun(model=name, configs=configs, stable=1, cpus=CPUS, code=code)


def _model(name: str, rollout: str, slo: str) -> str:
    more = f"memory_limit_mib: {_LIMITS[name]}\n" if name in _LIMITS else ""
    return model_text(name, rollout=rollout, slo=slo, cpus=CPUS, replicas=_REPLICAS.get(name, 1), more=more)
