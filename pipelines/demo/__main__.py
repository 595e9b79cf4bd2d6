"""`python -m pipelines.demo [--keep]`: the whole story on a local stack of its own; `make demo` calls it."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType

from rich.console import Console

from pipelines.demo import report
from pipelines.demo.documents import documents
from pipelines.demo.script import tell
from pipelines.demo.stack import DemoStack
from pipelines.local_stack import LocalStack
from policies.errors import SluiceError

FOLDER = Path(".sluice")


def main() -> int:
    """Tell the story; the exit code is 0 when everything that was promised held."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the stack running until Ctrl-C")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where everything is kept (default .sluice)")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="mlflow")
    console = Console()
    signal.signal(signal.SIGTERM, _interrupt)
    stack = arguments.folder / "demo"
    shutil.rmtree(stack, ignore_errors=True)  # an earlier demo's registry and config repo
    (arguments.folder / report.NAME).unlink(missing_ok=True)  # an interrupted demo must not leave an older one's report
    # torch makes this folder when it is imported, in the system's temporary folder unless told otherwise
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str((arguments.folder / "torchinductor").absolute()))
    try:
        console.print("starting MLflow, Git, Ray Serve, Prometheus and the reconciler (half a minute or so)")
        with LocalStack(stack, documents=documents(), say=console.print) as local:
            code = tell(DemoStack(local), console, arguments.folder)
            if arguments.keep:
                console.print(f"\nKept running: try `sluice status --stack {stack}`. Ctrl-C stops everything.")
                threading.Event().wait()
            return code
    except SluiceError as error:
        console.print(f"sluice: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
