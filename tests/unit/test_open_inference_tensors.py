"""The Open Inference Protocol on the wire: what is written is read back, and rubbish is refused by name."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from policies.errors import BadInput
from serving_runtime.open_inference_reading import read_request, read_response
from serving_runtime.open_inference_tensors import (
    BYTES,
    NUMPY_TYPES,
    InferRequest,
    InferResponse,
    OutputWish,
    Tensor,
    write_request,
    write_response,
)

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def numbers(datatype: str) -> st.SearchStrategy[Tensor]:
    return arrays.arrays(np.dtype(NUMPY_TYPES[datatype]), SHAPES).map(lambda data: Tensor("t", datatype, data))


@st.composite
def texts(draw: st.DrawFn) -> Tensor:
    shape = draw(SHAPES)
    data = np.empty(shape, dtype=object)
    for at in np.ndindex(shape):
        data[at] = draw(st.text(max_size=5))
    return Tensor("t", BYTES, data)


TENSORS = st.one_of(texts(), *(numbers(datatype) for datatype in NUMPY_TYPES))


def same(ours: Tensor, theirs: Tensor, *, finite_only: bool) -> bool:
    if (ours.datatype, ours.data.shape) != (theirs.datatype, theirs.data.shape):
        return False
    if ours.datatype == BYTES:
        decoded = [each.decode() if isinstance(each, bytes) else each for each in ours.data.reshape(-1)]
        return decoded == list(theirs.data.reshape(-1))
    wanted = theirs.data
    if finite_only and wanted.dtype.kind == "f":  # JSON has no infinity
        wanted = np.where(np.isfinite(wanted), wanted, np.nan)
    return np.array_equal(ours.data, wanted, equal_nan=wanted.dtype.kind == "f")


def test_whole_numbers_of_two_of_numpys_types_are_read_exactly() -> None:
    inputs = [{"name": "t", "datatype": "UINT64", "shape": [2], "data": [1, 2**64 - 1]}]
    (tensor,) = read_request(json.dumps({"inputs": inputs}).encode()).inputs
    assert tensor.data.tolist() == [1, 2**64 - 1]


@pytest.mark.parametrize("wrong", [2**64, -1, 1.5, None, "1", {}, [1]])
def test_what_is_no_such_number_beside_one_is_refused(wrong: object) -> None:
    inputs = [{"name": "t", "datatype": "UINT64", "shape": [2], "data": [2**63, wrong]}]
    with pytest.raises(BadInput, match=r"inputs\[0\]\.data: expected UINT64"):
        read_request(json.dumps({"inputs": inputs}).encode())


@given(TENSORS, st.booleans())
def test_a_request_that_was_written_is_read_back(tensor: Tensor, binary: bool) -> None:
    outputs = (OutputWish("a"), OutputWish("b", binary=True))
    request = InferRequest((tensor,), id="r", parameters={"p": 1}, outputs=outputs, binary=binary)
    encoded = write_request(request, binary=binary)
    read = read_request(encoded.body, None if encoded.header_length is None else str(encoded.header_length))
    assert (read.id, read.parameters, read.outputs, read.binary) == ("r", {"p": 1}, outputs, binary)
    assert same(read.inputs[0], tensor, finite_only=not binary)


@given(TENSORS, st.booleans())
def test_an_answer_that_was_written_is_read_back(tensor: Tensor, binary: bool) -> None:
    response = InferResponse("m", "1", (tensor,), id="r", binary=frozenset({"t"}) if binary else frozenset())
    encoded = write_response(response)
    read = read_response(encoded.body, None if encoded.header_length is None else str(encoded.header_length))
    assert (read.model_name, read.model_version, read.id) == ("m", "1", "r")
    assert same(read.outputs[0], tensor, finite_only=not binary)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "data", "shape"]), inner),
    max_leaves=8,
)
TENSOR_LIKE = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("t") | JUNK,
        "datatype": st.sampled_from(["FP32", "INT8", "BOOL", "BYTES", "FP99"]) | JUNK,
        "shape": st.just([1]) | JUNK,
        "data": st.just([1]) | JUNK,
        "parameters": st.just({"binary_data_size": 4}) | JUNK,
    },
)


@given(st.dictionaries(st.sampled_from(["inputs", "id", "parameters", "outputs"]), st.lists(TENSOR_LIKE) | JUNK))
def test_rubbish_is_refused_and_nothing_else_happens(told: dict[str, Any]) -> None:
    with contextlib.suppress(BadInput):
        request = read_request(json.dumps(told).encode())
        assert all(tensor.data.shape == tuple(told["inputs"][at]["shape"]) for at, tensor in enumerate(request.inputs))


@given(st.binary(max_size=40), st.none() | st.text(max_size=4) | st.integers(0, 50).map(str))
def test_bytes_are_refused_and_nothing_else_happens(body: bytes, header: str | None) -> None:
    with pytest.raises(BadInput):
        read_request(body, header)


def one(**tensor: Any) -> bytes:
    full = {"name": "x", "datatype": "FP64", "shape": [2], "data": [1, 2], **tensor}
    return json.dumps({"inputs": [{name: value for name, value in full.items() if value is not ...}]}).encode()


def test_data_is_flat_or_nested() -> None:
    for data in ([1, 2, 3, 4], [[1, 2], [3, 4]]):
        read = read_request(one(shape=[2, 2], data=data)).inputs[0]
        assert read.data.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_a_null_is_no_number_that_floats_have() -> None:
    assert math.isnan(read_request(one(data=[1, None])).inputs[0].data[1])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "no JSON"),
        (b"[1]", "expected a JSON object with `inputs`, not a list"),
        (b"{}", "inputs: expected a list of tensors"),
        (b"[" * 100_000, "no JSON"),
        (b'{"inputs": {}}', "inputs: expected a list, not an object"),
        (b'{"inputs": [1]}', r"inputs\[0\]: expected an object with name"),
        (one(name=...), r"inputs\[0\]\.name: expected the tensor's name"),
        (one(datatype="FP128"), r"datatype: expected one of BOOL, .*not 'FP128'"),
        (one(shape=[-1]), r"shape: expected up to 16 whole numbers from 0"),
        (one(shape=[True]), r"shape: expected up to 16 whole numbers from 0"),
        (one(shape=[0, 2**40]), "is more than"),
        (one(data=...), r"data: expected a list of 2 x FP64, not null"),
        (one(data=[1]), r"data: expected 2 x FP64 for shape \[2\], flat or nested so, not 1"),
        (one(data=[[1], [2]]), r"flat or nested so, not 2 in shape \[2, 1\]"),
        (one(data=["1", "2"]), r"data: expected FP64, and '1' is none"),
        (one(data=[1, "2"]), r"data: expected FP64, and '2' is none"),
        (one(data=[[1], 2]), r"data: expected FP64 in a flat or evenly nested list"),
        (one(data=[{}, 2]), r"data: expected FP64"),
        (one(data=[True, False]), r"data: expected FP64, and True is none"),
        (one(datatype="INT32", data=[1, 1.5]), r"data: expected INT32, and 1\.5 is none"),
        (one(datatype="INT32", data=[1, None]), r"data: expected INT32, and None is none"),
        (one(datatype="UINT8", data=[1, 300]), r"data: expected UINT8 \(0 to 255\), not 300"),
        (one(datatype="UINT8", data=[-1, 3]), r"data: expected UINT8 \(0 to 255\), not -1"),
        (one(datatype="BOOL"), r"data: expected BOOL, and 1 is none"),
        (one(datatype="BYTES"), r"data: expected strings \(BYTES\), not a number 1"),
        (one(datatype="BYTES", shape=[1, 2], data=[["a"]]), "nested as shape"),
        (one(parameters={"binary_data_size": 4}), "expected one of them"),
        (one(data=..., parameters={"binary_data_size": 4}), "at most the 0 bytes that are left, not 4"),
        (one(data=..., parameters={"binary_data_size": -1}), "at most the 0 bytes"),
        (json.dumps({"inputs": [json.loads(one())["inputs"][0]] * 2}).encode(), "'x' is there twice"),
    ],
)
def test_a_refusal_names_the_field_and_what_was_expected(body: bytes, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_request(body)


def binary(raw: bytes, size: int, **tensor: Any) -> tuple[bytes, str]:
    head = one(data=..., parameters={"binary_data_size": size}, **tensor)
    return head + raw, str(len(head))


@pytest.mark.parametrize(
    ("body", "header", "words"),
    [
        (*binary(b"\0" * 16, 8), "expected 16 bytes for shape"),
        (*binary(b"\0" * 17, 16), "1 bytes follow the last tensor"),
        (*binary(b"\x05\0\0\0a", 5, datatype="BYTES", shape=[1]), "goes beyond the tensor's data"),
        (*binary(b"\x05\0", 2, datatype="BYTES", shape=[1]), "goes beyond the tensor's data"),
        (*binary(b"\x01\0\0\0a", 5, datatype="BYTES", shape=[2]), "expected 2 BYTES elements"),
        (one(), "9999", "at most the body's"),
        (one(), "-1", "expected the length of the JSON"),
        (one(), "9" * 5000, "expected the length of the JSON"),
        (one(), "0" * 20 + "9" * 5000, "expected the length of the JSON"),
    ],
)
def test_a_binary_part_is_exactly_what_its_tensors_say(body: bytes, header: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        read_request(body, header)


def test_binary_data_may_be_written_into() -> None:
    body, header = binary(np.array([1.0, 2.0]).tobytes(), 16)
    data = read_request(body, header).inputs[0].data
    data[0] = 5.0
    assert data.tolist() == [5.0, 2.0]
