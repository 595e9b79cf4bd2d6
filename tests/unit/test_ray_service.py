"""KubeRay's manifest: the same bytes every time, and only fields that KubeRay's own schema has, in its shapes."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.defaults import built_in_documents
from policies.config_repo_documents import parse_repo, read_repo, with_defaults
from policies.consistency import check
from policies.errors import BadInput
from policies.layout import cluster_path, ray_service_path
from policies.ray_service import RayService, manifest_text, read_manifest
from policies.strict_yaml import parse
from serving_runtime.serve_config import parse as parse_serve
from serving_runtime.serve_config import render
from serving_runtime.serve_config import text as serve_text
from tests.unit.releases import steady
from tests.unit.test_serve_config import AROUND
from tests.unit.test_serve_config import to_serve as served

ROOT = Path(__file__).parents[2]
CRD = yaml.safe_load((Path(__file__).parent / "rayservice_crd.yaml").read_text(encoding="utf-8"))
TEMPLATE = (ROOT / "docs/examples/kubernetes/config-repo/clusters/production.yaml").read_text(encoding="utf-8")
SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger: {alias: champion}
    target: kuberay
    ray: {dashboard: "http://production-head-svc.ray:8265", rayservice: ray/production}
    access: {open: true}
"""
GOLDEN = """\
# Written by Sluicegate: what KubeRay's operator applies. Do not edit; change clusters/, or revert.
apiVersion: ray.io/v1
kind: RayService
metadata:
  name: production
spec:
  rayClusterConfig:
    headGroupSpec:
      template:
        spec:
          containers:
            - name: ray-head
              image: registry.example.com/serving:1
  serveConfigV2: |
    applications:
      - name: fraud--v1-4fdb2396
        route_prefix: /models/fraud
        args:
          note: "# : | \\n"
"""


def repo(template: str = TEMPLATE, sluice: str = SLUICE, **more: str) -> Any:
    files = {"sluice.yaml": sluice, cluster_path("production"): template, **more}
    return parse_repo(with_defaults(files, built_in_documents()))


def template(**spec: Any) -> str:
    data = yaml.safe_load(TEMPLATE)
    data["spec"].update(spec)
    return yaml.safe_dump(data, sort_keys=False)


# --- bytes --------------------------------------------------------------------------------------------------------


def test_the_manifest_is_these_bytes():
    head = parse(GOLDEN, "x").data
    spec = dict(head["spec"])
    serve = yaml.safe_load(spec.pop("serveConfigV2"))
    assert serve["applications"][0]["args"] == {"note": "# : | \n"}
    assert manifest_text({**head, "spec": spec}, serve) == GOLDEN


def test_a_manifest_reads_back_and_is_written_as_the_same_bytes():
    head, config = repo().clusters["production"].head, render([served(steady())], AROUND)
    text = manifest_text(head, config)
    found = read_manifest(parse(text, "x").data, "x")
    assert found == RayService(head=head, config=config)
    assert manifest_text(found.head, found.config) == text


def test_what_ray_is_told_is_what_serve_yaml_says():
    config = render([served(steady())], AROUND)
    manifest = yaml.safe_load(manifest_text(repo().clusters["production"].head, config))
    assert yaml.safe_load(manifest["spec"]["serveConfigV2"]) == yaml.safe_load(serve_text(config))
    assert parse_serve(manifest["spec"]["serveConfigV2"]) == config


# --- KubeRay's schema ---------------------------------------------------------------------------------------------


def strict(schema: Any) -> Any:
    """The schema refusing fields that it does not have: the API server would drop them in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in schema and isinstance(schema["properties"], dict) and schema.get("type") == "object":
        made["additionalProperties"] = False
    return made


def test_the_manifest_has_only_fields_that_kuberays_schema_has():
    manifest = yaml.safe_load(manifest_text(repo().clusters["production"].head, render([served(steady())], AROUND)))
    schema = strict(CRD["openAPIV3Schema"])
    jsonschema.validate(manifest, schema)
    for wrong in ({"serveConfig": "x"}, {"serveConfigV2": {"applications": []}}, {"rayClusterConfig": {"head": {}}}):
        changed = copy.deepcopy(manifest)
        changed["spec"].update(wrong)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed, schema)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"serveConfigV2": "applications: []"}, "is written by Sluicegate"),
        ({"rayClusterConfig": None}, "rayClusterConfig is missing"),
        ({"rayClusterConfig": {"headGroupSpec": {}}}, "headGroupSpec.template.spec.containers is missing"),
        ({"upgradeStrategy": {"type": "NewClusterWithIncrementalUpgrade"}}, "two clusters would serve at once"),
    ],
)
def test_a_template_that_cannot_work_is_refused_in_words(spec: dict[str, Any], words: str):
    notes = read_repo({"sluice.yaml": SLUICE, cluster_path("production"): template(**spec)}).notes
    assert [note.file for note in notes] == [cluster_path("production")]
    assert words in notes[0].message


@pytest.mark.parametrize(
    "text", ["kind: RayService\n", "[]\n", "spec: {serveConfigV2: 3}\n", "spec: {serveConfigV2: x}\n"]
)
def test_a_manifest_that_somebody_changed_by_hand_is_refused(text: str):
    with pytest.raises(BadInput, match="changed it by hand"):
        read_manifest(parse(text, "x").data, "x")
    notes = read_repo({"sluice.yaml": SLUICE, ray_service_path("production"): text}).notes
    assert [note.file for note in notes] == [ray_service_path("production")]


def notes_of(repo: Any) -> list[str]:
    return [f"{note.field}: {note.message}" for note in check(repo)]


def test_a_template_is_there_where_it_is_needed_and_only_there():
    assert notes_of(repo()) == []
    without = parse_repo(with_defaults({"sluice.yaml": SLUICE}, built_in_documents()))
    assert "clusters/production.yaml" in notes_of(without)[0]
    plain = SLUICE.replace("    target: kuberay\n", "").replace(", rayservice: ray/production", "")
    assert "is not read" in notes_of(repo(sluice=plain))[0]


def test_the_status_that_is_read_is_that_of_this_service():
    other = notes_of(repo(sluice=SLUICE.replace("ray/production", "ray/staging")))
    assert other == [
        "environments.production.ray.rayservice: is not the RayService of clusters/production.yaml: ray/production"
    ]
    assert "only with target" in notes_of(repo(sluice=SLUICE.replace("    target: kuberay\n", "")))[-1]


# --- the pages ----------------------------------------------------------------------------------------------------


def block(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]


def test_what_the_page_about_kuberay_says_to_write_is_read_without_a_finding():
    told = textwrap.dedent("".join(line[3:] if line.strip() else line for line in block("kuberay.md").splitlines(True)))
    text = f"apiVersion: sluicegate/v1\nkind: Sluice\n{told}"
    assert notes_of(repo(sluice=text)) == []


def test_what_the_page_about_edges_says_to_write_is_read_without_a_finding():
    reading = read_repo(with_defaults({"sluice.yaml": block("edge.md")}, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert notes_of(reading.repo) == []


@pytest.mark.parametrize(
    ("edges", "words"),
    [
        ("{store: {follows: prod}}", "prod"),
        ("{production: {follows: production}}", "is the name of an environment too"),
        ("{Store: {follows: production}}", "Store"),
    ],
)
def test_an_edge_follows_an_environment_and_has_a_name_of_its_own(edges: str, words: str):
    text = block("edge.md").split("edges:")[0] + f"edges: {edges}\n"
    notes = read_repo(with_defaults({"sluice.yaml": text}, built_in_documents())).notes
    assert [words in note.message or words in note.field for note in notes] == [True]
