"""The log of a replica, and errors at Sentry."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from serving_runtime.replica_log import NamedLines, about, join_sentry

FIELDS = {"model": "fraud", "version": "2", "build": "22222222"}


class Kept(logging.Handler):
    """Keeps what it gets."""

    def __init__(self, level: int = logging.NOTSET) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_every_line_names_the_version_and_its_request() -> None:
    everything, errors = Kept(), Kept(logging.ERROR)
    log = logging.getLogger("tests.replica")
    log.propagate = False
    log.addHandler(NamedLines(FIELDS, [everything, errors]))
    log.warning("the candidate did not answer", extra=about("r-1"))
    log.error("the model failed", extra=about("r-2"))
    seen = [{key: vars(r)[key] for key in (*FIELDS, "request_id")} for r in everything.records]
    assert seen == [{**FIELDS, "request_id": "r-1"}, {**FIELDS, "request_id": "r-2"}]
    assert [r.getMessage() for r in errors.records] == ["the model failed"]


def test_nothing_is_sent_without_an_address_or_to_one_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert not join_sentry({}, FIELDS)
    assert not join_sentry({"SENTRY_DSN": "not an address: secret"}, FIELDS)
    assert "SENTRY_DSN is no address of it" in caplog.text
    assert "secret" not in caplog.text


@pytest.fixture
def sentry() -> Iterator[tuple[str, list[bytes]]]:
    """Where a Sentry listens, and what it was sent."""
    envelopes: list[bytes] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            import gzip

            body = self.rfile.read(int(self.headers["content-length"]))
            envelopes.append(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Nobody reads it."""

    server = HTTPServer(("127.0.0.1", 0), Takes)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://key@127.0.0.1:{server.server_port}/1", envelopes
    server.shutdown()
    thread.join()
    server.server_close()


FAILS = f"""
import logging, os, sentry_sdk
from serving_runtime.replica_log import about, join_sentry

assert join_sentry(os.environ, {FIELDS!r})

def predict(body):
    raise ValueError("no such device")

try:
    predict(os.environ["BODY"])
except ValueError as error:
    logging.getLogger("serving_runtime.model_server").error("the model failed", exc_info=error, extra=about("r-1"))
sentry_sdk.flush(10)
"""


def test_a_models_fault_arrives_at_sentry_without_what_a_user_sent(sentry: tuple[str, list[bytes]]) -> None:
    address, envelopes = sentry
    environment = {"SENTRY_DSN": address, "BODY": "what a user sent", "PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", FAILS], env=environment, check=True, timeout=60)
    (event,) = [json.loads(line) for e in envelopes for line in e.splitlines() if b'"exception"' in line]
    assert event["exception"]["values"][0]["value"] == "no such device"
    assert {key: event["tags"][key] for key in FIELDS} == FIELDS
    assert event["extra"]["request_id"] == "r-1"
    assert b"what a user sent" not in b"".join(envelopes)


IN_A_REPLICA = """
import builtins, logging, sys
from ray._common.formatters import JSONFormatter
from ray.serve._private.logging_utils import ServeFormatter, redirected_print
from serving_runtime.replica_log import NamedLines, about

builtins.print = redirected_print  # as Serve does in each replica
text, objects = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
text.setFormatter(ServeFormatter("replica", "r"))
objects.setFormatter(JSONFormatter())
log = logging.getLogger("a.replica")
log.addHandler(NamedLines({}, [text, objects]))
try:
    [].predict
except AttributeError as error:
    log.error("the model failed", exc_info=error, extra=about("r-1"))
"""


def test_a_traceback_has_its_lines_in_a_text_log_and_is_one_field_of_json() -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", IN_A_REPLICA], env=environment, check=True, timeout=60, capture_output=True, text=True
    )
    head, *rest = done.stdout.splitlines()
    assert head.endswith("the model failed")
    last = "AttributeError: 'list' object has no attribute 'predict'"
    assert rest == ["Traceback (most recent call last):", '  File "<string>", line 14, in <module>', last]
    assert json.loads(done.stderr)["exc_text"].splitlines() == rest
