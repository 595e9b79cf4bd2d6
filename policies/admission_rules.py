"""The checks of admission: facts about a version, its terms, and stable, as `Check`s.

Rules:
- All are made, so that a person mends everything at once; what is not asked of a version makes no check.
- A version that serves already is not asked again what it is: its new settings meet packages and capacity only.
- What the terms ask for and nobody knows (a metric that was not logged, a signature that cannot be read) fails where
  it is the candidate's, and warns where it is stable's: a new version is not to blame for an old one.

This module must not read anything; what is asked of whom is `starting.py`.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Iterable, Iterator, Mapping

from policies.admission import Admission, Check, CheckOutcome
from policies.admission_terms import ANY_VALUE, AdmissionTerms, MetricTerm
from policies.application import Application
from policies.capacity import Capacity
from policies.commit_message import one_line
from policies.facts import Observed, Rules
from policies.model_signatures import Difference, Signature, Weight, differences
from policies.observations import Artifact, VersionFacts
from policies.packages import conflicts, conflicts_with_replicas
from policies.release import Release
from policies.room import lacking

CHECKS = (
    "quarantine",
    "signature",
    "tags",
    "approvals",
    "metrics",
    "flavor",
    "pickle",
    "size",
    "packages",
    "capacity",
)
"""Every check by name, in the order in which they are shown."""
APPROVED = "approved."
"""Begins the key of a tag that says who approved; the rest is the approval's name."""

# The first ones show what is wrong; a version may have a thousand. A commit message cuts each line at 500 characters.
_SAID = 5
_MIB = 2**20
_POLICY = "in the rollout policy"

_PASS, _WARN, _FAIL = CheckOutcome.PASS, CheckOutcome.WARN, CheckOutcome.FAIL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """One version that is to be tried, and everything that its admission asks for."""

    release: Release
    """Over whose stable version it is tried."""
    candidate: Application
    artifact: Artifact
    tags: Mapping[str, str]
    """Of the version."""
    facts: VersionFacts | None
    """Of the version; none only where it serves already."""
    stable_facts: VersionFacts | None
    """None: there is no stable version."""
    terms: AdmissionTerms
    capacity: Capacity | None
    """None: nobody knows."""
    replicas: int = 1
    """How many start."""

    @property
    def serves(self) -> bool:
        """Is it the stable version, with other settings?"""
        return self.release.stable is not None and self.release.stable.version == self.candidate.version


def admission(asked: Asked) -> Admission:
    """Every check of this version."""
    own = () if asked.serves or asked.facts is None else _of_the_version(asked, asked.facts)
    checks = (*_quarantine(asked), *own, *_packages(asked), *_capacity(asked))
    return Admission(version=asked.candidate.version, checks=checks)


def admission_of(release: Release, candidate: Application, observed: Observed, rules: Rules) -> Admission | str:
    """Every check of a version that is to be tried over this release, or why they cannot be made yet."""
    stable = release.stable.version if release.stable else None
    needed = () if candidate.version == stable else tuple(n for n in (candidate.version, stable) if n is not None)
    if any(n not in observed.facts for n in needed):
        return observed.facts_reason or "it was not asked for"
    if rules.policy.admission.capacity == "require" and observed.capacity is None:
        return observed.capacity_reason or "what the cluster has free was not asked for"
    registered = (observed.versions or {}).get(candidate.version)
    return admission(
        Asked(
            release=release,
            candidate=candidate,
            artifact=observed.artifacts[candidate.version],
            tags=registered.tags if registered else {},
            facts=observed.facts.get(candidate.version),
            stable_facts=observed.facts.get(stable) if stable is not None else None,
            terms=rules.policy.admission,
            capacity=observed.capacity,
            replicas=rules.min_replicas,
        )
    )


def _of_the_version(asked: Asked, facts: VersionFacts) -> tuple[Check, ...]:
    return (
        *_signature(facts, asked),
        *_tags(asked),
        *_approvals(asked),
        *_metrics(facts, asked),
        *_flavor(facts, asked.terms),
        *_pickle(facts, asked),
        *_size(asked),
    )


def _check(name: str, outcome: CheckOutcome, words: str, mend: str = "") -> Check:
    return Check(name=name, outcome=outcome, words=one_line(words), mend=one_line(mend) if mend else "")


def _some(words: Iterable[str]) -> str:
    """The first ones, and how many more."""
    told = list(words)
    more = f"; and {len(told) - _SAID} more" if len(told) > _SAID else ""
    return "; ".join(told[:_SAID]) + more


# --- what was stopped before ------------------------------------------------------------------------------------


def _quarantine(asked: Asked) -> Iterator[Check]:
    """The same files under another number. A version that was stopped itself may: a person entered it again."""
    release, candidate = asked.release, asked.candidate
    if release.stable is not None and release.stable.digest == candidate.digest:
        return
    for q in release.quarantine:
        if q.digest == candidate.digest and q.version != candidate.version:
            why = q.reasons[0] if q.reasons else "no reason recorded"
            words = f"it has the digest of v{q.version}, which was rolled back in {q.rollout}: {why}"
            mend = f'sluice lift {shlex.quote(release.model)} --version {q.version} --why "..."'
            yield _check("quarantine", _FAIL, words, mend)
            return


# --- the signature ----------------------------------------------------------------------------------------------


def _signature(facts: VersionFacts, asked: Asked) -> Iterator[Check]:
    if asked.terms.signature == "any":
        return
    stable, before, after = asked.release.stable, asked.stable_facts, facts.signature
    mend = f"log the model again with the signature that its callers know, or write signature: any {_POLICY}"
    if facts.signature_reason:
        yield _check("signature", _FAIL, f"it cannot be read: {facts.signature_reason}", mend)
    elif stable is None or before is None:
        yield _first_signature(after)
    elif before.signature_reason:
        words = f"that of v{stable.version} cannot be read, so nothing is compared: {before.signature_reason}"
        yield _check("signature", _WARN, words, "compare the two by hand")
    elif after is None:
        yield _without_signature(before.signature, stable.version, mend)
    elif before.signature is None:
        words = f"it has one and v{stable.version} has none: requests that are answered today may be refused"
        yield _check("signature", _WARN, words, "compare it with what callers send")
    else:
        yield _compared(before.signature, after, stable.version, asked.terms, mend)


_LOG_ONE = "log the model with a signature or an input_example"


def _first_signature(signature: Signature | None) -> Check:
    if signature is None:
        words = "it has none, and there is no stable version to compare it with"
        return _check("signature", _WARN, words, _LOG_ONE)
    return _check("signature", _PASS, "there is no stable version to compare it with")


def _without_signature(before: Signature | None, stable: int, mend: str) -> Check:
    if before is None:
        return _check("signature", _WARN, f"neither it nor v{stable} has one: nothing is compared", _LOG_ONE)
    return _check("signature", _FAIL, f"it has none and v{stable} has one: callers could send and read anything", mend)


def _compared(before: Signature, after: Signature, stable: int, terms: AdmissionTerms, mend: str) -> Check:
    found = differences(before, after)
    breaking = found if terms.signature == "same" else [d for d in found if d.weight is Weight.BREAKS]
    if breaking:
        return _check("signature", _FAIL, f"against v{stable}: {_words(breaking)}", mend)
    if noted := [d for d in found if d.weight is Weight.NOTED]:
        return _check("signature", _WARN, f"against v{stable}: {_words(noted)}", "tell those who call the model")
    fine = f"compatible with that of v{stable}: {_words(found)}" if found else f"the same as that of v{stable}"
    return _check("signature", _PASS, fine)


def _words(found: Iterable[Difference]) -> str:
    return _some(difference.words for difference in found)


# --- tags -------------------------------------------------------------------------------------------------------


def _tags(asked: Asked) -> Iterator[Check]:
    wanted = asked.terms.tags
    if not wanted:
        return
    wrong = {key: value for key, value in wanted.items() if not _carries(asked.tags, key, value)}
    if not wrong:
        yield _check("tags", _PASS, f"it carries {', '.join(sorted(wanted))}")
        return
    yield _check(
        "tags",
        _FAIL,
        _some(_tag_in_words(asked.tags, key, value) for key, value in wrong.items()),
        f"set on v{asked.candidate.version} in MLflow: {', '.join(_to_set(*each) for each in wrong.items())}",
    )


def _to_set(key: str, value: str) -> str:
    return f"{key} to anything that is not empty" if value == ANY_VALUE else f"{key}={value}"


def _carries(tags: Mapping[str, str], key: str, value: str) -> bool:
    return bool(tags.get(key, "").strip()) if value == ANY_VALUE else tags.get(key) == value


def _tag_in_words(tags: Mapping[str, str], key: str, value: str) -> str:
    if key not in tags:
        return f"the tag {key} is missing"
    return f"the tag {key} is {tags[key]!r}, not {'something' if value == ANY_VALUE else repr(value)}"


def _approvals(asked: Asked) -> Iterator[Check]:
    wanted = asked.terms.approvals
    if not wanted:
        return
    by = {name: asked.tags.get(APPROVED + name, "").strip() for name in wanted}
    missing = [name for name, who in by.items() if not who]
    if missing:
        mend = ", ".join(f"{APPROVED}{name}=<who>" for name in missing)
        words = f"nobody has approved for {', '.join(missing)}"
        yield _check("approvals", _FAIL, words, f"set on v{asked.candidate.version} in MLflow: {mend}")
    elif len({who.casefold() for who in by.values()}) < len(by):
        twice = ", ".join(f"{name} by {who}" for name, who in by.items())
        yield _check("approvals", _FAIL, f"one person gave two: {twice}", "let another person give one of them")
    else:
        yield _check("approvals", _PASS, ", ".join(f"{name} by {who}" for name, who in by.items()))


# --- metrics ----------------------------------------------------------------------------------------------------


def _metrics(facts: VersionFacts, asked: Asked) -> Iterator[Check]:
    if not asked.terms.metrics:
        return
    found = [_metric(term, facts, asked) for term in asked.terms.metrics]
    worst = max((outcome for outcome, _ in found), key=(_PASS, _WARN, _FAIL).index)
    words = [words for outcome, words in found if outcome is worst]
    mend = "" if worst is _PASS else f"log better ones to the version's run, or change metrics {_POLICY}"
    yield _check("metrics", worst, _some(words), mend)


def _metric(term: MetricTerm, facts: VersionFacts, asked: Asked) -> tuple[CheckOutcome, str]:
    name, value = term.metric, facts.metrics.get(term.metric)
    if value is None:
        return _FAIL, f"{name} is not known: {facts.metrics_reason or f'{facts.run} has not logged it'}"
    if not math.isfinite(value):
        return _FAIL, f"{name} is {value}"
    if term.at_least is not None and value < term.at_least:
        return _FAIL, f"{name} is {value:g}, at least {term.at_least:g} is asked"
    if term.at_most is not None and value > term.at_most:
        return _FAIL, f"{name} is {value:g}, at most {term.at_most:g} is allowed"
    if asked.release.stable is None:
        return _PASS, f"{name} is {value:g}"
    return _against_stable(term, value, asked.stable_facts, asked.release.stable.version)


def _against_stable(
    term: MetricTerm, value: float, stable: VersionFacts | None, version: int
) -> tuple[CheckOutcome, str]:
    other = stable.metrics.get(term.metric) if stable else None
    if other is None or not math.isfinite(other):
        reason = (stable.metrics_reason if stable else "") or f"v{version} has not logged it"
        return _WARN, f"{term.metric} is {value:g}, and nothing to compare with: {reason}"
    worse = other - value if term.higher_is_better else value - other
    margin = f"may be worse by {term.margin:g}" if term.margin >= 0 else f"must be better by {-term.margin:g}"
    words = f"{term.metric} is {value:g}, v{version} has {other:g}; it {margin}"
    return (_FAIL if worse > term.margin + _rounding(value, other) else _PASS), words


def _rounding(*values: float) -> float:
    """0.91 - 0.9 is above 0.01 for a computer; nobody means that."""
    return 1e-9 * max(abs(value) for value in values)


# --- files ------------------------------------------------------------------------------------------------------


def _flavor(facts: VersionFacts, terms: AdmissionTerms) -> Iterator[Check]:
    if terms.flavors is None:
        return
    flavor = facts.flavor or "of no flavor that pyfunc could load"
    if facts.flavor in terms.flavors:
        yield _check("flavor", _PASS, f"it is {flavor}")
        return
    allowed = ", ".join(terms.flavors) or "none"
    mend = f"log it as one of these, or add it to flavors {_POLICY}"
    yield _check("flavor", _FAIL, f"it is {flavor}; allowed: {allowed}", mend)


def _pickle(facts: VersionFacts, asked: Asked) -> Iterator[Check]:
    terms, pickled = asked.terms, asked.artifact.pickled
    if terms.pickle == "allow":
        return
    if not pickled:
        yield _check("pickle", _PASS, "no file is read by pickle, by names and first bytes")
        return
    words = f"what unpickles can run anything: {_some(pickled)}"
    if facts.flavor in terms.pickle_flavors:
        yield _check("pickle", _PASS, f"allowed for {facts.flavor}: {_some(pickled)}")
        return
    safer = "log it in a format without pickle (skops, ONNX, safetensors, the library's own)"
    rule = f"pickle_flavors: [{facts.flavor}] or pickle: allow" if facts.flavor else "pickle: allow"
    allow = f"write {rule} {_POLICY}"
    yield _check("pickle", _FAIL if terms.pickle == "deny" else _WARN, words, f"{safer}, or {allow}")


def _mib(size_bytes: int) -> str:
    mib = size_bytes / _MIB
    return f"{mib:,.1f} MiB" if mib >= 1 else f"{mib:.3g} MiB"


def _size(asked: Asked) -> Iterator[Check]:
    most, size = asked.terms.max_size_mib, asked.artifact.size_bytes
    if most is None:
        return
    words = f"{_mib(size)}, at most {most:g} MiB are allowed"
    mend = f"log it without what it does not need, or raise max_size_mib {_POLICY}"
    yield _check("size", _FAIL, words, mend) if size > most * _MIB else _check("size", _PASS, words)


# --- where it is to run -----------------------------------------------------------------------------------------


def _packages(asked: Asked) -> Iterator[Check]:
    settings = asked.candidate.settings
    asks = (*asked.candidate.requirements, *settings.packages)
    mend = "log the model with requirements that replicas can have, or set packages in the model's document"
    if wrong := conflicts(asks):
        yield _check("packages", _FAIL, f"it cannot run with its packages: {_some(wrong)}", mend)
    elif settings.environment == "inherit" and (odd := conflicts_with_replicas(asked.artifact.requirements)):
        words = f"it runs with the cluster's packages, and {_some(odd)}"
        yield _check("packages", _WARN, words, "environment: uv in the model's document installs its own")
    else:
        yield _check("packages", _PASS, "nothing is known against them")


def _capacity(asked: Asked) -> Iterator[Check]:
    terms, capacity = asked.terms, asked.capacity
    if terms.capacity == "ignore" or capacity is None:
        return
    short = lacking(asked.candidate.settings, asked.replicas, capacity)
    if not short:
        yield _check("capacity", _PASS, "the cluster has room for it beside stable")
        return
    outcome = _FAIL if terms.capacity == "require" else _WARN
    mend = "add nodes, ask for less in the model's document, or lower min_replicas"
    yield _check("capacity", outcome, short, mend)
