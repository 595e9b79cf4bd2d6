"""The Open Inference Protocol over gRPC, in process: messages in and out, statuses, and who may call."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Mapping
from typing import Any

import pytest

from serving_runtime.access import Gate
from serving_runtime.front import Front, Reply
from serving_runtime.grpc_entry import GrpcEntry
from serving_runtime.grpc_messages import MESSAGES, METHODS, request_of, response_of
from serving_runtime.grpc_tensors import TYPED, infer_body, infer_response
from serving_runtime.open_inference_reading import read_request
from serving_runtime.open_inference_tensors import LENGTH_HEADER, InferResponse, Tensor, write_response
from serving_runtime.outcomes import UserOutcome
from serving_runtime.protocol import Answer, CallKind, error_answer
from tests.unit.test_ensemble import Counts
from tests.unit.test_front import Gone, Host, config, hangs, member

ABOUT = {
    "name": "fraud",
    "versions": ["3"],
    "platform": "mlflow_pyfunc",
    "inputs": [{"name": "x", "datatype": "FP64", "shape": [-1], "more": 1}],
    "outputs": [],
}


class Context:
    """What Serve hands to a method beside the message."""

    def __init__(self, peer: str = "ipv4:127.0.0.1:4711", **metadata: str) -> None:
        self._peer = peer
        self.code: Any = None
        self.details = ""
        self._sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return [("application", "sluice-grpc"), *self._sent]

    def peer(self) -> str:
        return self._peer

    def trailing_metadata(self) -> list[tuple[str, str]]:
        return [("request_id", "made-by-serve")]

    def set_code(self, code: Any) -> None:
        self.code = code

    def set_details(self, details: str) -> None:
        self.details = details

    @property
    def status(self) -> str:
        return "OK" if self.code is None else str(self.code.name)


def answers(*tensors: Tensor) -> Host:
    """A host that predicts these."""
    written = write_response(InferResponse("fraud", "3", tensors, "mine", binary=frozenset(t.name for t in tensors)))
    headers = ((LENGTH_HEADER, str(written.header_length)),)
    return Host(Reply(Answer(200, written.body, "application/octet-stream", headers), "3"))


def tensor(name: str, datatype: str, *values: Any) -> Tensor:
    import numpy as np

    from serving_runtime.open_inference_tensors import NUMPY_TYPES

    return Tensor(name, datatype, np.array(values, dtype=NUMPY_TYPES.get(datatype, object)))


def entry(host: Host, counts: Counts | None = None, *, exposed: bool = False, timeout_s: float = 5.0) -> GrpcEntry:
    front = Front(lambda _: host)
    front.configure(config(member("fraud", timeout_s=timeout_s)))
    host.about = Reply(Answer(200, json.dumps(ABOUT).encode()), "3")
    return GrpcEntry(front, Gate(exposed=exposed), counts or Counts())


def infer_request(*, raw: bool = True, **fields: Any) -> Any:
    message = request_of("ModelInfer")(**{"model_name": "fraud", "id": "mine", **fields})
    one = message.inputs.add(name="x", datatype="FP64", shape=[2])
    if raw:
        message.raw_input_contents.append(struct.pack("<2d", 1.0, 2.5))
    else:
        one.contents.fp64_contents.extend([1.0, 2.5])
    return message


def inferred(host: Host, message: Any = None, context: Context | None = None, **more: Any) -> tuple[Any, Context]:
    body = (message or infer_request()).SerializeToString() if not isinstance(message, bytes) else message
    context = context or Context()
    return asyncio.run(entry(host, **more).model_infer(body, context)), context


# --- messages -----------------------------------------------------------------------------------------------------


def test_every_method_has_its_messages() -> None:
    assert {f"{method}{kind}" for method in METHODS for kind in ("Request", "Response")} <= set(MESSAGES)
    for method in METHODS:
        assert request_of(method).FromString(b"").SerializeToString() == b""
        assert response_of(method).DESCRIPTOR.full_name == f"inference.{method}Response"


def test_a_message_has_the_bytes_that_the_protocol_says() -> None:
    """Field numbers and wire types, written by hand: 1 and 3 are strings, 4 a map, 7 bytes."""
    message = request_of("ModelInfer")(model_name="m", id="i", raw_input_contents=[b"\x01"])
    message.parameters["p"].int64_param = 2
    assert message.SerializeToString() == b"\x0a\x01m\x1a\x01i\x22\x07\x0a\x01p\x12\x02\x10\x02\x3a\x01\x01"


# --- tensors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [True, False])
def test_a_request_is_what_the_door_for_http_gets(raw: bool) -> None:
    message = infer_request(raw=raw)
    message.parameters["plus"].double_param = 0.5
    message.outputs.add(name="y")
    body, length = infer_body(message)
    read = read_request(body, str(length))
    assert (read.id, read.parameters, read.binary) == ("mine", {"plus": 0.5}, True)
    assert [(t.name, t.datatype, t.data.tolist()) for t in read.inputs] == [("x", "FP64", [1.0, 2.5])]
    assert [wish.name for wish in read.outputs] == ["y"]


def test_typed_bytes_travel_as_they_are() -> None:
    message = request_of("ModelInfer")(model_name="fraud")
    message.inputs.add(name="t", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"\xff", b"a"])
    body, length = infer_body(message)
    assert read_request(body, str(length)).inputs[0].data.tolist() == [b"\xff", b"a"]


@pytest.mark.parametrize("datatype", sorted(TYPED))
@pytest.mark.parametrize("typed", [True, False])
def test_outputs_come_in_the_form_that_was_sent(datatype: str, typed: bool) -> None:
    values = [b"a", b""] if datatype == "BYTES" else [1, 0]
    written = write_response(InferResponse("m", "3", (tensor("y", datatype, *values),), binary=frozenset({"y"})))
    message = infer_response(written.body, written.header_length, typed=typed)
    (output,) = message.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [2])
    assert len(message.raw_output_contents) == (0 if typed else 1)
    if typed:
        assert list(getattr(output.contents, TYPED[datatype][0])) == values


def test_an_answer_with_what_has_no_typed_form_is_raw() -> None:
    both = (tensor("a", "FP16", 1), tensor("b", "FP64", 2))
    written = write_response(InferResponse("m", "3", both, binary=frozenset({"a", "b"})))
    message = infer_response(written.body, written.header_length, typed=True)
    assert [len(raw) for raw in message.raw_output_contents] == [2, 8]


# --- methods ------------------------------------------------------------------------------------------------------


def test_a_prediction() -> None:
    host, counts = answers(tensor("y", "FP64", 2.0, 5.0)), Counts()
    message, context = inferred(host, context=Context(x_request_id="id-7", x_user="u1"), counts=counts)
    assert context.status == "OK"
    assert (message.model_name, message.model_version, message.id) == ("fraud", "3", "mine")
    assert struct.unpack("<2d", message.raw_output_contents[0]) == (2.0, 5.0)
    (question,) = host.questions
    assert (question.call.kind, question.call.request_id, question.version) == (CallKind.INFER, "id-7", None)
    assert question.call.headers["x-user"] == "u1"
    assert counts.answers == {UserOutcome.OK: 1}


def test_a_version_that_is_asked_for_is_the_hosts_to_find() -> None:
    host = answers(tensor("y", "FP64", 2.0))
    inferred(host, infer_request(model_version="2"))
    assert host.questions[0].version == "2"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "INVALID_ARGUMENT"),
        (404, "NOT_FOUND"),
        (413, "RESOURCE_EXHAUSTED"),
        (429, "RESOURCE_EXHAUSTED"),
        (503, "RESOURCE_EXHAUSTED"),
        (504, "DEADLINE_EXCEEDED"),
        (500, "INTERNAL"),
    ],
)
def test_a_failure_is_a_status_with_words_and_the_request_id(status: int, code: str) -> None:
    message, context = inferred(Host(Reply(error_answer(status, "X", "Words."), "3")))
    assert (context.status, context.details) == (code, "Words. Request id made-by-serve.")
    assert message.SerializeToString() == b""


@pytest.mark.parametrize(("fails", "code"), [(Gone("secret"), "UNAVAILABLE"), (hangs, "DEADLINE_EXCEEDED")])
def test_a_host_that_is_not_reached(fails: Any, code: str) -> None:
    counts = Counts()
    _, context = inferred(Host(fails), timeout_s=0.2, counts=counts)
    assert (context.status, "secret" in context.details) == (code, False)
    assert counts.answers == {UserOutcome.ERROR: 1}


def without(message: Any, field: str) -> Any:
    message.ClearField(field)
    return message


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (b"\xff\xff", "INVALID_ARGUMENT", "no ModelInferRequest"),
        (infer_request(model_name="other"), "NOT_FOUND", "No model is called 'other'"),
        (infer_request(raw_input_contents=[b"", b""]), "INVALID_ARGUMENT", "expected one for each of 1 inputs, not 3"),
        (without(infer_request(), "raw_input_contents"), "OK", ""),
    ],
)
def test_a_wrong_message_is_refused_here_and_a_wrong_tensor_by_the_version(message: Any, code: str, words: str) -> None:
    host = answers(tensor("y", "FP64", 2.0))
    _, context = inferred(host, message)
    assert context.status == code
    assert words in context.details
    assert bool(host.questions) == (code == "OK")


def test_what_the_version_answers_is_not_believed() -> None:
    _, context = inferred(Host(Reply(Answer(200, b'{"outputs": [{"name": "secret"}]}'), "3")))
    assert (context.status, "secret" in context.details) == ("INTERNAL", False)


def test_where_others_reach_it_somebody_must_have_said_who_may_call() -> None:
    host = answers(tensor("y", "FP64", 2.0))
    _, context = inferred(host, exposed=True)
    assert context.status == "PERMISSION_DENIED"
    assert host.questions == []


def test_who_asks_from_elsewhere_is_asked_though_serve_listens_on_loopback() -> None:
    """Serve's gRPC ports listen on every address, whatever its HTTP host is."""
    host = answers(tensor("y", "FP64", 2.0))
    _, context = inferred(host, context=Context(peer="ipv4:203.0.113.9:4711"))
    assert context.status == "PERMISSION_DENIED"
    assert "sluice.yaml" in context.details
    assert host.questions == []


def told(method: str, message: Mapping[str, Any], **more: Any) -> tuple[Any, Context]:
    host, context = answers(tensor("y", "FP64", 2.0)), Context()
    names = {"ModelReady": "model_ready", "ModelMetadata": "model_metadata"}
    called = getattr(entry(host, **more), names[method])
    return asyncio.run(called(request_of(method)(**message).SerializeToString(), context)), context


def test_it_lives_and_knows_its_models() -> None:
    one = entry(answers())
    assert one.server_live().live
    assert one.server_ready().ready
    assert one.server_metadata().name == "sluicegate"
    assert not GrpcEntry(Front(lambda _: Host(hangs)), Gate(exposed=False), Counts()).server_ready().ready


@pytest.mark.parametrize(
    ("name", "version", "ready"), [("fraud", "", True), ("Fraud", "3", True), ("fraud", "2", False), ("x", "", False)]
)
def test_a_model_is_ready_when_its_host_answers(name: str, version: str, ready: bool) -> None:
    message, context = told("ModelReady", {"name": name, "version": version})
    assert (message.ready, context.status) == (ready, "OK")
    assert told("ModelReady", {"name": name, "version": version}, exposed=True)[0].ready is ready, "as over HTTP"


def test_metadata_is_what_the_host_says() -> None:
    message, _ = told("ModelMetadata", {"name": "fraud"})
    assert (message.name, list(message.versions), message.platform) == ("fraud", ["3"], "mlflow_pyfunc")
    assert [(t.name, t.datatype, list(t.shape)) for t in message.inputs] == [("x", "FP64", [-1])]
    assert told("ModelMetadata", {"name": "fraud", "version": "9"})[1].status == "NOT_FOUND"
    assert told("ModelMetadata", {"name": "fraud"}, exposed=True)[1].status == "PERMISSION_DENIED"
