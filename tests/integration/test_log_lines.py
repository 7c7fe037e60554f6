"""What the log says of a run, and when it says nothing."""

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import (
    Engine,
    RetryPolicy,
    activity,
    logger,
    run,
    sleep,
    update,
    wait_condition,
    workflow,
)
from durable.testing.environment import TestEnvironment

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


# --- failures -------------------------------------------------------------------------

TRIES: list[int] = []


@activity(
    name="log_lines.flaky", retry=RetryPolicy(max_attempts=3, initial_interval="2s")
)
async def flaky(secret: str) -> str:
    TRIES.append(1)
    raise ConnectionError(f"refused\nfor the time {len(TRIES)}")


@activity(name="log_lines.slow", retry=None, start_to_close_timeout="5s")
async def slow() -> None:
    await asyncio.sleep(60)


@workflow(name="log_lines.order")
async def order(secret: str) -> str:
    return await flaky(secret)


@workflow(name="log_lines.patient")
async def patient() -> None:
    await slow()


@workflow(name="log_lines.both")
async def both() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(step_that_fails("left"))
        group.create_task(step_that_fails("right"))


@activity(name="log_lines.step_that_fails", retry=None)
async def step_that_fails(which: str) -> None:
    raise ValueError(which)


async def test_each_failed_attempt_is_one_warning_and_a_failed_run_one_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    TRIES.clear()
    async with TestEnvironment() as env:
        handle = await env.start(order("hush"), id="w")
        with pytest.raises(durable.WorkflowFailedError):
            await handle.result()
    *warned, failed = lines(caplog, "durable.worker")
    run_name = f"run 'w' (log_lines.order, run id {handle.run_id})"
    here = f"(at {__file__}:"
    for number, (record, following) in enumerate(
        zip(
            warned,
            (
                "attempt 2 follows in 2 s.",
                "attempt 3 follows in 4 s.",
                "it was the last one: its retry policy allows no further attempt.",
            ),
            strict=True,
        ),
        start=1,
    ):
        assert record.levelname == "WARNING"
        assert record.message.startswith(
            f"Activity 'log_lines.flaky' (id 1) of {run_name}: attempt {number} failed:"
            f" ConnectionError: refused for the time {number} {here}"
        )
        assert record.message.endswith(f", in flaky); {following}")
        about = (record.workflow_id, record.activity_type, record.attempt)
        assert about == ("w", "log_lines.flaky", number)
        assert record.error_type == "ConnectionError"
    assert failed.levelname == "ERROR"
    assert failed.message.startswith(
        f"R{run_name[1:]} failed: ConnectionError: refused for the time 3 {here}"
    )
    assert "hush" not in caplog.text  # an argument is nobody's business


async def test_attempt_whose_time_is_up_names_the_line_that_it_was_at(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TestEnvironment() as env:
        handle = await env.start(patient(), id="w")
        with pytest.raises(durable.WorkflowFailedError):
            await handle.result()
    warned, failed = lines(caplog, "durable.worker")
    line = slow.function.__code__.co_firstlineno + 2
    assert f"start_to_close_timeout of 5 s passed (at {__file__}:{line})" in (
        warned.message
    )
    assert failed.levelname == "ERROR"


async def test_groups_name_their_leaves_in_the_log_and_in_the_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TestEnvironment() as env:
        handle = await env.start(both(), id="w")
        with pytest.raises(durable.WorkflowFailedError) as caught:
            await handle.result()
    failed = lines(caplog, "durable.worker")[-1]
    for text in (failed.message, str(caught.value)):
        assert "ExceptionGroup: unhandled errors in a TaskGroup" in text
        assert "ValueError: left" in text


# --- other set-ups --------------------------------------------------------------------

SCRIPT = """
import asyncio, logging, logging.config
{before}
from durable import Engine, logger, now, sleep, workflow
{after}

@workflow
async def bug(n: int) -> int:
    return n + None

async def main() -> None:
    async with Engine("memory://", workflow_task_attempts=1) as engine:
        {inside}
        handle = await engine.start(bug(1), id="b")
        try:
            await handle.result()
        except Exception:
            pass

asyncio.run(main())
"""
BLANKET = (
    "logging.config.dictConfig({'version': 1, 'handlers': {'h': {'class':"
    " 'logging.StreamHandler'}}, 'root': {'handlers': ['h'], 'level': 'INFO'}})"
)
QUIET = (
    "logging.config.dictConfig({'version': 1, 'loggers': {'durable': {'level':"
    " 'CRITICAL'}}})"
)


def said_by(tmp_path: Path, **places: str) -> str:
    program = tmp_path / "program.py"
    program.write_text(
        SCRIPT.format(**{"before": "", "after": "", "inside": "pass", **places})
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stderr


@pytest.mark.parametrize(
    "places",
    [
        pytest.param({}, id="nothing set up"),
        pytest.param({"before": BLANKET}, id="before the import"),
        pytest.param({"after": BLANKET}, id="after the import"),
        pytest.param({"inside": BLANKET}, id="while the engine is open"),
    ],
)
def test_parked_run_is_one_line_on_stderr_whoever_set_up_logging(
    tmp_path: Path, places: dict[str, str]
) -> None:
    said = said_by(tmp_path, **places)
    (line,) = [line for line in said.splitlines() if "is stuck" in line]
    assert line.startswith("Run 'b' (bug, run id ")
    assert "is stuck: TypeError: unsupported operand" in line


def test_who_wants_silence_names_the_library(tmp_path: Path) -> None:
    assert "is stuck" not in said_by(tmp_path, after=QUIET)
