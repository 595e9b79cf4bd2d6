"""How long it takes from the merge of a rollout's pull request to its first live weight, on the local stack.

Twenty versions of a no-op model are moved to Production one after another in an environment with `review: required`,
under a steady load. The forge is the tests' own, which keeps the stack's Git repo behind real `git http-backend` and
answers as Gitea does; a script approves and merges. Measured, for every rollout:

- question: from the call that moves the version in MLflow until its pull request is open;
- start: from the merge until the commit that starts the rollout is at the tip. Half a look interval (1 s here) and the
  fetch are part of it;
- live: from the merge until every replica of the host was seen to give the candidate its first share. A replica of the
  candidate starts meanwhile: Ray's own start of a process, MLflow's load of the model, its warm-up.

    python benchmarks/merge_speed.py [--rollouts 20]

Prints medians and 95th percentiles and writes `benchmarks/results/merge_speed.json`. Takes about eight minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from carry_speed import DOCUMENTS, MODEL, RATE, log_versions, promote, running  # noqa: E402
from seconds import await_, summary  # noqa: E402

from pipelines.demo.load import Load  # noqa: E402
from pipelines.demo.stack import DemoStack  # noqa: E402
from pipelines.local_stack import LocalStack  # noqa: E402
from policies.release import Phase  # noqa: E402
from policies.rollout_record import HistoryRecord  # noqa: E402
from tests.e2e.world import ask_people  # noqa: E402
from tests.fakes.forge.gitea_api import GiteaApi  # noqa: E402
from tests.fakes.forge.hub import Person  # noqa: E402
from tests.fakes.forge.server import ForgeServer  # noqa: E402

RESULTS = HERE / "results" / "merge_speed.json"
TOKEN = "a-token-of-the-benchmark"
REVIEWER = Person("grace")
NO_SHADOW = DOCUMENTS["policies/rollout-quick.yaml"].replace("{min_duration: 1s, max_duration: 60s}", "null", 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=20)
    rollouts = parser.parse_args().rollouts
    warnings.filterwarnings("ignore")
    os.environ["SLUICE_FORGE_TOKEN"] = TOKEN
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        documents = DOCUMENTS | {"policies/rollout-quick.yaml": NO_SHADOW}
        local = LocalStack(Path(folder), documents=documents, say=lambda line: print(line, flush=True), reconcile=False)
        server = ForgeServer(local.folder / "git", GiteaApi)
        server.hub.people = {TOKEN: Person("sluice")}
        with server, local:
            figures = measure(local, server, rollouts)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def measure(local: LocalStack, server: ForgeServer, rollouts: int) -> dict[str, object]:
    log_versions(local.tracking_uri, Path(local.folder), rollouts + 1)
    stack = DemoStack(local)
    local.start_reconciler()
    promote(local.tracking_uri, 1)
    await_(lambda: running(stack, 1), "v1 started")
    times: dict[str, list[float]] = {"question": [], "start": [], "live": []}
    with Load(f"{stack.route_url(MODEL)}/invocations", [json.dumps({"inputs": [[1.0]]})], rate=RATE) as load:
        await_(lambda: len(stack.history(MODEL)) == 1, "v1 ended")
        ask_people(local, server.url)
        for version in range(2, rollouts + 2):
            one_rollout(local, server, stack, version, times)
        counters = load.stop()
    return {
        "rollouts": rollouts,
        "transition_to_pull_request_s": summary(times["question"]),
        "merge_to_starting_commit_s": summary(times["start"]),
        "merge_to_live_weight_s": summary(times["live"]),
        "requests": counters.sent,
        "failed": counters.failed,
    }


def one_rollout(
    local: LocalStack, server: ForgeServer, stack: DemoStack, version: int, times: dict[str, list[float]]
) -> None:
    hub = server.hub
    promoted = promote(local.tracking_uri, version)
    await_(lambda: len(hub.pulls) == version - 1, f"the pull request of v{version}")
    times["question"].append(time.monotonic() - promoted)
    pull = hub.pulls[-1]
    hub.review(pull.number, REVIEWER)
    merged, merged_at = time.monotonic(), datetime.now(UTC)
    hub.merge(pull, REVIEWER, None, "merge")
    await_(lambda: running(stack, version), f"v{version} started")
    times["start"].append(time.monotonic() - merged)
    await_(lambda: len(stack.history(MODEL)) == version, f"v{version} ended")
    times["live"].append((first_live(stack.history(MODEL)[-1]) - merged_at).total_seconds())
    print(f"v{version}: {stack.history(MODEL)[-1].outcome}, live after {times['live'][-1]:.1f} s", flush=True)


def first_live(record: HistoryRecord) -> datetime:
    """When every replica of the host was seen to give the candidate its first share."""
    seen = [phase.live_since for phase in record.phases if phase.phase is Phase.CANARY and phase.live_since]
    if not seen:
        raise SystemExit(f"{record.rollout} had no live share: {record.outcome}")
    return seen[0]


if __name__ == "__main__":
    main()
