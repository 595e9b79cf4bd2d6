"""A source of features that also writes: how many payments a user has made in the last hour, this one included.

    features:
      entry_point: sessions:Sessions
      key: payment                      # "<user>:<id of the payment>"
      defaults: {payments_1h: 1}
      options: {url_env: SESSIONS_URL}

A payment counts once, however often it is looked up: by the version that answers, by a candidate in shadow, by a
client that sends it again. That is why its id is in the key: what is written while features are looked up must be
written twice without harm.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW_S = 3600
LONGEST = 1000  # payments that are kept of one user: whoever makes more is conspicuous anyway
COMMANDS = 5  # for each key


class Sessions:
    """Payments by user, in one sorted set for each, by the time when they were first seen."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Connects when it is asked first."""
        from redis.asyncio import Redis

        self._redis = Redis.from_url(os.environ[options["url_env"]], socket_timeout=1.0, max_connections=16)

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Remember these payments, and count."""
        now = time.time()
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                user, _, payment = key.rpartition(":")
                session = f"session:{user}"
                pipeline.zadd(session, {payment: now}, nx=True)
                pipeline.zremrangebyscore(session, 0, now - WINDOW_S)
                pipeline.zremrangebyrank(session, 0, -LONGEST - 1)
                pipeline.expire(session, WINDOW_S)
                pipeline.zcard(session)
            answers = await pipeline.execute()
        return {key: {"payments_1h": count} for key, count in zip(keys, answers[COMMANDS - 1 :: COMMANDS], strict=True)}

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
