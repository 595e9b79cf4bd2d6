"""A model that streams, as a user logs one: words one after the other, as a language model gives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import mlflow

TAKES_S = 1.0  # for the word "wait": long enough that others come meanwhile


class Parrot(mlflow.pyfunc.PythonModel):
    """Answers with the words of the last message; `model_config` may say that it shouts."""

    def load_context(self, context: Any) -> None:
        self.shouts = bool((context.model_config or {}).get("shouts"))

    # MLflow reads type hints on `model_input` as a signature.
    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> dict[str, Any]:  # type: ignore[no-untyped-def]  # noqa: ARG002 MLflow's interface
        return {"content": " ".join(self._words(model_input))}

    def predict_stream(self, context: Any, model_input, params: dict[str, Any] | None = None) -> Iterator[Any]:  # type: ignore[no-untyped-def]  # noqa: ARG002 the same
        for word in self._words(model_input):
            yield {"delta": word}

    def _words(self, model_input: Any) -> Iterator[str]:
        for word in str(model_input["messages"][-1]["content"]).split():
            if word == "break":
                raise ValueError("a secret of the model")
            if word == "wait":
                threading.Event().wait(TAKES_S)
            yield word.upper() if self.shouts else word


mlflow.models.set_model(Parrot())
