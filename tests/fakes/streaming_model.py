"""A model that streams, as a user logs one: words one after the other, as a language model gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlflow


class Parrot(mlflow.pyfunc.PythonModel):
    """Answers with the words of the last message."""

    # MLflow reads type hints on `model_input` as a signature.
    def predict(self, context: Any, model_input, params: dict[str, Any] | None = None) -> dict[str, Any]:  # type: ignore[no-untyped-def]  # noqa: ARG002 MLflow's interface
        return {"content": " ".join(_words(model_input))}

    def predict_stream(self, context: Any, model_input, params: dict[str, Any] | None = None) -> Iterator[Any]:  # type: ignore[no-untyped-def]  # noqa: ARG002 the same
        for word in _words(model_input):
            if word == "break":
                raise ValueError("a secret of the model")
            yield {"delta": word}


def _words(model_input: Any) -> list[str]:
    return str(model_input["messages"][-1]["content"]).split()


mlflow.models.set_model(Parrot())
