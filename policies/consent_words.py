"""What people read when they are asked to agree to a step of a rollout: the title and body of its pull request.

Rules:
- The same facts give the same text, and nothing in it changes by itself with time: a body is written anew only where
  something that matters is another by now.
- Names and words come from strangers (models, metrics, signatures): they are shown, never obeyed (`markdown.py`).

This module must not decide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from policies.admission import Check
from policies.application import Application, Settings
from policies.consent import STABLE, Consent
from policies.documents import Bake, RolloutPolicy
from policies.durations import format_duration
from policies.facts import Noticed, Observed, Rules, rollout_of
from policies.markdown import code, prose, table
from policies.model_signatures import differences
from policies.observations import VersionFacts
from policies.release import Release
from policies.secret_values import hidden_in
from policies.shown_text import shown

WITHDRAWN: Final = "<!-- sluice:withdrawn -->"
"""In the body of a pull request that Sluicegate closed itself: its end is nobody's no."""
_TITLE = 120
"""Characters: one line of every forge's list."""
_MOST = 40
"""Rows of a table or lines of a list: more, nobody reads, and a body has a limit at each forge."""


def title(consent: Consent, release: Release) -> str:
    """`fraud (production): start v7 over v6`."""
    over = f" over v{release.stable.version}" if release.stable else ""
    if consent.rollout:
        step = "becomes stable" if consent.to == STABLE else f"to {consent.to} %"
        return shown(f"{consent.model} ({consent.environment}): v{consent.version} {step}{over}", _TITLE)
    what = f"v{consent.version} with new settings" if _serves(release, consent) else f"start v{consent.version}{over}"
    return shown(f"{consent.model} ({consent.environment}): {what}", _TITLE)


def _serves(release: Release, consent: Consent) -> bool:
    return release.stable is not None and release.stable.version == consent.version


def withdrawn(body: str, why: str) -> str:
    """The body of a pull request that is not needed any more."""
    if WITHDRAWN in body:
        return body
    return f"**Closed by Sluicegate:** {prose(why)}\n\n{body.rstrip()}\n\n{WITHDRAWN}"


def body(consent: Consent, release: Release, noticed: Noticed, observed: Observed, rules: Rules) -> str:
    """Everything that somebody needs to say yes or no."""
    parts = _of_step(consent, release) if consent.rollout else _of_start(consent, release, noticed, observed, rules)
    return "\n".join((*parts, "", _HOW))


_HOW = (
    "Approve the newest commit, then merge. An approval of an older commit does not count. The file of this pull "
    "request is taken away again by the commit that carries it out."
)

# --- a start --------------------------------------------------------------------------------------------------


def _of_start(consent: Consent, release: Release, noticed: Noticed, observed: Observed, rules: Rules) -> Iterator[str]:
    if noticed.start is None:
        raise ValueError(f"{consent.model}: a start without what starts")
    candidate, stable = noticed.start.candidate, release.stable
    over = f"v{stable.version} serves" if stable else "nothing serves yet"
    settings = stable is not None and _serves(release, consent)
    wanted, refused = ("it", "they are") if settings else (f"v{consent.version}", f"v{consent.version} is")
    wanted = f"{wanted} is wanted{' with new settings' if settings else ''}"
    yield f"{code(consent.model)} in {code(consent.environment)}: {over}, {wanted}."
    yield f"Merged, its rollout starts. Closed, {refused} refused. Until then nothing of it is deployed."
    yield from ("", "### What follows the merge", "")
    yield from _plan(candidate, release, rules)
    own, before = observed.facts.get(consent.version), observed.facts.get(stable.version) if stable else None
    if stable is not None and settings:
        yield from ("", "### Settings", "", *_settings(stable.settings, candidate.settings))
    else:
        yield from ("", "### Metrics", "", *_metrics(consent.version, own, stable, before))
        yield from ("", "### Signature", "", *_signature(own, stable, before))
    if noticed.start.admission:
        yield from ("", "### Admission", "", *(_check(check) for check in noticed.start.admission))


def _plan(candidate: Application, release: Release, rules: Rules) -> Iterator[str]:
    policy, settings, stable = rules.policy, candidate.settings, release.stable
    needs = [f"{settings.cpus:g} CPU"]
    needs += [f"{settings.gpus:g} GPU"] if settings.gpus else []
    needs += [f"{settings.memory_mib:,} MiB"] if settings.memory_mib else []
    replicas = f"{rules.min_replicas} replica{'s' if rules.min_replicas > 1 else ''}"
    ready = f"it is ready within {format_duration(policy.ready_deadline)}"
    steps = [f"v{candidate.version} starts at 0 %: {replicas}, each with {', '.join(needs)}; {ready}."]
    if stable is not None:
        steps += _steps(policy, stable.version)
    settled = f"v{candidate.version} answers everything {_bake(policy.settle)}, judged as before; then it is stable."
    for number, step in enumerate((*steps, settled), start=1):
        yield f"{number}. {step}"
    asked = " Each step on is asked for by a pull request of its own." if rules.review == "every_step" else ""
    back = f"v{stable.version}" if stable else "0 %"
    yield from ("", f"Harm takes it back to {back} at once, without a review.{asked}")


def _steps(policy: RolloutPolicy, stable: int) -> Iterator[str]:
    if policy.shadow:
        yield f"It gets copies {_bake(policy.shadow)}; v{stable} answers."
    if policy.steps:
        shares = ", ".join(f"{share} %" for share in policy.steps)
        passed = f"each {_bake(policy.step)} and with a PASS"
        yield f"It answers {shares}, {passed}; v{stable} the rest, and for it where it fails."


def _bake(bake: Bake) -> str:
    least, most = format_duration(bake.min_duration), format_duration(bake.max_duration)
    requests = f" and {bake.min_requests:,} requests" if bake.min_requests else ""
    return f"for {least}{requests} at least ({most} at most)"


def _settings(before: Settings, after: Settings) -> Iterator[str]:
    has, wants = (hidden_in(each.fields, by_name=True) for each in (before, after))
    rows = [
        (code(key), code(str(has.get(key))), code(str(wants.get(key))))
        for key in sorted({*has, *wants})
        if before.fields.get(key) != after.fields.get(key)
    ]
    yield from table(("setting", "serves", "wanted"), rows)


def _metrics(
    version: int, own: VersionFacts | None, stable: Application | None, before: VersionFacts | None
) -> Iterator[str]:
    if own is None or not own.metrics:
        reason = own.metrics_reason if own else ""
        yield f"v{version} has none{f': {prose(reason)}' if reason else ''}."
        return
    others = before.metrics if before else {}
    names = sorted(own.metrics)
    head = ["metric", f"v{version}", *([f"v{stable.version}", "difference"] if stable else [])]
    rows = []
    for name in names[:_MOST]:
        value, other = own.metrics[name], others.get(name)
        against = [_figure(other), _difference(value, other)] if stable else []
        rows.append([code(name), _figure(value), *against])
    yield from table(head, rows)
    if len(names) > _MOST:
        yield from ("", f"and {len(names) - _MOST} more")
    if own.run:
        yield from ("", f"Logged to {prose(own.run)}.")


def _figure(value: float | None) -> str:
    return "not logged" if value is None else f"{value:.6g}"


def _difference(value: float, other: float | None) -> str:
    return f"{value - other:+.3g}" if other is not None and math.isfinite(value - other) else ""


def _signature(own: VersionFacts | None, stable: Application | None, before: VersionFacts | None) -> Iterator[str]:
    if stable is None:
        yield "There is no stable version to compare it with."
    elif own is None or before is None or own.signature is None or before.signature is None:
        reasons = [facts.signature_reason for facts in (own, before) if facts and facts.signature_reason]
        why = "; ".join(map(prose, reasons)) or "not both of them have one"
        yield f"Not compared with that of v{stable.version}: {why}."
    elif found := differences(before.signature, own.signature):
        yield from (f"- {prose(one.words)} ({one.weight})" for one in found[:_MOST])
        if len(found) > _MOST:
            yield from ("", f"and {len(found) - _MOST} more")
    else:
        yield f"The same as that of v{stable.version}."


def _check(check: Check) -> str:
    return f"- **{check.outcome}** {prose(str(check))}"


# --- a step ---------------------------------------------------------------------------------------------------


def _of_step(consent: Consent, release: Release) -> Iterator[str]:
    rollout, stable = rollout_of(release), release.stable
    share = f"{release.weight_percent} %" if release.weight_percent else "copies only"
    where = f"{code(consent.model)} in {code(consent.environment)}"
    yield f"{where}: v{consent.version} has {share}, and its evidence says PASS."
    step = "becomes stable" if consent.to == STABLE else f"gets {consent.to} %"
    yield f"Merged, it {step}. Closed, it stays where it is, judged as ever; `sluice abort` takes it back."
    yield from ("", f"Rollout {code(rollout.id)}" + (f" over v{stable.version}" if stable else "") + ", so far:", "")
    for record in rollout.records:
        weight = f" {record.weight_percent} %" if record.weight_percent else ""
        verdict = f", {record.verdict}" if record.verdict else ""
        yield f"- {record.phase}{weight} since {record.since:%Y-%m-%d %H:%M} UTC{verdict}"
    yield from ("", f"Its evidence, look by look: `sluice explain {rollout.id}`.")
