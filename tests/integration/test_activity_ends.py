"""What ends an attempt but its outcome: exits, Ctrl-C, drains, the process itself."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from durable import (
    ApplicationError,
    OutcomeUnknown,
    RunStatus,
    WorkflowFailedError,
    activity,
    workflow,
)
from durable.store.records import AttemptState
from durable.testing.environment import TestEnvironment

RAN: list[int] = []
RAISED: BaseException = SystemExit(3)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@activity(name="ends.leave")
async def leave() -> None:
    RAN.append(1)
    raise RAISED


@activity(name="ends.leave_thread")
def leave_thread() -> None:
    RAN.append(1)
    raise RAISED


@workflow(name="ends.leaving")
async def leaving(threaded: bool) -> str:
    try:
        await (leave_thread() if threaded else leave())
    except ApplicationError as error:
        return f"{error.type} {error.details}"
    return "nothing"


@workflow(name="ends.unhandled")
async def unhandled() -> None:
    await leave()


@pytest.mark.parametrize("threaded", [False, True])
@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (SystemExit(3), "SystemExit (3,)"),
        (SystemExit("why"), "SystemExit ('why',)"),
        (SystemExit(), "SystemExit (None,)"),
        (GeneratorExit(), "GeneratorExit ()"),
        (asyncio.CancelledError(), "CancelledError ()"),
    ],
)
async def test_an_exit_fails_its_attempt_with_its_code(
    raised: BaseException, said: str, threaded: bool
) -> None:
    global RAISED
    RAISED = raised
    async with TestEnvironment() as env:
        assert await env.execute(leaving(threaded)) == said
        assert len(RAN) == 3  # a failure like others: it is tried again


async def test_an_exit_that_nobody_handles_fails_the_run_and_blames_the_activity() -> (
    None
):
    global RAISED
    RAISED = SystemExit(7)
    async with TestEnvironment() as env:
        run = await env.start(unhandled())
        with pytest.raises(WorkflowFailedError, match=r"sys\.exit\(7\)"):
            await run.result()
        assert (await run.describe()).status is RunStatus.FAILED


@workflow(name="ends.grouping")
async def grouping(of_child: bool) -> str:
    async with asyncio.TaskGroup() as group:
        if of_child:
            group.create_task(giving_in())
        else:
            group.create_task(leave())
    return "went on as if nothing had failed"


@workflow(name="ends.giving_in")
async def giving_in() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize("of_child", [False, True], ids=["activity", "child"])
async def test_a_cancellation_that_nobody_asked_for_is_a_failure_to_a_task_group(
    of_child: bool,
) -> None:
    global RAISED
    RAISED = asyncio.CancelledError()
    async with TestEnvironment() as env:
        run = await env.start(grouping(of_child))
        with pytest.raises(WorkflowFailedError) as caught:
            await run.result()
        group = caught.value.__cause__
        assert isinstance(group, ExceptionGroup)
        assert "CancelledError" in str(group.exceptions[0])


# --- drains ---------------------------------------------------------------------------


@activity(name="ends.answers", retry=None)
async def answers() -> str:
    RAN.append(1)
    try:
        await asyncio.sleep(3_600)
    except asyncio.CancelledError:
        return "cleaned up"
    return "done"


@activity(name="ends.gives_up", effect="once", retry=None)
async def gives_up() -> None:
    RAN.append(1)
    await asyncio.sleep(3_600)


@workflow(name="ends.answering")
async def answering() -> str:
    return await answers()


@workflow(name="ends.giving_up")
async def giving_up() -> str:
    try:
        await gives_up()
    except OutcomeUnknown as error:
        return str(error.__cause__ or error)
    return "done"


async def begun(env: TestEnvironment) -> None:
    while not RAN:
        await env.sleep("1s")


async def test_what_answers_a_drain_is_recorded(database: str) -> None:
    async with TestEnvironment(database, drain_timeout="1s") as env:
        await env.start(answering(), id="o")
        await begun(env)
    async with TestEnvironment(database, clock=env.clock) as env:
        assert await (await env.get("o")).result() == "cleaned up"
    assert RAN == [1]


async def test_what_a_drain_cut_short_says_so(database: str) -> None:
    async with TestEnvironment(database, drain_timeout="1s") as env:
        run = await env.start(giving_up(), id="o")
        await begun(env)
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("o")
        said = await run.result()
        assert "was cut short when its worker closed, after 1 s" in said
        assert [row.state for row in await run.attempts()] == [AttemptState.LOST]
    assert RAN == [1]


# --- processes ------------------------------------------------------------------------

PROGRAM = """
import asyncio, os, signal, sys, threading
import concurrent.futures.thread as pools
from durable import Engine, activity, workflow
MODE, URL = sys.argv[1:]

@activity
async def work() -> str:
    if MODE == "second":
        return "done"
    STARTED.set()
    if MODE == "unclosed":
        await asyncio.sleep(3600)
    if MODE == "interrupt":
        signal.raise_signal(signal.SIGINT)
    while not pools._shutdown:
        await asyncio.sleep(0.001)
    try:
        return await asyncio.to_thread(str, "in a thread")
    finally:
        asyncio.get_running_loop().call_later(0.2, OVER.set)

@workflow
async def flow() -> str:
    return await work()

OVER = threading.Event()
BEGUN = threading.Event()
STARTED = threading.Event()

async def first() -> None:
    engine = await Engine(URL).open()
    await engine.start(flow(), id="o")
    BEGUN.set()
    while MODE != "unclosed" or not STARTED.is_set():
        await asyncio.sleep(0.001)

async def second() -> None:
    async with Engine(URL) as engine:
        run = await engine.get("o")
        print(await run.result())
        print([(row.attempt, row.state.value) for row in await run.attempts()])

if MODE == "second":
    asyncio.run(second())
elif MODE == "unclosed":
    asyncio.run(first())
elif MODE == "interrupt":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(first())
    except KeyboardInterrupt:
        os._exit(42)
else:
    def run():
        asyncio.new_event_loop().run_until_complete(first())
    threading.Thread(target=run, daemon=True).start()
    BEGUN.wait()
    # Keeps the process until the activity has met what is shut down by then.
    threading.Thread(target=OVER.wait).start()
"""


def run_program(tmp_path: Path, mode: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "program.py"
    script.write_text(textwrap.dedent(PROGRAM))
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    return subprocess.run(
        [sys.executable, str(script), mode, url],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("mode", "code"), [("interrupt", 42), ("shutdown", 0), ("unclosed", 0)]
)
def test_a_process_that_ends_leaves_its_attempt_to_the_next(
    mode: str, code: int, tmp_path: Path
) -> None:
    first = run_program(tmp_path, mode)
    assert first.returncode == code, first.stderr
    second = run_program(tmp_path, "second")
    assert second.stdout.splitlines() == [
        "done",
        "[(1, 'lost'), (2, 'completed')]",
    ], second.stderr
