"""Whether an address means this machine only. Pure: nothing is resolved, so a name other than localhost does not."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str | None) -> bool:
    """Does who listens there hear nobody but this machine? None, as in Ray's settings, means every address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def leads_to_loopback(url: str) -> bool:
    """Does that http address lead to this machine?"""
    return is_loopback(urlsplit(url).hostname)
