"""The examples for Kubernetes: every file is YAML of the kind it says, and safe by default. No Kubernetes runs here."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "kubernetes"
API_VERSIONS = {
    "Application": "argoproj.io/v1alpha1",
    "ClusterRole": "rbac.authorization.k8s.io/v1",
    "ClusterRoleBinding": "rbac.authorization.k8s.io/v1",
    "Component": "kustomize.config.k8s.io/v1alpha1",
    "ConfigMap": "v1",
    "Deployment": "apps/v1",
    "ExternalSecret": "external-secrets.io/v1",
    "GitRepository": "source.toolkit.fluxcd.io/v1",
    "Namespace": "v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "RayService": "ray.io/v1",
    "ServiceAccount": "v1",
}
"""`Kustomization` is two: kustomize's and Flux's."""


def documents() -> Iterator[tuple[str, Mapping[str, Any]]]:
    for path in sorted(EXAMPLES.rglob("*.yaml")):
        for data in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            yield path.relative_to(EXAMPLES).as_posix(), data


def only(kind: str, folder: str = "") -> Mapping[str, Any]:
    (found,) = [data for name, data in documents() if data["kind"] == kind and name.startswith(folder)]
    return found


def pods() -> list[Mapping[str, Any]]:
    """The Pod templates of all examples: the reconciler's and Ray's."""
    cluster = only("RayService")["spec"]["rayClusterConfig"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    return [only("Deployment")["spec"]["template"]["spec"], *(group["template"]["spec"] for group in groups)]


def test_every_document_says_what_it_is():
    for name, data in documents():
        if data["kind"] != "Kustomization":
            assert (name, data["apiVersion"]) == (name, API_VERSIONS[data["kind"]])
    assert only("Kustomization", "reconciler")["apiVersion"] == "kustomize.config.k8s.io/v1beta1"
    assert only("Kustomization", "flux")["apiVersion"] == "kustomize.toolkit.fluxcd.io/v1"


def test_no_image_floats():
    images = [container["image"] for pod in pods()[1:] for container in pod["containers"]]
    images += [f"{i['newName']}:{i['newTag']}" for i in only("Kustomization", "reconciler")["images"]]
    assert len(images) == 3
    assert [image for image in images if not re.fullmatch(r"[a-z0-9./-]+:(?!latest)[\w.-]+", image)] == []


def test_the_reconciler_runs_without_rights():
    pod = pods()[0]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert only("ServiceAccount")["automountServiceAccountToken"] is False
    assert all(pod["securityContext"]["runAsNonRoot"] for pod in pods())


def test_all_that_the_reconciler_writes_lies_on_volumes_of_a_size():
    (container,) = pods()[0]["containers"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    sizes = {volume["name"]: volume["emptyDir"]["sizeLimit"] for volume in pods()[0]["volumes"]}
    assert set(mounts.values()) == set(sizes)
    env = {each["name"]: each["value"] for each in container["env"]}
    status = container["command"][-1]
    assert container["command"] == ["sluice", "run", "--status-file", status]
    assert {env["SLUICE_CACHE"], env["HOME"], str(Path(status).parent)} == set(mounts)


def test_its_probes_tell_a_reconciler_that_looks_from_one_that_does_not(tmp_path: Path):
    (container,) = pods()[0]["containers"]
    status = tmp_path / "status.json"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        shell, option, script = container[probe]["exec"]["command"]
        command = [shell, option, script.replace(container["command"][-1], str(status))]
        assert str(status) in command[-1]
        status.unlink(missing_ok=True)
        assert subprocess.run(command, check=False, capture_output=True).returncode != 0
        status.write_text("{}")
        assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_nobody_calls_the_reconciler_and_it_calls_few():
    policy = only("NetworkPolicy", "reconciler")["spec"]
    assert policy["podSelector"]["matchLabels"] == only("Deployment")["spec"]["selector"]["matchLabels"]
    assert (policy["policyTypes"], policy["ingress"]) == (["Ingress", "Egress"], [])
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 443, 8265, 9090}
    assert all(rule["to"] for rule in policy["egress"])


def test_secrets_are_named_and_not_written():
    assert [name for name, data in documents() if data["kind"] == "Secret"] == []
    (container,) = pods()[0]["containers"]
    secret = only("ExternalSecret")["spec"]
    assert {"secretRef": {"name": secret["target"]["name"]}} in container["envFrom"]
    given = {entry["secretKey"] for entry in secret["data"]}
    assert given == {"SLUICE_GIT_TOKEN", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN"}


def test_the_component_allows_one_get():
    assert only("ClusterRole")["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayservices"], "resourceNames": ["production"], "verbs": ["get"]}
    ]


def test_every_file_that_kustomize_is_told_of_is_there():
    for kind, folder in (("Kustomization", "reconciler"), ("Component", "rayservice-status")):
        named = only(kind, folder)["resources"]
        there = {path.name for path in (EXAMPLES / folder).glob("*.yaml")} - {"kustomization.yaml"}
        assert set(named) == there


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl renders kustomize without a cluster")
def test_kustomize_renders_the_base():
    command = ["kubectl", "kustomize", str(EXAMPLES / "reconciler")]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rendered = list(yaml.safe_load_all(text))
    assert {each["kind"] for each in rendered} == {
        "ConfigMap",
        "Deployment",
        "ExternalSecret",
        "Namespace",
        "NetworkPolicy",
        "ServiceAccount",
    }
    assert "registry.example.com/sluicegate:0.1.0" in text


# --- Argo CD and Flux ---------------------------------------------------------------------------------------------


def test_argo_cd_applies_the_one_file_and_never_prunes_it():
    spec = only("Application")["spec"]
    assert (spec["source"]["path"], spec["source"]["directory"]) == (
        "environments/production",
        {"include": "rayservice.yaml"},
    )
    assert spec["syncPolicy"]["automated"] == {"prune": False, "selfHeal": True}
    assert "ServerSideApply=true" in spec["syncPolicy"]["syncOptions"]
    assert spec["destination"]["namespace"] == only("RayService")["metadata"]["namespace"]


def test_argo_cds_health_knows_kuberays_conditions():
    text = only("ConfigMap")["data"]["resource.customizations.health.ray.io_RayService"]
    assert all(f'"{word}"' in text for word in ("UpgradeInProgress", "Ready", "Healthy", "Progressing", "Degraded"))
    opened = len(re.findall(r"\b(?:then|do)\b", re.sub(r"elseif .* then", "", text)))
    assert opened == len(re.findall(r"\bend\b", text))


def test_flux_applies_the_one_file_and_never_prunes_it(tmp_path: Path):
    source, sync = only("GitRepository")["spec"], only("Kustomization", "flux")["spec"]
    assert (sync["path"], sync["prune"]) == ("./environments/production", False)
    assert sync["sourceRef"]["name"] == only("GitRepository")["metadata"]["name"]
    for name in ("rayservice.yaml", "serve.yaml", "releases/fraud.yaml", "records/fraud.json"):
        (tmp_path / "environments/production" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "environments/production" / name).touch()
    (tmp_path / "sluice.yaml").touch()
    (tmp_path / ".gitignore").write_text(source["ignore"])
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    command = ["git", "ls-files", "--others", "--exclude-standard"]
    seen = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split()
    assert seen == ["environments/production/rayservice.yaml"]


def test_flux_checks_the_health_of_the_service_that_is_rendered():
    sync, service = only("Kustomization", "flux")["spec"], only("RayService")["metadata"]
    assert sync["healthChecks"] == [{"apiVersion": "ray.io/v1", "kind": "RayService", **service}]
    (health,) = sync["healthCheckExprs"]
    assert {"inProgress", "failed", "current"} < set(health)
