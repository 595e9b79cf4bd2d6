"""Bodies that become too much: refused before they are unpacked, by what they say themselves."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving_runtime.captured_bodies import read_request
from serving_runtime.costly_bodies import SAME_NAMES, too_much
from serving_runtime.protocol import BODY_LIMIT_BYTES, Call, mark_faults, parse, score
from tests.fakes.bare_model import BareModel

LIMIT = 1000
PARQUET, CSV = "application/vnd.apache.parquet", "text/csv"


def parquet(table: pa.Table, **options: object) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def repeated(rows: int) -> bytes:
    return parquet(pa.table({"x": pa.repeat(pa.scalar(1.0), rows)}))


def test_a_file_of_as_many_values_as_json_could_hold_is_taken() -> None:
    assert too_much(repeated(LIMIT // 2), PARQUET, LIMIT) == ""


def test_one_value_more_is_too_much_however_small_the_file_is() -> None:
    assert (
        too_much(repeated(501), PARQUET, LIMIT)
        == "The Parquet file has 501 rows of 1 columns, and 500 values is the most."
    )


def test_a_file_that_unpacks_to_much_is_refused() -> None:
    texts = pa.table({"x": ["a" * 10_000 + str(n) for n in range(4)]})
    packed = parquet(texts, compression="zstd", use_dictionary=False)
    assert "unpacks to" in too_much(packed, PARQUET, LIMIT)
    assert too_much(packed, PARQUET, len(packed) * 100) == ""


@pytest.mark.parametrize("body", [b"", b"PAR1", b"no parquet at all", repeated(10)[:-20]])
def test_what_is_no_parquet_file_is_left_to_whoever_reads_its_rows(body: bytes) -> None:
    assert too_much(body, PARQUET, LIMIT) == ""


SAME = b"x," * SAME_NAMES + b"x"


@pytest.mark.parametrize(
    "body",
    [SAME + b"\n1", b"\n  \n" + SAME, b'"y\n",' + SAME, SAME.replace(b"x,", b'"x",'), b"y," + SAME],
    ids=["plain", "after blank lines", "after a line feed in a name", "quoted", "not the first"],
)
def test_a_csv_with_very_many_columns_of_one_name_is_too_much(body: bytes) -> None:
    assert too_much(body, "text/csv; charset=utf-8", LIMIT) == "The CSV has 1001 columns of the name 'x'."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n" * 2000,
        b"," * SAME_NAMES,
        SAME[2:] + b"\n" + SAME,
        ",".join(f"x{n}" for n in range(2000)).encode(),
        b"\xff" + SAME,
        b'"' + SAME * 200,
    ],
    ids=["empty", "blank", "no names", "many, and many values", "many of other names", "no UTF-8", "a quote left open"],
)
def test_every_other_csv_is_left_to_whoever_reads_its_rows(body: bytes) -> None:
    assert too_much(body, CSV, LIMIT) == ""


def test_a_bomb_is_413_and_the_model_never_sees_it() -> None:
    def predict(_data: object) -> object:
        raise AssertionError("it was asked")

    model = BareModel(predict)
    mark_faults(model)
    bomb = repeated(BODY_LIMIT_BYTES)
    assert len(bomb) < BODY_LIMIT_BYTES / 100
    call = Call(bomb, f"{PARQUET}; charset=binary", "r-1")
    for answer in (score(model, None, call).answer, parse(model, None, call)):
        assert answer.status == 413
        assert b"REQUEST_LIMIT_EXCEEDED" in answer.body


def test_a_bomb_is_not_unpacked_to_be_captured() -> None:
    assert read_request(repeated(BODY_LIMIT_BYTES), PARQUET) is None
    assert read_request(repeated(3), PARQUET) is not None


def test_an_ordinary_file_reaches_the_model() -> None:
    model = BareModel(lambda data: (data["x"] * 2).to_numpy())
    mark_faults(model)
    body = parquet(pa.table({"x": np.arange(3.0)}))
    assert score(model, None, Call(body, PARQUET, "r-1")).answer.body == b'{"predictions": [0.0, 2.0, 4.0]}'
