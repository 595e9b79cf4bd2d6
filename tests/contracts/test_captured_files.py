"""Captured files as others read them: the code of docs/capture.md, on a folder and on S3."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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
PANDAS, ARROW, RAY, EXPECTATIONS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
RAY_S = 120.0  # its workers start within seconds on idle cores
T0 = 1_795_921_445.0  # 2026-11-29 03:04:05 UTC
NUMBER = [{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]
OLD = [{"type": "double", "name": "amount", "required": True}, {"type": "string", "name": "country", "required": True}]
NEW = [*OLD, {"type": "long", "name": "age", "required": False}]


def capture(
    place: Place, folder: Path, version: int, inputs: Any, requests: int, exclude: tuple[str, ...] = ()
) -> None:
    """Requests of two rows each, ten minutes apart, a few files."""
    layout = Layout("0a1b2c3d", inputs, NUMBER)
    origin = Origin("fraud", version, "0a1b2c3d", "r1")
    recorder = Recorder(origin, layout, folder, open_store=lambda _: place.store, threads=False)
    terms = Capture(share=1.0, to="file:///unused", exclude=exclude, rows_per_file=8, every=timedelta(minutes=5))
    recorder.configure(terms)
    for number in range(requests):
        rows = [{"amount": number + 0.5, "country": "DE"}, {"amount": number + 1.5, "country": None}]
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
            )
        )
    recorder.step()
    recorder.configure(None)
    recorder.step()
    assert recorder.take_counts() == {CaptureOutcome.TAKEN: requests, CaptureOutcome.WRITTEN: requests}


@pytest.fixture
def captured(place: Place, tmp_path: Path) -> str:
    """Two versions with different signatures, one of them under two policies; the address."""
    capture(place, tmp_path, 3, OLD, 12)
    capture(place, tmp_path, 4, NEW, 3, exclude=("country",))
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
    assert set(frame["version"].astype(int)) == {3}
    assert "input.age" not in frame.columns
    assert sorted(set(frame["request_id"])) == sorted(f"id-{number}" for number in range(12))


def test_pyarrow_reads_and_filters_by_what_is_in_the_path_and_in_the_rows(captured: str) -> None:
    good = run(ARROW, captured=captured)["good"]
    assert good.num_rows == 22
    assert set(good["version"].to_pylist()) == {3}
    assert set(good["prediction"].to_pylist()) == {0.5, 0.25}


def test_what_is_hidden_is_null_in_every_reader(captured: str) -> None:
    import pyarrow.dataset as ds

    fourth = ds.dataset(captured, partitioning="hive").to_table(filter=ds.field("version") == 4)
    assert fourth.num_rows == 6
    assert fourth["input.country"].null_count == 6


if "radosgw" in SERVERS:  # make test-s3: Ray Data takes 20 s to start here

    @pytest.mark.real
    def test_ray_data_reads_it(ray_session: RaySession, tmp_path: Path) -> None:
        folder = f"{tmp_path}/captured"
        capture(Place(open_store(f"file://{folder}"), folder), tmp_path, 3, OLD, 12)
        done = subprocess.run(
            [sys.executable, "-c", f"captured = {folder!r}\n{RAY}\nprint('found', slow)"],
            env={**os.environ, **ray_session.environment},
            capture_output=True,
            text=True,
            timeout=RAY_S,
            check=False,
        )
        assert "found 12" in done.stdout.splitlines(), done.stderr[-2000:]


@pytest.mark.real
def test_great_expectations_validates_it(tmp_path: Path) -> None:
    folder = f"{tmp_path}/captured"
    capture(Place(open_store(f"file://{folder}"), folder), tmp_path, 3, OLD, 12)
    found = run(EXPECTATIONS, frame=read_by_pandas(folder)["frame"])
    assert found["checked"].success
    assert found["checked"].result["element_count"] == 24
