"""Torch in a replica: the device, the threads, and inference mode.

Rules:
- Torch is not imported for a model that does not.
- A replica computes with the CPUs it reserved, and not with all of its node: otherwise two replicas on 8 cores fight
  with 16 threads.
- Without a GPU of its own a replica computes on the CPU, whatever its node has. With one, MLflow chooses, as it does
  elsewhere; who wants another device sets MLFLOW_DEFAULT_PREDICTION_DEVICE.
- Inference mode only for models of MLflow's pytorch flavour, whose way from input to output is known. One that needs
  gradients to answer shows it by failing, is asked again without, and has no inference mode any more.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import sys
from collections.abc import Callable
from typing import Any, Final

_log = logging.getLogger(__name__)

DEVICE_VARIABLE: Final = "MLFLOW_DEFAULT_PREDICTION_DEVICE"
_FLAVOUR: Final = "pytorch"


@dataclasses.dataclass(frozen=True)
class Owned:
    """What the replica reserved; fractions are shares."""

    cpus: float = 1.0
    gpus: float = 0.0


def choose_device(owned: Owned) -> None:
    """Before a model is loaded: tell MLflow to stay on the CPU where the replica has no GPU."""
    if not owned.gpus:
        os.environ.setdefault(DEVICE_VARIABLE, "cpu")


def settle(model: Any, owned: Owned) -> None:
    """After a pyfunc model was loaded: threads, and inference mode where it is a torch model of MLflow's."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    threads = max(1, int(owned.cpus))
    torch.set_num_threads(threads)
    if _FLAVOUR in model.metadata.flavors:
        model._predict_fn = _inferring(model._predict_fn, torch)  # noqa: SLF001 MLflow has no public name for it
        _log.info("torch computes with %d threads, in inference mode", threads)


def _inferring(predict: Callable[..., Any], torch: Any) -> Callable[..., Any]:
    """The same predict function, in inference mode for as long as that works."""
    works = True

    @functools.wraps(predict)  # MLflow reads its signature to see whether it takes params
    def inferring(*args: Any, **kwargs: Any) -> Any:
        nonlocal works
        if not works:
            return predict(*args, **kwargs)
        try:
            with torch.inference_mode():
                return predict(*args, **kwargs)
        except RuntimeError as error:  # torch has no class of its own for it
            predictions = predict(*args, **kwargs)  # fails the same way where inference mode is not the reason
            works = False
            _log.warning("the model needs gradients to answer, no inference mode from now on: %s", str(error)[:200])
            return predictions

    return inferring
