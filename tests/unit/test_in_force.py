"""What `status` and `plan` show of a config repo in which somebody made a slip: what the reconciler goes on with."""

from __future__ import annotations

import pytest

from pipelines.commands.in_force import in_force
from pipelines.commands.views import plan_lines, releases
from pipelines.vouched import Trust
from policies.errors import Stalled
from tests.simulation.world import HEALTHY, MODEL_DOCUMENT, World

BROKEN = (MODEL_DOCUMENT % ("m2", 1)).replace("rollout: quick", "rollout: nosuch")
WRONG = "models/m2.yaml:4: error: rollout: 'nosuch' is not known here; known are default, experiment, quick"


def serving(*, signed: bool = False) -> World:
    """A world in which v1 serves."""
    world = World(7)
    if signed:
        text = world.repo.read().files["sluice.yaml"] + "signatures: {}\n"
        world.repo.person_commits({"sluice.yaml": text, "policies/allowed_signers": "ada\nus\n"})
        world.repo.signer = "us"
    world.promote(world.register(HEALTHY))
    world.settle()
    return world


@pytest.mark.parametrize("signed", [False, True])
def test_a_broken_document_of_another_model_hides_nothing_from_status_and_plan(signed):
    world = serving(signed=signed)
    world.repo.person_commits({"models/m2.yaml": BROKEN}, signer="ada")
    found = in_force(world.repo, Trust())
    (shown,) = releases(found.documents)
    assert (shown.model, shown.stable, shown.serving) == ("fraud", 1, "v1 serves")
    assert found.problems == (WRONG,)

    world.restart()
    waits, said = plan_lines(world.reconciler.plan())
    assert waits.startswith("fraud (production): waits: v1 serves")
    assert said == WRONG


def test_a_broken_document_of_a_model_that_serves_counts_as_it_was_read_last():
    world = serving()
    world.repo.person_commits({"models/fraud.yaml": "kind: Modle\n"})
    found = in_force(world.repo, Trust())
    assert [view.stable for view in releases(found.documents)] == [1]
    assert found.documents.models["fraud"].rollout == "quick"
    assert all(line.startswith("models/fraud.yaml:1: error: ") for line in found.problems)
    assert found.problems


def test_where_the_reconciler_would_not_start_releases_are_shown_with_the_reason():
    world = serving(signed=True)
    world.repo.person_commits({"policies/quick.yaml": "steps: [\n"}, signer="ada")
    found = in_force(world.repo, Trust())
    assert [view.stable for view in releases(found.documents)] == [1]
    assert any("policies/quick.yaml" in line for line in found.problems)


def test_a_change_that_nobody_vouched_for_is_said():
    world = serving(signed=True)
    world.repo.person_commits({"models/fraud.yaml": MODEL_DOCUMENT % ("fraud", 2)})
    found = in_force(world.repo, Trust())
    assert [view.stable for view in releases(found.documents)] == [1]
    (said,) = found.problems
    assert "models/fraud.yaml" in said
    assert "is not signed" in said


def test_a_broken_sluice_yaml_is_an_error():
    world = serving()
    world.repo.person_commits({"sluice.yaml": "kind: Sluic\n"})
    with pytest.raises(Stalled, match=r"sluice\.yaml:1"):
        in_force(world.repo, Trust())
