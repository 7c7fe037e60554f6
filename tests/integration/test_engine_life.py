"""An engine's life: loops, threads, closing that is cut short, and opening again."""

import asyncio
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, SyncEngine, activity, workflow
from durable.errors import EngineClosedError
from durable.store.servers.server import PATIENCE_SECONDS
from tests.proxy import Proxy

ROOT = Path(__file__).resolve().parent.parent.parent


@activity(name="life.add")
async def add(number: int) -> int:
    return number + 1


@workflow(name="life.count")
async def count(number: int) -> int:
    return await add(number)


class Endless:
    """Tells that the activity has begun; an event belongs to one loop."""

    has_begun = asyncio.Event()


@activity(name="life.endless")
async def endless() -> None:
    Endless.has_begun.set()
    await asyncio.Event().wait()


@workflow(name="life.wait")
async def wait() -> None:
    await endless()


def threads_of(folder: Path) -> list[str]:
    """The threads that an engine on a database in that folder has left."""
    return [
        thread.name
        for thread in threading.enumerate()
        if str(folder) in thread.name or thread.name == "durable-watchdog"
    ]


async def wait_until_no_threads(folder: Path) -> None:
    while threads_of(folder):  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0.002)


def workers_in(path: Path) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("SELECT count(*) FROM durable_workers").fetchone()
    connection.close()
    assert isinstance(found, int)
    return found


USES: dict[str, Callable[[Engine, Any], Awaitable[Any]]] = {
    "start": lambda engine, _: engine.start(count(1)),
    "execute": lambda engine, _: engine.execute(count(1)),
    "list": lambda engine, _: engine.list(),
    "get": lambda engine, _: engine.get("w"),
    "open": lambda engine, _: engine.open(),
    "close": lambda engine, _: engine.close(),
    "result": lambda _, handle: handle.result(),
    "describe": lambda _, handle: handle.describe(),
    "signal": lambda _, handle: handle.signal("s"),
    "query": lambda _, handle: handle.query("q"),
    "stack": lambda _, handle: handle.stack(),
    "update": lambda _, handle: handle.update("u"),
    "cancel": lambda _, handle: handle.cancel(),
    "terminate": lambda _, handle: handle.terminate(),
}


@pytest.mark.parametrize("use", USES)
async def test_engine_is_refused_at_once_on_another_loop(use: str) -> None:
    async with Engine("memory://", drain_timeout=0) as engine:
        handle = await engine.start(wait(), id="w")

        async def elsewhere() -> None:
            with pytest.raises(EngineClosedError, match="another event loop"):
                await USES[use](engine, handle)

        await asyncio.to_thread(lambda: asyncio.run(elsewhere()))

        assert await engine.execute(count(1)) == 2


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/x.db"])
def test_engine_whose_loop_has_ended_is_refused_and_can_be_opened_again(
    tmp_path: Path, url: str
) -> None:
    engine = Engine(url.format(tmp_path), drain_timeout=0)

    async def first() -> Any:
        await engine.open()
        return await engine.start(count(1), id="w")

    async def second(handle: Any) -> None:
        for use in USES.keys() - {"open", "close", "result"}:
            with pytest.raises(EngineClosedError, match="was closed since"):
                await USES[use](engine, handle)
        await engine.open()
        assert await engine.execute(count(2)) == 3
        assert await handle.result() == 2
        await engine.close()
        await wait_until_no_threads(tmp_path)

    handle = asyncio.run(first())
    asyncio.run(second(handle))


def test_lease_is_given_up_if_the_loop_ends_before_the_engine(tmp_path: Path) -> None:
    engine = Engine(f"sqlite:///{tmp_path}/x.db")

    async def begin() -> None:
        await engine.open()
        await engine.start(wait(), id="w")

    asyncio.run(begin())
    asyncio.run(wait_until_no_threads(tmp_path))

    assert workers_in(tmp_path / "x.db") == 0


def test_engine_whose_loop_has_ended_can_be_closed_on_another(tmp_path: Path) -> None:
    engine = Engine(f"sqlite:///{tmp_path}/x.db")
    asyncio.run(engine.open())

    async def close() -> None:
        await engine.close()
        await engine.close()
        await wait_until_no_threads(tmp_path)

    asyncio.run(close())

    assert workers_in(tmp_path / "x.db") == 0


@pytest.mark.parametrize("url", ["memory://", "sqlite:///{}/x.db"])
async def test_closed_engine_can_be_opened_again(tmp_path: Path, url: str) -> None:
    engine = Engine(url.format(tmp_path), drain_timeout=0)
    async with engine:
        handle = await engine.start(wait(), id="w")
        with pytest.raises(TimeoutError):
            await handle.result(timeout="1ms")

    async with engine:
        assert await engine.execute(count(1)) == 2
        waiting = asyncio.create_task(handle.result())
        await handle.terminate()
        with pytest.raises(Exception, match="terminated"):
            await waiting


async def test_engine_that_is_opened_twice_at_once_is_open_once(tmp_path: Path) -> None:
    engine = Engine(f"sqlite:///{tmp_path}/x.db")

    await asyncio.gather(engine.open(), engine.open(), engine.open())

    assert workers_in(tmp_path / "x.db") == 1
    await asyncio.gather(engine.close(), engine.close())
    assert workers_in(tmp_path / "x.db") == 0


async def test_close_that_is_cancelled_goes_on_and_the_next_waits_for_it(
    tmp_path: Path,
) -> None:
    Endless.has_begun = asyncio.Event()
    engine = Engine(f"sqlite:///{tmp_path}/x.db", drain_timeout=0.05)
    await engine.open()
    await engine.start(wait(), id="w")
    await Endless.has_begun.wait()

    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await engine.close()

    await wait_until_no_threads(tmp_path)
    assert workers_in(tmp_path / "x.db") == 0


def test_close_that_ends_with_its_loop_leaves_nothing(tmp_path: Path) -> None:
    Endless.has_begun = asyncio.Event()
    engine = Engine(f"sqlite:///{tmp_path}/x.db", drain_timeout="1d")

    async def main() -> None:
        await engine.open()
        await engine.start(wait(), id="w")
        await Endless.has_begun.wait()
        asyncio.create_task(engine.close())  # noqa: RUF006 - it is to be cut short
        await asyncio.sleep(0)

    asyncio.run(main())
    asyncio.run(wait_until_no_threads(tmp_path))

    assert workers_in(tmp_path / "x.db") == 0


@pytest.mark.parametrize("steps", range(12))
async def test_open_that_is_cancelled_leaves_nothing(
    tmp_path: Path, steps: int
) -> None:
    engine = Engine(f"sqlite:///{tmp_path}/x.db")
    opening = asyncio.create_task(engine.open())
    for _ in range(steps):
        await asyncio.sleep(0)

    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled():
        await engine.close()

    await wait_until_no_threads(tmp_path)
    async with engine:
        assert await engine.execute(count(1)) == 2
        assert workers_in(tmp_path / "x.db") == 1


# --- the engine of programs without a loop --------------------------------------------


def test_sync_engine_that_is_opened_twice_is_open_once(tmp_path: Path) -> None:
    engine = SyncEngine(f"sqlite:///{tmp_path}/x.db").open()

    with engine as again:
        assert again is engine
        assert engine.execute(count(1)) == 2
        assert workers_in(tmp_path / "x.db") == 1

    with engine:
        assert engine.execute(count(2)) == 3


def test_call_that_waits_while_another_thread_closes_is_told_so() -> None:
    engine = SyncEngine("memory://", drain_timeout=0).open()
    handle = engine.start(wait(), id="w")
    errors: list[BaseException] = []

    def wait_for_result() -> None:
        try:
            handle.result()
        except EngineClosedError as error:
            errors.append(error)

    thread = threading.Thread(target=wait_for_result)
    thread.start()
    engine.close()
    thread.join()

    assert len(errors) == 1


def run(tmp_path: Path, code: str) -> tuple[int, str, str]:
    """Run a program; return its exit code and what it printed."""
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, str(tmp_path / "x.db")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, output, errors


PREAMBLE = """
import atexit, os, signal, sys, threading, time
from durable import SyncEngine, activity, workflow

url = f"sqlite:///{sys.argv[1]}"
began = threading.Event()

@activity
def hang() -> None:
    began.set()
    threading.Event().wait()

@activity
async def hold_the_loop() -> None:
    began.set()
    threading.Event().wait()

@activity
def add(number: int) -> int:
    return number + 1

@workflow
async def hangs() -> None:
    await hang()

@workflow
async def holds() -> None:
    await hold_the_loop()

@workflow
async def count(number: int) -> int:
    return await add(number)

def press_ctrl_c_when(condition):
    def press():
        while not condition():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=press, daemon=True).start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["atexit.register(engine.close)", "pass"])
def test_engine_opened_at_import_is_closed_at_exit(tmp_path: Path, how: str) -> None:
    ended = run(
        tmp_path,
        f"""
engine = SyncEngine(url).open()
{how}
print(engine.execute(count(1)))
""",
    )

    assert ended == (0, "2\n", "")
    assert workers_in(tmp_path / "x.db") == 0


@pytest.mark.slow
def test_end_of_the_drain_timeout_ends_the_program_and_says_what_ran(
    tmp_path: Path,
) -> None:
    code, _, errors = run(
        tmp_path,
        """
with SyncEngine(url, drain_timeout=0.05) as engine:
    engine.start(hangs(), id="w")
    began.wait()
""",
    )

    assert code == 0
    assert (
        "The drain waited 0.05 s for 'hang' (id 1, attempt 1) of run 'w' at" in errors
    )
    assert "Traceback" not in errors
    assert workers_in(tmp_path / "x.db") == 0


@pytest.mark.slow
def test_second_ctrl_c_ends_the_program_and_says_what_ran(tmp_path: Path) -> None:
    code, _, errors = run(
        tmp_path,
        """
try:
    with SyncEngine(url, drain_timeout="1d") as engine:
        handle = engine.start(hangs(), id="w")
        began.wait()
        press_ctrl_c_when(lambda: engine._thread._waiting)
        worker = engine._engine._worker
        try:
            handle.result()
        finally:
            press_ctrl_c_when(lambda: worker._runner.terms.is_draining)
except KeyboardInterrupt:
    sys.exit(130)
""",
    )

    assert code == 130
    assert "Waiting for up to 86400 s for what runs: 'hang'" in errors
    assert "there still ran: 'hang'" in errors
    assert "Traceback" not in errors
    assert workers_in(tmp_path / "x.db") == 0


@pytest.mark.slow
def test_activity_that_blocks_the_loop_does_not_keep_the_program(
    tmp_path: Path,
) -> None:
    code, output, errors = run(
        tmp_path,
        """
import durable.sync
durable.sync._LATE_SECONDS = durable.sync._STOP_SECONDS = 0.05
from durable.errors import EngineClosedError

def start():
    try:
        engine.start(holds(), id="w")
    except EngineClosedError:
        print("told")

with SyncEngine(url, drain_timeout=0, blocked_after=None) as engine:
    starting = threading.Thread(target=start)
    starting.start()
    began.wait()
starting.join()
""",
    )

    assert (code, output) == (0, "told\n")
    assert "there still ran: 'hold_the_loop'" in errors
    assert "code that blocks the event loop" in errors
    assert "Traceback" not in errors


async def close_while_silent(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """Close within less than a session waits for an answer; and say so."""
    caplog.set_level(logging.ERROR, "durable.worker")
    async with asyncio.timeout(PATIENCE_SECONDS):
        await engine.close()
    told = [record.getMessage() for record in caplog.records]
    assert any("others, who take over when its lease ends" in line for line in told)
    assert any("The engine has closed, though the database" in line for line in told)


async def test_closing_ends_soon_after_the_grace_while_a_file_is_locked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stopped process holds the lock for as long as it is stopped."""
    Endless.has_begun = asyncio.Event()
    path = tmp_path / "k.db"
    engine = await Engine(path, drain_timeout=0.05).open()
    await engine.start(wait(), id="w")
    await Endless.has_begun.wait()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    await close_while_silent(engine, caplog)

    other.execute("ROLLBACK")
    other.close()
    await wait_until_no_threads(tmp_path)
    assert workers_in(path) == 0  # the thread that was left has still said good-bye


@pytest.mark.slow
async def test_closing_ends_soon_after_the_grace_while_a_server_is_silent(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The network may be gone, and who stops the process does not wait long."""
    Endless.has_begun = asyncio.Event()
    with Proxy(postgres_url) as proxy:
        engine = await Engine(proxy.url, drain_timeout=0.05).open()
        await engine.start(wait(), id="w")
        await Endless.has_begun.wait()
        proxy.swallow_after(0)

        await close_while_silent(engine, caplog)
