"""`sluice up`: the local stack, left running until a person stops it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from pipelines.local_stack import LocalStack


def up(folder: Path, models: tuple[str, ...], say: Callable[[str], None]) -> None:
    """Start everything below `folder`, say where it is, and stop it at SIGINT or SIGTERM. Raises Stalled."""
    stopped = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopped.set()

    say("starting the local stack; this takes half a minute or so")
    with LocalStack(folder, models=models, say=say) as stack:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, stop)
        say("")
        say(f"Log a model to {stack.tracking_uri}, write models/<model>.yaml in the config repo")
        say(f"(git clone {stack.repo_url}), push, and move a version to Production.")
        say("`sluice status`, `history` and `plan` work in this folder. Ctrl-C stops everything.")
        stopped.wait()
        say("stopping")
