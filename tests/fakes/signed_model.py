"""A real pyfunc model with a real signature around a function of the test, without files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class _Author:
    """What the model's author wrote."""

    def __init__(self, predict: Callable[..., Any], stream: Callable[..., Any] | None) -> None:
        self._predict, self._stream = predict, stream

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        return self._predict(data) if not params else self._predict(data, params)

    def predict_stream(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        assert self._stream is not None
        return self._stream(data) if not params else self._stream(data, params)


def signed_model(predict: Callable[..., Any], signature: Any = None, stream: Callable[..., Any] | None = None) -> Any:
    """`predict(data)`, or `predict(data, params)` where params are given; `stream` makes it one that streams."""
    from mlflow.models import Model
    from mlflow.pyfunc import PyFuncModel

    flavor = {"loader_module": "mlflow.pyfunc.model"}
    meta = Model(signature=signature, flavors={"python_function": flavor})
    return PyFuncModel(meta, _Author(predict, stream), predict_stream_fn="predict_stream" if stream else None)
