"""A loaded pyfunc model without MLflow's files: the interface the model server uses, and nothing behind it."""

from __future__ import annotations

from typing import Any


class Metadata:
    """As much of a model's metadata as the protocol asks for."""

    def __init__(self, *, type_hinted: bool = False) -> None:
        self._type_hinted = type_hinted

    def _is_signature_from_type_hint(self) -> bool:
        return self._type_hinted

    def get_params_schema(self) -> None:
        return None

    def get_input_schema(self) -> None:
        return None


class BareModel:
    """A loaded model without a signature; `predict` is what the model's author wrote."""

    def __init__(self, predict: Any, *, type_hinted: bool = False) -> None:
        self.metadata = Metadata(type_hinted=type_hinted)
        self._predict_fn = predict

    def predict(self, data: Any, params: Any = None) -> Any:  # noqa: ARG002 MLflow's interface
        return self._predict_fn(data)
