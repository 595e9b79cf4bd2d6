"""What an application says that gRPC reaches and that is not the entry for it.

Where gRPC is served, Serve gives each application a gRPC port, also the versions, and hands them the methods of the
protocol. Of one that has no such method Serve tells the caller the names of those it has, and logs a fault.
"""

from __future__ import annotations

from typing import Any

from policies.fronts import GRPC_APPLICATION
from serving_runtime.grpc_messages import response_of


class NotByGrpc:
    """Every method of the protocol, NOT_FOUND."""

    async def _refuse_grpc(self, _: bytes, grpc_context: Any) -> Any:
        import grpc

        grpc_context.set_code(grpc.StatusCode.NOT_FOUND)
        grpc_context.set_details(f"Models answer gRPC by the application {GRPC_APPLICATION} only.")
        return response_of("ServerLive")()

    ServerLive = ServerReady = ServerMetadata = ModelReady = ModelMetadata = ModelInfer = _refuse_grpc
