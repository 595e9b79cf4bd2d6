"""The endpoint: what is genuine and new wakes the loop; all else is refused, counted, and logged without its body."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import requests

from pipelines import webhook_app
from pipelines.http_thread import HttpThread
from pipelines.webhook_app import MAX_BODY_BYTES, METRIC, Limits, Receiver
from policies.errors import Stalled
from policies.webhooks import Outcome, Source, body_signature, mlflow_signature
from tests.conditions import wait_until

SECRETS = {Source.MLFLOW: "one", Source.GITHUB: "two", Source.GITLAB: "three"}
SECRET_WORD = "do-not-log-me"
BODY = json.dumps({"entity": "model_version", "data": {"name": SECRET_WORD}}).encode()


class Ear:
    """A receiver behind a real server, and whom it wakes."""

    def __init__(self, limits: Limits = Limits(), clock: list[float] | None = None) -> None:  # noqa: B008 frozen
        self.woken = 0
        self.clock = clock or [0.0]
        self.receiver = Receiver(
            SECRETS, timedelta(minutes=5), self._wake, monotonic=lambda: self.clock[0], limits=limits
        )

    def _wake(self) -> None:
        self.woken += 1

    @contextmanager
    def listening(self) -> Iterator[Ear]:
        with HttpThread(self.receiver.app(), "127.0.0.1", 0) as server:
            self.port, self.url = server.port, f"http://127.0.0.1:{server.port}"
            yield self

    def post(self, source: str, headers: dict[str, str], body: bytes = BODY) -> int:
        headers = {"Content-Type": "application/json", **headers}
        return requests.post(f"{self.url}/webhooks/{source}", data=body, headers=headers, timeout=10).status_code


@pytest.fixture
def ear() -> Iterator[Ear]:
    with Ear().listening() as made:
        yield made


def mlflow(delivery: str, key: str = "one", late: timedelta = timedelta(), body: bytes = BODY) -> dict[str, str]:
    sent = str(int((datetime.now(UTC) - late).timestamp()))
    signature = mlflow_signature(key, delivery, sent, body)
    return {"X-MLflow-Delivery-Id": delivery, "X-MLflow-Timestamp": sent, "X-MLflow-Signature": signature}


def github(delivery: str, key: str = "two", body: bytes = BODY) -> dict[str, str]:
    return {"X-GitHub-Delivery": delivery, "X-Hub-Signature-256": f"sha256={body_signature(key, body)}"}


def test_each_source_wakes_the_loop_once_for_each_delivery(ear: Ear) -> None:
    assert ear.post("mlflow", mlflow("a")) == 202
    assert ear.post("mlflow", mlflow("b")) == 202
    assert ear.post("github", github("a")) == 202
    assert ear.post("gitlab", {"X-Gitlab-Token": "three"}) == 202
    assert ear.woken == 4


def test_forged_replayed_stale_oversized_and_wrong_ones_wake_nobody_and_are_counted(
    ear: Ear, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good = mlflow("a")
    assert ear.post("mlflow", good) == 202
    for _ in range(5):
        assert ear.post("mlflow", good) == 409
    assert ear.post("github", github("a")) == 202
    assert ear.post("github", github("another-id-for-the-same-body")) == 409
    for n in range(7):
        assert ear.post("mlflow", mlflow(f"f{n}", key="guess")) == 401
    assert ear.post("gitlab", {"X-Gitlab-Token": "guess"}) == 401
    assert ear.post("gitlab", {}) == 401
    assert ear.post("mlflow", mlflow("old", late=timedelta(minutes=10))) == 401
    assert ear.post("mlflow", mlflow("big"), b"x" * (MAX_BODY_BYTES + 1)) == 413
    assert ear.post("mlflow", {**mlflow("form"), "Content-Type": "application/x-www-form-urlencoded"}) == 415
    assert ear.post("mlflow", mlflow("text", body=b"hello"), b"hello") == 415
    assert ear.woken == 2
    assert ear.receiver.counts == {
        (Source.MLFLOW, Outcome.ACCEPTED): 1,
        (Source.MLFLOW, Outcome.REPLAYED): 5,
        (Source.MLFLOW, Outcome.FORGED): 7,
        (Source.MLFLOW, Outcome.STALE): 1,
        (Source.MLFLOW, Outcome.OVERSIZED): 1,
        (Source.MLFLOW, Outcome.WRONG_CONTENT): 2,
        (Source.GITHUB, Outcome.ACCEPTED): 1,
        (Source.GITHUB, Outcome.REPLAYED): 1,
        (Source.GITLAB, Outcome.FORGED): 2,
    }
    said = [r for r in caplog.records if r.name == webhook_app.__name__ and r.levelno == logging.WARNING]
    assert len(said) == 19
    assert "webhook from mlflow refused: oversized, unread bytes, sent by 127.0.0.1" in caplog.text
    assert SECRET_WORD not in caplog.text
    assert "guess" not in caplog.text


def test_a_body_that_hides_its_length_is_not_read_to_its_end(ear: Ear) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", ear.port, timeout=10)
    chunks = (b"x" * 65536 for _ in range(MAX_BODY_BYTES // 65536 + 4))
    headers = {"Content-Type": "application/json", "Transfer-Encoding": "chunked", **mlflow("a")}
    try:
        connection.request("POST", "/webhooks/mlflow", chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):  # it has hung up already
        pass
    finally:
        connection.close()
    wait_until(lambda: ear.receiver.counts[Source.MLFLOW, Outcome.OVERSIZED] == 1, 10, "it is counted")
    assert ear.woken == 0


def test_a_body_that_trickles_is_given_up() -> None:
    with (
        Ear(Limits(read_s=0.1)).listening() as ear,
        socket.create_connection(("127.0.0.1", ear.port), timeout=10) as slow,
    ):
        slow.sendall(b"POST /webhooks/mlflow HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n")
        slow.sendall(b"Content-Length: 1000\r\n\r\n{")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert ear.receiver.counts[Source.MLFLOW, Outcome.TOO_SLOW] == 1


@pytest.mark.parametrize(("path", "method", "status"), [
    ("/webhooks/gitea", "POST", 404),
    ("/webhooks/", "POST", 404),
    ("/webhooks/mlflow", "GET", 405),
    ("/healthz", "GET", 200),
])  # fmt: skip
def test_only_sources_with_a_secret_exist(ear: Ear, path: str, method: str, status: int) -> None:
    assert requests.request(method, ear.url + path, timeout=10).status_code == status
    assert ear.woken == 0


def test_what_mlflow_tells_of_our_own_tags_wakes_nobody(ear: Ear) -> None:
    own = json.dumps({"entity": "model_version_tag", "data": {"key": "sluice.prod.phase"}}).encode()
    assert ear.post("mlflow", mlflow("a", body=own), own) == 202
    assert ear.woken == 0
    assert ear.receiver.counts == {(Source.MLFLOW, Outcome.OWN): 1}


def test_one_source_wakes_so_often_a_minute_and_no_oftener() -> None:
    with Ear(Limits(accepted_per_minute=6)).listening() as ear:
        assert [ear.post("mlflow", mlflow(f"d{n}")) for n in range(8)] == [202] * 6 + [429] * 2
        assert ear.post("github", github("a")) == 202
        ear.clock[0] += 10
        assert ear.post("mlflow", mlflow("d7")) == 202  # what was too many was not remembered
        assert ear.woken == 8


def test_a_sender_of_many_refused_ones_is_not_read_any_more() -> None:
    with Ear(Limits(refused_per_minute=3)).listening() as ear:
        assert [ear.post("mlflow", mlflow(f"d{n}", key="guess")) for n in range(5)] == [401] * 3 + [429] * 2
        assert ear.post("mlflow", mlflow("good")) == 429
        ear.clock[0] += 20
        assert ear.post("mlflow", mlflow("good")) == 202


def test_deliveries_that_were_seen_are_forgotten_in_their_order() -> None:
    with Ear(Limits(remembered=4)).listening() as ear:
        bodies = [json.dumps({"n": n}).encode() for n in range(4)]
        for n, body in enumerate(bodies):  # two keys each: the last two deliveries are remembered
            assert ear.post("github", github(f"d{n}", body=body), body) == 202
        assert ear.post("github", github("d3", body=bodies[3]), bodies[3]) == 409
        assert ear.post("github", github("d0", body=bodies[0]), bodies[0]) == 202


def test_counts_are_there_for_prometheus(ear: Ear) -> None:
    ear.post("mlflow", mlflow("a"))
    ear.post("mlflow", mlflow("b", key="guess"))
    shown = requests.get(f"{ear.url}/metrics", timeout=10)
    assert shown.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'{METRIC}{{source="mlflow",outcome="accepted"}} 1' in shown.text
    assert f'{METRIC}{{source="mlflow",outcome="forged"}} 1' in shown.text
    assert f'{METRIC}{{source="gitlab",outcome="forged"}} 0' in shown.text


def test_an_address_that_is_taken_says_so(ear: Ear) -> None:
    with pytest.raises(Stalled, match="choose another address"):
        HttpThread(ear.receiver.app(), "127.0.0.1", ear.port).start()


def test_a_thousand_forgeries_leave_little_behind(ear: Ear) -> None:
    started = time.monotonic()
    for n in range(1_000):
        ear.receiver._judged(Source.MLFLOW, {k.lower(): v for k, v in mlflow(f"x{n}", "guess").items()}, BODY)
        ear.receiver._rate_of(f"10.0.{n // 250}.{n % 250}")
    assert len(ear.receiver._senders) <= Limits().senders
    assert not ear.receiver._seen[Source.MLFLOW]
    assert time.monotonic() - started < 5
