"""How activities run: retries, timeouts, threads, limits, delivery."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable

import pytest

from durable import (
    ActivityError,
    ActivityTimeoutError,
    ApplicationError,
    Engine,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    activity_info,
    in_activity,
    is_activity_cancelled,
    workflow,
)
from durable.core.history.events import ActivityTaskScheduled
from durable.store.records import AttemptState
from durable.testing.environment import TestEnvironment

SECOND = 1_000_000


class CardDeclined(Exception):
    """A class that this module's workflows can name."""

    def __init__(self, card: str, code: int) -> None:
        super().__init__(card, code)
        self.code = code


class Calls:
    """What an activity did, outside of any history."""

    def __init__(self) -> None:
        self.attempts: list[int] = []
        self.at: list[int] = []
        self.fail: Callable[[int], BaseException | None] = lambda attempt: None


CALLS = Calls()
NOW: Callable[[], int]


@pytest.fixture(autouse=True)
def _fresh_calls() -> None:
    CALLS.__init__()  # type: ignore[misc]  # starts every test from nothing


def note() -> None:
    attempt = activity_info().attempt
    CALLS.attempts.append(attempt)
    CALLS.at.append(NOW())
    error = CALLS.fail(attempt)
    if error is not None:
        raise error


@activity
async def work() -> str:
    note()
    return "done"


@activity(retry=RetryPolicy(max_attempts=8))
async def work_long() -> str:
    note()
    return "done"


@activity
def work_in_thread() -> str:
    note()
    return threading.current_thread().name


@activity(start_to_close_timeout="10s", retry=RetryPolicy(max_attempts=2))
async def hang() -> None:
    note()
    await asyncio.sleep(3_600)


@workflow
async def do_work() -> str:
    return await work()


@workflow
async def do_long_work() -> str:
    return await work_long()


@workflow
async def do_work_in_thread() -> str:
    return await work_in_thread()


@workflow
async def charge_card() -> str:
    try:
        await work()
    except CardDeclined as error:
        return f"declined {error.code}"
    return "paid"


def use(env: TestEnvironment) -> None:
    global NOW
    NOW = env.clock.now


async def test_retries_wait_one_two_four_seconds_and_survive_in_the_database(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        use(env)
        CALLS.fail = lambda attempt: ValueError("no") if attempt < 8 else None
        run = await env.start(do_long_work())
        assert await run.result() == "done"
        assert CALLS.attempts == list(range(1, 9))
        waits = [b - a for a, b in zip(CALLS.at, CALLS.at[1:], strict=False)]
        assert [round(wait / SECOND) for wait in waits] == [1, 2, 4, 8, 16, 32, 60]
        rows = await run.attempts()
        assert [row.state for row in rows] == [AttemptState.FAILED] * 7 + [
            AttemptState.COMPLETED
        ]


@activity(retry=RetryPolicy(max_attempts=6, jitter=0.5))
async def work_spread() -> str:
    note()
    return "done"


@workflow
async def do_spread_work() -> str:
    return await work_spread()


async def test_jitter_is_recorded_and_spreads_what_failed_together() -> None:
    waits: list[list[float]] = []
    async with TestEnvironment() as env:
        use(env)
        CALLS.fail = lambda attempt: ValueError("no") if attempt < 6 else None
        for _ in range(2):
            CALLS.at.clear()
            run = await env.start(do_spread_work())
            assert await run.result() == "done"
            pairs = zip(CALLS.at, CALLS.at[1:], strict=False)
            waits.append([(after - before) / SECOND for before, after in pairs])
            (scheduled,) = [
                event.attributes
                for event in await run.history()
                if isinstance(event.attributes, ActivityTaskScheduled)
            ]
            assert scheduled.settings.retry_policy.jitter == 0.5
    for found in waits:
        for wait, whole in zip(found, [1, 2, 4, 8, 16], strict=True):
            assert whole / 2 <= wait <= whole + 0.001
    assert waits[0] != waits[1]


async def test_the_third_failure_is_the_last_by_default(database: str) -> None:
    async with TestEnvironment(database) as env:
        use(env)
        CALLS.fail = lambda attempt: ValueError(f"no {attempt}")
        with pytest.raises(WorkflowFailedError, match="ValueError: no 3") as failed:
            await env.execute(do_work())
        assert CALLS.attempts == [1, 2, 3]
        assert isinstance(failed.value.__cause__, ValueError)
        assert "attempt 3" in failed.value.__cause__.__notes__[0]


async def test_an_exception_keeps_its_class_and_attributes() -> None:
    async with TestEnvironment() as env:
        use(env)
        CALLS.fail = lambda attempt: CardDeclined("visa", 51)
        assert await env.execute(charge_card()) == "declined 51"


async def test_non_retryable_failures_end_at_once() -> None:
    async with TestEnvironment() as env:
        use(env)
        CALLS.fail = lambda attempt: ApplicationError("never", non_retryable=True)
        with pytest.raises(WorkflowFailedError):
            await env.execute(do_work())
        assert CALLS.attempts == [1]


async def test_the_activity_may_choose_its_next_retry_delay() -> None:
    async with TestEnvironment() as env:
        use(env)
        CALLS.fail = lambda attempt: (
            ApplicationError("later", next_retry_delay="1h") if attempt == 1 else None
        )
        assert await env.execute(do_work()) == "done"
        assert CALLS.at[1] - CALLS.at[0] >= 3_600 * SECOND


@pytest.mark.parametrize(
    ("policy", "error", "attempts"),
    [
        (RetryPolicy(retryable_errors=("busy",)), ValueError("too busy"), 3),
        (RetryPolicy(retryable_errors=("busy",)), ValueError("broken"), 1),
        (RetryPolicy(retryable_errors=(ValueError,)), ValueError("x"), 3),
        (RetryPolicy(retryable_errors=("ValueError",)), UnicodeError("x"), 3),
        (RetryPolicy(non_retryable=(ArithmeticError,)), ZeroDivisionError("x"), 1),
        (RetryPolicy(non_retryable=("KeyError",)), ValueError("x"), 3),
        (None, ValueError("x"), 1),
    ],
)
async def test_which_failures_are_tried_again(
    policy: RetryPolicy | None, error: Exception, attempts: int
) -> None:
    @workflow
    async def once() -> str:
        return await work.options(retry=policy)()

    async with TestEnvironment() as env:
        use(env)
        CALLS.fail = lambda attempt: error
        with pytest.raises(WorkflowFailedError):
            await env.execute(once())
        assert len(CALLS.attempts) == attempts


async def test_an_attempt_is_cut_at_start_to_close_and_tried_again(
    database: str,
) -> None:
    @workflow
    async def hanging() -> str:
        try:
            await hang()
        except ActivityTimeoutError as error:
            return f"{error.timeout_type} {error.attempt}"
        return "done"

    async with TestEnvironment(database) as env:
        use(env)
        assert await env.execute(hanging()) == "start_to_close 2"
        assert round((CALLS.at[1] - CALLS.at[0]) / SECOND) == 11


async def test_schedule_to_close_bounds_all_attempts_and_keeps_the_last_failure() -> (
    None
):
    @workflow
    async def bounded() -> str:
        try:
            await work_long.options(schedule_to_close_timeout="10s")()
        except ValueError as error:
            return error.__notes__[0]
        return "done"

    async with TestEnvironment() as env:
        use(env)
        CALLS.fail = lambda attempt: ValueError("no")
        started = env.clock.now()
        note = await env.execute(bounded())
        # 1 + 2 + 4 s are waited; 8 more would pass the deadline, so it ends then.
        assert CALLS.attempts == [1, 2, 3, 4]
        assert "schedule_to_close_timeout" in note
        assert env.clock.now() - started < 10 * SECOND


async def test_schedule_to_start_bounds_the_wait_for_a_free_place() -> None:
    @workflow
    async def crowd() -> list[str]:
        slow = work.options(schedule_to_start_timeout="5s")
        outcomes = await asyncio.gather(
            hang.options(retry=None, start_to_close_timeout="1h")(),
            slow(),
            return_exceptions=True,
        )
        return [
            o.timeout_type if isinstance(o, ActivityTimeoutError) else repr(o)
            for o in outcomes
        ]

    async with TestEnvironment(max_activities=1) as env:
        use(env)
        run = await env.start(crowd())
        assert (await run.result())[1] == "schedule_to_start"


async def test_no_more_activities_run_at_once_than_allowed(database: str) -> None:
    running = peak = 0

    @activity
    async def count(number: int) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(1)
        running -= 1
        return number

    @workflow
    async def fan_out() -> list[int]:
        return await asyncio.gather(*(count(number) for number in range(20)))

    async with TestEnvironment(database, max_activities=3) as env:
        assert await env.execute(fan_out()) == list(range(20))
    assert peak == 3


async def test_a_plain_function_runs_in_a_thread_with_full_context() -> None:
    async with TestEnvironment() as env:
        use(env)
        name = await env.execute(do_work_in_thread())
        assert name.startswith("durable-activity")
        assert CALLS.attempts == [1]


async def test_context_variables_of_the_program_reach_no_other_attempt() -> None:
    variable = contextvars.ContextVar("variable", default="clean")

    @activity
    async def leak() -> str:
        before = variable.get()
        variable.set("dirty")
        return before

    @workflow
    async def twice() -> list[str]:
        return [await leak(), await leak()]

    async with TestEnvironment() as env:
        assert await env.execute(twice()) == ["clean", "clean"]


async def test_outside_of_a_workflow_an_activity_simply_runs() -> None:
    @activity
    async def add(a: int, b: int = 1) -> int:
        assert not in_activity()
        return a + b

    @activity
    def name() -> str:
        return threading.current_thread().name

    assert await add(2) == 3
    assert await add(2, b=5) == 7
    assert await name() != threading.current_thread().name


async def test_a_function_in_a_thread_can_see_that_its_time_is_up() -> None:
    begun, seen = threading.Event(), threading.Event()

    @activity(start_to_close_timeout="50ms", retry=None)
    def poll() -> None:
        begun.set()
        while not is_activity_cancelled():
            threading.Event().wait(0.001)
        seen.set()

    @workflow
    async def polling() -> str:
        try:
            await poll()
        except ActivityError as error:
            return type(error).__name__
        return "done"

    # Real time: a thread does not live in the virtual one.
    async with Engine("memory://") as engine:
        run = await engine.start(polling())
        assert await asyncio.to_thread(begun.wait, 10)
        assert await run.result() == "ActivityTimeoutError"
        assert await asyncio.to_thread(seen.wait, 10)


async def test_odd_exceptions_are_recorded_as_the_activitys_failure() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    cyclic = ValueError("a")
    cyclic.__cause__ = KeyError("b")
    cyclic.__cause__.__cause__ = cyclic
    odd: list[BaseException] = [
        Unprintable(),
        cyclic,
        ValueError("x" * 50_000_000),
        ValueError("nul \0 and surrogate \ud800"),
        ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
        StopIteration("stop"),
        SystemExit(3),
        asyncio.CancelledError("nobody asked"),
    ]

    @activity(retry=None)
    async def fail(number: int) -> None:
        raise odd[number]

    @activity(retry=None)
    def fail_in_thread(number: int) -> None:
        raise odd[number]

    @workflow
    async def survive(number: int, threaded: bool) -> str:
        try:
            await (fail_in_thread(number) if threaded else fail(number))
        except BaseException as error:  # noqa: BLE001 - the point of the test
            return type(error).__name__
        return "nothing"

    async with TestEnvironment() as env:
        for number in range(len(odd)):
            for threaded in (False, True):
                caught = await env.execute(survive(number, threaded))
                assert caught != "nothing", odd[number]
