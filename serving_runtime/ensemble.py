"""An ensemble's answer to one request: ask all members at once, combine what they predict.

Rules:
1. Every member gets the request as it came. One that does not answer well is left out, as long as enough others do
   (`needed`); else the ensemble answers what the member did: a wrong request first, for the user can mend that.
2. The whole takes `request_timeout_s` at most, whatever members and the function do.
3. Combining blocks nobody: your own functions, and ours on large answers, run in a thread.
4. A function that fails is the ensemble's fault: 500 with the request id, its reason in the log.
5. Members are asked in the protocol that the client speaks, and answer in it: `Words` is one protocol's side of it.
6. A client that goes away does not end what its request began: hosts count what they were asked.

Nothing here knows Ray or HTTP: `Front` is the way to the members, `FrontTally` where counts go.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

from serving_runtime.combining import Combine, Options
from serving_runtime.front import Front, Heard, Question
from serving_runtime.front_config import FrontConfig
from serving_runtime.outcomes import Outcome, UserOutcome, outcome_of
from serving_runtime.protocol import Answer, Call, CallKind, model_fault, timed_out, unavailable

_log = logging.getLogger(__name__)

# As many as a version's own predict threads: functions compute, and the members are what takes time.
COMBINE_THREADS = 8
# Ours takes a tenth of a millisecond for so much; larger answers are combined in a thread.
COMBINED_AT_ONCE_BYTES = 8 * 1024


class FrontTally(Protocol):
    """Where counts go. Cheap; never raises."""

    def answered(self, outcome: UserOutcome, elapsed_ms: float) -> None:
        """A user got this, after so long."""

    def heard(self, model: str, outcome: Outcome) -> None:
        """A member answered, or did not."""


class Predicted(Protocol):
    """What one member answered well."""

    @property
    def predictions(self) -> Any:
        """What the function gets of it."""


class Words(Protocol):
    """How a protocol says predictions."""

    def read(self, answer: Answer) -> Any:
        """A member's good answer as `Predicted`; none where it is something else."""

    def write(self, combined: Any, said: Sequence[Any], versions: str) -> Answer:
        """The answer that the combined prediction is; `said` is what was read. May raise."""


@dataclasses.dataclass(frozen=True)
class _Plain:
    predictions: Any


class Invocations:
    """MLflow's scoring protocol."""

    def read(self, answer: Answer) -> _Plain | None:
        """What stands under `predictions`."""
        try:
            told = json.loads(answer.body)
        except (ValueError, RecursionError):
            return None
        return _Plain(told["predictions"]) if isinstance(told, dict) and "predictions" in told else None

    def write(self, combined: Any, _said: Sequence[Any], _versions: str) -> Answer:
        """The same."""
        return Answer(200, json.dumps({"predictions": combined}, allow_nan=False, default=_plain).encode())


_INVOCATIONS = Invocations()


class Ensemble:
    """Answers for several members. One event loop owns it."""

    def __init__(
        self,
        front: Front,
        combine: Combine,
        options: Options,
        tally: FrontTally,
        *,
        ours: bool,
        tensors: Words = _INVOCATIONS,
    ) -> None:
        """`ours`: `combine` is one of `combining.py`, which neither waits nor takes long for little.

        `tensors` are the words of the Open Inference Protocol.
        """
        self._front, self._combine, self._options = front, combine, options
        self._tally, self._ours, self._tensors = tally, ours, tensors
        self._threads = ThreadPoolExecutor(COMBINE_THREADS, thread_name_prefix="combine")

    async def answer(self, call: Call) -> tuple[Answer, str]:
        """The answer, and the versions behind it as `member=version`. Raises nothing but CancelledError."""
        started = time.perf_counter()
        config = self._front.config
        if config is None:
            answer, versions = unavailable(call.request_id), ""
        else:
            answer, versions = await self._within_its_time(call, config)
        outcome = _USER[outcome_of(answer.status)]
        self._tally.answered(outcome, (time.perf_counter() - started) * 1000.0)
        return answer, versions

    async def _within_its_time(self, call: Call, config: FrontConfig) -> tuple[Answer, str]:
        try:
            async with asyncio.timeout(config.request_timeout_s):
                heard = await asyncio.gather(*(self._front.ask(member, Question(call)) for member in config.members))
                return await self._combined(call, heard, config.needed)
        except TimeoutError:
            _log.warning("no answer within %g s to request id %s", config.request_timeout_s, call.request_id)
            return timed_out(call.request_id, config.request_timeout_s), ""

    async def _combined(self, call: Call, heard: Sequence[Heard], needed: int) -> tuple[Answer, str]:
        words = self._tensors if call.kind is CallKind.INFER else _INVOCATIONS
        said: dict[str, Any] = {}
        failed: list[Heard] = []
        for each in heard:
            outcome = outcome_of(each.answer.status)
            if outcome is Outcome.GOOD and (read := words.read(each.answer)) is not None:
                said[each.member.name] = read
            else:
                outcome = Outcome.BAD if outcome is Outcome.GOOD else outcome
                failed.append(each)
            self._tally.heard(each.member.model, outcome)
        if len(said) < needed:
            sent = _first_of(failed)
            return _answer_of(sent, call), _versions(each for each in heard if each not in failed or each is sent)
        versions = _versions(each for each in heard if each not in failed)
        size = sum(len(each.answer.body) for each in heard)
        return await self._answer(call, partial(self._written, words, said, versions), size), versions

    async def _answer(self, call: Call, written: Callable[[], Answer], size: int) -> Answer:
        try:
            if self._ours and size <= COMBINED_AT_ONCE_BYTES:
                return written()
            return await asyncio.get_running_loop().run_in_executor(self._threads, written)
        except Exception:  # noqa: BLE001 whatever somebody's function raises
            _log.exception("combining failed on request id %s", call.request_id)
            return model_fault(call.request_id)

    def _written(self, words: Words, said: Mapping[str, Predicted], versions: str) -> Answer:
        combined = self._combine({name: each.predictions for name, each in said.items()}, self._options)
        return words.write(combined, list(said.values()), versions)

    async def described(self, request_id: str) -> Sequence[Heard]:
        """What the members' hosts say of themselves; of none, while it has been told of none."""
        config = self._front.config
        members = config.members if config else ()
        return await asyncio.gather(*(self._front.describe(member, request_id) for member in members))

    @property
    def needed(self) -> int:
        """How many of the members must answer."""
        return self._front.config.needed if self._front.config else 1


def _first_of(failed: Sequence[Heard]) -> Heard:
    """Whose answer is sent: a wrong request first; then whatever failed first."""
    wrong = [each for each in failed if outcome_of(each.answer.status) is Outcome.CLIENT_ERROR]
    return (wrong or list(failed))[0]


def _answer_of(sent: Heard, call: Call) -> Answer:
    """The member's own answer; one that answered something else than it should failed, too."""
    return sent.answer if outcome_of(sent.answer.status) is not Outcome.GOOD else model_fault(call.request_id)


def _versions(heard: Iterable[Heard]) -> str:
    return ",".join(f"{each.member.model}={each.version}" for each in heard if each.version)


def _plain(value: Any) -> Any:
    """Numpy's arrays and numbers, which functions like to return."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


_USER = {
    Outcome.GOOD: UserOutcome.OK,
    Outcome.BAD: UserOutcome.ERROR,
    Outcome.CLIENT_ERROR: UserOutcome.CLIENT_ERROR,
}
