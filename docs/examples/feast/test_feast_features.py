"""The example on a real Feast with its SQLite store, through what a replica asks: `make test-feast`."""

from __future__ import annotations

import asyncio
import importlib
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from feast import FeatureStore

from policies.serving import Features
from serving_runtime import features
from serving_runtime.look_ups import LookUp
from serving_runtime.protocol import Parsed
from tests.fakes.features import LookUpCounts

HERE = Path(__file__).parent


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A feature repo that knows one user."""
    folder = tmp_path / "feature_repo"
    shutil.copytree(HERE / "feature_repo", folder)
    now = datetime.now(UTC)
    spend = {"user": ["ada"], "spend_30d": [12.5], "payments_30d": [3], "at": [now]}
    pd.DataFrame(spend).to_parquet(folder / "spend.parquet")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.syspath_prepend(str(folder))
    definitions = importlib.import_module("definitions")
    store = FeatureStore(repo_path=str(folder))
    store.apply([definitions.user, definitions.user_spend])
    store.materialize(now - timedelta(days=30), now + timedelta(minutes=1))
    return folder


def test_rows_get_what_feast_has_and_defaults_for_the_rest(repo: Path) -> None:
    options = {"repo": str(repo), "entity": "user", "features": "user_spend:spend_30d, user_spend:payments_30d"}
    terms = Features(
        entry_point="feast_features:FeastFeatures",
        key="user",
        timeout_ms=10_000,
        defaults={"spend_30d": 0.0, "payments_30d": 0},
        options=options,
    )

    async def story() -> None:
        counts = LookUpCounts()
        join = await features.start(terms, None, counts)
        read = join.read(lambda: Parsed([{"user": "ada"}, {"user": "bob"}, {"user": "x'; DROP TABLE"}], None))
        assert isinstance(read, features.Read)
        used = await join.look_up(read)
        assert isinstance(used, features.Used)
        assert join.joined(used).data == [
            {"user": "ada", "spend_30d": 12.5, "payments_30d": 3},
            {"user": "bob", "spend_30d": 0.0, "payments_30d": 0},
            {"user": "x'; DROP TABLE", "spend_30d": 0.0, "payments_30d": 0},
        ]
        assert counts.outcomes == {LookUp.HIT: 1, LookUp.MISS: 2}
        await join.close()

    asyncio.run(story())
