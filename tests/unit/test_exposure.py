"""Who asks from this machine, by what gRPC says of them."""

from __future__ import annotations

import pytest

from serving_runtime.exposure import is_from_here


@pytest.mark.parametrize(
    ("peer", "here"),
    [
        ("ipv4:127.0.0.1:4711", True),
        ("ipv4:127.8.8.8:4711", True),
        ("ipv6:[::1]:4711", True),
        ("ipv6:%5B::1%5D:4711", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:4711", True),
        ("unix:/tmp/socket", True),
        ("ipv4:203.0.113.9:4711", False),
        ("ipv4:0.0.0.0:4711", False),
        ("ipv6:%5B2001:db8::1%5D:4711", False),
        ("ipv6:%5B::ffff:203.0.113.9%5D:4711", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:4711", False),
        ("ipv4:localhost:4711", False),
        ("", False),
    ],
)
def test_only_loopback_is_here(peer: str, here: bool) -> None:
    assert is_from_here(peer) is here
