"""What a change must not do: every rule of `policies/rules.yaml`, once kept and once broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipelines.defaults import built_in_documents
from policies.change_rules import Finding, Proposal, canary_time, judge_change
from policies.config_repo_documents import ConfigRepo, parse_repo, read_repo, with_defaults
from policies.documents import Bake, RolloutPolicy
from policies.notes import Severity
from policies.repo_rules import FrozenWindow, Owners, RepoRules
from policies.secret_values import hidden

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)  # a Monday
SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger: {stage: Production}
"""
MODEL = """\
apiVersion: sluicegate/v1
kind: Model
name: fraud
"""
POLICY = """\
apiVersion: sluicegate/v1
kind: RolloutPolicy
name: quick
steps: [10, 50]
step:
  min_duration: 20m
"""
SLO = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: strict
spec:
  indicator:
    metadata: {name: strict}
    spec:
      ratioMetric:
        counter: true
        good: {metricSource: {type: sluicegate, spec: {sli: errors}}}
        total: {metricSource: {type: sluicegate, spec: {sli: errors}}}
  timeWindow: [{duration: 30d, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.999}]
"""
FILES = {"sluice.yaml": SLUICE, "models/fraud.yaml": MODEL}


def repo(files: Mapping[str, str]) -> ConfigRepo:
    return parse_repo(with_defaults(files, built_in_documents()))


def proposal(
    change: Mapping[str, str | None],
    before: Mapping[str, str] | None = None,
    *,
    approvers: tuple[str, ...] = (),
    **more: Any,
) -> Proposal:
    """FILES, or `before`, with this change to them."""
    old = {**FILES, **(before or {})}
    new = {path: text for path, text in {**old, **change}.items() if text is not None}
    lines = {
        path: tuple(
            (n, line) for n, line in enumerate(text.split("\n"), 1) if line not in old.get(path, "").split("\n")
        )
        for path, text in change.items()
        if text is not None
    }
    documents = {path: text for path, text in new.items() if path.endswith(".yaml")}
    known: dict[str, Any] = {"before": repo(old), "after": repo(documents), "author": "mallory", "now": NOW}
    changed = {"changed": tuple(change), "new_lines": lines, "approvers": frozenset(approvers)}
    return Proposal(**{**known, **changed, **more})


def said(found: tuple[Finding, ...]) -> list[tuple[str, str, int | None, str]]:
    return [(f.rule, f.note.severity.value, f.note.line, f.note.file) for f in found]


def one(found: tuple[Finding, ...]) -> Finding:
    assert len(found) == 1, found
    return found[0]


# --- ceilings -------------------------------------------------------------------------------------------------


def test_more_replicas_than_the_rules_allow_fail_at_their_line() -> None:
    change = {"models/fraud.yaml": MODEL + "autoscaling:\n  min_replicas: 1\n  max_replicas: 30\n"}
    found = one(judge_change(proposal(change), RepoRules(max_replicas=20)))
    assert said((found,)) == [("max_replicas", "error", 6, "models/fraud.yaml")]
    assert found.mend == "autoscaling.max_replicas: 20"
    assert judge_change(proposal(change), RepoRules(max_replicas=30)) == ()


def test_what_was_above_a_ceiling_before_stops_nobodys_other_work() -> None:
    many = MODEL + "autoscaling: {max_replicas: 30}\n"
    rules = RepoRules(max_replicas=20)
    elsewhere = proposal({"policies/quick.yaml": POLICY}, {"models/fraud.yaml": many})
    assert judge_change(elsewhere, rules) == ()
    there = proposal({"models/fraud.yaml": many + "max_ongoing_requests: 8\n"}, {"models/fraud.yaml": many})
    assert one(judge_change(there, rules)).note.severity is Severity.WARNING
    worse = proposal({"models/fraud.yaml": MODEL + "autoscaling: {max_replicas: 31}\n"}, {"models/fraud.yaml": many})
    assert one(judge_change(worse, rules)).note.severity is Severity.ERROR


@pytest.mark.parametrize(
    "settings",
    ["settings: {gpus: 1}", "settings: {placement: {bundles: [{CPU: 1, GPU: 0.5}, {GPU: 0.5}]}}"],
    ids=["of each", "of its bundles"],
)
def test_gpus_count_with_all_replicas(settings: str) -> None:
    change = {"models/fraud.yaml": f"{MODEL}{settings}\nautoscaling: {{max_replicas: 8}}\n"}
    found = one(judge_change(proposal(change), RepoRules(max_gpus=4)))
    assert "8 GPUs" in found.note.message
    assert found.mend == "autoscaling.max_replicas: 4"
    assert judge_change(proposal(change), RepoRules(max_gpus=8)) == ()


def test_the_entry_for_grpc_has_replicas_too() -> None:
    grpc = SLUICE + "    grpc: {enabled: true, autoscaling: {max_replicas: 9}}\n"
    assert said(judge_change(proposal({"sluice.yaml": grpc}), RepoRules(max_replicas=8))) == [
        ("max_replicas", "error", 6, "sluice.yaml")
    ]


# --- the canary -----------------------------------------------------------------------------------------------


def test_the_canary_is_all_steps_before_100_percent() -> None:
    policy = RolloutPolicy(name="x", steps=(10, 50), step=Bake(min_duration=timedelta(minutes=20)))
    assert canary_time(policy) == timedelta(minutes=40)
    assert canary_time(dataclasses.replace(policy, steps=())) == timedelta()


def test_a_policy_that_gets_shorter_fails_with_what_to_write() -> None:
    used = {"models/fraud.yaml": MODEL + "rollout: quick\n", "policies/quick.yaml": POLICY}
    rules = RepoRules(min_canary=timedelta(minutes=30))
    shorter = proposal({"policies/quick.yaml": POLICY.replace("20m", "5m")}, used)
    found = one(judge_change(shorter, rules))
    assert said((found,)) == [("min_canary", "error", 6, "policies/quick.yaml")]
    assert found.mend == "step.min_duration: 15m"
    none = proposal({"policies/quick.yaml": POLICY.replace("[10, 50]", "[]")}, used)
    assert one(judge_change(none, rules)).mend == "steps: [10, 50] and step.min_duration: 15m"
    assert judge_change(proposal({"policies/quick.yaml": POLICY.replace("20m", "15m")}, used), rules) == ()


def test_a_model_that_takes_a_shorter_policy_fails_where_it_names_it() -> None:
    change = {"models/fraud.yaml": MODEL + "rollout: quick\n"}
    before = {"policies/quick.yaml": POLICY.replace("20m", "5m")}
    found = judge_change(proposal(change, before), RepoRules(min_canary=timedelta(minutes=15)))
    assert said(found) == [("min_canary", "error", 4, "models/fraud.yaml")]


# --- SLOs -----------------------------------------------------------------------------------------------------

HELD = {"models/fraud.yaml": MODEL + "slos: [strict]\n", "policies/strict.yaml": SLO}
APPROVED_BY_ADA = RepoRules(slo_approvers=("Ada",))


@pytest.mark.parametrize(
    ("change", "words", "file"),
    [
        ({"policies/strict.yaml": SLO.replace("0.999", "0.99")}, "asks less than before: 99 %", "policies/strict.yaml"),
        ({"policies/strict.yaml": SLO.replace("30d", "7d")}, "over 7d, it was", "policies/strict.yaml"),
        ({"policies/strict.yaml": SLO.replace("errors", "feedback")}, "counts something else", "policies/strict.yaml"),
        ({"models/fraud.yaml": MODEL + "slos: [errors]\n"}, "no longer held to the SLO strict", "models/fraud.yaml"),
    ],
)
def test_what_loosens_an_slo_needs_a_named_approver(change: dict[str, str], words: str, file: str) -> None:
    found = one(judge_change(proposal(change, HELD), APPROVED_BY_ADA))
    assert (found.rule, found.note.severity, found.note.file) == ("slo_approvers", Severity.ERROR, file)
    assert words in found.note.message
    assert "ask Ada for an approval" in found.mend
    approved = one(judge_change(proposal(change, HELD, approvers=("ada",)), APPROVED_BY_ADA))
    assert approved.note.severity is Severity.WARNING


def test_nobody_approves_his_own_loosening() -> None:
    change = {"policies/strict.yaml": SLO.replace("0.999", "0.99")}
    own = proposal(change, HELD, approvers=("ADA",), author="ada")
    assert one(judge_change(own, APPROVED_BY_ADA)).note.severity is Severity.ERROR


@pytest.mark.parametrize(
    "change",
    [
        {"policies/strict.yaml": SLO.replace("0.999", "0.9999")},
        {
            "policies/strict.yaml": None,
            "policies/other.yaml": SLO.replace("name: strict", "name: other"),
            "models/fraud.yaml": MODEL + "slos: [other]\n",
        },
        {"models/fraud.yaml": None},
    ],
    ids=["stricter", "as strict by another name", "the model is gone"],
)
def test_what_is_as_strict_as_before_needs_nobody(change: dict[str, str | None]) -> None:
    assert judge_change(proposal(change, HELD), APPROVED_BY_ADA) == ()


def test_a_longer_threshold_is_looser() -> None:
    own = built_in_documents()["slo-latency.yaml"]
    change = {"policies/latency.yaml": own.replace("value: 200", "value: 500")}
    assert change["policies/latency.yaml"] != own
    assert "within 500 ms" in one(judge_change(proposal(change), APPROVED_BY_ADA)).note.message


# --- people and times -----------------------------------------------------------------------------------------


def test_every_owner_of_a_file_must_have_approved() -> None:
    rules = RepoRules(
        owners=(
            Owners(paths=("models/",), owners=("ada", "grace")),
            Owners(paths=("models/fraud.yaml",), owners=("edsger",)),
        )
    )
    change = {"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"}
    assert len(judge_change(proposal(change), rules)) == 2
    found = one(judge_change(proposal(change, approvers=("grace",)), rules))
    assert found.mend == "ask edsger for an approval"
    assert judge_change(proposal(change, approvers=("grace", "Edsger")), rules) == ()


def test_an_owner_who_proposes_it_is_not_asked_to_approve_it() -> None:
    rules = RepoRules(owners=(Owners(paths=("models/",), owners=("ada", "Grace")),))
    change = dataclasses.replace(proposal({"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"}), author="grace")
    assert one(judge_change(change, rules)).mend == "ask ada for an approval"
    alone = RepoRules(owners=(Owners(paths=("models/",), owners=("grace",)),))
    assert one(judge_change(change, alone)).mend.startswith("let somebody else propose it: grace is the only one")


def test_what_a_change_of_the_rules_leaves_without_an_owner_was_not_so_before() -> None:
    rules = RepoRules(require_owners=True, owners=(Owners(paths=("models/",), owners=("ada",)),))
    change = proposal({"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"}, approvers=("ada",))
    assert one(judge_change(change, rules)).note.severity is Severity.ERROR


def test_a_new_model_needs_an_owner_and_an_old_one_is_only_said() -> None:
    rules = RepoRules(require_owners=True)
    new = proposal({"models/spam.yaml": MODEL.replace("fraud", "spam")})
    assert said(judge_change(new, rules)) == [("require_owners", "error", None, "models/spam.yaml")]
    old = proposal({"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"})
    assert one(judge_change(old, rules)).note.severity is Severity.WARNING


def test_whoever_changes_the_rules_is_seen() -> None:
    text = "apiVersion: sluicegate/v1\nkind: RepoRules\nmax_replicas: 5\n"
    change = proposal({"policies/rules.yaml": text})
    assert one(judge_change(change, RepoRules())).note.severity is Severity.WARNING
    owned = RepoRules(owners=(Owners(paths=("policies/",), owners=("ada",)),))
    assert one(judge_change(change, owned)).note.severity is Severity.ERROR


@pytest.mark.parametrize(
    ("window", "holds"),
    [
        (FrozenWindow(since=NOW, until=NOW + timedelta(hours=1), why="x"), True),
        (FrozenWindow(since=NOW - timedelta(hours=1), until=NOW, why="x"), False),
        (FrozenWindow(days=("monday",), why="x"), True),
        (FrozenWindow(days=("sunday",), why="x"), False),
        (FrozenWindow(days=("monday",), hours_from="12:00", hours_until="12:01", why="x"), True),
        (FrozenWindow(days=("monday",), hours_from="12:01", why="x"), False),
        (FrozenWindow(days=("monday",), hours_until="12:00", why="x"), False),
    ],
)
def test_a_window_is_frozen_from_its_first_moment_to_its_last(window: FrozenWindow, holds: bool) -> None:
    found = judge_change(
        proposal({"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"}), RepoRules(frozen=(window,))
    )
    assert said(found) == ([("frozen", "error", None, "models/fraud.yaml")] if holds else [])


def test_a_frozen_window_can_be_opened_by_whom_it_names() -> None:
    rules = RepoRules(frozen=(FrozenWindow(days=("monday",), why="Mondays", unless=("ada",)),))
    change = {"models/fraud.yaml": MODEL + "max_ongoing_requests: 8\n"}
    assert one(judge_change(proposal(change), rules)).mend == "wait for its end, or ask ada for an approval"
    assert one(judge_change(proposal(change, approvers=("ada",)), rules)).note.severity is Severity.WARNING


def test_a_readme_may_change_in_a_frozen_window() -> None:
    rules = RepoRules(frozen=(FrozenWindow(days=("monday",), why="Mondays"),))
    assert judge_change(proposal({"README.md": "# ours\n"}), rules) == ()


def test_files_of_sluicegates_own_are_said_once() -> None:
    change = {f"history/production/fraud/{n}.json": "{}" for n in range(9)}
    found = one(judge_change(proposal(change), RepoRules()))
    assert (found.rule, found.note.severity) == ("written by Sluicegate", Severity.WARNING)
    assert "and 8 more such files" in found.note.message


# --- secrets --------------------------------------------------------------------------------------------------

TOKEN = "ghp_" + "a1B2" * 10
RANDOM = "q7Zt0VbX2mKp9RwL4sYd6NfHc8Gj"


@pytest.mark.parametrize(
    ("path", "line", "severity"),
    [
        ("models/fraud.yaml", f"# our token is {TOKEN}", "error"),
        ("deploy.env", "DB_PASSWORD=hunter2hunter2", "error"),
        ("notes/plan.md", "password: ask the team", None),
        ("notes/plan.md", f"the key {RANDOM} opens it", "warning"),
        ("x.yaml", f"digest: sha256:{'0123456789abcdef' * 4}", None),
        ("x.yaml", "token_file: /run/secrets/token", None),
        ("notes.txt", "password = 8DwGw5HqXDgLVXZx", "error"),
        ("run.txt", "PGPASSWORD=hunter2hunter2 psql -h db", "error"),
        ("train.py", 'dbPassword = "hunter2hunter2"', "error"),
        ("train.py", 'password = os.environ["DB_PASSWORD2"]', None),
        ("train.py", "token = tokenizer2.bos_token", None),
        ("train.py", "password = read_secret2(path)", None),
        ("notes/plan.md", "the token: see https://wiki.example.com/page2", None),
    ],
)
def test_new_lines_are_searched_for_secrets_and_none_is_repeated(path: str, line: str, severity: str | None) -> None:
    text = f"{MODEL}{line}\n" if path.startswith("models/") else line
    change = proposal({path: text} if path.startswith("models/") else {})
    change = dataclasses.replace(change, new_lines={path: ((7, line),)})
    found = judge_change(change, RepoRules())
    assert [f.note.severity.value for f in found] == ([severity] if severity else [])
    assert all(TOKEN not in str(f) and RANDOM not in str(f) and "hunter2" not in str(f) for f in found)


@pytest.mark.parametrize(
    "key",
    [
        "dapi" + "0123456789abcdef" * 2,
        "sk-" + "0123456789abcdef" * 2,
        "sk-ant-api03-" + "a1_B2-c3" * 4,
        "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "npm_" + "a1B2c3D4e5F6" * 3,
        "pypi-" + "AgEIcHlwaS5vcmcCJDU3ZGM0",
        "ya29." + "a0AfH6SMBx7-Kd9_w",
        "GOCSPX-" + "a1B2c3D4e5F6a1B2c3D4",
        "SG." + "a1B2c3D4e5F6a1B2" + "." + "c3D4e5F6a1B2c3D4e5F6",
        "hvs." + "CAESIJ7x9Kq2mWv5tR8yPz",
        "dckr_pat_" + "a1B2c3D4e5F6a1B2c3D4",
        "xapp-" + "1-A0123456789-0123456789",
        "AccountKey=" + "a1B2" * 12 + "==",
    ],
)
def test_keys_of_providers_fail_wherever_they_stand(key: str) -> None:
    change = dataclasses.replace(proposal({}), new_lines={"notes.md": ((1, f"we use {key} for now"),)})
    found = one(judge_change(change, RepoRules()))
    assert (found.note.severity, key in str(found)) == (Severity.ERROR, False)
    assert key not in hidden(f"no model {key} here")


def test_what_only_looks_random_fails_where_the_rules_say_so() -> None:
    change = dataclasses.replace(proposal({}), new_lines={"a.txt": ((1, RANDOM),)})
    assert one(judge_change(change, RepoRules(random_text="fail"))).note.severity is Severity.ERROR


def test_a_dump_of_secrets_is_not_a_thousand_findings_and_says_how_many_it_left_out() -> None:
    change = dataclasses.replace(proposal({}), new_lines={"a.txt": tuple((n, TOKEN) for n in range(1, 1000))})
    found = judge_change(change, RepoRules())
    assert [f.note.line for f in found] == list(range(1, 22))
    assert "979 more lines of this file" in found[-1].note.message


def test_lines_that_look_random_hide_no_key() -> None:
    key = "AKIA" + "IOSFODNN7EXAMPLE"
    lines = [*(f"x{n} {RANDOM}{n}" for n in range(8)), TOKEN, key]
    change = dataclasses.replace(proposal({}), new_lines={"many.txt": tuple(enumerate(lines, 1))})
    found = judge_change(change, RepoRules())
    assert [(f.note.severity.value, f.note.line) for f in found] == [
        ("error", 9),
        ("error", 10),
        *(("warning", n) for n in range(1, 7)),
    ]
    assert "3 more lines" in found[-1].note.message


@pytest.mark.parametrize(
    "line",
    [
        "-eyJ" * 260_000,
        "://a:" * 200_000,
        "a=b" * 300_000,
        "sk-" * 300_000,
        "(pwd=a1b2c3d4(" * 80_000,
        "pwd1=" * 200_000 + "(",
        "eyJaaaaaaaa.x." * 80_000,
        "x: " + " " * 500_000,
    ],
)
@pytest.mark.timeout(10)
def test_a_line_of_a_megabyte_is_searched_once(line: str) -> None:
    change = dataclasses.replace(proposal({}), new_lines={"a.yaml": ((1, line),)})
    assert judge_change(change, RepoRules()) == ()


# --- the document ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("max_replica: 5", "did you mean max_replicas?"),
        ("slo_approvers: ['@ada']", "a person's name at the forge, without @"),
        ("frozen: [{why: x}]", "a frozen window is since and until, or days of the week"),
        ("frozen: [{why: x, days: [monday], hours_from: '25:00'}]", "a time of day in UTC"),
        ("min_canary: 0s", "rules.yaml:3: error: min_canary: is above 0s, not 0s"),
    ],
)
def test_what_is_wrong_with_the_rules_is_said_with_what_is_right(line: str, words: str) -> None:
    text = f"apiVersion: sluicegate/v1\nkind: RepoRules\n{line}\n"
    reading = read_repo(with_defaults({**FILES, "policies/rules.yaml": text}, built_in_documents()))
    assert reading.repo is None
    assert words in str(reading.notes[0])


def test_the_rules_have_one_place() -> None:
    text = "apiVersion: sluicegate/v1\nkind: RepoRules\n"
    reading = read_repo(with_defaults({**FILES, "policies/mine.yaml": text}, built_in_documents()))
    assert [(n.file, n.line, n.message) for n in reading.notes] == [
        ("policies/mine.yaml", 2, "the repo's rules belong into policies/rules.yaml")
    ]
    assert repo({**FILES, "policies/rules.yaml": text}).rules == RepoRules()
