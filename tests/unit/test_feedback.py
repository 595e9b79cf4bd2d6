"""Reports: which are read, whose answer they are about, and what is forgotten."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_runtime import feedback
from serving_runtime.feedback import ARMS_KNOWN, Arms, Refusal, Report, read_report, receipt
from serving_runtime.outcomes import Served
from serving_runtime.protocol import Answer

ONE = Served(1, "11111111")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_report_is_read() -> None:
    assert read_report(b'{"request_id": "r-1", "good": true}') == Report("r-1", good=True)
    body = b'{"request_id": "r-1", "good": false, "receipt": "1-11111111"}'
    assert read_report(body) == Report("r-1", good=False, receipt="1-11111111")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not JSON"),
        (b"[]", "no JSON object"),
        (b'{"good": true}', "request_id"),
        (b'{"request_id": 7, "good": true}', "request_id"),
        (b'{"request_id": "", "good": true}', "request_id"),
        (json.dumps({"request_id": "x" * 129, "good": True}).encode(), "request_id"),
        (b'{"request_id": "r", "good": 1}', "good"),
        (b'{"request_id": "r"}', "good"),
        (b'{"request_id": "r", "good": true, "receipt": 7}', "receipt"),
        (b'{"request_id": "r", "good": true, "value": 3.5}', "'value'"),
        (b'{"request_id": "' + b"x" * 5000, "4096 bytes"),
        (b"[" * 4000, "not JSON"),
    ],
)
def test_what_is_wrong_with_a_report_is_named_with_an_example(body: bytes, what: str) -> None:
    answer = read_report(body)
    assert isinstance(answer, Answer)
    assert answer.status == 400
    message = json.loads(answer.body)["message"]
    assert what in message
    assert '"request_id": "..."' in message


@given(st.binary(max_size=100))
def test_nothing_that_is_sent_raises(body: bytes) -> None:
    assert isinstance(read_report(body), Report | Answer)


def test_what_is_older_than_a_day_is_forgotten() -> None:
    clock = Clock()
    arms = Arms(clock)
    arms.answered("r-1", ONE)
    arms.answered("r-2", ONE)
    clock.now = feedback.REMEMBERED_S - 1
    assert arms.settle(Report("r-1", good=True)) == ONE
    clock.now = feedback.REMEMBERED_S
    assert arms.settle(Report("r-2", good=True)) is Refusal.UNKNOWN
    assert len(arms) == 1  # the report of r-1, until that is a day old too


def test_of_very_many_answers_the_latest_are_remembered() -> None:
    arms = Arms(Clock())
    for n in range(feedback.REMEMBERED + 10):
        arms.answered(f"r-{n}", ONE)
    assert len(arms) == feedback.REMEMBERED
    assert arms.settle(Report("r-9", good=True)) is Refusal.UNKNOWN
    assert arms.settle(Report("r-10", good=True)) == ONE


def test_an_id_that_is_used_again_means_the_later_request() -> None:
    arms, other = Arms(Clock()), Served(2, "22222222")
    arms.answered("r-1", ONE)
    assert arms.settle(Report("r-1", good=True)) == ONE
    arms.answered("r-1", other)
    assert arms.settle(Report("r-1", good=True)) == other


def test_a_request_without_an_id_cannot_be_reported() -> None:
    arms = Arms(Clock())
    arms.answered("", ONE)
    assert len(arms) == 0


def test_receipts_name_the_last_versions_only() -> None:
    arms = Arms(Clock())
    versions = [Served(n, "11111111") for n in range(1, ARMS_KNOWN + 2)]
    for served in versions:
        arms.know(served)
    settled: list[Any] = [arms.settle(Report(f"r-{s.version}", good=True, receipt=receipt(s))) for s in versions]
    assert settled == [Refusal.UNKNOWN, *versions[1:]]
