"""Names and labels are data in a query, whatever is in them."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_runtime import promql


def patterns(selector: str) -> dict[str, str]:
    """Label name -> the regular expression that it is matched with."""
    found = re.findall(r'([a-zA-Z_]\w*)=~("(?:[^"\\]|\\.)*")', selector)
    return {name: json.loads(text) for name, text in found}


def test_a_query_names_models_builds_outcomes_and_the_environments_labels() -> None:
    assert promql.requests(["fraud", "churn"], ["bbbbbbbb"], {"cluster": "prod"}) == (
        '{__name__=~"ray_sluice_shadow_total|ray_sluice_version_requests_total",cluster="prod",model=~"churn|fraud",'
        'build=~"bbbbbbbb",outcome=~"bad|bad_bad|bad_good|good|good_bad|good_good|rescued"}'
    )


def test_latency_asks_for_the_count_and_for_the_bucket_however_it_is_written() -> None:
    selector = promql.latencies(["fraud"], ["bbbbbbbb"], [200.0], {})

    assert re.fullmatch(patterns(selector)["le"], "")
    assert re.fullmatch(patterns(selector)["le"], "200")
    assert re.fullmatch(patterns(selector)["le"], "200.0")
    assert not re.fullmatch(patterns(selector)["le"], "2000")
    assert not re.fullmatch(patterns(selector)["le"], "200x0")


@pytest.mark.parametrize(("edge", "written"), [(1_000_000.0, "1e+06"), (0.5, "0.5"), (60000.0, "60000.0")])
def test_bucket_labels_are_those_exporters_write(edge: float, written: str) -> None:
    assert written in promql.bucket_labels(edge)


@given(st.text(min_size=1), st.text(min_size=1))
def test_a_name_matches_itself_and_nothing_else(name: str, other: str) -> None:
    pattern = patterns(promql.requests([name], ["b"], {}))["model"]

    assert re.fullmatch(pattern, name)
    assert bool(re.fullmatch(pattern, other)) == (name == other)


@given(st.text())
def test_a_labels_value_ends_where_its_string_ends(value: str) -> None:
    selector = promql.health({"cluster": value})

    text = selector.removeprefix('{__name__=~"ray_sluice_host_revision|up",cluster=').removesuffix("}")
    assert json.loads(text) == value
