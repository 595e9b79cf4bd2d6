"""How long it takes from a person's transition to a commit, and from a commit to live weight, on the local stack.

Ten versions of a no-op model are moved to Production one after another, under a steady load, with a policy whose steps
take a second or two. Measured, for every rollout:

- transition to commit: from the call that moves the version in MLflow until the commit that starts its rollout is at
  the tip. The look interval (1 s here) and the first reading of the artifact are part of it;
- commit to live: from each commit that changes a weight until every replica was seen to have it.

    python benchmarks/carry_speed.py [--rollouts 10]

Prints medians and writes `benchmarks/results/carry_speed.json`. Takes about six minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

from seconds import await_, summary

from pipelines.demo.load import Load
from pipelines.demo.stack import DemoStack
from pipelines.local_stack import LocalStack
from policies.release import Outcome, Phase
from policies.rollout_record import HistoryRecord

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "carry_speed.json"
MODEL = "noop"
RATE = 40

DOCUMENTS = {
    "models/noop.yaml": """\
apiVersion: sluicegate/v1
kind: Model
name: noop
settings: {cpus: 0.5}
request_timeout: 10s
graceful_shutdown: 15s
rollout: quick
slos: [loose]
""",
    "policies/rollout-quick.yaml": """\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: quick
shadow: {min_duration: 1s, max_duration: 60s}
steps: [50]
step: {min_duration: 1s, max_duration: 60s}
settle: {min_duration: 1s, max_duration: 60s}
""",
    "policies/slo-loose.yaml": """\
apiVersion: openslo/v1
kind: SLO
metadata: {name: loose}
spec:
  service: models
  indicator:
    metadata: {name: loose}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: sluicegate, spec: {sli: errors}}}
        total: {metricSource: {type: sluicegate, spec: {sli: errors}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.90}]
""",
}

CODE = """
import mlflow

class Noop(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [1.0]

mlflow.models.set_model(Noop())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=10)
    rollouts = parser.parse_args().rollouts
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as folder:
        say = lambda line: print(line, flush=True)  # noqa: E731
        with LocalStack(Path(folder), documents=DOCUMENTS, say=say) as local:
            figures = measure(local, rollouts)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


def measure(local: LocalStack, rollouts: int) -> dict[str, object]:
    stack = DemoStack(local)
    log_versions(local.tracking_uri, Path(local.folder), rollouts + 1)
    to_commit: list[float] = []
    body = json.dumps({"inputs": [[1.0]]})
    load: Load | None = None
    try:
        for version in range(1, rollouts + 2):
            started = promote(local.tracking_uri, version)
            await_(lambda v=version: running(stack, v), f"v{version} started")
            to_commit.append(time.monotonic() - started)
            if load is None:
                load = Load(f"{stack.route_url(MODEL)}/invocations", [body], rate=RATE).__enter__()
            await_(lambda v=version: len(stack.history(MODEL)) == v, f"v{version} ended")
            print(f"v{version}: {stack.history(MODEL)[-1].outcome}", flush=True)
        counters = load.stop() if load else None
    finally:
        if load is not None:
            load.__exit__(None, None, None)
    history = stack.history(MODEL)[1:]
    if any(record.outcome is not Outcome.PROMOTED for record in history):
        raise SystemExit(f"not every rollout was promoted: {[record.outcome for record in history]}")
    live = [seconds for record in history for seconds in to_live(record)]
    return {
        "rollouts": rollouts,
        "transition_to_commit_s": summary(to_commit[1:]),
        "commit_to_live_weight_s": summary(live),
        "requests": counters.sent if counters else 0,
        "failed": counters.failed if counters else 0,
    }


def running(stack: DemoStack, version: int) -> bool:
    release = stack.release(MODEL)
    return bool(release and release.candidate and release.candidate.version == version)


def to_live(record: HistoryRecord) -> list[float]:
    moved = (Phase.SHADOW, Phase.CANARY, Phase.SETTLING)
    return [
        (phase.live_since - phase.since).total_seconds()
        for phase in record.phases
        if phase.phase in moved and phase.live_since
    ]


def log_versions(uri: str, folder: Path, count: int) -> None:
    """In a process of its own: MLflow keeps its address in the environment of the process."""
    code = folder / "noop_model.py"
    code.write_text(CODE)
    script = (
        "import sys, mlflow, numpy\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "for n in range(int(sys.argv[3])):\n"
        "    mlflow.pyfunc.log_model(name='m', python_model=sys.argv[2], registered_model_name='noop',\n"
        "        pip_requirements=['mlflow'], input_example=numpy.array([[float(n)]]))\n"
    )
    subprocess.run([sys.executable, "-c", script, uri, str(code), str(count)], check=True, capture_output=True)


def promote(uri: str, version: int) -> float:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    started = time.monotonic()
    client.transition_model_version_stage(MODEL, str(version), "Production", archive_existing_versions=True)
    return started


if __name__ == "__main__":
    main()
