"""Parquet bodies: how much a file says that it becomes, before anybody unpacks it.

A body is bounded on the wire, and a Parquet file of a megabyte can be billions of rows: a column of one value repeated
takes some bytes, whatever its length. What a file becomes stands in its footer, which is read here and nothing else.

A footer may lie, and a page may hold one long text repeated: against these stands `memory_limit_mib`.
"""

from __future__ import annotations

import io
from typing import Final

CONTENT_TYPE: Final = "application/vnd.apache.parquet"
BYTES_PER_CELL: Final = 2
"""A JSON body at its limit can hold a digit and a comma for each value: no more values than that."""
UNPACKED_TIMES: Final = 16
"""Parquet of ordinary tables unpacks to some two to ten times its size."""


def too_much(body: bytes, limit_bytes: int) -> str:
    """What such a file says that is too much where a body may have `limit_bytes`; empty where nothing is.

    Empty too for what is no Parquet file: whoever reads the rows says that.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        about = ParquetFile(io.BytesIO(body)).metadata
    except (pa.ArrowException, OSError, ValueError):
        return ""
    rows, columns, most = about.num_rows, about.num_columns, limit_bytes // BYTES_PER_CELL
    if rows * columns > most:
        return f"The Parquet file has {rows} rows of {columns} columns, and {most} values is the most."
    unpacked = sum(about.row_group(number).total_byte_size for number in range(about.num_row_groups))
    most = UNPACKED_TIMES * limit_bytes
    if unpacked > most:
        return f"The Parquet file unpacks to {unpacked} bytes, and {most} is the most."
    return ""
