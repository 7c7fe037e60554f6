"""What a namespace has for runs that begin in it: however they begin, and no later."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from durable import (
    Engine,
    Entity,
    ParentClosePolicy,
    Signal,
    SyncEngine,
    WorkflowTimedOutError,
    activity,
    continue_as_new,
    entity,
    exclusive,
    limits,
    run,
    sleep,
    update,
    workflow,
)
from durable.client import start_options
from durable.core.history.codec import decode_rows
from durable.core.history.events import WorkflowExecutionStarted
from durable.errors import (
    CorruptHistoryError,
    DatabaseUnavailableError,
    InvalidDurationError,
    InvalidOptionError,
)
from durable.store.queries import ListRuns, ReadHistory, ReadNamespaces
from durable.store.records import RunFilter
from tests.unit.cli.invoking import invoke, lines_of

HOUR = 3_600_000_000
DAY = 24 * HOUR
go_on = Signal("go_on", str)


@workflow(name="defaults.wait")
async def wait() -> str:
    return await go_on.receive()


@workflow(name="defaults.strict", run_timeout="2h", execution_timeout="3h")
async def strict() -> str:
    return await go_on.receive()


@workflow(name="defaults.renew")
async def renew(left: int) -> str:
    if left:
        await go_on.receive()
        continue_as_new(left - 1)
    return await go_on.receive()


@workflow(name="defaults.parent")
async def parent(child_id: str, queue: str = "default") -> str:
    return await wait.options(id=child_id, task_queue=queue)()


@workflow(name="defaults.leave")
async def leave(child_id: str) -> None:
    policy = ParentClosePolicy.ABANDON
    child = wait.options(id=child_id, parent_close_policy=policy)()
    begun = asyncio.ensure_future(child)
    await asyncio.sleep(0)
    assert not begun.done()


@workflow(name="defaults.nap")
async def nap() -> None:
    await sleep("1d")


@workflow(name="defaults.cart")
class Cart:
    @run
    async def shop(self) -> str:
        return await go_on.receive()

    @update
    def add(self) -> int:
        return 1


@entity(name="defaults.counter")
class Counter(Entity):
    count: int = 0

    @exclusive
    def add(self) -> int:
        self.count += 1
        return self.count


@activity(name="defaults.step", start_to_close_timeout="5s")
async def step() -> int:
    return 1


DEFINITIONS = [wait, strict, renew, parent, leave, nap, Cart, Counter, step]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.db"


def open_engine(path: Path, **options: Any) -> Engine:
    return Engine(path, definitions=DEFINITIONS, **options)


async def beginning(
    engine: Engine, workflow_id: str, run_id: str | None = None
) -> WorkflowExecutionStarted:
    """What a run began with, once there is one of that id."""
    for _ in range(500):
        for found in await engine.list(where=f"WorkflowId = '{workflow_id}'"):
            if run_id in (None, found.run_id):
                rows = await engine._store.read(ReadHistory(found.run_id))
                first = decode_rows(rows)[0].attributes
                assert isinstance(first, WorkflowExecutionStarted)
                return first
        await asyncio.sleep(0.01)
    raise AssertionError(f"there is no run of {workflow_id!r}")


def said(started: WorkflowExecutionStarted) -> tuple[Any, Any, Any]:
    """The three that a namespace may have defaults of."""
    priority = started.priority or None
    return started.run_timeout, started.execution_timeout, priority


# --- every way to begin ---------------------------------------------------------------


async def start(engine: Engine, path: Path) -> str:
    return (await engine.start(wait())).workflow_id


async def start_by_name(engine: Engine, path: Path) -> str:
    return (await engine.start("defaults.wait")).workflow_id


async def execute(engine: Engine, path: Path) -> str:
    result = asyncio.ensure_future(engine.execute(wait(), id="r"))
    await beginning(engine, "r")
    await (await engine.get("r")).signal(go_on("on"))
    assert await result == "on"
    return "r"


async def start_with_a_signal(engine: Engine, path: Path) -> str:
    return (await engine.start(wait(), with_signal=go_on("on"))).workflow_id


async def start_with_an_update(engine: Engine, path: Path) -> str:
    handle, _ = await engine.update_with_start(Cart.add(), Cart.shop(), id="r")
    return handle.workflow_id


async def start_later(engine: Engine, path: Path) -> str:
    return (await engine.start(wait(), delay="1h")).workflow_id


async def start_elsewhere(engine: Engine, path: Path) -> str:
    return (await engine.start(wait(), task_queue="other")).workflow_id


async def debounce(engine: Engine, path: Path) -> str:
    return (await engine.start(wait(), id="r", debounce="1h")).workflow_id


async def put_off(engine: Engine, path: Path) -> str:
    await engine.start(wait(), id="r", debounce="1h")
    return (await engine.start(wait(), id="r", debounce="1h")).workflow_id


async def start_within(engine: Engine, path: Path) -> str:
    def commit() -> str:
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            return engine.within(connection).start(wait()).workflow_id

    return await asyncio.to_thread(commit)


async def start_without_a_loop(engine: Engine, path: Path) -> str:
    def begin() -> str:
        with SyncEngine(path, definitions=DEFINITIONS, worker=False) as other:
            return other.start(wait()).workflow_id

    return await asyncio.to_thread(begin)


async def start_by_command(engine: Engine, path: Path) -> str:
    words = ("--database", str(path), "start", "defaults.wait", "--id", "r")
    done = await asyncio.to_thread(invoke, *words)
    assert done.exit_code == 0, done.output
    return "r"


async def trigger(engine: Engine, path: Path) -> str:
    return await (await engine.schedules.create("s", wait(), "@yearly")).trigger()


async def trigger_beside(engine: Engine, path: Path) -> str:
    handle = await engine.schedules.create("s", wait(), "@yearly", overlap="allow_all")
    await handle.trigger()
    return await handle.trigger()


async def begin_a_child(engine: Engine, path: Path) -> str:
    await engine.start(parent("r"))
    return "r"


async def begin_a_child_elsewhere(engine: Engine, path: Path) -> str:
    await engine.start(parent("r", "other"))
    return "r"


async def leave_a_child_behind(engine: Engine, path: Path) -> str:
    await engine.execute(leave("r"))
    return "r"


WAYS = [
    start,
    start_by_name,
    execute,
    start_with_a_signal,
    start_with_an_update,
    start_later,
    start_elsewhere,
    debounce,
    put_off,
    start_within,
    start_without_a_loop,
    start_by_command,
    trigger,
    trigger_beside,
    begin_a_child,
    begin_a_child_elsewhere,
    leave_a_child_behind,
]
of_children = {begin_a_child, begin_a_child_elsewhere, leave_a_child_behind}


@pytest.mark.parametrize("way", WAYS)
async def test_a_run_begins_with_what_its_namespace_says(
    path: Path, way: Callable[[Engine, Path], Awaitable[str]]
) -> None:
    async with open_engine(path) as engine:
        await engine.namespaces.create(
            "default", run_timeout="30d", execution_timeout="60d", priority=2
        )

        begun = await beginning(engine, await way(engine, path))

    run_timeout, *others = said(begun)
    assert others == [60 * DAY, 2]
    if way in of_children:  # at most what its parent has left
        assert 29 * DAY < run_timeout <= 30 * DAY
    else:
        assert run_timeout == 30 * DAY


@pytest.mark.parametrize("way", WAYS)
async def test_without_defaults_it_begins_as_ever(
    path: Path, way: Callable[[Engine, Path], Awaitable[str]]
) -> None:
    async with open_engine(path) as engine:
        begun = await beginning(engine, await way(engine, path))

    assert said(begun) == (None, None, None)


# --- what goes before -----------------------------------------------------------------


async def test_what_a_start_or_its_workflow_says_goes_before(path: Path) -> None:
    async with open_engine(path) as engine:
        await engine.namespaces.create(
            "default", run_timeout="1h", execution_timeout="9h", priority=5
        )
        await engine.start(strict(), id="workflow")
        await engine.start(strict(), id="call", run_timeout="7h", priority=1)
        await engine.schedules.create(
            "s", strict.options(execution_timeout="8h")(), "@yearly"
        )
        fired = await engine.schedules.get("s").trigger()

        found = [
            said(await beginning(engine, of)) for of in ("workflow", "call", fired)
        ]

    assert found == [
        (2 * HOUR, 3 * HOUR, 5),
        (7 * HOUR, 3 * HOUR, 1),
        (2 * HOUR, 8 * HOUR, 5),
    ]


async def test_a_child_has_no_longer_than_its_parent(path: Path) -> None:
    async with open_engine(path) as engine:
        await engine.namespaces.create("default", run_timeout="9h")
        await engine.start(parent("short"), run_timeout="1h")
        await engine.start(parent("long"), run_timeout="99h")

        short, long = [await beginning(engine, of) for of in ("short", "long")]

    assert short.run_timeout is not None
    assert short.run_timeout <= HOUR
    assert long.run_timeout is not None
    assert 98 * HOUR < long.run_timeout <= 99 * HOUR


async def test_what_lives_for_as_long_as_it_is_needed_heeds_none(path: Path) -> None:
    async with open_engine(path) as engine:
        await engine.namespaces.create("default", run_timeout="1h", priority=1)
        assert await engine.call(Counter["a"].add()) == 1
        handle = await engine.start_activity(step(), id="alone")
        assert await handle.result() == 1
        await engine.schedules.create("s", wait(), "@yearly")
        own = ("entity:defaults.counter", "durable.activity", "durable.schedule")
        records = await engine._store.read(ListRuns("default", RunFilter()))
        rows = [
            await engine._store.read(ReadHistory(record.run_id))
            for record in records
            if record.workflow_type in own
        ]

    begun: list[Any] = [decode_rows(found)[0].attributes for found in rows]
    assert sorted(first.workflow_type for first in begun) == sorted(own)
    assert [said(first) for first in begun] == [(None, None, None)] * 3


# --- no later change touches a run ----------------------------------------------------


async def until_another(engine: Engine, run_id: str) -> str:
    """The next run of a chain, once it has begun."""
    while True:
        newest = (await engine.get("renewed")).run_id
        if newest != run_id:
            return newest
        await asyncio.sleep(0.01)


async def test_runs_go_on_as_they_began(path: Path) -> None:
    async with open_engine(path) as engine:
        await engine.namespaces.create("default", run_timeout="30d", priority=2)
        first = await engine.start(renew(1), id="renewed")
        await engine.start(wait(), id="failed")
        await engine.namespaces.update("default", run_timeout="1h", priority=None)

        await first.signal(go_on("on"))
        newest = await until_another(engine, first.run_id)
        again = await (await engine.get("renewed")).reset(to="first_task")
        fork = await (await engine.get("failed")).fork(id="fork", to="first_task")
        found = [
            said(await beginning(engine, run.workflow_id, run.run_id))
            for run in (await engine.get("renewed", run_id=newest), again, fork)
        ]
        await engine.start(wait(), id="late")
        late = said(await beginning(engine, "late"))

    assert found == [(30 * DAY, None, 2)] * 3
    assert late == (HOUR, None, None)


async def test_they_are_heeded_by_the_run(path: Path) -> None:
    async with open_engine(path) as engine:
        await engine.namespaces.create("default", run_timeout=0.05)
        with pytest.raises(WorkflowTimedOutError):
            await engine.execute(nap(), id="r")


# --- who knows of a change, and when --------------------------------------------------


async def test_others_heed_a_change_after_a_moment(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(start_options, "_now", lambda: now[0])
    async with open_engine(path) as here, open_engine(path, worker=False) as there:
        await there.start(wait(), id="before")
        await here.namespaces.create("default", priority=4)
        await there.start(wait(), id="soon")
        now[0] += limits.DEFAULTS_SECONDS
        await there.start(wait(), id="after")

        found = {of: said(await beginning(there, of))[2] for of in ("before", "after")}

    assert found == {"before": None, "after": 4}


async def test_children_heed_what_another_program_has_changed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DEFAULTS_SECONDS", 0)
    async with open_engine(path) as here, open_engine(path, worker=False) as there:
        run = await here.start(renew(1), id="p")
        await there.namespaces.create("default", priority=4)
        number, found = 0, None
        while found != 4:  # the worker sees that something was committed
            number += 1
            await there.start(parent(f"c{number}"), id=f"p{number}")
            found = said(await beginning(here, f"c{number}"))[2]
        assert said(await beginning(here, run.workflow_id)) == (None, None, None)


async def test_many_starts_share_one_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_options, "_now", lambda: 0.0)
    async with open_engine(path, worker=False) as engine:
        asked: list[Any] = []
        read = engine._store.read

        async def count(wanted: Any) -> Any:
            asked.append(wanted)
            return await read(wanted)

        monkeypatch.setattr(engine._store, "read", count)
        await asyncio.gather(*(engine.start(wait()) for _ in range(50)))
        await engine.start(wait())

    assert [type(one) for one in asked] == [ReadNamespaces]


async def test_a_start_that_is_cancelled_leaves_the_read_to_others(path: Path) -> None:
    async with open_engine(path, worker=False) as engine:
        await engine.namespaces.create("default", priority=4)
        engine._open_client().defaults.forget()
        first = asyncio.ensure_future(engine.start(wait(), id="first"))
        second = asyncio.ensure_future(engine.start(wait(), id="second"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert said(await beginning(engine, "second"))[2] == 4


async def test_while_the_database_is_away_what_is_known_goes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(start_options, "_now", lambda: now[0])
    async with open_engine(path, worker=False) as engine:
        await engine.namespaces.create("default", priority=4)

        async def refuse(_: Any) -> Any:
            raise DatabaseUnavailableError("It is away.")

        with monkeypatch.context() as patched:
            patched.setattr(engine._store, "read", refuse)
            now[0] += limits.DEFAULTS_SECONDS
            await engine.start(wait(), id="r")
            engine._open_client().defaults.forget()
            with pytest.raises(DatabaseUnavailableError):
                await engine.start(wait(), id="refused")
        assert said(await beginning(engine, "r"))[2] == 4


async def test_defaults_that_cannot_be_read_refuse_starts_and_can_be_mended(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_engine(path) as engine:
        await engine.start(wait(), id="before")
        await engine.namespaces.create("default", priority=4)
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE durable_namespaces SET defaults = '{\"run'")
        engine._open_client().defaults.forget()
        with pytest.raises(CorruptHistoryError, match="'default' has defaults that"):
            await engine.start(wait(), id="refused")
        await (await engine.get("before")).signal(go_on("on"))
        assert await (await engine.get("before")).result() == "on"

        await engine.namespaces.update("default", run_timeout="1h")
        await engine.start(wait(), id="again")
        assert said(await beginning(engine, "again")) == (HOUR, None, None)


# --- settings -------------------------------------------------------------------------


async def test_settings_are_shown_changed_and_taken_back(path: Path) -> None:
    async with open_engine(path, worker=False) as engine:
        made = await engine.namespaces.create("eu", run_timeout="30d", priority=3)
        assert (made.run_timeout, made.priority) == (timedelta(days=30), 3)
        changed = await engine.namespaces.update("eu", execution_timeout=90)
        assert changed.run_timeout == timedelta(days=30)
        assert changed.execution_timeout == timedelta(seconds=90)
        assert changed.to_dict()["run_timeout"] == "P30D"
        await engine.namespaces.update("eu", description="Europe")
        kept = await engine.namespaces.describe("eu")
        assert (kept.run_timeout, kept.description) == (timedelta(days=30), "Europe")
        bare = await engine.namespaces.update(
            "eu", run_timeout=None, execution_timeout=None, priority=None
        )
        assert (bare.run_timeout, bare.execution_timeout, bare.priority) == (None,) * 3


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"run_timeout": 0}, InvalidOptionError, "run_timeout of a namespace is 0"),
        ({"execution_timeout": "x"}, InvalidDurationError, "such as"),
        ({"priority": 6}, InvalidOptionError, "priority of a namespace is 6: give"),
        ({"priority": True}, InvalidOptionError, "priority of a namespace is True"),
        ({"retention": 3}, InvalidOptionError, "'retention_days'"),
    ],
)
async def test_wrong_settings_are_refused(
    path: Path, settings: Any, error: type[Exception], told: str
) -> None:
    async with open_engine(path, worker=False) as engine:
        await engine.namespaces.create("eu")
        for change in (engine.namespaces.create, engine.namespaces.update):
            with pytest.raises(error, match=told):
                await change("eu", **settings)
        assert (await engine.namespaces.describe("eu")).run_timeout is None


def test_commands_set_show_and_unset_them(path: Path) -> None:
    base = ("--database", str(path), "namespaces")
    with SyncEngine(path):
        pass

    made = invoke(*base, "create", "eu", "--run-timeout", "30d", "--priority", "2")
    assert "run timeout 30 d, priority 2" in made.stdout
    words = ("update", "eu", "--run-timeout", "none", "--execution-timeout", "90")
    (changed,) = lines_of(invoke(*base, *words, "--json"))
    assert changed["run_timeout"] is None
    assert (changed["execution_timeout"], changed["priority"]) == ("PT90S", 2)
    assert "execution timeout 1 min 30 s, priority 2" in invoke(*base).stdout
    refused = invoke(*base, "update", "eu", "--run-timeout", "soon")
    assert refused.exit_code != 0
    assert "--run-timeout is 'soon'" in refused.stderr
    assert invoke(*base, "update", "eu", "--priority", "9").exit_code != 0
