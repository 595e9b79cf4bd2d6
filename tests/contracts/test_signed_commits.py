"""Signatures on real Git: SSH and GPG keys, merges as forges make them, and our own commits."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.stack_documents import Addresses, Signing, fill
from pipelines.vouched import Trust, Vouched
from policies.commit_message import message
from policies.errors import Stalled
from policies.layout import ALLOWED_SIGNERS
from policies.strict_yaml import parse
from registry_bridge.config_repo import ConfigRepo
from registry_bridge.git_signatures import Keys
from tests.contracts.repo_harness import RealStage, Server, run_git

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

SLUICE = "apiVersion: sluicegate/v1\nkind: Sluice\nsignatures: {}\nenvironments:\n  production: {trigger: {alias: c}}\n"
MODEL = "models/fraud.yaml"
UNSIGNED = ("-c", "commit.gpgsign=false")
GPG_USER = "Grace <grace@example.com>"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the SSH keys of Ada, who may sign, Eve, who may not, and Sluicegate."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ada", "eve", "sluicegate"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)]
        subprocess.run(made, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def gpg_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A keyring with Grace's key, without a passphrase."""
    folder = tmp_path_factory.mktemp("gpg")
    folder.chmod(0o700)
    gpg(folder, "--batch", "--passphrase", "", "--quick-generate-key", GPG_USER, "ed25519", "sign", "never")
    yield folder
    subprocess.run(["gpgconf", "--kill", "all"], env={**os.environ, "GNUPGHOME": str(folder)}, check=False)


def gpg(home: Path, *arguments: str) -> None:
    command = ["gpg", "--quiet", *arguments]
    subprocess.run(command, env={**os.environ, "GNUPGHOME": str(home)}, check=True, capture_output=True)


def signers(keys: Path, *names: str) -> str:
    return "".join(f"{name}@example.com {(keys / f'{name}.pub').read_text()}" for name in names)


def by(keys: Path, name: str) -> tuple[str, ...]:
    return ("-c", "gpg.format=ssh", "-c", f"user.signingKey={keys / name}", "-c", "commit.gpgsign=true")


@pytest.fixture
def stage(server: Server, tmp_path: Path, keys: Path) -> RealStage:
    made = RealStage(server, tmp_path)
    made.person_commits({"sluice.yaml": SLUICE, ALLOWED_SIGNERS: signers(keys, "ada", "sluicegate"), MODEL: "one\n"})
    return made


def commits(stage: RealStage, how: tuple[str, ...], changes: dict[str, str], branch: str = "main") -> str:
    """A person commits on the branch of the working clone, signed as `how` says."""
    for path, text in changes.items():
        (stage.work / path).parent.mkdir(parents=True, exist_ok=True)
        (stage.work / path).write_text(text)
    run_git("add", "--all", cwd=stage.work)
    run_git(*how, "commit", "--quiet", "-m", "A change", cwd=stage.work)
    if branch == "main":
        run_git("push", "--quiet", str(stage.bare), "HEAD:refs/heads/main", cwd=stage.work)
    return run_git("rev-parse", "HEAD", cwd=stage.work)


def test_an_ssh_signature_counts_where_the_signers_name_its_key(stage: RealStage, keys: Path) -> None:
    door = stage.door()
    good = commits(stage, by(keys, "ada"), {MODEL: "two\n"})
    strange = commits(stage, by(keys, "eve"), {MODEL: "three\n"})
    bare = commits(stage, UNSIGNED, {MODEL: "four\n"})
    door.read()
    allowed = signers(keys, "ada")
    assert door.signature(good, allowed).signer == "ada@example.com"
    assert door.signature(good, "").trouble.startswith("is signed by a key that is not allowed to sign: SHA256:")
    assert "not allowed to sign: SHA256:" in door.signature(strange, allowed).trouble
    assert door.signature(bare, allowed).trouble == "is not signed"


def test_a_signature_that_was_moved_to_another_commit_does_not_count(stage: RealStage, keys: Path) -> None:
    good = commits(stage, by(keys, "ada"), {MODEL: "two\n"})
    raw = run_git("cat-file", "commit", good, cwd=stage.work).replace("A change", "Another change")
    (stage.work.parent / "forged").write_text(raw + "\n")
    forged = run_git("hash-object", "-t", "commit", "-w", str(stage.work.parent / "forged"), cwd=stage.work)
    run_git("push", "--quiet", "--force", str(stage.bare), f"{forged}:refs/heads/main", cwd=stage.work)
    door = stage.door()
    door.read()
    assert door.signature(forged, signers(keys, "ada")).signer == ""


def test_a_key_that_has_expired_does_not_count(stage: RealStage, keys: Path) -> None:
    good = commits(stage, by(keys, "ada"), {MODEL: "two\n"})
    door = stage.door()
    door.read()
    public = (keys / "ada.pub").read_text()
    assert door.signature(good, f'ada@example.com valid-before="20200101" {public}').signer == ""
    assert door.signature(good, f'ada@example.com namespaces="file" {public}').signer == ""


def test_a_gpg_signature_counts_where_the_keyring_has_its_key(stage: RealStage, gpg_home: Path, tmp_path: Path) -> None:
    cache = tmp_path / "gpg-cache"
    door = ConfigRepo(stage.url, "main", cache, keys=Keys(signing_key="grace@example.com", gpg_home=gpg_home))
    ours = door.commit(door.read().commit, {MODEL: "two\n"}, message("Ours"))
    assert door.signature(ours, "").signer == GPG_USER
    stranger = stage.door()
    stranger.read()
    assert "not allowed to sign" in stranger.signature(ours, "").trouble


def test_our_own_commits_are_signed_and_count(stage: RealStage, keys: Path, tmp_path: Path) -> None:
    ours = ConfigRepo(stage.url, "main", tmp_path / "ours", keys=Keys(signing_key=str(keys / "sluicegate")))
    commit = ours.commit(ours.read().commit, {"environments/production/serve.yaml": "{}\n"}, message("Ours"))
    assert ours.signature(commit, signers(keys, "sluicegate")).signer == "sluicegate@example.com"
    assert ours.read().commit == commit


def test_a_key_that_cannot_sign_is_said_and_nothing_is_committed(stage: RealStage, keys: Path, tmp_path: Path) -> None:
    shutil.copy(keys / "ada.pub", tmp_path / "no-key")
    for key in (str(tmp_path / "missing"), str(tmp_path / "no-key"), "nobody@example.com"):
        door = ConfigRepo(stage.url, "main", tmp_path / "c", keys=Keys(signing_key=key))
        tip = door.read()
        with pytest.raises(Stalled, match="SLUICE_SIGNING_KEY"):
            door.commit(tip.commit, {MODEL: "two\n"}, message("Ours"))
        assert door.read() == tip


@pytest.mark.parametrize("signs", [True, False])
def test_a_local_stack_brings_its_addresses_where_they_count_and_else_says_what_to_commit(
    stage: RealStage, keys: Path, tmp_path: Path, signs: bool
) -> None:
    now = Addresses(
        environment="production",
        registry="http://127.0.0.1:11",
        ray="http://127.0.0.1:12",
        prometheus="http://127.0.0.1:13",
        grpc=False,
    )
    text = SLUICE.replace("{trigger: {alias: c}}", "\n    trigger: {alias: c}  # ours")
    before = commits(stage, by(keys, "ada"), {"sluice.yaml": text + "registry: {tracking_uri: 'http://127.0.0.1:1'}\n"})
    key = Keys(signing_key=str(keys / "sluicegate")) if signs else Keys()
    door = ConfigRepo(stage.url, "main", tmp_path / "ours", keys=key)
    door.mark_vouched(door.read().commit)
    said = fill(door, {}, {}, now, Signing(trust=Trust(), key=signs))
    found = Vouched(door, Trust()).of(door.read())
    assert found.notes == ()
    if signs:
        assert said == []
        assert parse(found.tip.files["sluice.yaml"], "sluice.yaml").value(("registry", "tracking_uri")) == now.registry
        assert "trigger: {alias: c}  # ours" in found.tip.files["sluice.yaml"]
    else:
        assert door.read().commit == before
        assert "  sluice.yaml: registry.tracking_uri: http://127.0.0.1:11" in said


# --- what each commit changed -------------------------------------------------------------------------------------


def branch_of(stage: RealStage, how: tuple[str, ...], changes: dict[str, str]) -> str:
    run_git("fetch", "--quiet", str(stage.bare), "main", cwd=stage.work)
    run_git("checkout", "--quiet", "-B", "feature", "FETCH_HEAD", cwd=stage.work)
    commit = commits(stage, how, changes, branch="feature")
    run_git("checkout", "--quiet", "main", cwd=stage.work)
    return commit


def merge(stage: RealStage, *options: str) -> str:
    run_git(*UNSIGNED, "merge", "--quiet", "--no-ff", "-m", "Merge feature", *options, "feature", cwd=stage.work)
    run_git("push", "--quiet", str(stage.bare), "HEAD:refs/heads/main", cwd=stage.work)
    return run_git("rev-parse", "HEAD", cwd=stage.work)


def test_commits_come_parents_first_with_the_files_that_each_changed(stage: RealStage) -> None:
    start = stage.door().read().commit
    first = stage.person_commits({MODEL: "two\n", "README.md": "not read\n"})
    second = stage.person_commits({MODEL: None, "models/größe.yaml": "new\n"}, author="Eve <eve@example.com>")
    third = stage.person_commits({"README.md": "still not\n"})
    one, two, three = stage.door().changes(start, third)
    assert (one.commit, one.parents, one.paths) == (first, (start,), {MODEL})
    assert (two.commit, two.author, two.paths) == (second, "Eve <eve@example.com>", {MODEL, "models/größe.yaml"})
    assert (three.commit, three.paths) == (third, frozenset())
    assert stage.door().changes(third, start) == ()


def test_an_unsigned_merge_of_a_signed_branch_counts(stage: RealStage, keys: Path) -> None:
    vouched = Vouched(stage.door(), Trust())
    vouched.of(stage.door().read())
    branch = branch_of(stage, by(keys, "ada"), {MODEL: "two\n"})
    commits(stage, by(keys, "ada"), {"models/churn.yaml": "one\n"})
    merged = merge(stage)
    found = vouched.of(stage.door().read())
    assert (found.notes, found.trusted) == ((), merged)
    assert found.tip.files[MODEL] == "two\n"
    last = stage.door().changes(branch, merged)[-1]
    assert (last.paths, dict(last.taken)) == (frozenset(), {MODEL: branch})


def test_a_merge_that_drops_or_adds_something_has_changed_it_itself(stage: RealStage, keys: Path) -> None:
    vouched = Vouched(stage.door(), Trust())
    vouched.of(stage.door().read())
    branch_of(stage, by(keys, "ada"), {"models/churn.yaml": "one\n"})
    commits(stage, by(keys, "ada"), {MODEL: "two\n"})
    run_git(*UNSIGNED, "merge", "--quiet", "--no-ff", "--no-commit", "feature", cwd=stage.work)
    (stage.work / MODEL).write_text("one\n")  # as it was before main changed it
    (stage.work / "policies" / "evil.yaml").write_text("evil\n")
    run_git("add", "--all", cwd=stage.work)
    run_git(*UNSIGNED, "commit", "--quiet", "-m", "Merge feature", cwd=stage.work)
    run_git("push", "--quiet", str(stage.bare), "HEAD:refs/heads/main", cwd=stage.work)
    found = vouched.of(stage.door().read())
    assert {note.file for note in found.notes} == {MODEL, "policies/evil.yaml"}
    assert found.tip.files[MODEL] == "two\n"
    assert found.tip.files["models/churn.yaml"] == "one\n"


def test_an_unsigned_branch_does_not_count_for_being_merged(stage: RealStage, keys: Path) -> None:
    vouched = Vouched(stage.door(), Trust())
    vouched.of(stage.door().read())
    branch = branch_of(stage, by(keys, "eve"), {MODEL: "evil\n"})
    merge(stage)
    found = vouched.of(stage.door().read())
    assert found.tip.files[MODEL] == "one\n"
    assert [branch in note.message for note in found.notes] == [True]


def test_trust_moves_on_in_git_and_is_found_by_a_new_clone(stage: RealStage) -> None:
    door = stage.door()
    start = door.read().commit
    assert door.vouched() is None
    door.mark_vouched(start)
    commits(stage, UNSIGNED, {MODEL: "evil\n"})
    other = stage.door()
    assert other.vouched() == start
    assert Vouched(other, Trust()).of(other.read()).tip.files[MODEL] == "one\n"
