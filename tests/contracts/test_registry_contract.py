"""What `Registry` promises, on the in-memory fake and on a real MLflow server alike."""

from __future__ import annotations

import itertools

import pytest

from pipelines.mlflow_server import MlflowServer
from policies.documents import Trigger
from policies.errors import Retry, Stalled
from policies.model_signatures import Column, Signature, Type
from tests.contracts.mlflow_server import RealRegistry
from tests.contracts.registry_harness import World, fake_world, real_world
from tests.fakes.registry import SIGNATURE

PRODUCTION = Trigger(stage="Production")
CHAMPION = Trigger(alias="champion")
SERVE = Trigger(tag="serve=yes = please")
ODD_NAMES = [
    "Fraud Detection",
    "it's",
    'say "hi"',
    "both ' and \"",
    "back\\slash\\u0041",
    "per%cent %27 %",
    "under_score",
    "semi;colon -- DROP",
    "a`b`",
    "x') OR name IN ('y",
    "ünï 模型",
    "smile 😀",
    " space at both ends ",
    "q?a=b&c#d+e",
    "[x]{y}(z)<w>*",
]
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def real(mlflow_server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> RealRegistry:
    return RealRegistry(mlflow_server, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> World:
    model = f"fraud-{next(_NUMBERS)}"
    if request.param == "fake":
        return fake_world(model)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")  # an outage is waited for
    return real_world(request.getfixturevalue("real"), model)


# --- looking ---------------------------------------------------------------------------------------------------


def test_a_model_that_was_never_registered_is_unknown(world: World) -> None:
    snapshot = world.port.snapshot([world.model])
    assert snapshot.available
    assert snapshot.models == {}


def test_no_models_are_no_question(world: World) -> None:
    assert world.port.snapshot([]).available


def test_a_new_version_stands_nowhere(world: World) -> None:
    [one, two] = world.versions(2)
    seen = world.look()
    assert (one, two) == (1, 2)
    assert sorted(seen) == [1, 2]
    assert {v.stage for v in seen.values()} == {"None"}
    assert {v.aliases for v in seen.values()} == {frozenset()}
    assert all(v.ready and v.source and v.number == number for number, v in seen.items())


def test_every_version_of_a_stage_is_seen_not_only_the_highest(world: World) -> None:
    for version in world.versions(3):
        world.person.transition(world.model, version, "Production")
    assert world.stages() == {1: "Production", 2: "Production", 3: "Production"}


def test_archiving_others_is_seen(world: World) -> None:
    world.versions(3)
    world.person.transition(world.model, 1, "Production")
    world.person.transition(world.model, 2, "Staging")
    world.person.transition(world.model, 3, "Production", archive_existing=True)
    assert world.stages() == {1: "Archived", 2: "Staging", 3: "Production"}


def test_aliases_and_tags_are_seen_and_their_end_too(world: World) -> None:
    world.versions(2)
    world.person.set_alias(world.model, "champion", 1)
    world.person.set_alias(world.model, "shadow", 1)
    world.person.set_alias(world.model, "champion", 2)
    world.person.set_tag(world.model, 1, "serve", 'yes = it\'s "so"\n')
    world.person.set_tag(world.model, 1, "note", "")
    seen = world.look()
    assert (seen[1].aliases, seen[2].aliases) == (frozenset({"shadow"}), frozenset({"champion"}))
    assert (seen[1].tags, seen[2].tags) == ({"serve": 'yes = it\'s "so"\n', "note": ""}, {})
    world.person.set_alias(world.model, "champion", None)
    world.person.set_tag(world.model, 1, "serve", None)
    seen = world.look()
    assert (seen[2].aliases, seen[1].tags) == (frozenset(), {"note": ""})


def test_a_version_that_is_still_being_registered_is_not_ready(world: World) -> None:
    [version] = world.versions(1)
    world.person.set_ready(world.model, version, ready=False)
    assert not world.look()[version].ready
    with pytest.raises(Retry, match="still being registered"):
        world.port.artifact(world.model, version)
    world.person.set_ready(world.model, version, ready=True)
    assert world.look()[version].ready
    assert world.port.artifact(world.model, version).digest


def test_a_deleted_version_and_its_alias_are_gone_and_its_number_is_not_used_again(world: World) -> None:
    world.versions(2)
    world.person.set_alias(world.model, "champion", 2)
    world.person.delete_version(world.model, 2)
    assert sorted(world.look()) == [1]
    assert world.look()[1].aliases == frozenset()
    assert world.person.register(world.model) == 3


def test_a_model_without_versions_is_known_and_a_deleted_one_is_not(world: World) -> None:
    world.versions(1)
    world.person.delete_version(world.model, 1)
    assert world.look() == {}
    world.person.delete_model(world.model)
    assert world.model not in world.port.snapshot([world.model]).models


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_a_name_is_only_a_name(world: World, odd: str) -> None:
    """Names come from strangers: one never selects another model, nor breaks the look at the others."""
    name, neighbour = odd + world.model, "y" + world.model
    world.person.register(name)
    world.person.register(neighbour)
    world.person.transition(name, 1, "Production")
    world.person.set_alias(name, "champion", 1)
    snapshot = world.port.snapshot([name])
    assert snapshot.available, snapshot.reason
    assert set(snapshot.models) == {name}
    assert world.port.artifact(name, 1).digest == world.port.artifact(name, 1).digest
    world.port.annotate(name, 1, {"sluice.prod.phase": "CANARY"})
    assert world.port.restore(name, PRODUCTION, 1, None)
    assert world.port.restore(name, CHAMPION, 1, None)
    both = world.port.snapshot([neighbour, name])
    assert (both.models[name][1].stage, both.models[neighbour][1].stage) == ("Archived", "None")
    assert both.models[name][1].tags == {"sluice.prod.phase": "CANARY"}


@pytest.mark.parametrize("impossible", ["a/b", "a:b", "../../up", "a\x00b", "x" * 300, "", " ", "\ud800"])
def test_a_name_that_cannot_exist_is_unknown_and_does_not_hide_the_others(world: World, impossible: str) -> None:
    world.versions(1)
    snapshot = world.port.snapshot([impossible, world.model])
    assert snapshot.available, snapshot.reason
    assert set(snapshot.models) == {world.model}


def test_names_that_differ_in_case_or_in_wildcards_are_different_models(world: World) -> None:
    names = [world.model + end for end in ("-a_b", "-aXb", "-A_B", "-a%", "-a")]
    for name in names:
        world.person.register(name)
    for name in names:
        assert set(world.port.snapshot([name]).models) == {name}
    assert set(world.port.snapshot(names).models) == set(names)


# --- digests ---------------------------------------------------------------------------------------------------


def test_one_artifact_has_one_digest_under_any_number_and_name(world: World) -> None:
    other = world.model + "-other"
    versions = [world.person.register(name, "the same") for name in (world.model, world.model, other)]
    digests = [
        world.port.artifact(n, v).digest for n, v in zip([world.model, world.model, other], versions, strict=True)
    ]
    assert len(set(digests)) == 1
    assert digests[0].startswith("sha256:")


def test_another_payload_has_another_digest(world: World) -> None:
    one, other = world.person.register(world.model, "one"), world.person.register(world.model, "other")
    assert world.port.artifact(world.model, one).digest != world.port.artifact(world.model, other).digest


def test_a_digest_belongs_to_what_is_registered_now(world: World) -> None:
    world.person.register(world.model, "one")
    before = world.port.artifact(world.model, 1).digest
    world.person.delete_model(world.model)
    world.person.register(world.model, "other")
    assert world.port.artifact(world.model, 1).digest != before


def test_what_a_version_asks_for_is_known_with_its_digest(world: World) -> None:
    version = world.person.register(world.model, "one")
    assert "numpy" in world.port.artifact(world.model, version).requirements


def test_the_digest_of_what_does_not_exist_is_refused(world: World) -> None:
    with pytest.raises(Stalled, match=f"version 7 of {world.model}"):
        world.port.artifact(world.model, 7)


# --- what versions say about themselves --------------------------------------------------------------------------


def test_the_signature_and_the_flavor_are_those_that_were_logged(world: World) -> None:
    columns = Column("amount", Type("double")), Column("country", Type("string"), required=False)
    signature = Signature(inputs=columns, outputs=(Column("score", Type("double")),))
    facts = world.port.facts(world.model, world.person.register_signed(world.model, signature))
    assert (facts.signature, facts.signature_reason, facts.flavor) == (signature, "", "python_function")


def test_metrics_that_are_logged_later_are_seen_and_the_last_value_counts(world: World) -> None:
    version = world.person.register_signed(world.model, SIGNATURE)
    assert "auc" not in world.port.facts(world.model, version).metrics
    for value in (0.5, 0.9, 0.7):
        world.person.log_metric(world.model, version, "auc", value)
    facts = world.port.facts(world.model, version)
    assert (facts.metrics["auc"], facts.metrics_reason) == (0.7, "")
    assert facts.run.startswith("run ")


def test_what_pickle_would_load_and_the_size_are_known_with_the_digest(world: World) -> None:
    plain, pickled = world.person.register(world.model, "one"), world.person.register_pickled(world.model)
    assert world.port.artifact(world.model, plain).pickled == ()
    assert world.port.artifact(world.model, pickled).pickled == ("python_model.pkl",)
    assert world.port.artifact(world.model, plain).size_bytes > 0


def test_what_does_not_exist_or_is_still_being_registered_says_nothing_about_itself(world: World) -> None:
    with pytest.raises(Stalled, match=f"version 1 of {world.model}"):
        world.port.facts(world.model, 1)
    [version] = world.versions(1)
    world.person.set_ready(world.model, version, ready=False)
    with pytest.raises(Retry, match="still being registered"):
        world.port.facts(world.model, version)


# --- annotations -----------------------------------------------------------------------------------------------


def test_annotations_are_tags_beside_those_of_people(world: World) -> None:
    world.versions(2)
    world.person.set_tag(world.model, 1, "owner", "ada")
    tags = {"sluice.prod.phase": "ROLLED_BACK", "sluice.prod.verdict": "errors 31 of 1,204 (2.6 %) — “too many”"}
    world.port.annotate(world.model, 1, tags)
    world.port.annotate(world.model, 1, {**tags, "sluice.prod.phase": "STEADY"})
    assert world.look()[1].tags == {"owner": "ada", **tags, "sluice.prod.phase": "STEADY"}
    assert world.look()[2].tags == {}


def test_what_does_not_exist_cannot_be_annotated(world: World) -> None:
    with pytest.raises(Stalled, match=f"version 1 of {world.model}"):
        world.port.annotate(world.model, 1, {"sluice.prod.phase": "CANARY"})


# --- restore: a stage -------------------------------------------------------------------------------------------


def test_restoring_a_stage_puts_stable_back_and_archives_the_candidate_only(world: World) -> None:
    world.versions(4)
    world.person.transition(world.model, 4, "Production")
    world.person.transition(world.model, 1, "Staging")
    world.person.transition(world.model, 3, "Production", archive_existing=False)
    world.person.transition(world.model, 2, "Archived")
    assert world.port.restore(world.model, PRODUCTION, candidate=3, stable=2)
    assert world.stages() == {1: "Staging", 2: "Production", 3: "Archived", 4: "Production"}


def test_restoring_a_stage_where_stable_still_stands_moves_the_candidate_only(world: World) -> None:
    for version in world.versions(2):
        world.person.transition(world.model, version, "Production")
    assert world.port.restore(world.model, PRODUCTION, candidate=2, stable=1)
    assert world.stages() == {1: "Production", 2: "Archived"}


def test_restoring_a_stage_without_a_stable_version_empties_it(world: World) -> None:
    [version] = world.versions(1)
    world.person.transition(world.model, version, "Production")
    assert world.port.restore(world.model, PRODUCTION, version, None)
    assert world.stages() == {1: "Archived"}


@pytest.mark.parametrize("where", ["None", "Staging", "Archived"])
def test_a_person_who_moved_the_candidate_is_not_overruled(world: World, where: str) -> None:
    world.versions(2)
    world.person.transition(world.model, 2, "Production")
    world.person.transition(world.model, 2, where)
    assert not world.port.restore(world.model, PRODUCTION, candidate=2, stable=1)
    assert world.stages() == {1: "None", 2: where}


def test_restoring_twice_does_it_once(world: World) -> None:
    world.versions(2)
    world.person.transition(world.model, 2, "Production")
    assert world.port.restore(world.model, PRODUCTION, candidate=2, stable=1)
    assert not world.port.restore(world.model, PRODUCTION, candidate=2, stable=1)
    assert world.stages() == {1: "Production", 2: "Archived"}


# --- restore: an alias ------------------------------------------------------------------------------------------


def test_restoring_an_alias_moves_it_to_stable(world: World) -> None:
    world.versions(2)
    world.person.set_alias(world.model, "champion", 2)
    world.person.set_alias(world.model, "other", 2)
    assert world.port.restore(world.model, CHAMPION, candidate=2, stable=1)
    assert {n: v.aliases for n, v in world.look().items()} == {1: {"champion"}, 2: {"other"}}
    assert world.stages() == {1: "None", 2: "None"}
    assert not world.port.restore(world.model, CHAMPION, candidate=2, stable=1)


def test_restoring_an_alias_without_a_stable_version_removes_it(world: World) -> None:
    [version] = world.versions(1)
    world.person.set_alias(world.model, "champion", version)
    assert world.port.restore(world.model, CHAMPION, version, None)
    assert world.look()[version].aliases == frozenset()


@pytest.mark.parametrize("moved_to", [1, 3, None])
def test_a_person_who_moved_the_alias_is_not_overruled(world: World, moved_to: int | None) -> None:
    world.versions(3)
    world.person.set_alias(world.model, "champion", 2)
    world.person.set_alias(world.model, "champion", moved_to)
    before = world.look()
    assert not world.port.restore(world.model, CHAMPION, candidate=2, stable=1)
    assert world.look() == before


# --- restore: a tag ---------------------------------------------------------------------------------------------


def test_restoring_a_tag_gives_it_to_stable_and_takes_it_from_the_candidate_only(world: World) -> None:
    for version in world.versions(3)[1:]:
        world.person.set_tag(world.model, version, "serve", "yes = please")
    world.person.set_tag(world.model, 2, "owner", "ada")
    assert world.port.restore(world.model, SERVE, candidate=2, stable=1)
    tags = {n: v.tags for n, v in world.look().items()}
    assert tags == {1: {"serve": "yes = please"}, 2: {"owner": "ada"}, 3: {"serve": "yes = please"}}
    assert not world.port.restore(world.model, SERVE, candidate=2, stable=1)


def test_restoring_a_tag_without_a_stable_version_removes_it(world: World) -> None:
    [version] = world.versions(1)
    world.person.set_tag(world.model, version, "serve", "yes = please")
    assert world.port.restore(world.model, SERVE, version, None)
    assert world.look()[version].tags == {}


@pytest.mark.parametrize("changed_to", ["no", "yes", None])
def test_a_person_who_changed_the_tag_is_not_overruled(world: World, changed_to: str | None) -> None:
    world.versions(2)
    world.person.set_tag(world.model, 2, "serve", "yes = please")
    world.person.set_tag(world.model, 2, "serve", changed_to)
    before = world.look()
    assert not world.port.restore(world.model, SERVE, candidate=2, stable=1)
    assert world.look() == before


# --- restore: what is gone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("trigger", [PRODUCTION, CHAMPION, SERVE], ids=str)
def test_a_deleted_candidate_or_model_is_a_person_who_was_faster(world: World, trigger: Trigger) -> None:
    world.versions(2)
    world.person.delete_version(world.model, 2)
    assert not world.port.restore(world.model, trigger, candidate=2, stable=1)
    world.person.delete_model(world.model)
    assert not world.port.restore(world.model, trigger, candidate=1, stable=None)


@pytest.mark.parametrize("trigger", [PRODUCTION, CHAMPION, SERVE], ids=str)
def test_a_deleted_stable_version_still_takes_the_candidate_out(world: World, trigger: Trigger) -> None:
    world.versions(2)
    world.person.transition(world.model, 2, "Production")
    world.person.set_alias(world.model, "champion", 2)
    world.person.set_tag(world.model, 2, "serve", "yes = please")
    world.person.delete_version(world.model, 1)
    assert world.port.restore(world.model, trigger, candidate=2, stable=1)
    here = world.look()[2]
    gone = {"stage": here.stage == "Archived", "alias": not here.aliases, "tag": not here.tags}
    assert gone == {kind: getattr(trigger, kind) is not None for kind in gone}


# --- outages ----------------------------------------------------------------------------------------------------


def test_an_outage_is_said_and_ends(world: World) -> None:
    world.versions(2)
    world.person.transition(world.model, 2, "Production")
    with world.outage():
        snapshot = world.port.snapshot([world.model])
        assert not snapshot.available
        assert snapshot.reason
        assert snapshot.models == {}
        with pytest.raises(Retry):
            world.port.artifact(world.model, 1)
        with pytest.raises(Retry):
            world.port.facts(world.model, 1)
        with pytest.raises(Retry):
            world.port.annotate(world.model, 1, {"sluice.prod.phase": "CANARY"})
        with pytest.raises(Retry):
            world.port.restore(world.model, PRODUCTION, 2, 1)
    assert world.stages() == {1: "None", 2: "Production"}
    assert world.port.restore(world.model, PRODUCTION, 2, 1)
    assert world.port.artifact(world.model, 1).digest
