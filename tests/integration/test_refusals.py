"""Wrong input is refused at the call, typed, before anything is written."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable import (
    DurableError,
    Engine,
    IdConflictPolicy,
    InvalidInputError,
    RetryPolicy,
    activity,
    sleep,
    workflow,
)
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    InvalidDurationError,
    InvalidIdError,
    InvalidOptionError,
    PayloadError,
    PayloadTooLargeError,
)
from durable.testing.environment import TestEnvironment


@dataclass
class Order:
    id: int


@dataclass
class RushOrder(Order):
    hours: int = 1


@workflow(name="refusals.take")
async def take(value: Any = None) -> Any:
    return value


@workflow(name="refusals.take_order")
async def take_order(order: Order, count: int = 1) -> int:
    return order.id * count


UNTYPED: Any = take_order  # what a program without type checks may do with it


@activity(name="refusals.some_activity")
async def some_activity(value: int) -> int:
    return value


IDS: list[Any] = ["", "x" * 256, "é" * 128, "a\0b", "a\nb", "\x1b[31m", " a", "a ", 5]
VALUES: list[Any] = [
    float("nan"),
    float("inf"),
    {"a": [float("-inf")]},
    (1, 2),
    {1: 2},
    {"a": {(1, 2): 3}},
    "\ud800",
    ["ok", "\udfff"],
    {1, 2},
    lambda: None,
    object(),
    Order(1),
    timedelta(seconds=1),
]


@pytest.mark.parametrize("workflow_id", IDS, ids=[str(n) for n in range(len(IDS))])
async def test_f2_ids_are_refused_before_writing(workflow_id: Any) -> None:
    async with Engine("memory://") as engine:
        with pytest.raises(InvalidIdError):
            await engine.start(take(), id=workflow_id)
        with pytest.raises(InvalidIdError):
            await engine.get(workflow_id)
        assert await engine.list() == []


@pytest.mark.parametrize(
    "workflow_id", ["../x", "a%2fb", "'; --", "Ordér", "ñ", "日本"]
)
async def test_f2_odd_but_honest_ids_are_kept(workflow_id: str) -> None:
    async with Engine("memory://") as engine:
        await engine.execute(take(), id=workflow_id)
        assert (await engine.get(workflow_id)).workflow_id == workflow_id


@pytest.mark.parametrize("value", VALUES, ids=[str(n) for n in range(len(VALUES))])
def test_a_value_that_would_change_is_refused_at_the_call(value: Any) -> None:
    with pytest.raises(
        PayloadError, match=r"Argument 'value' of 'refusals\.take'"
    ) as no:
        take(value)
    assert not isinstance(no.value, PayloadTooLargeError)


def test_a_large_value_is_refused_with_its_size_and_the_limit() -> None:
    with pytest.raises(PayloadTooLargeError, match=r"3,000,002 bytes.*2,097,152"):
        take("x" * 3_000_000)


def test_a_subclass_of_the_annotated_class_is_refused() -> None:
    with pytest.raises(PayloadError, match=r"RushOrder.*Order"):
        take_order(RushOrder(1))


@pytest.mark.parametrize(
    "call",
    [
        lambda: UNTYPED(),
        lambda: UNTYPED(Order(1), 2, 3),
        lambda: UNTYPED(Order(1), cuont=2),
        lambda: UNTYPED("order"),
        lambda: UNTYPED(Order(1), "two"),
        lambda: UNTYPED(None),
    ],
    ids=["none", "too many", "misspelt", "wrong type", "wrong second", "null"],
)
def test_wrong_arguments_are_refused_at_the_call(call: Callable[[], object]) -> None:
    with pytest.raises((InvalidCallError, PayloadError), match=r"refusals\.take_order"):
        call()


@pytest.mark.parametrize(
    "options",
    [
        {"run_timeout": -1},
        {"run_timeout": 0},
        {"run_timeout": float("nan")},
        {"run_timeout": float("inf")},
        {"run_timeout": "soon"},
        {"run_timeout": "5 parsecs"},
        {"execution_timeout": 1e18},
        {"execution_timeout": timedelta.max},
        {"run_timeout": [1]},
        {"run_timeout": True},
        {"on_conflict": "new_run"},
        {"id_reuse": "fail"},
        {"task_queue": ""},
        {"request_id": "\0"},
        {"memo": {"k": {1: 2}}},
    ],
    ids=str,
)
async def test_d8_wrong_options_are_refused_before_writing(
    options: dict[str, Any],
) -> None:
    async with Engine("memory://") as engine:
        with pytest.raises(InvalidInputError):
            await engine.start(take(), **options)
        assert await engine.list() == []


@pytest.mark.parametrize(
    "wrong",
    [take, 5, None, "", "no such workflow", some_activity, take_order],
    ids=str,
)
async def test_only_calls_of_workflows_can_be_started(wrong: Any) -> None:
    async with Engine("memory://") as engine:
        if wrong == "no such workflow":
            # A name without code here: it waits for a worker that knows it.
            run = await engine.start(wrong, id="w")
            assert (await run.describe()).owner is None
            return
        with pytest.raises(InvalidInputError):
            await engine.start(wrong)
        assert await engine.list() == []


async def test_a_coroutine_is_refused_without_a_warning() -> None:
    wrong: Any = some_activity(1)
    async with Engine("memory://") as engine:
        with pytest.raises(InvalidCallError, match="no workflow call"):
            await engine.start(wrong)


async def test_awaiting_a_call_says_what_to_do() -> None:
    with pytest.raises(InvalidCallError, match=r"engine.execute\(refusals.take"):
        await take()


@pytest.mark.parametrize(
    "options",
    [
        {"max_activities": 0},
        {"max_activities": 1.5},
        {"max_cached_runs": -1},
        {"workflow_task_attempts": 0},
        {"namespace": ""},
        {"task_queue": "\n"},
        {"blocked_after": "never"},
        {"drain_timeout": -1},
        {"definitions": [5]},
        {"definitions": [asyncio]},
    ],
    ids=str,
)
def test_an_engine_refuses_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        Engine("memory://", **options)


@pytest.mark.parametrize(
    "url",
    ["", "orders.db", "nonsense://x", None, 5, "sqlite:///x.db?mode=fast", "sqlite"],
    ids=str,
)
async def test_a_wrong_url_is_refused_with_the_right_form(url: Any) -> None:
    with pytest.raises(DurableError) as refusal:
        async with Engine(url):
            pass
    assert "sqlite:///" in str(refusal.value) or "synchronous" in str(refusal.value)


@pytest.mark.parametrize(
    "options",
    [
        {"max_attempts": -1},
        {"max_attempts": 1.5},
        {"initial_interval": 0},
        {"initial_interval": -1},
        {"initial_interval": float("nan")},
        {"backoff_coefficient": 0.5},
        {"backoff_coefficient": float("nan")},
        {"max_interval": 0.1},
        {"retryable_errors": "busy"},
        {"retryable_errors": (5,)},
        {"non_retryable": [ValueError]},
    ],
    ids=str,
)
def test_f8_a_retry_policy_refuses_what_cannot_work(options: dict[str, Any]) -> None:
    with pytest.raises((InvalidOptionError, InvalidDurationError), match="RetryPolicy"):
        RetryPolicy(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"start_to_close_timeout": 0},
        {"start_to_close_timeout": None},
        {"start_to_close_timeout": "x"},
        {"retry": 3},
        {"cancellation_type": "try"},
        {"effect": 1},
        {"summary": 5},
        {"no_such_option": 1},
    ],
    ids=str,
)
def test_an_activity_refuses_wrong_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        activity(**options)(_plain)
    with pytest.raises(InvalidInputError):
        some_activity.options(**options)


async def _plain() -> None:
    """Something to decorate."""


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e18, "x", None])
async def test_d8_a_wrong_sleep_fails_the_run_and_hangs_nothing(value: Any) -> None:
    @workflow(name="refusals.sleeper")
    async def sleeper() -> None:
        await sleep(value)

    async with TestEnvironment() as env:
        with pytest.raises(DurableError, match="duration"):
            await env.execute(sleeper())


def test_f5_two_functions_of_one_name_are_refused() -> None:
    first: dict[str, Any] = {"__name__": "one"}
    second: dict[str, Any] = {"__name__": "two"}
    source = "async def clash(): ..."
    exec(compile(source, "one.py", "exec"), first)  # noqa: S102 - two modules with one name
    exec(compile(source, "two.py", "exec"), second)  # noqa: S102 - as above
    workflow(first["clash"])
    workflow(first["clash"])  # the same again: a reload
    with pytest.raises(DefinitionError, match=r"one.clash.*two.clash"):
        workflow(second["clash"])


@given(st.text(max_size=300))
def test_any_text_is_a_good_id_or_a_typed_refusal(text: str) -> None:
    from durable.options import check_id

    with contextlib.suppress(InvalidIdError):
        assert check_id(text, "the id") == text


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=True),
        st.text(),
        st.timedeltas(),
        st.binary(),
        st.lists(st.integers()),
    )
)
def test_anything_is_a_duration_or_a_typed_refusal(value: Any) -> None:
    from durable.options import to_microseconds

    with contextlib.suppress(InvalidDurationError):
        assert to_microseconds(value, "the wait") >= 0


def test_policies_are_enums_not_texts() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        IdConflictPolicy("nonsense")
