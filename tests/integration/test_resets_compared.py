"""Two runs compared: the first call in which they part."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from durable import (
    ApplicationError,
    Handle,
    RetryPolicy,
    SyncEngine,
    WorkflowFailedError,
    activity,
    compare,
    sleep,
    workflow,
)
from durable.client.resets.comparing import compare_histories
from durable.testing.environment import TestEnvironment

RESULTS: dict[str, str] = {}


@activity(retry=RetryPolicy(max_attempts=1))
async def compared_step(name: str) -> str:
    if RESULTS.get(name) == "fail":
        raise ApplicationError("no")
    return RESULTS.get(name, name)


@workflow
async def compared(names: str, rest: float = 1) -> str:
    done = ""
    for name in names:
        done += await compared_step(name)
    await sleep(rest)
    return done


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RESULTS.clear()


async def ended(
    env: TestEnvironment, id: str, *args: Any, **results: str
) -> Handle[Any]:
    RESULTS.clear()
    RESULTS.update(results)
    run = await env.start(compared(*args), id=id)
    with contextlib.suppress(WorkflowFailedError):
        await run.result()
    return run


async def test_runs_that_did_the_same_are_alike() -> None:
    async with TestEnvironment() as env:
        one, two = await ended(env, "1", "ab"), await ended(env, "2", "ab")

        found = await compare(one, two)

        assert found.is_alike
        assert found.alike == 5  # the start, two activities, a timer and the end


@pytest.mark.parametrize(
    ("args", "results", "alike", "what", "sides"),
    [
        (("ac",), {}, 0, "input", ("start", "start")),
        (("ab", 2), {}, 0, "input", ("start", "start")),
        (("ab",), {"a": "z"}, 1, "outcome", ("activity", "activity")),
        (("ab",), {"b": "fail"}, 2, "outcome", ("activity", "activity")),
    ],
)
async def test_the_first_difference_is_found_with_both_sides(
    args: tuple[Any, ...],
    results: dict[str, str],
    alike: int,
    what: str,
    sides: tuple[str, str],
) -> None:
    async with TestEnvironment() as env:
        one = await ended(env, "1", "ab")
        two = await ended(env, "2", *args, **results)

        found = await compare(one, two)

        assert (found.alike, found.is_alike) == (alike, False)
        different = found.difference
        assert different is not None
        assert different.left is not None
        assert different.right is not None
        assert different.what == what
        assert (different.left.kind, different.right.kind) == sides
        if results:
            assert different.left.outcome == "completed"
            assert different.left.value == f'"{"ab"[alike - 1]}"'
            assert different.right.value in ('"z"', "ApplicationError: no")
            assert different.left.source.split(":")[0].endswith("compared.py")


async def test_a_run_that_did_something_else_or_less_is_told() -> None:
    async with TestEnvironment() as env:
        one = await ended(env, "1", "ab")
        two = await one.fork(id="2", to="first_task")
        await two.terminate()

        found = await compare(one, two)

        assert found.difference is not None
        assert found.alike == 1
        assert found.difference.what in ("call", "outcome")
        open_run = await env.start(compared("ab", 1000), id="3")
        found = await compare(open_run, open_run)
        assert found.is_alike
        both = compare_histories(await one.history(), (await one.history())[:-1])
        assert both.difference is not None
        assert both.difference.what == "number of calls"
        assert both.difference.right is None
        assert both.difference.left is not None
        assert both.difference.left.kind == "end"


def test_runs_are_compared_without_an_event_loop() -> None:
    with SyncEngine("memory://") as engine:
        one = engine.start(compared("ab", 0.01), id="1")
        one.result()
        two = engine.start(compared("ab", 0.01), id="2")
        two.result()

        assert one.compare(two).is_alike
        again = one.reset(to=4)
        again.result()
        assert one.compare(again).is_alike
