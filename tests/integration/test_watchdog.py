"""Code that holds the thread is named; workflow code is also interrupted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from durable import Engine, WorkflowStuckError, activity, workflow
from durable.errors import ForbiddenInWorkflowError


@workflow(name="watchdog.quick")
async def quick() -> str:
    return "quick"


@workflow(name="watchdog.endless")
async def endless() -> None:
    while True:  # the line that the log must name
        pass


@workflow(name="watchdog.stubborn")
async def stubborn() -> None:
    while True:
        try:
            while True:
                pass
        except Exception:  # noqa: BLE001 - swallows the interruption once
            return


class Seen(logging.Handler):
    """Sees that a worker has complained."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()


seen = Seen()


@activity(name="watchdog.blocking", retry=None)
async def blocking() -> None:
    # However slow the machine is, the loop is held until somebody notices.
    deadline = time.monotonic() + 30
    while not seen.text and time.monotonic() < deadline:
        pass


@workflow(name="watchdog.blocker")
async def blocker() -> None:
    await blocking()


async def test_e10_an_endless_loop_is_named_interrupted_and_parked(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Engine(
        "memory://", blocked_after=0.1, workflow_task_attempts=1
    ) as engine:
        run = await engine.start(endless(), id="w")
        with pytest.raises(WorkflowStuckError, match="held its thread"):
            await run.result()
        assert await engine.execute(quick()) == "quick"  # others go on
    text = caplog.text
    assert "'w' (watchdog.endless, run id " in text
    assert "test_watchdog.py:" in text


async def test_swallowing_the_interruption_does_not_help() -> None:
    async with Engine(
        "memory://", blocked_after=0.1, workflow_task_attempts=1
    ) as engine:
        with pytest.raises(WorkflowStuckError, match="held its thread"):
            await engine.execute(stubborn())


async def test_an_activity_that_blocks_the_loop_is_named_and_left_alone() -> None:
    log = logging.getLogger("durable.worker")
    log.addHandler(seen)
    try:
        async with Engine("memory://", blocked_after=0.05) as engine:
            await engine.execute(blocker(), id="w")
    finally:
        log.removeHandler(seen)
    assert "Activity 'watchdog.blocking' (id 1, attempt 1) of run 'w'" in seen.text
    assert "blocked the worker's event loop" in seen.text


FORBIDDEN: dict[str, Callable[[], object]] = {
    "time.sleep": lambda: time.sleep(60),
    "thread": lambda: threading.Thread(target=print).start(),
    "socket": lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
    "subprocess": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
    "system": lambda: os.system("true"),  # noqa: S605 - it must be refused
    "executor": lambda: asyncio.get_running_loop().run_in_executor(None, print),
    "to_thread": lambda: asyncio.ensure_future(asyncio.to_thread(print)),
    "connection": lambda: asyncio.ensure_future(asyncio.open_connection("a", 1)),
    "signal": lambda: asyncio.get_running_loop().add_signal_handler(
        signal.SIGUSR1, print
    ),
    "threadsafe": lambda: asyncio.get_running_loop().call_soon_threadsafe(print),
}


@pytest.mark.parametrize("what", FORBIDDEN)
async def test_what_cannot_be_replayed_raises_with_advice(what: str) -> None:
    @workflow(name="watchdog.forbidden")
    async def forbidden() -> None:
        outcome = FORBIDDEN[what]()
        if isinstance(outcome, asyncio.Future):
            await outcome

    async with Engine("memory://", workflow_task_attempts=1) as engine:
        started = time.monotonic()
        with pytest.raises(WorkflowStuckError) as stuck:
            await engine.execute(forbidden())
        assert time.monotonic() - started < 30
    assert isinstance(stuck.value.__cause__, ForbiddenInWorkflowError)
    assert "cannot be replayed" in str(stuck.value)


async def test_guards_do_nothing_outside_of_workflows() -> None:
    async with Engine("memory://") as engine:
        await engine.execute(quick())
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
        time.sleep(0)  # noqa: ASYNC251 - the point of the test
