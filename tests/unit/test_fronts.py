"""Ensemble documents and the entry for gRPC: what is read, what is refused and in which words."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from policies.config_repo_documents import ConfigRepo
from policies.consistency import check
from policies.fronts import EnsembleDocument, ensemble_route
from policies.names import slug
from tests.unit.test_config_repo_documents import MODEL, SLUICE, repo, said

ENSEMBLE = "apiVersion: sluicegate/v1\nkind: Ensemble\nname: both\nmembers: [fraud, churn]\n"
CHURN = MODEL.replace("fraud", "churn")
STAGING = SLUICE + "  staging:\n    trigger: {stage: Staging}\n    ray: {dashboard: http://other:8265}\n"


def files(ensemble: str = ENSEMBLE, **others: str) -> dict[str, str]:
    named = {f"{name.replace('__', '/')}.yaml": text for name, text in others.items()}
    return {
        "sluice.yaml": SLUICE,
        "models/fraud.yaml": MODEL,
        "models/churn.yaml": CHURN,
        "ensembles/both.yaml": ensemble,
        **named,
    }


def linted(ensemble: str = ENSEMBLE, **others: str) -> list[str]:
    found: ConfigRepo = repo(files(ensemble, **others))
    return [str(note) for note in check(found)]


def test_an_ensemble_is_read_with_its_defaults() -> None:
    found = repo(files())
    assert found.ensembles == {"both": EnsembleDocument(name="both", members=("fraud", "churn"))}
    both = found.ensembles["both"]
    assert (both.application, ensemble_route(both)) == ("both--ensemble", "/ensembles/both")
    assert (both.combine, both.needed, both.patience) == ("mean", 2, timedelta(seconds=24))
    assert linted() == []


def test_grpc_is_off_until_it_is_enabled() -> None:
    assert repo(files()).fronts("production").grpc is None
    enabled = SLUICE + "    grpc: {enabled: true}\n"
    assert repo(files(sluice=enabled)).fronts("production").grpc is not None


def test_an_environment_has_the_ensembles_that_name_it() -> None:
    here = repo(files(ENSEMBLE + "environments: [production]\n", sluice=STAGING))
    assert [e.name for e in here.fronts("production").ensembles] == ["both"]
    assert here.fronts("staging").ensembles == ()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            ("churn]", "chrn]"),
            "ensembles/both.yaml:4: error: members[1]: 'chrn' is not known here; did you mean churn?",
        ),
        (("churn]", "fraud]"), "both.yaml:4: error: members[1]: members has a model twice, 'fraud'"),
        (("members: [fraud, churn]", "members: []"), "members: is empty: write at least one"),
        (("name: both", "name: other"), "the ensemble 'other' belongs into the file ensembles/other.yaml"),
        (("name: both", "name: bo--th"), "no two dashes in a row"),
        (("kind:", "minimum: 3\nkind:"), "both.yaml:2: error: minimum: 3 is more than its 2 members"),
        (
            ("kind:", "combine: best\nkind:"),
            (
                "combine: should be 'mean', 'median', 'vote' or 'first' or package.module:name, of Python that the "
                'replicas can import, not "best"'
            ),
        ),
        (
            ("kind:", "options: {frauds: 2}\nkind:"),
            "2: error: options.frauds: 'frauds' is no member; options of mean are",
        ),
        (
            ("kind:", "options:\n  churn: 2\n  fraud: -1\nkind:"),
            (
                "both.yaml:4: error: options.fraud: options of mean are weights above 0 of its members, by their "
                "names, and this is none"
            ),
        ),
        (
            ("kind:", "combine: first\noptions: {fraud: 1}\nkind:"),
            "both.yaml:3: error: options: first takes no options",
        ),
        (("kind:", "member_timeout: 30s\nkind:"), "2: error: member_timeout: 30s is not above 0s and below request_t"),
        (("kind:", "request_timeout: 50s\nkind:"), "2: error: request_timeout: graceful_shutdown 40s is not longer"),
        (("kind:", "request_timeout: 2h\nkind:"), "2: error: request_timeout: is above 0s and at most 1h, not 2h"),
        (("kind:", "environments: [prod]\nkind:"), "'prod' is not known here; known are production"),
        (("kind:", "route: /models/fraud/x\nkind:"), "lies below the route /models/fraud of the model 'fraud'"),
        (("kind:", "route: /models/churn\nkind:"), "is the route of the model 'churn' (models/churn.yaml) too"),
    ],
)
def test_what_is_wrong_is_said_where_it_stands(changed: tuple[str, str], words: str) -> None:
    notes = said(files(ENSEMBLE.replace(*changed)))
    assert any(words in note for note in notes), notes
    assert all(note.startswith("ensembles/both.yaml") or "ensembles/both.yaml" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("churn", CHURN + "colour: x\n"),
        ("churn", CHURN.replace("name:", "nam:")),
        ("churn", "\t"),
        ("churn", "[]\n"),
        ("Churn EU", "\t"),
        ("Churn EU", CHURN.replace("churn", "Churn EU") + "slos: 5\n"),
    ],
)
def test_a_member_whose_document_is_broken_is_not_absent(name: str, broken: str) -> None:
    notes = said(
        files(ENSEMBLE.replace("churn", name)) | {"models/churn.yaml": CHURN, f"models/{slug(name)}.yaml": broken}
    )
    assert notes
    assert all(note.startswith(f"models/{slug(name)}.yaml:") for note in notes), notes


def test_a_member_that_no_broken_document_may_be_is_absent() -> None:
    notes = said(files(ENSEMBLE.replace("churn", "chrn"), models__churn="\t"))
    assert [note.partition(":")[0] for note in notes] == ["ensembles/both.yaml", "models/churn.yaml"]


def test_an_ensemble_has_no_ensembles_as_members() -> None:
    outer = ENSEMBLE.replace("both", "outer").replace("churn]", "both]")
    (note,) = said(files(ensembles__outer=outer))
    assert "both is an ensemble itself: members are models" in note


def test_a_member_is_served_wherever_its_ensemble_is() -> None:
    (note,) = said(files(sluice=STAGING, models__churn=CHURN + "environments: [staging]\n"))
    assert "members[1]: the model 'churn' is not served in production" in note


def test_nothing_is_routed_where_grpc_enters() -> None:
    enabled = SLUICE + "    grpc: {enabled: true}\n"
    model = MODEL + "route: /grpc/fraud\n"
    (note,) = said(files(sluice=enabled, models__fraud=model))
    assert "/grpc/fraud lies below the route /grpc of the entry for gRPC (sluice.yaml): choose another" in note
    assert said(files(models__fraud=model)) == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("settings: {env: {API_TOKEN: hunter2hunter2}}\n", "looks like a secret"),
        ("combine: mine.mod:fn\noptions: {api_key: hunter2hunter2}\n", "looks like a secret"),
        ("environments: []\n", "no environment serves this ensemble"),
        ("member_timeout: 10s\n", "a hanging candidate would fail the ensemble"),
    ],
)
def test_what_is_unwise_is_said(more: str, words: str) -> None:
    notes = linted(ENSEMBLE + more)
    assert any(words in note for note in notes), notes
    assert "hunter2" not in " ".join(notes)


def ensemble(**fields: Any) -> EnsembleDocument:
    return EnsembleDocument(name="both", members=("fraud", "churn"), **fields)


def test_left_out_members_are_those_above_the_minimum() -> None:
    assert ensemble(on_failure="leave_out").needed == 1
    assert ensemble(on_failure="leave_out", minimum=2).needed == 2
    assert ensemble(minimum=1).needed == 2
