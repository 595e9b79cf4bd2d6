"""A document's own queries: where models go in, what is counted exactly, and what is refused, with what is right."""

from __future__ import annotations

import ast
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import BadInput
from policies.evidence import Queries
from policies.query_templates import bucket_pair, read_pair, read_template
from serving_runtime import promql

OURS = 'model=~"{{model}}",version=~"{{version}}"'
COUNTERS = f"orders_total{{{OURS}}}"
SUMMED = f"sum by (model, version) (increase({COUNTERS}[{{{{window}}}}]))"


def filled(query: str, where: dict[str, str] | None = None, models: tuple[str, ...] = ("churn", "fraud")) -> str:
    template = read_template(query)
    return promql.filled(template.counters or template.whole, models, ("1", "2"), where or {}, 60_000)


@pytest.mark.parametrize(
    "query",
    [
        COUNTERS,
        f"  increase( {COUNTERS} [ {{{{ window }}}} ] ) ",
        SUMMED,
        f"sum(increase({COUNTERS}[{{{{window}}}}])) by (version, model, build)",
        f"# orders of all kinds\n{COUNTERS} # and no others",
    ],
)
def test_counters_are_found_in_every_form_that_says_the_same(query: str) -> None:
    assert filled(query) == 'orders_total{model=~"(?:churn|fraud)",version=~"(?:1|2)"}'


def test_an_expression_is_asked_as_it_is_written() -> None:
    assert not read_template(f"{SUMMED} > 0").counters
    assert filled(f"{SUMMED} > 0") == (
        'sum by (model, version) (increase(orders_total{model=~"(?:churn|fraud)",version=~"(?:1|2)"}[60000ms])) > 0'
    )


def test_the_environments_labels_go_into_each_selector_of_ours_and_into_no_other() -> None:
    query = f'{SUMMED} * on() group_left() scalar_of{{job="x"}} + {SUMMED.replace("orders", "more")}'

    assert filled(query, {"cluster": 'a"b'}).count(',cluster="a\\"b"}') == 2
    assert 'scalar_of{job="x"}' in filled(query, {"cluster": "c"})
    assert filled(f"orders_total{{{OURS}, }}", {"cluster": "c"}).endswith('",cluster="c"}')


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("", "is empty"),
        ("orders_total", 'write model=~"{{model}}",version=~"{{version}}" inside the braces'),
        ('orders_total{model=~"{{model}}"}', "does not say whose events are counted"),
        ('orders_total{model="{{model}}",version=~"{{version}}"}', 'write model=~"{{model}}"'),
        ("orders_total{model=~{{model}}}", "should be matchers like"),
        ('orders_total{model=~"{{mdoel}}",version=~"{{version}}"}', "{{mdoel}} is not known here; known are {{model}}"),
        ('orders_total{model=~"{{window}}",version=~"{{version}}"}', "stands in brackets: [{{window}}]"),
        (f"increase({COUNTERS}[5m]) + {{{{window}}}}", "stands in brackets: [{{window}}]"),
        (f"{SUMMED} + {{{{model}}}}", 'stands in quotes: model=~"{{model}}"'),
        (f'label_replace({SUMMED}, "a", "{{{{model}}}}", "b", "")', "is no matcher"),
        ('orders_total{app=~"{{model}}",version=~"{{version}}"}', 'should be model=~"{{model}}"'),
        ('orders_total{model=~"{{model}}",version=~"v{{version}}"}', 'should be version=~"{{version}}"'),
        (f"sum by (model) (increase({COUNTERS}[{{{{window}}}}]))", "sum by (model, version)"),
        (f"sum by (model, version) (rate({COUNTERS}[{{{{window}}}}]))", "per second and no count"),
        (f"{COUNTERS} offset 5m", "does not say over what time it counts"),
        (f"sum by (model, version) (increase({COUNTERS}[5m]))", "does not say over what time it counts"),
        (f"wait_bucket{{{OURS}}}", "write a thresholdMetric"),
        (f'orders_total{{{OURS},result="ok}}', "should be matchers"),
        (f"{COUNTERS} + x'", "a quote in it is not closed"),
    ],
)
def test_what_cannot_be_counted_says_what_would_be_right(query: str, says: str) -> None:
    with pytest.raises(BadInput, match=re.escape(says)):
        read_template(query)


def test_both_counts_are_counters_or_both_are_evaluated() -> None:
    assert read_pair(Queries(total=SUMMED, good=COUNTERS)).exact
    assert not read_pair(Queries(total=SUMMED, bad=f"{SUMMED} + 0")).exact
    with pytest.raises(BadInput, match=r"write total as sum by \(model, version\)"):
        read_pair(Queries(total=COUNTERS, good=f"{SUMMED} + 0"))
    with pytest.raises(BadInput, match=r"write good as sum by \(model, version\)"):
        read_pair(Queries(total=f"{SUMMED} + 0", good=COUNTERS))


def test_a_threshold_is_a_bucket_of_all() -> None:
    queries = bucket_pair(f"wait_bucket{{{OURS}}}", 1_000_000.0, within_is_good=True)

    assert queries.total == f'wait_bucket{{{OURS},le="+Inf"}}'
    assert queries.good == f'wait_bucket{{{OURS},le=~"1000000|1000000[.]0|1e[+]06"}}'
    assert read_pair(queries).of_buckets
    assert bucket_pair(f"wait_bucket{{{OURS}}}", 0.5, within_is_good=False).bad.endswith('le=~"0[.]5"}')


@pytest.mark.parametrize(
    ("query", "says"),
    [
        (f"histogram_quantile(0.99, sum by (le) (rate(wait_bucket{{{OURS}}}[{{{{window}}}}])))", "counts no events"),
        (f"wait_seconds{{{OURS}}}", "counts no events"),
        (f'wait_bucket{{{OURS},le="1"}}', "leave le out"),
    ],
)
def test_a_value_over_time_is_no_count(query: str, says: str) -> None:
    with pytest.raises(BadInput, match=re.escape(says)):
        bucket_pair(query, 0.5, within_is_good=True)


@given(st.text(min_size=1), st.text(min_size=1), st.sampled_from("\"'"))
def test_a_name_in_a_document_matches_itself_and_nothing_else(name: str, other: str, quote: str) -> None:
    text = filled(COUNTERS.replace('"', quote), models=(name,))
    literal = text.removeprefix("orders_total{model=~").removesuffix(f",version=~{quote}(?:1|2){quote}}}")
    pattern = json.loads(literal) if quote == '"' else ast.literal_eval(literal)

    assert re.fullmatch(pattern, name)
    assert bool(re.fullmatch(pattern, other)) == (name == other)


def filled_or_refused(text: str) -> tuple[str, str]:
    """The query for one model, or what is said of it."""
    try:
        return promql.filled(read_template(text).whole, ["fraud"], ["2"], {"a": "b"}), ""
    except BadInput as refused:
        return "", str(refused)


@given(st.text())
def test_whatever_is_written_is_read_or_refused_in_words(query: str) -> None:
    for text in (query, f"{COUNTERS} {query}", f"orders{{{OURS}{query}}}"):
        read, refused = filled_or_refused(text)
        assert bool(read) != bool(refused.strip())
        assert not read or "fraud" in read
