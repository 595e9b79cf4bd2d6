"""Captured files as others read them: the code of docs/capture.md, on a folder and on S3."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from policies.serving import Capture
from serving_runtime.capture import Recorder
from serving_runtime.capture_batches import Origin
from serving_runtime.captured_rows import Captured, Layout, Role
from serving_runtime.object_store import open_store
from serving_runtime.outcomes import CaptureOutcome
from tests.contracts.store_harness import SERVERS, Place, bucket, moto, place, radosgw

if TYPE_CHECKING:
    from pipelines.ray_session import RaySession

__all__ = ["bucket", "moto", "place", "radosgw"]

PAGE = (Path(__file__).parents[2] / "docs" / "capture.md").read_text(encoding="utf-8")
PANDAS, ARROW, SEVERAL, RAY, EXPECTATIONS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RAY_S = 120.0  # its workers start within seconds on idle cores
T0 = 1_795_921_445.0  # 2026-11-29 03:04:05 UTC
NUMBER = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]
OLD = [{"type": "double", "name": "amount", "required": True}, {"type": "string", "name": "country", "required": True}]
NEW = [*OLD, {"type": "long", "name": "age", "required": False}]
LATER = [*OLD, {"type": "double", "name": "age", "required": False}]
OTHER = [{"type": "long", "name": "days", "required": False}]
"""Of another model, whose folder is the first of all."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
    """Requests of two rows each, ten minutes apart, to one build."""

    requests: int
    inputs: Any
    version: int
    slug: str = "fraud"
    build: str = "0a1b2c3d"
    features: Mapping[str, Any] | None = None
    """Their values are these defaults."""
    exclude: tuple[str, ...] = ()


def capture(place: Place, folder: Path, traffic: Traffic) -> None:
    """A few files."""
    layout = Layout(traffic.build, traffic.inputs, NUMBER, traffic.features)
    origin = Origin(traffic.slug, traffic.version, traffic.build, f"r-{traffic.build}")
    recorder = Recorder(origin, layout, folder, open_store=lambda _: place.store, threads=False)
    terms = Capture(
        share=1.0, to="file:///unused", exclude=traffic.exclude, rows_per_file=8, every=timedelta(minutes=5)
    )
    recorder.configure(terms)
    for number in range(traffic.requests):
        rows = [
            {"amount": number + 0.5, "country": "DE", "age": 40, "days": 7},
            {"amount": number + 1.5, "country": None, "age": 41, "days": 8},
        ]
        answer = b'{"predictions": [0.5, 0.25]}' if number else b'{"error_code": "BAD_REQUEST"}'
        recorder.offer(
            Captured(
                f"id-{number}",
                T0 + 600.0 * number,
                json.dumps({"dataframe_records": rows}).encode(),
                "application/json",
                200 if number else 400,
                answer,
                95.0 + number,
                Role.COPY if number == 1 else Role.USER,
                [dict(traffic.features or {})] * 2,
            )
        )
    recorder.step()
    recorder.configure(None)
    recorder.step()
    expected = {CaptureOutcome.TAKEN: traffic.requests, CaptureOutcome.WRITTEN: traffic.requests}
    assert recorder.take_counts() == expected


SPENT = 77123.5
"""A feature that the policy of the last build excludes."""
OLD_TRAFFIC = Traffic(requests=12, version=3, inputs=OLD)
TRAFFIC = (
    Traffic(requests=2, version=1, inputs=OTHER, slug="churn"),
    OLD_TRAFFIC,
    Traffic(requests=3, version=4, inputs=NEW, exclude=("country",)),
    Traffic(
        requests=2,
        version=4,
        inputs=NEW,
        build="f0f0f0f0",
        features={"tier": "gold", "spend": SPENT},
        exclude=("country", "spend"),
    ),
    Traffic(requests=1, version=5, inputs=LATER, features={"visits": 3.0}),
)


@pytest.fixture
def captured(place: Place, tmp_path: Path) -> str:
    """Two models; of one three versions with different signatures, one of them under two policies; the address."""
    for each in TRAFFIC:
        capture(place, tmp_path, each)
    return place.address


def run(code: str, **names: Any) -> dict[str, Any]:
    """What a block of the page leaves behind."""
    exec(compile(code, "docs/capture.md", "exec"), names)  # noqa: S102 the page is ours
    return names


def read_by_pandas(captured: str) -> dict[str, Any]:
    return run(PANDAS, captured=captured.removeprefix("file://"))


def test_pandas_reads_one_version_with_its_hours(captured: str) -> None:
    found = read_by_pandas(captured)
    frame, users = found["frame"], found["users"]
    assert len(frame) == 24
    assert len(users) == 22
    assert frame["input.amount"].dtype == "float64"
    assert str(frame["at"].dtype) == "datetime64[us, UTC]"
    assert set(frame["hour"]) == {"2026-11-29T03", "2026-11-29T04"}
    assert not {"input.age", "input.days", "feature.tier"} & set(frame.columns)
    assert sorted(set(frame["request_id"])) == sorted(f"id-{number}" for number in range(12))


def test_pyarrow_reads_and_filters_by_what_is_in_the_path_and_in_the_rows(captured: str) -> None:
    good = run(ARROW, captured=captured)["good"]
    assert good.num_rows == 22
    assert {"input.amount", "input.country", "hour"} <= set(good.column_names)
    assert set(good["prediction"].to_pylist()) == {0.5, 0.25}


def test_several_versions_have_the_columns_of_all_of_them_and_none_of_another_model(captured: str) -> None:
    found = run(SEVERAL, captured=captured)
    names, compared = set(found["both"].schema.names), found["compared"]
    assert {"input.amount", "input.country", "input.age", "feature.tier", "feature.spend", "feature.visits"} <= names
    assert "input.days" not in names
    assert len(compared) == 24 + 6 + 4
    assert compared.groupby("version")["input.age"].count().to_dict() == {3: 0, 4: 10}
    assert set(compared["feature.tier"].dropna()) == {"gold"}
    assert found["both"].to_table()["input.age"].to_pylist().count(40.0) == 3 + 2 + 1, "a long and a double are numbers"


def test_a_reader_of_more_than_one_version_loses_columns_where_it_is_not_told(captured: str) -> None:
    """Why the page says so: pyarrow takes the columns of the first file."""
    import pyarrow.dataset as ds

    naive = ds.dataset(captured, partitioning="hive").to_table()
    assert naive.num_rows == 2 * sum(each.requests for each in TRAFFIC)
    assert "input.amount" not in naive.column_names


def test_what_is_hidden_is_null_in_every_reader(captured: str) -> None:
    import pyarrow.dataset as ds

    both = run(SEVERAL, captured=captured)["both"]
    fourth = both.to_table(filter=ds.field("version") == 4)
    assert fourth.num_rows == 10
    assert fourth["input.country"].null_count == 10
    assert fourth["feature.spend"].null_count == 10
    assert str(SPENT) not in str(both.to_table().to_pylist())


if "radosgw" in SERVERS:  # make test-s3: Ray Data takes 20 s to start here

    @pytest.mark.real
    def test_ray_data_reads_it(ray_session: RaySession, tmp_path: Path) -> None:
        folder = f"{tmp_path}/captured"
        for each in TRAFFIC:
            capture(Place(open_store(f"file://{folder}"), folder), tmp_path, each)
        (several,) = re.findall(r"`(read_parquet\(.*schema=both.schema\))`", PAGE)
        code = (
            f"captured = {folder!r}\n{SEVERAL}\n{RAY}\nprint('found', slow)\n"
            f"ages = [row['input.age'] for row in ray.data.{several}.take_all()]\n"
            "print('ages', len(ages), sum(age is not None for age in ages))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **ray_session.environment},
            capture_output=True,
            text=True,
            timeout=RAY_S,
            check=False,
        )
        assert "found 12" in done.stdout.splitlines(), done.stderr[-2000:]
        assert "ages 36 12" in done.stdout.splitlines(), done.stdout


@pytest.mark.real
def test_great_expectations_validates_it(tmp_path: Path) -> None:
    folder = f"{tmp_path}/captured"
    capture(Place(open_store(f"file://{folder}"), folder), tmp_path, OLD_TRAFFIC)
    found = run(EXPECTATIONS, frame=read_by_pandas(folder)["frame"])
    assert found["checked"].success
    assert found["checked"].result["element_count"] == 24
