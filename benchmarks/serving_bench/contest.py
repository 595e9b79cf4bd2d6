"""One model on all systems: start them, see that they give the same answers, then load them in turn.

Rules:
- Nothing is measured that does not answer as plain Ray Serve does, which calls MLflow's own scoring function: compared
  as JSON, for each body. What answers otherwise, or not at all, is left out with its reason.
- A round loads everybody in a cell once, one after the other; the next reading starts when what the last load left in a
  server has been worked off.
- What a change of state leaves behind is over before a reading begins: Serve's proxy is told of it, loads its
  configuration anew, and for a second half of the requests/s were seen.
- CPU time is read right before and right after the load, of all processes of the system.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Self

import requests

from policies.errors import Stalled

from .figures import LeftOut, Reading
from .matrix import CAPTURE, FEW, ON_RAY, OTHERS, RAY_SERVE, SLUICEGATE, STATES, Cell, Contestant, contestants, in_turn
from .models import LoggedModel
from .ray_side import RaySide
from .servers import Server
from .usage import Process, cpu_s, rss_mb, wait_for_quiet
from .wrk import Wrk

ASK_LIMIT_S = 30.0
WARM_UP_S = SETTLE_S = 1
SETTLING_CONNECTIONS = 4
HTTP_OK = 200

Say = Callable[[str], None]


class Contest:
    """One model on every system that can serve it. A context manager."""

    def __init__(self, model: LoggedModel, ray: RaySide, folder: Path, *, install: bool, say: Say) -> None:
        """`folder` gets the servers' logs, `say` a line for each thing that happens."""
        self._model, self._ray, self._folder = model, ray, folder
        self._install, self._say = install, say
        self._servers: dict[str, Server] = {}
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy comes between us and loopback
        self.left_out: list[LeftOut] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # Ctrl-C too: nothing stays behind
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.stop()

    def rounds(self, cells: Sequence[Cell], wrk: Wrk, rounds: int, seconds: int) -> Iterator[Reading]:
        """Readings, round by round."""
        for number in range(rounds):
            for cell in cells:
                for contestant in in_turn(self._present(cell), number):
                    yield self._reading(cell, contestant, number, wrk, seconds)

    def warm_up(self, wrk: Wrk) -> None:
        """One short load for each system, which nobody reads."""
        for system in (*ON_RAY, *self._servers):
            wrk.load(self._url(system), self._model.bodies[1], 16, WARM_UP_S)

    # --- starting ----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for system in OTHERS:
            with self._or_left_out(system):
                server = Server(system, self._model, self._folder / system.replace(" ", "-"), install=self._install)
                server.start()
                self._servers[system] = server
        self._ray.serve(self._model)
        expected = {rows: self._ask(RAY_SERVE, rows) for rows in self._model.bodies}
        for system in (SLUICEGATE, *self._servers):
            with self._or_left_out(system):
                if system in self._servers:
                    self._servers[system].wait(lambda system=system: self._answers(system))  # type: ignore[misc]
                self._compare(system, expected)
        for state in STATES:
            with self._or_left_out(SLUICEGATE, state):
                self._enter(state)
                self._compare(SLUICEGATE, expected)
                if state == CAPTURE and not self._ray.captures(lambda: self._ask(SLUICEGATE, 1)):
                    raise Stalled("nothing is written: this version of the runtime does not capture")

    @contextlib.contextmanager
    def _or_left_out(self, system: str, state: str = "steady") -> Iterator[None]:
        """What cannot be measured is said, and the others are."""
        try:
            yield
        except Stalled as reason:
            self._say(f"{system}, {state} is left out: {reason}")
            self.left_out.append(
                LeftOut(contestant=Contestant(system, state), model=self._model.name, reason=_first_line(reason))
            )
            if system in self._servers:
                self._servers.pop(system).stop()

    def _answers(self, system: str) -> bool:
        try:
            self._ask(system, 1)
        except (Stalled, requests.RequestException):
            return False
        return True

    def _compare(self, system: str, expected: dict[int, object]) -> None:
        for rows, answer in expected.items():
            got = self._ask(system, rows)
            if got != answer:
                raise Stalled(f"it answers {rows} rows with {got!r:.200}, not {answer!r:.200}")

    def _ask(self, system: str, rows: int) -> object:
        """The answer as JSON. Raises Stalled where it is none."""
        headers = {"content-type": "application/json"}
        body = self._model.bodies[rows]
        answer = self._session.post(self._url(system), data=body, headers=headers, timeout=ASK_LIMIT_S)
        if answer.status_code != HTTP_OK:
            raise Stalled(f"it answers {rows} rows with {answer.status_code} {answer.text:.200}")
        return answer.json()

    # --- measuring ---------------------------------------------------------------------------------------------

    def _present(self, cell: Cell) -> tuple[Contestant, ...]:
        missing = {(left.contestant.system, left.contestant.state) for left in self.left_out}
        return tuple(
            each
            for each in contestants(cell)
            if (each.system, each.state) not in missing and (each.system, "steady") not in missing
        )

    def _reading(self, cell: Cell, contestant: Contestant, number: int, wrk: Wrk, seconds: int) -> Reading:
        if contestant.system == SLUICEGATE and self._enter(contestant.state):
            wrk.load(self._url(SLUICEGATE), self._model.bodies[FEW], SETTLING_CONNECTIONS, SETTLE_S)
            wait_for_quiet(lambda: self._look(SLUICEGATE))

        def look() -> list[Process]:
            return self._look(contestant.system)

        body = self._model.bodies[cell.rows_per_request]
        before = cpu_s(look)
        load = wrk.load(self._url(contestant.system), body, cell.connections, seconds)
        used_s, resident_mb = cpu_s(look) - before, rss_mb(look)
        wait_for_quiet(look)
        return Reading(
            cell=cell,
            contestant=contestant,
            round=number,
            requests_per_s=load.requests_per_s,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            cpu_ms_per_request=used_s * 1000 / load.requests,
            rss_mb=resident_mb,
            failed=load.failed,
        )

    def _enter(self, state: str) -> bool:
        """Bring Sluicegate's host into that state; False where it is. One answer shows that the route is there."""
        if self._ray.state == state:
            return False
        self._ray.enter(state)
        self._ask(SLUICEGATE, FEW)
        return True

    def _url(self, system: str) -> str:
        return self._ray.url(system) if system in ON_RAY else self._servers[system].url

    def _look(self, system: str) -> list[Process]:
        return self._ray.look(system) if system in ON_RAY else self._servers[system].look()


def _first_line(reason: Stalled) -> str:
    """Without the end of a log, which has paths in it."""
    return str(reason).splitlines()[0].partition("; the end of ")[0]
