"""The table of docs/impact.md: every field is in it, and it says what is so."""

from __future__ import annotations

import pytest

from pipelines.field_effects import row, under_old_names
from pipelines.field_examples import ENVIRONMENT, EXAMPLES, Example, repos
from pipelines.generated_docs import _fields
from pipelines.serve_configs import meant
from policies.impact import Effect, impact
from policies.schemas import schema

NOT_SERVED = ("forge", "webhooks", "edges", "signatures")
"""Parts of sluice.yaml that the Serve config of an environment knows nothing of."""
AS_OF_MODELS = ("settings", "autoscaling")
"""Parts of an ensemble that a model has as well."""


def fields(kind: str) -> set[str]:
    whole = schema(kind)
    found = list(_fields(whole, whole["$defs"], "", {}))
    return {field.path for field in found if field.as_before or "properties" not in field.noun}


@pytest.mark.parametrize(
    ("kind", "elsewhere"),
    [
        ("Model", ()),
        ("Sluice", (*NOT_SERVED, "environments.<name>.access.open")),
        ("Ensemble", ("name", *AS_OF_MODELS)),
    ],
)
def test_every_field_has_an_example(kind: str, elsewhere: tuple[str, ...]) -> None:
    shown = {example.field for example in EXAMPLES if example.kind == kind}
    assert {f for f in fields(kind) if not f.startswith(elsewhere)} - shown == set()
    assert {f for f in shown if not f.startswith(elsewhere)} - fields(kind) <= {"environments.<name>.access"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: f"{e.kind} {e.field}")
def test_an_example_changes_its_field_and_what_is_told_is_told_by_a_rule(example: Example) -> None:
    before, after = repos(example)
    assert before.models | before.ensembles != after.models | after.ensembles or before.sluice != after.sluice
    was, now = meant(before, ENVIRONMENT), meant(after, ENVIRONMENT)
    found = row(example)
    assert bool(found.effects) == (was != now)
    if example.is_setting:
        assert found.rolled_out
        assert found.changes
        assert {change.effect for change in found.changes} == {Effect.RESTARTS}
    elif example.kind == "Model" and example.field not in ("name", "environments"):
        assert Effect.RESTARTS not in found.effects
        assert not found.rolled_out


def test_under_the_old_names_a_setting_is_a_restart_in_one_application() -> None:
    (example,) = (each for each in EXAMPLES if each.kind == "Model" and each.field == "settings.cpus")
    was, now = (meant(repo, ENVIRONMENT) for repo in repos(example))
    (found,) = impact(was, under_old_names(was, now), None).deployments
    assert found.application == was["applications"][0]["name"]
    assert [change.field for change in found.changes] == ["ray_actor_options.num_cpus"]
