"""Git commands, run through GitPython: bounded, quiet, and deaf to what else is configured on this machine.

Rules:
- Every command has a deadline; past it the command and everything it started are killed.
- Git never asks anybody anything: no terminal, no askpass, no credential helper, ssh in batch mode.
- No configuration but ours: neither the system's nor the user's, no hooks of the clone. The environment's proxy, CA and
  GIT_SSH_COMMAND variables do count, they belong to whoever started us.
- Protocols are http, https, ssh and file; redirects are not followed, as the token would be shown to where they lead.
- The token travels in the environment (GIT_CONFIG_COUNT) as an HTTP header: never in an argument, an address, a file or
  a log. It is blotted out of everything Git says.
- What Git said is sorted by what the loop must do with it: `complain` raises Retry or Stalled.

This module must not know what the config repo holds or what a release is.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import os
import re
import signal
import subprocess
import tempfile
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from policies.errors import BadInput, Retry, Stalled

_LOG = logging.getLogger(__name__)

TOKEN_VARIABLE: Final = "SLUICE_GIT_TOKEN"
"""Who puts the door together reads the token from here (`pipelines/settings.py`)."""
TOKEN_USER: Final = "x-access-token"
"""GitHub wants this name with a token; Gitea, Forgejo and GitLab take any."""
LOCAL_S: Final = 60.0
"""Seconds for a command that stays on this machine; a loaded disk needs a few."""
NETWORK_S: Final = 60.0
"""Seconds for a fetch or push of some files; the loop looks every 15 s and must not hang much longer than that."""
CLONE_S: Final = 300.0
"""Seconds for fetching everything: 50,000 files of history take about a minute on a slow line."""
LOW_SPEED_S: Final = 30
"""Seconds without a single byte after which HTTP gives up; servers send keep-alives every 5 s."""
CONNECT_S: Final = 10
"""Seconds for ssh to connect."""
KILL_S: Final = 5.0
"""Seconds that a killed command has to be gone: SIGKILL is not refused, a disk that hangs can hold it."""
WORDS_LIMIT: Final = 2000
"""Characters of what Git or a hook said that go into a message: a screenful."""

_PROTOCOLS: Final = "http:https:ssh:file"
_CONFIG: Final = (
    ("core.hooksPath", os.devnull),
    ("core.sshCommand", f"ssh -o BatchMode=yes -o ConnectTimeout={CONNECT_S}"),
    ("credential.helper", ""),
    ("gc.autoDetach", "false"),  # a gc that goes on by itself would outlive its deadline and the clone
    ("http.followRedirects", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", str(LOW_SPEED_S)),
    ("push.followTags", "false"),
    ("submodule.recurse", "false"),
)
_ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_PARAMETERS": "",
    "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NAMESPACE": "",
    "GIT_TRACE_REDACT": "1",
}

# Order matters: the first that matches decides. Only what Git itself said is matched, never a hook's words.
_FOR_A_PERSON: Final = (
    (
        re.compile(
            r"authentication failed|could not read (username|password)|returned error: 40[13]|permission denied \("
        ),
        f"it does not let us in; set {TOKEN_VARIABLE} (http, https) or an ssh key to one that may write",
    ),
    (
        re.compile(r"repository '?.*'? not found|returned error: 404|does not appear to be a git repo"),
        "there is no such repo; correct its address",
    ),
    (
        re.compile(r"ssl cert|certificate|host key verification failed"),
        "its identity could not be verified; give GIT_SSL_CAINFO or add the host key",
    ),
    (re.compile(r"redirect"), "it has moved; give its new address, redirects are not followed"),
    (re.compile(r"dubious ownership"), "it belongs to another user; use file ownership or an http address"),
    (re.compile(r"transport '.*' not allowed"), "only http, https, ssh and file addresses are used"),
)
_AWAY: Final = re.compile(
    r"could not resolve|failed to connect|couldn't connect|could not connect|unable to connect|connection |timed out"
    r"|returned error: (408|429|5\d\d)|hung up|early eof|too slow|empty reply|rpc failed|unreachable|no route"
    r"|unable to access|could not read from remote|unexpected disconnect|operation was aborted|recv failure|curl "
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Seconds that commands may take."""

    local_s: float = LOCAL_S
    network_s: float = NETWORK_S
    clone_s: float = CLONE_S


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command answered. `words` is what it said on stderr, fit to be shown; `status` is 0 when all went well."""

    status: int
    output: bytes
    words: str
    timed_out: bool = False

    @property
    def text(self) -> str:
        """The output as text, without the line break at its end."""
        return self.output.decode("utf-8", "replace").rstrip("\n")


class GitCommand:
    """Runs git. `token` is for http and https addresses; none means the server wants none."""

    def __init__(self, token: str | None = None, user: str = TOKEN_USER) -> None:
        """Raises BadInput for a token that cannot be a header's value; it is not shown."""
        if token is not None and not re.fullmatch(r"[\x21-\x7e]{1,1000}", token):
            raise BadInput(f"{TOKEN_VARIABLE} has characters that no token has (a line break at its end?)")
        basic = base64.b64encode(f"{user}:{token}".encode()).decode() if token else ""
        self._secrets = (basic, token) if token else ()
        self._header = f"Authorization: Basic {basic}" if token else ""

    def run(
        self,
        *arguments: str,
        deadline_s: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        network: bool = False,
    ) -> Answer:
        """Run `git <arguments>`; never raises for what Git answers. Raises Stalled where git is not installed."""
        with tempfile.TemporaryFile() as source:
            source.write(stdin)
            source.seek(0)
            process = self._start(
                ("git", *arguments), source, {**self._environment(network=network), **(environment or {})}
            )
            return self._finish(process, deadline_s, arguments)

    def _start(self, command: tuple[str, ...], source: Any, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """GitPython starts it, without a shell and in a session of its own, so that all of it can be killed."""
        try:
            from git.cmd import Git
            from git.exc import GitCommandNotFound
        except ModuleNotFoundError:  # GitPython itself is not installed
            raise
        except ImportError as error:  # it refuses to be imported where there is no git
            raise Stalled("git cannot be run on this machine: install git 2.31 or newer") from error
        # In "/", so that no repo around the current folder is found.
        # GitPython's own kill_after_timeout lists children with `pgrep` or `ps`, which slim images lack, and its
        # watchdog thread keeps a process that was interrupted from ending.
        options: dict[str, Any] = {"istream": source, "env": environment, "as_process": True, "start_new_session": True}
        try:
            running: Any = Git("/").execute(list(command), **options)
        except GitCommandNotFound as error:
            raise Stalled("git cannot be run on this machine: install git 2.31 or newer") from error
        process: subprocess.Popen[bytes] = running.proc
        running.proc = None  # ours now: AutoInterrupt would signal it again
        return process

    def _finish(self, process: subprocess.Popen[bytes], deadline_s: float, arguments: tuple[str, ...]) -> Answer:
        try:
            output, said = process.communicate(timeout=deadline_s)
        except subprocess.TimeoutExpired:
            _LOG.warning("git %s took longer than %g s and was stopped", _verb(arguments), deadline_s)
            return Answer(-signal.SIGKILL, b"", f"no answer within {deadline_s:g} s", timed_out=True)
        finally:  # also when this thread is interrupted
            _end(process)
        return Answer(process.returncode, output, self._fit_to_show(said.decode("utf-8", "replace")))

    def _environment(self, *, network: bool) -> dict[str, str]:
        config = [*_CONFIG]
        if self._header and network:
            config.append(("http.extraHeader", self._header))
        numbered = {f"GIT_CONFIG_KEY_{n}": key for n, (key, _) in enumerate(config)}
        numbered |= {f"GIT_CONFIG_VALUE_{n}": value for n, (_, value) in enumerate(config)}
        return {**_ENVIRONMENT, **numbered, "GIT_CONFIG_COUNT": str(len(config))}

    def _fit_to_show(self, said: str) -> str:
        for secret in self._secrets:
            said = said.replace(secret, "***")
        clean = "".join(c if c == "\n" or unicodedata.category(c)[0] != "C" else " " for c in said)
        lines = [line.strip() for line in clean.split("\n") if line.strip()]
        return "; ".join(lines)[-WORDS_LIMIT:]


def complain(address: str, answer: Answer) -> Retry | Stalled | None:
    """The error for a network command that failed; none where what Git said does not blame the other side.

    `address` is shown as it is: it carries no credentials (`repo_files.check_url`).
    """
    if answer.timed_out:
        return Retry(f"the config repo at {address} gave {answer.words}")
    own = "; ".join(part for part in answer.words.split("; ") if not part.startswith("remote:")).lower()
    for pattern, advice in _FOR_A_PERSON:
        if pattern.search(own):
            return Stalled(f"the config repo at {address}: {advice} (git: {answer.words})")
    if _AWAY.search(own):
        return Retry(f"the config repo at {address} is away: {answer.words}")
    return None


def _verb(arguments: tuple[str, ...]) -> str:
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the command and what it started, if it still runs; wait for it, and close its pipes."""
    if process.returncode is None:  # `communicate` did not come to its end; a hook may hold our pipes after git is gone
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            _LOG.debug("git %d ended by itself while it was being stopped", process.pid)
        process.wait(timeout=KILL_S)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
