"""Real outside systems that contract suites share, one of each for a session."""

from tests.contracts.mlflow_server import mlflow_server

__all__ = ["mlflow_server"]
