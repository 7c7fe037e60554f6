"""Operations outside of workflows, and what stays silent within."""

import asyncio
import inspect
import threading
from typing import Any

import pytest

import durable
from durable import (
    activity_info,
    deprecate_patch,
    in_activity,
    in_workflow,
    info,
    is_activity_cancelled,
    now,
    patched,
    random,
    sleep,
    uuid4,
    wait_condition,
    workflow,
)
from durable.errors import InvalidDurationError, NotInWorkflowError
from durable.testing.driver import RUN_ID, Driver

CALLS: dict[str, Any] = {
    "sleep": lambda: sleep(1),
    "now": now,
    "random": random,
    "uuid4": uuid4,
    "wait_condition": lambda: wait_condition(lambda: True),
    "patched": lambda: patched("x"),
    "deprecate_patch": lambda: deprecate_patch("x"),
    "info": info,
    "activity_info": activity_info,
    "is_activity_cancelled": is_activity_cancelled,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("in_loop", [False, True])
def test_operation_outside_of_a_workflow_is_refused_by_name(
    name: str, in_loop: bool
) -> None:
    def call() -> None:
        result = CALLS[name]()
        if inspect.iscoroutine(result):
            result.send(None)

    async def main() -> None:
        call()

    def attempt() -> None:
        if in_loop:
            asyncio.run(main())
        else:
            call()

    with pytest.raises(NotInWorkflowError, match=rf"durable\.{name}\(\)") as caught:
        attempt()
    assert caught.value.hint
    assert isinstance(caught.value, RuntimeError)


def test_where_am_i_can_be_asked_anywhere() -> None:
    answers: list[bool] = []
    thread = threading.Thread(
        target=lambda: answers.append(in_workflow() or in_activity())
    )
    thread.start()
    thread.join()
    assert answers == [False]
    assert not in_workflow()

    @workflow
    async def asking() -> list[bool]:
        return [in_workflow(), in_activity()]

    driver = Driver(asking())
    driver.start()
    assert driver.result() == [True, False]


def test_info_tells_what_the_run_is() -> None:
    @workflow(version="7.0.0")
    async def telling() -> list[Any]:
        about = info()
        return [
            about.workflow_id,
            about.run_id,
            about.workflow_type,
            about.version,
            about.attempt,
            about.namespace,
            about.cancellation_reason,
            about.is_continue_as_new_suggested,
        ]

    driver = Driver(telling(), workflow_id="order-42")
    driver.start()
    assert driver.result() == [
        "order-42",
        RUN_ID,
        "telling",
        "7.0.0",
        1,
        "default",
        None,
        False,
    ]


@pytest.mark.parametrize("timeout", [-1, "soon", float("nan")])
def test_wait_condition_refuses_what_is_no_timeout(timeout: Any) -> None:
    @workflow
    async def waiting() -> None:
        with pytest.raises(InvalidDurationError, match="wait_condition"):
            await wait_condition(lambda: True, timeout=timeout)

    assert Driver(waiting()).start().is_closed


def test_every_public_name_can_be_imported() -> None:
    for name in durable.__all__:
        assert getattr(durable, name) is not None
    assert set(durable.__all__) == set(dir(durable))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        durable.nothing  # type: ignore[attr-defined]  # the test  # noqa: B018 - too
