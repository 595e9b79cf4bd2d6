"""A version and its challenger on real Ray Serve, with real models from a real MLflow store."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import requests

from policies.observations import ApplicationStatus
from serving_runtime.app import DEPLOYMENT
from serving_runtime.artifact_cache import digest_of, registry_download
from serving_runtime.breaker import FAILURES_TO_OPEN
from serving_runtime.door import VERSION_HEADER
from serving_runtime.feedback import RECEIPT_HEADER
from serving_runtime.forcing import FORCE_HEADER
from serving_runtime.protocol import BODY_LIMIT_BYTES
from tests.conditions import wait_until
from tests.contracts.redis_server import RedisServer
from tests.e2e.world import exported

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

pytestmark = pytest.mark.real
_log = logging.getLogger(__name__)

MODEL_FILE = Path(__file__).parents[1] / "fakes" / "served_model.py"
NAME, SLUG = "served model #1", "served-model"  # a name that no URI could hold as it is
ROUTE = f"/models/{SLUG}"
JSON = {"content-type": "application/json"}
READY_S = 120.0  # three replicas at once on two shared cores
LIVE_S = 30.0
ANSWER_S = 60.0
WHO = -1.0

BODIES = [
    pytest.param("application/json", {"dataframe_split": {"columns": ["x"], "data": [[1.0], [2.5]]}}, id="split"),
    pytest.param("application/json", {"dataframe_records": [{"x": 1.0}, {"x": 2.5}]}, id="records"),
    pytest.param("application/json", {"instances": [{"x": 1.0}, {"x": 2.5}]}, id="instances"),
    pytest.param("application/json", {"inputs": {"x": [1.0, 2.5]}, "params": {"plus": 0.5}}, id="inputs and params"),
    pytest.param("text/csv", "x\n1.0\n2.5\n", id="csv"),
]


@dataclasses.dataclass(frozen=True)
class Registry:
    """A real store with versions: 1 fails on 13, 2 does not, 3 cannot be loaded, 4 fails while `breaks` is there."""

    uri: str
    folders: Mapping[int, Path]
    digests: Mapping[int, str]
    breaks: Path


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder}/mlflow.db"
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    example = pd.DataFrame({"x": [1.0]})
    signature = infer_signature(example, [1.0], params={"plus": 0.0})
    experiment = mlflow.create_experiment("served", artifact_location=(folder / "artifacts").as_uri())
    breaks = folder / "breaks"
    configs: list[dict[str, Any]] = [
        {"scale": 1.0},
        {"scale": 2.0, "unlucky": False},
        {"refuses": "no weights today"},
        {"breaks": str(breaks)},
    ]
    for config in configs:
        with mlflow.start_run(experiment_id=experiment):
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(MODEL_FILE),
                model_config=config,
                signature=signature,
                input_example=None if "refuses" in config else example,
                registered_model_name=NAME,
                pip_requirements=["mlflow"],
            )
    mlflow.set_tracking_uri(before)
    folders = {}
    for version in range(1, len(configs) + 1):
        (folder / str(version)).mkdir()
        folders[version] = registry_download(NAME, version, uri)(folder / str(version))
    return Registry(uri, folders, {version: digest_of(path) for version, path in folders.items()}, breaks)


class Serving:
    """Version 1 on the route, version 2 as its challenger, and what a test does with them."""

    def __init__(self, ray: RaySession, registry: Registry, cache: Path) -> None:
        self._ray, self._registry, self._cache = ray, registry, cache
        self._revision = itertools.count(1)
        self.url = ray.http + ROUTE

    def application(self, version: int, user_config: Mapping[str, Any], **args: Any) -> dict[str, Any]:
        about = {
            "model": NAME,
            "slug": SLUG,
            "version": version,
            "digest": self._registry.digests[version],
            "build": f"{version:08x}",
            "tracking_uri": self._registry.uri,
        }
        return {
            "name": name(version),
            "route_prefix": ROUTE if version == 1 else None,
            "import_path": "serving_runtime.app:build",
            "runtime_env": {"env_vars": {"SLUICE_CACHE": str(self._cache)}},
            "args": {**about, **args},
            "deployments": [
                {
                    "name": DEPLOYMENT,
                    "user_config": dict(user_config),
                    "autoscaling_config": {"min_replicas": 1, "max_replicas": 1},
                    "max_ongoing_requests": 32,
                    "graceful_shutdown_timeout_s": 15,
                    "ray_actor_options": {"num_cpus": 0.5},
                }
            ],
        }

    def user_config(self, version: int, revision: int, **more: Any) -> dict[str, Any]:
        about = {"model": SLUG, "version": version, "build": f"{version:08x}", "request_timeout_s": 20.0}
        return {"revision": revision, **about, "drain": False, "hold": False, "split": None, **more}

    def put(
        self, *others: dict[str, Any], drain: bool = False, split: Mapping[str, Any] | None = None, **asked: Any
    ) -> None:
        """Submit version 1 with that split and what else it is told, version 2, and others."""
        revision = next(self._revision)
        stable = self.application(1, self.user_config(1, revision, split=split and dict(split), **asked))
        candidate = self.application(2, self.user_config(2, revision, drain=drain))
        self._ray.cluster.apply({"applications": [stable, candidate, *others]})
        self._wait_for_revision(revision)

    def _wait_for_revision(self, revision: int) -> None:
        def in_place() -> bool:
            shown = self._ray.cluster.observe().applications
            return all(
                name(v) in shown
                and shown[name(v)].status is ApplicationStatus.RUNNING
                and [d.status for d in shown[name(v)].deployments] == ["HEALTHY"]
                and shown[name(v)].deployments[0].user_config.get("revision") == revision
                for v in (1, 2)
            )

        wait_until(in_place, READY_S, f"revision {revision} in place")

    def wait_for(self, version: int) -> None:
        """Until that version could answer."""

        def running() -> bool:
            shown = self._ray.cluster.observe().applications.get(name(version))
            return shown is not None and shown.status is ApplicationStatus.RUNNING

        wait_until(running, READY_S, f"version {version} to run")

    def failure(self, application: str) -> str:
        """Why it cannot start, in Serve's words; waits until Serve gives up."""

        def failed() -> bool:
            shown = self._ray.cluster.observe().applications.get(application)
            return shown is not None and shown.status is ApplicationStatus.DEPLOY_FAILED

        wait_until(failed, READY_S, f"{application} to fail")
        shown = self._ray.cluster.observe().applications[application]
        return " ".join([shown.message, *(d.message for d in shown.deployments)])

    def invoke(
        self, *values: float, session: Any = requests, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        body = json.dumps({"inputs": {"x": list(values)}})
        sent = {**JSON, **(headers or {})}
        answer = session.post(f"{self.url}/invocations", data=body, headers=sent, timeout=ANSWER_S)
        assert isinstance(answer, requests.Response)
        return answer

    def counts(self, metric: str) -> Counter[tuple[str, str]]:
        """Values by version and outcome (of a gauge: ""), as Ray exports them now."""
        return exported(self._ray, metric, SLUG)


def name(version: int) -> str:
    return f"{SLUG}--v{version}-{version:08x}"


def split(**changes: Any) -> dict[str, Any]:
    about = {"application": name(2), "version": 2, "build": f"{2:08x}", "timeout_s": 10.0, "max_ongoing": 16}
    return {**about, "weight_percent": 0, "shadow": False, **changes}


@pytest.fixture(scope="module")
def serving(ray_session: RaySession, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = Serving(ray_session, registry, tmp_path_factory.mktemp("cache"))
    serving.put()
    wait_until(lambda: requests.get(f"{serving.url}/ping", timeout=ANSWER_S).ok, LIVE_S, "the route")
    yield serving
    clear(ray_session)


def clear(ray_session: RaySession) -> None:
    """Delete every application; the control door refuses to, on purpose."""
    url = f"{ray_session.dashboard}/api/serve/applications/"
    token = Path(ray_session.environment["RAY_AUTH_TOKEN_PATH"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    assert requests.put(url, json={"applications": []}, headers=headers, timeout=ANSWER_S).ok
    wait_until(lambda: not ray_session.cluster.observe().applications, READY_S, "every application deleted")


@pytest.fixture
def alone(serving: Serving) -> Serving:
    """Version 1 without a challenger."""
    serving.put()
    return serving


@pytest.mark.parametrize(("content_type", "content"), BODIES)
def test_answers_are_the_bytes_of_mlflows_own_server(
    alone: Serving, registry: Registry, content_type: str, content: object
) -> None:
    import mlflow
    from mlflow.pyfunc.scoring_server import invocations

    model = mlflow.pyfunc.load_model(str(registry.folders[1]))
    body = (content if isinstance(content, str) else json.dumps(content)).encode()
    theirs = invocations(body, content_type, model, model.metadata.get_input_schema())
    ours = requests.post(
        f"{alone.url}/invocations", data=body, headers={"content-type": content_type}, timeout=ANSWER_S
    )
    assert (ours.status_code, ours.content) == (200, theirs.response.encode())
    assert ours.headers["content-type"] == theirs.mimetype
    assert ours.headers[VERSION_HEADER] == "1"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error_code"),
    [
        ("POST", "/invocations", b"{", 400, "BAD_REQUEST"),
        ("POST", "/invocations", b'{"inputs": {"y": [1]}}', 400, "INVALID_PARAMETER_VALUE"),
        ("POST", "/invocations", b'{"inputs": {"x": [13]}}', 500, "INTERNAL_ERROR"),
        ("POST", "/invocations", b"0" * (BODY_LIMIT_BYTES + 1), 413, "REQUEST_LIMIT_EXCEEDED"),
        ("GET", "/invocations", b"", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/nothing", b"", 404, "ENDPOINT_NOT_FOUND"),
    ],
)
def test_errors_say_what_they_are_and_carry_the_request_id(
    alone: Serving, method: str, path: str, body: bytes, status: int, error_code: str
) -> None:
    answer = requests.request(
        method, alone.url + path, data=body, headers={**JSON, "x-request-id": "my-id-7"}, timeout=ANSWER_S
    )
    assert answer.status_code == status
    assert answer.json()["error_code"] == error_code
    assert answer.headers["x-request-id"] == "my-id-7"
    assert answer.headers[VERSION_HEADER] == "1"
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text


def test_the_replicas_log_has_the_reason_of_a_500_under_its_request_id(alone: Serving, ray_session: RaySession) -> None:
    answer = requests.post(
        f"{alone.url}/invocations",
        data=b'{"inputs": {"x": [13]}}',
        headers={**JSON, "x-request-id": "reason-wanted"},
        timeout=ANSWER_S,
    )
    assert answer.status_code == 500
    assert "under request id reason-wanted" in answer.text

    def told() -> list[str]:
        logs = ray_session.replica_logs.glob("replica_*.log")
        return [text for text in (log.read_text(errors="replace") for log in logs) if "reason-wanted" in text]

    wait_until(lambda: bool(told()), LIVE_S, f"the id in a log below {ray_session.replica_logs}")
    lines = "".join(told()).splitlines()
    reason = next(at for at, line in enumerate(lines) if line.startswith("ValueError: thirteen"))
    assert "Traceback (most recent call last):" in lines[max(reason - 30, 0) : reason], "as `grep -A 30` shows it"


def test_it_tells_its_health_and_its_versions_and_makes_request_ids(alone: Serving) -> None:
    import mlflow

    for path, text in (("/ping", "\n"), ("/health", "\n"), ("/version", mlflow.__version__)):
        answer = requests.get(alone.url + path, timeout=ANSWER_S)
        assert (answer.status_code, answer.text) == (200, text)
        assert answer.headers[VERSION_HEADER] == "1"
        assert answer.headers["x-request-id"]


def test_weights_move_live_and_back(serving: Serving) -> None:
    serving.put(split=split(weight_percent=50))
    wait_until(lambda: serving.invoke(1).headers[VERSION_HEADER] == "2", LIVE_S, "an answer by the candidate")
    versions = Counter(serving.invoke(3).headers[VERSION_HEADER] for _ in range(100))
    assert 25 < versions["2"] < 75  # five standard deviations
    answers = {(a.headers[VERSION_HEADER], a.text) for a in (serving.invoke(3) for _ in range(20))}
    assert answers <= {("1", '{"predictions": [3.0]}'), ("2", '{"predictions": [6.0]}')}
    serving.put()
    wait_until(lambda: serving.invoke(1).headers[VERSION_HEADER] == "1", LIVE_S, "an answer by stable")
    assert {serving.invoke(3).headers[VERSION_HEADER] for _ in range(30)} == {"1"}


def test_users_keep_their_version_testers_name_one_and_reports_are_counted_by_arm(serving: Serving) -> None:
    segments = {"key": {"header": "x-country"}, "values": ["de"]}
    asked = {"sticky": {"header": "x-user"}, "forced_version": {"to": "anyone"}, "segments": segments, "feedback": True}
    serving.put(split=split(weight_percent=50), **asked)
    wait_until(lambda: RECEIPT_HEADER in serving.invoke(1).headers, LIVE_S, "receipts")

    arms = {}
    for user in (f"user-{n}" for n in range(12)):
        answers = [serving.invoke(3, headers={"x-user": user, "x-country": "de"}) for _ in range(2)]
        (arms[user],) = {(a.headers[VERSION_HEADER], a.headers[RECEIPT_HEADER]) for a in answers}
    assert set(arms.values()) == {("1", "1-00000001"), ("2", "2-00000002")}

    forced = [serving.invoke(3, headers={FORCE_HEADER: version}) for version in ("1", "2")]
    assert [(a.headers[VERSION_HEADER], a.json()["predictions"]) for a in forced] == [("1", [3.0]), ("2", [6.0])]
    assert serving.invoke(3, headers={FORCE_HEADER: "9"}).status_code == 400

    before = serving.counts("ray_sluice_feedback_total")
    answer = serving.invoke(3)  # without an id: the one that Serve made and echoes is the one to report
    report = {"request_id": answer.headers["x-request-id"], "good": True}
    said = [requests.post(f"{serving.url}/feedback", json=report, timeout=ANSWER_S).json() for _ in range(2)]
    assert said == [{"counted": True}, {"counted": False, "reason": "repeated"}]
    arm = (answer.headers[RECEIPT_HEADER].partition("-")[0], "good")
    wait_until(
        lambda: serving.counts("ray_sluice_feedback_total")[arm] == before[arm] + 1, LIVE_S, "a report that is counted"
    )
    assert {("1", "good"), ("1", "bad"), ("2", "good"), ("2", "bad")} <= set(
        serving.counts("ray_sluice_feedback_total")
    )
    assert serving.counts("ray_sluice_segment_latency_ms_count")["1", ""] > 0
    assert serving.counts("ray_sluice_breaker_open") == {("2", ""): 0}


def test_shadow_counts_pairs_and_users_see_stable(serving: Serving) -> None:
    serving.put(split=split(shadow=True))
    pairs = "ray_sluice_shadow_total"
    wait_until(lambda: ("2", "bad_good") in serving.counts(pairs), LIVE_S, "series that start at 0")
    before = serving.counts(pairs)
    wait_until(
        lambda: serving.invoke(1).ok and serving.counts(pairs)["2", "good_good"] > before["2", "good_good"],
        LIVE_S,
        "a copy that is counted",
    )
    answers = [serving.invoke(x) for x in (13.0, *range(9))]
    assert [a.status_code for a in answers] == [500] + [200] * 9
    assert {a.headers[VERSION_HEADER] for a in answers} == {"1"}
    wait_until(
        lambda: serving.counts(pairs)["2", "good_bad"] == before["2", "good_bad"] + 1,
        LIVE_S,
        "the candidate did better",
    )
    assert serving.counts(pairs)["2", "dropped"] == before["2", "dropped"]


def test_predictions_are_compared_in_shadow(serving: Serving) -> None:
    """The candidate doubles: only of 0 does it predict the same."""
    serving.put(split=split(shadow=True, agreement={"tolerance": 0.01}))
    agreement = "ray_sluice_agreement_total"
    wait_until(lambda: ("2", "bad") in serving.counts(agreement), LIVE_S, "series that start at 0")
    before = serving.counts(agreement)
    wait_until(
        lambda: serving.invoke(0).ok and serving.counts(agreement)["2", "good"] > before["2", "good"],
        LIVE_S,
        "an agreement that is counted",
    )
    assert serving.counts(agreement)["2", "bad"] == before["2", "bad"]
    for _ in range(3):
        serving.invoke(0, 5)
    wait_until(lambda: serving.counts(agreement)["2", "bad"] == before["2", "bad"] + 3, LIVE_S, "disagreements")


class Users:
    """Steady load by several users at once; counts what they get."""

    def __init__(self, serving: Serving, number: int) -> None:
        self.answers: Counter[tuple[int, str]] = Counter()
        self._serving, self._stop = serving, threading.Event()
        self._threads = [threading.Thread(target=self._load) for _ in range(number)]

    def _load(self) -> None:
        with requests.Session() as session:
            while not self._stop.is_set():
                answer = self._serving.invoke(3, session=session)
                self.answers[answer.status_code, answer.headers[VERSION_HEADER]] += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWER_S)


@pytest.mark.parametrize("good_first", [0, 500])
def test_a_candidate_that_fails_every_request_is_out_of_traffic_within_10_of_them_and_a_second(
    serving: Serving, registry: Registry, good_first: int
) -> None:
    """At 50 % under steady load of 8 users; from its first request on, and after it was good for a while."""
    registry.breaks.unlink(missing_ok=True)
    fourth = serving.application(4, serving.user_config(4, 1))
    serving.put(fourth)
    serving.wait_for(4)
    requests_total, guard_bad = "ray_sluice_version_requests_total", "ray_sluice_guard_bad"
    wait_until(lambda: not serving.counts(guard_bad), LIVE_S, "no guard that has tripped")
    rescued_before = serving.counts(requests_total)["4", "rescued"]
    if not good_first:
        registry.breaks.touch()
    to_fourth = split(application=name(4), version=4, build=f"{4:08x}", weight_percent=50)
    with Users(serving, 8) as users:
        wait_until(lambda: users.answers[200, "1"] > 20, LIVE_S, "load")
        serving.put(fourth, split={**to_fourth, "guard": {"allowed": 0.01, "alpha": 0.001}})
        if good_first:
            wait_until(lambda: users.answers[200, "4"] >= good_first, LIVE_S, "good answers by the candidate")
            registry.breaks.touch()
        wait_until(lambda: serving.counts(guard_bad)["4", ""] > 0, LIVE_S, "the guard's trip")
        asked = [float(line) for line in registry.breaks.read_text().splitlines()]
        by_stable = users.answers[200, "1"]
        wait_until(lambda: users.answers[200, "1"] > by_stable + 200, LIVE_S, "stable to answer")
    assert [float(line) for line in registry.breaks.read_text().splitlines()] == asked, "it was asked after the trip"
    seconds = asked[-1] - asked[0]
    _log.info("after %d good answers: %d requests in %.3f s; %s", good_first, len(asked), seconds, users.answers)
    assert len(asked) <= 10
    assert seconds <= 1.0
    assert {status for status, _ in users.answers} == {200}
    rescued = serving.counts(requests_total)["4", "rescued"] - rescued_before
    assert rescued == len(asked)
    assert 3 <= serving.counts(guard_bad)["4", ""] <= rescued
    serving.put()
    wait_until(lambda: not serving.counts(guard_bad), LIVE_S, "the trip to end with the split")


def test_a_candidate_that_is_killed_under_load_fails_no_request(serving: Serving) -> None:
    serving.put(split=split(weight_percent=100, timeout_s=5.0))
    wait_until(lambda: serving.invoke(1).headers[VERSION_HEADER] == "2", LIVE_S, "an answer by the candidate")
    victim = int(serving.invoke(WHO).json()["predictions"][0])
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                statuses[serving.invoke(3, session=session).status_code] += 1

    def new_candidate() -> bool:
        answer = serving.invoke(WHO)
        return answer.headers[VERSION_HEADER] == "2" and int(answer.json()["predictions"][0]) != victim

    users = [threading.Thread(target=load) for _ in range(4)]
    for user in users:
        user.start()
    try:
        wait_until(lambda: statuses[200] > 100, LIVE_S, "load")
        os.kill(victim, signal.SIGKILL)
        wait_until(new_candidate, READY_S, "the candidate back in traffic")
    finally:
        stop.set()
        for user in users:
            user.join(ANSWER_S)
    assert set(statuses) == {200}


def test_a_draining_candidate_hands_everything_back(serving: Serving) -> None:
    serving.put(split=split(weight_percent=100))
    wait_until(lambda: serving.invoke(1).headers[VERSION_HEADER] == "2", LIVE_S, "an answer by the candidate")
    serving.put(split=split(weight_percent=100), drain=True)
    wait_until(lambda: serving.invoke(1).headers[VERSION_HEADER] == "1", LIVE_S, "an answer by stable")
    answers = [serving.invoke(3) for _ in range(20)]
    assert {(a.status_code, a.headers[VERSION_HEADER]) for a in answers} == {(200, "1")}


def test_a_wrong_user_config_changes_nothing_and_kills_nobody(alone: Serving, ray_session: RaySession) -> None:
    before = alone.invoke(WHO).json()
    wrong = [
        alone.application(1, {"revision": 10**6, "split": "nonsense"}),
        alone.application(2, alone.user_config(2, 1)),
    ]
    ray_session.cluster.apply({"applications": wrong})

    def taken() -> bool:
        shown = ray_session.cluster.observe().applications[name(1)]
        return shown.deployments[0].user_config.get("revision") == 10**6 and shown.deployments[0].status == "HEALTHY"

    wait_until(taken, LIVE_S, "the config submitted")
    assert alone.invoke(WHO).json() == before
    alone.put(split=split(weight_percent=100))
    wait_until(lambda: alone.invoke(1).headers[VERSION_HEADER] == "2", LIVE_S, "a right config after it")
    alone.put()
    wait_until(lambda: alone.invoke(WHO).json() == before, LIVE_S, "the same replica as before")


def test_what_cannot_or_must_not_be_served_says_why_and_leaves_its_neighbours_alone(alone: Serving) -> None:
    refuses = alone.application(3, alone.user_config(3, 1))
    changed = alone.application(2, alone.user_config(2, 1), digest="sha256:" + "0" * 64, build="000000ff")
    changed["name"] = f"{SLUG}--v2-000000ff"
    alone.put(refuses, changed)
    assert "no weights today" in alone.failure(name(3))
    assert "changed after it was admitted" in alone.failure(changed["name"])
    assert alone.invoke(1).status_code == 200


def test_a_candidate_looks_up_what_its_requests_lack_and_answers_while_redis_is_dead(
    alone: Serving, tmp_path: Path
) -> None:
    build = "000000fe"
    server = RedisServer(tmp_path)
    terms = {"entry_point": "serving_runtime.redis_features:RedisFeatures", "key": "user", "timeout_ms": 1000.0}
    source = {"defaults": {"x": 7.0}, "options": {"url_env": "FEATURES_URL", "prefix": "user:"}}
    looks_up = alone.application(2, alone.user_config(2, 1, build=build), build=build, features={**terms, **source})
    looks_up["name"] = f"{SLUG}--v2-{build}"
    looks_up["runtime_env"]["env_vars"]["FEATURES_URL"] = server.url

    def asked() -> tuple[int, str, Any]:
        content = {"dataframe_records": [{"user": "ada"}, {"user": "nobody"}]}
        answer = requests.post(f"{alone.url}/invocations", json=content, timeout=ANSWER_S)
        return answer.status_code, answer.headers[VERSION_HEADER], answer.json().get("predictions")

    with server:
        server.command("HSET", "user:ada", "x", "1.5")
        alone.put(looks_up, split=split(application=looks_up["name"], build=build, weight_percent=100))
        wait_until(lambda: asked() == (200, "2", [3.0, 14.0]), READY_S, "an answer with what Redis has")
        server.kill()
        for _ in range(10):
            assert asked() == (200, "2", [14.0, 14.0])
        lookups = "ray_sluice_lookups_total"
        wait_until(lambda: alone.counts(lookups)["2", "open"] >= 10, LIVE_S, "an open breaker, exported")
    counts = alone.counts(lookups)
    assert counts["2", "hit"] == counts["2", "miss"] >= 1
    assert counts["2", "error"] == 2 * FAILURES_TO_OPEN
