"""Requests per second at the host, against the same model on plain Ray Serve: what hosting costs in the steady state.

One Ray, one no-op pyfunc model, three applications in it with one replica each, loaded in turn by `wrk`, in the same
mode:

- host: this package's application (`serving_runtime.app:build`), without a challenger;
- plain: a minimal deployment that calls MLflow's scoring function in a thread, as MLflow's own server does;
- inline: the same on the event loop, which is as fast as it gets and stops the replica while a model thinks.

Rounds are interleaved, each begins with another application, and the ratio is the median over the rounds' own ratios: a
machine that is busy for a while slows all of them alike. The replicas' CPU time per request (Linux) says the same with
less noise where other processes share the cores.

    python benchmarks/host_throughput.py [--mode fast|default] [--rounds 9] [--seconds 3]

Prints the figures and writes `benchmarks/results/host_throughput.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "host_throughput.json"
CONNECTIONS = 16
READY_S = 120.0
BODY = '{"inputs": [1.0]}'
SLUG, BUILD = "noop", "00000001"
FAST = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
APPLICATIONS = {"host": f"{SLUG}--v1-{BUILD}", "plain": "plain", "inline": "inline"}
ROUTES = {"host": "/host/invocations", "plain": "/plain", "inline": "/inline"}

Figures = dict[str, list[tuple[float, float]]]

MODEL = """
import mlflow

class Noop(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [1.0]

mlflow.models.set_model(Noop())
"""
WRK_SCRIPT = f"""
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{BODY}'
"""


class Plain:
    """The least that serves an MLflow model on Ray Serve."""

    def __init__(self, folder: str, *, in_thread: bool) -> None:
        import mlflow

        self._model = mlflow.pyfunc.load_model(folder)
        self._schema = self._model.metadata.get_input_schema()
        self._in_thread = in_thread

    async def __call__(self, request: Any) -> Any:
        from mlflow.pyfunc.scoring_server import invocations
        from starlette.responses import Response

        arguments = (await request.body(), request.headers["content-type"], self._model, self._schema)
        result = await asyncio.to_thread(invocations, *arguments) if self._in_thread else invocations(*arguments)
        return Response(result.response, result.status, media_type=result.mimetype)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", choices=("fast", "default"), default="fast")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    wrk = shutil.which("wrk")
    if wrk is None:
        sys.exit("this benchmark loads with wrk: apt-get install wrk")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        port = start(Path(folder), fast=options.mode == "fast")
        try:
            figures = measure(wrk, Path(folder), port, options.rounds, options.seconds)
        finally:
            stop()
    report(figures, options)


def start(folder: Path, *, fast: bool) -> int:
    """Ray, the model and the three applications; returns the port of the proxy."""
    os.environ.update(
        {"SLUICE_CACHE": str(folder / "cache"), "PYTHONPATH": str(HERE.parent), "RAY_AUTH_MODE": "disabled"}
    )
    if fast:
        os.environ.update(FAST)
        os.environ["RAY_SERVE_HAPROXY_METRICS_PORT"] = str(free_port())
        os.environ["RAY_SERVE_HAPROXY_STATS_PORT"] = str(free_port())
    sys.path.insert(0, str(HERE.parent))
    import ray
    from ray import serve

    port = free_port()
    ray.init(
        num_cpus=4, include_dashboard=False, _temp_dir=str(folder / "ray"), logging_level="error", log_to_driver=False
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments, artifact = register(folder)
    deploy(arguments, artifact)
    for path in ROUTES.values():
        wait_for(f"http://127.0.0.1:{port}{path}")
    return port


def register(folder: Path) -> tuple[dict[str, Any], str]:
    """Log and register the model; returns the application's args and the artifact's folder."""
    import mlflow

    from serving_runtime.artifact_cache import digest_of, registry_download

    uri = f"sqlite:///{folder}/mlflow.db"
    (folder / "noop.py").write_text(MODEL)
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("noop", artifact_location=(folder / "artifacts").as_uri())
    with mlflow.start_run(experiment_id=experiment):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(folder / "noop.py"),
            registered_model_name=SLUG,
            pip_requirements=["mlflow"],
        )
    (folder / "download").mkdir()
    artifact = registry_download(SLUG, 1, uri)(folder / "download")
    digest = digest_of(artifact)
    arguments = {"model": SLUG, "slug": SLUG, "version": 1, "digest": digest, "build": BUILD, "tracking_uri": uri}
    return arguments, str(artifact)


def deploy(arguments: dict[str, Any], artifact: str) -> None:
    """The three applications, with the same limits."""
    from ray import serve

    from serving_runtime.app import Model

    limits: dict[str, Any] = {
        "autoscaling_config": {"min_replicas": 1, "max_replicas": 1},
        "max_ongoing_requests": 32,
        "ray_actor_options": {"num_cpus": 1},
    }
    config = {"revision": 1, "model": SLUG, "version": 1, "build": BUILD, "request_timeout_s": 30.0}
    ours = serve.deployment(name="Model", user_config=config, **limits)(Model).bind(arguments)
    serve.run(ours, name=APPLICATIONS["host"], route_prefix="/host")
    for name in ("plain", "inline"):
        theirs = serve.deployment(name="Plain", **limits)(Plain).bind(artifact, in_thread=name == "plain")
        serve.run(theirs, name=name, route_prefix=f"/{name}")


def measure(wrk: str, folder: Path, port: int, rounds: int, seconds: int) -> Figures:
    """Requests/s and CPU-ms per request of each application in each round; the first one warms up and is left out."""
    script = folder / "post.lua"
    script.write_text(WRK_SCRIPT)
    figures: Figures = {name: [] for name in ROUTES}
    for number in range(rounds + 1):
        names = list(ROUTES)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            path = ROUTES[name]
            before = cpu_s(APPLICATIONS[name])
            rate = load(wrk, script, f"http://127.0.0.1:{port}{path}", 2 if number == 0 else seconds)
            if number:
                cpu_ms = (cpu_s(APPLICATIONS[name]) - before) * 1000 / (rate * seconds)
                figures[name].append((rate, cpu_ms))
                print(f"round {number} {name:7} {rate:8.0f} requests/s {cpu_ms:6.3f} CPU-ms")
    return figures


def load(wrk: str, script: Path, url: str, seconds: int) -> float:
    """Requests/s by one run of wrk. Exits when an answer was not 2xx."""
    command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), url]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + 60).stdout
    if "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"{url} failed under load:\n{out}")
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if found is None:
        sys.exit(f"wrk said nothing about requests per second:\n{out}")
    return float(found[1])


def cpu_s(application: str) -> float:
    """CPU seconds that the replica of an application has used; 0 where there is no /proc."""
    title = f"ray::ServeReplica:{application}:".encode()
    ticks = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(title):
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])
        except OSError:
            continue  # a process that ended meanwhile is none of ours
    return ticks / os.sysconf("SC_CLK_TCK")


def report(figures: Figures, options: argparse.Namespace) -> None:
    """Print the medians and the ratios, and write them down."""
    medians = {name: statistics.median(rate for rate, _ in rounds) for name, rounds in figures.items()}
    cpu_ms = {name: round(statistics.median(ms for _, ms in rounds), 3) for name, rounds in figures.items()}
    result = {
        "mode": options.mode,
        "connections": CONNECTIONS,
        "rounds": options.rounds,
        "seconds_per_round": options.seconds,
        "cpus": os.cpu_count(),
        "requests_per_s": {name: [rate for rate, _ in rounds] for name, rounds in figures.items()},
        "median_cpu_ms_per_request": cpu_ms,
        "median_requests_per_s": medians,
        "host_to_plain": ratio(figures, "plain"),
        "host_to_inline": ratio(figures, "inline"),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"host {medians['host']:.0f}, plain {medians['plain']:.0f}, inline {medians['inline']:.0f} requests/s")
    print(f"CPU-ms per request: {cpu_ms}")
    print(f"host / plain {result['host_to_plain']}, host / inline {result['host_to_inline']}")


def ratio(figures: Figures, other: str) -> float:
    """The median over the rounds of the host's requests/s divided by the other's."""
    return round(statistics.median(a / b for (a, _), (b, _) in zip(figures["host"], figures[other], strict=True)), 3)


def wait_for(url: str) -> None:
    """Until it answers 200. Exits after a while."""
    import requests

    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            headers = {"content-type": "application/json"}
            if requests.post(url, data=BODY, headers=headers, timeout=10).status_code == 200:
                return
        except requests.RequestException as error:
            print(f"{url}: {error}")
        threading.Event().wait(0.5)
    sys.exit(f"{url} did not answer within {READY_S:g} s")


def stop() -> None:
    """Serve, then Ray."""
    import ray
    from ray import serve

    serve.shutdown()
    ray.shutdown()


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
