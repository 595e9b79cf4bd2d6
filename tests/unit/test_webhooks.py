"""Whether a webhook is what it says it is."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from policies.webhooks import (
    Delivery,
    Outcome,
    Source,
    body_signature,
    judge,
    mlflow_must_allow,
    mlflow_signature,
    source_of,
)
from tests.fakes.forge.gitea_api import GiteaApi
from tests.fakes.forge.github_api import GitHubApi
from tests.fakes.forge.gitlab_api import GitLabApi
from tests.fakes.forge.hub import Hub

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
WINDOW = timedelta(minutes=5)
SECRET = "a secret"
BODY = b'{"entity": "model_version", "action": "created", "data": {"name": "fraud"}}'


def mlflow(body: bytes = BODY, secret: str = SECRET, at: datetime = NOW, delivery: str = "d-1") -> dict[str, str]:
    sent = str(int(at.timestamp()))
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": sent,
        "x-mlflow-signature": mlflow_signature(secret, delivery, sent, body),
    }


def judged(source: Source, headers: dict[str, str], body: bytes = BODY, key: str = SECRET) -> Any:
    return judge(source, headers, body, key, NOW, WINDOW)


GENUINE: dict[Source, dict[str, str]] = {
    Source.MLFLOW: mlflow(),
    Source.GITHUB: {"x-hub-signature-256": f"sha256={body_signature(SECRET, BODY)}", "x-github-delivery": "d-1"},
    Source.GITEA: {"x-gitea-signature": body_signature(SECRET, BODY), "x-gitea-delivery": "d-1"},
    Source.GITLAB: {"x-gitlab-token": SECRET, "idempotency-key": "d-1"},
}
SIGNED = {
    Source.MLFLOW: "x-mlflow-signature",
    Source.GITHUB: "x-hub-signature-256",
    Source.GITEA: "x-gitea-signature",
    Source.GITLAB: "x-gitlab-token",
}


def test_githubs_signature_is_the_one_of_its_documentation() -> None:
    """https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries#testing."""
    signature = body_signature("It's a Secret to Everybody", b"Hello, World!")
    assert signature == "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"


@pytest.mark.parametrize("source", Source)
def test_what_is_genuine_is_a_delivery(source: Source) -> None:
    assert isinstance(judged(source, GENUINE[source]), Delivery)


@pytest.mark.parametrize("source", Source)
def test_another_secret_is_forged(source: Source) -> None:
    assert judged(source, GENUINE[source], key="another") is Outcome.FORGED


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("given", [None, "", "v1,", "sha256=", "é", "x" * 10_000])
def test_no_signature_or_nonsense_is_forged(source: Source, given: str | None) -> None:
    headers = {name: value for name, value in GENUINE[source].items() if name != SIGNED[source]}
    assert judged(source, headers if given is None else {**headers, SIGNED[source]: given}) is Outcome.FORGED


@pytest.mark.parametrize("source", Source)
def test_an_empty_secret_opens_nothing(source: Source) -> None:
    unsigned = {**GENUINE[source], SIGNED[source]: ""}
    assert judged(source, unsigned, key="") is Outcome.FORGED


@pytest.mark.parametrize("source", [Source.MLFLOW, Source.GITHUB, Source.GITEA])
def test_a_body_that_was_changed_is_forged(source: Source) -> None:
    assert judged(source, GENUINE[source], BODY.replace(b"fraud", b"Fraud")) is Outcome.FORGED


@pytest.mark.parametrize("header", ["x-mlflow-delivery-id", "x-mlflow-timestamp"])
def test_mlflow_signs_its_id_and_its_time(header: str) -> None:
    assert judged(Source.MLFLOW, {**mlflow(), header: "12345"}) is Outcome.FORGED


@pytest.mark.parametrize("late", [timedelta(minutes=-6), timedelta(minutes=6), timedelta(days=-400)])
def test_mlflows_time_outside_the_window_is_stale(late: timedelta) -> None:
    assert judged(Source.MLFLOW, mlflow(at=NOW + late)) is Outcome.STALE


@pytest.mark.parametrize("sent", ["soon", "", "9" * 13, "9" * 400, "9" * 5000])
def test_a_signed_time_that_is_none_is_stale(sent: str) -> None:
    headers = {"x-mlflow-delivery-id": "d", "x-mlflow-timestamp": sent}
    signature = mlflow_signature(SECRET, "d", sent, BODY)
    assert judged(Source.MLFLOW, {**headers, "x-mlflow-signature": signature}) is Outcome.STALE


@pytest.mark.parametrize(
    ("source", "id_header"), [(Source.GITHUB, "x-github-delivery"), (Source.GITLAB, "idempotency-key")]
)
def test_a_replay_is_known_by_its_body_whatever_id_it_is_given(source: Source, id_header: str) -> None:
    first = judged(source, GENUINE[source])
    again = judged(source, {**GENUINE[source], id_header: "d-2"})
    assert first.keys & again.keys
    assert first.keys != again.keys


def test_two_deliveries_of_mlflow_with_the_same_body_are_two() -> None:
    assert not judged(Source.MLFLOW, mlflow()).keys & judged(Source.MLFLOW, mlflow(delivery="d-2")).keys


@pytest.mark.parametrize("body", [b"", b"[]", b"nope", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object_is_wrong_content(body: bytes) -> None:
    assert judged(Source.MLFLOW, mlflow(body), body) is Outcome.WRONG_CONTENT


@pytest.mark.parametrize(
    ("key", "own"), [("sluice.prod.phase", True), ("sluice.emergency", False), ("owner", False), ("xsluice.a.b", False)]
)
def test_our_own_tags_are_known(key: str, own: bool) -> None:
    body = json.dumps({"entity": "model_version_tag", "action": "set", "data": {"key": key, "value": "x"}}).encode()
    assert judged(Source.MLFLOW, mlflow(body), body).own is own


@pytest.mark.parametrize(
    ("url", "needed"),
    [
        ("https://sluice.example.com", {"MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true, where sluice.example.com is not"}),
        ("https://10.0.0.7:8790", {"MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"}),
        (
            "http://sluice:8790",
            {"MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http", "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true"},
        ),
    ],
)
def test_what_mlflow_must_allow(url: str, needed: dict[str, str]) -> None:
    said = dict(mlflow_must_allow(url))
    assert "Fernet" in said.pop("MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY")
    assert said.keys() == needed.keys()
    assert all(said[name].startswith(value) for name, value in needed.items())


@pytest.mark.parametrize("dialect", [GitHubApi, GiteaApi, GitLabApi])
def test_what_the_forges_of_our_tests_send_is_genuine(dialect: Any, tmp_path: Path) -> None:
    sent = dialect(Hub(tmp_path)).signed(SECRET, "push", BODY)
    headers = {name.lower(): value for name, value in sent.items()}
    assert isinstance(judged(Source(dialect.kind), headers), Delivery)
    assert judged(Source(dialect.kind), headers, key="another") is Outcome.FORGED


def test_forgejo_signs_as_gitea() -> None:
    assert source_of("forgejo") is Source.GITEA
    headers = {"x-forgejo-signature": body_signature(SECRET, BODY)}
    assert isinstance(judged(Source.GITEA, headers), Delivery)
