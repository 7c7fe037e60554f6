"""Code that holds the thread is named; workflow code is also interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from durable import Engine, WorkflowStuckError, activity, workflow
from durable.api.activities.thread_exceptions import may_interrupt
from durable.core.history.events import HistoryEvent
from durable.errors import ForbiddenInWorkflowError
from durable.worker.guards.watchdog import Patience


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


@workflow(name="watchdog.spinning")
async def spinning() -> None:
    while True:  # noqa: ASYNC110 - between two steps the loop's code runs, not this
        await asyncio.sleep(0)


@workflow(name="watchdog.spinning_tasks")
async def spinning_tasks() -> None:
    await asyncio.gather(*[spin() for _ in range(3)])


async def spin() -> None:
    while True:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("livelock", "function"),
    [(spinning, spinning.function), (spinning_tasks, spin)],
    ids=["alone", "tasks"],
)
async def test_a_livelock_is_named_by_the_users_line(
    livelock: Any, function: Any, caplog: pytest.LogCaptureFixture
) -> None:
    first = function.__code__.co_firstlineno
    lines = [f"{__file__}:{first + number}" for number in range(4)]
    async with Engine(
        "memory://", blocked_after=0.05, workflow_task_attempts=1
    ) as engine:
        with pytest.raises(WorkflowStuckError) as stuck:
            await engine.execute(livelock(), id="w")
    (said, *_) = [text for text in caplog.messages if "Workflow task of run" in text]
    assert any(f"held its thread for 0.1 s at {line}." in said for line in lines), said
    assert any(f"held its thread at {line} for" in str(stuck.value) for line in lines)
    # The user's lines alone, and how many others there are.
    shown = [line for line in said.splitlines() if line.startswith('  File "')]
    assert shown
    assert all(f'"{__file__}"' in line for line in shown)
    assert "frames of durable and Python not shown" in said


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


# --- a turn is void or it is not ------------------------------------------------------


@activity(name="watchdog.echo")
async def echo(text: str) -> str:
    return text


class Blocking:
    """Whether the code of `tolerant` blocks: until it is mended."""

    is_on = True


def hold(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pass


def hold_until_interrupted() -> None:
    while True:
        pass


async def hold_in_a_task() -> None:
    hold_until_interrupted()


@workflow(name="watchdog.tolerant")
async def tolerant(how: str) -> str:
    if how.startswith("later"):
        await echo("first")
    if Blocking.is_on and how.endswith("suppressed"):
        with contextlib.suppress(Exception):
            hold_until_interrupted()
    elif Blocking.is_on and how.endswith("gathered"):
        await asyncio.gather(hold_in_a_task(), return_exceptions=True)
    elif Blocking.is_on:
        task = asyncio.create_task(hold_in_a_task())
        await asyncio.wait([task])
    return await echo("then")


def positions(history: Sequence[HistoryEvent]) -> list[int]:
    return [event.event_id for event in history]


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("how", ["suppressed", "gathered", "in a task"])
async def test_an_interruption_that_code_swallows_leaves_no_hole(
    when: str, how: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    Blocking.is_on = True
    async with Engine(url, blocked_after=0.05, workflow_task_attempts=2) as engine:
        run = await engine.start(tolerant(f"{when} {how}"), id="w")
        with pytest.raises(WorkflowStuckError, match="held its thread"):
            await run.result()
    Blocking.is_on = False
    async with Engine(url) as engine:
        run = await engine.get("w", workflow=tolerant)
        assert await run.result() == "then"
        history = await run.history()
        assert positions(history) == list(range(1, len(history) + 1))


@workflow(name="watchdog.heavy")
async def heavy(turns: int) -> int:
    for turn in range(turns):
        with contextlib.suppress(Exception):
            hold(0.004 * (1 + turn % 4) if Blocking.is_on else 0)
        await echo("x")
    return turns


async def test_interruptions_at_any_moment_leave_no_hole_and_no_wedged_run(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/runs.db"
    turns = int(os.environ.get("DURABLE_HEAVY_TURNS", "60"))
    ids = [f"w{number}" for number in range(turns // 10)]
    Blocking.is_on = True
    async with Engine(url, blocked_after=0.01, workflow_task_attempts=50) as engine:
        for workflow_id in ids:  # a start never raises what is meant for the code
            await engine.start(heavy(10), id=workflow_id)
        for workflow_id in ids:
            run = await engine.get(workflow_id, workflow=heavy)
            with contextlib.suppress(WorkflowStuckError):
                assert await run.result() == 10
    Blocking.is_on = False
    async with Engine(url) as engine:
        for workflow_id in ids:
            run = await engine.get(workflow_id, workflow=heavy)
            assert await run.result() == 10
            history = await run.history()
            assert positions(history) == list(range(1, len(history) + 1))
        assert asyncio.get_running_loop().is_running()


TRACED = """
import asyncio, sys
from durable import Engine, WorkflowStuckError
from tests.integration.test_watchdog import endless

async def main(url):
    async with Engine(url, blocked_after=0.05, workflow_task_attempts=1) as engine:
        run = await engine.start(endless())
        try:
            await run.result()
        except WorkflowStuckError:
            pass

asyncio.run(main(sys.argv[1]))
sys.settrace(lambda *_: None)
(lambda: None)()
sys.settrace(None)
print("traced")
"""


def test_what_is_traced_after_an_interruption_does_not_hang(tmp_path: Path) -> None:
    # CPython 3.11 does not forget of an interruption that was taken back.
    ended = subprocess.run(
        [sys.executable, "-c", TRACED, f"sqlite:///{tmp_path}/runs.db"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert ended.stdout == "traced\n", ended.stderr


def test_only_what_stays_the_same_tries_the_watchdogs_patience() -> None:
    patience = Patience(2.0)
    # A long replay is many turns, each with time of its own.
    assert not any(patience.is_out((1, turn), turn * 1.5) for turn in range(100))
    assert not patience.is_out((2, 7), 200.0)
    assert not patience.is_out((2, 7), 201.9)
    assert patience.is_out((2, 7), 202.0)
    patience.forget()
    assert not patience.is_out((2, 7), 203.0)


def frame_of(*modules: str) -> FrameType:
    """A frame in the last of these modules, called from the ones before it."""
    code = "def call(f, *rest):\n    return f(*rest)\ndef end():\n    return frame()\n"
    calls: list[dict[str, Any]] = []
    for module in modules:
        names: dict[str, Any] = {"__name__": module, "frame": sys._getframe}
        exec(code, names)  # noqa: S102 - a module of that name
        calls.append(names)
    *outer, last = calls
    chain = [names["call"] for names in outer]
    found = (*chain, last["end"])
    frame = found[0](*found[1:])
    assert isinstance(frame, FrameType)
    return frame


@pytest.mark.parametrize(
    ("modules", "is_safe"),
    [
        (["durable.core.loop.loop", "shop"], True),
        (["durable.core.loop.loop", "shop", "json.decoder"], True),
        (["durable.core.loop.loop", "shop", "durable.api.workflows.workflow"], False),
        (["durable.core.loop.loop", "shop", "asyncio.tasks", "shop"], True),
        (["durable.core.loop.loop"], False),
        (["durable.core.loop.loop", "shop", "logging"], False),
        (["durable.core.loop.loop", "shop", "importlib._bootstrap", "heavy"], False),
        (["threading", "durable.core.loop.loop", "shop"], True),
    ],
)
def test_an_interruption_hits_the_users_code_alone(
    modules: list[str], is_safe: bool
) -> None:
    assert may_interrupt(frame_of(*modules)) is is_safe
