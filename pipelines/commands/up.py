"""`sluice up`: the local stack, left running until a person stops it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from pipelines.local_stack import LocalStack

LOOKS_AFTER_S = 1.0
"""Serving goes on without a reconciler, so a second more does not matter."""

WHY: Final = "grep -r -A 30 REQUEST_ID"
"""The reason of a 500 is the traceback below the line that names the request; README and operations.md say the same."""


def up(folder: Path, models: tuple[str, ...], say: Callable[[str], None], *, grpc: bool = False) -> None:
    """Start everything below `folder`, say where it is, and stop it at SIGINT or SIGTERM. Raises Stalled.

    `grpc`: models answer gRPC, too.
    """
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    say("starting the local stack; this takes half a minute or so")
    with LocalStack(folder, models=models, say=say, grpc=grpc) as stack:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, stop)
        say("")
        say(f"Log a model to {stack.tracking_uri}, write models/<model>.yaml in the config repo")
        say(f"(git clone {stack.repo_url}), push, and move a version to Production.")
        say(f"Why an answer was 500: {WHY} {stack.ray.replica_logs}")
        say("`sluice status`, `history` and `plan` work in this folder. Ctrl-C stops everything.")
        while not stopped.wait(LOOKS_AFTER_S):
            _look_after(stack, say)
        say("stopping")


def _look_after(stack: LocalStack, say: Callable[[str], None]) -> None:
    """A reconciler that died is started again: it needs nothing but what is in Git."""
    if stack.reconciler is not None and not stack.reconciler.running:
        say(f"the reconciler has ended (exit code {stack.reconciler.exit_code}); starting it again")
        stack.start_reconciler()
