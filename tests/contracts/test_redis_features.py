"""Features from a real Redis: what it knows, and what becomes of look-ups when it dies, hangs and comes back."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from policies.errors import BadInput, Stalled
from policies.serving import Features
from serving_runtime import features
from serving_runtime.breaker import FAILURES_TO_OPEN, FIRST_PAUSE_S
from serving_runtime.look_ups import LookUp
from serving_runtime.protocol import Parsed
from serving_runtime.redis_features import RedisFeatures
from tests.contracts.redis_server import PASSWORD, RedisServer, TlsRedis
from tests.fakes.features import LookUpCounts

pytestmark = pytest.mark.real

ENTRY_POINT = "serving_runtime.redis_features:RedisFeatures"
SOON_MS = 50.0
HOSTILE = ["", "*", "a b", "x\r\nFLUSHALL\r\n", "\x00", "ключ", "{ada}", "../ada", "user:ada", "x" * 200]


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def environment(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    redis.command("FLUSHALL")
    monkeypatch.setenv("FEATURES_URL", redis.url)
    return monkeypatch


def options(**more: Any) -> dict[str, Any]:
    return {"url_env": "FEATURES_URL", "prefix": "user:", **more}


class Looking:
    """Look-ups of a model without a signature, in the feature `spend`, and their clock."""

    def __init__(self, **terms: Any) -> None:
        self.now = 100.0
        self.counts = LookUpCounts()
        about = {"entry_point": ENTRY_POINT, "key": "user", "timeout_ms": 5000.0, "defaults": {"spend": 0.0}}
        self._terms = Features(**{**about, "options": options(), **terms})
        self._join: features.FeatureJoin | None = None

    async def spends(self, *users: Any) -> list[Any]:
        """The feature of these users' rows."""
        if self._join is None:
            self._join = await features.start(self._terms, None, self.counts, lambda: self.now)
        read = self._join.read(lambda: Parsed([{"user": user} for user in users], None))
        assert isinstance(read, features.Read)
        used = await self._join.look_up(read)
        assert isinstance(used, features.Used)
        return [row["spend"] for row in self._join.joined(used).data]

    async def close(self) -> None:
        if self._join is not None:
            await self._join.close()


async def asked(keys: list[str], **more: Any) -> Mapping[str, Mapping[str, Any]]:
    source = RedisFeatures(options(**more))
    try:
        return await source.look_up(keys)
    finally:
        await source.close()


def test_hashes_are_entries_of_text(redis: RedisServer, environment: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    redis.command("HSET", "user:ada", "spend", "12.5", "country", "uk")
    assert asyncio.run(asked(["ada", "nobody"])) == {"ada": {"spend": "12.5", "country": "uk"}}


def test_json_is_entries_of_values(redis: RedisServer, environment: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    entries = {
        "ada": '{"spend": 12.5, "seen": [1, 2]}',
        "list": "[1]",
        "none": "null",
        "torn": '{"a',
        "deep": "[" * 9999,
    }
    for key, text in entries.items():
        redis.command("SET", f"user:{key}", text)
    assert asyncio.run(asked([*entries, "nobody"], values="json")) == {
        "ada": {"spend": 12.5, "seen": [1, 2]},
        "list": {},
        "none": {},
        "torn": {},
        "deep": {},
    }


def test_one_key_of_another_type_takes_no_other_keys_answer(
    redis: RedisServer,
    environment: pytest.MonkeyPatch,  # noqa: ARG001
) -> None:
    redis.command("HSET", "user:ada", "spend", "12.5")
    redis.command("LPUSH", "user:list", "1")
    redis.command("HSET", "user:bytes", "spend", b"\xff\xfe")
    assert asyncio.run(asked(["list", "ada", "bytes"])) == {"list": {}, "ada": {"spend": "12.5"}, "bytes": {}}
    assert asyncio.run(asked(["list"])) == {"list": {}}, "nor is it Redis's fault when it is alone"


def test_hostile_keys_read_their_own_entry_and_nothing_else(
    redis: RedisServer,
    environment: pytest.MonkeyPatch,  # noqa: ARG001
) -> None:
    redis.command("HSET", "ada", "spend", "1")
    redis.command("HSET", "user:ada", "spend", "2")
    assert asyncio.run(asked(HOSTILE)) == {}
    for number, key in enumerate(HOSTILE):
        redis.command("HSET", f"user:{key}", "spend", number)
    found = asyncio.run(asked(HOSTILE))
    assert [found[key]["spend"] for key in HOSTILE] == [str(number) for number in range(len(HOSTILE))]
    assert redis.command("DBSIZE") == len(HOSTILE) + 2


def test_values_of_a_wrong_type_become_defaults(
    redis: RedisServer,
    environment: pytest.MonkeyPatch,  # noqa: ARG001
) -> None:
    from mlflow.types import ColSpec, DataType, Schema

    schema = Schema([ColSpec(DataType.double, "spend"), ColSpec(DataType.long, "visits")])
    terms = Features(
        entry_point=ENTRY_POINT, key="user", timeout_ms=5000, defaults={"spend": 0.0, "visits": 0}, options=options()
    )
    redis.command("HSET", "user:ada", "spend", "12.5", "visits", "3")
    redis.command("HSET", "user:bob", "spend", "much", "visits", "3")

    async def story() -> None:
        counts = LookUpCounts()
        join = await features.start(terms, schema, counts)
        read = join.read(lambda: Parsed([{"user": "ada"}, {"user": "bob"}], None))
        assert isinstance(read, features.Read)
        used = await join.look_up(read)
        assert isinstance(used, features.Used)
        assert used.values == ({"spend": 12.5, "visits": 3}, {"spend": 0.0, "visits": 3})
        assert counts.outcomes == {LookUp.HIT: 1, LookUp.DEFAULT: 1}
        await join.close()

    asyncio.run(story())


def test_redis_dies_defaults_answer_at_once_and_it_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(tmp_path)
    monkeypatch.setenv("FEATURES_URL", server.url)

    async def story() -> None:
        looking = Looking()
        assert await looking.spends("ada") == [0.0], "it may be away when a replica starts"
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.command, "HSET", "user:ada", "spend", "12.5")
        assert await looking.spends("ada") == ["12.5"]
        await asyncio.to_thread(server.kill)
        for _ in range(FAILURES_TO_OPEN):
            assert await looking.spends("ada") == [0.0]
        started = time.perf_counter()
        for _ in range(1000):
            assert await looking.spends("ada") == [0.0]
        assert time.perf_counter() - started < 5.0, "an open breaker asks nobody"
        assert looking.counts.outcomes[LookUp.OPEN] == 1000
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.command, "HSET", "user:ada", "spend", "13.5")
        assert await looking.spends("ada") == [0.0], "the pause is not over"
        looking.now += FIRST_PAUSE_S
        assert await looking.spends("ada", "nobody") == ["13.5", 0.0]
        assert await looking.spends("ada") == ["13.5"]
        await looking.close()

    try:
        with caplog.at_level(logging.WARNING):
            asyncio.run(story())
    finally:
        server.stop()
    assert caplog.text.count("the breaker has opened") == 1
    assert caplog.text.count("the breaker has closed") == 1
    assert server.url not in caplog.text


def test_a_redis_that_was_restarted_between_two_questions_costs_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = RedisServer(tmp_path)
    monkeypatch.setenv("FEATURES_URL", server.url)

    async def story() -> None:
        looking = Looking()
        for spend in ("1", "2"):
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(server.command, "HSET", "user:ada", "spend", spend)
            assert await looking.spends("ada") == [spend]
            await asyncio.to_thread(server.kill)
        assert looking.counts.outcomes == {LookUp.HIT: 2}
        await looking.close()

    try:
        asyncio.run(story())
    finally:
        server.stop()


def test_a_redis_that_hangs_is_waited_for_no_longer_than_said_and_answers_stay_with_their_keys(
    redis: RedisServer,
    environment: pytest.MonkeyPatch,  # noqa: ARG001
) -> None:
    users = [str(number) for number in range(40)]
    for user in users:
        redis.command("HSET", f"user:{user}", "spend", user)

    async def story() -> None:
        looking = Looking(timeout_ms=SOON_MS, options=options(max_connections=4))
        assert await looking.spends("1") == ["1"]
        redis.halt()
        try:
            started = time.perf_counter()
            waits = await asyncio.gather(*(looking.spends(user) for user in users))
            assert time.perf_counter() - started < SOON_MS / 1000 * 10, "together, not one after the other"
            assert waits == [[0.0]] * len(users)
            assert looking.counts.outcomes[LookUp.TIMEOUT] == len(users)
            assert await looking.spends("1") == [0.0]
            assert looking.counts.outcomes[LookUp.OPEN] == 1
        finally:
            redis.go_on()
        looking.now += FIRST_PAUSE_S
        assert await looking.spends("1") == ["1"]
        for _ in range(3):  # connections whose answers nobody read are not used again
            together = await asyncio.gather(*(looking.spends(user) for user in users))
            assert [spend for (spend,) in together] == users
        await looking.close()

    asyncio.run(story())


def test_over_tls_with_a_password_and_no_word_of_it_where_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def with_url(url: str) -> list[Any]:
        monkeypatch.setenv("FEATURES_URL", url)

        async def story() -> list[Any]:
            looking = Looking()
            try:
                return [await looking.spends("ada"), *looking.counts.outcomes]
            finally:
                await looking.close()

        return asyncio.run(story())

    with TlsRedis(tmp_path) as server, caplog.at_level(logging.DEBUG):
        trusted = f"{server.url}?ssl_ca_certs={server.certificate}"
        assert with_url(trusted) == [[0.0], LookUp.MISS]
        assert with_url(server.url) == [[0.0], LookUp.ERROR], "its certificate is nobody's"
        assert with_url(trusted.replace(PASSWORD, "wrong-secret")) == [[0.0], LookUp.ERROR]
        assert with_url(trusted.replace("rediss:", "redis:")) == [[0.0], LookUp.ERROR]
    assert PASSWORD not in caplog.text
    assert "wrong-secret" not in caplog.text


def test_the_replicas_need_no_more_than_the_page_says(redis: RedisServer, environment: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "features.md").read_text(encoding="utf-8")
    rights = re.search(r"that can do\s+`([^`]*)`\s+on\s+`([^`]*)`", page)
    assert rights is not None
    redis.command("ACL", "SETUSER", "replica", "on", f">{PASSWORD}", rights[2], *rights[1].split())
    redis.command("HSET", "user:ada", "spend", "1")
    redis.command("SET", "user:bob", '{"spend": 2}')
    redis.command("HSET", "other:ada", "spend", "3")
    environment.setenv("FEATURES_URL", redis.url.replace("unix://", f"unix://replica:{PASSWORD}@"))
    assert asyncio.run(asked(["ada"])) == {"ada": {"spend": "1"}}
    assert asyncio.run(asked(["bob"], values="json")) == {"bob": {"spend": 2}}
    with pytest.raises(ConnectionError, match="Redis refuses"):
        asyncio.run(asked(["ada"], prefix="other:"))


def test_the_example_of_a_session_counts_each_payment_once(redis: RedisServer, environment: pytest.MonkeyPatch) -> None:
    environment.syspath_prepend(str(Path(__file__).parents[2] / "docs" / "examples"))
    about = {"entry_point": "sessions:Sessions", "key": "payment", "timeout_ms": 5000.0}
    terms = Features(**about, defaults={"payments_1h": 1}, options={"url_env": "FEATURES_URL"})

    async def story() -> None:
        source = await features.make_source(terms)
        once = await source.look_up(["ada:p1", "ada:p2", "bob:p1", "no user"])
        twice = await source.look_up(["ada:p1", "ada:p3"])
        await source.close()
        assert [entry["payments_1h"] for entry in once.values()] == [1, 2, 1, 1]
        assert [entry["payments_1h"] for entry in twice.values()] == [2, 3]

    asyncio.run(story())
    assert 3500 < redis.command("TTL", "session:ada") <= 3600
    redis.command("ZADD", "session:ada", "XX", "1", "p1")  # long ago
    asyncio.run(story_of_one(terms))


async def story_of_one(terms: Features) -> None:
    source = await features.make_source(terms)
    assert await source.look_up(["ada:p2"]) == {"ada:p2": {"payments_1h": 2}}
    await source.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "redis://:secret@host"}, "url: Unexpected"),
        ({"password": "secret"}, "password: Unexpected"),
        ({"url_env": "features url"}, "url_env: String should match"),
        ({"values": "list"}, "values: Input should be 'hash' or 'json'"),
        ({"max_connections": 0}, "max_connections: Input should be greater than"),
        ({"max_connections": "16"}, "max_connections: Input should be a valid integer"),
    ],
)
def test_options_that_are_wrong_are_named_without_their_secrets(wrong: Mapping[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message) as error:
        RedisFeatures(options(**wrong))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["", "http://user:secret@host", "redis://", "redis://host:secret", "//secret"])
def test_a_url_that_is_none_is_refused_without_being_repeated(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("FEATURES_URL", url)
    with pytest.raises(Stalled, match="the environment variable FEATURES_URL must hold redis://") as error:
        asyncio.run(
            features.make_source(Features(entry_point=ENTRY_POINT, key="u", required=("a",), options=options()))
        )
    assert "secret" not in str(error.value)


def test_the_options_have_their_rows() -> None:
    from dataclasses import fields

    from serving_runtime import redis_features

    rows = [line.split("|")[1].strip() for line in (redis_features.__doc__ or "").splitlines() if line.startswith("| ")]
    assert rows[1:] == [field.name for field in fields(redis_features.RedisOptions)]
