from __future__ import annotations

import pytest

from policies.artifact_source import check_artifact_source
from policies.errors import BadInput

HERE = "https://mlflow.example.com:5000"


@pytest.mark.parametrize(
    "source",
    [
        "mlflow-artifacts:/0/models/m-1/artifacts",
        "mlflow-artifacts://mlflow.example.com:5000/0/models/m-1",
        "https://mlflow.example.com:5000/api/2.0/mlflow-artifacts/artifacts/0",
        "s3://bucket/models/m-1",
        "gs://bucket/m",
        "/srv/mlflow/0/m-1",
        "file:///srv/mlflow/0/m-1",
        "models:/m-1",
        "runs:/abc/model",
    ],
)
def test_the_registry_itself_and_stores_with_their_own_credentials_are_allowed(source: str) -> None:
    assert check_artifact_source(source, HERE) is None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    "source",
    [
        "https://evil.example.com/model",
        "http://mlflow.example.com:5000/model",
        "https://mlflow.example.com/model",
        "https://mlflow.example.com:5000@evil.example.com/model",
        "HTTPS://evil.example.com/model",
        " https://evil.example.com/model",
        "mlflow-artifacts://evil.example.com/0",
        "MLFLOW-artifacts://mlflow.example.com:5000@evil.example.com/0",
    ],
)
def test_another_server_never_gets_the_registrys_credentials(source: str) -> None:
    with pytest.raises(BadInput, match="lies on another server than the registry"):
        check_artifact_source(source, HERE)


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(BadInput, match="is no address"):
        check_artifact_source("https://[evil", HERE)
