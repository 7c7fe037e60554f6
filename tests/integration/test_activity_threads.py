"""Plain activities in threads: how they are asked to stop, and what they know."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from durable import (
    ActivityCancellationReason,
    ActivityCancellationType,
    ActivityTimeoutError,
    Engine,
    Handle,
    WorkflowCancelledError,
    activity,
    activity_cancellation_reason,
    activity_info,
    activity_logger,
    is_activity_cancelled,
    is_worker_stopping,
    shield_cancellation,
    wait_for_worker_stopping,
    wait_for_worker_stopping_sync,
    workflow,
)
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from durable.store.records import AttemptState

SECONDS = 20.0
WAITED = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED


class Seen:
    """What activities did, outside of any history."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.what: list[object] = []


SEEN = Seen()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    global SEEN
    SEEN = Seen()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - a thread makes it true
            await asyncio.sleep(0.005)


def wait_for(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends_at


# --- cancellation ---------------------------------------------------------------------


@activity(name="threads.compute", cancellation_type=WAITED, retry=None)
def compute(how: str) -> str:
    SEEN.begun.set()
    try:
        if how == "shielded":
            with shield_cancellation():
                wait_for(is_activity_cancelled)
                SEEN.what.append("shielded")
                return "returned"  # too late: the shield is left by it
        while True:
            try:
                if how == "sleeps":
                    time.sleep(0.001)
                sum(range(100))
            except Exception:  # noqa: BLE001 - it must not be swallowed here
                SEEN.what.append("swallowed")
    except asyncio.CancelledError:
        if how == "answers":
            return "stopped well"
        raise
    finally:
        SEEN.what.append(activity_cancellation_reason())
        SEEN.ended.set()


@activity(name="threads.look", cancellation_type=WAITED, cancel_thread=False)
def look() -> str:
    SEEN.begun.set()
    wait_for(is_activity_cancelled)
    for _ in range(3):
        sum(range(1_000))
    return "looked"


@workflow(name="threads.compute_it")
async def compute_it(how: str) -> str:
    return await (look() if how == "looks" else compute(how))


async def _cancelled(engine: Engine, how: str) -> Handle[str]:
    handle = await engine.start(compute_it(how))
    await until(SEEN.begun.is_set)
    await handle.cancel()
    return handle


@pytest.mark.parametrize("how", ["computes", "sleeps"])
async def test_cancelled_function_gets_an_error_that_except_exception_lets_pass(
    database: str, how: str
) -> None:
    async with Engine(database) as engine:
        handle = await _cancelled(engine, how)
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
        assert SEEN.what == [ActivityCancellationReason.REQUESTED]
        rows = await handle.attempts()
        assert [row.state for row in rows] == [AttemptState.CANCELLED]


async def test_shield_puts_it_off_even_over_a_return() -> None:
    async with Engine("memory://") as engine:
        handle = await _cancelled(engine, "shielded")
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert SEEN.what == ["shielded", ActivityCancellationReason.REQUESTED]


@pytest.mark.parametrize(
    ("how", "result"), [("answers", "stopped well"), ("looks", "looked")]
)
async def test_who_waits_gets_what_a_cancelled_function_finally_did(
    how: str, result: str
) -> None:
    async with Engine("memory://") as engine:
        handle = await _cancelled(engine, how)
        assert await handle.result() == result


async def test_thread_that_was_interrupted_serves_others() -> None:
    """A cancellation costs no thread."""
    async with Engine("memory://", max_activity_threads=1) as engine:
        for _ in range(5):
            SEEN.begun.clear()
            handle = await _cancelled(engine, "computes")
            with pytest.raises(WorkflowCancelledError):
                await handle.result()
        assert await engine.execute(ask_facts()) is not None


@workflow(name="threads.in_time")
async def in_time(how: str) -> str:
    limited = compute.options(start_to_close_timeout="100ms", retry=None)
    try:
        return await limited(how)
    except ActivityTimeoutError as error:
        return error.timeout_type


async def test_function_whose_time_is_up_is_interrupted_and_gives_its_thread_back() -> (
    None
):
    async with Engine("memory://", max_activity_threads=1) as engine:
        assert await engine.execute(in_time("computes")) == "start_to_close"
        assert await engine.execute(ask_facts()) is not None
    assert SEEN.what == [ActivityCancellationReason.TIMED_OUT]


@activity(name="threads.blocks")
def blocks() -> None:
    SEEN.begun.set()
    try:
        SEEN.go_on.wait(SECONDS)  # in C: nothing is raised before it returns
        wait_for(lambda: False)
    finally:
        SEEN.what.append(activity_cancellation_reason())
        SEEN.ended.set()


@workflow(name="threads.block")
async def block() -> str:
    limited = blocks.options(start_to_close_timeout="100ms", retry=None)
    try:
        await limited()
    except ActivityTimeoutError as error:
        return error.timeout_type
    return ""


async def test_call_in_c_meets_it_when_it_returns() -> None:
    """The attempt ends in time; its thread when the call returns."""
    async with Engine("memory://") as engine:
        assert await engine.execute(block()) == "start_to_close"
        assert SEEN.what == []
        SEEN.go_on.set()
        await until(SEEN.ended.is_set)
    assert SEEN.what == [ActivityCancellationReason.TIMED_OUT]


@workflow(name="threads.leave_behind")
async def leave_behind() -> str:
    abandoned = asyncio.create_task(_compute_unheard())
    await asyncio.sleep(0)
    await note_begin()
    abandoned.cancel()
    return "left"


async def _compute_unheard() -> str:
    tried = compute.options(cancellation_type=ActivityCancellationType.TRY_CANCEL)
    return await tried("computes")


@activity(name="threads.note_begin")
async def note_begin() -> None:
    await until(SEEN.begun.is_set)


async def test_closed_run_is_the_reason_where_nobody_waits_for_the_activity() -> None:
    async with Engine("memory://") as engine:
        assert await engine.execute(leave_behind()) == "left"
        await until(SEEN.ended.is_set)
    assert SEEN.what in (
        [ActivityCancellationReason.REQUESTED],
        [ActivityCancellationReason.RUN_CLOSED],
    )


async def test_terminated_run_is_the_reason() -> None:
    async with Engine("memory://") as engine:
        handle = await engine.start(compute_it("computes"))
        await until(SEEN.begun.is_set)
        await handle.terminate()
        await until(SEEN.ended.is_set)
    assert SEEN.what == [ActivityCancellationReason.RUN_CLOSED]


async def test_run_that_the_worker_has_lost_is_the_reason(tmp_path: Path) -> None:
    async with Engine(f"sqlite:///{tmp_path / 'runs.db'}") as engine:
        handle = await engine.start(compute_it("computes"))
        await until(SEEN.begun.is_set)
        worker = engine._worker
        assert worker is not None
        worker.lease_lost(worker.worker_id)
        await until(SEEN.ended.is_set)
        await handle.terminate()
    assert SEEN.what[0] is ActivityCancellationReason.RUN_LOST


# --- the end of the worker ------------------------------------------------------------


async def test_worker_that_closes_interrupts_after_its_grace(database: str) -> None:
    async with Engine(database, drain_timeout="50ms") as engine:
        await engine.start(compute_it("computes"))
        await until(SEEN.begun.is_set)
    assert SEEN.ended.is_set()
    assert SEEN.what == [ActivityCancellationReason.WORKER_STOPPING]


@activity(name="threads.until_stopping")
def until_stopping() -> str:
    SEEN.begun.set()
    assert not wait_for_worker_stopping_sync(timeout=0)
    assert wait_for_worker_stopping_sync(timeout=SECONDS)
    assert is_worker_stopping()
    assert not is_activity_cancelled()
    return "ended well"


@activity(name="threads.until_stopping_on_the_loop")
async def until_stopping_on_the_loop() -> str:
    SEEN.begun.set()
    assert not is_worker_stopping()
    async with asyncio.timeout(SECONDS):
        await wait_for_worker_stopping()
    await wait_for_worker_stopping()  # at once
    return "ended well"


@workflow(name="threads.stop_well")
async def stop_well(is_async: bool) -> str:
    return await (until_stopping_on_the_loop() if is_async else until_stopping())


@pytest.mark.parametrize("is_async", [True, False])
async def test_activity_hears_that_its_worker_stops_and_ends_within_the_grace(
    is_async: bool, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'runs.db'}"
    async with Engine(database) as engine:
        await engine.start(stop_well(is_async), id="stop-1")
        await until(SEEN.begun.is_set)
    async with Engine(database) as engine:
        handle = await engine.get("stop-1", workflow=stop_well)
        assert await handle.result() == "ended well"
        assert not await handle.attempts()  # the first one was the last


@activity(name="threads.wait_cancelled", cancellation_type=WAITED)
def wait_cancelled() -> str:
    SEEN.begun.set()
    try:
        wait_for_worker_stopping_sync()
    except asyncio.CancelledError:
        SEEN.what.append("interrupted")
        raise
    return ""


@workflow(name="threads.wait_and_be_cancelled")
async def wait_and_be_cancelled() -> str:
    return await wait_cancelled()


async def test_wait_for_the_end_of_the_worker_ends_by_a_cancellation() -> None:
    async with Engine("memory://") as engine:
        handle = await engine.start(wait_and_be_cancelled())
        await until(SEEN.begun.is_set)
        await handle.cancel()
        with pytest.raises(WorkflowCancelledError):
            await handle.result()
    assert SEEN.what == ["interrupted"]


# --- what it knows --------------------------------------------------------------------

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="")


@activity(
    name="threads.facts",
    start_to_close_timeout="10s",
    schedule_to_close_timeout="5s",
    schedule_to_start_timeout="3s",
)
def facts() -> dict[str, int | None]:
    info = activity_info()
    return {
        "start_to_close": info.start_to_close_timeout,
        "schedule_to_close": info.schedule_to_close_timeout,
        "schedule_to_start": info.schedule_to_start_timeout,
        "heartbeat": info.heartbeat_timeout,
        "until": info.deadline - info.scheduled_at,
        "waited": int(info.started_at >= info.scheduled_at > 0),
        "retries": info.retry_policy.max_attempts,
    }


@workflow(name="threads.ask_facts")
async def ask_facts() -> dict[str, int | None]:
    return await facts()


async def test_activity_info_tells_timeouts_times_and_when_it_is_given_up() -> None:
    async with Engine("memory://") as engine:
        assert await engine.execute(ask_facts()) == {
            "start_to_close": 10_000_000,
            "schedule_to_close": 5_000_000,
            "schedule_to_start": 3_000_000,
            "heartbeat": None,
            "until": 5_000_000,
            "waited": 1,
            "retries": 3,
        }


@activity(name="threads.say")
def say() -> str:
    activity_logger.warning("reached")
    return activity_info().task_queue


@workflow(name="threads.say_it")
async def say_it() -> str:
    return await say()


async def test_activity_logger_has_ids(caplog: pytest.LogCaptureFixture) -> None:
    async with Engine("memory://", task_queue="mills") as engine:
        assert await engine.execute(say_it(), id="say-1") == "mills"
    record = next(r for r in caplog.records if r.name == "durable.activity")
    assert vars(record)["activity_type"] == "threads.say"
    assert vars(record)["workflow_id"] == "say-1"


# --- misuse ---------------------------------------------------------------------------


@activity(name="threads.shields_on_the_loop")
async def shields_on_the_loop() -> str:
    with pytest.raises(InvalidCallError, match=r"asyncio\.shield"):
        shield_cancellation()
    return "refused"


@workflow(name="threads.misuse")
async def misuse() -> str:
    return await shields_on_the_loop()


async def test_shield_is_refused_in_an_async_activity_and_free_outside() -> None:
    async with Engine("memory://") as engine:
        assert await engine.execute(misuse()) == "refused"
    with shield_cancellation():
        pass


def test_options_of_kinds_are_checked() -> None:
    with pytest.raises(InvalidOptionError, match="give 'thread' or 'process'"):
        activity(run_in="fibre")  # type: ignore[call-overload]  # the test
    with pytest.raises(InvalidOptionError, match="cancel_thread of an activity"):
        activity(cancel_thread="no")  # type: ignore[call-overload]  # the test
    with pytest.raises(DefinitionError, match="cancel_thread means nothing"):

        @activity(cancel_thread=False)
        async def waits() -> None: ...
