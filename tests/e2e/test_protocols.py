"""Streams, the Open Inference Protocol and overload on real Ray Serve behind HAProxy."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from policies.observations import ApplicationStatus
from serving_runtime.app import DEPLOYMENT
from serving_runtime.artifact_cache import digest_of, registry_download
from serving_runtime.door import VERSION_HEADER
from serving_runtime.serve_config import SPARE
from tests.conditions import wait_until
from tests.e2e.test_model_server import ANSWER_S, LIVE_S, READY_S, clear

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

pytestmark = pytest.mark.real

MODEL_FILE = Path(__file__).parents[1] / "fakes" / "streaming_model.py"
SLUG = "parrot"
ROUTE = f"/models/{SLUG}"
SSE = {"accept": "text/event-stream"}
PLACES, LINE = 2, 1
SLOW = PLACES + LINE + 12
"""More than there are places, and fewer than Serve lets in."""
SOON_S = 3.0  # a place is held by nobody
BURST, BURSTS = 100, 5  # far more than Serve may let in at once, fewer than it may keep


@pytest.fixture(scope="module")
def url(ray_session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Version 1 on the route; version 2, which shouts, has half of the requests."""
    import mlflow

    folder = tmp_path_factory.mktemp("parrots")
    uri, before = f"sqlite:///{folder}/mlflow.db", mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment(SLUG, artifact_location=(folder / "artifacts").as_uri())
    for shouts in (False, True):
        with mlflow.start_run(experiment_id=experiment):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MODEL_FILE),
                model_config={"shouts": shouts},
                registered_model_name=SLUG,
                pip_requirements=["mlflow"],
            )
    mlflow.set_tracking_uri(before)
    ray_session.cluster.apply({"applications": [application(folder, uri, 1), application(folder, uri, 2)]})

    def running() -> bool:
        shown = ray_session.cluster.observe().applications
        return all(
            name(version) in shown and shown[name(version)].status is ApplicationStatus.RUNNING for version in (1, 2)
        )

    wait_until(running, READY_S, "both versions to run")
    address = ray_session.http + ROUTE
    wait_until(lambda: requests.get(f"{address}/ping", timeout=ANSWER_S).ok, LIVE_S, "the route")
    yield address
    clear(ray_session)


def name(version: int) -> str:
    return f"{SLUG}--v{version}-{version:08x}"


def application(folder: Path, uri: str, version: int) -> dict[str, Any]:
    fetched = folder / str(version)
    fetched.mkdir()
    about = {"model": SLUG, "version": version, "build": f"{version:08x}"}
    split = {"application": name(2), "version": 2, "build": f"{2:08x}", "timeout_s": 10.0, "max_ongoing": 16}
    told = {
        **about,
        "revision": 1,
        "route": ROUTE,
        "request_timeout_s": 20.0,
        "max_ongoing_requests": PLACES,
        "max_queued_requests": LINE,
        "split": {**split, "weight_percent": 50, "shadow": False} if version == 1 else None,
    }
    digest = digest_of(registry_download(SLUG, version, uri)(fetched))
    return {
        "name": name(version),
        "route_prefix": ROUTE if version == 1 else None,
        "import_path": "serving_runtime.app:build",
        "runtime_env": {"env_vars": {"SLUICE_CACHE": str(folder / "cache")}},
        "args": {**about, "slug": SLUG, "digest": digest, "tracking_uri": uri},
        "deployments": [
            {
                "name": DEPLOYMENT,
                "user_config": told,
                "autoscaling_config": {"min_replicas": 1, "max_replicas": 1},
                "max_ongoing_requests": PLACES + LINE + SPARE,
                "max_queued_requests": BURST,
                "backpressure_config": {"status_code": 503, "retry_after_s": 1},
                "ray_actor_options": {"num_cpus": 0.5},
            }
        ],
    }


def says(words: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": words}]}


def test_events_arrive_one_by_one_from_stable_and_from_the_candidate(url: str) -> None:
    seen: dict[str, list[float]] = {}
    while len(seen) < 2:
        began = time.monotonic()
        with requests.post(
            f"{url}/invocations", json=says("one wait two"), headers=SSE, stream=True, timeout=ANSWER_S
        ) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = [(line, time.monotonic() - began) for line in answer.iter_lines() if line]
        version = answer.headers[VERSION_HEADER]
        words = ["ONE", "WAIT", "TWO"] if version == "2" else ["one", "wait", "two"]
        assert [json.loads(line[6:])["delta"] for line, _ in events[:-1]] == words
        assert events[-1][0] == b"data: [DONE]"
        seen[version] = [at for _, at in events]
    for times in seen.values():
        assert times[1] - times[0] > 0.5  # the first was here while the model took its time for the second


def test_a_stream_that_breaks_says_so_through_every_hop(url: str) -> None:
    seen = set()
    while len(seen) < 2:
        answer = requests.post(f"{url}/invocations", json=says("one break"), headers=SSE, timeout=ANSWER_S)
        assert answer.status_code == 200
        assert "event: error" in answer.text
        assert "secret" not in answer.text
        seen.add(answer.headers[VERSION_HEADER])


def test_the_open_inference_protocol_is_below_the_models_route(url: str) -> None:
    assert requests.get(f"{url}/v2/health/ready", timeout=ANSWER_S).json() == {"ready": True}
    assert requests.get(f"{url}/v2/models/{SLUG}", timeout=ANSWER_S).json()["versions"] == ["1"]
    wrong = requests.post(f"{url}/v2/models/{SLUG}/infer", json={"inputs": []}, timeout=ANSWER_S)
    assert (wrong.status_code, wrong.json().keys()) == (400, {"error"})
    assert requests.get(f"{url}/openapi.json", timeout=ANSWER_S).json()["servers"] == [{"url": ROUTE}]


def test_overload_is_503_with_retry_after_in_the_protocols_words(url: str) -> None:
    def ask(_at: int) -> requests.Response:
        return requests.post(f"{url}/invocations", json=says("wait"), timeout=ANSWER_S)

    number = PLACES + LINE + 8
    with concurrent.futures.ThreadPoolExecutor(number) as threads:
        asked = [threads.submit(ask, at) for at in range(number)]
        health = requests.get(f"{url}/ping", timeout=ANSWER_S)
        answers = [each.result() for each in asked]
    assert health.status_code == 200
    refused = [answer for answer in answers if answer.status_code == 503]
    assert {answer.status_code for answer in answers} == {200, 503}
    assert {answer.headers.get("retry-after") for answer in refused} == {"1"}
    assert {answer.json()["error_code"] for answer in refused} == {"TEMPORARILY_UNAVAILABLE"}


def test_bodies_that_do_not_come_keep_nobody_from_an_answer(url: str) -> None:
    where = urllib.parse.urlsplit(url)
    slow = [http.client.HTTPConnection(str(where.hostname), where.port, timeout=ANSWER_S) for _ in range(SLOW)]
    for connection in slow:
        connection.putrequest("POST", f"{where.path}/invocations")
        connection.putheader("content-type", "application/json")
        connection.putheader("content-length", "100")
        connection.endheaders(b"{")
    given_way = slow[0].getresponse()
    assert given_way.status == 408
    assert "too many come as slowly" in json.loads(given_way.read())["message"]
    for _ in range(3):
        answer = requests.post(f"{url}/invocations", json=says("one"), timeout=ANSWER_S)
        assert (answer.status_code, answer.elapsed.total_seconds() < SOON_S) == (200, True)
    for connection in slow:
        connection.close()


def test_a_burst_is_answered_by_the_replicas_own_door_and_not_by_serve(url: str) -> None:
    where = urllib.parse.urlsplit(url)
    for _ in range(BURSTS):
        burst = [http.client.HTTPConnection(str(where.hostname), where.port, timeout=ANSWER_S) for _ in range(BURST)]
        for connection in burst:
            connection.connect()
            connection.putrequest("GET", f"{where.path}/nowhere")
        for connection in burst:
            connection.endheaders()  # now they go out, within milliseconds
        answers = [connection.getresponse() for connection in burst]
        assert {answer.status for answer in answers} == {404}
        assert all(json.loads(answer.read())["error_code"] for answer in answers)
        for connection in burst:
            connection.close()
