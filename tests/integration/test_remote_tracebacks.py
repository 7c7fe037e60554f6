"""Where an activity or a child failed is shown wherever its failure is raised."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import Engine, activity, workflow
from durable.converter.failures import exception_of, failure_of, show_remote
from durable.core.history import flags
from durable.core.history.events import WorkflowExecutionFailed
from durable.testing import TestEnvironment
from durable.testing.driver import Driver
from durable.testing.replaying import replay_at_every_prefix


def deep(data: dict[str, int]) -> int:
    try:
        return data["missing"]
    except KeyError as error:
        raise ValueError("no such part") from error


@activity(name="tracebacks.look", retry=None)
async def look() -> int:
    return deep({})


@activity(name="tracebacks.strange", retry=None)
async def strange() -> int:
    class HiddenError(Exception):
        pass

    raise HiddenError("out of sight")


@workflow(name="tracebacks.child")
async def child(is_known: bool) -> int:
    return await (look() if is_known else strange())


@workflow(name="tracebacks.parent")
async def parent(is_known: bool) -> int:
    return await child(is_known)


@workflow(name="tracebacks.reporting")
async def reporting() -> str:
    try:
        await look()
    except ValueError:
        return traceback.format_exc()
    return ""


@workflow(name="tracebacks.causes")
async def causes() -> bool:
    try:
        await strange()
    except durable.ActivityError as error:
        return error.__cause__ is not None and error.__cause__.__cause__ is None
    return False


def formatted(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


async def failed(engine: Engine, call: Any) -> durable.WorkflowFailedError:
    with pytest.raises(durable.WorkflowFailedError) as caught:
        await engine.execute(call)
    return caught.value


@pytest.mark.parametrize("flow", [child, parent])
async def test_result_shows_the_line_and_its_causes(database: str, flow: Any) -> None:
    async with Engine(database) as engine:
        text = formatted(await failed(engine, flow(True)))
    assert text.count("in deep") == 2
    assert text.index("KeyError: 'missing'") < text.index("ValueError: no such part")
    assert f'File "{__file__}"' in text


@pytest.mark.parametrize("flow", [child, parent])
async def test_failure_of_an_unknown_class_is_shown_once(
    database: str, flow: Any
) -> None:
    async with Engine(database) as engine:
        text = formatted(await failed(engine, flow(False)))
    assert text.count("in strange") == 1
    assert text.count('HiddenError: out of sight\n"""') == 1


async def test_workflow_code_and_its_log_show_it(database: str) -> None:
    async with Engine(database) as engine:
        assert "in deep" in await engine.execute(reporting())


async def test_group_shows_it_for_each_member() -> None:
    members = [failure_of(await _raised(name)) for name in ("left", "right")]
    group = BaseExceptionGroup("both", [exception_of(member) for member in members])
    text = formatted(show_remote(exception_of(failure_of(group))))
    assert "ValueError: left" in text
    assert text.count("in _raised") == 2


async def _raised(name: str) -> BaseException:
    try:
        raise ValueError(name)
    except ValueError as error:
        return error


async def test_what_is_shown_is_not_recorded_again(database: str) -> None:
    async with Engine(database) as engine:
        handle = await engine.start(child(True))
        with pytest.raises(durable.WorkflowFailedError):
            await handle.result()
        last = (await handle.history())[-1].attributes
    assert isinstance(last, WorkflowExecutionFailed)
    assert last.failure.added is None
    raised = show_remote(exception_of(last.failure))
    assert failure_of(raised) == last.failure
    assert "RemoteTraceback" not in repr(failure_of(raised))


def test_histories_of_code_that_saw_no_traceback_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flags, "CURRENT", flags.CURRENT & ~flags.Flag.REMOTE_TRACEBACKS)
    driver = _failing(causes())
    assert driver.result() is True
    monkeypatch.undo()
    replay_at_every_prefix(driver.history)
    driver = _failing(causes())
    assert driver.result() is False
    replay_at_every_prefix(driver.history)


def _failing(call: Any) -> Driver:
    class HiddenError(Exception):
        pass

    driver = Driver(call)
    driver.start()
    try:
        raise HiddenError("out of sight")
    except HiddenError as error:
        driver.fail(driver.pending[0], error)
    return driver


TEST = """
from durable import activity, workflow
from durable.testing import TestEnvironment

def deep(data):
    return data["missing"]

@activity(retry=None)
async def look() -> int:
    return deep({})

@workflow
async def flow() -> int:
    return await look()

def test_flow():
    import asyncio

    async def go():
        async with TestEnvironment() as env:
            assert await env.execute(flow()) == 1

    asyncio.run(go())
"""


@pytest.mark.parametrize("style", ["auto", "short", "native"])
def test_pytest_shows_it(tmp_path: Path, style: str) -> None:
    (tmp_path / "test_flow.py").write_text(TEST)
    options = ["-q", f"--tb={style}", "-p", "no:logging"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        check=False,
    )
    assert 'test_flow.py", line 6, in deep' in done.stdout
    assert "KeyError: 'missing'" in done.stdout


# --- nobody runs it -------------------------------------------------------------------


def _unserved(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and "Nobody runs" in record.getMessage()
    ]


@pytest.mark.parametrize("has_worker", [True, False])
async def test_run_that_nobody_takes_is_one_warning(
    database: str, caplog: pytest.LogCaptureFixture, has_worker: bool
) -> None:
    async with TestEnvironment(
        database, definitions=[reporting], worker=has_worker
    ) as env:
        for number in range(3):
            await env.start("tracebacks.elsewhere", id=f"n{number}")
        for _ in range(3):
            await env.sleep("19s")
        assert not _unserved(caplog)
        for _ in range(12):
            await env.sleep("19s")
    (said,) = _unserved(caplog)
    assert "'tracebacks.elsewhere' on task queue 'default'" in said
    assert "like 2 more" in said


async def test_run_that_is_served_or_parked_is_not_said_to_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TestEnvironment() as env:
        await env.start(sleeping(3600), id="w")
        for _ in range(12):
            await env.sleep("19s")
    assert not _unserved(caplog)


async def test_run_that_is_due_at_each_look_is_not_said_to_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TestEnvironment() as env:
        await env.start(sleeping(20), id="w")
        await env.sleep("3m")
    assert not _unserved(caplog)


@workflow(name="tracebacks.sleeping")
async def sleeping(seconds: float) -> None:
    for _ in range(12):
        await durable.sleep(seconds)
