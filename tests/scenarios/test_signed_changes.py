"""Whole rollouts in a config repo whose changes must be signed."""

from __future__ import annotations

from policies.layout import ALLOWED_SIGNERS
from policies.release import Phase
from tests.scenarios.test_whole_rollouts import assert_at_rest, serving, with_first
from tests.simulation.world import MODEL_DOCUMENT, World


def asking(paths: str = "[models/, ensembles/, policies/]") -> World:
    """v1 serves, and from now on Ada signs."""
    world = with_first()
    sluice = str(world.tip.files["sluice.yaml"]) + f"signatures: {{paths: {paths}}}\n"
    world.repo.person_commits({"sluice.yaml": sluice, ALLOWED_SIGNERS: "ada\nsluicegate\n"})
    world.repo.signer = "sluicegate"
    assert not world.step().problems
    return world


def test_an_unsigned_change_of_a_model_is_not_applied_and_said_at_every_look_while_rollouts_go_on():
    world = asking()
    commit = world.repo.person_commits({"models/fraud.yaml": MODEL_DOCUMENT % ("fraud", 7)}, author="Eve <eve@e.org>")
    world.promote(world.register())
    said = " ".join(world.step().problems)
    assert all(part in said for part in ("models/fraud.yaml", commit, "Eve <eve@e.org>", "is not signed"))
    world.run_until(lambda: serving(world, 2))
    world.restart()
    assert commit in " ".join(world.step().problems)
    assert world.release.stable.settings.cpus == 1
    assert world.unanswered == 0
    world.repo.revert(commit)
    assert not world.step().problems
    assert_at_rest(world)


def test_a_signed_change_is_rolled_out():
    world = asking()
    world.repo.person_commits({"models/fraud.yaml": MODEL_DOCUMENT % ("fraud", 7)}, signer="ada")
    world.run_until(lambda: serving(world, 1) and world.release.stable.settings.cpus == 7)
    world.step()
    assert world.repo.vouched() == world.repo.branch_tip


def test_a_model_whose_document_is_removed_without_a_signature_is_served_on():
    world = asking()
    world.repo.person_commits({"models/fraud.yaml": None})
    world.pass_time(120)
    assert world.serve.answering("/models/fraud") is not None
    world.repo.person_commits({"models/fraud.yaml": None}, signer="ada")  # nothing changes: it is gone already
    world.pass_time(60)
    assert world.serve.answering("/models/fraud") is not None


def test_a_release_that_somebody_forged_stops_the_environment():
    world = asking("[models/, environments/]")
    world.promote(world.register())
    world.run_until(lambda: world.release.phase is Phase.CANARY)
    path = world.places[0].path
    text = str(world.tip.files[path]).replace("weight_percent: 10\n", "weight_percent: 99\n", 1)
    commit = world.repo.person_commits({path: text})
    submits = len(world.serve.submits)
    assert f"{path}" in " ".join(world.step().problems)
    world.pass_time(60)
    assert (world.repo.branch_tip, len(world.serve.submits)) == (commit, submits)
    world.repo.revert(commit)
    world.run_until(lambda: serving(world, 2))


def test_a_broken_document_falls_back_to_what_was_read_and_not_to_what_lies_in_the_log():
    world = asking()
    world.step()
    world.repo.person_commits({"models/fraud.yaml": "kind: Modle\n"}, signer="ada")
    said = " ".join(world.step().problems)
    assert "models/fraud.yaml" in said
    assert world.serve.answering("/models/fraud") is not None
    world.repo.person_commits({"models/fraud.yaml": MODEL_DOCUMENT % ("fraud", 1)}, signer="ada")
    assert not world.step().problems
