"""A small model for real Serve applications: MLflow logs this file as the model's code.

It answers `x * scale`, and by its inputs does what models do: -1 tells its process id, 13 is beyond it (unless it is
repaired), 50 takes a while, 77 takes longer than anybody waits.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import mlflow

UNLUCKY = 13.0
SLOW = 50.0
HANGS = 77.0
WHO = -1.0
SLOW_FOR_S = 0.25  # long enough to be in flight when something happens
HANGS_FOR_S = 60.0  # longer than any timeout in a test


class Served(mlflow.pyfunc.PythonModel):
    """Its behaviour is its `model_config`.

    scale (a factor), unlucky (whether 13 fails), refuses (a message to fail loading with), breaks (a file: while it is
    there every request fails, and leaves its time in it, a line each).
    """

    def load_context(self, context: Any) -> None:
        config = context.model_config
        if config.get("refuses"):
            raise RuntimeError(config["refuses"])
        self.scale = config.get("scale", 1.0)
        self.unlucky = config.get("unlucky", True)
        self.breaks = Path(config["breaks"]) if "breaks" in config else None

    # MLflow reads type hints on `model_input` as a signature.
    def predict(self, model_input, params: dict[str, Any] | None = None) -> list[float]:  # type: ignore[no-untyped-def]
        values = [float(x) for x in model_input["x"]]
        if self.breaks is not None and self.breaks.exists():
            with self.breaks.open("a") as calls:
                calls.write(f"{time.time()}\n")
            raise RuntimeError("broken")
        if SLOW in values:
            threading.Event().wait(SLOW_FOR_S)
        if HANGS in values:
            threading.Event().wait(HANGS_FOR_S)
        if self.unlucky and UNLUCKY in values:
            raise ValueError("thirteen: a secret of the model")
        plus = (params or {}).get("plus", 0.0)
        return [float(os.getpid()) if x == WHO else x * self.scale + plus for x in values]


mlflow.models.set_model(Served())
