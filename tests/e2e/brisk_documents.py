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
        "policies/slo-strict.yaml": slo_text(STRICT, 0.97),
        "policies/slo-lenient.yaml": slo_text(LENIENT, 0.80),
        "policies/rollout-whole.yaml": policy_text("whole", shadow=SHADOW, steps=[10, 50]),
        "policies/rollout-judged.yaml": policy_text("judged", shadow=SHADOW, steps=[10, 50], guard="null"),
        "policies/rollout-half.yaml": policy_text("half", shadow="null", steps=[50]),
        "policies/rollout-canary.yaml": policy_text("canary", shadow="null", steps=[25, 50]),
        "policies/rollout-at-once.yaml": policy_text("at-once", shadow="null", steps=[]),
        f"models/{CARRIED}.yaml": model_text(CARRIED, rollout="whole", slo=STRICT),
        # Judged by Prometheus alone, so that its story is the judge's and not the guard's.
        f"models/{FAULTY}.yaml": model_text(FAULTY, rollout="judged", slo=STRICT),
        f"models/{WATCHED}.yaml": model_text(WATCHED, rollout="canary", slo=LENIENT),
        f"models/{GUARDED}.yaml": model_text(GUARDED, rollout="half", slo=STRICT),
    }


def model_text(name: str, *, rollout: str, slo: str, cpus: float = 0.5, replicas: int = 1, more: str = "") -> str:
    """A model document, with lines that are its own.

    A candidate that is gone is given up after 2 s, half of the request's time.
    """
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
{more}"""


def policy_text(
    name: str, *, shadow: str, steps: list[int], guard: str = "{alpha: 0.001}", step_s: tuple[int, int] = (1, 60)
) -> str:
    """A rollout policy; `step_s` is the least and the most time of a step."""
    return f"""\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: {name}
shadow: {shadow}
steps: {steps}
step: {{min_duration: {step_s[0]}s, max_duration: {step_s[1]}s}}
settle: {{min_duration: 1s, max_duration: 60s}}
ready_deadline: 120s
metrics_deadline: 60s
max_duration: 10m
registry_deadline: 60s
guard: {guard}
"""


def slo_text(name: str, target: float) -> str:
    """An SLO of errors."""
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
