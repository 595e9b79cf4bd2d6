"""The demo's model as code: a small torch network, logged to MLflow by this file's path.

Rules:
- MLflow copies this file into the model ("models from code") and runs the copy wherever the model is loaded, so it
  imports nothing of Sluicegate and reads nothing but its own artifacts.
- One row in, one row out: `malignant` (0 or 1) and `probability`, whatever the version. Versions differ in weights and,
  for the one that is made to fail, in `faults.json`.

It must not reach the network or write files.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import torch

HIDDEN_UNITS = 16
"""Enough for 30 columns and 569 rows; more would only be slower."""

DECISION = 0.5
"""Probability from which a row is called malignant."""


class Network(torch.nn.Module):  # type: ignore[misc]  # torch is untyped for us
    """Standardizes the columns and gives one logit per row: (rows, columns) -> (rows,)."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(columns, HIDDEN_UNITS), torch.nn.ReLU(), torch.nn.Linear(HIDDEN_UNITS, 1)
        )

    def forward(self, rows: Any) -> Any:
        """Logits, (rows,)."""
        return self.layers((rows - self.mean) / self.scale).squeeze(-1)


def predictions(network: Network, frame: pd.DataFrame) -> pd.DataFrame:
    """One row of answers per row of `frame`, whose columns are in training order."""
    with torch.inference_mode():
        rows = torch.tensor(frame.to_numpy(dtype="float32"))
        probability = torch.sigmoid(network(rows)).numpy().astype("float64")
    return pd.DataFrame({"malignant": (probability >= DECISION).astype("int64"), "probability": probability})


class Classifier(mlflow.pyfunc.PythonModel):  # type: ignore[misc]  # mlflow is untyped for us
    """Weights and faults come with the model's artifacts."""

    def load_context(self, context: Any) -> None:
        """Read `weights.pt` (tensors only, nothing is unpickled) and `faults.json`. Runs once, before the first row."""
        torch.set_num_threads(1)  # a row is too little work to share, and replicas share cores
        state = torch.load(context.artifacts["weights"], weights_only=True)
        self.faults = json.loads(Path(context.artifacts["faults"]).read_text(encoding="utf-8"))
        self.network = Network(columns=len(state["mean"]))
        self.network.load_state_dict(state)
        self.network.eval()

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Answers for a frame of named columns. Raises ValueError where this version's fault says so."""
        del context, params  # MLflow's interface names them; this model needs neither
        self._misbehave(model_input)
        return predictions(self.network, model_input)

    def _misbehave(self, frame: pd.DataFrame) -> None:
        """The faults of a version that is made to fail: it refuses some real rows and dawdles over others."""
        refuse, slow = self.faults.get("refuse"), self.faults.get("slow")
        if refuse and (frame[refuse["column"]] > refuse["above"]).any():
            raise ValueError(f"{refuse['column']} is above {refuse['above']:g}, which this version never saw")
        if slow and (frame[slow["column"]] > slow["above"]).any():
            time.sleep(slow["seconds"])


mlflow.models.set_model(Classifier())
