"""Who brings Ray to what Git says: which of the two it is, and what it answers."""

from __future__ import annotations

from typing import Any

import pytest

from policies.applying import ByOperator, Directly, applier
from policies.config_repo_documents import parse_repo
from policies.observations import RuntimeObservation

NOTHING: dict[str, Any] = {"applications": []}
AWAY = RuntimeObservation(available=False, reason="the dashboard is away")


def repo(target: str) -> Any:
    return parse_repo(
        {
            "sluice.yaml": "apiVersion: sluicegate/v1\nkind: Sluice\n"
            f"environments: {{production: {{target: {target}, trigger: {{stage: Production}}}}}}\n"
        }
    )


def test_an_environment_is_applied_directly_where_it_does_not_say_otherwise() -> None:
    found = applier(repo("ray"), "production")
    assert isinstance(found, Directly)
    assert (found.lives_by, found.stops_only_by) == (None, "")
    assert found.next_manifest(lambda: pytest.fail("nobody needs it"), AWAY, ()) is None


def test_kuberays_cluster_lives_by_its_manifest_and_is_stopped_by_a_commit() -> None:
    found = applier(repo("kuberay"), "production")
    assert found == ByOperator("production", None, None)
    assert found.lives_by == "environments/production/rayservice.yaml"
    assert "commit" in found.stops_only_by
    assert found.submits(NOTHING, AWAY, expected_empty=True) == ""


def test_kuberay_without_a_template_says_what_is_missing() -> None:
    manifest = applier(repo("kuberay"), "production").next_manifest(lambda: NOTHING, AWAY, ())
    assert manifest is not None
    assert "clusters/ has no template" in str(manifest.step)
