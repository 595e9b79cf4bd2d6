"""Features from Feast's online store, whichever it is.

    features:
      entry_point: feast_features:FeastFeatures
      key: user
      timeout_ms: 50
      cache_ttl_s: 60
      defaults: {spend_30d: 0.0, payments_30d: 0}
      options: {repo: /etc/feast, entity: user, features: "user_spend:spend_30d,user_spend:payments_30d"}

Feast's client blocks, so both methods are plain functions, which are called in threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class FeastFeatures:
    """A source of features."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Reads the registry: `repo` is the folder of feature_store.yaml, `features` are view:name, with commas."""
        from feast import FeatureStore

        self._store = FeatureStore(repo_path=options["repo"])
        self._entity = options["entity"]
        self._features = [feature.strip() for feature in options["features"].split(",")]
        self._names = [feature.partition(":")[2] for feature in self._features]

    def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """What Feast materialized last, by key, however long ago; keys that it has nothing for are left out."""
        rows = [{self._entity: key} for key in keys]
        columns = self._store.get_online_features(features=self._features, entity_rows=rows).to_dict()
        entries = {key: {name: columns[name][row] for name in self._names} for row, key in enumerate(keys)}
        return {key: entry for key, entry in entries.items() if any(value is not None for value in entry.values())}

    def close(self) -> None:
        """Feast's client has nothing to give back."""
