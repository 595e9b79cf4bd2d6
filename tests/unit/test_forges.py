"""What is written of forges and webhooks, and what the environment says of who we are there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines import status_file
from pipelines.forges import forge_door
from pipelines.reconciler import Tick
from pipelines.settings import settings, webhook_secret
from policies.config_repo_documents import read_repo
from policies.documents import SluiceDocument
from policies.errors import BadInput, Stalled
from policies.forges import ForgeTarget
from registry_bridge.github import api_of

SLUICE = "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments: {prod: {trigger: {alias: champion}}}\n"
APP = {
    "SLUICE_GITHUB_APP_ID": "1",
    "SLUICE_GITHUB_APP_INSTALLATION": "2",
    "SLUICE_GITHUB_APP_KEY_FILE": "/nowhere/app.pem",
}


def read(lines: str) -> SluiceDocument:
    reading = read_repo({"sluice.yaml": SLUICE + lines})
    assert reading.repo is not None, reading.notes
    return reading.repo.sluice


def test_nothing_listens_and_no_forge_is_asked_unless_it_is_written() -> None:
    assert (read("").forge, read("").webhooks) == (None, None)


def test_a_forge_and_webhooks_are_read() -> None:
    sluice = read("forge: {kind: forgejo, url: 'https://git.example.com', repository: ml/config}\nwebhooks: {}\n")
    assert sluice.forge == ForgeTarget(kind="forgejo", url="https://git.example.com", repository="ml/config")
    assert sluice.webhooks is not None
    assert sluice.webhooks.listen == "127.0.0.1:8790"  # loopback, unless somebody says otherwise


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("forge: {kind: gitea, repository: ml/config}", "url is missing"),
        ("forge: {kind: bitbucket, repository: ml/config}", "bitbucket"),
        ("forge: {kind: github, repository: config}", "repository"),
        ("forge: {kind: github, repository: a/b/c}", "owner/name"),
        ("forge: {kind: gitlab, repository: 'a/b?c'}", "repository"),
        ("forge: {kind: gitlab, url: 'https://user:secret@git', repository: a/b}", "url"),
        ("webhooks: {listen: '8790'}", "listen"),
        ("webhooks: {listen: '127.0.0.1:0'}", "port between 1 and 65535"),
        ("webhooks: {listen: '127.0.0.1:99999'}", "port between 1 and 65535"),
        ("webhooks: {window: 0s}", "window"),
        ("webhooks: {window: 2h}", "window"),
        ("webhooks: {secret: x}", "secret"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_is_written(lines: str, says: str) -> None:
    reading = read_repo({"sluice.yaml": SLUICE + lines + "\n"})
    assert reading.repo is None
    (note,) = reading.notes
    assert says in str(note)
    assert str(note).startswith("sluice.yaml:")


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://www.github.com/", "https://api.github.com"),
        ("https://github.example.com/", "https://github.example.com/api/v3"),
        ("https://notgithub.com", "https://notgithub.com/api/v3"),
    ],
)
def test_where_githubs_api_is(url: str, api: str) -> None:
    assert api_of(url) == api


def test_an_app_is_for_github_only() -> None:
    target = ForgeTarget(kind="gitlab", repository="ml/config")
    with pytest.raises(BadInput, match="SLUICE_GITHUB_APP_ID is set, and the forge is a GitLab"):
        forge_door(target, "main", settings(APP, repo="-"))


@pytest.mark.parametrize("missing", APP)
def test_half_an_app_is_refused(missing: str) -> None:
    with pytest.raises(BadInput, match="a GitHub App needs"):
        settings({name: value for name, value in APP.items() if name != missing}, repo="-")


def test_a_key_that_is_none_is_told_without_its_text(tmp_path: Path) -> None:
    target = ForgeTarget(kind="github", url="http://127.0.0.1:9", repository="ml/config")
    with pytest.raises(Stalled, match=r"the GitHub App's key, /nowhere/app\.pem, cannot be read"):
        forge_door(target, "main", settings(APP, repo="-")).find("x")
    (tmp_path / "app.pem").write_text("s3cret")
    mine = settings({**APP, "SLUICE_GITHUB_APP_KEY_FILE": str(tmp_path / "app.pem")}, repo="-")
    with pytest.raises(BadInput, match="is no private RSA key") as refused:
        forge_door(target, "main", mine).find("x")
    assert "s3cret" not in str(refused.value)


def test_without_a_token_it_says_what_to_set() -> None:
    target = ForgeTarget(kind="gitea", url="http://127.0.0.1:9", repository="ml/config")
    with pytest.raises(Stalled, match="set SLUICE_FORGE_TOKEN or SLUICE_FORGE_TOKEN_FILE"):
        forge_door(target, "main", settings({}, repo="-")).find("x")


def test_secrets_never_show() -> None:
    shown = repr(settings({"SLUICE_FORGE_TOKEN": "s3cret", "SLUICE_FORGE_WEBHOOK_SECRET": "s3cret"}, repo="-"))
    assert "s3cret" not in shown


@pytest.mark.parametrize("sender", ["mlflow", "forge"])
def test_a_webhooks_secret_comes_from_the_environment_or_a_file(sender: Any, tmp_path: Path) -> None:
    variable = f"SLUICE_{sender.upper()}_WEBHOOK_SECRET"
    file = tmp_path / "secret"
    assert webhook_secret({}, sender) is None
    assert webhook_secret({variable: "one"}, sender) == "one"
    with pytest.raises(BadInput, match=f"{variable}_FILE names .*secret, which cannot be read"):
        webhook_secret({f"{variable}_FILE": str(file)}, sender)
    file.write_text("\n")
    with pytest.raises(BadInput, match="which is empty"):
        webhook_secret({f"{variable}_FILE": str(file)}, sender)
    file.write_text("two\n")
    assert webhook_secret({f"{variable}_FILE": str(file), variable: "one"}, sender) == "two"


def test_the_status_file_has_the_counts(tmp_path: Path) -> None:
    tick = Tick(at=datetime(2026, 1, 1, tzinfo=UTC), plan=None)
    status_file.write(tmp_path / "status.json", tick, {"mlflow": {"forged": 3}})
    assert json.loads((tmp_path / "status.json").read_text())["webhooks"] == {"mlflow": {"forged": 3}}
    assert status_file.read(tmp_path / "status.json") is not None
