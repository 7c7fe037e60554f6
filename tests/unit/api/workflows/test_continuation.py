"""Continuing as new, and checkpoints: by calls, and by plain arguments."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import (
    Signal,
    checkpoint,
    continue_as_new,
    limits,
    run,
    signal,
    sleep,
    wait_condition,
    workflow,
)
from durable.api.workflows.workflow import find_workflow
from durable.core.history.events import (
    CheckpointRecorded,
    WorkflowExecutionContinuedAsNew,
)
from durable.core.runtime import ContinueAsNew
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    InvalidDurationError,
    InvalidIdError,
    InvalidOptionError,
    NotInWorkflowError,
    PayloadError,
)
from tests.unit.api.one_run import OneRun

numbers = Signal("numbers", int)


@workflow(name="continuation.other")
async def other(text: str) -> str:
    return text


@workflow(name="continuation.looping")
async def looping(how: str, n: int = 0, *, flag: bool = False) -> str:
    if how == "call":
        continue_as_new(looping("end", n + 1, flag=True))
    if how == "arguments":
        continue_as_new("end", n + 1, flag=True)
    if how == "names":
        continue_as_new(how="end", n=n + 1, flag=True)
    if how == "other":
        continue_as_new(other("x"))
    if how == "options":
        continue_as_new(
            looping("end"), task_queue="slow", run_timeout="1h", memo={"a": [1]}
        )
    if how == "options of the call":
        changed = looping.options(task_queue="slow", memo={"a": 1}, run_timeout=5)
        continue_as_new(changed("end"), run_timeout="1h", memo={"a": [1]})
    if how == "except":
        try:
            continue_as_new("end")
        except Exception:  # noqa: BLE001 - it must not be caught here
            return "caught"
    return how


def continued(how: str) -> WorkflowExecutionContinuedAsNew:
    one = OneRun(looping(how))
    one.start()
    last = one.history[-1].attributes
    assert isinstance(last, WorkflowExecutionContinuedAsNew)
    return last


@pytest.mark.parametrize("how", ["call", "arguments", "names"])
def test_run_goes_on_with_new_arguments(how: str) -> None:
    event = continued(how)
    assert event.workflow_type == "continuation.looping"
    assert [bytes(p.json) for p in event.input] == [b'"end"', b"1", b"true"]
    assert event.task_queue == "default"


def test_run_may_go_on_as_another_workflow() -> None:
    event = continued("other")
    assert event.workflow_type == "continuation.other"
    assert [bytes(p.json) for p in event.input] == [b'"x"']


@pytest.mark.parametrize("how", ["options", "options of the call"])
def test_options_rule_the_new_run(how: str) -> None:
    event = continued(how)
    assert (event.task_queue, event.run_timeout) == ("slow", 3_600_000_000)
    assert [bytes(p.json) for p in event.memo.values()] == [b"[1]"]


def test_except_exception_does_not_stop_it() -> None:
    assert continued("except").workflow_type == "continuation.looping"
    assert not issubclass(ContinueAsNew, Exception)


def test_handler_of_a_class_may_continue() -> None:
    @workflow(name="continuation.Class")
    class Class:
        @run
        async def go(self, n: int) -> None:
            await wait_condition(lambda: False)

        @signal
        def next(self, n: int) -> None:
            continue_as_new(n)

    one = OneRun(Class.go(1))
    one.start()
    one.signal(Class.next(7))
    last = one.history[-1].attributes
    assert isinstance(last, WorkflowExecutionContinuedAsNew)
    assert last.workflow_type == "continuation.Class"
    assert [bytes(p.json) for p in last.input] == [b"7"]


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("beside a call", lambda: continue_as_new(other("x"), 1), InvalidCallError, "besi"),
    ("wrong count", lambda: continue_as_new(), InvalidCallError, "how"),
    ("wrong name", lambda: continue_as_new("x", m=1), InvalidCallError, "'m'"),
    ("wrong type", lambda: continue_as_new(5), PayloadError, "'how'"),
    (
        "unknown option",
        lambda: continue_as_new(other("x"), queue="x"),
        InvalidOptionError,
        "'queue'",
    ),
    (
        "option of a child",
        lambda: continue_as_new(other.options(summary="x")("x")),
        InvalidCallError,
        "summary",
    ),
    (
        "bad queue",
        lambda: continue_as_new(other("x"), task_queue=""),
        InvalidIdError,
        "task_queue",
    ),
    (
        "bad timeout",
        lambda: continue_as_new(other("x"), run_timeout="soon"),
        InvalidDurationError,
        "run_timeout",
    ),
    (
        "bad memo",
        lambda: continue_as_new(other("x"), memo={"a": object()}),
        PayloadError,
        "emo 'a'",
    ),
    ("checkpoint: count", lambda: checkpoint(), InvalidCallError, "how"),
    ("checkpoint: type", lambda: checkpoint(5), PayloadError, "'how'"),
    ("checkpoint: other", lambda: checkpoint(other("x")), InvalidCallError, "other"),
    (
        "checkpoint: options",
        lambda: checkpoint(looping.options(memo={})("x")),
        InvalidCallError,
        "options",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_wrong_use_is_refused_and_the_run_goes_on(
    call: Any, error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(how: str, n: int = 0, *, flag: bool = False) -> str:
        with pytest.raises(error, match=message):
            call()
        return "went on"

    monkeypatch.setattr(looping, "function", refused)
    one = OneRun(looping("x"))
    one.start()
    assert one.result() == "went on"


def test_arguments_are_those_of_the_code_that_runs_whatever_is_registered() -> None:
    @workflow(name="continuation.twins")
    async def old(number: int) -> None:
        continue_as_new(number=number + 1)

    @workflow(name="continuation.twins")
    async def new(text: str) -> None: ...

    assert find_workflow("continuation.twins") is new
    one = OneRun(old(1))
    one.start()
    assert isinstance(one.history[-1].attributes, WorkflowExecutionContinuedAsNew)


def test_outside_of_a_workflow_it_is_refused() -> None:
    with pytest.raises(NotInWorkflowError, match=r"continue_as_new\(\)"):
        continue_as_new(1)
    with pytest.raises(NotInWorkflowError, match=r"checkpoint\(\)"):
        checkpoint(1)


# --- checkpoints ----------------------------------------------------------------------

BEGUN: list[int] = []


@workflow(name="continuation.summing", checkpoint_every=6)
async def summing(total: int = 0, seen: int = 0) -> int:
    BEGUN.append(total)
    async for number in numbers:
        total, seen = total + number, seen + 1
        if seen == 12:
            return total
        checkpoint(summing(total, seen))
    raise AssertionError("unreachable")


def test_checkpoint_begins_anew_once_the_history_has_grown() -> None:
    BEGUN.clear()
    one = OneRun(summing())
    one.start()
    for number in range(1, 13):
        one.signal(numbers(number))
    assert one.result() == sum(range(1, 13))
    taken = one.events(CheckpointRecorded)
    assert taken
    inputs = [[int(bytes(p.json)) for p in event.input] for event in taken]
    assert all(total == sum(range(1, seen + 1)) for total, seen in inputs)
    assert {total for total, _ in inputs} <= set(BEGUN)


@pytest.mark.parametrize("is_busy", [True, False])
def test_checkpoint_is_passed_over_while_something_is_under_way(is_busy: bool) -> None:
    @workflow(name="continuation.busy", checkpoint_every=1)
    async def busy(n: int = 0) -> list[int]:
        await sleep(1)
        timer = asyncio.ensure_future(sleep(1)) if is_busy else None
        await asyncio.sleep(0)
        if n == 0:
            checkpoint(n + 1)
        if timer is not None:
            await timer
        return [n]

    one = OneRun(busy())
    one.start()
    for _ in range(2):
        one.now += 1_000_000
        one.turn()
    assert one.result() == [0 if is_busy else 1]
    assert len(one.events(CheckpointRecorded)) == (0 if is_busy else 1)


def test_every_is_a_number_of_events() -> None:
    assert summing.checkpoint_every == 6
    assert looping.checkpoint_every == limits.CHECKPOINT_EVENTS
    for wrong in (0, -1, 1.5, True, "often", None):
        with pytest.raises(InvalidOptionError, match="checkpoint_every"):
            workflow(checkpoint_every=wrong)(other.function)  # type: ignore[arg-type]  # the fault under test
    with pytest.raises(DefinitionError):
        workflow(summing)
