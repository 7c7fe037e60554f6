"""Restarts, evictions, take-overs: runs go on exactly where they were."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from durable import (
    Engine,
    OutcomeUnknown,
    RetryPolicy,
    RunStatus,
    WorkflowFailedError,
    activity,
    activity_info,
    info,
    limits,
    random,
    set_state,
    sleep,
    start_child,
    uuid4,
    workflow,
)
from durable.client.handle import Handle
from durable.options import ActivityOptions
from durable.store.connect import connect
from durable.store.queries import ListWorkers
from durable.store.records import AttemptState
from durable.testing.environment import TestEnvironment
from durable.worker.runner import Runner

RAN: list[tuple[str, int]] = []
BEGUN = asyncio.Event()
"""Set when `slow` or a gated activity begins; tests that wait for that clear it."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    global BEGUN
    RAN.clear()
    BEGUN = asyncio.Event()


@activity(name="recovery.step")
async def step(name: str) -> str:
    RAN.append((name, activity_info().attempt))
    return name


@activity(name="recovery.slow")
async def slow(name: str) -> str:
    RAN.append((name, activity_info().attempt))
    BEGUN.set()
    await asyncio.sleep(30)
    return name


@workflow(name="recovery.three_days")
async def three_days() -> list[str]:
    found = [await step("one")]
    await sleep("1d")
    found.append(str(uuid4()))
    found.append(await step("two"))
    await sleep("1d")
    found.append(f"{random().random():.9f}")
    found.append(await step("three"))
    return found


@workflow(name="recovery.slow_work")
async def slow_work() -> str:
    return await slow("slow")


@workflow(name="recovery.length")
async def length() -> int:
    await step("one")
    return info().history_length


async def test_sleeping_runs_wake_on_time_across_restarts(database: str) -> None:
    async with TestEnvironment(database) as env:
        await env.start(three_days(), id="w")
        await env.sleep("1h")
    async with TestEnvironment(database, clock=env.clock) as env:
        await env.sleep("25h")
    async with TestEnvironment(database, clock=env.clock) as env:
        # Overdue by far: it fires now, once.
        env.clock.advance("10d")
        found = await (await env.get("w", workflow=three_days)).result()
    assert [name for name, _ in RAN] == ["one", "two", "three"]
    assert [found[0], found[2], found[4]] == ["one", "two", "three"]


async def test_draws_are_the_same_with_and_without_a_restart(database: str) -> None:
    async with TestEnvironment(database) as env:
        run = await env.start(three_days(), id="w")
        history = await _finish(run)
    async with TestEnvironment(database, clock=env.clock, max_cached_runs=1) as env:
        again = await env.get("w", workflow=three_days)
        assert await again.result() == history


async def _finish(run: Handle[list[str]]) -> list[str]:
    return await run.result()


async def test_evicted_runs_give_the_same_results_as_live_ones() -> None:
    async with TestEnvironment(max_cached_runs=1) as env:
        runs = [await env.start(three_days(), id=f"w{n}") for n in range(10)]
        results = [await run.result() for run in runs]
    assert len({tuple(result) for result in results}) == 10
    assert len(RAN) == 30


async def test_a_drain_keeps_what_was_finished_and_begins_nothing(
    database: str,
) -> None:
    async with TestEnvironment(database, drain_timeout="60s") as env:
        await env.start(slow_work(), id="w")
        await env.sleep(1)
    assert RAN == [("slow", 1)]
    async with TestEnvironment(database, clock=env.clock) as env:
        assert await (await env.get("w")).result() == "slow"
    assert RAN == [("slow", 1)]


async def test_an_attempt_cut_short_is_followed_by_the_next_number(
    database: str,
) -> None:
    async with TestEnvironment(database, drain_timeout="1ms") as env:
        await env.start(slow_work(), id="w")
        await env.sleep(1)
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w")
        assert await run.result() == "slow"
        states = [(row.attempt, row.state) for row in await run.attempts()]
    assert RAN == [("slow", 1), ("slow", 2)]
    assert states == [(1, AttemptState.LOST), (2, AttemptState.COMPLETED)]


async def test_lost_attempts_do_not_use_up_the_retry_policy(database: str) -> None:
    failing = {"left": 1}

    @activity(name="unlucky", retry=RetryPolicy(max_attempts=2))
    async def unlucky() -> str:
        RAN.append(("unlucky", activity_info().attempt))
        await asyncio.sleep(30)
        if failing["left"]:
            failing["left"] -= 1
            raise ConnectionError("once")
        return "done"

    @workflow(name="patient")
    async def patient() -> str:
        return await unlucky()

    definitions = [patient, unlucky]
    clock = None
    for _ in range(4):
        async with TestEnvironment(
            database, definitions=definitions, drain_timeout="1ms", clock=clock
        ) as env:
            await env.start(patient(), id="w")
            await env.sleep(3 * limits.LOST_WAIT_SECONDS)
        clock = env.clock
    async with TestEnvironment(database, definitions=definitions, clock=clock) as env:
        run = await env.start(patient(), id="w")
        assert await run.result() == "done"
        states = [row.state for row in await run.attempts()]
    assert states == [
        *[AttemptState.LOST] * 4,
        AttemptState.FAILED,
        AttemptState.COMPLETED,
    ]


async def test_an_activity_that_kills_its_process_does_not_do_so_for_ever(
    database: str,
) -> None:
    @activity(name="deadly", start_to_close_timeout="2h")
    async def deadly() -> None:
        RAN.append(("deadly", activity_info().attempt))
        await asyncio.sleep(3_600)

    @workflow(name="dying")
    async def dying() -> None:
        await deadly()

    clock = None
    known = [deadly, dying]
    for _ in range(limits.LOST_ATTEMPTS_MAX):
        async with TestEnvironment(
            database, definitions=known, drain_timeout="1ms", clock=clock
        ) as env:
            await env.start(dying(), id="w")
            await env.sleep(limits.LOST_WAIT_SECONDS_MAX + 1)
        clock = env.clock
    async with TestEnvironment(database, definitions=known, clock=clock) as env:
        with pytest.raises(WorkflowFailedError, match="OutcomeUnknown"):
            await env.execute(dying(), id="w")
    assert len(RAN) == limits.LOST_ATTEMPTS_MAX


@pytest.mark.parametrize(
    "options",
    [{"effect": "once"}, {"retry": None}, {"retry": RetryPolicy(max_attempts=1)}],
)
async def test_an_attempt_in_doubt_that_may_not_run_again_raises(
    database: str, options: ActivityOptions, caplog: pytest.LogCaptureFixture
) -> None:
    @activity(name="once", **options)
    async def once() -> None:
        RAN.append(("once", activity_info().attempt))
        await asyncio.sleep(30)

    @workflow(name="careful")
    async def careful() -> str:
        try:
            await once()
        except OutcomeUnknown as error:
            return f"unknown after attempt {error.attempt}"
        return "done"

    async with TestEnvironment(
        database, definitions=[careful, once], drain_timeout="1ms"
    ) as env:
        await env.start(careful(), id="w")
        await env.sleep(1)
    async with TestEnvironment(
        database, definitions=[careful, once], clock=env.clock
    ) as env:
        run = await env.get("w")
        assert await run.result() == "unknown after attempt 1"
    assert RAN == [("once", 1)]
    (said,) = [text for text in caplog.messages if text.startswith("Activity 'once'")]
    assert "attempt 1 failed: OutcomeUnknown" in said
    assert said.endswith("it was the last one: it must not be run again blindly.")


async def test_activities_that_waited_for_a_place_have_certainly_not_begun(
    database: str,
) -> None:
    @activity(name="queued", retry=None)
    async def queued(number: int) -> int:
        RAN.append((str(number), activity_info().attempt))
        await asyncio.sleep(10)
        return number

    @workflow(name="fan_out")
    async def fan_out() -> list[object]:
        return [
            type(outcome).__name__ if isinstance(outcome, Exception) else outcome
            for outcome in await asyncio.gather(
                *(queued(number) for number in range(4)), return_exceptions=True
            )
        ]

    definitions = [fan_out, queued]
    async with TestEnvironment(
        database, definitions=definitions, drain_timeout="1ms", max_activities=2
    ) as env:
        await env.start(fan_out(), id="w")
        await env.sleep(1)
    async with TestEnvironment(
        database, definitions=definitions, clock=env.clock
    ) as env:
        result = await (await env.get("w")).result()
    # The two that ran are in doubt; the two that waited run for the first time.
    assert result == ["OutcomeUnknown", "OutcomeUnknown", 2, 3]
    assert RAN == [("0", 1), ("1", 1), ("2", 1), ("3", 1)]


async def test_a_backoff_survives_a_restart(database: str) -> None:
    @activity(name="flaky", retry=RetryPolicy(initial_interval="1h", max_interval="1h"))
    async def flaky() -> str:
        attempt = activity_info().attempt
        RAN.append(("flaky", attempt))
        if attempt == 1:
            raise ValueError("not yet")
        return f"attempt {attempt}"

    @workflow(name="patient")
    async def patient() -> str:
        return await flaky()

    async with TestEnvironment(database, definitions=[patient, flaky]) as env:
        await env.start(patient(), id="w")
        await env.sleep("30m")
        begun = env.clock.now()
    async with TestEnvironment(
        database, definitions=[patient, flaky], clock=env.clock
    ) as env:
        assert await (await env.get("w")).result() == "attempt 2"
        assert 29 * 60 <= (env.clock.now() - begun) / 1_000_000 <= 31 * 60
    assert RAN == [("flaky", 1), ("flaky", 2)]


async def test_what_a_reaped_worker_still_writes_is_refused(tmp_path: Path) -> None:
    """A worker that is thought dead and is not: fenced, then a new one."""
    from durable.store.records import ReapWorkers

    url = f"sqlite:///{tmp_path / 'two.db'}"
    gate = asyncio.Event()

    @activity(name="gated")
    async def gated() -> int:
        RAN.append(("gated", activity_info().attempt))
        BEGUN.set()
        if activity_info().attempt == 1:
            await gate.wait()
        return activity_info().attempt

    @workflow(name="fenced")
    async def fenced() -> int:
        return await gated()

    async with Engine(url, definitions=[fenced, gated]) as zombie:
        run = await zombie.start(fenced(), id="w")
        await BEGUN.wait()
        workers = await zombie._store.read(ListWorkers())
        store = connect(url)
        await store.open()
        reaped = await store.perform(ReapWorkers(presumed_dead=(workers[0].worker_id,)))
        assert reaped == [workers[0].worker_id]
        await store.close()
        gate.set()
        # The late result of attempt 1 is refused; the worker joins anew and goes on.
        assert await run.result(timeout=30) == 2
        kinds = [type(e.attributes).__name__ for e in await run.history()]
        assert kinds.count("ActivityTaskCompleted") == 1
        assert (await run.describe()).status is RunStatus.COMPLETED


async def test_two_engines_share_one_file(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'two.db'}"
    async with Engine(url) as worker, Engine(url, worker=False) as client:
        run = await client.start(length(), id="w")
        assert await run.result(timeout=30) >= 2
        other = await client.start(slow_work(), id="c")
        await BEGUN.wait()
        await other.cancel("from another engine")
        with pytest.raises(WorkflowFailedError):
            await other.result(timeout=30)
        assert (await (await worker.get("c")).describe()).status is RunStatus.CANCELLED


async def test_a_run_started_before_any_worker_begins_when_one_comes(
    database: str,
) -> None:
    async with TestEnvironment(database, worker=False) as client:
        await client.start(three_days(), id="w")
    async with TestEnvironment(database, clock=client.clock) as env:
        run = await env.get("w", workflow=three_days)
        assert (await run.result())[0] == "one"
        kinds = [type(e.attributes).__name__ for e in await run.history()]
        assert kinds[:3] == [
            "WorkflowExecutionStarted",
            "WorkflowTaskStarted",
            "ActivityTaskScheduled",
        ]


async def test_a_termination_from_another_engine_stops_the_activity(
    tmp_path: Path,
) -> None:
    stopped = asyncio.Event()

    @activity(name="long_haul", start_to_close_timeout="1h")
    async def long_haul() -> None:
        BEGUN.set()
        try:
            await asyncio.sleep(3_600)
        finally:
            stopped.set()

    @workflow(name="haul")
    async def haul() -> None:
        await long_haul()

    url = f"sqlite:///{tmp_path / 'two.db'}"
    async with Engine(url), Engine(url, worker=False) as client:
        run = await client.start(haul(), id="w")
        await BEGUN.wait()
        await run.terminate("from elsewhere")
        async with asyncio.timeout(30):
            await stopped.wait()


HOURLY = RetryPolicy(initial_interval="1h", max_interval="1h")


@activity(name="recovery.failing", retry=HOURLY)
async def failing() -> None:
    raise ValueError("not yet")


@workflow(name="recovery.child")
async def sleepy_child() -> None:
    await sleep("1d")


@workflow(name="recovery.parent")
async def parent_of_one() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(failing())
        child = await start_child(sleepy_child())
        set_state("the child has started")
        await child


async def test_a_parent_that_waits_for_a_childs_start_is_called_after_a_crash(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        # The answer never comes: the process might as well be dead by then.
        patched.setattr(Runner, "_child_started", lambda *_: None)
        async with TestEnvironment(database) as env:
            await env.start(parent_of_one(), id="w")
            await env.sleep(1)  # the attempt has failed; the next is due in an hour
    async with TestEnvironment(database, clock=env.clock) as env:
        await env.sleep(1)
        run = await env.get("w", workflow=parent_of_one)
        assert await run.state() == "the child has started"
        await run.terminate("done")
