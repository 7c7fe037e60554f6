"""What users of schedules, resets, versions and searches have met elsewhere."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import durable
from durable import (
    Attribute,
    Calendar,
    ParentClosePolicy,
    QuerySyntaxError,
    RunStatus,
    Signal,
    WorkflowFailedError,
    WorkflowTimedOutError,
    activity,
    before,
    continue_as_new,
    patched,
    schedule_spec,
    sleep,
    start_child,
    update,
    wait_condition,
    workflow,
)
from durable.api.definitions import WORKFLOWS
from durable.testing.environment import TestEnvironment

START = datetime(2025, 1, 1, tzinfo=UTC)
word = Signal("word", str)
label = Attribute("label", str)
BROKEN: list[str] = []


@workflow(name="reports.nap")
async def nap(seconds: float = 0) -> None:
    if seconds:
        await sleep(seconds)


@activity(name="reports.note", retry=None)
async def note(what: str) -> str:
    if what in BROKEN:
        raise RuntimeError("broken")
    return what


@pytest.fixture(autouse=True)
def _fresh() -> None:
    BROKEN.clear()


# --- schedules ------------------------------------------------------------------------


async def test_a_worker_that_comes_back_keeps_one_waiting_and_no_second(
    database: str,
) -> None:
    """What waited already was not counted once the scheduler had rested."""
    async with TestEnvironment(database) as env:
        handle = await env.schedules.create(
            "s", nap(1_500), "@every 10m", overlap="buffer_one"
        )
        await env.sleep("21m")
        assert (await handle.describe()).waiting == 1
        clock = env.clock
    async with TestEnvironment(database, clock=clock) as env:
        handle = env.schedules.get("s")
        await handle.trigger()
        await handle.update(lambda old: old.replace(note="changed"))
        await env.sleep("10m")
        found = await handle.describe()
        assert (found.waiting, found.counts.actions) == (1, 1)
        await env.sleep("5m")
        found = await handle.describe()
        assert [run.scheduled_at for run in found.recent] == [
            START + timedelta(minutes=10),
            START + timedelta(minutes=20),
        ]


async def test_two_schedules_of_one_workflow_and_time_both_act() -> None:
    """One of two that said the same was taken for the other."""
    async with TestEnvironment() as env:
        for id in ("one", "other"):
            await env.schedules.create(id, nap(), "0 * * * *", "0 * * * *")
        await env.sleep("2h")
        ids = sorted(run.workflow_id for run in await env.list())
        assert ids == [
            f"{id}-2025-01-01T0{hour}:00:00Z"
            for id in ("one", "other")
            for hour in (1, 2)
        ]


async def test_one_date_that_passes_during_a_pause_is_over() -> None:
    """It fired later, or was kept for ever as the next one."""
    date = Calendar(year=2025, month=1, day_of_month=2, hour=0, minute=0)
    async with TestEnvironment() as env:
        handle = await env.schedules.create("s", nap(), schedule_spec(date))
        await handle.pause()
        await env.sleep("2d")
        await handle.unpause()
        await env.sleep("1d")
        found = await handle.describe()
        assert (found.next, found.recent, found.stuck) == ((), (), None)
        between = START + timedelta(days=1, milliseconds=500)
        assert await handle.backfill(between, between) == 0
        assert await handle.backfill(date_of(between), between) == 1
        await handle.delete()


def date_of(instant: datetime) -> datetime:
    return instant.replace(microsecond=0)


async def test_a_change_loses_no_time_that_jitter_has_put_off(database: str) -> None:
    """Between a time and when it was to be acted for, a change of a note lost it."""
    async with TestEnvironment(database) as env:
        handle = await env.schedules.create(
            "s", nap(), "@every 20m", jitter="19m", overlap="allow_all"
        )
        await env.sleep("20m1s")
        assert (await handle.describe()).recent == ()
        await handle.update(lambda old: old.replace(note="changed"))
        await handle.pause()
        await handle.unpause()
        await env.sleep("40m")
        times = [run.scheduled_at for run in (await handle.describe()).recent]
        assert times == [START + timedelta(minutes=m) for m in (20, 40)]
        # Another spec is another one from now on.
        await env.sleep("1s")
        spec = schedule_spec("@every 20m", jitter="18m")
        await handle.update(lambda old: old.replace(spec=spec))
        await env.sleep("19m")
        assert len((await handle.describe()).recent) == 2


# --- resets ---------------------------------------------------------------------------


@workflow(name="reports.kid")
async def kid() -> str:
    return await word.receive()


@workflow(name="reports.parent")
async def parent() -> str:
    child = await start_child(
        kid.options(id="kid", parent_close_policy=ParentClosePolicy.ABANDON)()
    )
    await note("paid")
    return await child


async def test_a_child_that_ended_after_its_parent_had_failed_is_heard_after_a_reset(
    database: str,
) -> None:
    """The parent waited for ever: nobody had told the run that was closed."""
    BROKEN.append("paid")
    async with TestEnvironment(database) as env:
        run = await env.start(parent(), id="p")
        with pytest.raises(WorkflowFailedError):
            await run.result()
        child = await env.get("kid")
        await child.signal(word("grown"))
        assert await child.result() == "grown"
        BROKEN.clear()

        again = await run.reset(to=before("reports.note"))

        assert await again.result() == "grown"
        assert len(await env.list(workflow_id="kid")) == 1


async def test_a_run_whose_time_was_up_has_all_of_it_again_after_a_reset(
    database: str,
) -> None:
    """It was timed out at once: the time still counted from the first start."""
    async with TestEnvironment(database) as env:
        call = waits_for_word()
        run = await env.start(call, id="w", execution_timeout="1h")
        with pytest.raises(WorkflowTimedOutError):
            await run.result()
        again = await run.reset(to="first_task")
        await env.sleep("59m")
        assert (await again.describe()).status is RunStatus.RUNNING
        await again.signal(word("in time"))
        assert await again.result() == "in time"


@workflow(name="reports.waits_for_word")
async def waits_for_word() -> str:
    await note("begun")
    return await word.receive()


@workflow(name="reports.laps")
async def laps(left: int) -> str:
    await note("lap")
    said = await kid.options(id="kid")()
    if left:
        continue_as_new(left - 1)
    return said


async def test_a_reset_before_a_child_lets_each_later_run_start_its_own(
    database: str,
) -> None:
    """What was begun after the place was in the way of runs that came later."""
    async with TestEnvironment(database) as env:
        run = await env.start(laps(1), id="laps")
        await env.settle()
        again = await run.reset(to=before("reports.note"))
        for said in ("first", "second"):
            await env.settle()
            child = await env.get("kid")
            assert (await child.describe()).status is RunStatus.RUNNING
            await child.signal(word(said))
        assert await again.result() == "second"
        kids = await env.list(workflow_id="kid")
        assert [one.status.value for one in kids] == [
            "completed",
            "completed",
            "terminated",
        ]


# --- versions -------------------------------------------------------------------------


async def deploy_over(make: Any, first: Any, then: Any) -> Any:
    """Begin a run on old code, and end it on the new one."""
    old = make(False)
    WORKFLOWS.pop(old().definition.name)
    new = make(True)
    url = f"memory://{uuid.uuid4().hex}"
    async with TestEnvironment(url, definitions=[old, note]) as env:
        await first(await env.start(old(), id="w"))
        await env.settle()
        clock = env.clock
    async with TestEnvironment(url, clock=clock, definitions=[new, note]) as env:
        run = await env.get("w")
        await then(run)
        return await run.result()


async def no_one(run: Any) -> None:
    """Do nothing with it."""


@pytest.mark.usefixtures("forgotten")
async def test_a_patch_in_one_of_two_tasks_keeps_the_order_of_their_commands() -> None:
    """To ask for a version gave way to the other task, so old runs did not replay."""

    def code(is_new: bool) -> Any:
        @workflow(name="reports.two")
        async def two() -> list[str]:
            async def one() -> str:
                if is_new and patched("more"):
                    await note("new")
                return await note("a")

            async def other() -> str:
                await sleep("1h")
                return await note("b")

            return list(await asyncio.gather(one(), other()))

        return two

    found = await deploy_over(code, no_one, no_one)
    assert found == ["a", "b"]


@pytest.mark.usefixtures("forgotten")
async def test_patches_of_updates_and_of_the_run_replay_in_any_order() -> None:
    """Two markers and the end of an update changed places on replay."""

    @workflow(name="reports.updated")
    class Updated:
        def __init__(self) -> None:
            self.told: list[str] = []

        @durable.run
        async def run(self) -> list[str]:
            await wait_condition(lambda: len(self.told) > 1)
            if patched("end"):
                self.told.append(await note("end"))
            await word.receive()
            return self.told

        @update
        async def tell(self, what: str) -> str:
            if patched("tell"):
                await note(what)
            self.told.append(what)
            if patched("told"):
                await sleep("1s")
            return what

    url = f"memory://{uuid.uuid4().hex}"
    clock = None
    for step in range(4):
        async with TestEnvironment(
            url, clock=clock, definitions=[Updated, note]
        ) as env:
            if not step:
                await env.start(Updated.run(), id="w")
            run = await env.get("w")
            if step < 3:
                await asyncio.gather(
                    run.update("tell", f"{step}a"), run.update("tell", f"{step}b")
                )
            await env.settle()
            clock = env.clock
    async with TestEnvironment(url, clock=clock, definitions=[Updated, note]) as env:
        run = await env.get("w")
        await run.signal(word("go"))
        assert sorted(await run.result()) == [
            *["0a", "0b", "1a", "1b", "2a", "2b"],
            "end",
        ]


@pytest.mark.usefixtures("forgotten")
async def test_a_patch_before_the_first_wait_leaves_old_handlers_their_turn() -> None:
    """With it the code ran on before the signal that it had waited for."""

    def code(is_new: bool) -> Any:
        @workflow(name="reports.early")
        async def early() -> list[str]:
            is_patched = is_new and patched("early")
            found = [await word.receive(), await note("x")]
            return [*found, str(is_patched)]

        return early

    async def say(run: Any) -> None:
        await run.signal(word("hello"))

    for first, then in ((no_one, say), (say, no_one)):
        found = await deploy_over(code, first, then)
        assert found == ["hello", "x", "False"]
        WORKFLOWS.pop("reports.early")


# --- searches -------------------------------------------------------------------------


async def test_quotes_at_the_ends_of_a_value_are_part_of_it(database: str) -> None:
    """All of them were taken off, so other runs were found."""
    values = ["foo", "'foo'", "foo'", '"foo"', "fo%", "fo_", "\\foo"]
    async with TestEnvironment(database) as env:
        for number, value in enumerate(values):
            await env.execute(nap(), id=f"r{number}", attributes={label: value})
        for number, value in enumerate(values):
            quoted = value.replace("'", "''")
            for where in (label == value, f"label = '{quoted}'"):
                found = await env.list(where=where)
                assert [run.workflow_id for run in found] == [f"r{number}"], where
            begins = await env.list(where=f"label STARTS_WITH '{quoted}'")
            wanted = {f"r{n}" for n, v in enumerate(values) if v.startswith(value)}
            assert {run.workflow_id for run in begins} == wanted


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("ExecutionDuration > 30s", 23),
        ("WorkflowId LIKE 'r%'", 12),
        ("WorkflowId = r1", 14),
        ("ExecutionDuration > '30 s'", 21),
        ("StartTime > 'yesterday'", 13),
    ],
)
async def test_what_no_query_means_is_refused_with_its_place(
    text: str, at: int
) -> None:
    """It was answered with an error of the database, or with all runs."""
    async with TestEnvironment() as env:
        await env.execute(nap(), id="r1")
        with pytest.raises(QuerySyntaxError) as caught:
            await env.list(where=text)
        assert caught.value.position == at, str(caught.value)


async def test_runs_without_an_attribute_are_in_pages_that_ask_for_its_absence(
    database: str,
) -> None:
    """Runs that had no row of attributes were left out, or ended the pages."""
    async with TestEnvironment(database) as env:
        for number in range(9):
            has = {label: "x"} if number % 3 == 0 else None
            await env.execute(nap(), id=f"r{number}", attributes=has)
            await env.sleep(1)
        found: list[str] = []
        cursor = None
        while page := await env.list(where="NOT label = 'x'", limit=2, after=cursor):
            found += [run.workflow_id for run in page]
            cursor = page[-1].cursor
        assert found == ["r8", "r7", "r5", "r4", "r2", "r1"]
