"""Activities: what was asked for, row by row (see `founding_rows`)."""

from __future__ import annotations

import asyncio
import itertools
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from durable import (
    ActivityAttempt,
    ActivityError,
    ActivityExecutor,
    ActivityTimeoutError,
    OutcomeUnknown,
    RetryPolicy,
    RunStatus,
    SyncActivityExecutor,
    WorkflowFailedError,
    activity,
    activity_info,
    info,
    now,
    workflow,
)
from durable.core.history.events import ActivityTaskCompleted
from durable.errors import InvalidCallError, NotRegisteredError, PayloadError
from durable.options import ActivityOptions
from durable.telemetry import OpenTelemetryObserver
from durable.testing import TestEnvironment
from tests.acceptance.founding_rows import shows

BEGUN: list[float] = []
"""When each attempt began, in seconds of virtual time."""


@pytest.fixture(autouse=True)
def _fresh() -> None:
    BEGUN.clear()


def waits() -> list[float]:
    return [round(b - a, 3) for a, b in itertools.pairwise(BEGUN)]


class Declined(Exception):
    """The bank says no."""


@dataclass
class Order:
    id: str
    cents: int


@activity(name="founding.charge")
async def charge(order: Order) -> str:
    return f"receipt for {order.cents}"


@activity(name="founding.ship")
def ship(order: Order, express: bool = False) -> str:
    return f"{order.id} by {'air' if express else 'sea'}"


@workflow(name="founding.place_order")
async def place_order(order: Order) -> dict[str, str]:
    receipt = await charge(order)
    return {"receipt": receipt, "parcel": await ship(order), "by": info().workflow_id}


@shows(
    "workflow function",
    "`@workflow` on an async function; what a context would hold are functions, such as"
    " `durable.info()` and `durable.now()`",
)
async def test_s1_5_2_1_order_is_an_async_function_whose_context_is_around() -> None:
    async with TestEnvironment() as env:
        run = await env.start(place_order(Order("tea", 500)), id="order-1")
        assert await run.result() == {
            "receipt": "receipt for 500",
            "parcel": "tea by sea",
            "by": "order-1",
        }


@shows(
    "activity",
    "`@activity` on an async or a plain function; its annotations are the types, its"
    " name is the function's, or `name=`",
)
async def test_s1_5_2_1_activity_has_a_name_and_types_that_are_kept_to() -> None:
    @activity
    async def plain(cents: int) -> int:
        return cents

    assert (plain.name, charge.name) == ("plain", "founding.charge")
    # Outside of a workflow it is the function, and both kinds are awaited.
    assert await ship(Order("tea", 1), express=True) == "tea by air"
    wrong: Any = "500"
    with pytest.raises(InvalidCallError):
        place_order(Order("tea", 1), wrong)  # type: ignore[call-arg]  # the test
    with pytest.raises(PayloadError, match=r"argument 'order'|Argument 'order'"):
        place_order(wrong)


@activity(name="founding.failing")
async def failing(text: str) -> None:
    BEGUN.append(asyncio.get_running_loop().time())
    raise Declined(text)


@workflow(name="founding.tries")
async def tries(text: str) -> None:
    await failing(text)


async def attempts_of(call: Any) -> int:
    BEGUN.clear()
    async with TestEnvironment() as env:
        with pytest.raises(WorkflowFailedError) as caught:
            await env.execute(call)
    assert isinstance(caught.value.__cause__, Declined)
    return len(BEGUN)


@shows(
    "retry policy",
    "`@activity(retry=...)`, and `.options(retry=...)` for a call; `None` is one"
    " attempt",
)
async def test_s2_1_1_policy_of_the_call_goes_before_that_of_the_activity() -> None:
    @activity(name="founding.twice", retry=RetryPolicy(max_attempts=2))
    async def twice() -> None:
        await failing("no")

    @workflow(name="founding.by_activity")
    async def by_activity() -> None:
        await twice()

    @workflow(name="founding.by_call")
    async def by_call() -> None:
        await twice.options(retry=None)()

    assert await attempts_of(tries("no")) == 3
    assert await attempts_of(by_activity()) == 2
    assert await attempts_of(by_call()) == 1


@shows(
    "max_attempts", "`RetryPolicy(max_attempts=3)`, which counts the first; 0: no bound"
)
async def test_s2_1_1_activity_fails_on_exactly_the_third_attempt() -> None:
    assert RetryPolicy().max_attempts == 3
    assert await attempts_of(tries("no")) == 3


@activity(name="founding.slow", retry=None)
async def slow() -> None:
    await asyncio.sleep(3_600)


@workflow(name="founding.cut")
async def cut() -> tuple[str, float]:
    began = now()
    try:
        await slow()
    except ActivityTimeoutError as error:
        return error.timeout_type, (now() - began).total_seconds()
    return "in time", 0.0


@shows("timeout", "`start_to_close_timeout`, 60 s by default, of each attempt")
async def test_s2_1_1_attempt_is_cut_at_60_seconds_with_a_timeout() -> None:
    async with TestEnvironment() as env:
        assert await env.execute(cut()) == ("start_to_close", 60.0)


@shows("backoff", "`initial_interval`, `backoff_coefficient`, `max_interval`")
async def test_s2_1_1_retry_policy_waits_1_2_4_up_to_60() -> None:
    @workflow(name="founding.patient")
    async def patient() -> None:
        await failing.options(retry=RetryPolicy(max_attempts=9))("no")

    policy = RetryPolicy()
    assert (policy.initial_interval, policy.max_interval) == (1.0, 60.0)
    assert policy.backoff_coefficient == 2.0
    await attempts_of(patient())
    assert waits() == [1, 2, 4, 8, 16, 32, 60, 60]


POLICIES = [
    (RetryPolicy(), 3),
    (RetryPolicy(retryable_errors=("busy",)), 3),
    (RetryPolicy(retryable_errors=("gone",)), 1),
    (RetryPolicy(retryable_errors=(Declined,)), 3),
    (RetryPolicy(retryable_errors=(KeyError, "gone")), 1),
    (RetryPolicy(non_retryable=(Declined,)), 1),
    (RetryPolicy(non_retryable=("Declined",)), 1),
    (RetryPolicy(retryable_errors=("busy",), non_retryable=(Declined,)), 1),
]


@shows(
    "retryable_errors",
    "`retryable_errors` with texts or exception classes, and `non_retryable` likewise",
)
@pytest.mark.parametrize(("policy", "attempts"), POLICIES, ids=range(len(POLICIES)))
async def test_s2_1_1_text_that_is_hit_is_tried_again_and_no_other(
    policy: RetryPolicy, attempts: int
) -> None:
    @workflow(name="founding.picky")
    async def picky() -> None:
        await failing.options(retry=policy)("the line is busy")

    assert RetryPolicy().retryable_errors == ()
    assert await attempts_of(picky()) == attempts


@shows(
    "is_idempotent",
    '`effect="once"` raises `OutcomeUnknown` and never runs it again; otherwise,'
    " and by default, the retry policy lets it run again",
)
@pytest.mark.parametrize("is_idempotent", [False, True])
async def test_s2_1_1_attempt_that_was_cut_short_runs_again_only_if_it_may(
    is_idempotent: bool, tmp_path: Path
) -> None:
    options: ActivityOptions = {"effect": "idempotent" if is_idempotent else "once"}

    @activity(name="founding.transfer", **options)
    async def transfer() -> str:
        BEGUN.append(activity_info().attempt)
        if activity_info().attempt == 1:
            await asyncio.sleep(50)
        return "moved"

    @workflow(name="founding.bank")
    async def bank() -> str:
        try:
            return await transfer()
        except OutcomeUnknown as error:
            return f"unknown since attempt {error.attempt}"

    url, known = f"sqlite:///{tmp_path / 'bank.db'}", [bank, transfer]
    async with TestEnvironment(url, definitions=known, drain_timeout="1ms") as env:
        await env.start(bank(), id="w")
        await env.sleep(1)
    async with TestEnvironment(url, definitions=known, clock=env.clock) as env:
        result = await (await env.get("w")).result()
    assert result == ("moved" if is_idempotent else "unknown since attempt 1")
    assert ([1, 2] if is_idempotent else [1]) == BEGUN


# --- how they fail --------------------------------------------------------------------

CAUSE = "Elsewhere: no"


def unknown_class() -> type[Exception]:
    return type("Elsewhere", (Exception,), {})


@activity(name="founding.elsewhere")
async def elsewhere(text: str) -> None:
    raise unknown_class()(text)


@workflow(name="founding.kinds")
async def kinds(policy: str) -> list[Any]:
    policies = {
        "all": RetryPolicy(max_attempts=2),
        "none": RetryPolicy(max_attempts=5, non_retryable=("Elsewhere",)),
        "last": RetryPolicy(max_attempts=1, non_retryable=("Elsewhere",)),
    }
    try:
        await elsewhere.options(retry=policies[policy])("no")
    except ActivityError as error:
        found = [error.activity_type, error.attempt, error.retry_state]
        return [*found, str(error.__cause__)]
    return []


@shows(
    "error kinds",
    "the exception itself where its class is known, else an `ActivityError` with name,"
    " attempt, `retry_state` and cause; `ActivityTimeoutError`; `NotRegisteredError`",
)
async def test_s2_1_2_unknown_activity_is_said_to_be_unknown() -> None:
    with pytest.raises(NotRegisteredError, match=r"founding\.chrage"):
        TestEnvironment(mocks={"founding.chrage": lambda order: "receipt"})


@shows("error kinds")
async def test_s2_1_2_all_attempts_failed_with_name_attempt_and_cause() -> None:
    async with TestEnvironment() as env:
        found = await env.execute(kinds("all"))
    assert found == ["founding.elsewhere", 2, "maximum_attempts_reached", CAUSE]


@shows("error kinds")
async def test_s2_1_2_what_may_not_be_retried_fails_with_its_cause() -> None:
    async with TestEnvironment() as env:
        found = await env.execute(kinds("none"))
    assert found == ["founding.elsewhere", 1, "non_retryable_failure", CAUSE]


@shows("error kinds")
async def test_s2_1_2_timeout_is_tried_again_whatever_the_list_of_errors_says() -> None:
    @workflow(name="founding.timeouts")
    async def timeouts() -> list[Any]:
        policy = RetryPolicy(max_attempts=2, retryable_errors=("never said",))
        try:
            await slow.options(retry=policy)()
        except ActivityTimeoutError as error:
            return [error.activity_type, error.attempt, error.timeout_type]
        return []

    async with TestEnvironment() as env:
        assert await env.execute(timeouts()) == ["founding.slow", 2, "start_to_close"]


@shows("last attempt", "`retry_state` says so, whichever attempt it was")
async def test_s2_1_2_not_retryable_is_said_of_the_last_attempt_too() -> None:
    async with TestEnvironment() as env:
        found = await env.execute(kinds("last"))
    assert found == ["founding.elsewhere", 1, "non_retryable_failure", CAUSE]


# --- without an engine ----------------------------------------------------------------


@shows(
    "executor",
    "`ActivityExecutor`: `register()`, `execute()` with retries and timeouts,"
    " `attempts` with their durations, `on_attempt=` for metrics, `cancel()`;"
    " `SyncActivityExecutor` is one without asyncio",
)
async def test_s2_1_2_executor_registers_and_retries_without_an_engine() -> None:
    durations: dict[str, list[float]] = {}

    def charge_by_name(cents: int) -> str:
        if activity_info().attempt < 3:
            raise ConnectionError("not yet")
        return f"receipt for {cents}"

    def observe(attempt: ActivityAttempt) -> None:
        seconds = attempt.duration.total_seconds()
        durations.setdefault(attempt.activity_type, []).append(seconds)

    executor = ActivityExecutor(on_attempt=observe)
    policy = RetryPolicy(max_attempts=3, initial_interval=0.01)
    executor.register(charge_by_name, name="charge", retry=policy)
    async with executor:
        assert await executor.execute("charge", 500) == "receipt for 500"
        outcomes = [attempt.outcome for attempt in executor.attempts]
        with pytest.raises(NotRegisteredError, match="chrage"):
            await executor.execute("chrage", 500)
    assert outcomes == ["failed", "failed", "completed"]
    assert len(durations["charge"]) == 3


@shows("executor")
def test_s2_1_2_executor_runs_where_there_is_no_event_loop() -> None:
    with SyncActivityExecutor() as executor:
        assert executor.execute(ship, Order("tea", 500))


# --- what is known of attempts --------------------------------------------------------


@shows(
    "attempts",
    "`run.attempts()`: a row for each attempt, failed ones with their duration, too. A"
    " first one that nothing disturbed is told by `run.history()`",
)
async def test_s2_1_2_each_attempt_is_kept_with_its_status_and_duration() -> None:
    @activity(name="founding.third_time")
    async def third_time() -> str:
        attempt = activity_info().attempt
        await asyncio.sleep(attempt if attempt < 3 else 7)
        if attempt == 1:
            raise Declined("not yet")
        if attempt == 2:
            await asyncio.sleep(600)
        return "done"

    @workflow(name="founding.attempts")
    async def attempts() -> str:
        return await third_time()

    async with TestEnvironment() as env:
        run = await env.start(attempts())
        assert await run.result() == "done"
        rows = await run.attempts()
        plain = await env.start(place_order(Order("tea", 500)))
        await plain.result()
        assert await plain.attempts() == []
        (charged, _) = [
            event.attributes
            for event in await plain.history()
            if isinstance(event.attributes, ActivityTaskCompleted)
        ]
    assert charged.attempt == 1
    assert charged.started_at
    assert [(row.attempt, row.activity_type, str(row.state)) for row in rows] == [
        (1, "founding.third_time", "failed"),
        (2, "founding.third_time", "timed_out"),
        (3, "founding.third_time", "completed"),
    ]
    spans = [
        (row.closed_at - row.started_at) / 1_000_000
        for row in rows
        if row.closed_at and row.started_at
    ]
    assert spans == [1, 60, 7]
    assert rows[0].failure
    assert "not yet" in rows[0].failure


@shows(
    "activity metrics",
    "`durable.activity.duration` of OpenTelemetry, by type and outcome",
)
async def test_s2_1_2_histogram_has_the_duration_of_each_attempt() -> None:
    reader = InMemoryMetricReader()
    observer = OpenTelemetryObserver(TracerProvider(), MeterProvider([reader]))
    async with TestEnvironment(observer=observer) as env:
        with pytest.raises(WorkflowFailedError):
            await env.execute(tries("no"))
        assert await env.execute(cut()) == ("start_to_close", 60.0)
        data = reader.get_metrics_data()
    assert data is not None
    metrics = {
        metric.name: metric.data.data_points
        for scope in data.resource_metrics[0].scope_metrics
        for metric in scope.metrics
    }
    points: Any = metrics["durable.activity.duration"]
    counts = {
        tuple(
            point.attributes[f"durable.{name}"] for name in ("activity.type", "outcome")
        ): (point.count, round(point.sum))
        for point in points
    }
    assert counts[("founding.failing", "failed")] == (3, 0)
    assert counts[("founding.slow", "timed_out")] == (1, 60)


@shows(
    "executor missing",
    "an activity is its function, so none lacks one. An engine that was not given it"
    " says so in its log, runs nothing of it, and the run waits for a worker that"
    " has it",
)
async def test_s2_1_3_engine_without_the_activity_says_so_and_runs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with TestEnvironment(definitions=[place_order, ship]) as env:
        run = await env.start(place_order(Order("tea", 500)), id="order-1")
        await env.sleep("1s")
        (said,) = [
            record.getMessage()
            for record in caplog.records
            if record.levelno == logging.WARNING
        ]
        assert "founding.charge" in said
        assert "founding.ship" in said
        assert (await run.describe()).status is RunStatus.RUNNING


@shows("executor missing")
def test_s2_1_3_wrong_activity_is_refused_before_there_is_an_engine() -> None:
    code = "from durable import activity\n@activity\nclass Charge: ..."
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "@activity was put on the class Charge" in done.stderr
