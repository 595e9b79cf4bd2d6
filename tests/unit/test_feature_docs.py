"""What docs/features.md shows works: its source, its documents, its tables."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from pipelines.defaults import built_in_documents
from policies.config_repo_documents import read_repo, with_defaults
from policies.consistency import check
from policies.evidence import Sli
from policies.query_templates import read_pair
from policies.slo import LATENCY_BUCKETS_MS
from serving_runtime.breaker import FAILURES_TO_OPEN, LONGEST_PAUSE_S
from serving_runtime.feature_columns import KEY_LIMIT_CHARS, KEYS_LIMIT
from serving_runtime.features import SOURCE_THREADS, FeatureSource
from serving_runtime.look_ups import KEYS_PER_QUESTION, LookUp
from serving_runtime.redis_features import RedisOptions

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "features.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_the_source_on_the_page_is_one() -> None:
    (text,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(text, "docs/features.md", "exec"), names)  # noqa: S102 our own page
    table = names["Table"]({"factor": 2})
    assert isinstance(table, FeatureSource)
    assert asyncio.run(table.look_up(["ada", "nobody"])) == {"ada": {"spend_30d": 25.0}}
    asyncio.run(table.close())


def test_the_documents_on_the_page_pass_lint_and_their_slos_are_counted_exactly() -> None:
    files = {"sluice.yaml": "kind: Sluice\napiVersion: sluicegate/v1\nenvironments: {live: {trigger: {alias: live}}}\n"}
    for text in blocks("yaml"):
        data = yaml.safe_load(text)
        folder = "models" if data["kind"] == "Model" else "policies"
        files[f"{folder}/{data.get('name') or data['metadata']['name']}.yaml"] = text
    assert len(files) == 5
    reading = read_repo(with_defaults(files, built_in_documents()))
    assert reading.notes == ()
    assert reading.repo is not None
    assert check(reading.repo) == ()
    for name in ("features-in-time", "features-there"):
        objective = reading.repo.slos[name]
        assert objective.sli is Sli.QUERIES
        assert objective.queries is not None
        assert read_pair(objective.queries).exact
    assert 50 in LATENCY_BUCKETS_MS, "the threshold is an edge"


def test_every_outcome_is_in_the_table_of_failures() -> None:
    table = PAGE.split("## When a look-up fails\n")[1].split("\n\nWithout")[0]
    cells = [row.split("|")[2] for row in table.splitlines() if row.startswith("| ")][1:]
    assert {word for cell in cells for word in re.findall(r"`(\w+)`", cell)} == set(LookUp)


def test_every_option_of_redis_is_in_its_table_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| [^|]* \|$", PAGE.split("## Redis\n")[1], re.MULTILINE)
    fields = dataclasses.fields(RedisOptions)
    assert [name for name, _ in rows] == [field.name for field in fields]
    for (_, default), field in zip(rows, fields, strict=True):
        if field.default is dataclasses.MISSING:
            assert default == "required"
        elif field.default == "":
            assert default == "none"
        else:
            assert default.strip("`") in (str(field.default), f"{field.default:g}" if field.default != "hash" else "")


def test_the_figures_on_the_page_are_the_codes() -> None:
    for figure in (
        f"at most {KEY_LIMIT_CHARS} characters",
        f"at most {KEYS_LIMIT:,} different ones",
        f"at most {KEYS_PER_QUESTION} keys",
        f"run in {SOURCE_THREADS} threads",
        f"after {FAILURES_TO_OPEN} failures in a row",
        f"up to {LONGEST_PAUSE_S:g} seconds",
    ):
        assert figure in re.sub(r"\s+", " ", PAGE), figure
