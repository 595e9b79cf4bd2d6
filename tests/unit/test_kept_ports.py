"""The same folder again is at the same addresses, where nobody else took them."""

from __future__ import annotations

import json
import socket

import pytest

from pipelines.kept_ports import KeptPorts
from pipelines.processes import LOOPBACK, free_port, port_is_free
from pipelines.ray_session import _chosen


def test_a_port_is_kept_until_somebody_else_has_it(tmp_path):
    first = KeptPorts(tmp_path / "ports.json")
    port = first.of("git")
    first.keep({"git": port, "dashboard": free_port({port})})
    assert KeptPorts(tmp_path / "ports.json").of("git") == port
    with socket.create_server((LOOPBACK, port)):
        other = KeptPorts(tmp_path / "ports.json").of("git")
    assert other not in first.of_before.values()
    assert other != port
    assert port_is_free(other)


def test_a_name_that_was_not_started_this_time_keeps_its_port(tmp_path):
    KeptPorts(tmp_path / "ports.json").keep({"git": 30001, "dashboard": 30002})
    KeptPorts(tmp_path / "ports.json").keep({"git": 30003})
    assert KeptPorts(tmp_path / "ports.json").of_before == {"git": 30003, "dashboard": 30002}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"git": "x"}', '{"git": 0}', '{"git": true}', '{"git": 70000}'])
def test_a_file_that_says_nothing_costs_another_port(tmp_path, text):
    (tmp_path / "ports.json").write_text(text)
    kept = KeptPorts(tmp_path / "ports.json")
    assert kept.of_before == {}
    assert port_is_free(kept.of("git"))


def test_no_port_is_given_twice(tmp_path):
    (tmp_path / "ports.json").write_text(json.dumps({"git": 30001, "mlflow": 30001}))
    assert len(KeptPorts(tmp_path / "ports.json").of_before) == 1


def test_ray_has_the_ports_of_before_where_they_are_free():
    dashboard, http = free_port(), free_port()
    assert dashboard != http
    with socket.create_server((LOOPBACK, http)):
        ports = _chosen({"dashboard": dashboard, "http": http})
    assert ports["dashboard"] == dashboard
    assert ports["http"] != http
    assert len(set(ports.values())) == len(ports)
