"""Webhooks of a real MLflow and of each forge, on a real Git server: they wake the loop, and the loop commits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from pipelines.commands.webhooks import install
from pipelines.mlflow_server import MlflowServer
from pipelines.settings import settings
from policies.config_repo_documents import parse_repo
from policies.documents import SluiceDocument
from policies.errors import BadInput, Stalled
from policies.webhooks import mlflow_signature, source_of
from registry_bridge.config_repo import ConfigRepo
from registry_bridge.mlflow_webhooks import NAME, MlflowWebhooks
from tests.conditions import wait_until
from tests.contracts.forge_harness import DIALECTS
from tests.contracts.mlflow_server import RealRegistry
from tests.contracts.repo_harness import RealStage, Server
from tests.contracts.webhook_loop import FORGE_SECRET, SECRETS, Loop, a_port, documents, running
from tests.fakes.forge.hub import BASE
from tests.fakes.forge.server import GIT_TOKEN, ForgeServer

pytestmark = pytest.mark.real
MODEL = "webhook-to-commit"


@pytest.fixture
def git(tmp_path: Path) -> Iterator[RealStage]:
    server = Server(tmp_path)
    server.start()
    try:
        folder = tmp_path / "config"
        folder.mkdir()
        yield RealStage(server, folder)
    finally:
        server.stop()


def sluice(files: dict[str, str]) -> SluiceDocument:
    return parse_repo({"sluice.yaml": files["sluice.yaml"]}).sluice


def test_a_promotion_in_mlflow_is_a_commit_without_a_look_in_between(
    mlflow_server: MlflowServer, git: RealStage, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    registry = RealRegistry(mlflow_server, tmp_path / "scratch")
    version, port = registry.register(MODEL), a_port()
    files = documents(mlflow_server.address, port, {MODEL: MODEL})
    git.person_commits(files)
    with running(git.door(), mlflow_server.address, port, tmp_path / "artifacts") as loop:
        before = len(loop.ticks)
        done = install(sluice(files), settings(SECRETS, repo="-"))
        assert done.well, done.lines
        assert done.lines[:2] == (
            f"MLflow: webhook registered: http://127.0.0.1:{port}/webhooks/mlflow",
            "MLflow: reached: 202: accepted",
        )
        assert "  MLFLOW_WEBHOOK_ALLOWED_SCHEMES: https,http" in done.lines
        again = install(sluice(files), settings(SECRETS, repo="-"))
        assert again.lines[0].startswith("MLflow: webhook brought up to date")
        assert [hook.name for hook in registry.client.list_webhooks()] == [NAME]
        stranger = install(sluice(files), settings({"SLUICE_MLFLOW_WEBHOOK_SECRET": "another"}, repo="-"))
        assert (stranger.well, stranger.lines[1]) == (False, "MLflow: NOT reached: 401: forged")
        assert install(sluice(files), settings(SECRETS, repo="-")).well
        wait_until(lambda: len(loop.ticks) > before, 30, "the tests of installing woke the loop")
        commits = len(loop.repo.pushed_at)
        try:
            promoted_again_until_heard(registry, version, loop, commits)
        finally:
            registry.client.delete_webhook(registry.client.list_webhooks()[0].webhook_id)
    assert loop.listener.counts == {}  # it has stopped
    release = git.door().read().files[f"environments/production/releases/{MODEL}.yaml"]
    assert "phase: WARMING" in release


def promoted_again_until_heard(registry: RealRegistry, version: int, loop: Loop, commits: int) -> None:
    """MLflow remembers for a second (here) to whom it sends: the promotion is repeated until it is heard."""

    def heard() -> bool:
        registry.set_alias(MODEL, "champion", version)
        return len(loop.repo.pushed_at) > commits

    wait_until(heard, 60, "a commit")


def test_mlflows_signature_is_the_one_that_mlflow_makes() -> None:
    from mlflow.webhooks.delivery import _generate_hmac_signature

    body = '{"x": "ä"}'
    assert mlflow_signature("s", "id", "1", body.encode()) == _generate_hmac_signature("s", "id", "1", body)


def test_what_mlflow_does_not_allow_is_said_with_what_it_needs(mlflow_server: MlflowServer) -> None:
    with pytest.raises(Stalled, match="scheme"):
        MlflowWebhooks(mlflow_server.address).install("ftp://127.0.0.1/webhooks/mlflow", "s")


def test_nothing_is_installed_without_a_secret_or_an_address(mlflow_server: MlflowServer) -> None:
    files = documents(mlflow_server.address, 1, {})
    with pytest.raises(BadInput, match="SLUICE_MLFLOW_WEBHOOK_SECRET"):
        install(sluice(files), settings({}, repo="-"))
    silent = {"sluice.yaml": files["sluice.yaml"].replace("webhooks:", "#")}
    with pytest.raises(BadInput, match="has no webhooks"):
        install(sluice(silent), settings(SECRETS, repo="-"))


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_a_persons_merge_at_a_forge_wakes_the_loop(kind: str, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # no MLflow is needed to look at Git
    with ForgeServer(tmp_path / "repos", DIALECTS[kind]) as forge:
        port = a_port()
        target = f"forge: {{kind: {kind}, url: '{forge.url}', repository: team/config}}"
        forge.hub.commit(BASE, documents(nobody, port, {}, target))
        repo = ConfigRepo(f"{forge.url}/config.git", BASE, tmp_path / "cache", token=GIT_TOKEN)
        with running(repo, nobody, port, tmp_path / "artifacts") as loop:
            seen = loop.ticks[-1][1].plan
            assert seen is not None
            source = source_of(kind)
            forge.hooks.append((f"{loop.url}/webhooks/{source}", FORGE_SECRET))
            new = forge.hub.commit(BASE, {"README.md": "a person's push"})
            wait_until(lambda: loop.ticks[-1][1].plan and loop.ticks[-1][1].plan.look.tip.commit == new, 30, "a look")
            forge.hooks.append((f"{loop.url}/webhooks/{source}", "guess"))
            forge.hub.commit(BASE, {"README.md": "another"})
            forge.hooks.clear()
            answers = forge.delivered  # the loop's own commits are told, too
            assert (answers[0], set(answers)) == (202, {202, 401})
            assert requests.post(f"{loop.url}/webhooks/mlflow", json={}, timeout=10).status_code == 401
            heard = {"accepted": answers.count(202), "forged": answers.count(401)}
            assert loop.listener.counts == {source: heard, "mlflow": {"forged": 1}}
