"""Real outside systems that contract suites share, one of each for a session."""

from tests.contracts.forge_harness import forge_servers
from tests.contracts.mlflow_server import mlflow_server

__all__ = ["forge_servers", "mlflow_server"]
