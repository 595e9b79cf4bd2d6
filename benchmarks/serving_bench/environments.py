"""Virtual environments for what does not live beside this project's own dependencies: MLServer and BentoML.

Each is made once below `benchmarks/.venvs`, with the versions of MLflow and of the models' libraries that are installed
here, so that all systems run the same model code. What cannot be installed is a reason, not an error.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version as installed
from pathlib import Path

from policies.errors import Stalled

from .matrix import BENTOML, MLSERVER

FOLDER = Path(__file__).resolve().parents[1] / ".venvs"
REQUIREMENTS = {
    # A younger uvloop makes no event loop where there is none, and MLServer's workers end at that.
    MLSERVER: ("mlserver==1.7.1", "mlserver-mlflow==1.7.1", "uvloop==0.21.0"),
    BENTOML: ("bentoml==1.4.40",),
}
SHARED = ("mlflow", "numpy", "pandas", "scikit-learn", "skops", "torch")
INSTALL_LIMIT_S = 900.0
"""A minute and a half with a near index; ten times that with a far one."""
REASON_CHARS = 500


def prepare(system: str, *, install: bool) -> Path:
    """The environment's folder of commands. Raises Stalled with the reason why there is none."""
    wanted = "\n".join((*REQUIREMENTS[system], *(f"{name}=={_public(installed(name))}" for name in SHARED)))
    folder = FOLDER / system
    stamp = folder / "requirements.txt"
    if not (stamp.is_file() and stamp.read_text() == wanted):
        if not install:
            raise Stalled(f"{system} is not installed yet: a run without --quick does that")
        _install(folder, wanted.splitlines())
        stamp.write_text(wanted)
    return folder / "bin"


def _install(folder: Path, requirements: list[str]) -> None:
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *requirements],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise Stalled(f"it could not be installed within {INSTALL_LIMIT_S:g} s") from error
        if done.returncode:
            raise Stalled(f"it could not be installed: {done.stderr.strip()[-REASON_CHARS:]}")


def _public(version: str) -> str:
    """Without a local build's label, which no index has."""
    return version.partition("+")[0]
