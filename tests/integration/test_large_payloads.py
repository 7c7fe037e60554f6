"""Values up to the limit pass every database unchanged; what is larger is refused."""

from __future__ import annotations

import asyncio

import pytest

from durable import (
    Engine,
    Signal,
    WorkflowStuckError,
    activity,
    limits,
    workflow,
)
from durable.errors import PayloadTooLargeError
from durable.testing import replay
from tests.servers import MariaServer

pytestmark = pytest.mark.slow

CHARS = limits.PAYLOAD_BYTES_MAX - 2  # and two quotes
# Those that JSON, or a statement of SQL, writes as they are, and as more than that.
LARGEST = {
    "plain": "x" * CHARS,
    "backslashes": "\\" * (CHARS // 2),
    "quotes": "'\"" * (CHARS // 3),
    "wide": "\N{GRINNING FACE}" * (CHARS // 4),
    "nul": "\0" * (CHARS // 6),
}
MESSAGE = "\\'" * (limits.FAILURE_MESSAGE_CHARS_MAX // 2)
GO = Signal("large.go", str)


@activity(name="large.echo")
async def echo(value: str) -> str:
    return value


@activity(name="large.grow")
async def grow(value: str) -> str:
    return value + "x"


@activity(name="large.fail", retry=None)
async def fail() -> None:
    raise LookupError(MESSAGE)


@activity(name="large.join")
async def join(*values: str) -> int:
    return len(values)


@workflow(name="large.passing")
async def passing(value: str) -> str:
    echoed = await echo(value)
    told = await GO.receive()
    try:
        await fail()
    except LookupError as error:
        if value == echoed == told and error.args == (MESSAGE,):
            return told
    return "something has changed"


@workflow(name="large.growing")
async def growing(value: str) -> str:
    return await grow(value)


@workflow(name="large.ending")
async def ending(value: str) -> str:
    return value + "x"


@workflow(name="large.many_at_once")
async def many_at_once(count: int) -> int:
    return await join(*[LARGEST["backslashes"]] * count)


@workflow(name="large.many")
async def many(count: int) -> int:
    await GO.receive()
    return await join(*[LARGEST["backslashes"]] * count)


@workflow(name="large.piling")
async def piling(count: int) -> int:
    total = 0
    for _ in range(count):
        total += len(await echo(LARGEST["backslashes"]))
    await GO.receive()
    return total


@pytest.mark.sweep(5)
@pytest.mark.parametrize("kind", LARGEST)
async def test_largest_values_come_back_as_they_were(
    shared_url: str, kind: str
) -> None:
    value = LARGEST[kind]
    async with Engine(shared_url) as engine:
        await engine.start(passing(value), id="run")
    async with Engine(shared_url) as engine:
        run = await engine.get("run", workflow=passing)
        await run.signal(GO(value))
        assert await run.result(timeout=30) == value
    async with Engine(shared_url, definitions=[]) as engine:
        replay(await (await engine.get("run")).history())


@pytest.mark.sweep(1)
async def test_values_beyond_the_limit_are_refused_before_anything_is_written(
    shared_url: str,
) -> None:
    value = LARGEST["plain"]
    async with Engine(shared_url) as engine:
        with pytest.raises(PayloadTooLargeError, match=r"2,097,153 bytes"):
            passing(value + "x")
        with pytest.raises(PayloadTooLargeError, match=r"2,097,153 bytes"):
            GO(value + "x")
        with pytest.raises(PayloadTooLargeError, match=r"2,097,153 bytes"):
            await engine.start("large.passing", value + "x")
        assert await engine.list() == []
        for call, written in (
            (growing(value), ["WorkflowExecutionStarted", "ActivityTaskScheduled"]),
            (ending(value), ["WorkflowExecutionStarted"]),
        ):
            run = await engine.start(call)
            with pytest.raises(WorkflowStuckError, match=r"2,097,153 bytes"):
                await run.result(timeout=30)
            history = await run.history()
            assert [type(event.attributes).__name__ for event in history] == written


@pytest.mark.sweep(1)
async def test_history_that_is_larger_than_any_packet_is_read_again(
    shared_url: str,
) -> None:
    events = 1 + 2 * 10
    async with Engine(shared_url) as engine:
        run = await engine.start(piling(10), id="run")
        while len(await run.history()) < events:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)
    async with Engine(shared_url) as engine:
        run = await engine.get("run", workflow=piling)
        await run.signal(GO(""))
        assert await run.result(timeout=30) == 10 * (CHARS // 2)


async def test_what_mariadb_takes_in_no_packet_parks_its_run_until_it_does(
    own_mariadb: MariaServer,
) -> None:
    url = own_mariadb.create_database()
    async with Engine(url) as engine:
        runs = [await engine.start(many(count), id=f"{count}") for count in (7, 9)]
        for run in runs:
            await run.signal(GO(""))
        assert await runs[0].result(timeout=30) == 7
        with pytest.raises(WorkflowStuckError, match="max_allowed_packet"):
            await runs[1].result(timeout=30)
        stuck = (await runs[1].describe()).stuck
        assert stuck is not None
        assert stuck.type == "PayloadTooLargeError"
        assert await engine.execute(many_at_once(7)) == 7
        with pytest.raises(PayloadTooLargeError, match="max_allowed_packet"):
            await engine.start(many_at_once(9), id="refused")
        assert len(await engine.list()) == 3
        own_mariadb.execute("SET GLOBAL max_allowed_packet = 67108864")
    async with Engine(url) as engine:
        assert await (await engine.get("9", workflow=many)).result(timeout=30) == 9
