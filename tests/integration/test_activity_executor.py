"""Activities without an engine: retries, timeouts, what is known of attempts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Literal

import pytest
from sqlalchemy.orm import Session

from durable import (
    Activity,
    ActivityAttempt,
    ActivityError,
    ActivityExecutor,
    ActivityTimeoutError,
    ApplicationError,
    ContextPropagator,
    Done,
    Interceptor,
    NotDone,
    OutcomeUnknown,
    RetryPolicy,
    SyncActivityExecutor,
    activity,
    activity_client,
    activity_info,
    activity_method,
    complete_later,
    heartbeat,
    is_activity_cancelled,
    resource,
    shield_cancellation,
)
from durable.api.registry import REGISTRY
from durable.errors import (
    DefinitionError,
    EngineClosedError,
    InvalidCallError,
    InvalidOptionError,
    NotInWorkflowError,
    NotRegisteredError,
    PayloadError,
)

SOON = RetryPolicy(max_attempts=3, initial_interval=0.01)
RAN: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@activity(name="alone.third", retry=SOON)
async def third(name: str) -> str:
    RAN[name] += 1
    if RAN[name] < 3:
        raise ConnectionError(f"not yet {RAN[name]}")
    return f"{name} at {activity_info().attempt}"


@activity(name="alone.thread", retry=SOON)
def in_thread() -> tuple[int, str]:
    info = activity_info()
    if info.attempt == 1:
        heartbeat("so far")
        raise ConnectionError
    return info.attempt, str(info.heartbeat_details[0])


@activity(name="alone.process", run_in="process")
def in_process() -> int:
    return os.getpid()


@activity(name="alone.fails", retry=SOON)
async def fails(kind: str) -> None:
    RAN[kind] += 1
    if kind == "final":
        raise ApplicationError("no use", non_retryable=True)
    raise KeyError(kind)


@activity(name="alone.slow", start_to_close_timeout=0.05, retry=SOON)
async def slow() -> None:
    await asyncio.Event().wait()


@activity(name="alone.busy", start_to_close_timeout=0.05, retry=None)
def busy() -> None:
    while True:
        time.sleep(0.001)


@activity(name="alone.until", retry=SOON)
def until_told() -> None:
    RAN["began"] += 1
    while True:
        time.sleep(0.001)


async def _until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


async def test_activity_is_tried_again_and_each_attempt_is_known() -> None:
    told: list[ActivityAttempt] = []
    async with ActivityExecutor(on_attempt=told.append) as executor:
        execution = await executor.start(third, "tea")
        assert await execution.result() == "tea at 3"
        await _until(lambda: len(told) == 3)
    found = [(one.attempt, one.outcome) for one in execution.attempts]
    assert found == [(1, "failed"), (2, "failed"), (3, "completed")]
    assert told == [*execution.attempts] == [*executor.attempts]
    first = told[0]
    assert first.failure is not None
    assert (first.failure.type, first.failure.message) == (
        "ConnectionError",
        "not yet 1",
    )
    assert first.activity_type == "alone.third"
    assert told[0].started_at < told[1].started_at < told[2].started_at
    assert all(one.duration.total_seconds() >= 0 for one in told)


async def test_plain_functions_run_in_threads_and_processes_with_their_context() -> (
    None
):
    async with ActivityExecutor() as executor:
        assert await executor.execute(in_thread) == (2, "so far")
        assert await executor.execute(in_process) != os.getpid()


@pytest.mark.parametrize(("kind", "times"), [("always", 3), ("final", 1)])
async def test_last_failure_is_raised_and_says_why_it_was_the_last(
    kind: str, times: int
) -> None:
    expected: Any = ApplicationError if kind == "final" else KeyError
    async with ActivityExecutor(fails) as executor:
        with pytest.raises(expected) as raised:
            await executor.execute("alone.fails", kind)
    assert RAN[kind] == times
    notes = "".join(raised.value.__notes__)
    assert f"attempt {times}" in notes


async def test_attempts_out_of_time_are_cut_and_tried_again() -> None:
    async with ActivityExecutor() as executor:
        with pytest.raises(ActivityTimeoutError) as raised:
            await executor.execute(slow)
        with pytest.raises(ActivityTimeoutError, match="start_to_close"):
            await executor.execute(busy)
        outcomes = [one.outcome for one in executor.attempts]
    assert (raised.value.attempt, raised.value.timeout_type) == (3, "start_to_close")
    assert raised.value.retry_state == "maximum_attempts_reached"
    assert outcomes == ["timed_out"] * 4


async def test_functions_are_registered_with_options_and_names() -> None:
    def double(n: int) -> int:
        return 2 * n

    async def flaky() -> int:
        RAN["flaky"] += 1
        if RAN["flaky"] == 1:
            raise ConnectionError
        return RAN["flaky"]

    executor = ActivityExecutor()
    executor.register(double)
    executor.register(flaky, name="sometimes", retry=SOON)
    async with executor:
        assert await executor.execute("double", 4) == 8
        assert await executor.execute("sometimes") == 2
        with pytest.raises(NotRegisteredError, match="somtimes"):
            await executor.execute("somtimes")
        with pytest.raises(InvalidCallError, match="double"):
            await executor.execute("double", 1, 2)
        with pytest.raises(PayloadError):
            await executor.execute("double", "one")
    with pytest.raises(DefinitionError, match="is there already"):
        executor.register(flaky, name="double")


async def test_options_of_the_call_go_before_those_of_the_activity() -> None:
    async with ActivityExecutor(fails) as executor:
        with pytest.raises(KeyError):
            await executor.execute(fails.options(retry=None), "once")
    assert RAN["once"] == 1


async def test_cancel_reaches_a_thread_a_wait_for_the_next_attempt_and_a_queue() -> (
    None
):
    late = third.options(retry=RetryPolicy(initial_interval=60))
    async with ActivityExecutor(max_activities=1) as executor:
        waiting = await executor.start(late, "late")
        await _until(lambda: waiting.attempts)
        running = await executor.start(until_told)
        queued = await executor.start(third, "never")
        await _until(lambda: RAN["began"])
        assert executor.running() == [waiting, running, queued]
        for execution in (waiting, queued, running):
            execution.cancel()
            with pytest.raises(asyncio.CancelledError):
                await execution.result()
        assert executor.running() == []
        assert await executor.execute(in_thread) == (2, "so far")
    assert RAN["never"] == 0
    assert [one.outcome for one in running.attempts] == ["cancelled"]


async def test_cancelling_who_waits_for_execute_cancels_it() -> None:
    async with ActivityExecutor() as executor:
        task = asyncio.create_task(executor.execute(until_told))
        await _until(lambda: RAN["began"])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await _until(lambda: not executor.running())
    assert [one.outcome for one in executor.attempts] == ["cancelled"]


@activity(name="alone.shielded")
def shielded() -> str:
    with shield_cancellation():
        RAN["began"] += 1
        while not is_activity_cancelled():
            time.sleep(0.001)
        RAN["cleaned"] += 1
    return "too late"


async def test_leaving_asks_what_runs_to_stop_and_waits_for_its_clean_up() -> None:
    async with ActivityExecutor() as executor:
        execution = await executor.start(shielded)
        await _until(lambda: RAN["began"])
    assert RAN["cleaned"] == 1
    with pytest.raises(asyncio.CancelledError):
        await execution.result()
    with pytest.raises(EngineClosedError, match="not open"):
        await executor.execute(shielded)


async def test_more_than_there_is_room_for_waits_in_order() -> None:
    order: list[int] = []

    async def note(n: int) -> int:
        order.append(n)
        await asyncio.sleep(0)
        return n

    executor = ActivityExecutor(max_activities=2)
    executor.register(note)
    async with executor:
        calls = [executor.execute("note", n) for n in range(50)]
        assert await asyncio.gather(*calls) == [*range(50)]
    assert order == [*range(50)]


class Bank:
    name = "a bank"


class Desk:
    @activity_method(name="alone.serve")
    def serve(self) -> str:
        return "served"


@activity(name="alone.pay")
async def pay(cents: int, *, bank: Bank = resource(Bank)) -> str:
    return f"{cents} by {bank.name}"


# An engine of another test would lack their resources.
for _name in ("alone.pay", "alone.serve"):
    del REGISTRY.activities[_name]

tenant: ContextVar[str] = ContextVar("alone_tenant")


class Hundred(Interceptor):
    async def execute_activity(self, input: Any, next: Any) -> Any:
        return f"100 + {await next(input)}"


async def test_it_gives_resources_and_is_within_interceptors() -> None:
    given = {Bank: Bank(), Desk: Desk()}
    async with ActivityExecutor(pay, Desk, resources=given) as executor:
        assert await executor.execute("alone.pay", 5) == "5 by a bank"
        assert await executor.execute("alone.serve") == "served"
    within = [Hundred(), ContextPropagator(tenant, "tenant")]
    async with ActivityExecutor(resources=given, interceptors=within) as executor:
        assert await executor.execute(pay, 5) == "100 + 5 by a bank"


@activity(name="alone.asks", retry=None)
async def asks(what: str) -> None:
    if what == "engine":
        activity_client()
    else:
        await complete_later()


async def test_what_needs_an_engine_is_refused_by_type() -> None:
    async with ActivityExecutor() as executor:
        with pytest.raises(NotInWorkflowError, match="there is no engine"):
            await executor.execute(asks, "engine")
        with pytest.raises(InvalidCallError, match="nobody to complete it"):
            await executor.execute(asks, "token")


@activity(name="alone.unfit", retry=SOON)
async def unfit() -> int:
    RAN["unfit"] += 1
    return "text"  # type: ignore[return-value]  # the test


async def test_result_that_does_not_fit_is_told_and_not_made_again() -> None:
    async with ActivityExecutor() as executor:
        with pytest.raises(PayloadError, match="has returned, but"):
            await executor.execute(unfit)
    assert RAN["unfit"] == 1


@activity(name="alone.dies", run_in="process", retry=SOON)
def dies() -> int:
    os._exit(3)


async def test_process_that_dies_costs_its_attempts_and_no_more() -> None:
    async with ActivityExecutor() as executor:
        with pytest.raises(ActivityError, match="in doubt"):
            await executor.execute(dies)
        assert len(executor.attempts) == 3
        assert await executor.execute(in_process)


async def find_out(n: int) -> Done[int] | NotDone:
    return Done(n * 10) if n else NotDone()


async def hangs(n: int) -> int:
    RAN["hangs"] += 1
    if activity_info().attempt == 1:
        await asyncio.sleep(20)
    return n


ONCE: dict[str, Any] = {
    "effect": "once",
    "start_to_close_timeout": 0.05,
    "retry": SOON,
}


@pytest.mark.parametrize("doubt", ["raise", "wait"])
async def test_what_must_happen_once_is_not_run_again(
    doubt: Literal["raise", "wait"],
) -> None:
    made: Any = activity(name=f"alone.{doubt}", in_doubt=doubt, **ONCE)(hangs)
    unsure: Activity[[int], int] = made
    async with ActivityExecutor() as executor:
        with pytest.raises(OutcomeUnknown, match="nobody knows"):
            await executor.execute(unsure, 1)
        with pytest.raises(OutcomeUnknown):
            await executor.execute(dies.options(effect="once", in_doubt=doubt))
        assert [one.attempt for one in executor.attempts] == [1, 1]
    assert RAN["hangs"] == 1


@pytest.mark.parametrize(("n", "found", "ran"), [(4, 40, 1), (0, 0, 2)])
async def test_what_was_once_is_verified(n: int, found: int, ran: int) -> None:
    made: Any = activity(name="alone.asked", verify=find_out, **ONCE)(hangs)
    asked: Activity[[int], int] = made
    async with ActivityExecutor() as executor:
        assert await executor.execute(asked, n) == found
    assert RAN["hangs"] == ran


async def test_what_an_executor_cannot_do_is_said() -> None:
    with pytest.raises(InvalidOptionError, match="cannot be called"):
        ActivityExecutor(on_attempt=5)  # type: ignore[arg-type]  # the test
    async with ActivityExecutor() as executor:
        with pytest.raises(InvalidCallError, match="neither an activity nor"):
            await executor.execute(asks("token"))  # type: ignore[call-overload]  # the test


# --- without an event loop ------------------------------------------------------------


def test_code_without_a_loop_runs_looks_and_cancels() -> None:
    with SyncActivityExecutor(third) as executor:
        assert executor.execute("alone.third", "tea") == "tea at 3"
        assert executor.execute(in_thread) == (2, "so far")
        begun = executor.start(until_told)
        deadline = time.monotonic() + 20
        while not RAN["began"] and time.monotonic() < deadline:
            time.sleep(0.005)
        threading.Thread(target=begun.cancel).start()
        with pytest.raises(concurrent.futures.CancelledError):
            begun.result()
        assert [one.outcome for one in begun.attempts] == ["cancelled"]
        assert len(executor.attempts) == 6
    with pytest.raises(EngineClosedError, match="not open"):
        executor.execute(third, "tea")


def test_it_loads_no_database() -> None:
    code = (
        "import sys, durable\n"
        "@durable.activity\n"
        "def one(): return 1\n"
        "with durable.SyncActivityExecutor() as executor:\n"
        "    assert executor.execute(one) == 1\n"
        "print([name for name in ('sqlalchemy', 'sqlite3') if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@activity(name="alone.booking", effect="transaction")
def booking(*, session: Session = resource(Session)) -> None:
    raise AssertionError(session)


async def test_what_writes_in_the_engines_database_is_refused() -> None:
    async with ActivityExecutor(booking) as executor:
        with pytest.raises(InvalidCallError, match="an executor has none"):
            await executor.execute(booking)
