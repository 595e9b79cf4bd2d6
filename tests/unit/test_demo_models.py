"""The demo's versions: they train, they differ as the story says, and they load where nothing of Sluicegate is."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.demo import models

LOADS_ELSEWHERE = """
import io, json, sys
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
assert not any(name.split(".")[0] in ("pipelines", "policies") for name in sys.modules)
body = json.loads(open(sys.argv[1] + "/serving_input_example.json").read())["dataframe_split"]
frame = pd.DataFrame(body["data"], columns=body["columns"])
print(model.predict(frame).to_json(orient="records"))
"""


@pytest.fixture(scope="module")
def data() -> models.Data:
    return models.load_data()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, data: models.Data) -> SimpleNamespace:
    """A first and a faulty version, logged to a registry of this test's own."""
    import mlflow

    folder, before = tmp_path_factory.mktemp("mlflow"), mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder}/mlflow.db"
    with contextlib.chdir(folder):  # without a server, MLflow keeps artifacts below where it stands
        logged = [models.log_version(uri, "demo", recipe, data) for recipe in (models.RECIPES[0], models.RECIPES[2])]
        paths = [Path(mlflow.artifacts.download_artifacts(f"models:/demo/{v.version}")).resolve() for v in logged]
    mlflow.set_tracking_uri(before)
    return SimpleNamespace(logged=logged, paths=paths)


def test_the_second_version_is_better_on_the_same_held_out_rows(data: models.Data) -> None:
    first, second, third = (models.accuracy(models.train(recipe, data), data) for recipe in models.RECIPES)
    assert 0.8 < first < 0.93 < second
    assert third == second


def test_training_twice_gives_the_same_weights(data: models.Data) -> None:
    once, again = (models.train(models.RECIPES[0], data).state_dict() for _ in range(2))
    assert all(bool((once[name] == again[name]).all()) for name in once)


def test_a_version_is_registered_with_signature_example_and_pinned_requirements(registry: SimpleNamespace) -> None:
    import mlflow

    path = registry.paths[0]
    signature = mlflow.models.Model.load(str(path)).signature
    assert len(signature.inputs.input_names()) == 30
    assert signature.outputs.input_names() == ["malignant", "probability"]
    assert len(json.loads((path / "serving_input_example.json").read_text())["dataframe_split"]["data"]) == 2
    requirements = (path / "requirements.txt").read_text().splitlines()
    assert [line.split("==")[0] for line in requirements] == ["mlflow", "torch", "numpy", "pandas"]
    assert str(registry.logged[0]).startswith("v1: a first model, trained briefly; accuracy ")


def test_all_versions_have_one_signature(registry: SimpleNamespace) -> None:
    import mlflow

    first, third = (mlflow.models.Model.load(str(path)).signature for path in registry.paths)
    assert first == third


def test_the_faulty_version_loads_and_warms_up_in_a_process_without_sluicegate(
    registry: SimpleNamespace, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", LOADS_ELSEWHERE, str(registry.paths[1])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert [answer["malignant"] for answer in answers] == [0, 0]


def test_the_faulty_version_refuses_a_few_percent_of_the_real_rows_and_the_first_none(
    registry: SimpleNamespace, data: models.Data
) -> None:
    import mlflow

    refused = [_refused(mlflow.pyfunc.load_model(str(path)), data) for path in registry.paths]
    assert refused == [0, models.REFUSED_ROWS]
    assert 0.03 <= models.REFUSED_ROWS / len(data.rows) <= 0.06


def test_a_few_other_rows_are_slow(data: models.Data) -> None:
    fault = models.faults(data)["slow"]
    assert (data.rows[fault["column"]] > fault["above"]).sum() == models.SLOW_ROWS
    assert fault["seconds"] == models.SLOW_S


def test_every_real_row_becomes_one_request_in_a_fixed_order(data: models.Data) -> None:
    bodies = models.request_bodies(data)
    assert bodies == models.request_bodies(data)
    assert len(set(bodies)) == len(data.rows) == 569
    assert len(json.loads(bodies[0])["dataframe_split"]["columns"]) == 30


def _refused(model: Any, data: models.Data) -> int:
    """How many rows it refuses, asked one by one. It may dawdle over none, for a quick test."""
    unwrapped = model.unwrap_python_model()
    unwrapped.faults.pop("slow", None)
    count = 0
    for i in range(len(data.rows)):
        try:
            unwrapped.predict(None, data.rows.iloc[[i]])
        except ValueError:
            count += 1
    return count
