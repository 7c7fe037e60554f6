"""What is read of runs: descriptions as JSON, memos, statuses, typed results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from durable import (
    Engine,
    RunDescription,
    RunStatus,
    SyncEngine,
    WorkflowStuckError,
    continue_as_new,
    run,
    workflow,
)
from durable.errors import InvalidCallError, InvalidOptionError, NotADatabaseError
from durable.testing.environment import TestEnvironment


@dataclass
class Total:
    cents: int


@workflow(name="described.total")
async def total(cents: int) -> Total:
    return Total(cents)


@workflow(name="described.Cart")
class Cart:
    @run
    async def shop(self, cents: int) -> Total:
        return Total(cents)


@workflow(name="described.bug")
async def bug() -> None:
    [][0]


@workflow(name="described.chain")
async def chain(left: int) -> int:
    if left:
        continue_as_new(chain(left - 1))
    return left


async def stuck_description(env: Any) -> RunDescription:
    with pytest.raises(WorkflowStuckError):
        await env.execute(bug(), id="bug")
    (found,) = await env.list(status="stuck")
    description: RunDescription = found
    return description


async def test_a_description_is_plain_data_for_every_framework(database: str) -> None:
    async with Engine(database) as engine:
        stuck = await stuck_description(engine)
        await engine.execute(total(1), id="done")
        done = await (await engine.get("done")).describe()

        class Page(BaseModel):
            model_config = ConfigDict(arbitrary_types_allowed=False)
            run: RunDescription

        for description in (done, stuck):
            plain = description.to_dict()
            assert plain == dict(description) == json.loads(json.dumps(plain))
            assert msgspec.json.encode(description)
            adapter = TypeAdapter(list[RunDescription])
            assert json.loads(adapter.dump_json([description])) == [plain]
            assert adapter.json_schema(mode="serialization")["items"]
            assert Page(run=description).model_dump(mode="json") == {"run": plain}
        assert done.to_dict()["status"] == "completed"
        assert done.to_dict()["started_at"].endswith("Z")
        assert stuck.to_dict()["stuck"]["type"] == "IndexError"


async def test_a_memo_can_be_read_along_the_chain(database: str) -> None:
    memo = {"customer": "ada", "lines": [1, 2.5, None]}
    async with TestEnvironment(database) as env:
        handle = await env.start(chain(2), id="w", memo=memo)
        assert await handle.result() == 0
        assert await handle.memo() == memo
        assert await (await env.get("w")).memo() == memo
        other = await env.start(total(1), id="bare")
        assert await other.memo() == {}


async def test_statuses_are_asked_for_by_word(database: str) -> None:
    async with Engine(database) as engine:
        stuck = await stuck_description(engine)
        await engine.execute(total(1), id="done")

        async def ids(status: Any) -> list[str]:
            return [run.workflow_id for run in await engine.list(status=status)]

        assert stuck.status is RunStatus.RUNNING
        assert await ids("stuck") == await ids("running") == ["bug"]
        assert await ids("completed") == await ids(RunStatus.COMPLETED) == ["done"]
        for wrong in ("complete", 5, ""):
            with pytest.raises(InvalidOptionError, match="stuck"):
                await ids(wrong)
        with pytest.raises(InvalidOptionError, match="did you mean 'completed'"):
            await ids("complete")


async def test_results_have_their_types_without_being_asked(database: str) -> None:
    async with Engine(database) as engine:
        await engine.execute(total(1), id="f")
        await engine.execute(Cart.shop(2), id="c")
        assert await (await engine.get("f")).result() == Total(1)
        assert await (await engine.get("c")).result() == Total(2)
        assert await (await engine.get("c", workflow=Cart)).result() == Total(2)
        assert await (await engine.get("f", workflow=total)).result() == Total(1)
        assert await engine.execute("described.total", 3) == Total(3)
        assert await (await engine.get("f")).plain().result() == {"cents": 1}
        others: list[Any] = [Total, "described.total", 5]
        for wrong in others:
            with pytest.raises(InvalidCallError, match="no workflow"):
                await engine.get("f", workflow=wrong)
    if database.startswith("sqlite"):
        async with Engine(database, definitions=[chain]) as engine:
            assert await (await engine.get("f")).result() == {"cents": 1}


async def test_a_workflow_instead_of_a_call_brings_the_call_to_make() -> None:
    async with Engine("memory://") as engine:
        for given, call in (
            (total, r"total\(\.\.\.\)"),
            (Cart, r"Cart\.shop\(\.\.\.\)"),
        ):
            wrong: Any = given
            with pytest.raises(InvalidCallError, match=call):
                await engine.start(wrong)


# --- engines --------------------------------------------------------------------------


async def test_a_path_names_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path("shop.db"), tmp_path / "shop.db"):
        async with Engine(path) as engine:
            assert await engine.execute(total(1), id="w") == Total(1)
            assert len(await engine.list()) == 1
    odd = tmp_path / "a?b=%20 c.db"
    async with Engine(odd) as engine:
        await engine.execute(total(1), id="w")
    assert odd.exists()
    with pytest.raises(NotADatabaseError, match=r"Path\('shop\.db'\).*sqlite:///"):
        Engine("shop.db")


def test_with_says_which_form_is_right() -> None:
    with (
        pytest.raises(InvalidCallError, match="async with Engine"),
        Engine("memory://"),
    ):
        pass


async def test_async_with_of_a_sync_engine_says_which_form_is_right() -> None:
    with pytest.raises(InvalidCallError, match="async with Engine"):
        async with SyncEngine("memory://"):
            pass


async def test_options_that_do_not_exist_bring_the_one_that_was_meant() -> None:
    wrong_option: dict[str, Any] = {"run_timout": "1s"}
    async with Engine("memory://") as engine:
        with pytest.raises(InvalidOptionError, match="did you mean 'run_timeout'"):
            await engine.execute(total(1), **wrong_option)
        with pytest.raises(InvalidOptionError, match="did you mean 'run_timeout'"):
            await engine.start(total(1), **wrong_option)
        wrong_option = {"id_reus": "new_run"}
        with pytest.raises(InvalidOptionError, match="did you mean 'id_reuse'"):
            total.options(**wrong_option)
    wrong_option = {"versin": "1"}
    with pytest.raises(InvalidOptionError, match="did you mean 'version'"):
        workflow(**wrong_option)


async def test_status_is_equal_to_its_word(database: str) -> None:
    """Whoever compares with the word that `list` takes would wait for ever else."""
    async with Engine(database) as engine:
        handle = await engine.start(total(5), id="t")
        await handle.result()
        found = await handle.describe()
        assert found.status == "completed" == f"{found.status}"
        assert found.status is RunStatus.COMPLETED
