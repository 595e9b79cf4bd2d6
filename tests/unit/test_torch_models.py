"""Torch in a replica: models of MLflow's pytorch flavour as a user logs them, on the CPU."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.models import infer_signature
from mlflow.pyfunc import scoring_server

from policies.serving import Batching
from serving_runtime.model_server import ModelServer, load
from serving_runtime.protocol import Call
from serving_runtime.torch_models import DEVICE_VARIABLE, Owned, choose_device, settle
from tests.fakes.numbers_model import loaded

JSON = "application/json"


class Mlp(torch.nn.Module):
    """Says in `modes` whether it was asked in inference mode, and with how many threads."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        self.modes: list[tuple[bool, int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append((torch.is_inference_mode_enabled(), torch.get_num_threads()))
        return self.layers(x)


class Saliency(torch.nn.Module):
    """Answers the gradient of the square: it needs one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad((x * x).sum(), x)
        return gradient


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Threads and environment belong to the whole process."""
    threads, device = torch.get_num_threads(), os.environ.pop(DEVICE_VARIABLE, None)
    yield
    torch.set_num_threads(threads)
    os.environ.pop(DEVICE_VARIABLE, None)
    if device is not None:
        os.environ[DEVICE_VARIABLE] = device


def saved(folder: Path, module: torch.nn.Module, example: Any) -> Path:
    import mlflow

    path = folder / "model"
    signature = infer_signature(example, np.zeros((1, 2), np.float32))
    mlflow.pytorch.save_model(
        module, path, signature=signature, pip_requirements=["torch"], serialization_format="pickle"
    )
    return path


FRAME = pd.DataFrame(np.ones((1, 3), np.float32), columns=["a", "b", "c"])
TENSOR = np.ones((1, 3), np.float32)
AS_FRAME = {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[0.5, 1, -2], [3, 4, 5]]}}
AS_TENSOR = {"inputs": [[0.5, 1, -2], [3, 4, 5]]}


@pytest.mark.parametrize(("example", "content"), [(FRAME, AS_FRAME), (TENSOR, AS_TENSOR)], ids=["frame", "tensor"])
def test_a_model_of_the_pytorch_flavour_is_served_in_inference_mode_with_its_own_cpus(
    tmp_path: Path, example: Any, content: object
) -> None:
    import mlflow

    path, body = saved(tmp_path, Mlp(), example), json.dumps(content).encode()
    theirs = mlflow.pyfunc.load_model(str(path))
    expected = scoring_server.invocations(body, JSON, theirs, theirs.metadata.get_input_schema())
    model = load(path, Owned(cpus=3.0))
    answer = asyncio.run(ModelServer(model, lambda _ms: None).answer(Call(body, JSON, "r")))
    assert (answer.status, answer.body) == (200, expected.response.encode())
    assert model.get_raw_model().modes == [(True, 3)]
    assert theirs.get_raw_model().modes[0][0] is False


def test_a_batch_is_one_forward_pass(tmp_path: Path) -> None:
    model = load(saved(tmp_path, Mlp(), TENSOR), Owned())
    calls = [Call(json.dumps({"inputs": [[n, n, n]]}).encode(), JSON, "r") for n in range(4)]

    async def together() -> list[Any]:
        server = ModelServer(model, lambda _ms: None)
        server.configure(Batching(max_batch_size=4, batch_wait_ms=1000.0))
        return list(await asyncio.gather(*(server.answer(call) for call in calls)))

    answers = [json.loads(answer.body)["predictions"] for answer in asyncio.run(together())]
    with torch.no_grad():
        alone = [model.get_raw_model().layers(torch.full((1, 3), float(n))).tolist() for n in range(4)]
    assert np.allclose(answers, alone)
    assert len(model.get_raw_model().modes) == 1


def test_a_model_that_needs_gradients_is_served_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load(saved(tmp_path, Saliency(), TENSOR), Owned())
    server = ModelServer(model, lambda _ms: None)
    for _ in range(2):
        answer = asyncio.run(server.answer(Call(b'{"inputs": [[1, 2, 3]]}', JSON, "r")))
        assert json.loads(answer.body) == {"predictions": [[2.0, 4.0, 6.0]]}
    assert caplog.text.count("needs gradients") == 1


def test_a_bad_row_does_not_end_inference_mode(tmp_path: Path) -> None:
    model = load(saved(tmp_path, Mlp(), np.ones((1, 3, 3), np.float32)), Owned())
    server = ModelServer(model, lambda _ms: None)
    bad = {"inputs": [[[1, 2, 3, 4]] * 3]}
    assert asyncio.run(server.answer(Call(json.dumps(bad).encode(), JSON, "r"))).status in (400, 500)
    good = {"inputs": [[[1, 2, 3]] * 3]}
    assert asyncio.run(server.answer(Call(json.dumps(good).encode(), JSON, "r"))).status == 200
    assert model.get_raw_model().modes[-1][0] is True


def test_other_flavours_have_the_threads_and_no_inference_mode() -> None:
    modes: list[bool] = []

    class Own:
        def predict(self, data: Any) -> Any:
            modes.append(torch.is_inference_mode_enabled())
            return data

    model = loaded(None, impl=Own())
    settle(model, Owned(cpus=2.0))
    model._predict_fn([1.0])
    assert modes == [False]
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("cpus", "threads"), [(0.0, 1), (0.5, 1), (1.9, 1), (2.0, 2)])
def test_a_share_of_a_cpu_is_one_thread(cpus: float, threads: int) -> None:
    settle(loaded(None), Owned(cpus=cpus))
    assert torch.get_num_threads() == threads


def test_a_replica_without_a_gpu_stays_on_the_cpu_and_a_persons_wish_wins() -> None:
    choose_device(Owned(gpus=0.5))
    assert DEVICE_VARIABLE not in os.environ
    choose_device(Owned())
    assert os.environ[DEVICE_VARIABLE] == "cpu"
    os.environ[DEVICE_VARIABLE] = "cuda:1"
    choose_device(Owned())
    assert os.environ[DEVICE_VARIABLE] == "cuda:1"
