"""The real door's own troubles: its clone, its secrets, its deadlines, and what only real Git can hold."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.commit_message import message
from policies.errors import BadInput, Conflict, Retry, SluiceError, Stalled
from registry_bridge.config_repo import ConfigRepo
from registry_bridge.git_command import Deadlines
from tests.conditions import wait_until
from tests.contracts.repo_harness import ROOT, RealStage, Server, run_git, texts

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

START = {"sluice.yaml": "environments: {}\n", "models/fraud.yaml": "name: fraud\n"}
RELEASE = "environments/prod/releases/fraud.yaml"
SECRET = "s3cr3t-T0ken-that-nobody-may-see"
WRITER = """
import sys
from pathlib import Path
from registry_bridge.config_repo import ConfigRepo
url, cache, parent = sys.argv[1:]
ConfigRepo(url, "main", Path(cache)).commit(parent, {"models/x.yaml": "x"}, "Killed")
"""
QUICK = Deadlines(network_s=1.0)
COMMITS = 5


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """It lets in who has the token."""
    running = Server(tmp_path_factory.mktemp("locked"), token=SECRET)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def stage(server: Server, tmp_path: Path) -> RealStage:
    made = RealStage(server, tmp_path)
    made.person_commits(START)
    return made


@pytest.fixture
def locked(locked_server: Server, tmp_path: Path) -> RealStage:
    made = RealStage(locked_server, tmp_path)
    made.person_commits(START)
    return made


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def clone_of(cache: Path) -> Path:
    return cache / "config-repo.git"


# --- the clone is disposable ----------------------------------------------------------------------------------


def test_a_clone_deleted_under_our_feet_is_made_anew_by_every_call(stage: RealStage, cache: Path) -> None:
    door = stage.door_at(cache)
    parent = door.read().commit
    shutil.rmtree(clone_of(cache))
    commit = door.commit(parent, {RELEASE: "x: 1\n"}, message("Written"))
    shutil.rmtree(cache)
    assert door.descends(commit, parent)
    shutil.rmtree(cache)
    assert door.read_at(parent, ["sluice.yaml"]) == {"sluice.yaml": START["sluice.yaml"]}
    shutil.rmtree(cache)
    door.mark_applied("prod", commit)
    shutil.rmtree(cache)
    assert door.applied("prod") == commit
    assert [entry.commit for entry in door.log(5)] == [commit, parent]
    shutil.rmtree(cache)
    assert door.read().commit == commit


@pytest.mark.parametrize("damage", ["HEAD", "objects", "config", "refs"])
def test_a_damaged_clone_is_made_anew(stage: RealStage, cache: Path, damage: str) -> None:
    stage.door_at(cache).read()
    victim = clone_of(cache) / damage
    if victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.write_bytes(b"\0garbage")
    door = stage.door_at(cache)
    tip = door.read()
    assert texts(tip) == START
    door.commit(tip.commit, {RELEASE: "x: 1\n"}, message("Written"))
    assert door.read().files[RELEASE] == "x: 1\n"


def test_objects_that_were_cut_short_are_fetched_again(stage: RealStage, cache: Path) -> None:
    parent = stage.door_at(cache).read().commit
    for path in [p for p in (clone_of(cache) / "objects").rglob("*") if p.is_file()]:
        path.chmod(0o600)
        path.write_bytes(b"")
    door = stage.door_at(cache)
    commit = door.commit(parent, {RELEASE: "x: 1\n"}, message("Written"))
    assert texts(door.read()) == {**START, RELEASE: "x: 1\n"}
    assert door.descends(commit, parent)


def test_a_lock_that_a_killed_git_left_does_not_stay(stage: RealStage, cache: Path) -> None:
    door = stage.door_at(cache)
    door.read()
    lock = clone_of(cache) / "refs" / "sluice" / "tip.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.touch()
    commit = stage.person_commits({RELEASE: "x: 1\n"})
    assert door.read().commit == commit


def test_a_clone_of_another_repo_in_the_same_place_does_no_harm(
    stage: RealStage, server: Server, tmp_path: Path, cache: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = RealStage(server, tmp_path / "other")
    other.person_commits({"sluice.yaml": "other: 1\n"})
    other.door_at(cache).read()
    assert texts(stage.door_at(cache).read()) == START
    assert texts(other.door_at(cache).read()) == {"sluice.yaml": "other: 1\n"}


def test_a_broken_clone_with_a_server_that_is_away_is_a_retry_and_heals_later(stage: RealStage, cache: Path) -> None:
    door = stage.door_at(cache)
    door.read()
    (clone_of(cache) / "HEAD").unlink()
    stage.outage()
    with pytest.raises(Retry):
        door.read()
    stage.recover()
    assert texts(door.read()) == START


def test_two_doors_on_one_cache_wait_for_each_other(stage: RealStage, cache: Path) -> None:
    """Every commit of both arrives in the end, each on the tip it was decided on."""

    def write(name: str) -> None:
        door = stage.door_at(cache)
        written = 0
        while written < COMMITS:
            try:
                door.commit(door.read().commit, {f"models/{name}{written}.yaml": f"{written}\n"}, message(name))
            except Conflict:
                continue
            written += 1

    threads = [threading.Thread(target=write, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = {f"models/{name}{n}.yaml" for name in ("a", "b") for n in range(COMMITS)}
    assert set(stage.door().read().files) == {*START, *names}


def test_a_cache_that_cannot_be_a_folder_stalls(stage: RealStage, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Stalled, match="cache folder"):
        stage.door_at(tmp_path / "file").read()


def test_no_folder_is_touched_before_the_first_look(stage: RealStage, cache: Path) -> None:
    stage.door_at(cache)
    assert not cache.exists()


# --- what only real Git can hold --------------------------------------------------------------------------------


def test_author_and_trailers_are_there_for_git_log(stage: RealStage, cache: Path) -> None:
    door = ConfigRepo(stage.url, "main", cache, author="Gate <gate@example.com>")
    text = message("fraud: 10 %", "errors 1 of 1,204", {"Sluice-Model": "fraud", "Sluice-Verdict": "PASS"})
    door.commit(door.read().commit, {RELEASE: "x: 1\n"}, text)
    shown = run_git("log", "-1", "--format=%an|%ae|%cn|%s|%b|%(trailers)", "main", cwd=stage.bare)
    trailers = "Sluice-Model: fraud\nSluice-Verdict: PASS\n"
    assert shown == f"Gate|gate@example.com|Gate|fraud: 10 %|errors 1 of 1,204\n\n{trailers}|{trailers}".rstrip("\n")


def test_a_submodule_is_refused_and_never_fetched(stage: RealStage) -> None:
    tip = run_git("rev-parse", "HEAD", cwd=stage.work)
    stage.commit_index(f"160000,{tip},models/sub")
    with pytest.raises(Stalled, match=r"models/sub.*a submodule"):
        stage.door().read()


def test_a_name_that_is_not_utf8_is_refused(stage: RealStage) -> None:
    (stage.work / "models").mkdir(exist_ok=True)
    with open(os.fsencode(stage.work) + b"/models/\xff.yaml", "wb") as file:  # noqa: PTH123 - a name that Path cannot hold
        file.write(b"x\n")
    run_git("add", "--all", cwd=stage.work)
    run_git("commit", "--quiet", "-m", "Odd", cwd=stage.work)
    run_git("push", "--quiet", str(stage.bare), "main", cwd=stage.work)
    with pytest.raises(Stalled, match=r"not UTF-8"):
        stage.door().read()


def test_every_refused_file_is_named_up_to_five(stage: RealStage) -> None:
    stage.person_commits({f"models/{n}.yaml": b"\xff" for n in range(7)})
    with pytest.raises(Stalled, match=r"models/0.yaml.*models/4.yaml.*and 2 more"):
        stage.door().read()


def test_a_merge_by_people_is_a_tip_like_any_other(stage: RealStage) -> None:
    first = stage.door().read().commit
    run_git("checkout", "--quiet", "-b", "topic", cwd=stage.work)
    run_git("commit", "--quiet", "--allow-empty", "-m", "Empty", cwd=stage.work)
    run_git("checkout", "--quiet", "main", cwd=stage.work)
    run_git("merge", "--quiet", "--no-ff", "-m", "Merge topic", "topic", cwd=stage.work)
    run_git("push", "--quiet", str(stage.bare), "main", cwd=stage.work)
    door = stage.door()
    tip = door.read()
    assert (tip.subject, texts(tip)) == ("Merge topic", START)
    assert door.descends(tip.commit, first)


# --- the server's moods -----------------------------------------------------------------------------------------


def test_an_answer_that_is_lost_while_the_server_lives_is_found_at_once(stage: RealStage) -> None:
    door = stage.door()
    stage.hook("post-receive", "kill -9 $PPID\n")  # receive-pack dies after the branch has moved
    commit = door.commit(door.read().commit, {RELEASE: "x: 1\n"}, message("Arrived"))
    assert stage.door().read().commit == commit


def test_an_update_hook_declines_one_ref_only(stage: RealStage) -> None:
    stage.hook("update", 'case "$1" in refs/sluice/*) echo "no marks here" >&2; exit 1;; esac\n')
    door = stage.door()
    commit = door.commit(door.read().commit, {RELEASE: "x: 1\n"}, message("Allowed"))
    with pytest.raises(Stalled, match="no marks here"):
        door.mark_applied("prod", commit)
    assert door.applied("prod") is None


def test_words_of_a_hook_are_cut_and_carry_no_control_characters(stage: RealStage) -> None:
    stage.hook("pre-receive", "printf '\\033[31mred %05000d' 0 >&2; exit 1\n")
    door = stage.door()
    with pytest.raises(Stalled) as caught:
        door.commit(door.read().commit, {RELEASE: "x: 1\n"}, message("No"))
    assert "\033" not in str(caught.value)
    assert len(str(caught.value)) < 3000


def test_a_ref_that_is_locked_on_the_server_is_a_retry(stage: RealStage) -> None:
    door = stage.door()
    parent = door.read().commit
    lock = stage.bare / "refs" / "heads" / "main.lock"
    lock.touch()
    with pytest.raises(Retry, match="busy") as caught:
        door.commit(parent, {RELEASE: "x: 1\n"}, message("Locked"))
    assert not isinstance(caught.value, Conflict)
    lock.unlink()
    assert door.commit(parent, {RELEASE: "x: 1\n"}, message("Free")) == door.read().commit


def test_a_repo_that_does_not_exist_stalls(stage: RealStage, cache: Path) -> None:
    door = stage.door_at(cache, url=stage.url.replace(stage.name, "nowhere"))
    with pytest.raises(Stalled, match="no such repo"):
        door.read()
    with pytest.raises(Stalled, match="no such repo"):
        stage.door_at(cache, url="file:///nowhere/at-all.git").read()


def test_a_file_address_works_too(stage: RealStage, cache: Path) -> None:
    door = stage.door_at(cache, url=f"file://{stage.bare}")
    commit = door.commit(door.read().commit, {RELEASE: "x: 1\n"}, message("By file"))
    assert stage.door_at(cache, url=str(stage.bare)).read().commit == commit


def test_a_server_that_never_answers_is_a_retry_within_the_deadline(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        door = ConfigRepo(f"http://127.0.0.1:{port}/c.git", "main", cache, deadlines=Deadlines(clone_s=1, network_s=1))
        with pytest.raises(Retry, match="no answer within 1 s"):
            door.read()
    wait_until(lambda: not _running_with(f":{port}/c.git"), 5, "git and its helpers are gone")


def test_a_hook_that_hangs_is_a_retry_and_nothing_of_ours_stays(stage: RealStage, cache: Path) -> None:
    door = stage.door_at(cache, deadlines=QUICK)
    parent = door.read().commit
    stage.hook("pre-receive", "exec tail -f /dev/null\n")
    with pytest.raises(Retry) as caught:
        door.commit(parent, {RELEASE: "x: 1\n"}, message("Hangs"))
    assert not isinstance(caught.value, Conflict)
    wait_until(lambda: not _running_with(stage.url), 5, "git and its helpers are gone")
    assert door.read().commit == parent


def test_a_redirect_is_not_followed(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def redirect() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(65536)
                answer = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/evil\r\nContent-Length: 0\r\n\r\n"
                connection.sendall(answer.encode())

        answering = threading.Thread(target=redirect)
        answering.start()
        with pytest.raises(SluiceError) as caught:
            ConfigRepo(f"http://127.0.0.1:{port}/c.git", "main", cache).read()
        answering.join()
    assert "302" in str(caught.value) or "moved" in str(caught.value)
    assert "evil" not in str(caught.value)


# --- secrets and surroundings -----------------------------------------------------------------------------------


def test_the_token_opens_and_is_seen_nowhere(
    locked: RealStage, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TRACE_CURL", "1")  # makes git print its headers
    monkeypatch.setenv("GIT_CURL_VERBOSE", "1")
    caplog.set_level(logging.DEBUG)
    door = locked.door_at(cache, token=SECRET)
    commit = door.commit(door.read().commit, {RELEASE: "x: 1\n"}, message("With token"))
    door.mark_applied("prod", commit)
    locked.hook("pre-receive", f"echo 'your token {SECRET} is odd' >&2; exit 1\n")
    with pytest.raises(Stalled) as caught:
        door.commit(commit, {RELEASE: "x: 2\n"}, message("Refused"))
    stored = b"".join(path.read_bytes() for path in cache.rglob("*") if path.is_file())
    assert "git" in caplog.text
    for text in (caplog.text, str(caught.value), repr(caught.value), repr(door), stored.decode("latin-1")):
        assert SECRET not in text


def test_without_or_with_a_wrong_token_a_person_has_to_act(
    locked: RealStage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for n, token in enumerate((None, "wrong-" + SECRET)):
        with pytest.raises(Stalled, match="SLUICE_GIT_TOKEN") as caught:
            locked.door_at(tmp_path / f"cache{n}", token=token).read()
        assert SECRET not in str(caught.value) + caplog.text


def test_the_token_is_in_no_command_line(locked: RealStage, cache: Path) -> None:
    """Looked at while a push is under way: its hook waits until we have seen it."""
    door = locked.door_at(cache, token=SECRET)
    parent = door.read().commit
    gate = locked.bare / "gate"
    os.mkfifo(gate)
    locked.hook("pre-receive", f"echo here > {gate}; read answer < {gate}\n")
    pushing = threading.Thread(target=door.commit, args=(parent, {RELEASE: "x: 1\n"}, message("Slow")))
    pushing.start()
    assert gate.read_text() == "here\n"
    lines = [line for line in _command_lines().values() if locked.name in line]
    gate.write_text("go on\n")
    pushing.join()
    assert lines
    assert not [line for line in lines if SECRET in line]
    assert door.read().files[RELEASE] == "x: 1\n"


def test_nobody_is_asked_for_a_password(
    locked: RealStage, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = tmp_path / "ask"
    ask.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho {SECRET}\n")
    ask.chmod(0o755)
    for name in ("GIT_ASKPASS", "SSH_ASKPASS"):
        monkeypatch.setenv(name, str(ask))
    with pytest.raises(Stalled, match="SLUICE_GIT_TOKEN"):
        locked.door_at(cache).read()
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("token", ["", "two\nlines", "a b", "x" * 1001, "tökén"])
def test_a_token_is_one_word(cache: Path, token: str) -> None:
    with pytest.raises(BadInput, match="SLUICE_GIT_TOKEN") as caught:
        ConfigRepo("https://git.example.com/c.git", "main", cache, token=token)
    assert not token or token not in str(caught.value)


def test_what_else_is_configured_for_git_here_does_not_count(
    stage: RealStage, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    trap = tmp_path / "sprung"
    (home / ".gitconfig").write_text(
        f'[url "file:///nowhere/"]\n insteadOf = http://\n[credential]\n helper = "!touch {trap}"\n'
        f'[core]\n hooksPath = {home}\n fsmonitor = "touch {trap}"\n[commit]\n gpgSign = true\n'
    )
    (home / "pre-push").write_text(f"#!/bin/sh\ntouch {trap}\nexit 1\n")
    (home / "pre-push").chmod(0o755)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_ASKPASS", f"touch {trap}")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Mallory")
    door = stage.door_at(cache)
    door.commit(door.read().commit, {RELEASE: "x: 1\n"}, message("Alone"))
    assert door.read().author == "Sluicegate <sluicegate@localhost>"
    assert not trap.exists()
    assert not (tmp_path / "elsewhere").exists()


def test_without_git_a_person_has_to_act(stage: RealStage, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.door_at(cache).read()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Stalled, match="install git"):
        stage.door_at(cache).read()


def test_a_reconciler_killed_in_mid_push_leaves_a_cache_that_works(stage: RealStage, cache: Path) -> None:
    gate = stage.bare / "gate"
    os.mkfifo(gate)
    stage.hook("pre-receive", f"echo here > {gate}; exec tail -f /dev/null\n")
    parent = stage.door_at(cache).read().commit
    victim = subprocess.Popen([sys.executable, "-c", WRITER, stage.url, str(cache), parent], cwd=ROOT)
    assert gate.read_text() == "here\n"
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    orphans = _running_with(stage.url)  # its git still waits for the hook
    stage.hook("pre-receive", "exit 0\n")
    door = stage.door_at(cache)
    assert door.read().commit == parent
    assert door.commit(parent, {RELEASE: "x: 1\n"}, message("Goes on")) == door.read().commit
    for pid in orphans:
        os.kill(pid, signal.SIGKILL)
    assert orphans


def _command_lines() -> dict[int, str]:
    """Of every process on this machine, by pid."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:  # it ended while we looked
            continue
        found[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found


def _running_with(text: str) -> list[int]:
    """Processes that have this in their command line: git, and what it starts to speak HTTP."""
    return [pid for pid, line in _command_lines().items() if text in line]
