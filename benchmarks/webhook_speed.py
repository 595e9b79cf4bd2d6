"""How long it takes from a promotion in MLflow to its webhook, and from the webhook to the commit.

A real MLflow and a real Git server; Ray and Prometheus are in memory, so that nothing else is measured. The loop waits
for webhooks only: without one it would not look for an hour. Models are promoted by alias, one after the other.

    python benchmarks/webhook_speed.py [--promotions 20]

Prints medians and 95th percentiles and writes `benchmarks/results/webhook_speed.json`. Takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # the tests' own loop is used

from seconds import await_, summary  # noqa: E402

from pipelines.commands.webhooks import install  # noqa: E402
from pipelines.mlflow_server import MlflowServer  # noqa: E402
from pipelines.settings import settings  # noqa: E402
from policies.config_repo_documents import parse_repo  # noqa: E402
from tests.contracts.mlflow_server import WEBHOOKS, RealRegistry  # noqa: E402
from tests.contracts.repo_harness import RealStage, Server  # noqa: E402
from tests.contracts.webhook_loop import SECRETS, Loop, a_port, documents, running  # noqa: E402

RESULTS = HERE / "results" / "webhook_speed.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--promotions", type=int, default=20)
    count = parser.parse_args().promotions
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        figures = measure(Path(name), count)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def measure(folder: Path, count: int) -> dict[str, object]:
    names = [f"model-{n}" for n in range(count + 1)]
    for each in ("git", "config", "scratch"):
        (folder / each).mkdir()
    git, port = Server(folder / "git"), a_port()
    with MlflowServer(folder / "mlflow", settings=WEBHOOKS) as mlflow:
        git.start()
        try:
            registry = RealRegistry(mlflow, folder / "scratch")
            versions = {name: registry.register(name) for name in names}
            stage = RealStage(git, folder / "config")
            files = documents(mlflow.address, port, {name: name for name in names})
            stage.person_commits(files)
            with running(stage.door(), mlflow.address, port, folder / "artifacts") as loop:
                done = install(parse_repo({"sluice.yaml": files["sluice.yaml"]}).sluice, settings(SECRETS, repo="-"))
                print("\n".join(done.lines), flush=True)
                return promoted(registry, loop, versions)
        finally:
            git.stop()


def promoted(registry: RealRegistry, loop: Loop, versions: dict[str, int]) -> dict[str, object]:
    arrived, committed, total = [], [], []
    for n, (name, version) in enumerate(versions.items()):
        await_(loop.idle, "the loop waits")
        if n == 0:  # reads the artifact for the first time, and waits until MLflow knows its webhook
            time.sleep(2)
        woken, commits = len(loop.clock.woken_at), len(loop.repo.pushed_at)
        started = time.monotonic()
        registry.set_alias(name, "champion", version)
        await_(lambda before=commits: len(loop.repo.pushed_at) > before, f"{name} is committed")
        if n:
            arrived.append(loop.clock.woken_at[woken] - started)
            committed.append(loop.repo.pushed_at[commits] - loop.clock.woken_at[woken])
            total.append(loop.repo.pushed_at[commits] - started)
    return {
        "promotions": len(total),
        "promotion_to_webhook_s": summary(arrived),
        "webhook_to_commit_s": summary(committed),
        "promotion_to_commit_s": summary(total),
    }


if __name__ == "__main__":
    main()
