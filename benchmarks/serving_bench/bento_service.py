"""The BentoML service that serves an MLflow model, run by `bentoml serve` in an environment of its own.

As BentoML's documentation has it for MLflow models: the pyfunc model, called in a synchronous API method, which BentoML
runs in threads. It takes and gives the bodies of MLflow's `/invocations`, because BentoML's arguments by name are the
keys of the JSON body: as many of MLflow's formats as the benchmark sends.
"""

from __future__ import annotations

import os
from typing import Any

import bentoml
import mlflow
import numpy as np
import pandas as pd


@bentoml.service(name="scoring")
class Scoring:
    """One worker."""

    def __init__(self) -> None:
        self.model = mlflow.pyfunc.load_model(os.environ["BENCH_MODEL"])

    @bentoml.api(route="/invocations")
    def invocations(
        self, dataframe_split: dict[str, Any] | None = None, inputs: list[Any] | None = None
    ) -> dict[str, Any]:
        """One of the two formats."""
        rows = np.array(inputs, dtype="float32") if dataframe_split is None else pd.DataFrame(**dataframe_split)
        return {"predictions": np.asarray(self.model.predict(rows)).tolist()}
