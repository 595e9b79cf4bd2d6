"""The documents of the end-to-end stories: real policies, with times and proofs of seconds."""

from __future__ import annotations

from collections.abc import Mapping

CARRIED, FAULTY, WATCHED, GUARDED = "carried", "faulty", "watched", "guarded"
"""Registered models, each with a story of its own."""

SHADOW = "{min_duration: 1s, max_duration: 60s}"

STRICT, LENIENT = "strict", "lenient"
RATE = 60.0
"""Requests per second: a proof of health takes some 170 good ones at 97 %, 25 at 80 %, so 3 s and less than one."""


def documents() -> Mapping[str, str]:
    """Text by path in the config repo."""
    return {
        "policies/slo-strict.yaml": _slo(STRICT, 0.97),
        "policies/slo-lenient.yaml": _slo(LENIENT, 0.80),
        "policies/rollout-whole.yaml": _policy("whole", shadow=SHADOW, steps=[10, 50]),
        "policies/rollout-judged.yaml": _policy("judged", shadow=SHADOW, steps=[10, 50], guard="null"),
        "policies/rollout-half.yaml": _policy("half", shadow="null", steps=[50]),
        "policies/rollout-canary.yaml": _policy("canary", shadow="null", steps=[25, 50]),
        "policies/rollout-at-once.yaml": _policy("at-once", shadow="null", steps=[]),
        f"models/{CARRIED}.yaml": model_text(CARRIED, rollout="whole", slo=STRICT),
        # Judged by Prometheus alone, so that its story is the judge's and not the guard's.
        f"models/{FAULTY}.yaml": model_text(FAULTY, rollout="judged", slo=STRICT),
        f"models/{WATCHED}.yaml": model_text(WATCHED, rollout="canary", slo=LENIENT),
        f"models/{GUARDED}.yaml": model_text(GUARDED, rollout="half", slo=STRICT),
    }


def model_text(name: str, *, rollout: str, slo: str, cpus: float = 0.5, replicas: int = 1) -> str:
    """A model document. A candidate that is gone is given up after 2 s, half of the request's time."""
    return f"""\
apiVersion: sluicegate/v1
kind: Model
name: {name}
settings:
  cpus: {cpus}
autoscaling:
  min_replicas: {replicas}
  max_replicas: {replicas}
request_timeout: 4s
graceful_shutdown: 6s
rollout: {rollout}
slos: [{slo}]
"""


def _policy(name: str, *, shadow: str, steps: list[int], guard: str = "{alpha: 0.001}") -> str:
    return f"""\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: {name}
shadow: {shadow}
steps: {steps}
step: {{min_duration: 1s, max_duration: 60s}}
settle: {{min_duration: 1s, max_duration: 60s}}
ready_deadline: 120s
metrics_deadline: 60s
max_duration: 10m
registry_deadline: 60s
guard: {guard}
"""


def _slo(name: str, target: float) -> str:
    return f"""\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: {name}
spec:
  service: models
  indicator:
    metadata:
      name: {name}
    spec:
      ratioMetric:
        counter: true
        good:
          metricSource:
            type: sluicegate
            spec: {{sli: errors}}
        total:
          metricSource:
            type: sluicegate
            spec: {{sli: errors}}
  timeWindow:
    - duration: 30d
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - displayName: Good answers
      target: {target}
"""
