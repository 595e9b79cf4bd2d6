"""The smallest Serve application that takes our `user_config`: it answers with its version and what it was told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def build(args: Mapping[str, str]) -> Any:
    """`import_path` of the contract's applications; `fail` in the arguments makes the start fail."""
    from ray import serve

    @serve.deployment(name="Model", max_surge_percent=100)
    class Model:
        def __init__(self, version: int, fail: str | None) -> None:
            if fail:
                raise RuntimeError(fail)
            self._version, self._told = version, {}

        async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
            self._told = dict(user_config)

        async def __call__(self, request: object) -> dict[str, Any]:  # noqa: ARG002  (Serve passes it)
            return {"version": self._version, "told": self._told}

    return Model.bind(int(args["version"]), args.get("fail"))
