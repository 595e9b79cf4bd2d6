"""The parent of every process that Sluicegate starts on this machine: it ends the whole family, whatever happens.

    python -I -S process_guard.py <control fd> <report fd> <grace seconds> <command> [arguments...]

Rules:
- Run as a script by `processes.py`, never imported: standard library only, so that it starts fast (20 ms) and small.
- The control pipe's other end belongs to whoever started us and to nobody else. Its end of file means "stop": it comes
  also when that process is killed and could say nothing any more. (The kernel's parent-death signal alone would not do:
  it reaches one process and not its workers, and it fires when the *thread* that started it ends.)
- Orphaned descendants become ours (PR_SET_CHILD_SUBREAPER, Linux), so that "everything ended" can be known. On other
  systems only the process group is ended.
- When the command ends by itself, what it left running is ended too: a command has to stay in the foreground.

It must not log, retry or restart anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.02
"""While stopping; the wait before that sleeps until something happens."""
SIGNAL_EXIT = 128
"""Exit code of a command that a signal ended, as shells count: 128 + the signal's number."""
COMMAND_NOT_RUN = 127
"""Exit code when the command could not be started at all, as shells have it."""


def _prctl(option: int, value: int) -> None:
    """Ask the kernel; where there is no prctl (macOS) the process group is all that is ended."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(option, value, 0, 0, 0)


def _spawn(command: list[str], report: int) -> int:
    """Start the command and report its pid, or `!` and why not."""
    reading, writing = os.pipe()  # closed by a successful exec, carries the error of a failed one
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)  # a group without the guard
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should the guard itself be killed
        try:
            os.execvp(command[0], command)  # noqa: S606 (a list, no shell)
        except OSError as error:
            os.write(writing, os.strerror(error.errno or 0).encode())
        os._exit(COMMAND_NOT_RUN)
    os.close(writing)
    failure = os.read(reading, 1000)
    os.close(reading)
    os.write(report, b"!" + failure if failure else str(pid).encode())
    os.close(report)
    return pid


def _descendants(pid: int) -> Iterator[int]:
    """Every living descendant of `pid`, from /proc; nothing where there is no /proc."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended while we looked
            for child in task.read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _signal_family(group: int, number: signal.Signals) -> None:
    """To the command's group and to descendants that left it; once to each: some take a second one as "hurry"."""
    outside = []
    for pid in _descendants(os.getpid()):
        with contextlib.suppress(ProcessLookupError):  # it ended while we looked
            outside += [pid] if os.getpgid(pid) != group else []
    with contextlib.suppress(ProcessLookupError, PermissionError):  # the group is empty; macOS says so with EPERM
        os.killpg(group, number)
    for pid in outside:
        with contextlib.suppress(ProcessLookupError):  # the same
            os.kill(pid, number)


def _reap() -> dict[int, int] | None:
    """Exit codes of children that ended, by pid; None when no child is left."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended or None
        if pid == 0:
            return ended
        code = os.waitstatus_to_exitcode(status)
        ended[pid] = code if code >= 0 else SIGNAL_EXIT - code


def _end_family(command: int, grace_s: float, code: int | None) -> int | None:
    """SIGTERM, and SIGKILL after the grace, until no descendant is left. Returns the command's exit code, if known."""
    _signal_family(command, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while (ended := _reap()) is not None:
        code = ended.get(command, code)
        if time.monotonic() > deadline:
            _signal_family(command, signal.SIGKILL)
        time.sleep(POLL_S)
    return code


def _sleep_until_something_happens(control: int, waking: int) -> bool:
    """True when we are to stop; False when a child changed."""
    ready, _, _ = select.select([control, waking], [], [])
    signals = set(os.read(waking, 100)) if waking in ready else set()
    return control in ready or bool(signals & {signal.SIGTERM, signal.SIGINT})


def main(control: int, report: int, grace_s: float, command: list[str]) -> int:
    """Run the command until it ends or we are told to stop. Returns its exit code."""
    os.set_inheritable(control, False)
    os.set_inheritable(report, False)
    waking, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # a handler, not SIG_IGN: exec gives the command its defaults back
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    pid = _spawn(command, report)
    code = None
    while code is None and not _sleep_until_something_happens(control, waking):
        code = (_reap() or {}).get(pid)
    return _end_family(pid, grace_s, code) or 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4:]))
