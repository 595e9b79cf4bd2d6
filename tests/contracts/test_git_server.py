"""The local stack's Git server as a client on this machine meets it, and as one that means no good does."""

from __future__ import annotations

import base64
import gzip
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from pipelines.git_server import Limits, create_app, create_repo
from pipelines.processes import free_port
from policies.errors import BadInput
from tests.conditions import wait_until
from tests.contracts.repo_harness import run_git

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]

LS_REFS = b"0014command=ls-refs\n0001001bref-prefix refs/heads/\n0000"
UPLOAD = {"content-type": "application/x-git-upload-pack-request", "git-protocol": "version=2"}
TOKEN = "t0ken"


@contextmanager
def serving(root: Path, token: str | None = None, limits: Limits | None = None) -> Iterator[httpx.Client]:
    """The server in a thread; a client of it."""
    port = free_port()
    config = uvicorn.Config(
        create_app(root, token, limits), port=port, log_level="warning", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, 30, "the server is up")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """With one repo that has one commit, and a work folder beside it."""
    made = tmp_path / "repos"
    bare = create_repo(made, "config")
    work = tmp_path / "work"
    run_git("init", "--quiet", "--initial-branch=main", str(work), cwd=tmp_path)
    (work / "big").write_bytes(os.urandom(200_000))
    run_git("add", ".", cwd=work)
    run_git("commit", "--quiet", "-m", "First", cwd=work)
    run_git("push", "--quiet", str(bare), "main", cwd=work)
    return made


def push(client: httpx.Client, root: Path) -> str:
    """A push of a new commit; Git's words if it fails."""
    work = root.parent / "work"
    run_git("commit", "--quiet", "--allow-empty", "-m", "Next", cwd=work)
    try:
        run_git("push", str(client.base_url.join("/config.git")), "main", cwd=work)
    except AssertionError as error:
        return str(error)
    return ""


def test_clones_and_takes_pushes(root: Path, tmp_path: Path) -> None:
    with serving(root) as client:
        assert push(client, root) == ""
        run_git("clone", "--quiet", str(client.base_url.join("/config.git")), "copy", cwd=tmp_path)
    assert run_git("log", "--format=%s", cwd=tmp_path / "copy") == "Next\nFirst"


def test_a_server_hook_speaks_to_the_client(root: Path) -> None:
    hook = root / "config.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\necho not today >&2\nexit 1\n")
    hook.chmod(0o755)
    with serving(root) as client:
        assert "not today" in push(client, root)


def test_a_compressed_body_is_unpacked(root: Path) -> None:
    with serving(root) as client:
        headers = {**UPLOAD, "content-encoding": "gzip"}
        plain = client.post("/config.git/git-upload-pack", content=LS_REFS, headers=UPLOAD)
        packed = client.post("/config.git/git-upload-pack", content=gzip.compress(LS_REFS), headers=headers)
    assert b"refs/heads/main" in plain.content
    assert packed.content == plain.content


def test_a_body_in_chunks_of_unknown_length_is_read_to_its_end(root: Path) -> None:
    with serving(root) as client:
        chunks = iter([LS_REFS[:10], LS_REFS[10:]])
        answer = client.post("/config.git/git-upload-pack", content=chunks, headers=UPLOAD)
    assert b"refs/heads/main" in answer.content


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/config.git/HEAD"),
        ("GET", "/config.git/config"),
        ("GET", "/config.git/info/refs"),
        ("GET", "/config.git/info/refs?service=git-upload-archive"),
        ("GET", "/config.git/info/refs?service=git-upload-pack&x=1"),
        ("GET", "/config.git/git-upload-pack"),
        ("POST", "/config.git/git-upload-archive"),
        ("POST", "/config.git/info/refs?service=git-upload-pack"),
        ("GET", "/%2e%2e.git/info/refs?service=git-upload-pack"),
        ("GET", "/..%2frepos%2fconfig.git/info/refs?service=git-upload-pack"),
        ("GET", "/config.git/../../secret.git/info/refs?service=git-upload-pack"),
        ("GET", "/link.git/info/refs?service=git-upload-pack"),
        ("GET", "/nothing.git/info/refs?service=git-upload-pack"),
        ("GET", "/"),
    ],
)
def test_only_the_smart_protocol_of_repos_below_the_root(root: Path, tmp_path: Path, method: str, path: str) -> None:
    secret = create_repo(tmp_path, "secret")
    (root / "link.git").symlink_to(secret)
    with serving(root) as client:
        assert client.request(method, path).status_code == 404


def test_a_web_page_under_another_name_is_refused(root: Path) -> None:
    with serving(root) as client:
        url = "/config.git/info/refs?service=git-upload-pack"
        assert client.get(url, headers={"host": "evil.example.com"}).status_code == 400
        assert client.get(url).status_code == 200


def test_a_token_is_asked_for(root: Path) -> None:
    url = "/config.git/info/refs?service=git-upload-pack"
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    wrong = base64.b64encode(b"anyone:other").decode()
    with serving(root, TOKEN) as client:
        for refused in ("", f"Basic {wrong}", "Basic ???", "Bearer other", f"Digest {TOKEN}"):
            answer = client.get(url, headers={"authorization": refused})
            assert (answer.status_code, "basic" in answer.headers["www-authenticate"].lower()) == (401, True)
        for accepted in (f"Basic {basic}", f"Bearer {TOKEN}"):
            assert client.get(url, headers={"authorization": accepted}).status_code == 200
        assert client.get("/healthz").status_code == 200


def test_a_body_over_the_limit_is_cut_off(root: Path) -> None:
    big = b"x" * 300_000
    path, headers = "/config.git/git-upload-pack", UPLOAD
    with serving(root, limits=Limits(max_body_bytes=100_000)) as client:
        assert client.post(path, content=big, headers=headers).status_code == 413
        try:
            unannounced = client.post(path, content=iter([big[:50_000]] * 6), headers=headers).status_code
        except httpx.TransportError:  # the server hung up while we were sending
            unannounced = 413
        assert unannounced in (413, 500)
        assert client.post(path, content=LS_REFS, headers=headers).status_code == 200


def test_a_push_that_unpacks_to_more_than_the_limit_is_refused(root: Path) -> None:
    work = root.parent / "work"
    (work / "big").write_bytes(os.urandom(200_000))
    run_git("commit", "--quiet", "-a", "-m", "Big", cwd=work)
    with serving(root, limits=Limits(max_body_bytes=150_000)) as client:
        assert push(client, root) != ""
    assert run_git("log", "--format=%s", "main", cwd=root / "config.git") == "First"


def test_more_at_once_than_the_limit_are_told_to_come_back(root: Path) -> None:
    gate = root / "gate"
    os.mkfifo(gate)
    hook = root / "config.git" / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\necho here > {gate}\nread answer < {gate}\n")
    hook.chmod(0o755)
    with serving(root, limits=Limits(backends=1, queue_s=0.2)) as client:
        pushing = threading.Thread(target=push, args=(client, root))
        pushing.start()
        assert gate.read_text() == "here\n"
        busy = client.get("/config.git/info/refs?service=git-upload-pack")
        gate.write_text("go on\n")
        pushing.join()
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "5")
        assert client.get("/config.git/info/refs?service=git-upload-pack").status_code == 200
    assert run_git("log", "--format=%s", "main", cwd=root / "config.git") == "Next\nFirst"


def test_a_backend_past_its_deadline_is_ended(root: Path) -> None:
    hook = root / "config.git" / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexec tail -f /dev/null\n")
    hook.chmod(0o755)
    with serving(root, limits=Limits(backend_s=1.0)) as client:
        assert push(client, root) != ""
        assert client.get("/config.git/info/refs?service=git-upload-pack").status_code == 200


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x", "x.git", "a\nb"])
def test_a_repo_has_a_plain_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput):
        create_repo(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_repo_that_exists_stays_as_it_is(root: Path) -> None:
    before = run_git("rev-parse", "main", cwd=root / "config.git")
    assert create_repo(root, "config", branch="other") == root / "config.git"
    assert run_git("rev-parse", "main", cwd=root / "config.git") == before
