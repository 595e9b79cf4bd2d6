"""An ensemble and the entry for gRPC through whole rollouts of their members: never asking what does not answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies.asking import hosts_named
from policies.fronts import GRPC_APPLICATION
from policies.layout import serve_path
from tests.scenarios.test_several import SLUICE, Several

ENSEMBLE = """\
apiVersion: sluicegate/v1
kind: Ensemble
name: both
members: [fraud, spam]
environments: [production]
"""
BOTH = "both--ensemble"


class Fronted(Several):
    """The same world with fronts in production, which are looked at after every step."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        super().__init__()

    @property
    def serve(self) -> Any:
        return self.serves["http://ray-one:8265"]

    def asked(self, front: str) -> list[str]:
        """The hosts that a front's replicas ask now."""
        told: Mapping[str, Any] = self.serve.told(front)
        return list(hosts_named({"deployments": [{"user_config": told}]}))

    def step(self) -> None:
        super().step()
        for front in (BOTH, GRPC_APPLICATION):
            for host in self.asked(front):
                assert self.serve.told(host), f"{front} asks {host}, which does not answer"
                self.seen.add(host)

    def write(self, **files: str) -> None:
        named = {f"{name.replace('__', '/')}.yaml": text for name, text in files.items()}
        self.repo.commit(self.repo.read().commit, named, "people")


def test_fronts_follow_a_promotion_and_a_rollback_of_their_members():
    world = Fronted()
    world.write(
        ensembles__both=ENSEMBLE, sluice=SLUICE.replace("production:\n", "production:\n    grpc: {enabled: true}\n")
    )
    world.run(lambda: len(world.asked(BOTH)) == len(world.asked(GRPC_APPLICATION)) == 2)
    first = world.asked(BOTH)
    for model in ("fraud", "spam"):
        world.registry.register(model)
        world.registry.transition(model, 2, "Production", archive_existing=True)
    world.bad.add(("production", "spam", 2))
    world.run(lambda: all(len(world.outcomes("production", m)) == 2 for m in ("fraud", "spam")))
    world.run(lambda: world.asked(BOTH)[0] != first[0] and first[0] not in world.serve.observe().applications)
    fraud, spam = world.asked(BOTH)
    assert fraud.startswith("fraud--v2")
    assert spam == first[1], "the version that was rolled back never hosted"
    assert world.asked(GRPC_APPLICATION) == [fraud, spam]
    assert world.seen == {*first, fraud}


def test_fronts_that_are_removed_leave_their_members_alone():
    world = Fronted()
    world.write(ensembles__both=ENSEMBLE)
    world.run(lambda: len(world.asked(BOTH)) == 2)
    assert world.serve.answering("/ensembles/both") == BOTH
    tip = world.repo.read()
    world.repo.commit(tip.commit, {"ensembles/both.yaml": None}, "people")
    world.run(lambda: BOTH not in world.serve.observe().applications)
    assert BOTH not in world.repo.read().files[serve_path("production")]
    assert world.serve.answering("/models/fraud").startswith("fraud--v1")
    assert world.serve.answering("/models/spam").startswith("spam--v1")


def test_a_broken_ensemble_document_is_not_a_removed_one():
    world = Fronted()
    world.write(ensembles__both=ENSEMBLE)
    world.run(lambda: len(world.asked(BOTH)) == 2)
    world.write(ensembles__both=ENSEMBLE.replace("spam", "span"))
    for _ in range(20):
        world.step()
    assert len(world.asked(BOTH)) == 2
