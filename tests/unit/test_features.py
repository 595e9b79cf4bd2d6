"""What becomes of requests to a version whose features are looked up, through a loaded MLflow model."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from policies.errors import Stalled
from policies.serving import Batching, Features
from serving_runtime import features
from serving_runtime.breaker import FAILURES_TO_OPEN
from serving_runtime.feature_columns import Columns
from serving_runtime.features import FeatureJoin, make_source
from serving_runtime.look_ups import LookUp, LookUps
from serving_runtime.model_server import EXAMPLE_FILE, ModelServer
from serving_runtime.protocol import Call, Scored
from tests.conditions import wait_until
from tests.fakes.features import Blocking, KnownFeatures, LookUpCounts

JSON = "application/json"
POINT = "tests.fakes.features"
NUMBERS = Schema([ColSpec(DataType.double, "amount"), ColSpec(DataType.double, "spend")])
MIXED = Schema([*NUMBERS.inputs, ColSpec(DataType.string, "country")])
DEFAULTS = {"spend": 1.0, "country": "?"}


class Adds(mlflow.pyfunc.PythonModel):
    """Answers amount + spend (+ the param `plus`), and the country where there is one; 13 is beyond it."""

    seen: list[pd.DataFrame]

    # MLflow reads type hints on `model_input` as a signature.
    def predict(self, model_input, params: dict[str, Any] | None = None) -> Any:  # type: ignore[no-untyped-def]
        if 13.0 in list(model_input["amount"]):
            raise ValueError("thirteen: a secret of the model")
        sums = model_input["amount"] + model_input["spend"] + (params or {}).get("plus", 0.0)
        if "country" not in model_input:
            return sums.tolist()
        return [f"{country} {number:g}" for country, number in zip(model_input["country"], sums, strict=True)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Loaded, by signature."""
    folder = tmp_path_factory.mktemp("models")
    params = ParamSchema([ParamSpec("plus", DataType.double, 0.0)])
    loaded = {}
    for name, schema in (("numbers", NUMBERS), ("mixed", MIXED)):
        signature = ModelSignature(inputs=schema, params=params)
        path = str(folder / name)
        mlflow.pyfunc.save_model(path, python_model=Adds(), signature=signature, pip_requirements=["mlflow"])
        loaded[name] = path
    return loaded


class World:
    """A version with features, their source, and what was counted."""

    def __init__(self, path: str, *, required: Sequence[str] = (), entries: Mapping[str, Any] | None = None) -> None:
        self.model = mlflow.pyfunc.load_model(path)
        schema = self.model.metadata.get_input_schema()
        names = [name for name in schema.input_names() if name != "amount"]
        defaults = {name: DEFAULTS[name] for name in names if name not in required}
        terms = Features(
            entry_point="a:b", key="user", timeout_ms=5000, required=tuple(required), defaults=defaults, cache_ttl_s=0
        )
        ada = {"spend": 12.5, "country": "uk", "password": "x"}
        self.source = KnownFeatures({"ada": ada} if entries is None else entries)
        self.counts, self.took, self.batches = LookUpCounts(), [], []
        columns = Columns(terms, schema)
        look_ups = LookUps(self.source, columns.check, terms=terms, tally=self.counts, clock=lambda: 0.0)
        self.server = ModelServer(
            self.model, self.took.append, self.batches.append, features=FeatureJoin(columns, look_ups)
        )

    async def ask(self, content: object, content_type: str = JSON) -> tuple[int, Any]:
        body = content if isinstance(content, str) else json.dumps(content)
        answer = await self.server.answer(Call(body.encode(), content_type, "r-1"))
        self.headers = dict(answer.headers)
        return answer.status, json.loads(answer.body)

    async def rows(self, *rows: Mapping[str, Any]) -> tuple[int, Any]:
        return await self.ask({"dataframe_records": rows})


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


@pytest.mark.parametrize("signature", ["numbers", "mixed"])
def test_rows_get_their_features_and_the_answer_is_the_models(models: Mapping[str, Any], signature: str) -> None:
    async def story() -> None:
        world = World(models[signature])
        found, unknown = (13.5, 2.0) if signature == "numbers" else ("uk 13.5", "? 2")
        rows = {"user": "ada", "amount": 1.0}, {"user": "nobody", "amount": 1.0}
        assert await world.rows(*rows) == (200, {"predictions": [found, unknown]})
        split = {"columns": ["user", "amount"], "data": [["ada", 1], ["nobody", 1]]}
        assert await world.ask({"dataframe_split": split}) == (200, {"predictions": [found, unknown]})
        columns = {"user": ["ada", "nobody"], "amount": [1, 1]}
        assert await world.ask({"inputs": columns}) == (200, {"predictions": [found, unknown]})
        assert await world.ask("user,amount\nada,1\nnobody,1\n", "text/csv") == (200, {"predictions": [found, unknown]})
        assert world.counts.outcomes == {LookUp.HIT: 4, LookUp.MISS: 4}
        assert len(world.took) == 4

    run(story)


def test_params_reach_the_model(models: Mapping[str, Any]) -> None:
    async def story() -> None:
        world = World(models["numbers"])
        content = {"dataframe_records": [{"user": "ada", "amount": 1.0}], "params": {"plus": 10.0}}
        assert await world.ask(content) == (200, {"predictions": [23.5]})

    run(story)


def test_what_was_looked_up_is_told_row_by_row_and_only_what_the_document_names(models: Mapping[str, Any]) -> None:
    async def story() -> None:
        world = World(models["mixed"])
        body = json.dumps({"dataframe_records": [{"user": "ada", "amount": 1.0}, {"user": None, "amount": 1.0}]})
        scored = await world.server._score(Call(body.encode(), JSON, "r-1"))
        assert isinstance(scored, Scored)
        assert scored.features == ({"spend": 12.5, "country": "uk"}, {"spend": 1.0, "country": "?"})

    run(story)


def test_requests_with_features_share_a_batch(models: Mapping[str, Any]) -> None:
    async def story() -> None:
        world = World(models["numbers"])
        world.server.configure(Batching(max_batch_size=16, batch_wait_ms=1000))
        asked = (world.rows({"user": user, "amount": 100.0 + n}) for n, user in enumerate(["ada", "nobody"] * 8))
        answers = await asyncio.gather(*asked)
        assert [answer[1]["predictions"][0] for answer in answers] == [
            100 + n + (1.0 if n % 2 else 12.5) for n in range(16)
        ]
        assert world.batches == [16]

    run(story)


def test_a_source_that_fails_fails_no_request(models: Mapping[str, Any]) -> None:
    async def story() -> None:
        world = World(models["numbers"])
        world.source.breaks = ConnectionError("away")
        for _ in range(FAILURES_TO_OPEN + 3):
            assert await world.rows({"user": "ada", "amount": 1.0}) == (200, {"predictions": [2.0]})
        assert world.counts.outcomes == {LookUp.ERROR: FAILURES_TO_OPEN, LookUp.OPEN: 3}

    run(story)


def test_a_required_feature_that_cannot_be_had_is_503_while_the_source_is_away(models: Mapping[str, Any]) -> None:
    async def story() -> None:
        world = World(models["numbers"], required=["spend"])
        assert (await world.rows({"user": "ada", "amount": 1.0}))[0] == 200
        world.source.breaks = ConnectionError("redis://:secret@host is away")
        status, error = await world.rows({"user": "ada", "amount": 1.0})
        assert (status, error["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
        assert error["message"] == "spend cannot be looked up now (error). Try again in 1 s."
        assert world.headers == {"retry-after": "1"}
        assert len(world.took) == 2, "it is this version's answer, and measured"

    run(story)


@pytest.mark.parametrize("entry", [{}, {"spend": "much"}, {"spend": None}, "no entry"])
def test_a_required_feature_that_the_source_has_wrong_is_503_too(models: Mapping[str, Any], entry: Any) -> None:
    async def story() -> None:
        world = World(models["numbers"], required=["spend"], entries={"ada": entry})
        assert (await world.rows({"user": "ada", "amount": 1.0}))[0] == 503
        assert world.counts.outcomes == {LookUp.DEFAULT: 1}

    run(story)


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "Nothing is known of a value of 'user', by which spend must be looked up."),
        (None, "A row has no value in 'user', by which spend must be looked up."),
        (1.5, "the field 'user' is text of at most 256 characters, or a whole number"),
    ],
)
def test_a_key_that_nobody_knows_is_the_requests_fault(models: Mapping[str, Any], user: Any, message: str) -> None:
    async def story() -> None:
        world = World(models["numbers"], required=["spend"])
        status, error = await world.rows({"user": user, "amount": 1.0})
        assert (status, error["error_code"], error["message"]) == (400, "INVALID_PARAMETER_VALUE", message)
        assert world.took == [], "no evidence about a version"

    run(story)


def test_bad_requests_are_400_and_quote_nothing_that_was_looked_up(models: Mapping[str, Any]) -> None:
    async def story() -> None:
        world = World(models["mixed"], entries={"ada": {"spend": 987654.0, "country": "a secret of the store"}})
        answers = [
            await world.ask("{"),
            await world.ask({"dataframe_records": [{"amount": 1.0}]}),
            await world.ask({"inputs": [1.0, 2.0]}),
            await world.ask({"messages": [{"role": "user", "content": "hi"}], "user": "ada"}),
            await world.rows({"user": "ada"}),
            await world.rows({"user": "ada", "amount": "much"}),
            await world.ask({"inputs": {"user": "ada", "amount": [[1.0]]}}),
        ]
        assert [status for status, _ in answers] == [400] * len(answers)
        messages = [error["message"] for _, error in answers]
        assert not any("987654" in message or "secret" in message for message in messages)
        assert "Model is missing inputs ['amount']" in messages[4]
        assert "a row needs the field 'user'" in messages[1]

    run(story)


def test_a_models_fault_is_500_with_the_reason_in_the_log(
    models: Mapping[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        for signature in ("numbers", "mixed"):
            status, error = await World(models[signature]).rows({"user": "ada", "amount": 13.0})
            assert (status, error["request_id"]) == (500, "r-1")
            assert "secret" not in error["message"]

    run(story)
    assert caplog.text.count("ValueError: thirteen: a secret of the model") == 2


def test_warming_up_asks_no_source(models: Mapping[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story() -> None:
        example = {"dataframe_records": [{"user": "ada", "amount": 1.0}]}
        (tmp_path / EXAMPLE_FILE).write_text(json.dumps(example))
        world = World(models["numbers"])
        assert await world.server.warm_up(tmp_path)
        needs = World(models["numbers"], required=["spend"])
        assert not await needs.server.warm_up(tmp_path)
        assert (world.source.asked, needs.source.asked) == ([], [])
        assert world.counts.outcomes == {}

    run(story)
    assert "lacks features that are required: the model is not warmed up" in caplog.text


# --- entry points -------------------------------------------------------------------------------------------------


def terms(entry_point: str, **options: Any) -> Features:
    return Features(entry_point=entry_point, key="user", timeout_ms=5000, defaults={"spend": 0.0}, options=options)


@pytest.mark.parametrize("name", ["segments", "opened"])
def test_an_entry_point_is_called_once_with_its_options(name: str) -> None:
    async def story() -> None:
        about = terms(f"{POINT}:{name}", keys="ada,bob", spend=3)
        join = await features.start(about, NUMBERS, LookUpCounts())
        read = join.read(lambda: features.Parsed([{"user": "bob"}], None))
        assert isinstance(read, features.Read)
        used = await join.look_up(read)
        assert isinstance(used, features.Used)
        assert join.joined(used).data == [{"spend": 3.0}]
        await join.close()

    run(story)


@pytest.mark.parametrize(
    ("entry_point", "reason"),
    [
        ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{POINT}:no_such_name", "AttributeError: .*no_such_name"),
        (f"{POINT}:refuses", "RuntimeError: no feature view of that name"),
        (f"{POINT}:segments", "KeyError: 'keys'"),
        (f"{POINT}:no_source", "makes str: no look_up and close"),
    ],
)
def test_an_entry_point_that_makes_no_source_ends_the_start_with_the_reason(entry_point: str, reason: str) -> None:
    with pytest.raises(Stalled, match=f"features.entry_point {entry_point}.*{reason}"):
        asyncio.run(features.start(terms(entry_point), NUMBERS, LookUpCounts()))


def test_features_that_do_not_fit_the_model_end_the_start_with_the_reason() -> None:
    about = Features(entry_point=f"{POINT}:segments", key="user", defaults={"spend": "much"})
    with pytest.raises(Stalled, match=r"do not fit the model: features\.defaults\.spend: 'much' is no"):
        asyncio.run(features.start(about, NUMBERS, LookUpCounts()))


def test_a_source_of_plain_functions_is_asked_in_threads_and_never_holds_the_loop() -> None:
    async def story() -> None:
        gate, asked = threading.Event(), []

        def look_up(keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
            asked.append((threading.get_ident(), *keys))
            assert gate.wait(20)
            return {"ada": {"spend": 1.0}}

        blocking = Blocking(look_up)
        source = features.InThreads(blocking)
        hangs = asyncio.create_task(source.look_up(["ada"]))
        await asyncio.to_thread(wait_until, lambda: asked, 20, "the question")
        gate.set()
        assert await hangs == {"ada": {"spend": 1.0}}
        assert asked[0][0] != threading.get_ident()
        await source.close()
        assert blocking.closed

    run(story)


def test_whether_a_source_blocks_is_seen_by_its_look_up() -> None:
    async def story() -> None:
        assert isinstance(await make_source(terms(f"{POINT}:segments", keys="a", spend=1)), KnownFeatures)
        assert isinstance(await make_source(terms(f"{POINT}:blocking")), features.InThreads)

    run(story)
