"""Features from Redis: `serving_runtime.redis_features:RedisFeatures`, an entry point of `features`.

| option | default | |
|---|---|---|
| url_env | required | the variable of the replicas that holds the URL: redis://, rediss:// (TLS) or unix:// |
| prefix | none | what stands before each key |
| values | hash | `hash`: a hash of fields for each key (HGETALL); `json`: a string with a JSON object (GET) |
| max_connections | 16 | connections of one replica at most |
| connect_timeout_ms | 200 | for a new connection |
| read_timeout_ms | 1000 | for an answer: one that hangs is given up; the look-up's own limit is shorter |

Rules:
- Credentials are in the URL, the URL is in the environment, and neither is ever in a message.
- A Redis that is away does not keep a replica from starting: connections are made when they are needed.
- One pipeline for all keys of a question, not a transaction. What is wrong with one key (another type, no JSON) is that
  key's: its entry is empty, and no other key's answer is lost.
- Keys are sent as they are after the prefix: Redis's protocol counts bytes, nothing in a key is a command. Whoever may
  ask can read every key below the prefix, so nothing else lies there.
- Redis's own retries are off: the breaker (`look_ups.py`) decides when it is asked again. Only a connection that was
  closed meanwhile is made anew, once, without a wait.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass as document

from policies.document_errors import adapter
from policies.errors import BadInput
from policies.serving import EnvironmentVariable

if TYPE_CHECKING:
    from redis.asyncio import Redis

_URL = re.compile(r"(redis|rediss|unix)://.+", re.DOTALL)

# A connection that was idle for longer is asked whether it still is one before it is used: proxies and firewalls drop
# idle ones in silence after a minute or more.
IDLE_CHECK_S = 30


@document(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RedisOptions:
    """`options` of the document."""

    url_env: EnvironmentVariable
    prefix: Annotated[str, Field(max_length=200)] = ""
    values: Literal["hash", "json"] = "hash"
    max_connections: Annotated[int, Field(ge=1, le=1000)] = 16
    connect_timeout_ms: Annotated[float, Field(gt=0, le=10_000)] = 200.0
    read_timeout_ms: Annotated[float, Field(gt=0, le=60_000)] = 1000.0


class RedisFeatures:
    """A source of features. One event loop owns it."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises BadInput where an option is wrong, or the environment has no such URL."""
        self._options = read_options(options)
        self._redis = _client(self._options, os.environ.get(self._options.url_env, ""))

    async def look_up(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Entries by key. Raises TimeoutError where Redis takes too long, ConnectionError where it is away."""
        import redis.exceptions as errors

        command = "HGETALL" if self._options.values == "hash" else "GET"
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.execute_command(command, f"{self._options.prefix}{key}")
                answers = await pipeline.execute(raise_on_error=False)
        except errors.TimeoutError as error:
            raise TimeoutError(str(error)) from error
        except errors.RedisError as error:
            raise ConnectionError(f"{type(error).__name__}: {error}") from error
        _raise_for_all(answers)
        return {key: entry for key, answer in zip(keys, answers, strict=True) if (entry := _entry(answer)) is not None}

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()


def read_options(options: Mapping[str, Any]) -> RedisOptions:
    """`options` of the document. Raises BadInput with each option that is wrong."""
    try:
        read: RedisOptions = adapter(RedisOptions).validate_json(json.dumps(dict(options)), strict=True)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadInput(f"options of {__name__}:RedisFeatures: {wrong}") from error
    return read


def _client(options: RedisOptions, url: str) -> Redis:
    """A client that has not connected yet. Raises BadInput where the URL is none, without repeating it."""
    from redis.asyncio import BlockingConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Closed

    wanted = f"the environment variable {options.url_env} must hold redis://, rediss:// or unix://, and what follows"
    if not _URL.fullmatch(url):
        raise BadInput(wanted)
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=options.max_connections,
            timeout=options.connect_timeout_ms / 1000.0,  # for a free connection
            socket_connect_timeout=options.connect_timeout_ms / 1000.0,
            socket_timeout=options.read_timeout_ms / 1000.0,
            health_check_interval=IDLE_CHECK_S,
            retry=Retry(NoBackoff(), 1, supported_errors=(Closed,)),
            retry_on_error=[Closed],
            decode_responses=False,
        )
    except ValueError:
        raise BadInput(wanted) from None  # its own message repeats parts of the URL
    return Redis.from_pool(pool)


def _raise_for_all(answers: Sequence[Any]) -> None:
    """Where Redis refuses every key (it loads, a password is wrong), it is Redis, and no key's own fault."""
    from redis.exceptions import ResponseError

    refused = [answer for answer in answers if isinstance(answer, Exception)]
    if refused and len(refused) == len(answers) and not str(refused[0]).startswith("WRONGTYPE"):
        kind = "ResponseError" if isinstance(refused[0], ResponseError) else type(refused[0]).__name__
        raise ConnectionError(f"Redis refuses: {kind}: {str(refused[0])[:200]}")


def _entry(answer: Any) -> Mapping[str, Any] | None:
    """One answer as an entry: None where there is none, empty where it is of no use."""
    if answer is None or answer == {}:
        return None
    if isinstance(answer, Exception):
        return {}
    try:
        if isinstance(answer, bytes):
            read = json.loads(answer)
            return read if isinstance(read, dict) else {}
        return {name.decode(): value.decode() for name, value in answer.items()}
    except (ValueError, RecursionError, AttributeError):  # no JSON, no UTF-8
        return {}
