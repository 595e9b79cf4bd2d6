"""What the config repo promises, on the in-memory fake and on the real door over a real Git server alike."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from policies.commit_message import message
from policies.errors import BadInput, Conflict, Retry, SluiceError, Stalled
from registry_bridge.repo_files import MAX_FILE_BYTES
from tests.contracts.repo_harness import Door, FakeStage, RealStage, Server, Stage, texts
from tests.fakes.repo import SLUICEGATE, Link

START = {"sluice.yaml": "environments: {}\n", "models/fraud.yaml": "name: fraud\n"}
RELEASE = "environments/prod/releases/fraud.yaml"
UNKNOWN = "0123456789abcdef" * 2 + "01234567"
WRITERS = 6


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Stage:
    """A config repo without a branch."""
    if request.param == "fake":
        return FakeStage()
    server: Server = request.getfixturevalue("server")
    server.start()  # an earlier test may have taken it away
    return RealStage(server, tmp_path)


@pytest.fixture
def door(stage: Stage) -> Door:
    """A door to a repo with START in it."""
    stage.person_commits(START)
    return stage.door()


def test_reads_what_a_person_committed(stage: Stage) -> None:
    commit = stage.person_commits(START, author="Grace <grace@example.com>")
    tip = stage.door().read()
    assert texts(tip) == START
    assert (tip.commit, tip.author, tip.subject) == (commit, "Grace <grace@example.com>", "A person's change")


def test_reads_only_the_layout(stage: Stage) -> None:
    stage.person_commits({**START, "README.md": "no\n", "src/models/x.yaml": "no\n", "modelsx/y.yaml": "no\n"})
    assert texts(stage.door().read()) == START


def test_sees_every_later_commit(stage: Stage, door: Door) -> None:
    door.read()
    second = stage.person_commits({"models/fraud.yaml": "name: fraud\nroute: /f\n", "models/credit.yaml": "name: c\n"})
    tip = door.read()
    assert tip.commit == second
    assert texts(tip) == {**START, "models/fraud.yaml": "name: fraud\nroute: /f\n", "models/credit.yaml": "name: c\n"}


def test_an_empty_repo_says_the_next_step(stage: Stage) -> None:
    door = stage.door()
    with pytest.raises(Stalled, match=r"no branch main.*sluice init"):
        door.read()
    assert door.applied("prod") is None


def test_the_first_commit_starts_the_branch_once(stage: Stage) -> None:
    commit = stage.door().start(dict(START), message("Start"))
    assert stage.door().read().commit == commit
    with pytest.raises(Conflict):
        stage.door().start({"sluice.yaml": "other\n"}, message("Start again"))
    assert texts(stage.door().read()) == START


def test_commits_and_reads_back(door: Door) -> None:
    parent = door.read().commit
    commit = door.commit(parent, {RELEASE: "phase: WARMING\n"}, message("Start rollout of fraud v2"))
    tip = door.read()
    assert texts(tip) == {**START, RELEASE: "phase: WARMING\n"}
    assert (tip.commit, tip.author, tip.subject) == (commit, SLUICEGATE, "Start rollout of fraud v2")
    assert door.descends(commit, parent)


def test_writes_and_removes_in_one_commit(door: Door) -> None:
    changes = {RELEASE: "phase: STEADY\n", "models/fraud.yaml": None, "models/not-there.yaml": None}
    door.commit(door.read().commit, changes, message("Remove fraud"))
    assert texts(door.read()) == {"sluice.yaml": START["sluice.yaml"], RELEASE: "phase: STEADY\n"}


def test_unicode_in_paths_and_texts(door: Door) -> None:
    odd = {"models/Übergrößen 模型.yaml": "name: 'é'\r\n# 🦆\n", "history/a b/c'\"d/$(x).json": "{}"}
    door.commit(door.read().commit, odd, message("Größe 模型"))
    tip = door.read()
    assert texts(tip) == {**START, **odd}
    assert tip.subject == "Größe 模型"


def test_a_change_of_nothing_makes_no_commit(door: Door) -> None:
    tip = door.read()
    assert door.commit(tip.commit, dict(START), message("Nothing")) == tip.commit
    assert [entry.subject for entry in door.log(10)] == ["A person's change"]


def test_a_change_of_nothing_still_says_that_the_branch_moved(stage: Stage, door: Door) -> None:
    parent = door.read().commit
    stage.person_commits({"models/credit.yaml": "name: credit\n"})
    with pytest.raises(Conflict):
        door.commit(parent, dict(START), message("Nothing"))


# --- compare-and-swap -----------------------------------------------------------------------------------------


def test_a_push_that_lost_is_a_conflict_and_leaves_nothing(stage: Stage, door: Door) -> None:
    parent = door.read().commit
    faster = stage.person_commits({"models/credit.yaml": "name: credit\n"})
    with pytest.raises(Conflict):
        door.commit(parent, {RELEASE: "phase: WARMING\n"}, message("Too late"))
    tip = door.read()
    assert tip.commit == faster
    assert RELEASE not in tip.files
    assert "Too late" not in [entry.subject for entry in door.log(10)]
    door.commit(faster, {RELEASE: "phase: WARMING\n"}, message("Decided anew"))
    assert door.read().subject == "Decided anew"


def test_a_stale_door_may_not_undo_a_branch_that_was_moved_back(stage: Stage, door: Door) -> None:
    first = door.read().commit
    second = stage.person_commits({"models/bad.yaml": "name: bad\n"})
    assert door.read().commit == second
    stage.force_push(to=first)
    with pytest.raises(Conflict):  # a plain push would be taken: `first` is an ancestor
        door.commit(second, {RELEASE: "phase: WARMING\n"}, message("On what was taken away"))
    assert texts(door.read()) == START


def test_a_door_that_never_saw_the_parent_can_commit_on_it(stage: Stage, door: Door) -> None:
    parent = door.read().commit
    assert stage.door().commit(parent, {RELEASE: "x: 1\n"}, message("From elsewhere")) == door.read().commit


def test_a_parent_that_never_was_is_a_conflict(door: Door) -> None:
    with pytest.raises(Conflict):
        door.commit(UNKNOWN, {RELEASE: "x: 1\n"}, message("On nothing"))


def test_of_many_writers_on_one_parent_exactly_one_wins(stage: Stage, door: Door) -> None:
    parent = door.read().commit
    doors = [stage.door() for _ in range(WRITERS)]
    for other in doors:
        other.read()
    together = threading.Barrier(WRITERS)
    won: list[str] = []
    lost: list[SluiceError] = []

    def write(n: int) -> None:
        together.wait()
        try:
            won.append(doors[n].commit(parent, {RELEASE: f"writer: {n}\n"}, message(f"Writer {n}")))
        except Retry as error:
            lost.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(lost) == WRITERS - 1
    assert [e.commit for e in door.log(10)] == [won[0], parent]


def test_a_hook_that_declines_stalls_with_its_words(stage: Stage, door: Door) -> None:
    tip = door.read()
    stage.refuse_pushes("main is protected, open a pull request")
    with pytest.raises(Stalled, match="main is protected, open a pull request"):
        door.commit(tip.commit, {RELEASE: "x: 1\n"}, message("Not allowed"))
    assert door.read() == tip


# --- outages --------------------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_a_retry_everywhere(stage: Stage, door: Door) -> None:
    parent = door.read().commit
    stage.outage()
    for call in (
        door.read,
        lambda: door.commit(parent, {RELEASE: "x: 1\n"}, message("Away")),
        lambda: door.applied("prod"),
        lambda: door.mark_applied("prod", parent),
        lambda: door.log(1),
    ):
        with pytest.raises(Retry) as caught:
            call()
        assert not isinstance(caught.value, Conflict)
    stage.recover()
    assert texts(door.read()) == START


def test_a_push_whose_answer_is_lost_shows_at_the_next_look(stage: Stage, door: Door) -> None:
    parent = door.read().commit
    stage.lose_next_answer()
    with pytest.raises(Retry) as caught:
        door.commit(parent, {RELEASE: "phase: WARMING\n"}, message("Arrived"))
    assert not isinstance(caught.value, Conflict)
    stage.recover()
    tip = door.read()
    assert (tip.subject, tip.files[RELEASE]) == ("Arrived", "phase: WARMING\n")
    assert door.descends(tip.commit, parent)
    with pytest.raises(Conflict):
        door.commit(parent, {RELEASE: "phase: SHADOW\n"}, message("The same decision again"))


# --- history --------------------------------------------------------------------------------------------------


def test_applied_is_marked_per_environment_and_seen_by_everyone(stage: Stage, door: Door) -> None:
    first = door.read().commit
    assert door.applied("prod") is None
    door.mark_applied("prod", first)
    second = door.commit(first, {RELEASE: "x: 1\n"}, message("Next"))
    door.mark_applied("staging", second)
    door.mark_applied("prod", second)
    door.mark_applied("prod", first)
    other = stage.door()
    assert (other.applied("prod"), other.applied("staging"), other.applied("dev")) == (first, second, None)


def test_what_is_unknown_cannot_be_marked(door: Door) -> None:
    door.read()
    with pytest.raises(Stalled):
        door.mark_applied("prod", UNKNOWN)
    assert door.applied("prod") is None


@pytest.mark.parametrize("environment", ["", "../heads/main", "Prod", "-x", "a b"])
def test_an_environment_is_a_name(door: Door, environment: str) -> None:
    with pytest.raises(BadInput):
        door.mark_applied(environment, door.read().commit)
    with pytest.raises(BadInput):
        door.applied(environment)


def test_a_foreign_history_does_not_descend(stage: Stage, door: Door) -> None:
    old = door.read().commit
    door.mark_applied("prod", old)
    foreign = stage.force_push(files={"sluice.yaml": "foreign: 1\n"})
    tip = door.read()
    assert (tip.commit, texts(tip)) == (foreign, {"sluice.yaml": "foreign: 1\n"})
    assert not door.descends(foreign, old)
    assert door.descends(old, old)
    for either in (door, stage.door()):  # the mark keeps what was applied from being lost
        assert either.read_at(old, ["sluice.yaml"]) == {"sluice.yaml": START["sluice.yaml"]}


def test_descends_of_what_is_unknown_is_false(door: Door) -> None:
    tip = door.read().commit
    assert not door.descends(tip, UNKNOWN)
    assert not door.descends(UNKNOWN, tip)
    assert not door.descends(tip, "--all")


def test_reads_at_an_older_commit(stage: Stage, door: Door) -> None:
    first = door.read().commit
    stage.person_commits({"models/fraud.yaml": "new\n", "models/credit.yaml": "name: credit\n"})
    door.read()
    wanted = ["models/fraud.yaml", "models/credit.yaml", "README.md", "../etc/passwd"]
    assert door.read_at(first, wanted) == {"models/fraud.yaml": "name: fraud\n"}
    with pytest.raises(Stalled):
        door.read_at(UNKNOWN, wanted)


def test_reads_whole_folders_at_an_older_commit(stage: Stage, door: Door) -> None:
    first = door.read().commit
    stage.person_commits({"models/fraud.yaml": "new\n", "models/credit.yaml": "name: credit\n"})
    tip = door.read().commit
    assert door.read_at(first, ["models/"]) == {"models/fraud.yaml": "name: fraud\n"}
    assert set(door.read_at(tip, ["models/", "sluice.yaml"])) == {
        "models/fraud.yaml",
        "models/credit.yaml",
        "sluice.yaml",
    }
    assert door.read_at(first, ["model", "odels/"]) == {}


def test_a_revert_is_a_commit_like_any_other(stage: Stage, door: Door) -> None:
    first = door.read().commit
    promoted = door.commit(first, {RELEASE: "stable: 2\n", "sluice.yaml": "changed\n"}, message("Promote"))
    reverted = stage.person_reverts(promoted)
    tip = door.read()
    assert (tip.commit, texts(tip)) == (reverted, START)
    assert tip.subject == 'Revert "Promote"'
    assert door.descends(reverted, promoted)


def test_the_log_tells_who_when_and_why(stage: Stage, door: Door) -> None:
    trailers = {"Sluice-Model": "fraud", "Sluice-Phase": "CANARY", "Sluice-Verdict": "PASS"}
    body = "errors 1 of 1,204\nSluice-Verdict: FAIL"
    commit = door.commit(door.read().commit, {RELEASE: "x: 1\n"}, message("fraud: 10 %", body, trailers))
    stage.person_commits({"models/credit.yaml": "name: credit\n"})
    newest, ours, first = door.log(10)
    assert (newest.author, newest.subject, newest.trailers) == ("Ada <ada@example.com>", "A person's change", {})
    assert (ours.commit, ours.author, ours.subject) == (commit, SLUICEGATE, "fraud: 10 %")
    assert ours.trailers == trailers
    assert first.date <= ours.date <= newest.date
    assert [entry.commit for entry in door.log(10, RELEASE)] == [commit]
    assert [entry.commit for entry in door.log(1)] == [newest.commit]
    assert door.log(0) == []


def test_how_far_changes_are_vouched_for_is_marked_and_seen_by_everyone(stage: Stage, door: Door) -> None:
    first = door.read().commit
    assert door.vouched() is None
    door.mark_vouched(first)
    second = door.commit(first, {RELEASE: "x: 1\n"}, message("Next"))
    assert stage.door().vouched() == first
    door.mark_vouched(second)
    assert (stage.door().vouched(), door.applied("prod")) == (second, None)
    with pytest.raises(Stalled):
        door.mark_vouched(UNKNOWN)


def test_changes_since_a_commit_come_oldest_first_with_their_files(stage: Stage, door: Door) -> None:
    first = door.read().commit
    second = stage.person_commits({"models/fraud.yaml": None, "models/new.yaml": "x\n"}, author="Eve <e@example.com>")
    third = door.commit(second, {RELEASE: "x: 1\n"}, message("Ours"))
    one, two = door.changes(first, third)
    assert (one.commit, one.parents, one.author) == (second, (first,), "Eve <e@example.com>")
    assert one.paths == {"models/fraud.yaml", "models/new.yaml"}
    assert (two.commit, two.paths, dict(two.taken)) == (third, {RELEASE}, {})
    assert door.changes(third, third) == ()
    assert door.signature(second, "").trouble == "is not signed"
    with pytest.raises(Stalled):
        door.changes(UNKNOWN, third)


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("models/link.yaml", Link("/etc/passwd"), "symbolic link"),
        ("models", Link("/etc"), "symbolic link"),
        ("models/big.yaml", "x" * (MAX_FILE_BYTES + 1), r"1,048,577 bytes"),
        ("models/latin.yaml", "é".encode("latin-1"), "UTF-8"),
        ("models/binary.yaml", "a\0b", "NUL"),
        ("policies/back\\slash.yaml", "x\n", "backslash"),
    ],
)
def test_what_is_no_plain_text_is_refused_by_path(
    stage: Stage, path: str, content: str | bytes | Link, words: str
) -> None:
    stage.person_commits({"sluice.yaml": "fine\n", path: content})
    door = stage.door()
    with pytest.raises(Stalled, match=words) as caught:
        door.read()
    assert path.replace("\\", "\\\\") in str(caught.value)
    stage.person_commits({path: None})
    assert texts(door.read()) == {"sluice.yaml": "fine\n"}


def test_a_file_of_exactly_the_limit_is_read(stage: Stage) -> None:
    stage.person_commits({"models/big.yaml": "x" * MAX_FILE_BYTES})
    assert len(stage.door().read().files["models/big.yaml"]) == MAX_FILE_BYTES


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "models/../../x",
        "models//x",
        ".git/config",
        "models/.GIT/x",
        "a\\b",
        "a\nb",
        "x" * 300,
    ],
)
def test_what_could_leave_the_repo_is_never_written(door: Door, path: str) -> None:
    tip = door.read()
    with pytest.raises(BadInput):
        door.commit(tip.commit, {path: "x\n"}, message("No"))
    assert door.read() == tip


@pytest.mark.parametrize("text", ["x" * (MAX_FILE_BYTES + 1), "a\0b", "\ud800"])
def test_what_would_not_be_read_is_never_written(door: Door, text: str) -> None:
    tip = door.read()
    with pytest.raises(BadInput, match="models/x"):
        door.commit(tip.commit, {"models/x.yaml": text}, message("No"))
    assert door.read() == tip


@pytest.mark.parametrize(("parent", "words"), [("main", "m"), ("--force", "m"), (UNKNOWN, " \n"), (UNKNOWN, "a\0b")])
def test_a_parent_is_a_hash_and_a_message_is_text(door: Door, parent: str, words: str) -> None:
    tip = door.read()
    with pytest.raises(BadInput):
        door.commit(parent, {RELEASE: "x\n"}, words)
    assert door.read() == tip


# --- branches beside the one --------------------------------------------------------------------------------------

OWN = "sluice/prod/fraud/v7-1a2b3c4d"
CONSENT = "environments/prod/consents/fraud.yaml"


def test_a_branch_of_ours_has_its_commit_on_the_tip_and_the_branch_stays_where_it_is(stage: Stage, door: Door) -> None:
    tip = door.read().commit
    head = door.propose(OWN, tip, {CONSENT: "version: 7\n"}, message("Ask"), None)
    other = stage.door()
    assert other.read().commit == tip
    assert other.branches("sluice/prod/") == {OWN: head}
    assert other.branches("sluice/staging/") == {}
    assert other.read_at(head, (CONSENT, "models/fraud.yaml")) == {
        CONSENT: "version: 7\n",
        "models/fraud.yaml": START["models/fraud.yaml"],
    }


def test_a_branch_of_ours_moves_only_from_where_it_was_seen(stage: Stage, door: Door) -> None:
    tip = door.read().commit
    first = door.propose(OWN, tip, {CONSENT: "version: 7\n"}, message("Ask"), None)
    with pytest.raises(Conflict):
        stage.door().propose(OWN, tip, {CONSENT: "version: 8\n"}, message("Ask too"), None)
    second = door.propose(OWN, tip, {CONSENT: "version: 8\n"}, message("Ask anew"), first)
    with pytest.raises(Conflict):
        door.drop(OWN, first)
    door.read()
    assert door.branches("sluice/") == {OWN: second}
    assert second != first


def test_a_branch_of_ours_is_dropped_once_and_for_everybody(stage: Stage, door: Door) -> None:
    head = door.propose(OWN, door.read().commit, {CONSENT: "version: 7\n"}, message("Ask"), None)
    other = stage.door()
    other.read()
    door.drop(OWN, head)
    door.drop(OWN, head)
    other.read()
    assert other.branches("sluice/") == {}


def test_a_server_that_refuses_a_branch_of_ours_is_heard(stage: Stage, door: Door) -> None:
    tip = door.read().commit
    stage.refuse_pushes("branches are protected")
    with pytest.raises(Stalled, match="branches are protected"):
        door.propose(OWN, tip, {CONSENT: "version: 7\n"}, message("Ask"), None)


def test_no_branch_of_others_is_written_or_dropped(door: Door) -> None:
    tip = door.read().commit
    for name in ("main", "feature", "sluice/../main", "sluice/a b"):
        with pytest.raises(BadInput):
            door.propose(name, tip, {CONSENT: "version: 7\n"}, message("Ask"), None)
        with pytest.raises(BadInput):
            door.drop(name, tip)
    assert door.read().commit == tip
