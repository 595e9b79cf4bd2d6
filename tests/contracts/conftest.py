"""Real outside systems that contract suites share."""

from tests.contracts.forge_harness import forge_servers
from tests.contracts.mlflow_server import mlflow_server
from tests.contracts.repo_harness import server

__all__ = ["forge_servers", "mlflow_server", "server"]
