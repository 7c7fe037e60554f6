"""What the log says of a run, and when it says nothing."""

import asyncio
import logging
from typing import Any

import pytest

import durable
from durable import (
    Engine,
    activity,
    logger,
    run,
    sleep,
    update,
    wait_condition,
    workflow,
)

OWN = "durable.workflow"


@activity(name="log_lines.step", retry=None)
async def step() -> None:
    logger.info("in an activity")


@activity(name="log_lines.plain", retry=None)
def plain() -> None:
    logger.info("in a thread")


@workflow(name="log_lines.waiting")
async def waiting() -> None:
    async def beside() -> None:
        try:
            await sleep(3_600)
        finally:
            logger.warning("cleaning up beside")

    task = asyncio.create_task(beside())
    try:
        logger.info("begun")
        await sleep(3_600)
    except BaseException:
        logger.warning("leaving")
        raise
    finally:
        logger.error("cleaning up")
        task.cancel()


@workflow(name="log_lines.broken")
async def broken() -> None:
    raise TypeError("wrong code")


@workflow(name="log_lines.Desk")
class Desk:
    def __init__(self) -> None:
        self.is_done = False

    @run
    async def go(self) -> None:
        await step()
        await plain()
        await wait_condition(lambda: self.is_done)

    @update
    async def ask(self) -> None:
        logger.info("in an update")
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "something odd"})
        self.is_done = True
        await sleep(3_600)


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    return [record for record in caplog.records if record.name == name]


async def test_run_that_leaves_memory_says_nothing(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Engine(database, max_cached_runs=1) as engine:
        handles = [
            await engine.start(waiting(), id=f"w{number}") for number in range(4)
        ]
        for handle in handles * 2:  # each is brought back, and drops another one
            assert await handle.stack()
    assert [record.message for record in lines(caplog, OWN)] == ["begun"] * 4


async def test_cleanup_that_a_run_really_does_is_logged(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Engine(database) as engine:
        handle = await engine.start(waiting(), id="w")
        assert await handle.stack()
        await handle.cancel()
        with pytest.raises(durable.WorkflowCancelledError):
            await handle.result()
    said = [record.message for record in lines(caplog, OWN)]
    assert said[:3] == ["begun", "leaving", "cleaning up"]


async def test_lines_of_code_name_the_run_and_the_update_or_attempt(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Engine(database) as engine:
        handle: Any = await engine.start(Desk.go(), id="w")
        with pytest.raises(durable.UpdateFailedError):
            await handle.update("ask", update_id="u-1")
        await handle.result()
    found = {record.message: record for record in lines(caplog, OWN)}
    for record in found.values():
        assert (record.workflow_id, record.run_id) == ("w", handle.run_id)
        assert record.workflow_type == "log_lines.Desk"
    asked = found["in an update"]
    assert (asked.update_id, asked.update_name) == ("u-1", "ask")
    for message, name in (
        ("in an activity", "log_lines.step"),
        ("in a thread", "log_lines.plain"),
    ):
        assert found[message].activity_type == name
        assert found[message].attempt == 1
    odd, left = lines(caplog, "durable.worker")
    for record in (odd, left):
        assert f"'w' (log_lines.Desk, run id {handle.run_id})" in record.message
        assert (record.workflow_id, record.run_id) == ("w", handle.run_id)
    assert "update 'ask' (id 'u-1'): something odd" in odd.message
    assert (odd.update_id, odd.update_name) == ("u-1", "ask")
    assert "update 'ask' (id 'u-1')" in left.message


async def test_lines_of_the_library_name_the_run(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(database, workflow_task_attempts=1) as engine:
        handle = await engine.start(broken(), id="w")
        with pytest.raises(durable.WorkflowStuckError):
            await handle.result()
    (record,) = lines(caplog, "durable.worker")
    assert f"Run 'w' (log_lines.broken, run id {handle.run_id}) is stuck" in (
        record.message
    )
    assert (record.workflow_id, record.run_id) == ("w", handle.run_id)
    assert record.workflow_type == "log_lines.broken"
