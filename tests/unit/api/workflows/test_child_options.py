"""Options of children: written where the call is made, written out in the event."""

from __future__ import annotations

from typing import Any

import pytest

from durable import (
    ChildCancellationType,
    IdReusePolicy,
    ParentClosePolicy,
    sleep,
    workflow,
)
from durable.api.workflows.child_options import START_OPTIONS, refuse_others
from durable.core.history.commands import StartChildWorkflowExecution
from durable.errors import (
    InvalidCallError,
    InvalidDurationError,
    InvalidIdError,
    InvalidOptionError,
    PayloadError,
)
from tests.unit.api.workflows.family import Family


@workflow(name="child_options.pay", version="2.0.0")
async def pay(cents: int, *, currency: str = "EUR") -> str:
    return f"{cents} {currency}"


def started_under(definition: Any, **started: Any) -> StartChildWorkflowExecution:
    """The command of a child of that workflow."""

    @workflow(name="child_options.optional")
    async def optional() -> None:
        await sleep(10)
        await definition(5)

    family = Family(optional(), **started)
    family.start()
    family.now += 10_000_000
    commands = family.turn().commands
    (command,) = [c for c in commands if isinstance(c, StartChildWorkflowExecution)]
    return command


def test_defaults_are_written_out() -> None:
    command = started_under(pay)
    settings = command.settings
    assert (command.workflow_type, command.summary) == ("child_options.pay", None)
    assert settings.task_queue == "default"
    assert settings.run_timeout is settings.execution_timeout is None
    assert settings.parent_close_policy == "terminate"
    assert settings.cancellation_type == "wait_cancellation_completed"
    assert settings.id_reuse_policy == "allow_duplicate"
    assert (settings.version, settings.memo) == ("2.0.0", {})
    assert settings.inherit_parent_timeout
    assert settings.propagate_failures


def test_options_reach_the_command() -> None:
    changed = pay.options(
        id="pay-5",
        task_queue="urgent",
        run_timeout="1d",
        execution_timeout=3600,
        parent_close_policy=ParentClosePolicy.ABANDON,
        cancellation_type=ChildCancellationType.WAIT_CANCELLATION_REQUESTED,
        id_reuse=IdReusePolicy.REJECT_DUPLICATE,
        inherit_parent_timeout=False,
        propagate_failures=False,
        memo={"why": [1]},
        summary="urgent",
    )
    command = started_under(changed)
    settings = command.settings
    assert (command.workflow_id, command.summary) == ("pay-5", "urgent")
    assert settings.task_queue == "urgent"
    assert settings.run_timeout == 86_400_000_000
    assert settings.execution_timeout == 3_600_000_000
    assert settings.parent_close_policy == "abandon"
    assert settings.cancellation_type == "wait_cancellation_requested"
    assert settings.id_reuse_policy == "reject_duplicate"
    assert [bytes(p.json) for p in settings.memo.values()] == [b"[1]"]
    assert not settings.inherit_parent_timeout
    assert not settings.propagate_failures
    assert started_under(pay).workflow_id != "pay-5"


def test_options_add_up_and_the_later_win() -> None:
    settings = started_under(
        pay.options(task_queue="a", summary="b").options(task_queue="c")
    )
    assert (settings.settings.task_queue, settings.summary) == ("c", "b")


def test_options_of_the_decorator_are_those_of_the_child() -> None:
    @workflow(name="child_options.slow", task_queue="slow", execution_timeout="2h")
    async def slow(n: int) -> None: ...

    settings = started_under(slow).settings
    assert (settings.task_queue, settings.execution_timeout) == ("slow", 7_200_000_000)
    assert started_under(slow.options(task_queue="x")).settings.task_queue == "x"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"wait_for_cancellation": False}, "try_cancel"),
        ({"wait_for_cancellation": True}, "wait_cancellation_completed"),
        ({"cancellation_type": ChildCancellationType.ABANDON}, "abandon"),
        (
            {
                "wait_for_cancellation": False,
                "cancellation_type": ChildCancellationType.ABANDON,
            },
            "abandon",
        ),
        (
            {
                "wait_for_cancellation": True,
                "cancellation_type": ChildCancellationType.WAIT_CANCELLATION_REQUESTED,
            },
            "wait_cancellation_requested",
        ),
    ],
)
def test_not_to_wait_for_cancellation_is_to_try_it(options: Any, expected: str) -> None:
    assert started_under(pay.options(**options)).settings.cancellation_type == expected


CONTRADICTIONS = [
    (False, ChildCancellationType.WAIT_CANCELLATION_COMPLETED),
    (False, ChildCancellationType.WAIT_CANCELLATION_REQUESTED),
    (True, ChildCancellationType.TRY_CANCEL),
    (True, ChildCancellationType.ABANDON),
]


@pytest.mark.parametrize(("waits", "kind"), CONTRADICTIONS)
def test_contradicting_options_are_refused(
    waits: bool, kind: ChildCancellationType
) -> None:
    with pytest.raises(InvalidOptionError, match="contradicts"):
        pay.options(wait_for_cancellation=waits, cancellation_type=kind)
    with pytest.raises(InvalidOptionError, match="contradicts"):
        pay.options(wait_for_cancellation=waits).options(cancellation_type=kind)


BAD_OPTIONS: list[dict[str, Any]] = [
    {"id": ""},
    {"task_queue": " x"},
    {"run_timeout": 0},
    {"run_timeout": -1},
    {"execution_timeout": "soon"},
    {"parent_close_policy": "terminate"},
    {"cancellation_type": "abandon"},
    {"id_reuse": True},
    {"inherit_parent_timeout": 1},
    {"propagate_failures": "no"},
    {"wait_for_cancellation": None},
    {"memo": {"key": (1, 2)}},
    {"summary": 5},
    {"no_such_option": 1},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_option_is_refused_by_name(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(
        (InvalidOptionError, InvalidDurationError, InvalidIdError, PayloadError),
        match=f"(?i){name}",
    ):
        pay.options(**options)


@pytest.mark.parametrize(
    ("started", "options", "expected"),
    [
        ({}, {}, None),
        ({}, {"run_timeout": 30}, 30),
        ({"run_timeout": 60_000_000}, {}, 50),
        ({"execution_timeout": 60_000_000}, {}, 50),
        ({"run_timeout": 60_000_000, "execution_timeout": 40_000_000}, {}, 30),
        ({"run_timeout": 60_000_000}, {"run_timeout": 20}, 20),
        ({"run_timeout": 60_000_000}, {"run_timeout": 70}, 50),
        ({"run_timeout": 60_000_000}, {"inherit_parent_timeout": False}, None),
        (
            {"run_timeout": 60_000_000},
            {"inherit_parent_timeout": False, "run_timeout": 70},
            70,
        ),
    ],
)
def test_child_has_at_most_the_time_its_parent_has_left(
    started: dict[str, int], options: dict[str, Any], expected: int | None
) -> None:
    found = started_under(pay.options(**options), **started).settings.run_timeout
    assert found == (None if expected is None else expected * 1_000_000)


def test_call_keeps_its_options_for_an_engine() -> None:
    call = pay.options(id="pay-5", memo={"a": 1})(5)
    assert call.child_options == {"id": "pay-5", "memo": {"a": 1}}
    refuse_others(call.child_options, START_OPTIONS, "child_options.pay", "an engine")
    assert pay(5).child_options == {}
    other = pay.options(summary="x", propagate_failures=False)(5)
    with pytest.raises(InvalidCallError, match="propagate_failures, summary"):
        refuse_others(
            other.child_options, START_OPTIONS, "child_options.pay", "an engine"
        )
