"""Resources open with the engine and close after its last activity, come what may."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, SyncEngine, activity, resource, workflow
from durable.errors import EngineClosedError, InvalidOptionError, ResourceError
from durable.testing import TestEnvironment
from tests.integration.pools import App, Opener, Pool, make_shop

pytestmark = pytest.mark.usefixtures("forgotten")


@pytest.fixture
def app() -> App:
    return App()


def workers_in(path: Path) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("SELECT count(*) FROM durable_workers").fetchone()
    connection.close()
    assert isinstance(found, int)
    return found


# --- opened and closed ----------------------------------------------------------------


async def test_resources_are_opened_in_order_and_closed_in_reverse_each_time(
    app: App, database: str
) -> None:
    opener = Opener()
    engine = Engine(
        database,
        definitions=[app.order, app.reserve, app.pack],
        resources=opener.open,
    )
    for _ in range(2):
        async with engine:
            await engine.execute(app.order("tea"))
            assert opener.said[-2:] == ["open a", "open b"]
        assert opener.said[-2:] == ["close b", "close a"]
    assert [pool.log for pool in opener.pools] == [["tea"], ["tea*2"]] * 2


async def test_resources_are_closed_after_the_last_activity() -> None:
    opener = Opener()
    has_begun = asyncio.Event()

    @activity(name="resources.slow")
    async def slow(*, pool: Pool = resource(Pool)) -> None:
        has_begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            opener.said.append(pool.use("cleaned up"))

    @workflow(name="resources.slowly")
    async def slowly() -> None:
        await slow()

    async with Engine(
        "memory://",
        definitions=[slowly, slow],
        resources=opener.open,
        drain_timeout=0,
    ) as engine:
        await engine.start(slowly())
        await has_begun.wait()
    assert opener.said[2:] == ["cleaned up by a", "close b", "close a"]


async def test_a_task_group_among_the_resources_is_left_by_the_task_that_entered_it(
    app: App,
) -> None:
    tasks: list[asyncio.Task[Any] | None] = []

    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        tasks.append(asyncio.current_task())
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            beat = group.create_task(asyncio.Event().wait())
            yield {Pool: Pool()}
            beat.cancel()
        tasks.append(asyncio.current_task())

    engine = Engine("memory://", definitions=[app.reserve], resources=open_resources)
    await asyncio.create_task(engine.open())
    await asyncio.create_task(engine.close())
    assert tasks[0] is tasks[1]


def test_resources_are_closed_on_the_loop_that_opened_them_if_nobody_closes_the_engine(
    app: App,
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        loops.append(asyncio.get_running_loop())
        try:
            yield {Pool: Pool("a")}
        finally:
            await asyncio.sleep(0)
            loops.append(asyncio.get_running_loop())

    @workflow(name="resources.reserving")
    async def reserving() -> str:
        return await app.reserve("tea")

    engine = Engine(
        "memory://", definitions=[reserving, app.reserve], resources=open_resources
    )

    async def forget_to_close() -> str:
        await engine.open()
        return await engine.execute(reserving())

    for _ in range(2):
        assert asyncio.run(forget_to_close()) == "tea by a"
    assert loops[0] is loops[1] is not loops[2] is loops[3]


async def test_an_engine_without_a_worker_opens_no_resources(app: App) -> None:
    opener = Opener()
    async with Engine("memory://", worker=False, resources=opener.open):
        pass
    assert opener.said == []


def test_a_sync_engine_opens_a_plain_context_manager(app: App, tmp_path: Path) -> None:
    said: list[str] = []

    @contextlib.contextmanager
    def open_resources() -> Generator[dict[type | str, object], None, None]:
        said.append("open")
        yield {Pool: Pool("a"), "packing": Pool("b")}
        said.append("close")

    with SyncEngine(
        f"sqlite:///{tmp_path / 'x.db'}",
        definitions=[app.order, app.reserve, app.pack],
        resources=open_resources,
    ) as engine:
        assert engine.execute(app.order("tea")) == ["tea by a", "tea*2 by b"]
    assert said == ["open", "close"]


# --- what goes wrong ------------------------------------------------------------------


async def test_an_engine_does_not_open_without_what_its_activities_take(
    app: App, tmp_path: Path
) -> None:
    shop = make_shop()
    opener = Opener()

    @contextlib.asynccontextmanager
    async def open_one() -> AsyncGenerator[dict[type | str, object], None]:
        async with opener.pool("a") as a:
            yield {Pool: a}

    engine = Engine(
        tmp_path / "x.db",
        definitions=[app.order, app.reserve, app.pack, shop],
        resources=open_one,
    )
    with pytest.raises(ResourceError) as caught:
        await engine.open()

    text = str(caught.value)
    assert "activity 'resources.pack' takes 'packing' as 'pool'" in text
    assert "activity 'Shop.charge' takes make_shop.<locals>.Shop as 'self'" in text
    assert "'resources.reserve'" not in text
    assert "It has Pool. They are given by Engine(..., resources={" in text
    assert "'packing': ..." in text
    assert opener.said == ["open a", "close a"]
    assert workers_in(tmp_path / "x.db") == 0
    with pytest.raises(EngineClosedError):
        await engine.list()


async def test_resources_that_cannot_be_opened_leave_nothing_behind(
    app: App, tmp_path: Path
) -> None:
    opener = Opener()
    is_down = True

    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        async with opener.pool("a") as a:
            if is_down:
                raise ConnectionRefusedError("nobody listens")
            yield {Pool: a}

    engine = Engine(
        tmp_path / "x.db", definitions=[app.reserve], resources=open_resources
    )
    with pytest.raises(ResourceError, match="open_resources raised Conn") as caught:
        await engine.open()
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert opener.said == ["open a", "close a"]
    assert workers_in(tmp_path / "x.db") == 0

    is_down = False
    async with engine:
        assert workers_in(tmp_path / "x.db") == 1


async def test_an_error_while_closing_is_logged_and_the_engine_is_closed(
    app: App, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        yield {Pool: Pool()}
        raise OSError("pool is gone")

    async with Engine(
        tmp_path / "x.db", definitions=[app.reserve], resources=open_resources
    ):
        pass
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "open_resources, have ended with an error." in record.message
    assert "pool is gone" in caplog.text
    assert workers_in(tmp_path / "x.db") == 0


async def test_resources_that_end_before_the_engine_are_an_error_line(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    has_ended = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        async def heartbeat() -> None:
            raise OSError("lost")

        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(heartbeat())
                yield {Pool: Pool()}
        finally:
            has_ended.set()

    async with Engine("memory://", definitions=[app.reserve], resources=open_resources):
        await has_ended.wait()
    (record,) = caplog.records
    assert "though the engine is open" in record.message
    assert "lost" in caplog.text


async def test_closing_that_never_ends_is_cancelled_and_named(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        yield {Pool: Pool()}
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.5)
            said.append("cleaned up")

    said: list[str] = []
    async with TestEnvironment(
        definitions=[app.reserve], resources=open_resources, drain_timeout=0
    ) as env:
        begun_at = env.now()
    assert (env.now() - begun_at).total_seconds() == pytest.approx(5.5)
    assert said == ["cleaned up"]
    assert "were not closed within 5 s" in caplog.text


async def test_opening_that_takes_long_says_so(
    app: App, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        await asyncio.sleep(11)
        yield {Pool: Pool()}

    async with TestEnvironment(definitions=[app.reserve], resources=open_resources):
        pass
    (record,) = caplog.records
    assert "still waits for" in record.message
    assert "open_resources to open" in record.message


async def test_cancelled_opening_closes_what_was_opened(
    app: App, tmp_path: Path
) -> None:
    opener = Opener()
    is_waiting = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open_resources() -> AsyncGenerator[dict[type | str, object], None]:
        async with opener.pool("a") as a:
            is_waiting.set()
            await asyncio.Event().wait()
            yield {Pool: a}

    engine = Engine(
        tmp_path / "x.db", definitions=[app.reserve], resources=open_resources
    )
    opening = asyncio.create_task(engine.open())
    await is_waiting.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert opener.said == ["open a", "close a"]
    assert workers_in(tmp_path / "x.db") == 0


@contextlib.asynccontextmanager
async def give_a_list() -> AsyncGenerator[Any, None]:
    yield [Pool()]


@contextlib.asynccontextmanager
async def give_odd_keys() -> AsyncGenerator[Any, None]:
    yield {1: Pool()}


async def generate() -> AsyncGenerator[dict[type, object], None]:
    yield {Pool: Pool()}


async def give_later() -> dict[type, object]:
    return {Pool: Pool()}


@contextlib.asynccontextmanager
async def swallow() -> AsyncGenerator[Any, None]:
    with contextlib.suppress(BaseException):
        yield {1: Pool()}


MISTAKES: dict[str, tuple[Any, str]] = {
    "opened already": (lambda: give_a_list(), "without calling it"),
    "a list": (lambda: [Pool()], "resources is a list"),
    "a class as the object": (lambda: {Pool: Pool}, "Pool is the class itself"),
    "a pool": (lambda: Pool(), "resources is a Pool"),
    "odd keys": (lambda: {1: Pool()}, "key of a resource is of type int"),
    "yields a list": (lambda: give_a_list, "resources are a list"),
    "yields odd keys": (lambda: give_odd_keys, "key of a resource is of type int"),
    "swallows": (lambda: swallow, "key of a resource is of type int"),
    "a generator": (lambda: generate, "no context manager"),
    "a coroutine": (lambda: give_later, "no context manager"),
    "a class": (lambda: Pool, "gives a Pool, which is no context manager"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_what_is_no_resources_is_refused_at_once(mistake: str, app: App) -> None:
    make, complaint = MISTAKES[mistake]
    with pytest.raises(InvalidOptionError, match=complaint):
        await Engine("memory://", definitions=[app.reserve], resources=make()).open()


# --- processes ------------------------------------------------------------------------

FORKING = """
import contextlib, logging, os, sys
from durable import SyncEngine, activity, resource, workflow

# Of an SQLite that had better not be shared; elsewhere it is tested.
logging.getLogger("durable.store").setLevel(logging.ERROR)

class Pool:
    def __init__(self):
        self.owner = os.getpid()

@activity
def use(*, pool: Pool = resource(Pool)) -> bool:
    return pool.owner == os.getpid()

@workflow
async def flow() -> bool:
    return await use()

@contextlib.contextmanager
def open_resources():
    pool = Pool()
    yield {Pool: pool}
    print("closed own" if pool.owner == os.getpid() else "closed another's", flush=True)

if __name__ == "__main__":
    engine = SyncEngine("sqlite:///x.db", resources=open_resources).open()
    assert engine.execute(flow())
    pid = os.fork()
    if pid == 0:
        engine.open()
        ok = engine.execute(flow())
        engine.close()
        sys.exit(0 if ok else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert engine.execute(flow())
    engine.close()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_forked_process_opens_its_own_and_leaves_those_of_its_parent(
    tmp_path: Path,
) -> None:
    (tmp_path / "app.py").write_text(FORKING)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["closed own", "closed own"]
