"""Admission with a real MLflow server: the loop and its real door to the registry, Git and Serve in memory."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipelines.defaults import built_in_documents
from pipelines.look import Doors
from pipelines.mlflow_server import MlflowServer
from pipelines.reconciler import Reconciler
from policies.model_signatures import Column, Signature, Type
from policies.release import Phase, Release
from policies.stored_documents import parse_release
from tests.contracts.mlflow_server import RealRegistry
from tests.fakes.metrics import FakeMetrics
from tests.fakes.repo import FakeRepo
from tests.fakes.runtime import FakeServe

pytestmark = pytest.mark.real

BEGAN = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
STEP = timedelta(seconds=5)
SIGNATURE = Signature(inputs=(Column("amount", Type("double")),), outputs=(Column("score", Type("double")),))
WIDER = Signature(
    inputs=(*(SIGNATURE.inputs or ()), Column("country", Type("string"), required=False)), outputs=SIGNATURE.outputs
)
RETYPED = Signature(inputs=(Column("amount", Type("string")),), outputs=SIGNATURE.outputs)
RELEASE = "environments/production/releases/admitted.yaml"
DOCUMENTS = {
    "sluice.yaml": """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production: {trigger: {stage: Production}, prometheus: {scrape_interval: 5s}}
""",
    "models/admitted.yaml": """\
apiVersion: sluicegate/v1
kind: Model
name: admitted
rollout: asking
slos: [errors]
""",
    "policies/asking.yaml": """\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: asking
shadow: null
steps: []
settle: {min_duration: 5s}
admission:
  tags: {validated: "yes"}
  metrics: [{metric: auc, margin: 0.01}]
""",
}


class VirtualClock:
    def __init__(self) -> None:
        self.time = BEGAN

    def now(self) -> datetime:
        return self.time

    def wait(self, duration: timedelta) -> None:
        self.time += duration


class Loop:
    """The reconciler with the real registry; a person promotes, and looks happen."""

    def __init__(self, real: RealRegistry) -> None:
        self.real, self.clock = real, VirtualClock()
        self.repo, self.serve = FakeRepo(DOCUMENTS), FakeServe()
        self.metrics = FakeMetrics(width=STEP, began=BEGAN)
        doors = Doors(
            repo=self.repo,
            registry=lambda _target: real.port,
            runtime=lambda _target: self.serve,
            metrics=lambda _target: self.metrics,
        )
        self.reconciler = Reconciler(doors, self.clock, built_in_documents())

    def promoted(self, version: int) -> None:
        self.real.transition("admitted", version, "Production", archive_existing=True)

    def register(self, signature: Signature, auc: float) -> int:
        version = self.real.register_signed("admitted", signature)
        self.real.log_metric("admitted", version, "auc", auc)
        return version

    def look(self) -> Release:
        tick = self.reconciler.tick()
        assert tick.problems == ()
        self.serve.advance()
        self.clock.wait(STEP)
        return self.release

    @property
    def release(self) -> Release:
        return parse_release(str(self.repo.commits[self.repo.branch_tip or ""].files[RELEASE]), RELEASE)

    def tags(self, version: int) -> dict[str, str]:
        return dict(self.real.port.snapshot(["admitted"]).models["admitted"][version].tags)

    def message(self) -> str:
        return self.repo.commits[self.repo.branch_tip or ""].message

    def goes_on_until_steady(self) -> None:
        """The candidate answers well until it is stable."""
        for _ in range(200):
            release = self.look()
            if release.phase is Phase.STEADY:
                return
            if release.phase is Phase.SETTLING and release.candidate:
                self.metrics.answered("admitted", release.candidate, self.clock.now(), good=500, bad=0)
        raise AssertionError(f"never steady: {release}")


@pytest.fixture
def loop(mlflow_server: MlflowServer, tmp_path: Path) -> Iterator[Loop]:
    """v1 serves."""
    loop = Loop(RealRegistry(mlflow_server, tmp_path))
    first = loop.register(SIGNATURE, 0.9)
    loop.real.set_tag("admitted", first, "validated", "yes")
    loop.promoted(first)
    loop.goes_on_until_steady()
    yield loop
    loop.real.delete_model("admitted")


def test_a_changed_signature_is_refused_and_a_version_without_its_tag_is_admitted_once_it_has_it(loop: Loop) -> None:
    retyped = loop.register(RETYPED, 0.95)
    loop.real.set_tag("admitted", retyped, "validated", "yes")
    loop.promoted(retyped)
    assert loop.look().phase is Phase.STEADY
    assert "  fail: signature: against v1: input amount is string, was double (log the model again" in loop.message()
    loop.look()  # the registry follows what is in Git
    assert loop.tags(retyped)["sluice.production.phase"] == "REFUSED"
    assert loop.tags(retyped)["sluice.production.admission"].startswith(
        "refused: signature fail, tags pass, metrics pass"
    )

    wider = loop.register(WIDER, 0.895)
    loop.promoted(wider)
    assert [r.version for r in loop.look().refused] == [retyped, wider]
    assert "  fail: tags: the tag validated is missing (set on v3 in MLflow: validated=yes)" in loop.message()
    assert "  pass: signature: compatible with that of v1: optional input country (string) is added" in loop.message()
    assert "  pass: metrics: auc is 0.895, v1 has 0.9; it may be worse by 0.01" in loop.message()
    before = loop.repo.branch_tip
    loop.look()
    assert loop.repo.branch_tip == before

    loop.real.set_tag("admitted", wider, "validated", "yes")
    started = loop.look()
    loop.look()
    assert (started.phase, started.candidate and started.candidate.version) == (Phase.WARMING, wider)
    assert loop.tags(wider)["sluice.production.admission"].startswith(
        "admitted: signature pass, tags pass, metrics pass"
    )
