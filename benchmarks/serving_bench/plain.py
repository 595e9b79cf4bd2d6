"""Plain Ray Serve: the smallest deployment that gives the same answers to the same bytes.

It calls MLflow's own scoring function on the event loop: no thread, no counting, no time limit, no version header. On
one model and small bodies nothing on Ray Serve that keeps MLflow's parser is faster; in a thread, as MLflow's own
server does it, it is slower. It is honest as a limit and nothing to copy: the replica answers nobody else, Serve's
health checks included, while the model thinks.
"""

from __future__ import annotations

from typing import Any


class Plain:
    """One replica."""

    def __init__(self, folder: str) -> None:
        """`folder` is the model's artifact."""
        import mlflow

        self._model = mlflow.pyfunc.load_model(folder)
        self._schema = self._model.metadata.get_input_schema()

    async def __call__(self, request: Any) -> Any:
        """MLflow's `/invocations`."""
        from mlflow.pyfunc.scoring_server import invocations
        from starlette.responses import Response

        result = invocations(await request.body(), request.headers["content-type"], self._model, self._schema)
        return Response(result.response, result.status, media_type=result.mimetype)


def build(args: dict[str, str]) -> Any:
    """The Serve application; args: `folder`."""
    from ray import serve

    return serve.deployment(name="Plain")(Plain).bind(args["folder"])
