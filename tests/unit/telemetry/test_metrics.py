"""Metrics: their values, their units, and that no id is among their attributes."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from durable import (
    Engine,
    RetryPolicy,
    WorkflowCancelledError,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    activity_info,
    limits,
    sleep,
    workflow,
)
from durable.observer import WorkerState
from durable.testing import TestEnvironment

UNITS = {
    "durable.workflow.completed": "{run}",
    "durable.workflow.duration": "s",
    "durable.workflow_task.duration": "s",
    "durable.workflow_task.replay.duration": "s",
    "durable.workflow_task.schedule_to_start": "s",
    "durable.activity.duration": "s",
    "durable.activity.schedule_to_start": "s",
    "durable.activity.failed": "{attempt}",
    "durable.cache.hits": "{run}",
    "durable.cache.misses": "{run}",
    "durable.cache.size": "{run}",
    "durable.worker.slots.available": "{slot}",
    "durable.worker.slots.used": "{slot}",
    "durable.queue.depth": "{task}",
    "durable.queue.lag": "s",
    "durable.db.commit.duration": "s",
    "durable.db.commit.rows": "{row}",
    "durable.db.commit.operations": "{operation}",
    "durable.backlog.runs": "{run}",
    "durable.backlog.age": "s",
    "durable.stuck.runs": "{run}",
    "durable.schedule.lag": "s",
    "durable.retention.lag": "s",
}


class World:
    gate = asyncio.Event()
    begun = asyncio.Semaphore(0)


@pytest.fixture(autouse=True)
def _fresh_world() -> None:
    World.gate, World.begun = asyncio.Event(), asyncio.Semaphore(0)


@activity(name="measured_gated")
async def gated() -> None:
    World.begun.release()
    await World.gate.wait()


@activity(
    name="measured_flaky", retry=RetryPolicy(max_attempts=2, initial_interval=0.001)
)
async def flaky() -> None:
    if activity_info().attempt == 1:
        raise OSError("no")


@workflow(name="measured_wide")
async def wide(n: int) -> None:
    await asyncio.gather(*[gated() for _ in range(n)])


@workflow(name="measured_impatient")
async def impatient() -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.gather(gated(), gated())
    await sleep(0)


@workflow(name="measured_retrying")
async def retrying() -> None:
    await flaky()


@workflow(name="measured_sleeper")
async def sleeper(seconds: float) -> None:
    await sleep(seconds)


@workflow(name="measured_buggy")
async def buggy() -> None:
    raise AttributeError("no")


@workflow(name="measured_failing")
async def failing() -> None:
    raise OSError("no")


@pytest.mark.slow
async def test_every_metric_comes_out_with_its_unit_and_without_ids(
    recording: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BACKLOG_SECONDS", 0.01)
    metrics: list[Any] = []
    async with Engine(url, observer=recording.observer, max_cached_runs=1) as engine:
        await engine.execute(retrying())
        for run in [await engine.start(sleeper(0.01)) for _ in range(2)]:
            await run.result(timeout=5)
        await engine.start(sleeper(0), task_queue="nobody's")
        await engine.schedules.create("s", retrying(), timedelta(seconds=1))
        deadline = time.monotonic() + 20
        while {m.name for m in metrics} != set(UNITS) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
            metrics = recording.metrics()

    assert {metric.name: metric.unit for metric in metrics} == UNITS
    known = {
        "durable.workflow.type",
        "durable.activity.type",
        "durable.queue",
        "durable.outcome",
        "error.type",
        "durable.namespace",
        "durable.pool",
    }
    for metric in metrics:
        for point in metric.data.data_points:
            assert set(point.attributes) <= known


async def test_buckets_suit_seconds(recording: Any, url: str) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(retrying())

    (point,) = recording.points("durable.workflow_task.schedule_to_start")
    assert point.explicit_bounds[0] == 0.001
    assert point.explicit_bounds[-1] == 3_600
    point = recording.points("durable.workflow.duration")[0]
    assert point.explicit_bounds[-1] == 31_536_000
    point = recording.points("durable.db.commit.rows")[0]
    assert point.explicit_bounds[0] == 1


async def test_runs_are_counted_by_outcome(recording: Any, url: str) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(retrying())
        with pytest.raises(WorkflowFailedError):
            await engine.execute(failing())
        run = await engine.start(sleeper(60))
        await run.cancel()
        with pytest.raises(WorkflowCancelledError):
            await run.result(timeout=5)
        run = await engine.start(sleeper(60))
        await run.terminate()

    ended = {"completed": 1, "failed": 1, "cancelled": 1, "terminated": 1}
    assert recording.values("durable.workflow.completed") == ended
    assert recording.values("durable.workflow.duration") == ended


async def test_attempts_are_timed_and_failures_counted(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer) as engine:
        await engine.execute(retrying())

    durations = recording.values("durable.activity.duration")
    assert durations == {"completed": 1, "failed": 1}
    (failed,) = recording.points("durable.activity.failed")
    assert failed.value == 1
    assert failed.attributes["error.type"] == "OSError"


async def test_activity_that_never_began_has_no_duration(
    recording: Any, url: str
) -> None:
    async with Engine(url, observer=recording.observer, max_activities=1) as engine:
        await engine.execute(impatient())

    (point,) = recording.points("durable.activity.duration")
    assert point.count == 1
    assert point.sum < 60


async def test_slots_and_queue_show_how_busy_a_worker_is(
    recording: Any, url: str
) -> None:
    def value(name: str, **more: str) -> float:
        attributes = {"durable.queue": "default"}
        attributes |= {f"durable.{key}": text for key, text in more.items()}
        (point,) = [p for p in recording.points(name) if p.attributes == attributes]
        return float(point.value)

    async with Engine(url, observer=recording.observer, max_activities=2) as engine:
        run = await engine.start(wide(5))
        await World.begun.acquire()
        await World.begun.acquire()
        assert value("durable.worker.slots.used", pool="activities") == 2
        assert value("durable.worker.slots.available", pool="activities") == 0
        assert value("durable.worker.slots.used", pool="threads") == 0
        assert value("durable.worker.slots.available", pool="threads") == 64
        assert value("durable.queue.depth") == 3
        assert value("durable.queue.lag") > 0
        assert value("durable.cache.size") == 1
        World.gate.set()
        await run.result(timeout=5)
        assert value("durable.worker.slots.used", pool="activities") == 0
        assert value("durable.queue.depth") == 0
        assert value("durable.queue.lag") == 0

    assert not recording.points("durable.worker.slots.used")


async def test_workers_of_one_queue_are_summed(recording: Any, url: str) -> None:
    async with (
        Engine(url, observer=recording.observer, max_activities=3),
        Engine(url, observer=recording.observer, max_activities=4),
        Engine(url, observer=recording.observer, max_activities=5, task_queue="b"),
    ):
        slots = {
            point.attributes["durable.queue"]: point.value
            for point in recording.points("durable.worker.slots.available")
            if point.attributes["durable.pool"] == "activities"
        }

    assert slots == {"default": 7, "b": 5}


def test_totals_of_the_cache_do_not_fall_when_a_worker_ends(recording: Any) -> None:
    state = WorkerState(
        cached_runs=1,
        cache_hits=7,
        cache_misses=3,
        slots=1,
        slots_used=0,
        waiting=0,
        waiting_for=0,
    )
    observer = recording.observer
    first = observer.worker_started(worker_id="1", task_queue="q", state=lambda: state)
    observer.worker_started(worker_id="2", task_queue="q", state=lambda: state)
    first.worker_stopped()
    first.worker_stopped()

    assert [point.value for point in recording.points("durable.cache.hits")] == [14]
    assert [point.value for point in recording.points("durable.cache.misses")] == [6]
    assert [point.value for point in recording.points("durable.cache.size")] == [1]


async def test_task_that_was_due_while_nobody_worked_has_waited(
    recording: Any, url: str
) -> None:
    async with Engine(url, worker=False) as client:
        run = await client.start(sleeper(0))
        await asyncio.sleep(0.02)
        async with Engine(url, observer=recording.observer):
            await run.result(timeout=5)

    (point,) = recording.points("durable.workflow_task.schedule_to_start")
    assert point.max >= 0.02


async def test_database_tells_what_waits_and_what_is_stuck(
    recording: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BACKLOG_SECONDS", 0.01)

    def read(name: str) -> dict[str, float]:
        return {
            point.attributes["durable.queue"]: point.value
            for point in recording.points(name)
            if point.attributes["durable.namespace"] == "default"
        }

    async with Engine(
        url, observer=recording.observer, workflow_task_attempts=1
    ) as engine:
        for _ in range(3):
            await engine.start(sleeper(0), task_queue="nobody's")
        with pytest.raises(WorkflowStuckError):
            await (await engine.start(buggy())).result(timeout=5)
        wanted = {"nobody's": 0, "default": 1}
        await until(lambda: read("durable.stuck.runs") == wanted)
        assert read("durable.backlog.runs") == {"nobody's": 3, "default": 0}
        before = read("durable.backlog.age")["nobody's"]
        await until(lambda: read("durable.backlog.age")["nobody's"] > before)
        # Where the database answers no more, nothing is told rather than what was.
        monkeypatch.setattr(limits, "BACKLOG_SECONDS_MAX", -1.0)
        assert read("durable.backlog.runs") == {}

    monkeypatch.undo()
    assert read("durable.backlog.runs") == {}


async def test_schedule_that_nobody_served_tells_how_late_it_is(
    recording: Any,
) -> None:
    async with TestEnvironment(observer=recording.observer) as environment:
        schedule = await environment.schedules.create(
            "hourly", sleeper(0), timedelta(hours=1)
        )
        await environment.sleep("2h")
        await schedule.trigger()
        await environment.settle()
        (point,) = recording.points("durable.schedule.lag")
        assert point.count == 2  # not what somebody has asked for
        assert point.max < 1

        environment.clock.advance("61m")
        await environment.sleep("1s")
        (point,) = recording.points("durable.schedule.lag")
        assert point.count == 3
        assert 60 <= point.max < 70


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)
