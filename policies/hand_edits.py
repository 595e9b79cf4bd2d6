"""What a person may change in a release by editing its file, and what only a rollout or a command gives.

Rules:
- A revert is no edit: it brings back a text that counted before, and ADR 4 says what it means.
- Taking away is honoured: a lower weight, a pause, a candidate that is dropped. So is a wish (`ask`).
- Giving is refused, in words: another version, more requests, a lifted quarantine. Traffic grows by a recorded PASS or
  a recorded wish, and a file that was edited is neither.

This module must not know who edited, or what the file held before: `pipelines/histories.py` asks the log.
"""

from __future__ import annotations

from policies.application import Application
from policies.release import Release


def refusal(before: Release, after: Release) -> str:
    """Why an edit from `before`, which was applied, to `after` is not honoured; empty where it is."""
    if after.stable != before.stable:
        return f"it makes {_version(after.stable)} stable by hand: a version serves after a rollout (or `sluice undo`)"
    if after.candidate is not None and after.candidate != before.candidate:
        return f"it makes {_version(after.candidate)} the candidate by hand: move it to the trigger, or `sluice retry`"
    if after.candidate is not None and after.weight_percent > before.weight_percent:
        more = f"{after.weight_percent} % where it had {before.weight_percent} %"
        return f"it gives {_version(after.candidate)} {more}: traffic grows by a PASS, or by `sluice promote`"
    if lifted := {(q.version, q.build) for q in before.quarantine} - {(q.version, q.build) for q in after.quarantine}:
        versions = ", ".join(f"v{version}" for version, _ in sorted(lifted, key=lambda one: one[0]))
        return f"it takes {versions} out of the quarantine by hand: use `sluice lift`"
    return ""


def _version(application: Application | None) -> str:
    return "nothing" if application is None else f"v{application.version}"
