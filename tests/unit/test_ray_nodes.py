"""What Ray says of its nodes: the text that its dashboard shows is all that every autoscaler gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from policies.errors import Retry, Stalled
from serving_runtime.ray_cluster import RayCluster

GIB = 2**30
TOTAL = {"CPU": 16.0, "GPU": 2.0, "memory": 20.0 * GIB, "object_store_memory": 1e8, "node:10.0.0.1": 1.0, "my_res": 4.0}
SHOWN = """3.5/16.0 CPU (1.0 used of 2.0 reserved in placement groups)
0.5/2.0 GPU
2.50GiB/20.00GiB memory (0B used of 1.00GiB reserved in placement groups)
0B/95.37MiB object_store_memory
1.0/4.0 my_res
0.0/1.0 accelerator_type:H100"""


class Dashboard:
    """Answers with what a test gives it."""

    def __init__(self) -> None:
        self.nodes: Any = {"data": {"result": {"result": [self.node("a")]}}}
        self.summary: Any = {"data": {"nodeLogicalResources": {"a": SHOWN}}}

    @staticmethod
    def node(name: str, state: str = "ALIVE") -> dict[str, Any]:
        return {"node_id": name, "state": state, "resources_total": TOTAL}


@pytest.fixture
def dashboard() -> Iterator[tuple[Dashboard, RayCluster]]:
    answers = Dashboard()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.nodes if self.path.startswith("/api/v0/nodes") else answers.summary).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield answers, RayCluster(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_used_and_what_placement_groups_keep_is_not_free(dashboard: tuple[Dashboard, RayCluster]) -> None:
    (node,) = dashboard[1].capacity().nodes
    assert node.total == {"CPU": 16.0, "GPU": 2.0, "memory": 20.0 * GIB, "my_res": 4.0}
    assert node.free == {"CPU": 11.5, "GPU": 1.5, "memory": 16.5 * GIB, "my_res": 3.0}


def test_dead_nodes_have_nothing(dashboard: tuple[Dashboard, RayCluster]) -> None:
    answers, cluster = dashboard
    answers.nodes["data"]["result"]["result"].append(answers.node("b", "DEAD"))
    assert len(cluster.capacity().nodes) == 1


def test_a_node_that_is_not_counted_yet_is_not_free(dashboard: tuple[Dashboard, RayCluster]) -> None:
    answers, cluster = dashboard
    answers.nodes["data"]["result"]["result"].append(answers.node("b"))
    with pytest.raises(Retry, match="not counted yet"):
        cluster.capacity()


@pytest.mark.parametrize(
    ("nodes", "summary"),
    [
        ({}, {"data": {"nodeLogicalResources": {"a": SHOWN}}}),
        ({"data": {"result": {"result": [{"node_id": "a"}]}}}, {"data": {"nodeLogicalResources": {}}}),
        (None, {"data": {"nodeLogicalResources": {"a": "plenty"}}}),
        (None, {"data": None}),
        ([], []),
    ],
)
def test_nonsense_is_said_and_no_figure_is_made_up(
    dashboard: tuple[Dashboard, RayCluster], nodes: Any, summary: Any
) -> None:
    answers, cluster = dashboard
    answers.nodes = answers.nodes if nodes is None else nodes
    answers.summary = summary
    with pytest.raises(Stalled, match="not what Ray"):
        cluster.capacity()
