"""Activities run on the workers that serve their queue, and only there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    ActivityCancellationType,
    ActivityState,
    ActivityTimeoutError,
    Engine,
    Handle,
    RetryPolicy,
    RunStatus,
    Signal,
    WorkflowCall,
    WorkflowFailedError,
    activity,
    activity_info,
    sleep,
    workflow,
)
from durable.doctor.doctor import examine
from durable.errors import InvalidIdError, InvalidOptionError
from durable.runs.activity_tasks.task_rows import data_of
from durable.store.queries import ListActivityTasks

RAN: list[tuple[str, int]] = []
GATE: list[asyncio.Event] = []
GO = Signal("go", bool)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    GATE.clear()


@activity(name="queues.render", task_queue="gpu")
async def render(n: int) -> int:
    info = activity_info()
    RAN.append((info.task_queue, n))
    return n * 2


@activity(name="queues.plain", task_queue="gpu")
def render_plain(n: int) -> int:
    RAN.append((activity_info().task_queue, n))
    return n * 2


@activity(name="queues.local")
async def local(n: int) -> int:
    RAN.append((activity_info().task_queue, n))
    return n


@activity(
    name="queues.flaky",
    task_queue="gpu",
    retry=RetryPolicy(max_attempts=3, initial_interval=0.01),
)
async def flaky(until: int) -> int:
    RAN.append(("flaky", activity_info().attempt))
    if activity_info().attempt < until:
        raise ValueError("not yet")
    return activity_info().attempt


@activity(name="queues.held", task_queue="gpu")
async def held(n: int) -> int:
    RAN.append(("begun", n))
    try:
        await GATE[0].wait()
    except asyncio.CancelledError:
        RAN.append(("cancelled", n))
        raise
    RAN.append(("ended", n))
    return n


@workflow(name="queues.video")
async def video(n: int) -> int:
    return await render(n)


@workflow(name="queues.routed")
async def routed(queue: str, n: int) -> int:
    return await local.options(task_queue=queue)(n)


@workflow(name="queues.fan_out")
async def fan_out(count: int) -> int:
    return sum(await asyncio.gather(*map(render, range(count))))


@workflow(name="queues.retried")
async def retried(until: int) -> int:
    return await flaky(until)


@workflow(name="queues.retried_late")
async def retried_late(until: int) -> int:
    slow = RetryPolicy(max_attempts=3, initial_interval=60)
    return await flaky.options(retry=slow)(until)


@workflow(name="queues.cancels")
async def cancels(kind: str) -> str:
    task = asyncio.create_task(
        held.options(cancellation_type=ActivityCancellationType(kind))(1)
    )
    await GO.receive()
    task.cancel()
    try:
        return f"returned {await task}"
    except asyncio.CancelledError:
        return "cancelled"


@workflow(name="queues.closes")
async def closes(kind: str) -> None:
    task = asyncio.create_task(
        held.options(cancellation_type=ActivityCancellationType(kind))(1)
    )
    await GO.receive()
    assert not task.done()


@workflow(name="queues.holds")
async def holds(*, at_most_once: bool = False) -> int:
    return await held.options(effect="once" if at_most_once else "idempotent")(1)


@workflow(name="queues.patient")
async def patient(until: int) -> int:
    policy = RetryPolicy(max_attempts=3, initial_interval=0.3)
    return await flaky.options(retry=policy)(until)


@workflow(name="queues.given_up")
async def given_up() -> str:
    policy = RetryPolicy(max_attempts=3, initial_interval=60)
    task = asyncio.create_task(flaky.options(retry=policy)(9))
    await sleep(0.5)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return "given up"
    return ""


@workflow(name="queues.waits")
async def waits() -> str:
    try:
        await render.options(schedule_to_start_timeout=0.2)(1)
    except ActivityTimeoutError as error:
        return str(error.timeout_type)
    return "ran"


WORKFLOWS = [
    *(video, routed, fan_out, retried, cancels, closes, waits, holds, patient),
    given_up,
    retried_late,
    local,
]
GPU = [render, render_plain, flaky, held, local]


def home(database: str) -> Engine:
    return Engine(database, definitions=WORKFLOWS)


def gpu(database: str, slots: int = 4) -> Engine:
    return Engine(
        database,
        definitions=GPU,
        task_queue="none",
        activity_queues={"gpu": slots},
        drain_timeout=0.5,
    )


async def go(engine: Engine, call: WorkflowCall[Any]) -> Any:
    """Run what goes on once its activity has begun elsewhere."""
    run = await engine.start(call, id="go")
    await until(lambda: ("begun", 1) in RAN)
    await run.signal(GO(True))
    return await run.result()


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)


async def test_it_runs_where_its_queue_is_served(database: str) -> None:
    async with home(database) as engine, gpu(database):
        assert await engine.execute(video(3)) == 6
    assert RAN == [("gpu", 3)]


async def test_it_waits_for_a_worker_of_its_queue(database: str) -> None:
    async with home(database) as engine:
        run = await engine.start(video(3), id="video")
        await asyncio.sleep(0.1)
        assert RAN == []
        (waits_,) = await run.activities()
        assert (waits_.state, waits_.attempt) == (ActivityState.QUEUED, 1)
        assert await findings(engine) == []
        async with gpu(database):
            assert await run.result() == 6
        assert await findings(engine) == []
    assert RAN == [("gpu", 3)]


async def findings(engine: Engine) -> list[object]:
    """What the doctor has to say of all runs."""
    store = engine._store  # pyright: ignore[reportPrivateUsage]  # what no user sees
    return [one async for one in examine(store, settle=0.05)]


async def test_where_it_runs_can_be_seen(database: str) -> None:
    GATE.append(asyncio.Event())
    async with home(database) as engine, gpu(database) as other:
        run = await engine.start(holds(), id="h")
        await until(lambda: ("begun", 1) in RAN)
        (runs,) = await run.activities()
        assert runs.state is ActivityState.RUNNING
        assert runs.worker == (await other.health()).worker_id  # type: ignore[union-attr]  # it has a worker
        assert await findings(engine) == []
        (listed,) = await engine.activities.list(task_queue="gpu")
        assert (listed.state, listed.worker) == ("claimed", runs.worker)
        GATE[0].set()
        assert await run.result() == 1


async def test_a_retry_that_is_cancelled_leaves_sound_rows(database: str) -> None:
    async with home(database) as engine, gpu(database):
        run = await engine.start(given_up(), id="g")
        assert await run.result() == "given up"
        assert await findings(engine) == []


async def test_operators_hold_up_and_let_go(database: str) -> None:
    async with home(database) as engine:
        run = await engine.start(video(3), id="v")
        which: dict[str, Any] = {"workflow_id": "v", "activity_id": "1"}
        await engine.activities.pause(**which)
        assert (await engine.activities.describe(**which)).due_at is None
        async with gpu(database):
            await asyncio.sleep(0.2)
            assert RAN == []
            await engine.activities.unpause(**which)
            assert await run.result() == 6


async def test_operators_change_how_one_that_waits_is_to_run(database: str) -> None:
    async with home(database) as engine:
        run = await engine.start(retried(2), id="v")
        which: dict[str, Any] = {"workflow_id": "v", "activity_id": "1"}
        far = await engine.start(routed("nowhere", 3), id="far")
        for options, said in (
            ({}, "Nothing was given"),
            ({"task_queue": None}, "task_queue .* is None"),
            ({"start_to_close_timeout": None}, "would have neither"),
            ({"start_to_close_timeout": 0}, "is 0"),
            ({"at_most_once": True}, "at_most_once"),
        ):
            with pytest.raises(InvalidOptionError, match=said):
                await engine.activities.update_options(**which, **options)
        await engine.activities.update_options(**which, retry=None)
        await engine.activities.update_options(
            **{**which, "workflow_id": "far"}, task_queue="gpu"
        )
        async with gpu(database):
            assert await far.result() == 3
            with pytest.raises(WorkflowFailedError):
                await run.result()
        assert RAN.count(("flaky", 1)) == 1
        assert ("flaky", 2) not in RAN
        assert await findings(engine) == []


async def test_a_waiting_one_gets_another_deadline(database: str) -> None:
    async with home(database) as engine:
        run = await engine.start(video(3), id="v")
        which: dict[str, Any] = {"workflow_id": "v", "activity_id": "1"}
        assert (await engine.activities.describe(**which)).expires_at is None
        await engine.activities.update_options(
            **which, schedule_to_start_timeout="1h", schedule_to_close_timeout="2h"
        )
        described = await engine.activities.describe(**which)
        assert described.expires_at == described.scheduled_at + timedelta(hours=1)
        await engine.activities.update_options(
            **which, schedule_to_start_timeout=None, schedule_to_close_timeout=None
        )
        assert (await engine.activities.describe(**which)).expires_at is None
        await engine.activities.update_options(**which, schedule_to_start_timeout=0.001)
        with pytest.raises(WorkflowFailedError) as failed:
            await run.result()
        assert isinstance(failed.value.__cause__, ActivityTimeoutError)


async def test_the_doctor_is_content_after_a_reset(database: str) -> None:
    async with home(database) as engine:
        run = await engine.start(retried_late(2), id="v")
        which: dict[str, Any] = {"workflow_id": "v", "activity_id": "1"}
        async with gpu(database):
            async with asyncio.timeout(10):
                while (await engine.activities.describe(**which)).attempt < 2:  # noqa: ASYNC110 - nobody tells of it
                    await asyncio.sleep(0.01)
        await engine.activities.reset(**which)
        assert (await engine.activities.describe(**which)).attempt == 1
        assert await findings(engine) == []
        async with gpu(database):
            await until(lambda: RAN.count(("flaky", 1)) == 2)
            await run.cancel()
            with pytest.raises(WorkflowFailedError):
                await run.result()
        assert await findings(engine) == []


async def test_the_run_comes_to_rest_meanwhile(database: str) -> None:
    async with home(database) as engine:
        await engine.start(video(3), id="video")
    async with gpu(database):
        await until(lambda: RAN)
    async with home(database) as engine:
        assert await (await engine.get("video")).result() == 6


async def test_its_run_may_be_restarted_meanwhile(database: str) -> None:
    """What runs elsewhere goes on, and is not begun a second time."""
    GATE.append(asyncio.Event())
    async with gpu(database):
        async with home(database) as engine:
            await engine.start(holds(), id="h")
            await until(lambda: ("begun", 1) in RAN)
        async with home(database) as engine:
            run = await engine.get("h")
            await run.signal(GO(True))  # has it read, and driven
            await until_async(lambda: is_read(run))
            GATE[0].set()
            assert await run.result() == 1
    assert RAN == [("begun", 1), ("ended", 1)]


async def is_read(run: Handle[Any]) -> bool:
    """Whether its worker has taken the signal."""
    return any("Signaled" in type(e.attributes).__name__ for e in await run.history())


async def test_a_call_may_name_the_queue(database: str) -> None:
    async with home(database) as engine, gpu(database):
        assert await engine.execute(routed("gpu", 1)) == 1
        assert await engine.execute(routed("default", 2)) == 2
    assert RAN == [("gpu", 1), ("default", 2)]


async def test_one_engine_may_serve_both(database: str) -> None:
    async with Engine(
        database, definitions=[*WORKFLOWS, *GPU], activity_queues={"gpu": 2}
    ) as engine:
        assert await engine.execute(fan_out(50)) == 2 * sum(range(50))
    assert Counter(queue for queue, _ in RAN) == {"gpu": 50}


async def test_failures_are_tried_again_elsewhere(database: str) -> None:
    async with home(database) as engine, gpu(database):
        run = await engine.start(retried(3), id="r")
        assert await run.result() == 3
        rows = await run.attempts()
        assert [(row.attempt, row.state.value) for row in rows] == [
            (1, "failed"),
            (2, "failed"),
            (3, "completed"),
        ]
        with pytest.raises(WorkflowFailedError, match="not yet"):
            await engine.execute(retried(9))
    assert [n for _, n in RAN] == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("kind", ["try_cancel", "wait_cancellation_completed"])
async def test_a_cancel_reaches_what_runs_elsewhere(database: str, kind: str) -> None:
    GATE.append(asyncio.Event())
    async with home(database) as engine, gpu(database):
        assert await go(engine, cancels(kind)) == "cancelled"
        await until(lambda: ("cancelled", 1) in RAN)


async def test_what_is_abandoned_goes_on(database: str) -> None:
    GATE.append(asyncio.Event())
    async with home(database) as engine, gpu(database):
        assert await go(engine, cancels("abandon")) == "cancelled"
        GATE[0].set()
        await until(lambda: ("ended", 1) in RAN)


@pytest.mark.parametrize("kind", ["try_cancel", "wait_cancellation_completed"])
async def test_a_cancel_ends_what_nobody_has_begun(database: str, kind: str) -> None:
    async with home(database) as engine:
        run = await engine.start(cancels(kind), id="c")
        await run.signal(GO(True))
        assert await run.result() == "cancelled"
        async with gpu(database):
            await asyncio.sleep(0.1)
    assert RAN == []


@pytest.mark.parametrize(
    ("kind", "end"), [("try_cancel", "cancelled"), ("abandon", "ended")]
)
async def test_the_end_of_a_run_is_told(database: str, kind: str, end: str) -> None:
    GATE.append(asyncio.Event())
    async with home(database) as engine, gpu(database):
        await go(engine, closes(kind))
        if kind == "abandon":
            await asyncio.sleep(0.1)
            GATE[0].set()
        await until(lambda: (end, 1) in RAN)


async def test_schedule_to_start_counts_though_nobody_comes(database: str) -> None:
    async with home(database) as engine:
        assert await engine.execute(waits()) == "schedule_to_start"


async def test_a_drain_leaves_what_has_not_ended(database: str) -> None:
    """It is in doubt, says why, and runs again on the next worker."""
    GATE.append(asyncio.Event())
    async with home(database) as engine:
        run = await engine.start(holds(), id="d")
        async with gpu(database):
            await until(lambda: ("begun", 1) in RAN)
        GATE[0].set()
        async with gpu(database):
            assert await run.result() == 1
        rows = await run.attempts()
    assert [(row.attempt, row.state.value) for row in rows] == [
        (1, "lost"),
        (2, "completed"),
    ]
    assert "when its worker closed, after 0.5 s of grace" in (rows[0].failure or "")


async def test_one_in_doubt_that_must_not_run_again(database: str) -> None:
    GATE.append(asyncio.Event())
    async with home(database) as engine:
        run = await engine.start(holds(at_most_once=True), id="d")
        async with gpu(database):
            await until(lambda: ("begun", 1) in RAN)
        async with gpu(database):
            with pytest.raises(WorkflowFailedError, match="nobody knows whether"):
                await run.result()
    assert RAN.count(("begun", 1)) == 1


async def test_a_paused_run_begins_nothing_elsewhere(database: str) -> None:
    async with home(database) as engine:
        run = await engine.start(video(3), id="v")
        await run.pause()
        await until_async(lambda: is_paused_here(engine, run))
        async with gpu(database):
            await asyncio.sleep(0.2)
            assert RAN == []
            await run.resume()
            assert await run.result() == 6


async def test_a_paused_run_retries_nothing_elsewhere(database: str) -> None:
    async with home(database) as engine, gpu(database):
        run = await engine.start(patient(3), id="p")
        await until(lambda: RAN)
        await run.pause()
        await until_async(lambda: is_paused_here(engine, run))
        await asyncio.sleep(0.4)
        assert len(RAN) == 1
        await run.resume()
        assert await run.result() == 3


async def test_the_end_of_an_activity_waits_for_a_paused_run(database: str) -> None:
    GATE.append(asyncio.Event())
    async with home(database) as engine, gpu(database):
        run = await engine.start(holds(), id="h")
        await until(lambda: ("begun", 1) in RAN)
        await run.pause()
        await until_async(lambda: is_paused_here(engine, run))
        GATE[0].set()
        await until(lambda: ("ended", 1) in RAN)
        await asyncio.sleep(0.1)
        assert (await run.describe()).status is RunStatus.RUNNING
        await run.resume()
        assert await run.result() == 1


async def is_paused_here(engine: Engine, run: Handle[int]) -> bool:
    """Whether it is set aside, and what others might take is told."""
    store = engine._store  # pyright: ignore[reportPrivateUsage]  # what no user sees
    found = await store.read(ListActivityTasks("default"))
    return bool(found) and all(
        one.cancel is not None or data_of(one).is_run_paused for one in found
    )


async def until_async(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(5):
        while not await condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "queues", [{"gpu": 0}, {"default": 1}, ["gpu"], {"gpu": True}, {"": 1}]
)
def test_queues_that_cannot_be(queues: object) -> None:
    with pytest.raises((InvalidOptionError, InvalidIdError), match="queue"):
        Engine("memory://", activity_queues=queues)  # type: ignore[arg-type]  # as users may
