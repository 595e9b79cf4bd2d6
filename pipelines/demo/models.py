"""Trains the demo's three versions on scikit-learn's breast cancer dataset and logs them to an MLflow server.

v1 is trained too briefly, v2 long enough; v3 has v2's weights, loads and warms up well, and then refuses about one real
row in twenty and dawdles over some others: what offline tests on a few rows do not show.

Rules:
- Deterministic by SEED: the same rows are held out for every version, and the same weights come out.
- All versions have one signature: 30 named double columns in, `malignant` and `probability` out.
- Nothing but the MLflow server is spoken to: requirements are given, not inferred, and MLflow's own telemetry is off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import pandas as pd

logger = logging.getLogger(__name__)

EXPERIMENT = "sluice demo"
SEED = 7
"""Any number; fixed, so that every demo tells the same story."""

HELD_OUT_SHARE = 0.3
"""171 of 569 rows: one row is 0.6 % of accuracy, fine enough to tell v1 from v2."""

LEARNING_RATE = 0.01
EXAMPLE_ROWS = 2
"""Rows in the input example: what the model server warms up with."""

REFUSED_ROWS = 26
"""Of 569, 4.6 %: far outside an SLO of 99 %, and rare enough that a few rows tried by hand look fine."""

SLOW_ROWS = 11
"""Of 569, 1.9 %: seen in the slowest answers, and too few to queue up the rest at the demo's rate."""

SLOW_S = 0.4
"""Well above every healthy answer, well below every timeout."""

MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing but the demo's own server is spoken to
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""MLflow reads them from the environment, telemetry at import: set before anything here imports it."""

SHIPPED = ("mlflow", "torch", "numpy", "pandas")
"""What `classifier.py` imports, directly or through pandas: the model's requirements."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one version is made."""

    title: str
    epochs: int
    """Passes over the training rows, full batch."""
    faulty: bool = False


RECIPES = (
    Recipe(title="a first model, trained briefly", epochs=2),
    Recipe(title="trained longer", epochs=150),
    Recipe(title="the same accuracy, and a range check that real rows will trip", epochs=150, faulty=True),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The dataset, split the same way for every version. Targets: 1 is malignant."""

    rows: pd.DataFrame
    """All 569 rows, 30 double columns."""
    train: pd.DataFrame
    train_target: pd.Series[int]
    held_out: pd.DataFrame
    held_out_target: pd.Series[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logged:
    """One version, registered."""

    version: int
    title: str
    accuracy: float
    """Share of the held-out rows answered rightly, by the network without its faults."""
    held_out_rows: int

    def __str__(self) -> str:
        """As the demo says it."""
        right = round(self.accuracy * self.held_out_rows)
        return f"v{self.version}: {self.title}; accuracy {self.accuracy:.1%} ({right} of {self.held_out_rows} held out)"


def load_data() -> Data:
    """The breast cancer dataset of scikit-learn: in the package, no download."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    bunch = load_breast_cancer(as_frame=True)
    malignant = (bunch.target == 0).astype("int64")  # scikit-learn calls benign 1
    train, held_out, train_target, held_out_target = train_test_split(
        bunch.data, malignant, test_size=HELD_OUT_SHARE, random_state=SEED, stratify=malignant
    )
    return Data(
        rows=bunch.data,
        train=train,
        train_target=train_target,
        held_out=held_out,
        held_out_target=held_out_target,
    )


def request_bodies(data: Data) -> list[str]:
    """One MLflow scoring request per real row, shuffled by SEED: JSON, `dataframe_split`."""
    shuffled = data.rows.sample(frac=1.0, random_state=SEED)
    columns = list(shuffled.columns)
    values = shuffled.to_numpy().tolist()
    return [json.dumps({"dataframe_split": {"columns": columns, "data": [row]}}) for row in values]


def faults(data: Data) -> dict[str, Any]:
    """What v3 does wrong, by input alone. Thresholds lie between two real values: exactly that many rows are above."""
    return {
        "refuse": {
            "column": "fractal dimension error",
            "above": _threshold(data.rows["fractal dimension error"], REFUSED_ROWS),
        },
        "slow": {
            "column": "worst texture",
            "above": _threshold(data.rows["worst texture"], SLOW_ROWS),
            "seconds": SLOW_S,
        },
    }


def train(recipe: Recipe, data: Data) -> Any:
    """A trained `classifier.Network`. Full-batch Adam on the standardized training rows; under a second."""
    import torch

    from pipelines.demo.classifier import Network

    torch.manual_seed(SEED)
    rows = torch.tensor(data.train.to_numpy(dtype="float32"))
    target = torch.tensor(data.train_target.to_numpy(dtype="float32"))
    network = Network(columns=rows.shape[1])
    network.mean.copy_(rows.mean(dim=0))
    network.scale.copy_(rows.std(dim=0))
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(recipe.epochs):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy_with_logits(network(rows), target).backward()
        optimizer.step()
    return network.eval()


def accuracy(network: Any, data: Data) -> float:
    """Share of the held-out rows that the network answers rightly."""
    from pipelines.demo.classifier import predictions

    answers = predictions(network, data.held_out)["malignant"].to_numpy()
    return float((answers == data.held_out_target.to_numpy()).mean())


def log_version(tracking_uri: str, model: str, recipe: Recipe, data: Data) -> Logged:
    """Train one version and register it under `model`; some seconds. Raises MlflowException if the server is away."""
    os.environ.update(MLFLOW_SETTINGS)
    network = train(recipe, data)
    right = accuracy(network, data)
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    with (
        _quiet(),
        mlflow.start_run(experiment_id=_experiment(), run_name=recipe.title),
    ):
        mlflow.log_params({"epochs": recipe.epochs, "seed": SEED, "held_out_rows": len(data.held_out)})
        mlflow.log_metric("held_out_accuracy", right)
        logged = _log_model(network, model, recipe, data)
    return Logged(
        version=int(logged.registered_model_version),
        title=recipe.title,
        accuracy=right,
        held_out_rows=len(data.held_out),
    )


def _experiment() -> str:
    """The demo's experiment, made where there is none; this process's own default stays what it was."""
    import mlflow

    found = mlflow.get_experiment_by_name(EXPERIMENT)
    return str(found.experiment_id if found is not None else mlflow.create_experiment(EXPERIMENT))


def _log_model(network: Any, model: str, recipe: Recipe, data: Data) -> Any:
    import mlflow
    import torch

    from pipelines.demo import classifier

    example = _example(data)
    with tempfile.TemporaryDirectory(prefix="sluice-demo-") as folder:
        artifacts = {"weights": Path(folder, "weights.pt"), "faults": Path(folder, "faults.json")}
        torch.save(network.state_dict(), artifacts["weights"])
        artifacts["faults"].write_text(json.dumps(faults(data) if recipe.faulty else {}), encoding="utf-8")
        return mlflow.pyfunc.log_model(
            name="model",
            python_model=classifier.__file__,
            artifacts={name: str(path) for name, path in artifacts.items()},
            signature=mlflow.models.infer_signature(example, classifier.predictions(network, example)),
            input_example=example,
            pip_requirements=requirements(),
            registered_model_name=model,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """MLflow announces runs, versions and habits on stderr; the demo says what matters itself. Errors still raise."""
    words = io.StringIO()
    with contextlib.redirect_stderr(words), contextlib.redirect_stdout(words), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logger.debug("MLflow said: %s", words.getvalue())


def requirements() -> list[str]:
    """What is installed here, pinned: the model was made and tried with it. Local build labels (+cpu) are left out."""
    return [f"{name}=={installed(name).split('+')[0]}" for name in SHIPPED]


def _example(data: Data) -> pd.DataFrame:
    """The held-out rows nearest the median: like every healthy example, it trips no fault."""
    distance = ((data.held_out - data.rows.median()) / data.rows.std()).abs().sum(axis=1)
    return data.held_out.loc[distance.sort_values().index[:EXAMPLE_ROWS]]


def _threshold(column: pd.Series[float], rows_above: int) -> float:
    """A number with exactly `rows_above` values above it. Raises ValueError where equal values make that impossible."""
    highest: Sequence[float] = sorted(column, reverse=True)
    inside, outside = highest[rows_above - 1], highest[rows_above]
    if inside == outside:
        raise ValueError(f"{rows_above} values cannot be cut off {column.name}: the last two are equal")
    return (inside + outside) / 2
