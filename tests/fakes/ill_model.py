"""A small model that does the worst models do: MLflow logs this file as the model's code.

It answers what it is given. Ill it is by its `model_config`, and only from the first row on that is not its example's,
so that it starts, warms up, and gets traffic. By its inputs it does what a poisoned request makes a model do.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from typing import Any

import mlflow

HEALTHY_ROW = 1.0
WHO = -1.0
SLOW, SLOW_FOR_S = 50.0, 0.25
COMPUTES, HANGS, SEIZES, EXITS = 87.0, 88.0, 89.0, 90.0

MIB = 1024 * 1024
CHUNK_BYTES = 16 * MIB
HOARDS_AT_MOST_BYTES = 3 * 1024 * MIB  # the machine that runs the tests must live
KILLED_AT_BYTES = 256 * MIB

POISON: dict[float, type[BaseException]] = {
    101.0: SystemExit,
    102.0: KeyboardInterrupt,
    103.0: GeneratorExit,
    104.0: asyncio.CancelledError,
    105.0: StopIteration,
}
RECURSES, ALLOCATES = 106.0, 107.0


class Ill(mlflow.pyfunc.PythonModel):
    """`ill`: what it does with requests.

    hoards (allocates until it may not any more), is killed (the same, but the system ends its process as an
    out-of-memory killer does), hangs (never returns), leaks (keeps `leaks_kib` for each request).
    """

    def load_context(self, context: Any) -> None:
        config = context.model_config
        self.ill = config.get("ill", "")
        self.leaks_bytes = config.get("leaks_kib", 0) * 1024
        self.kept: list[bytes] = []

    # MLflow reads type hints on `model_input` as a signature.
    def predict(self, model_input) -> list[float]:  # type: ignore[no-untyped-def]
        values = [float(x) for x in model_input["x"]]
        for value in values:
            suffer(value)
        if self.ill and any(value not in (HEALTHY_ROW, WHO) for value in values):
            self._be_ill()
        return [float(os.getpid()) if value == WHO else value for value in values]

    def _be_ill(self) -> None:
        if self.ill == "hoards":
            hoard(HOARDS_AT_MOST_BYTES)
        elif self.ill == "is killed":
            hoard(KILLED_AT_BYTES)
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.ill == "hangs":
            threading.Event().wait()
        elif self.ill == "leaks":
            self.kept.append(os.urandom(self.leaks_bytes))


def hoard(most_bytes: int) -> None:
    """Allocate, and use what was allocated. Raises MemoryError where the process may have no more."""
    held = []
    while len(held) * CHUNK_BYTES < most_bytes:
        held.append(b"x" * CHUNK_BYTES)


def suffer(value: float) -> None:
    """What a poisoned row does to the model."""
    if value == SLOW:
        threading.Event().wait(SLOW_FOR_S)
    while value == COMPUTES:
        pass
    if value == HANGS:
        threading.Event().wait()
    if value == SEIZES:
        re.match(r"(a+)+$", "a" * 64 + "b")  # tries 2^64 ways, and the interpreter is its alone meanwhile
    if value == EXITS:
        os._exit(1)  # no exception, nothing that Python could catch: so ends a crash in C code, too
    if value in POISON:
        raise POISON[value]
    if value == RECURSES:
        suffer(value)
    if value == ALLOCATES:
        bytearray(1 << 50)


mlflow.models.set_model(Ill())
