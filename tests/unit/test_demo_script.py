"""The story ends well only when everything that it promises holds, and says what does not."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from datetime import timedelta

import pytest
from rich.console import Console

from pipelines.demo.documents import MODEL, demo_policy, documents
from pipelines.demo.load import RATE, Counters
from pipelines.demo.models import REFUSED_ROWS, SLOW_ROWS
from pipelines.demo.report import DemoReport, RequestsReport, RolloutReport
from pipelines.demo.script import Ending, Story, WentWrong, promises
from pipelines.demo.timeline import Timeline
from policies.actions import Wait
from policies.application import Application
from policies.config_repo_documents import parse_repo, with_defaults
from policies.errors import Retry
from policies.evidence import Bin, Counts, Evidence, Objective, Sli, Source
from policies.judge import judge
from policies.release import Cause, CauseKind, Outcome, Phase, Quarantined, Release
from policies.rollout_record import HistoryRecord
from policies.verdict import VerdictKind
from tests.unit.test_demo_report import START, history

SLUICE = """\
apiVersion: sluicegate/v1
kind: Sluice
environments:
  production:
    trigger:
      stage: Production
"""


def application(version: int) -> Application:
    return Application(version=version, digest="sha256:" + f"{version}" * 64)


def release(*, phase: Phase = Phase.STEADY) -> Release:
    bad = application(3)
    entry = Quarantined(
        version=3, digest=bad.digest, build=bad.build, rollout=history().rollout, since=START, reasons=("errors",)
    )
    return Release(model=MODEL, environment="production", phase=phase, stable=application(2), quarantine=(entry,))


def past(version: int, outcome: Outcome) -> HistoryRecord:
    return dataclasses.replace(history(), version=version, outcome=outcome, rollout=f"rollout-v{version}")


STORY = (past(1, Outcome.PROMOTED), past(2, Outcome.PROMOTED), past(3, Outcome.ROLLED_BACK))
STAGES = {"1": "Archived", "2": "Production", "3": "Archived"}


class FakeStack:
    """A stack that shows what the test says, look after look; its last look stays."""

    tracking_uri = "http://127.0.0.1:1"

    def __init__(self, *looks: tuple[Release | None, tuple[HistoryRecord, ...]] | Retry) -> None:
        self._looks = list(looks)
        self._seen: tuple[Release | None, tuple[HistoryRecord, ...]] = (None, ())

    def route_url(self, model: str) -> str:
        return f"http://127.0.0.1:1/models/{model}"

    def release(self, model: str) -> Release | None:
        del model
        look = self._looks.pop(0) if self._looks else self._seen
        if isinstance(look, Retry):
            raise look
        self._seen = look
        return look[0]

    def history(self, model: str) -> tuple[HistoryRecord, ...]:
        del model
        return self._seen[1]

    def waiting(self, model: str) -> Wait | None:
        return Wait(model=model, environment="production", reason="proof e-value 12 < 100")

    def git_log(self) -> list[str]:
        return ["abc1234 something happened"]

    def commits(self, rollout: str) -> list[str]:
        return [f"abc1234 {rollout}"]

    def git_equals_ray(self) -> bool:
        return True

    def registry_stages(self, model: str) -> Mapping[str, str]:
        del model
        return STAGES

    def registry_tags(self, model: str, version: int) -> Mapping[str, str]:
        return {"sluice.production.verdict": f"FAIL of {model} v{version}"}


def story(*looks: tuple[Release | None, tuple[HistoryRecord, ...]] | Retry) -> Story:
    return Story(FakeStack(*looks), Timeline(Console(file=io.StringIO()), demo_policy()))


def ending(**changes: object) -> Ending:
    report = DemoReport(
        rollouts=tuple(RolloutReport.of(record, ["abc1234 x"]) for record in STORY),
        requests=RequestsReport.of(Counters(sent=9000, by_version={"1": 1, "2": 8999})),
        registry=STAGES,
        git_equals_ray=True,
        seconds=150.0,
    )
    tags = {"sluice.production.verdict": "FAIL"}
    return dataclasses.replace(Ending(report=report.model_copy(update=changes), release=release(), tags=tags))


def broken(end: Ending) -> list[str]:
    return [sentence for sentence, holds in promises(end) if not holds]


def test_the_story_as_it_should_be_breaks_no_promise() -> None:
    assert broken(ending()) == []


def test_each_thing_that_goes_wrong_is_named() -> None:
    failed = RequestsReport(sent=9000, failed=1, by_version={})
    assert broken(ending(requests=failed)) == ["no request failed"]
    assert broken(ending(git_equals_ray=False)) == ["Ray serves exactly what Git says"]
    assert broken(ending(rollouts=())) == ["v1 and v2 were promoted, then v3 was rolled back"]
    assert "it says {'1': 'Production'}" in broken(ending(registry={"1": "Production"}))[0]
    assert broken(dataclasses.replace(ending(), tags={})) == ["v3 carries tags that say why"]
    unquarantined = dataclasses.replace(release(), quarantine=())
    assert broken(dataclasses.replace(ending(), release=unquarantined)) == ["v3 is in quarantine and stays down"]


def test_a_load_that_never_began_is_not_a_load_without_failures() -> None:
    assert broken(ending(requests=RequestsReport(sent=0, failed=0, by_version={}))) == [
        "requests were sent all the while"
    ]


def test_waiting_ends_when_the_rollout_has_ended_as_told_also_after_a_busy_look() -> None:
    moving = dataclasses.replace(release(), phase=Phase.SETTLING)
    told = story(Retry("Git is busy"), (moving, STORY[:1]), (release(), STORY[:2]))
    told._rolled_out(2, Outcome.PROMOTED, 20)
    assert told.ending(1.0).report.rollouts[-1].version == 2


def test_a_rollout_that_ends_otherwise_stops_the_story_at_once_with_its_cause() -> None:
    cause = Cause(kind=CauseKind.NOT_READY, reasons=("it could not start: ModuleNotFoundError",))
    other = dataclasses.replace(past(2, Outcome.ROLLED_BACK), cause=cause)
    with pytest.raises(WentWrong, match="v2 should have been promoted, and was rolled_back: it could not start"):
        story((release(), (STORY[0], other)))._rolled_out(2, Outcome.PROMOTED, 20)


def test_a_wait_that_is_too_long_ends_with_what_was_seen_last() -> None:
    shadow = dataclasses.replace(release(), phase=Phase.SHADOW)
    with pytest.raises(WentWrong, match="SHADOW at 0 %, waiting: proof e-value 12 < 100"):
        story((shadow, ()))._rolled_out(2, Outcome.PROMOTED, 0.05)
    with pytest.raises(WentWrong, match="no release in Git"):
        story((None, ()))._rolled_out(2, Outcome.PROMOTED, 0.05)
    with pytest.raises(WentWrong, match="Git is busy"):
        story(Retry("Git is busy"))._rolled_out(2, Outcome.PROMOTED, 0.05)


def test_the_last_rollouts_tags_are_read_from_the_registry() -> None:
    told = story((release(), STORY))
    told._look()
    end = told.ending(150.0)
    assert end.tags == {"sluice.production.verdict": "FAIL of breast-cancer v3"}
    assert end.report.rollouts[2].commits == ("abc1234 rollout-v3",)


def test_the_documents_make_a_config_repo_without_a_note_of_error() -> None:
    from importlib.resources import files

    defaults = {f.name: f.read_text() for f in files("policies.defaults").iterdir() if f.name.endswith(".yaml")}
    repo = parse_repo(with_defaults({"sluice.yaml": SLUICE, **documents()}, defaults))
    model = repo.models[MODEL]
    assert repo.policies[model.rollout] == demo_policy()
    judged = {repo.slos[name].sli: repo.slos[name] for name in model.slos}
    assert judged[Sli.ERRORS].target == 0.99
    assert (judged[Sli.LATENCY].target, judged[Sli.LATENCY].threshold_ms) == (0.9, 500)


def test_the_judge_proves_a_healthy_version_within_the_shadow_also_on_slow_cores() -> None:
    shadow = demo_policy().shadow
    assert shadow is not None
    seconds = int(shadow.max_duration.total_seconds() / 4)
    assert verdict(seconds, failing=0.0, slow=0.03, stable_slow=0.03) == VerdictKind.PASS


def test_the_judge_catches_the_faulty_version_by_its_errors_before_anybody_sees_it() -> None:
    assert verdict(15, failing=REFUSED_ROWS / 569, slow=SLOW_ROWS / 569) == VerdictKind.FAIL


def verdict(seconds: int, *, failing: float, slow: float, stable_slow: float = 0.0) -> VerdictKind:
    """The judge's, after so many seconds of the demo's load with those shares of bad answers."""

    def evidence(name: str, sli: Sli, target: float, bad: float, stable: float) -> Evidence:
        bins = tuple(
            Bin(START + timedelta(seconds=n), Counts(RATE, RATE * bad), Counts(RATE, RATE * stable))
            for n in range(seconds)
        )
        objective = Objective(name=name, sli=sli, target=target, threshold_ms=500 if sli is Sli.LATENCY else None)
        source = Source(available=True, query="of this test")
        return Evidence(objective=objective, width=timedelta(seconds=1), bins=bins, source=source)

    all_of_it = [
        evidence("errors", Sli.ERRORS, 0.99, failing, 0.0),
        evidence("demo-latency", Sli.LATENCY, 0.9, slow, stable_slow),
    ]
    return judge(all_of_it, demo_policy(), step_since=START, now=START + timedelta(seconds=seconds)).kind
