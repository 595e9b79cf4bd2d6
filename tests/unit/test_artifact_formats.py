"""Which files pickle would load, by name and first bytes; and what an MLmodel says."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

from policies.artifact_digest import MLMODEL_BYTES
from policies.artifact_formats import HEAD_BYTES, described, is_pickled
from policies.errors import BadInput
from policies.model_signatures import Column, Signature, Type


def array(values: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(values, dtype=object) if isinstance(values, str) else np.array(values))
    return file.getvalue()


def archive(member: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        written.writestr(member, b"x" * 100)
    return file.getvalue()


@pytest.mark.parametrize("name", ["model.pkl", "python_model.PKL", "deep/er/model.joblib", "a.pickle", "w.pt", "w.pth"])
def test_a_file_counts_by_its_name(name):
    assert is_pickled(name, b"")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_another_name_counts_by_its_first_bytes(protocol):
    assert is_pickled("weights.dat", pickle.dumps({"a": 1}, protocol)[:HEAD_BYTES])


def test_arrays_of_objects_and_torch_archives_count():
    assert is_pickled("a.npy", array("object")[:HEAD_BYTES])
    assert is_pickled("model.dat", archive("archive/data.pkl")[:HEAD_BYTES])
    assert is_pickled("model.dat", archive("data.pkl")[:HEAD_BYTES])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", array([1.0, 2.0])),
        ("model.skops", archive("schema.json")),
        ("model.onnx", b"\x08\x07\x12\x04skl2"),
        ("model.ubj", b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner"),
        ("model.safetensors", b"\x40\x00\x00\x00\x00\x00\x00\x00{}"),
        ("MLmodel", b"flavors:\n  sklearn:\n    pickled_model: model.pkl\n"),
        ("model.py", b"import pickle\n"),
        ("empty", b""),
    ],
)
def test_other_formats_do_not(name, content):
    assert not is_pickled(name, content[:HEAD_BYTES])


MLMODEL = """
flavors:
  python_function:
    loader_module: %s
  sklearn:
    pickled_model: model.pkl
signature:
  inputs: '[{"type": "double", "name": "amount", "required": true}]'
  outputs: null
  params: null
"""


@pytest.mark.parametrize(
    ("loader", "flavor"),
    [
        ("mlflow.sklearn", "sklearn"),
        ("mlflow.pyfunc.model", "python_function"),
        ("mlflow.pyfunc.loaders.code_model", "python_function"),
        ("our.own.loader", "our.own.loader"),
        ("mlflow", "mlflow"),
        ('""', ""),
    ],
)
def test_the_flavor_is_the_one_that_would_load_it(loader, flavor):
    """Whatever else it names: `sklearn` stands in each of them."""
    signature, found = described((MLMODEL % loader).encode())
    assert found == flavor
    assert signature == Signature(inputs=(Column("amount", Type("double")),))


def test_without_flavors_and_signature_nothing_is_known():
    assert described(b"run_id: a\n") == (None, "")


@pytest.mark.parametrize(
    "text", [b"[1, 2", b"- a list", b"!!bool 7", b"signature: {inputs: '['}", b"a: " + b"x" * MLMODEL_BYTES]
)
def test_an_mlmodel_that_cannot_be_read_says_so(text):
    with pytest.raises(BadInput, match="MLmodel"):
        described(text)
