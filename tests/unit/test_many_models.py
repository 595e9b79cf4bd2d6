"""A config repo of many models: what did not change is not read again. Counted, not timed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipelines.defaults import built_in_documents
from pipelines.documents_in_force import DocumentsInForce
from policies import document_reading
from policies.document_reading import read_document
from policies.holding import known_revision, known_revisions, models_held
from policies.layout import Place
from policies.observations import ObservedApplication, RuntimeObservation
from policies.strict_yaml import YamlError, dump, parse
from tests.fakes.repo import FakeRepo

MODELS = 300
SLUICE = "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments:\n  production: {trigger: {stage: Production}}\n"
MODEL = "apiVersion: sluicegate/v1\nkind: Model\nname: model-%d\nautoscaling: {max_replicas: %d}\n"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    caches = (document_reading._document, document_reading._application, document_reading._large)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def parsed() -> int:
    return document_reading._document.cache_info().misses


def test_a_look_parses_what_changed_and_nothing_else():
    repo = FakeRepo({"sluice.yaml": SLUICE, **{f"models/model-{n}.yaml": MODEL % (n, 1) for n in range(MODELS)}})
    documents = DocumentsInForce(repo, built_in_documents())
    documents.of(repo.read())
    first = parsed()
    assert first >= MODELS
    documents.of(repo.read())
    assert parsed() == first
    repo.person_commits({"models/model-7.yaml": MODEL % (7, 2)})
    read, _, _ = documents.of(repo.read())
    assert parsed() == first + 1
    assert read.models["model-7"].autoscaling.max_replicas == 2


def test_enough_is_remembered_for_a_thousand_models_in_many_environments():
    """One document too many, read in the same order each time, and nothing at all would be remembered."""
    assert document_reading._document.cache_info().maxsize >= 1000 * (1 + 10)


def serve_config(**changed: int) -> dict[str, Any]:
    names = [f"model-{n}" for n in range(MODELS)]
    return {
        "applications": [
            {"name": name, "args": {"lines": "one\n  - two\n"}, "deployments": [{"num_replicas": changed.get(name, 1)}]}
            for name in names
        ]
    }


def test_of_a_serve_config_the_applications_that_changed_are_parsed():
    path = "environments/production/serve.yaml"
    first = read_document(path, dump(serve_config()), Place.SERVE)
    assert first.value == serve_config()
    assert document_reading._application.cache_info().misses == MODELS
    changed = serve_config(**{"model-7": 3})
    assert read_document(path, dump(changed), Place.SERVE).value == changed
    assert document_reading._application.cache_info().misses == MODELS + 1


@pytest.mark.parametrize(
    "text",
    [
        "applications: []\n",
        "applications:\n- name: a\n- name: b\n",
        'applications:\n  - name: "a\n    - b"\n  - {name: c}\n',
        "applications:\n  - name: a\n  - name: b\nproxy_location: Disabled\n",
        "# ours\napplications:\n  - name: a\n",
        "applications:\n  - name: a\n    lines: |\n      one\n        - two\n  - [1, 2]\n",
        "",
    ],
)
def test_a_serve_config_that_is_written_otherwise_reads_the_same(text):
    assert read_document("environments/production/serve.yaml", text, Place.SERVE).value == (parse(text, "x").data or {})


@pytest.mark.parametrize("text", ["applications:\n  - name: a\n  - name: [b\n", "applications:\n  - {a: 1, a: 2}\n"])
def test_what_is_wrong_in_a_serve_config_is_said_with_its_line_in_the_file(text):
    (note,) = read_document("environments/production/serve.yaml", text, Place.SERVE).notes
    with pytest.raises(YamlError) as caught:
        parse(text, "environments/production/serve.yaml")
    assert note.line == caught.value.position.line


def test_what_ray_was_told_is_gathered_once_for_all_models():
    def app(name: str, **told: object) -> ObservedApplication:
        submitted = {"name": name, "deployments": [{"name": "model", "user_config": told}]}
        return ObservedApplication(name=name, status="RUNNING", submitted=submitted)  # type: ignore[arg-type]

    apps = (
        app("a1", model="a", revision=3),
        app("a2", model="a", revision=9, hold=True),
        app("b1", model="b", revision=4),
        app("odd", revision=5),
    )
    seen = RuntimeObservation(available=True, applications={a.name: a for a in apps})
    assert known_revisions(seen) == {"a": 9, "b": 4}
    assert (known_revision("a", seen), known_revision("c", seen)) == (9, 0)
    assert models_held(seen) == {"a"}
