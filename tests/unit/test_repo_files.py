from __future__ import annotations

import pytest

from policies.errors import BadInput, Retry, Stalled
from registry_bridge.git_command import Answer, complain
from registry_bridge.repo_files import (
    MAX_FILE_BYTES,
    MAX_FILES,
    MAX_SERVE_CONFIG_BYTES,
    MAX_TOTAL_BYTES,
    Entry,
    check_branch,
    check_change,
    check_url,
    readable_paths,
)


def entry(path: str = "models/x.yaml", mode: str = "100644", size: int = 1) -> Entry:
    return Entry(path.encode(), mode, "0" * 40, size)


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example.com/team/config.git",
        "http://127.0.0.1:3000/config.git",
        "http://[::1]:3000/config.git",
        "ssh://git@git.example.com:2222/config.git",
        "git@github.com:team/config.git",
        "host:config.git",
        "file:///srv/git/config.git",
        "/srv/git/con fig.git",
    ],
)
def test_an_address_of_the_five_kinds_is_taken(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "--upload-pack=touch /tmp/x",
        "-oProxyCommand=touch x",
        "ext::sh -c touch% /tmp/x",
        "EXT::sh -c x",
        "fd::7",
        "git://git.example.com/config.git",
        "ftp://git.example.com/config.git",
        "ssh://-oProxyCommand=x/config.git",
        "-host:config.git",
        "git@-oProxyCommand=x:config.git",
        "../config.git",
        "config.git",
        "https://git.example.com/a b",
        "https://git.example.com/a\n",
        "/srv/git\n/config.git",
        "file://host/config.git",
    ],
)
def test_anything_else_is_no_address(url: str) -> None:
    with pytest.raises(BadInput, match="no address"):
        check_url(url)


@pytest.mark.parametrize(
    "url", ["https://me:hunter2@git.example.com/c.git", "HTTPS://hunter2@host/c.git", "ssh://git:hunter2@host/c.git"]
)
def test_a_secret_in_an_address_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(BadInput, match="SLUICE_GIT_TOKEN") as caught:
        check_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("branch", ["main", "release/1.x", "team_a+b"])
def test_a_branch(branch: str) -> None:
    assert check_branch(branch) == branch


@pytest.mark.parametrize(
    "branch", ["", "-d", "--force", "a..b", "a//b", "/a", "a/", "a.lock", "a b", "a\n", "a:b", "+a", "a^", ".a", "a/.b"]
)
def test_no_branch(branch: str) -> None:
    with pytest.raises(BadInput, match="branch"):
        check_branch(branch)


def test_sizes_are_limited_one_by_one_and_in_all() -> None:
    assert len(readable_paths([entry(size=MAX_FILE_BYTES)])) == 1
    with pytest.raises(Stalled, match=r"models/x.yaml.*1,048,577 bytes"):
        readable_paths([entry(size=MAX_FILE_BYTES + 1)])
    count = MAX_TOTAL_BYTES // MAX_FILE_BYTES
    assert len(readable_paths(entry(f"models/{n}", size=MAX_FILE_BYTES) for n in range(count))) == count
    with pytest.raises(Stalled, match=r"history/"):
        readable_paths(entry(f"models/{n}", size=MAX_FILE_BYTES) for n in range(count + 1))
    with pytest.raises(Stalled, match=r"50,001 files"):
        readable_paths(entry(f"models/{n}") for n in range(MAX_FILES + 1))


@pytest.mark.parametrize(
    ("mode", "words"), [("120000", "symbolic link"), ("160000", "submodule"), ("040000", "no regular file")]
)
def test_only_plain_files(mode: str, words: str) -> None:
    with pytest.raises(Stalled, match=f"models/x.yaml.*{words}"):
        readable_paths([entry(mode=mode)])


@pytest.mark.parametrize(
    "path", ["models/../../etc/x", "models/.git/x", "models/GIT~1/x", "models/a\x1b[31m", "models//x"]
)
def test_a_tree_made_by_hand_cannot_lead_outside(path: str) -> None:
    with pytest.raises(Stalled) as caught:
        readable_paths([entry(path)])
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("fatal: unable to access 'http://x/': Could not resolve host: x", Retry),
        ("fatal: unable to access 'http://x/': Failed to connect to x port 1: Connection refused", Retry),
        ("error: RPC failed; curl 18 transfer closed; fatal: the remote end hung up unexpectedly", Retry),
        ("fatal: unable to access 'http://x/': The requested URL returned error: 503", Retry),
        ("fatal: unable to access 'http://x/': The requested URL returned error: 429", Retry),
        ("ssh: connect to host x port 22: Connection timed out; fatal: Could not read from remote repository.", Retry),
        ("fatal: Authentication failed for 'https://x/'", Stalled),
        ("fatal: could not read Username for 'https://x': terminal prompts disabled", Stalled),
        ("fatal: unable to access 'https://x/': The requested URL returned error: 403", Stalled),
        ("git@x: Permission denied (publickey).; fatal: Could not read from remote repository.", Stalled),
        ("Host key verification failed.; fatal: Could not read from remote repository.", Stalled),
        ("fatal: repository 'https://x/' not found", Stalled),
        ("fatal: unable to access 'https://x/': SSL certificate problem: self-signed certificate", Stalled),
        ("fatal: '/x' does not appear to be a git repository; fatal: Could not read from remote repository.", Stalled),
        ("remote: Authentication failed, says a hook; fatal: the remote end hung up unexpectedly", Retry),
        ("fatal: not a git repository: '/cache/config-repo.git'", type(None)),
        ("error: object file objects/aa is empty; fatal: loose object aa is corrupt", type(None)),
    ],
)
def test_what_git_says_is_sorted_by_what_to_do(words: str, kind: type) -> None:
    assert type(complain("https://x/", Answer(128, b"", words))) is kind


def test_a_deadline_is_a_retry() -> None:
    answer = Answer(-9, b"", "no answer within 60 s", timed_out=True)
    assert str(complain("https://x/", answer)) == "the config repo at https://x/ gave no answer within 60 s"


def test_a_serve_config_of_a_thousand_models_is_written_and_read() -> None:
    path, text = "environments/production/serve.yaml", "x" * MAX_SERVE_CONFIG_BYTES
    check_change(path, text)
    assert path in readable_paths([Entry(path.encode(), "100644", "a" * 40, MAX_SERVE_CONFIG_BYTES)])
    with pytest.raises(BadInput, match="4,194,304 bytes"):
        check_change(path, text + "x")
    with pytest.raises(Stalled, match="4,194,304 are read"):
        readable_paths([Entry(path.encode(), "100644", "a" * 40, MAX_SERVE_CONFIG_BYTES + 1)])
