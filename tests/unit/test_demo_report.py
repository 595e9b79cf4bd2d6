"""The demo's report has the promised shape, and says the same in words."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.demo.load import Counters
from pipelines.demo.report import DemoReport, RequestsReport, RolloutReport, summary, write_report
from policies.release import Outcome, Phase, PhaseRecord
from policies.rollout_record import HistoryRecord
from policies.verdict import VerdictKind

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FAILED = "errors: 9 bad of 200 (4.5 %), SLO allows 1 %; harm e-value 412 >= 100 -> FAIL"


def history() -> HistoryRecord:
    warming = PhaseRecord(
        phase=Phase.WARMING, weight_percent=0, since=START, until=START + timedelta(seconds=9), reasons=("ready",)
    )
    shadow = PhaseRecord(
        phase=Phase.SHADOW,
        weight_percent=0,
        since=START + timedelta(seconds=9),
        live_since=START + timedelta(seconds=10),
        until=START + timedelta(seconds=14),
        verdict=VerdictKind.FAIL,
        reasons=(FAILED,),
    )
    return HistoryRecord(
        model="breast-cancer",
        environment="production",
        rollout="20261123-120000-v3-0a1b2c3d",
        version=3,
        digest="sha256:" + "0" * 64,
        stable_version=2,
        outcome=Outcome.ROLLED_BACK,
        started_at=START,
        ended_at=START + timedelta(seconds=16),
        cause=None,
        phases=(warming, shadow),
    )


def report() -> DemoReport:
    counters = Counters(live=True, before=40, sent=1204, failed=0, by_version={"1": 1000, "2": 204})
    return DemoReport(
        rollouts=(RolloutReport.of(history(), ["abc1234 breast-cancer: v3 SHADOW -> ROLLING_BACK"]),),
        requests=RequestsReport.of(counters),
        registry={"1": "Archived", "2": "Production", "3": "Archived"},
        git_equals_ray=True,
        seconds=131.4,
    )


def test_the_report_has_the_promised_shape(tmp_path: Path) -> None:
    path = write_report(tmp_path / ".sluice", report())
    written = json.loads(path.read_text())
    assert path.name == "demo-report.json"
    assert list(written) == ["rollouts", "requests", "registry", "git_equals_ray", "seconds"]
    assert list(written["rollouts"][0]) == ["model", "version", "outcome", "phases", "commits"]
    phase = written["rollouts"][0]["phases"][1]
    assert list(phase) == ["phase", "weight_percent", "since", "until", "verdict", "reasons"]
    assert (phase["phase"], phase["verdict"], phase["reasons"]) == ("SHADOW", "FAIL", [FAILED])
    assert written["rollouts"][0]["outcome"] == "rolled_back"
    assert written["requests"] == {"sent": 1204, "failed": 0, "by_version": {"1": 1000, "2": 204}}
    assert written["registry"] == {"1": "Archived", "2": "Production", "3": "Archived"}


def test_a_report_replaces_the_one_before_and_leaves_no_draft(tmp_path: Path) -> None:
    write_report(tmp_path, report())
    path = write_report(tmp_path, report().model_copy(update={"seconds": 7.0}))
    assert DemoReport.model_validate_json(path.read_text()).seconds == 7.0
    assert list(tmp_path.iterdir()) == [path]


def test_a_key_that_was_not_promised_is_refused() -> None:
    with pytest.raises(ValidationError, match="mood"):
        DemoReport.model_validate({**report().model_dump(), "mood": "good"})


def test_the_summary_says_what_happened_with_times_arithmetic_and_the_audit_trail() -> None:
    words = "\n".join(summary(report(), ["abc1234 breast-cancer: v3 SHADOW -> ROLLING_BACK"]))
    assert "breast-cancer v3: rolled back" in words
    assert "5 s  FAIL" in words
    assert FAILED in words
    assert "Requests: 1,204 sent, 0 failed; 1,000 by v1, 204 by v2" in words
    assert "Registry: v1 Archived, v2 Production, v3 Archived" in words
    assert "Ray serves exactly what Git says" in words
    assert words.endswith("git log --oneline\n  abc1234 breast-cancer: v3 SHADOW -> ROLLING_BACK")
