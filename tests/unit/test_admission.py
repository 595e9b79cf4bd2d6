"""What is asked of a version before it is tried: each check with its words and what mends it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from policies.actions import Wait, WriteRelease
from policies.admission import Check, CheckOutcome, lines, summary
from policies.admission_rules import CHECKS, Asked, admission
from policies.admission_terms import AdmissionTerms, MetricTerm
from policies.application import Application, Settings
from policies.capacity import Capacity, Node
from policies.facts import Observed, Rules
from policies.model_signatures import Column, Signature, Type
from policies.observations import Artifact, RegisteredVersion, VersionFacts
from policies.promotion import tags_wanted
from policies.release import Ask, Phase, Quarantined, Release, Wish
from policies.rollout import decide
from policies.serving import Placement
from tests.unit.releases import (
    FACTS,
    NOW,
    application,
    digest,
    observed,
    only,
    reason,
    ruled,
    steady,
    versions,
    written,
)

PASS, WARN, FAIL = CheckOutcome.PASS, CheckOutcome.WARN, CheckOutcome.FAIL
OTHER = Signature(inputs=(Column("amount", Type("string")),))
WIDER = Signature(inputs=(Column("amount", Type("double")), Column("country", Type("string"), required=False)))
PICKLED = Artifact(digest=digest(2), pickled=("model/model.pkl",), size_bytes=3 * 2**20)


def asked(**changes: Any) -> Asked:
    """v2 over v1, both alike, with terms that ask for nothing more than the defaults; terms by their own names."""
    names = {field.name for field in dataclasses.fields(AdmissionTerms)} - {"tags", "capacity"}
    terms = {name: changes.pop(name) for name in sorted(names & set(changes))}
    if "required" in changes:
        terms["tags"] = changes.pop("required")
    if "room" in changes:
        terms["capacity"] = changes.pop("room")
    plain: dict[str, Any] = {
        "release": steady(1),
        "candidate": application(2),
        "artifact": Artifact(digest=digest(2)),
        "tags": {},
        "facts": FACTS,
        "stable_facts": FACTS,
        "terms": AdmissionTerms(**terms),
        "capacity": None,
    }
    return Asked(**{**plain, **changes})


def check(name: str, **changes: Any) -> Check:
    (found,) = [c for c in admission(asked(**changes)).checks if c.name == name]
    return found


def names(**changes: Any) -> list[str]:
    return [c.name for c in admission(asked(**changes)).checks]


def said(name: str, **changes: Any) -> tuple[CheckOutcome, str]:
    found = check(name, **changes)
    assert bool(found.mend) == (found.outcome is not PASS)
    return found.outcome, found.words


def test_what_nobody_asks_for_makes_no_check():
    assert names() == ["signature", "pickle", "packages"]
    assert names(signature="any", pickle="allow") == ["packages"]


def test_every_check_has_its_place():
    everything = asked(
        release=dataclasses.replace(steady(1), quarantine=(quarantined(3),)),
        candidate=dataclasses.replace(application(2), digest=digest(3)),
        required={"owner": "*"},
        approvals=("risk",),
        metrics=(MetricTerm(metric="auc"),),
        flavors=("onnx",),
        max_size_mib=1,
        capacity=Capacity(nodes=()),
    )
    assert [c.name for c in admission(everything).checks] == list(CHECKS)


# --- signature ----------------------------------------------------------------------------------------------------


def with_signature(signature: Signature | None, **more: Any) -> VersionFacts:
    return dataclasses.replace(FACTS, signature=signature, **more)


@pytest.mark.parametrize(
    ("facts", "stable_facts", "outcome", "words"),
    [
        (FACTS, FACTS, PASS, "the same as that of v1"),
        (
            with_signature(WIDER),
            FACTS,
            PASS,
            "compatible with that of v1: optional input country (string) is added",
        ),
        (with_signature(OTHER), FACTS, FAIL, "against v1: input amount is string, was double"),
        (with_signature(None), FACTS, FAIL, "it has none and v1 has one: callers could send and read anything"),
        (
            FACTS,
            with_signature(None),
            WARN,
            "it has one and v1 has none: requests that are answered today may be refused",
        ),
        (with_signature(None), with_signature(None), WARN, "neither it nor v1 has one: nothing is compared"),
        (
            with_signature(None, signature_reason="there is no MLmodel"),
            FACTS,
            FAIL,
            "it cannot be read: there is no MLmodel",
        ),
        (
            FACTS,
            with_signature(None, signature_reason="v1 is gone"),
            WARN,
            "that of v1 cannot be read, so nothing is compared: v1 is gone",
        ),
    ],
)
def test_the_signature_must_be_compatible_with_stables(facts, stable_facts, outcome, words):
    assert said("signature", facts=facts, stable_facts=stable_facts) == (outcome, words)


def test_the_mend_names_both_ways_out():
    mend = "log the model again with the signature that its callers know, or write signature: any in the rollout policy"
    assert check("signature", facts=with_signature(OTHER)).mend == mend


def test_the_same_signature_allows_nothing_more():
    outcome, words = said("signature", signature="same", facts=with_signature(WIDER))
    assert (outcome, words) == (FAIL, "against v1: optional input country (string) is added")


def test_a_first_version_has_nothing_to_be_compared_with():
    first = {"release": steady(None), "stable_facts": None}
    assert said("signature", **first) == (PASS, "there is no stable version to compare it with")
    assert said("signature", facts=with_signature(None), **first) == (
        WARN,
        "it has none, and there is no stable version to compare it with",
    )


def test_a_thousand_differences_are_told_by_five():
    many = Signature(inputs=tuple(Column(f"c{n}", Type("double")) for n in range(1000)))
    _, words = said("signature", facts=with_signature(Signature(inputs=())), stable_facts=with_signature(many))
    assert words.endswith("; and 995 more")
    assert len(words) < 500


# --- tags and approvals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "outcome", "words"),
    [
        ({"validated": "yes", "owner": "ada"}, PASS, "it carries owner, validated"),
        ({"validated": "yes"}, FAIL, "the tag owner is missing"),
        (
            {"validated": "no", "owner": " "},
            FAIL,
            "the tag owner is ' ', not something; the tag validated is 'no', not 'yes'",
        ),
    ],
)
def test_required_tags_have_their_values(tags, outcome, words):
    assert said("tags", required={"owner": "*", "validated": "yes"}, tags=tags) == (outcome, words)


def test_a_missing_tag_is_mended_by_the_line_to_set_it():
    assert check("tags", required={"validated": "yes"}).mend == "set on v2 in MLflow: validated=yes"


@pytest.mark.parametrize(
    ("tags", "outcome", "words"),
    [
        ({"approved.risk": "Ada", "approved.legal": "Bo"}, PASS, "risk by Ada, legal by Bo"),
        ({"approved.risk": "Ada"}, FAIL, "nobody has approved for legal"),
        ({"approved.risk": "", "approved.legal": "Bo"}, FAIL, "nobody has approved for risk"),
        ({"approved.risk": "Ada", "approved.legal": "ada "}, FAIL, "one person gave two: risk by Ada, legal by ada"),
    ],
)
def test_each_approval_is_another_persons(tags, outcome, words):
    assert said("approvals", approvals=("risk", "legal"), tags=tags) == (outcome, words)


def test_a_missing_approval_names_the_tag():
    assert check("approvals", approvals=("risk",)).mend == "set on v2 in MLflow: approved.risk=<who>"


# --- metrics ------------------------------------------------------------------------------------------------------

AUC = MetricTerm(metric="auc", margin=0.01)
LOSS = MetricTerm(metric="loss", margin=0.1, higher_is_better=False)


def logged(**metrics: float) -> VersionFacts:
    return dataclasses.replace(FACTS, metrics=metrics)


@pytest.mark.parametrize(
    ("term", "value", "stable", "outcome", "words"),
    [
        (AUC, 0.95, 0.9, PASS, "auc is 0.95, v1 has 0.9; it may be worse by 0.01"),
        (AUC, 0.89, 0.9, PASS, "auc is 0.89, v1 has 0.9; it may be worse by 0.01"),
        (AUC, 0.889, 0.9, FAIL, "auc is 0.889, v1 has 0.9; it may be worse by 0.01"),
        (LOSS, 0.6, 0.5, PASS, "loss is 0.6, v1 has 0.5; it may be worse by 0.1"),
        (LOSS, 0.61, 0.5, FAIL, "loss is 0.61, v1 has 0.5; it may be worse by 0.1"),
        (MetricTerm(metric="auc", margin=-0.05), 0.94, 0.9, FAIL, "auc is 0.94, v1 has 0.9; it must be better by 0.05"),
        (MetricTerm(metric="auc", at_least=0.9), 0.89, 0.5, FAIL, "auc is 0.89, at least 0.9 is asked"),
        (MetricTerm(metric="auc", at_most=0.9), 0.95, 0.5, FAIL, "auc is 0.95, at most 0.9 is allowed"),
        (AUC, float("nan"), 0.9, FAIL, "auc is nan"),
        (AUC, 0.9, None, WARN, "auc is 0.9, and nothing to compare with: v1 has not logged it"),
        (AUC, 0.9, float("inf"), WARN, "auc is 0.9, and nothing to compare with: v1 has not logged it"),
        (AUC, None, 0.9, FAIL, "auc is not known: run r has not logged it"),
    ],
)
def test_a_metric_is_compared_with_stables_and_its_bounds(term, value, stable, outcome, words):
    facts = logged(**({term.metric: value} if value is not None else {}))
    stable_facts = logged(**({term.metric: stable} if stable is not None else {}))
    assert said("metrics", metrics=(term,), facts=facts, stable_facts=stable_facts) == (outcome, words)


def test_a_run_that_cannot_be_read_says_why():
    gone = VersionFacts(signature=FACTS.signature, metrics_reason="its run abc was deleted")
    words = "auc is not known: its run abc was deleted"
    assert said("metrics", metrics=(AUC,), facts=gone) == (FAIL, words)
    outcome, words = said("metrics", metrics=(AUC,), facts=logged(auc=0.9), stable_facts=gone)
    assert (outcome, words) == (WARN, "auc is 0.9, and nothing to compare with: its run abc was deleted")


def test_a_first_version_is_held_to_bounds_only():
    first = {"release": steady(None), "stable_facts": None}
    assert said("metrics", metrics=(AUC,), facts=logged(auc=0.1), **first) == (PASS, "auc is 0.1")
    bounded = MetricTerm(metric="auc", at_least=0.5)
    assert said("metrics", metrics=(bounded,), facts=logged(auc=0.1), **first)[0] is FAIL


def test_the_worst_metrics_are_told():
    both = {"metrics": (AUC, LOSS), "stable_facts": logged(auc=0.9, loss=0.5)}
    assert said("metrics", facts=logged(auc=0.9, loss=9), **both) == (
        FAIL,
        "loss is 9, v1 has 0.5; it may be worse by 0.1",
    )


# --- files --------------------------------------------------------------------------------------------------------


def test_pickled_files_are_a_warning_a_refusal_or_nothing_as_the_policy_says():
    words = "what unpickles can run anything: model/model.pkl"
    assert said("pickle", artifact=PICKLED) == (WARN, words)
    assert said("pickle", artifact=PICKLED, pickle="deny") == (FAIL, words)
    assert "pickle" not in names(artifact=PICKLED, pickle="allow")
    assert said("pickle") == (PASS, "no file is read by pickle, by names and first bytes")


def test_a_flavor_with_an_allow_rule_may_have_pickled_files():
    denied = {"artifact": PICKLED, "pickle": "deny"}
    assert said("pickle", pickle_flavors=("sklearn",), **denied) == (PASS, "allowed for sklearn: model/model.pkl")
    assert said("pickle", pickle_flavors=("pytorch",), **denied)[0] is FAIL
    assert "pickle_flavors: [sklearn]" in check("pickle", **denied).mend


def test_only_named_flavors_may_be_loaded():
    assert said("flavor", flavors=("sklearn", "onnx")) == (PASS, "it is sklearn")
    assert said("flavor", flavors=("onnx",)) == (FAIL, "it is sklearn; allowed: onnx")
    nameless = dataclasses.replace(FACTS, flavor="")
    assert said("flavor", flavors=("onnx",), facts=nameless)[1].startswith("it is of no flavor that pyfunc could load")


def test_the_size_is_counted_over_all_files():
    assert said("size", artifact=dataclasses.replace(PICKLED, size_bytes=1100), max_size_mib=0.001) == (
        FAIL,
        "0.00105 MiB, at most 0.001 MiB are allowed",
    )
    assert said("size", artifact=PICKLED, max_size_mib=3) == (PASS, "3.0 MiB, at most 3 MiB are allowed")
    assert said("size", artifact=PICKLED, max_size_mib=2.9) == (FAIL, "3.0 MiB, at most 2.9 MiB are allowed")


# --- where it is to run -------------------------------------------------------------------------------------------


def quarantined(version: int) -> Quarantined:
    return Quarantined(
        version=version, digest=digest(version), build="0" * 8, rollout="r0", since=NOW, reasons=("errors 20 %",)
    )


def test_the_digest_of_a_version_that_was_rolled_back_is_refused_under_another_number():
    release = dataclasses.replace(steady(1), quarantine=(quarantined(3),))
    twin = dataclasses.replace(application(2), digest=digest(3))
    found = check("quarantine", release=release, candidate=twin)
    assert found.words == "it has the digest of v3, which was rolled back in r0: errors 20 %"
    assert found.mend == 'sluice lift fraud --version 3 --why "..."'
    assert "quarantine" not in names(release=release)


def test_packages_that_exclude_each_other_are_refused():
    candidate = Application(
        version=2, digest=digest(2), settings=Settings(environment="uv"), requirements=("numpy<2", "numpy>=2")
    )
    outcome, words = said("packages", candidate=candidate)
    assert outcome is FAIL
    assert words.startswith("it cannot run with its packages: it asks for numpy<2, and replicas need numpy>=2; ")
    assert words.endswith("numpy<2 and numpy>=2 exclude each other")


def test_what_a_version_asks_for_and_would_not_get_is_a_warning():
    artifact = Artifact(digest=digest(2), requirements=("mlflow==2.9.0", "no requirement!", "scikit-learn"))
    outcome, words = said("packages", artifact=artifact)
    assert outcome is WARN
    assert words.startswith("it runs with the cluster's packages, and it asks for mlflow==2.9.0, and replicas need")


def node(cpu: float, free: float | None = None, **more: float) -> Node:
    return Node(total={"CPU": cpu, **more}, free={"CPU": cpu if free is None else free, **more})


@pytest.mark.parametrize(
    ("settings", "replicas", "nodes", "words"),
    [
        ({"cpus": 2}, 2, [node(4)], ""),
        ({"cpus": 2}, 2, [node(3), node(3)], ""),
        ({"cpus": 4}, 1, [node(3), node(3)], "no node has 4 CPU, which a replica reserves"),
        ({"cpus": 2}, 2, [node(4, 3)], "beside what runs there is no room for 2 more, each of which reserves 2 CPU"),
        ({"cpus": 1, "gpus": 1}, 1, [node(4)], "no node has 1 CPU, 1 GPU, which a replica reserves"),
        ({"cpus": 1, "gpus": 0.5}, 2, [node(4, GPU=1)], ""),
        ({"placement": Placement(bundles=({"CPU": 2}, {"CPU": 2}))}, 1, [node(3), node(3)], ""),
        (
            {"placement": Placement(bundles=({"CPU": 2}, {"CPU": 2}))},
            1,
            [node(3), node(1)],
            "beside what runs there is no room for 1 more, each of which reserves 2 CPU and 2 CPU",
        ),
    ],
)
def test_the_cluster_must_have_room_beside_stable(settings, replicas, nodes, words):
    candidate = application(2, **settings)
    capacity = Capacity(nodes=tuple(nodes))
    given = {"candidate": candidate, "replicas": replicas, "capacity": capacity}
    expected = (PASS, "the cluster has room for it beside stable")
    assert said("capacity", room="require", **given) == ((FAIL, words) if words else expected)
    assert said("capacity", **given) == ((WARN, words) if words else expected)
    assert "capacity" not in names(room="ignore", **given)


def test_a_capacity_that_nobody_knows_is_waited_for_where_it_is_required():
    assert "capacity" not in names()
    rules = ruled(admission=AdmissionTerms(capacity="require"))
    actions = look(steady(1), observed(capacity_reason="Ray has not counted yet"), rules)
    assert only(WriteRelease, actions) == []
    assert reason(actions) == "v2 is wanted, but what is asked of it cannot be read: Ray has not counted yet"


# --- all of it ----------------------------------------------------------------------------------------------------


def test_a_version_that_serves_is_not_asked_again_what_it_is():
    again = asked(
        release=steady(2), facts=None, required={"owner": "*"}, pickle="deny", artifact=PICKLED, metrics=(AUC,)
    )
    assert [c.name for c in admission(again).checks] == ["packages"]
    assert admission(again).admitted


def test_all_checks_on_one_line_the_failures_first():
    found = admission(asked(required={"owner": "*"}, artifact=PICKLED))
    assert not found.admitted
    assert (
        found.reason == "v2 is not admitted: tags: the tag owner is missing "
        "(set on v2 in MLflow: owner to anything that is not empty)"
    )
    assert found.summary.startswith(
        "refused: tags fail, pickle warn, signature pass, packages pass; tags: the tag owner"
    )
    assert lines(found.checks)[0] == "pass: signature: the same as that of v1"
    assert summary(()) == ""


def test_what_a_stranger_wrote_stays_on_one_line():
    found = check("tags", required={"owner": "ada"}, tags={"owner": "e\nve\x1b[2J" + "x" * 5000})
    assert found.words.isprintable()
    assert len(found.words) <= 500


# --- through the state machine ------------------------------------------------------------------------------------

ASKS = ruled(admission=AdmissionTerms(tags={"validated": "yes"}))


def validated(**stages: str) -> dict[int, RegisteredVersion]:
    return {n: dataclasses.replace(v, tags={"validated": "yes"}) for n, v in versions(**stages).items()}


def look(release: Release, facts: Observed | None = None, rules: Rules = ASKS) -> tuple[Any, ...]:
    return decide(release, facts or observed(), rules, NOW)


def refused() -> Release:
    return written(look(steady(1)))


def test_a_version_without_its_tags_is_refused_with_every_check_in_words():
    actions = look(steady(1))
    (write,) = only(WriteRelease, actions)
    assert write.subject == "v2 refused"
    assert "fail: tags: the tag validated is missing (set on v2 in MLflow: validated=yes)" in write.reasons
    assert write.release.phase is Phase.STEADY
    assert write.release.seen == (1, 2)
    (wait,) = only(Wait, actions)
    assert wait.ends.startswith("what is asked of it holds")
    assert reason(actions).startswith("v2 is not admitted: tags: the tag validated is missing")


def test_the_refusal_is_told_on_the_version_and_only_once():
    release = refused()
    tags = tags_wanted(release, observed().versions or {})[2]
    assert tags["sluice.production.phase"] == "REFUSED"
    assert tags["sluice.production.admission"].startswith("refused: tags fail, signature pass")
    assert only(WriteRelease, look(release)) == []


def test_what_else_changes_while_it_is_refused_is_no_commit():
    busy, idle = (Capacity(nodes=(node(4, free),)) for free in (0, 4))
    release = written(look(steady(1), observed(capacity=busy)))
    assert [c.outcome for c in release.refused[0].checks if c.name == "capacity"] == [WARN]
    assert only(WriteRelease, look(release, observed(capacity=idle))) == []


def test_it_is_tried_as_soon_as_the_tag_is_there():
    actions = look(refused(), observed(validated(v1="Production", v2="Production")))
    started = written(actions)
    assert started.phase is Phase.WARMING
    assert started.refused == ()
    assert started.rollout is not None
    assert [c.name for c in started.rollout.admission] == ["signature", "tags", "pickle", "packages"]
    reasons = started.rollout.records[0].reasons
    assert "v2 was refused before, and may be tried by now" in reasons
    assert "pass: tags: it carries validated" in reasons
    said = tags_wanted(started, observed().versions or {})[2]
    assert said["sluice.production.admission"] == "admitted: signature pass, tags pass, pickle pass, packages pass"


def test_it_is_not_tried_once_it_has_left_the_trigger():
    gone = observed(validated(v1="Production", v2="Archived"))
    assert written(look(refused(), gone)).phase is Phase.STEADY


def test_a_person_who_asks_to_try_it_again_gets_an_answer():
    """The wish is spent: it does not lie there until a tag makes it act."""
    ask = Ask(wish=Wish.RETRY, by="Ada", why="because", version=2)
    actions = look(dataclasses.replace(refused(), ask=ask))
    assert written(actions).ask is None
    assert reason(actions).startswith("v2 is not admitted")


def test_only_the_version_that_was_refused_last_is_asked_again():
    registry = versions(v1="Production", v2="Production", v3="Production")
    release = written(look(refused(), observed(registry)))
    assert [(r.version, bool(r.checks)) for r in release.refused] == [(2, False), (3, True)]
    registry[2] = dataclasses.replace(registry[2], tags={"validated": "yes"})
    assert only(WriteRelease, look(release, observed(registry))) == []


def test_what_was_refused_before_another_version_started_stays_out():
    """v2 must not come back over a v3 that was promoted since, because somebody tagged it late."""
    registry = versions(v1="Production", v2="Production") | validated(v3="Production")
    started = written(look(refused(), observed(registry)))
    assert started.candidate is not None
    assert started.candidate.version == 3
    assert [(r.version, r.checks) for r in started.refused] == [(2, ())]


def test_new_settings_do_not_wait_for_a_refused_version():
    rules = dataclasses.replace(ASKS, settings=Settings(cpus=2))
    started = written(look(refused(), rules=rules))
    assert started.candidate is not None
    assert started.candidate.version == 1
    assert [(r.version, bool(r.checks)) for r in started.refused] == [(2, True)]


def test_without_facts_nothing_starts_and_it_is_said():
    away = observed(facts={}, facts_reason="MLflow does not answer")
    actions = look(steady(1), away, ruled())
    assert only(WriteRelease, actions) == []
    assert reason(actions) == "v2 is wanted, but what is asked of it cannot be read: MLflow does not answer"


def test_a_refused_version_does_not_supersede():
    policy = {"admission": AdmissionTerms(tags={"validated": "yes"}), "on_newer": "supersede"}
    started = written(look(steady(1), rules=ruled(on_newer="supersede")))
    registry = versions(v1="Production", v2="Production", v3="Production")
    goes_on = look(started, observed(registry), ruled(**policy))
    assert written(goes_on).phase is not Phase.ROLLING_BACK
    registry[3] = dataclasses.replace(registry[3], tags={"validated": "yes"})
    queued = written(goes_on)
    assert written(look(queued, observed(registry), ruled(**policy))).phase is Phase.ROLLING_BACK


def test_an_emergency_is_asked_too_and_an_undo_is_not():
    urgent = {**versions(v1="Production", v2="Production")}
    urgent[2] = dataclasses.replace(urgent[2], tags={"sluice.emergency": "true"})
    assert reason(look(steady(1), observed(urgent))).startswith("v2 is not admitted")
    served = dataclasses.replace(steady(2), served=(application(1),), seen=(2,))
    undone = written(look(served, observed(versions(v1="Production", v2="Production"))))
    assert undone.candidate == application(1)


def test_terms_that_contradict_themselves_are_refused():
    with pytest.raises(ValueError, match="metrics names 'auc' twice"):
        AdmissionTerms(metrics=(AUC, AUC))
    with pytest.raises(ValueError, match="pickle_flavors means nothing"):
        AdmissionTerms(pickle="allow", pickle_flavors=("sklearn",))
    with pytest.raises(ValueError, match="at_least 2 is above at_most 1"):
        MetricTerm(metric="auc", at_least=2, at_most=1)
