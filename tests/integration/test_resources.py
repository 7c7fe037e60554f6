"""Resources of activities: opened with the engine, given, closed after all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    RetryPolicy,
    Saga,
    SyncEngine,
    activity,
    activity_method,
    resource,
    workflow,
)
from durable.api.definitions import ACTIVITIES, WORKFLOWS
from durable.core.events import ActivityTaskScheduled
from durable.errors import (
    DurableError,
    EngineClosedError,
    InvalidOptionError,
    ResourceError,
    WorkflowFailedError,
    WorkflowStuckError,
)
from durable.testing import TestEnvironment


class Pool:
    """Something that must be open while it is used."""

    def __init__(self, name: str = "pool") -> None:
        self.name = name
        self.is_open = True
        self.log: list[str] = []

    def use(self, what: str) -> str:
        assert self.is_open
        self.log.append(what)
        return f"{what} by {self.name}"


class Shop:
    """An object whose methods are activities; defined anew by each test."""

    def __init__(self, pool: Pool) -> None: ...

    charge: Any
    refund: Any
    count: Any


class App:
    """What one test's program defines."""

    def __init__(self) -> None:
        @activity(name="resources.reserve")
        async def reserve(sku: str, *, pool: Pool = resource(Pool)) -> str:
            return pool.use(sku)

        @activity(name="resources.pack")
        def pack(sku: str, size: int = 1, pool: Pool = resource("packing")) -> str:
            return pool.use(f"{sku}*{size}")

        @workflow(name="resources.order")
        async def order(sku: str) -> list[str]:
            return [await reserve(sku), await pack(sku, size=2)]

        self.reserve, self.pack, self.order = reserve, pack, order


def make_shop() -> type[Shop]:
    class Shop:
        def __init__(self, pool: Pool) -> None:
            self.pool = pool

        @activity_method
        async def refund(self, receipt: str, cents: int) -> None:
            self.pool.use(f"refund of {receipt}, {cents}")

        @activity_method(compensate=refund, retry=RetryPolicy(initial_interval=1))
        async def charge(self, cents: int) -> str:
            if len(self.pool.log) == 0:
                self.pool.use("failed attempt")
                raise ConnectionError("again")
            return self.pool.use(f"charge {cents}")

        @activity_method
        def count(self, items: list[str], *, other: Pool = resource(Pool)) -> int:
            self.pool.use(other.name)
            return len(items)

    return Shop  # type: ignore[return-value]  # the same shape, with its activities


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Other engines of this process must not be asked for what is defined here."""
    before = dict(ACTIVITIES), dict(WORKFLOWS)
    yield
    for known, old in zip((ACTIVITIES, WORKFLOWS), before, strict=True):
        known.clear()
        known.update(old)


@pytest.fixture
def app() -> App:
    return App()


class Opener:
    """Opens two pools, one within the other, and says what happened."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pools: list[Pool] = []

    @contextlib.asynccontextmanager
    async def pool(self, name: str) -> AsyncGenerator[Pool, None]:
        self.said.append(f"open {name}")
        pool = Pool(name)
        self.pools.append(pool)
        try:
            yield pool
        finally:
            pool.is_open = False
            self.said.append(f"close {name}")

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[dict[type | str, object], None]:
        async with self.pool("a") as a, self.pool("b") as b:
            yield {Pool: a, "packing": b}


def workers_in(path: Path) -> int:
    connection = sqlite3.connect(path)
    (found,) = connection.execute("SELECT count(*) FROM workers").fetchone()
    connection.close()
    assert isinstance(found, int)
    return found


# --- given ----------------------------------------------------------------------------


async def test_values_come_by_class_and_by_name_and_are_not_recorded(
    app: App, database: str
) -> None:
    given: dict[type | str, object] = {Pool: Pool("a"), "packing": Pool("b")}
    definitions = [app.order, app.reserve, app.pack]
    async with Engine(database, definitions=definitions, resources=given) as engine:
        run = await engine.start(app.order("tea"))
        assert await run.result() == ["tea by a", "tea*2 by b"]
        inputs = [
            [payload.json for payload in event.attributes.input]
            for event in await run.history()
            if isinstance(event.attributes, ActivityTaskScheduled)
        ]
    assert [[bytes(json) for json in input] for input in inputs] == [
        [b'"tea"'],
        [b'"tea"', b"2"],
    ]


async def test_a_replayed_run_is_given_the_resources_of_the_new_engine(
    app: App, database: str
) -> None:
    gate = asyncio.Event()

    @activity(name="resources.wait", start_to_close_timeout=1)
    async def wait(*, pool: Pool = resource(Pool)) -> str:
        await gate.wait()
        return pool.use("waited")

    @workflow(name="resources.waiting")
    async def waiting() -> list[str]:
        return [await app.reserve("tea"), await wait()]

    definitions = [waiting, wait, app.reserve]
    first, second = Pool("first"), Pool("second")
    async with TestEnvironment(
        database, definitions=definitions, resources={Pool: first}, drain_timeout=0
    ) as env:
        await env.start(waiting(), id="w")
        await env.sleep(0.5)
    gate.set()
    async with TestEnvironment(
        database,
        definitions=definitions,
        resources={Pool: second},
        clock=env.clock,
    ) as env:
        assert await (await env.get("w")).result() == [
            "tea by first",
            "waited by second",
        ]
    assert (first.log, second.log) == (["tea"], ["waited"])


async def test_an_activity_that_calls_another_one_hands_its_resources_on(
    app: App,
) -> None:
    shop = make_shop()

    @activity(name="resources.outer")
    async def outer() -> list[str]:
        return [await app.reserve("tea"), str(await shop.count(["x"]))]

    @workflow(name="resources.nested")
    async def nested() -> list[str]:
        return await outer()

    given = {Pool: Pool("a"), shop: shop(Pool("b"))}
    async with Engine(
        "memory://", definitions=[nested, outer], resources=given
    ) as engine:
        assert await engine.execute(nested()) == ["tea by a", "1"]


async def test_methods_of_an_object_are_activities_on_the_class_and_on_objects(
    database: str,
) -> None:
    shop = make_shop()
    elsewhere = shop(Pool("elsewhere"))

    @workflow(name="resources.shopping")
    async def shopping() -> list[object]:
        return [
            await shop.charge(5),
            await elsewhere.charge(6),
            await shop.count.options(summary="counted")(["a", "b"]),
        ]

    pool = Pool("shop's")
    async with TestEnvironment(
        database,
        definitions=[shopping, shop],
        resources={Pool: Pool("other"), shop: shop(pool)},
    ) as env:
        run = await env.start(shopping())
        assert await run.result() == ["charge 5 by shop's", "charge 6 by shop's", 2]
        scheduled = [
            event.attributes
            for event in await run.history()
            if isinstance(event.attributes, ActivityTaskScheduled)
        ]
        assert [len(event.input) for event in scheduled] == [1, 1, 1]
        names = [event.activity_type for event in scheduled]
        assert names == ["Shop.charge", "Shop.charge", "Shop.count"]
    assert pool.log == ["failed attempt", "charge 5", "charge 6", "other"]


async def test_a_method_is_undone_by_a_method_of_the_same_object() -> None:
    shop = make_shop()

    @workflow(name="resources.undone")
    async def undone() -> None:
        async with Saga():
            await shop.charge(5)
            raise ValueError("no")

    pool = Pool()
    async with TestEnvironment(
        definitions=[undone, shop], resources={shop: shop(pool)}
    ) as env:
        with pytest.raises(WorkflowFailedError, match="ValueError: no"):
            await env.execute(undone())
    assert pool.log[1:] == ["charge 5", "refund of charge 5 by pool, 5"]


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


async def test_a_pool_that_is_passed_as_an_argument_leads_to_resources() -> None:
    @activity(name="resources.handed")
    async def handed(pool: Pool) -> None: ...

    @workflow(name="resources.handing")
    async def handing() -> None:
        await handed(Pool())

    async with TestEnvironment(definitions=[handing, handed]) as env:
        with pytest.raises(WorkflowStuckError, match=r"a client by resource\(\)"):
            await env.execute(handing())


async def test_workflow_code_cannot_ask_for_a_resource(app: App) -> None:
    @workflow(name="resources.asking")
    async def asking() -> str:
        return str(resource(Pool))

    @workflow(name="resources.passing")
    async def passing() -> str:
        return await app.reserve("tea", pool=Pool())

    for flow, complaint in ((asking, "workflow code"), (passing, "the engine gives")):
        async with TestEnvironment(
            definitions=[flow, app.reserve], resources={Pool: Pool()}
        ) as env:
            with pytest.raises(WorkflowStuckError, match=complaint):
                await env.execute(flow())


# --- tests of users -------------------------------------------------------------------


async def test_a_test_gives_fakes_and_what_it_lacks_is_named_when_it_is_called(
    app: App,
) -> None:
    definitions = [app.order, app.reserve, app.pack]
    async with TestEnvironment(
        definitions=definitions, resources={Pool: Pool("fake")}
    ) as env:
        with pytest.raises(WorkflowStuckError, match="takes 'packing' as 'pool'"):
            await env.execute(app.order("tea"))
    async with TestEnvironment(
        definitions=definitions,
        resources={Pool: Pool("fake")},
        mocks={app.pack: lambda sku, size: f"mocked {sku} {size}"},
    ) as env:
        assert await env.execute(app.order("tea")) == ["tea by fake", "mocked tea 2"]


async def test_a_run_that_lacked_a_resource_goes_on_once_an_engine_has_it(
    app: App, database: str
) -> None:
    definitions = [app.order, app.reserve, app.pack]
    pool = Pool("a")
    async with TestEnvironment(
        database, definitions=definitions, resources={Pool: pool}
    ) as env:
        run = await env.start(app.order("tea"), id="o")
        with pytest.raises(WorkflowStuckError):
            await run.result()
    async with TestEnvironment(
        database,
        definitions=definitions,
        resources={Pool: pool, "packing": Pool("b")},
        clock=env.clock,
    ) as env:
        assert await (await env.get("o")).result() == ["tea by a", "tea*2 by b"]
    assert pool.log == ["tea"]


async def test_a_fake_object_runs_its_own_methods() -> None:
    shop = make_shop()

    class Fake:
        async def charge(self, cents: int) -> str:
            return f"fake {cents}"

    class Broken: ...

    @workflow(name="resources.faked")
    async def faked() -> str:
        return str(await shop.charge(5))

    class Derived(shop):  # type: ignore[valid-type, misc]  # a class made by a function
        async def charge(self, cents: int) -> str:
            return f"derived {cents}"

    for fake, answer in ((Fake(), "fake 5"), (Derived(Pool()), "derived 5")):
        async with TestEnvironment(
            definitions=[faked, shop], resources={shop: fake}
        ) as env:
            assert await env.execute(faked()) == answer
    async with TestEnvironment(
        definitions=[faked, shop], resources={shop: Broken()}
    ) as env:
        with pytest.raises(WorkflowStuckError, match="has no method 'charge'"):
            await env.execute(faked())


async def test_definitions_take_the_method_of_a_class_and_not_of_an_object() -> None:
    shop = make_shop()
    with pytest.raises(DurableError, match="of an object"):
        Engine("memory://", definitions=[shop(Pool()).charge])
    engine = Engine("memory://", definitions=[shop.charge], resources={})
    with pytest.raises(ResourceError, match=r"Shop\.charge.*Shop\.refund"):
        await engine.open()


# --- processes ------------------------------------------------------------------------

FORKING = """
import contextlib, os, sys
from durable import SyncEngine, activity, resource, workflow

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
        [sys.executable, "app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["closed own", "closed own"]
