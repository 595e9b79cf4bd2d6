"""What counts of a tip whose changes must be signed: the last text that somebody vouched for."""

from __future__ import annotations

import pytest

from pipelines.vouched import InForce, Trust, Vouched
from policies.errors import Stalled
from policies.layout import ALLOWED_SIGNERS
from policies.observations import Tip
from policies.signatures import Change, Signature
from tests.fakes.repo import FakeRepo

SLUICE = "apiVersion: sluicegate/v1\nkind: Sluice\nenvironments:\n  production: {trigger: {stage: Production}}\n%s"
SIGNED = SLUICE % "signatures: {}\n"
MODEL, OTHER = "models/fraud.yaml", "models/churn.yaml"
RELEASE = "environments/production/releases/fraud.yaml"
ACCEPTED = "environments/production/accepted-history.yaml"
START = {"sluice.yaml": SIGNED, ALLOWED_SIGNERS: "ada\n", MODEL: "one\n", OTHER: "one\n"}


@pytest.fixture
def repo() -> FakeRepo:
    return FakeRepo(START)


@pytest.fixture
def vouched(repo: FakeRepo) -> Vouched:
    """A process that has seen the first commit, from which on signatures count."""
    one = Vouched(repo, Trust())
    first = one.of(repo.read())
    assert (first.asked, first.trusted, first.notes) == (True, repo.branch_tip, ())
    repo.mark_vouched(first.trusted or "")
    return one


def texts(found: InForce) -> dict[str, str]:
    return dict(found.tip.files)


def test_nothing_is_asked_for_where_nobody_asks():
    repo = FakeRepo({"sluice.yaml": SLUICE % "", MODEL: "one\n"})
    one = Vouched(repo, Trust())
    one.of(repo.read())
    repo.person_commits({MODEL: "two\n"})
    found = one.of(repo.read())
    assert (found.asked, found.trusted, found.tip) == (False, None, repo.read())


def test_a_signed_change_counts(repo, vouched):
    repo.person_commits({MODEL: "two\n"}, signer="ada")
    found = vouched.of(repo.read())
    assert texts(found)[MODEL] == "two\n"
    assert (found.notes, found.trusted) == ((), repo.branch_tip)


@pytest.mark.parametrize(("signer", "words"), [("", "is not signed"), ("eve", "not allowed to sign: eve")])
def test_a_change_that_nobody_vouched_for_is_not_applied_and_said_with_commit_author_and_path(
    repo, vouched, signer, words
):
    commit = repo.person_commits({MODEL: "evil\n"}, author="Eve <eve@example.com>", signer=signer)
    found = vouched.of(repo.read())
    assert texts(found)[MODEL] == "one\n"
    (note,) = found.notes
    assert note.file == MODEL
    assert all(part in note.message for part in (commit, "Eve <eve@example.com>", words))
    assert found.trusted == repo.commits[commit].parent


def test_what_kuberay_applies_is_peoples_and_must_be_signed_too(repo, vouched):
    cluster = "clusters/production.yaml"
    repo.person_commits({cluster: "one\n"}, signer="ada")
    repo.person_commits({cluster: "evil\n"})
    found = vouched.of(repo.read())
    assert texts(found)[cluster] == "one\n"
    assert [note.file for note in found.notes] == [cluster]


def test_other_files_of_others_count_all_the_same(repo, vouched):
    repo.person_commits({MODEL: "evil\n"})
    repo.person_commits({OTHER: "two\n"}, signer="ada")
    found = vouched.of(repo.read())
    assert (texts(found)[MODEL], texts(found)[OTHER]) == ("one\n", "two\n")
    assert [note.file for note in found.notes] == [MODEL]


def test_a_file_that_was_added_is_not_there_and_one_that_was_removed_is(repo, vouched):
    repo.person_commits({"models/new.yaml": "evil\n", MODEL: None})
    found = vouched.of(repo.read())
    assert texts(found) == START
    assert {note.file for note in found.notes} == {"models/new.yaml", MODEL}


def test_it_is_said_at_every_look_also_after_our_own_commits_and_a_restart(repo, vouched):
    repo.person_commits({MODEL: "evil\n"})
    vouched.of(repo.read())
    tip = repo.read()
    repo.commit(tip.commit, {RELEASE: "ours\n"}, "Ours")
    for process in (vouched, Vouched(repo, Trust())):
        found = process.of(repo.read())
        assert (texts(found)[MODEL], texts(found)[RELEASE]) == ("one\n", "ours\n")
        assert len(found.notes) == 1


def test_who_may_sign_mends_it_by_committing_the_file_or_by_a_revert(repo, vouched):
    bad = repo.person_commits({MODEL: "evil\n"})
    repo.person_commits({MODEL: "evil, and looked at\n"}, signer="ada")
    assert vouched.of(repo.read()).notes == ()
    bad = repo.person_commits({OTHER: "evil\n"})
    assert vouched.of(repo.read()).notes
    repo.revert(bad)  # unsigned, and it leaves what was vouched for
    found = vouched.of(repo.read())
    assert (found.notes, texts(found)[OTHER]) == ((), "one\n")


# --- who may sign -----------------------------------------------------------------------------------------------


def test_who_adds_himself_to_the_signers_may_not_sign_yet(repo, vouched):
    repo.person_commits({ALLOWED_SIGNERS: "ada\neve\n"}, signer="eve")
    repo.person_commits({MODEL: "evil\n"}, signer="eve")
    found = vouched.of(repo.read())
    assert (texts(found)[ALLOWED_SIGNERS], texts(found)[MODEL]) == ("ada\n", "one\n")


def test_who_is_added_by_a_signer_may_sign_from_then_on(repo, vouched):
    early = repo.person_commits({OTHER: "early\n"}, signer="grace")
    repo.person_commits({ALLOWED_SIGNERS: "ada\ngrace\n"}, signer="ada")
    repo.person_commits({MODEL: "two\n"}, signer="grace")
    found = vouched.of(repo.read())
    assert texts(found)[MODEL] == "two\n"
    assert [early in note.message for note in found.notes] == [True]


def test_who_is_removed_may_not_sign_any_more(repo, vouched):
    repo.person_commits({ALLOWED_SIGNERS: "grace\n"}, signer="ada")
    repo.person_commits({MODEL: "two\n"}, signer="ada")
    assert [note.file for note in vouched.of(repo.read()).notes] == [MODEL]


def test_nobody_switches_signatures_off_without_one(repo, vouched):
    repo.person_commits({"sluice.yaml": SLUICE % "", MODEL: "evil\n"})
    for process in (vouched, Vouched(repo, Trust())):
        found = process.of(repo.read())
        assert texts(found) == START
    repo.person_commits({MODEL: "two\n"}, signer="ada")  # it leaves sluice.yaml as it found it
    assert vouched.of(repo.read()).asked


def test_who_may_sign_switches_signatures_off_and_on_again(repo, vouched):
    repo.person_commits({"sluice.yaml": SLUICE % ""}, signer="ada")
    repo.person_commits({MODEL: "two\n"})
    for process in (vouched, Vouched(repo, Trust())):
        found = process.of(repo.read())
        assert (found.asked, found.trusted, texts(found)[MODEL]) == (False, repo.branch_tip, "two\n")
    repo.person_commits({MODEL: "three\n"})
    assert texts(vouched.of(repo.read()))[MODEL] == "three\n"
    repo.person_commits({"sluice.yaml": SIGNED})
    repo.person_commits({MODEL: "evil\n"})
    for process in (vouched, Vouched(repo, Trust())):
        found = process.of(repo.read())
        assert (found.asked, texts(found)[MODEL]) == (True, "three\n")


def test_a_sluice_yaml_that_was_broken_for_a_while_stops_nobody_later(repo, vouched):
    repo.person_commits({"sluice.yaml": "kind: Slice\n"}, signer="ada")
    repo.person_commits({"sluice.yaml": SIGNED}, signer="ada")
    repo.person_commits({MODEL: "evil\n"})
    assert texts(vouched.of(repo.read())) == START


def test_the_operators_signers_go_before_the_repos_and_ask_whatever_it_says():
    repo = FakeRepo({"sluice.yaml": SLUICE % "", ALLOWED_SIGNERS: "eve\n", MODEL: "one\n"})
    one = Vouched(repo, Trust(signers="ada\n"))
    assert one.of(repo.read()).asked
    repo.person_commits({MODEL: "evil\n"}, signer="eve")
    assert texts(one.of(repo.read()))[MODEL] == "one\n"
    repo.person_commits({MODEL: "two\n"}, signer="ada")
    assert texts(one.of(repo.read()))[MODEL] == "two\n"


def test_the_operators_beginning_of_trust_goes_before_the_ref_that_others_may_move(repo):
    start = repo.branch_tip or ""
    evil = repo.person_commits({MODEL: "evil\n"})
    repo.mark_vouched(evil)
    assert texts(Vouched(repo, Trust()).of(repo.read()))[MODEL] == "evil\n"
    assert texts(Vouched(repo, Trust(commit=start)).of(repo.read()))[MODEL] == "one\n"
    with pytest.raises(Stalled):
        Vouched(repo, Trust(commit="0" * 40)).of(repo.read())


# --- files of environments ----------------------------------------------------------------------------------------


def test_an_accepted_history_must_be_signed_wherever_anything_must(repo, vouched):
    repo.person_commits({ACCEPTED: "evil\n"})
    found = vouched.of(repo.read())
    assert ACCEPTED not in texts(found)
    assert "is not signed" in found.refused["production"]


def test_releases_are_free_unless_they_are_named():
    for paths, free in (("[models/]", True), ("[models/, environments/]", False)):
        repo = FakeRepo({**START, "sluice.yaml": SLUICE % f"signatures: {{paths: {paths}}}\n"})
        repo.signer = "ada"
        one = Vouched(repo, Trust())
        one.of(repo.read())
        repo.commit(repo.branch_tip or "", {RELEASE: "ours\n"}, "Ours")
        assert one.of(repo.read()).refused == {}
        repo.person_commits({RELEASE: "by hand\n"})
        found = one.of(repo.read())
        assert (found.refused == {}) is free
        assert texts(found)[RELEASE] == ("by hand\n" if free else "ours\n")


def test_a_rewritten_branch_vouches_for_nothing(repo, vouched):
    repo.force_push(files={**START, MODEL: "evil\n", ALLOWED_SIGNERS: "eve\n"})
    found = vouched.of(repo.read())
    assert texts(found) == START


# --- merges -----------------------------------------------------------------------------------------------------


class Merged:
    """A repo of three commits after the trusted one: main's, a branch's, and their merge."""

    def __init__(self, *changes: Change, signers: dict[str, str], files: dict[str, dict[str, str]]) -> None:
        self._changes, self._signers, self._files = changes, signers, files

    def vouched(self) -> str:
        return "base"

    def changes(self, *_: str) -> tuple[Change, ...]:
        return self._changes

    def signature(self, commit: str, signers: str) -> Signature:
        signer = self._signers.get(commit, "")
        return Signature(signer=signer) if signer in signers.split() else Signature(trouble="is not signed")

    def read_at(self, commit: str, paths: list[str]) -> dict[str, str]:
        return {path: text for path, text in self._files[commit].items() if path in paths}


def change(commit: str, *parents: str, paths: tuple[str, ...] = (), **taken: str) -> Change:
    return Change(
        commit=commit,
        author="Ada <ada@example.com>",
        parents=parents,
        paths=frozenset(paths),
        taken={MODEL: taken["model"]} if taken else {},
    )


@pytest.mark.parametrize(
    ("signers", "own", "counts"),
    [
        ({"branch": "ada"}, (), "two\n"),  # the forge merges, unsigned, what Ada signed
        ({}, (), "one\n"),  # what nobody signed does not count for being merged
        ({"merge": "ada"}, (), "one\n"),  # nor for being merged by somebody who may sign: the merge changes nothing
        ({"branch": "ada"}, (MODEL,), "two\n"),  # an unsigned merge that changes a file itself
        ({"branch": "ada", "merge": "ada"}, (MODEL,), "merged\n"),
    ],
)
def test_a_merge_brings_what_its_branch_had_and_vouches_for_its_own_changes_only(signers, own, counts):
    merged = "merged\n" if own else "two\n"
    files = {"base": dict(START), "branch": {**START, MODEL: "two\n"}, "merge": {**START, MODEL: merged}}
    merge = change("merge", "main", "branch", paths=own, **({} if own else {"model": "branch"}))
    if own:
        merge = Change(commit="merge", author="Ada <ada@example.com>", parents=("branch", "main"), paths=frozenset(own))
    repo = Merged(change("main", "base"), change("branch", "base", paths=(MODEL,)), merge, signers=signers, files=files)
    tip = Tip(commit="merge", files=files["merge"], author="", subject="")
    assert texts(Vouched(repo, Trust()).of(tip))[MODEL] == counts
