"""The three models that every system serves, logged as a user would log them, and the bodies that are sent to them.

- noop: a pyfunc with one double column that answers a constant: what is left is the cost of serving;
- sklearn: a scaler and a logistic regression on the 30 double columns of scikit-learn's breast cancer dataset;
- torch: a small network on the same 30 columns as a float32 tensor, by `mlflow.pytorch`.

Rules:
- Deterministic by SEED; nothing is downloaded.
- Each model is registered twice, the same artifact: version 1 hosts, version 2 is the candidate of a rollout.
- Nothing of this repository is in an artifact, so that every system can load it in its own environment.
"""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SEED = 7
HIDDEN_UNITS = 64
MLFLOW_SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
"""Read at MLflow's import: nothing but the benchmark's own registry is spoken to."""

NOOP = """
import mlflow

class Noop(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [1.0] * len(model_input)

mlflow.models.set_model(Noop())
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggedModel:
    """One model in the registry and on disk."""

    name: str
    folder: Path
    """The artifact, as `mlflow models serve -m` takes it."""
    tracking_uri: str
    bodies: Mapping[int, str]
    """A request body by its number of rows."""


def log_models(folder: Path, names: tuple[str, ...], rows: tuple[int, ...]) -> dict[str, LoggedModel]:
    """Train, log and register them below `folder`; about 20 s."""
    os.environ.update(MLFLOW_SETTINGS)
    import mlflow

    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("serving", artifact_location=(folder / "artifacts").as_uri())
    logged = {}
    for name in names:
        with mlflow.start_run(experiment_id=experiment), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's advice on signatures and requirements
            model, bodies = LOGGERS[name](folder, rows)
        for _version in ("stable", "candidate"):
            mlflow.register_model(model.model_uri, name)
        path = mlflow.artifacts.download_artifacts(model.model_uri, dst_path=str(folder / "served" / name))
        logged[name] = LoggedModel(name=name, folder=Path(path), tracking_uri=uri, bodies=bodies)
    return logged


def _log_noop(folder: Path, rows: tuple[int, ...]) -> tuple[Any, Mapping[int, str]]:
    import mlflow
    import pandas as pd

    (folder / "noop.py").write_text(NOOP)
    example = pd.DataFrame({"x": [0.5, 1.5]})
    model = mlflow.pyfunc.log_model(
        name="noop",
        python_model=str(folder / "noop.py"),
        signature=mlflow.models.infer_signature(example, [1.0, 1.0]),
        input_example=example,
        pip_requirements=["mlflow"],
    )
    return model, {n: _split(pd.DataFrame({"x": [i + 0.5 for i in range(n)]})) for n in rows}


def _log_sklearn(_folder: Path, rows: tuple[int, ...]) -> tuple[Any, Mapping[int, str]]:
    import mlflow
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data, target = _breast_cancer()
    classifier = make_pipeline(StandardScaler(), LogisticRegression(random_state=SEED)).fit(data, target)
    model = mlflow.sklearn.log_model(
        classifier,
        name="sklearn",
        signature=mlflow.models.infer_signature(data, classifier.predict(data)),
        input_example=data.head(2),
        pip_requirements=["mlflow", "scikit-learn"],
    )
    return model, {n: _split(data.head(n)) for n in rows}


def _log_torch(_folder: Path, rows: tuple[int, ...]) -> tuple[Any, Mapping[int, str]]:
    import mlflow
    import torch

    data, target = _breast_cancer()
    scaled = ((data - data.mean()) / data.std()).to_numpy(dtype="float32")
    torch.manual_seed(SEED)
    network = torch.nn.Sequential(
        torch.nn.Linear(scaled.shape[1], HIDDEN_UNITS),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN_UNITS, HIDDEN_UNITS),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN_UNITS, 1),
        torch.nn.Sigmoid(),
    )
    truth = torch.tensor(target.to_numpy(dtype="float32"))[:, None]
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy(network(torch.tensor(scaled)), truth).backward()
        optimizer.step()
    with torch.inference_mode():
        answers = network(torch.tensor(scaled[:2])).numpy()
    model = mlflow.pytorch.log_model(
        network.eval(),
        name="torch",
        signature=mlflow.models.infer_signature(scaled[:2], answers),
        input_example=scaled[:2],
        pip_requirements=["mlflow", "torch"],
    )
    return model, {n: json.dumps({"inputs": scaled[:n].tolist()}) for n in rows}


def _breast_cancer() -> tuple[Any, Any]:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    return bunch.data, bunch.target


def _split(frame: Any) -> str:
    return json.dumps({"dataframe_split": {"columns": list(frame.columns), "data": frame.to_numpy().tolist()}})


LOGGERS: Mapping[str, Callable[[Path, tuple[int, ...]], tuple[Any, Mapping[int, str]]]] = {
    "noop": _log_noop,
    "sklearn": _log_sklearn,
    "torch": _log_torch,
}
