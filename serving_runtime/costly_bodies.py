"""Bodies that are small on the wire and become too much: found before anybody unpacks them.

- A Parquet file of a megabyte can be billions of rows: a column of one value repeated takes some bytes, whatever its
  length. What a file becomes stands in its footer, which is read here and nothing else. A footer may lie, and a page
  may hold one long text repeated: against these stands `memory_limit_mib`.
- pandas gives columns of one name names of their own, in a time that grows with the square of their number: 30,000
  take 15 s, and a CSV body has room for four million.
"""

from __future__ import annotations

import collections
import csv
import io
from typing import Final

BYTES_PER_VALUE: Final = 2
"""A JSON body at its limit can hold a digit and a comma for each value: no more values than that."""
UNPACKED_TIMES: Final = 16
"""Parquet of ordinary tables unpacks to some two to ten times its size."""
SAME_NAMES: Final = 1000
"""Columns of one name: no table has so many, and they take pandas some milliseconds."""


def too_much(body: bytes, content_type: str, limit_bytes: int) -> str:
    """What is too much about a body, where one may have `limit_bytes`; empty where nothing is.

    Empty too for what cannot be read: whoever reads its rows says that.
    """
    match content_type.partition(";")[0].strip():
        case "text/csv":
            return _csv(body)
        case "application/vnd.apache.parquet":
            return _parquet(body, limit_bytes)
        case _:
            return ""


def _csv(body: bytes) -> str:
    if body.count(b",") < SAME_NAMES:
        return ""
    try:
        records = csv.reader(io.StringIO(body.decode()))
        # As pandas: the first line that is not blank has the names.
        names = next((record for record in records if "".join(record).strip()), [])
    except (ValueError, csv.Error):
        return ""
    name, times = collections.Counter(names).most_common(1)[0] if names else ("", 0)
    return f"The CSV has {times} columns of the name {name[:100]!r}." if times > SAME_NAMES else ""


def _parquet(body: bytes, limit_bytes: int) -> str:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        about = ParquetFile(io.BytesIO(body)).metadata
    except (pa.ArrowException, OSError, ValueError):
        return ""
    rows, columns, most = about.num_rows, about.num_columns, limit_bytes // BYTES_PER_VALUE
    if rows * columns > most:
        return f"The Parquet file has {rows} rows of {columns} columns, and {most} values is the most."
    unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    most = UNPACKED_TIMES * limit_bytes
    if unpacked > most:
        return f"The Parquet file unpacks to {unpacked} bytes, and {most} is the most."
    return ""
