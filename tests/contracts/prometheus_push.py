"""Writes samples with chosen times into a Prometheus, by its remote-write endpoint: a past in milliseconds, no waiting.

The body is a protobuf `WriteRequest` in snappy's block format; both are small enough to write by hand, and snappy may
hold plain literals. (https://prometheus.io/docs/concepts/remote_write_spec/)
"""

from __future__ import annotations

import dataclasses
import struct
import urllib.request
from collections.abc import Iterable, Mapping

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""Prometheus's staleness marker, a NaN of its own: "this series ended"."""

_LITERAL = 60
"""Longest snappy literal whose length fits into its tag."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sample of one series."""

    labels: Mapping[str, str]
    at_ms: int
    value: float


def push(url: str, samples: Iterable[Sample]) -> None:
    """Write them. Each series' samples must come in order of time. Raises HTTPError where Prometheus refuses."""
    body = b"".join(_field(1, _series(sample)) for sample in samples)
    request = urllib.request.Request(  # noqa: S310 the address of a server that the test started
        f"{url}/api/v1/write",
        data=_snappy(body),
        headers={
            "Content-Type": "application/x-protobuf",
            "Content-Encoding": "snappy",
            "X-Prometheus-Remote-Write-Version": "0.1.0",
        },
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        assert answer.status in (200, 204)


def _series(sample: Sample) -> bytes:
    labels = b"".join(
        _field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in sorted(sample.labels.items())
    )
    double = _varint(1 << 3 | 1) + struct.pack("<d", sample.value)
    return labels + _field(2, double + _varint(2 << 3) + _varint(sample.at_ms))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _snappy(body: bytes) -> bytes:
    pieces = (body[at : at + _LITERAL] for at in range(0, len(body), _LITERAL))
    return _varint(len(body)) + b"".join(bytes([len(p) - 1 << 2]) + p for p in pieces)
