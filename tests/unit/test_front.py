"""How a front asks its members: by the host of the day, within their time, once more where a host was gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from serving_runtime.front import ASKED_AT_MOST, Front, Heard, Question, Reply
from serving_runtime.front_config import FrontConfig, Member
from serving_runtime.protocol import Answer, Call

CALL = Call(b"{}", "application/json", "id-7")
QUESTION = Question(CALL)
GOOD = Reply(Answer(200, b"good"), "3")


class Gone(Exception):
    """What a handle raises when its application is not there."""


class Host:
    """One host: says what it is given to say, one after the other, and the last again and again."""

    def __init__(self, *says: Reply | Exception | Callable[[], Any]) -> None:
        self.says = list(says)
        self.asked: list[Call] = []
        self.questions: list[Question] = []
        self.about: Reply = Reply(Answer(200, b"{}"), "1")

    async def describe(self) -> Reply:
        return self.about

    async def ask(self, question: Question) -> Reply:
        self.asked.append(question.call)
        self.questions.append(question)
        say = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(say, Exception):
            raise say
        if isinstance(say, Reply):
            return say
        result: Reply = await say()
        return result


async def hangs() -> Reply:
    await asyncio.Event().wait()
    return GOOD


def member(model: str = "fraud", application: str = "v1", timeout_s: float = 5.0) -> Member:
    return Member(model=model, name=model.title(), application=application, timeout_s=timeout_s)


def config(*members: Member, **fields: Any) -> FrontConfig:
    return FrontConfig(front="both", route="/both", request_timeout_s=5.0, members=members or (member(),), **fields)


def front(hosts: dict[str, Host], *members: Member) -> Front:
    made = Front(lambda application: hosts[application])
    made.configure(config(*members))
    return made


def heard(hosts: dict[str, Host], one: Member | None = None) -> Heard:
    one = one or member()
    return asyncio.run(front(hosts, one).ask(one, QUESTION))


def test_a_member_answers_by_its_host() -> None:
    host = Host(GOOD)
    assert heard({"v1": host}) == Heard(member(), GOOD.answer, "3")
    assert host.asked == [CALL]


@pytest.mark.parametrize("status", [400, 500, 503, 504])
def test_what_was_answered_is_never_asked_again(status: int) -> None:
    host = Host(Reply(Answer(status, b"no"), "3"))
    assert heard({"v1": host}).answer.status == status
    assert len(host.asked) == 1


def test_a_call_that_was_lost_is_asked_once_more() -> None:
    host = Host(Gone("a replica died"), GOOD)
    assert heard({"v1": host}).answer == GOOD.answer
    assert len(host.asked) == ASKED_AT_MOST


def test_it_is_asked_of_the_host_that_the_front_was_told_of_meanwhile() -> None:
    """A promotion: the old host goes while the request is under way."""

    async def promoted() -> tuple[Heard, Front]:
        both = front({"v1": old, "v2": new})

        async def goes() -> Reply:
            both.configure(config(member(application="v2")))
            raise Gone("v1 was dropped")

        old.says = [goes]
        return await both.ask(member(), QUESTION), both

    old, new = Host(GOOD), Host(GOOD)
    answer, _ = asyncio.run(promoted())
    assert answer.answer == GOOD.answer
    assert (len(old.asked), len(new.asked)) == (1, 1)


def test_a_host_that_stays_away_is_503_with_the_request_id_and_no_internals() -> None:
    gone = heard({"v1": Host(Gone("secret address"))})
    assert (gone.answer.status, gone.answer.headers) == (503, (("retry-after", "1"),))
    assert b"id-7" in gone.answer.body
    assert b"secret" not in gone.answer.body
    assert "v1: Gone: secret address" in gone.reason


def test_a_host_that_hangs_is_504_within_the_members_time() -> None:
    hanging = Host(hangs)
    late = heard({"v1": hanging}, member(timeout_s=0.01))
    assert (late.answer.status, late.reason) == (504, "no answer within 0.01 s")
    assert len(hanging.asked) == 1


def test_members_are_found_by_name_and_by_slug() -> None:
    both = front({}, member("fraud"), member("churn"))
    assert both.find("churn") == both.find("Churn") == member("churn")
    assert both.find("other") is None


def test_ways_to_hosts_that_are_not_named_any_more_are_forgotten() -> None:
    made: list[str] = []

    async def asked_twice() -> None:
        both = Front(lambda application: made.append(application) or Host(GOOD))  # type: ignore[func-returns-value]
        for application in ("v1", "v1", "v2", "v1"):
            both.configure(config(member(application=application)))
            await both.ask(member(), QUESTION)

    asyncio.run(asked_twice())
    assert made == ["v1", "v2", "v1"]
