from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.processes import LOOPBACK, ManagedProcess, answers, free_port, log_end, port_is_free
from policies.errors import Stalled
from tests.conditions import wait_until

SOON_S = 20.0
WAITING = "import signal; signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\nwhile 1: signal.pause()"
)
FAMILY = """
import os, signal, subprocess, sys
same = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
away = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
orphan = subprocess.check_output([sys.executable, "-c", '''
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], stdout=subprocess.DEVNULL,
                       start_new_session=True).pid)
'''], text=True).strip()
print("family", same.pid, away.pid, orphan, flush=True)
signal.pause()
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def family_of(log: Path) -> list[int]:
    wait_until(lambda: "family" in log_end(log), SOON_S, "the family is complete")
    return [int(pid) for pid in log_end(log).split()[1:]]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "it.log"


@pytest.fixture
def family(log: Path) -> Iterator[ManagedProcess]:
    with ManagedProcess("family", python(FAMILY), log) as process:
        yield process


def test_a_command_runs_with_its_own_pid_and_writes_to_its_log(log: Path) -> None:
    code = "import os, sys; print(os.getpid(), flush=True); print('err', file=sys.stderr, flush=True);" + WAITING
    with ManagedProcess("it", python(code), log) as process:
        process.wait_until(lambda: "err" in log_end(log), "talking", SOON_S)
        assert log_end(log).split() == [str(process.pid), "err"]
        assert process.running
        assert process.exit_code is None
    assert not process.running
    assert process.exit_code == 128 + signal.SIGTERM


def test_a_command_that_does_not_exist_is_named(log: Path) -> None:
    process = ManagedProcess("it", ["no-such-command-anywhere"], log)
    with pytest.raises(Stalled, match="it could not be started: no-such-command-anywhere: No such file"):
        process.start()
    assert not process.running


def test_a_folder_that_does_not_exist_is_named(log: Path, tmp_path: Path) -> None:
    with pytest.raises(Stalled, match="absent"):
        ManagedProcess("it", python(WAITING), log, cwd=tmp_path / "absent").start()


def test_a_command_that_dies_early_says_why_with_its_last_words(log: Path) -> None:
    code = "import sys; print('port 80 is taken'); sys.exit(3)"
    with (
        ManagedProcess("it", python(code), log) as process,
        pytest.raises(Stalled, match=r"it ended \(exit code 3\) before it was ready(.|\n)*port 80 is taken"),
    ):
        process.wait_until(lambda: False, "ready", SOON_S)
    assert process.exit_code == 3


def test_a_command_that_a_signal_ended_says_which(log: Path) -> None:
    with ManagedProcess("it", python(WAITING), log) as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(Stalled, match=r"signal 9.*is empty"):
            process.wait_until(lambda: False, "ready", SOON_S)


def test_waiting_ends_at_its_deadline_with_what_was_waited_for(log: Path) -> None:
    with (
        ManagedProcess("it", python(WAITING), log) as process,
        pytest.raises(Stalled, match=r"it: not answering after 0\.1 s"),
    ):
        process.wait_until(lambda: False, "answering", 0.1)


def test_stop_ends_children_in_other_sessions_and_orphans_too(family: ManagedProcess) -> None:
    pids = [family.pid, *family_of(family.log)]
    assert len(pids) == 4
    assert all(alive(pid) for pid in pids)
    family.stop()
    assert not any(alive(pid) for pid in pids)


def test_what_a_killed_command_leaves_behind_is_ended(family: ManagedProcess) -> None:
    pids = family_of(family.log)
    os.kill(family.pid, signal.SIGKILL)
    wait_until(lambda: not family.running, SOON_S, "the guard is done")
    assert not any(alive(pid) for pid in pids)


def test_a_command_that_ignores_sigterm_is_killed_after_its_grace(log: Path) -> None:
    process = ManagedProcess("it", python(STUBBORN), log, grace_s=0.2).start()
    process.wait_until(lambda: "deaf" in log_end(log), "deaf", SOON_S)
    process.stop()
    assert process.exit_code == 128 + signal.SIGKILL
    assert not alive(process.pid)


def test_stop_may_be_repeated_and_come_before_the_start(log: Path) -> None:
    process = ManagedProcess("it", python(WAITING), log)
    process.stop()
    process.start()
    process.stop()
    process.stop()
    assert not process.running


def test_nothing_outlives_a_starter_that_is_killed(log: Path, tmp_path: Path) -> None:
    """Started from a thread that has ended, as a parent-death signal alone would get that wrong."""
    starter = tmp_path / "starter.py"
    starter.write_text(
        textwrap.dedent(f"""
        import signal, sys, threading
        from pathlib import Path
        from pipelines.processes import ManagedProcess
        process = ManagedProcess("family", {python(FAMILY)!r}, Path({str(log)!r}))
        thread = threading.Thread(target=process.start)
        thread.start()
        thread.join()
        print(process.pid, flush=True)
        signal.pause()
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    parent = subprocess.Popen([sys.executable, str(starter)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    with parent.stdout:
        pids = [int(parent.stdout.readline()), *family_of(log)]
    assert all(alive(pid) for pid in pids)
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), SOON_S, "all of them are gone")
    assert parent.returncode == -signal.SIGKILL


def test_a_guard_that_is_killed_takes_the_command_along(log: Path) -> None:
    process = ManagedProcess("it", python(WAITING), log).start()
    guard = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: not alive(process.pid), SOON_S, "the command is gone")
    process.stop()
    assert not process.running


def test_the_command_gets_exactly_the_environment_it_was_given(log: Path) -> None:
    code = "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}), flush=True)"
    with ManagedProcess("it", python(code), log, env={"ONLY": "this"}) as process:
        wait_until(lambda: not process.running, SOON_S, "it has ended")
    assert log_end(log) == "['ONLY']"


def test_the_end_of_a_log_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "long.log"
    log.write_text("x" * 100_000 + "\n" + "\n".join(f"line {n}" for n in range(100)))
    assert log_end(log).splitlines()[0] == "line 80"
    log.write_text("y" * 100_000)
    assert len(log_end(log)) == 4000
    assert log_end(tmp_path / "none.log") == ""


def test_a_free_port_is_free_and_none_of_the_taken() -> None:
    port = free_port()
    assert port_is_free(port)
    with socket.create_server((LOOPBACK, port)):
        assert not port_is_free(port)
    assert port_is_free(port)
    assert free_port({port}) != port


def test_a_url_answers_only_with_200(log: Path, tmp_path: Path) -> None:
    port = free_port()
    server = ["-m", "http.server", "--bind", LOOPBACK, "--directory", str(tmp_path), str(port)]
    assert not answers(f"http://{LOOPBACK}:{port}/")
    with ManagedProcess("files", [sys.executable, *server], log) as process:
        process.wait_until(lambda: answers(f"http://{LOOPBACK}:{port}/"), "answering", SOON_S)
        assert not answers(f"http://{LOOPBACK}:{port}/absent")
