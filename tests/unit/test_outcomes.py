"""What an answer counts as, and counting in start order."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_runtime.outcomes import Joint, Outcome, StartOrder, Ticket, candidate_outcome, joint_outcome, outcome_of

GOOD, BAD, RESCUED, CLIENT_ERROR = Outcome.GOOD, Outcome.BAD, Outcome.RESCUED, Outcome.CLIENT_ERROR


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(200, GOOD), (204, GOOD), (399, GOOD), (400, CLIENT_ERROR), (415, CLIENT_ERROR), (499, CLIENT_ERROR), (500, BAD)],
)
def test_an_outcome_is_the_status_class(status: int, outcome: Outcome) -> None:
    assert outcome_of(status) is outcome


def test_a_candidate_that_refuses_what_stable_answers_is_wrong() -> None:
    assert candidate_outcome(CLIENT_ERROR, GOOD) is RESCUED
    assert candidate_outcome(CLIENT_ERROR, CLIENT_ERROR) is CLIENT_ERROR
    assert candidate_outcome(CLIENT_ERROR, BAD) is CLIENT_ERROR


def test_bad_answers_are_told_apart_by_what_stable_answered() -> None:
    assert candidate_outcome(BAD, GOOD) is RESCUED
    assert candidate_outcome(BAD, BAD) is BAD
    assert candidate_outcome(BAD, CLIENT_ERROR) is BAD
    assert candidate_outcome(GOOD, BAD) is GOOD
    assert candidate_outcome(GOOD, GOOD) is GOOD


def test_pairs_name_the_candidate_first_and_wrong_requests_are_no_pair() -> None:
    assert joint_outcome(RESCUED, GOOD) is Joint.BAD_GOOD
    assert joint_outcome(GOOD, BAD) is Joint.GOOD_BAD
    assert joint_outcome(GOOD, GOOD) is Joint.GOOD_GOOD
    assert joint_outcome(BAD, BAD) is Joint.BAD_BAD
    assert joint_outcome(CLIENT_ERROR, BAD) is None
    assert joint_outcome(GOOD, CLIENT_ERROR) is None


class Released:
    """Collects what StartOrder releases."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()

    def __call__(self, event: int, number: int) -> None:
        self.counts[event] += number


def test_a_younger_answer_waits_for_an_older_one() -> None:
    released = Released()
    order: StartOrder[int] = StartOrder(released)
    slow, fast = order.start(), order.start()
    order.finish(fast, (2,))
    assert not released.counts
    order.finish(slow, (1,))
    assert released.counts == {1: 1, 2: 1}


def test_finishing_twice_counts_once() -> None:
    released = Released()
    order: StartOrder[int] = StartOrder(released)
    ticket = order.start()
    order.finish(ticket, (1,))
    order.finish(ticket, (1,))
    assert released.counts == {1: 1}


def test_a_request_that_counts_as_nothing_still_gives_its_place_back() -> None:
    released = Released()
    order: StartOrder[int] = StartOrder(released)
    nothing, good = order.start(), order.start()
    order.finish(good, (2,))
    order.finish(nothing)
    assert released.counts == {2: 1}


@given(st.data())
def test_what_is_released_is_always_the_finished_prefix(data: st.DataObject) -> None:
    """Each request is its own event; any interleaving of starts and finishes."""
    released = Released()
    order: StartOrder[int] = StartOrder(released)
    tickets: list[Ticket[int]] = []
    ongoing: set[int] = set()
    for _ in range(data.draw(st.integers(1, 60))):
        if not ongoing or data.draw(st.booleans()):
            ongoing.add(len(tickets))
            tickets.append(order.start())
        else:
            done = data.draw(st.sampled_from(sorted(ongoing)))
            ongoing.remove(done)
            order.finish(tickets[done], (done,))
        prefix = min(ongoing, default=len(tickets))
        assert released.counts == Counter(range(prefix))
    for rest in data.draw(st.permutations(sorted(ongoing))):
        order.finish(tickets[rest], (rest,))
    assert released.counts == Counter(range(len(tickets)))


def test_memory_is_bounded_by_requests_in_progress() -> None:
    order: StartOrder[str] = StartOrder(lambda _event, _number: None)
    slow = order.start()
    for _ in range(10_000):
        order.finish(order.start(), ("good",))
    assert slow.waiting == {"good": 10_000}
    assert slow.newer is None
