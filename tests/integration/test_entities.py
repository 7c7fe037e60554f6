"""Entities on an engine: one call at a time, and what a caller gets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import (
    EntityDeadlockError,
    NoAnswerError,
    QueryFailedError,
    RunStatus,
    UpdateFailedError,
    WorkflowFailedError,
    activity,
    activity_client,
    workflow,
)
from durable.errors import (
    InvalidCallError,
    InvalidIdError,
    NotInWorkflowError,
)
from durable.testing.environment import TestEnvironment
from tests.integration.stock import (
    RAN,
    OutOfStock,
    Stock,
    elapsed,
    order,
    restock,
    work,
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


# --- turns ----------------------------------------------------------------------------


async def test_one_key_takes_one_call_at_a_time_in_order_of_arrival() -> None:
    async with TestEnvironment() as env:
        begun = env.clock.now()
        calls = [env.call(Stock["a"].take(who)) for who in "bcdef"]
        assert await asyncio.gather(*calls) == [9, 8, 7, 6, 5]
        assert 5 <= elapsed(env, begun) < 6
        assert await env.call(Stock["a"].whose()) == ["a", *"bcdef"]
    expected = [f"{what} {who}" for who in "bcdef" for what in ("begin", "end")]
    assert expected == RAN


async def test_different_keys_take_calls_side_by_side() -> None:
    async with TestEnvironment() as env:
        begun = env.clock.now()
        await asyncio.gather(*[env.call(Stock[k].take("x")) for k in "abcdefgh"])
        assert elapsed(env, begun) < 2
        assert len(await env.list(workflow_type="entity:entities.Stock")) == 8


async def test_shared_methods_answer_while_an_exclusive_one_is_under_way() -> None:
    async with TestEnvironment() as env:
        await env.call(Stock["a"].put())
        call = asyncio.create_task(env.call(Stock["a"].take("x", 5)))
        await env.sleep(0.5)
        assert RAN == ["begin x"]
        begun = env.clock.now()
        assert await env.call(Stock["a"].left()) == 11
        assert env.clock.now() == begun
        assert await call == 6
        assert await env.call(Stock["a"].left()) == 6


async def test_key_that_nobody_called_answers_as_a_new_object_and_is_not_made() -> None:
    async with TestEnvironment() as env:
        assert await env.call(Stock["a"].whose()) == ["a"]
        assert await env.call(Stock["a"].left()) == 10
        assert await env.list() == []
        with pytest.raises(QueryFailedError, match="as asked") as caught:
            await env.call(Stock["a"].fail())
        assert isinstance(caught.value.__cause__, OutOfStock)


async def test_failure_goes_to_its_caller_alone_and_takes_the_change_back() -> None:
    async with TestEnvironment() as env:
        first, second, third, fourth = await asyncio.gather(
            env.call(Stock["a"].take("b", 4)),
            env.call(Stock["a"].take("c", 8)),
            env.call(Stock["a"].break_it()),
            env.call(Stock["a"].take("d", 6)),
            return_exceptions=True,
        )
        assert (first, fourth) == (6, 0)
        assert isinstance(second, UpdateFailedError)
        assert isinstance(second.__cause__, OutOfStock)
        assert isinstance(third, UpdateFailedError)
        assert isinstance(third.__cause__, TypeError)
        assert await env.call(Stock["a"].whose()) == ["a", "b", "d"]
        (run,) = await env.list()
        assert run.status is RunStatus.RUNNING


async def test_timeout_ends_the_wait_and_not_the_call() -> None:
    async with TestEnvironment() as env:
        with pytest.raises(NoAnswerError, match=r"Stock\['a'\]\.nap"):
            await env.call(Stock["a"].nap(100), timeout="10s")
        with pytest.raises(NoAnswerError):
            await env.call(Stock["a"].take("x"), timeout="10s")
        assert RAN == []
        await env.sleep("100s")
        assert await env.call(Stock["a"].left()) == 9


async def test_wrong_calls_are_refused() -> None:
    async with TestEnvironment() as env:
        wrong: Any = "add"
        with pytest.raises(InvalidCallError, match="no call of an entity"):
            await env.call(wrong)
        with pytest.raises(InvalidCallError, match="changes nothing"):
            await env.call(Stock["a"].left(), update_id="x")
        with pytest.raises(InvalidIdError):
            await env.call(Stock["a"].put(), update_id="")
        assert await env.list() == []


# --- ids ------------------------------------------------------------------------------


async def test_call_of_one_id_runs_once_however_often_it_is_sent(database: str) -> None:
    async with TestEnvironment(database) as env:
        calls = [env.call(Stock["a"].take("x"), update_id="one") for _ in range(3)]
        assert await asyncio.gather(*calls) == [9, 9, 9]
        assert await env.call(Stock["a"].take("y"), update_id="two") == 8
        assert await env.call(Stock["a"].take("x"), update_id="one") == 9
    async with TestEnvironment(database, clock=env.clock) as env:
        assert await env.call(Stock["a"].take("x"), update_id="one") == 9
        assert await env.call(Stock["a"].left()) == 8
        # The run is live now, and has its answers before a checkpoint.
        assert await env.call(Stock["a"].put()) == 9
        assert await env.call(Stock["a"].take("x"), update_id="one") == 9
    assert len(RAN) == 4


async def test_call_that_was_answered_long_ago_is_not_made_again() -> None:
    # The caller's worker dies, and comes back when the entity has forgotten the id.
    name = "memory://answered-long-ago"
    async with TestEnvironment(name, definitions=[Stock, work]) as env:
        caller = TestEnvironment(name, clock=env.clock, definitions=[order])
        await caller.open()
        await caller.start(order("a"), id="w")
        await env.sleep(0.5)
        assert RAN == ["begin order"]
        await caller.close()
        await env.sleep(1)
        for _ in range(10):
            await asyncio.gather(*[env.call(Stock["a"].put()) for _ in range(30)])
        async with TestEnvironment(name, clock=env.clock, definitions=[order]) as again:
            run = await again.get("w", workflow=order)
            assert await run.result() == [9, 309]
            assert (await run.attempts())[-1].attempt == 2
    assert RAN == ["begin order", "end order"]


async def test_failed_call_of_one_id_fails_the_same_way_again() -> None:
    async with TestEnvironment() as env:
        for _ in range(2):
            with pytest.raises(UpdateFailedError) as caught:
                await env.call(Stock["a"].take("x", 50), update_id="one")
            assert isinstance(caught.value.__cause__, OutOfStock)
            await env.call(Stock["a"].put(100))
        assert await env.call(Stock["a"].left()) == 210
    assert RAN == ["begin x", "end x"]


# --- from workflows -------------------------------------------------------------------


@workflow(name="entities.moving")
async def moving(how: str) -> str:
    try:
        if how == "round":
            await Stock["a"].move_round("b", "c", "a")
        elif how == "self":
            await Stock["a"].move("a", 1)
        elif how == "fail":
            await Stock["a"].fail()
        else:
            await Stock["a"].move("b", 3)
    except (EntityDeadlockError, OutOfStock) as error:
        return f"{type(error).__name__}: {error}"
    return "done"


async def test_workflows_call_entities_and_catch_what_methods_raise(
    database: str,
) -> None:
    async with TestEnvironment(database) as env:
        assert await env.execute(order("ab")) == [9, 9, 9, 9]
        found = await env.execute(order("abc", n=10))
        assert found[0] == repr(OutOfStock("order wants 10"))
        assert found[2:] == [0, 9, 9, 0]


async def test_answer_is_recorded_in_the_workflow() -> None:
    async with TestEnvironment(max_cached_runs=1) as env:
        run = await env.start(order("a"), id="w")
        assert await run.result() == [9, 9]
        await env.call(Stock["a"].put(100))
        (scheduled, asked) = [
            e.attributes
            for e in await run.history()
            if type(e.attributes).__name__ == "ActivityTaskScheduled"
        ]
        assert scheduled.summary == "Stock['a'].take"  # type: ignore[union-attr]  # by its kind
        assert asked.summary == "Stock['a'].left"  # type: ignore[union-attr]  # by its kind


async def test_entities_call_entities() -> None:
    async with TestEnvironment() as env:
        assert await env.execute(moving("")) == "done"
        assert await env.call(Stock["a"].left()) == 7
        assert await env.call(Stock["b"].left()) == 13


@pytest.mark.parametrize("how", ["round", "self"])
async def test_call_that_comes_back_to_its_own_key_is_refused(how: str) -> None:
    async with TestEnvironment() as env:
        said = await env.execute(moving(how))
        assert said.startswith("EntityDeadlockError")
        assert "Stock['a']" in said
        assert [await env.call(Stock[key].left()) for key in "abc"] == [10] * 3


async def test_shared_method_that_raises_fails_the_call_once() -> None:
    async with TestEnvironment() as env:
        await env.call(Stock["a"].put())
        assert await env.execute(moving("fail")) == "OutOfStock: as asked"


@workflow(name="entities.failing")
async def failing(how: str) -> str:
    try:
        await Stock["a"].fail_within(how)
    except Exception as error:  # noqa: BLE001 - any class may come
        return f"{type(error).__name__}: {error}"
    return "done"


@pytest.mark.parametrize("through", ["", "entity "])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("activity", "OutOfStock: by an activity"),
        ("child", "OutOfStock: by a child"),
        ("timeout", "ActivityTimeoutError: Activity 'entities.dawdle'"),
        ("cancelled", "ApplicationError: The method ended with CancelledError"),
    ],
)
async def test_what_fails_within_a_method_reaches_the_workflow_by_its_class(
    through: str, how: str, said: str
) -> None:
    async with TestEnvironment() as env:
        found = await env.execute(failing(through + how))
        assert found.startswith(said)


async def test_trace_of_what_failed_deep_within_is_kept() -> None:
    @workflow(name="entities.failing_openly")
    async def failing_openly() -> None:
        await Stock["a"].fail_within("entity activity")

    async with TestEnvironment() as env:
        run = await env.start(failing_openly())
        with pytest.raises(WorkflowFailedError) as caught:
            await run.result()
        assert isinstance(caught.value.__cause__, OutOfStock)
        ended: Any = (await run.history())[-1].attributes
        assert "raise OutOfStock(why)" in ended.failure.cause.stack_trace


async def test_waiting_calls_take_no_place_from_activities() -> None:
    async with TestEnvironment(max_activities=1) as env:
        runs = [await env.start(order("a"), id=f"w{n}") for n in range(5)]
        results = [await run.result(timeout="1h") for run in runs]
        assert sorted(result[0] for result in results) == [5, 6, 7, 8, 9]


async def test_engine_closes_at_once_though_calls_wait(database: str) -> None:
    async with TestEnvironment(database) as env:
        napping = await env.start(order("a"), id="w0")
        await env.settle()
        await env.call(Stock["b"].put())
        waiting = asyncio.create_task(env.call(Stock["b"].nap(1_000)))
        await env.start(order("b"), id="w1")
        await napping.result()
        begun = env.clock.now()
    assert elapsed(env, begun) < 1
    with pytest.raises(Exception, match=r"engine|store"):
        await waiting
    async with TestEnvironment(database, clock=env.clock) as env:
        run = await env.get("w1", workflow=order)
        assert await run.result() == [10, 10]
        assert await env.call(Stock["b"].whose()) == ["b", "order"]


async def test_cancelled_wait_does_not_take_the_call_back() -> None:
    @workflow(name="entities.impatient")
    async def impatient() -> str:
        try:
            async with asyncio.timeout(10):
                await Stock["a"].take("late")
        except TimeoutError:
            return "too late"
        return "done"

    async with TestEnvironment() as env:
        nap = asyncio.create_task(env.call(Stock["a"].nap(100)))
        await env.settle()
        assert await env.execute(impatient()) == "too late"
        await nap
        await env.sleep(5)
        assert await env.call(Stock["a"].whose()) == ["a", "late"]


# --- from activities ------------------------------------------------------------------


async def test_activity_of_an_entity_does_not_call_it_back() -> None:
    async with TestEnvironment() as env:
        with pytest.raises(UpdateFailedError, match="could only run after it"):
            await env.call(Stock["a"].restock_itself())
        assert await env.call(Stock["a"].put()) == 11


@activity(name="entities.in_a_thread")
def in_a_thread() -> str:
    try:
        activity_client()
    except NotInWorkflowError as error:
        return str(error)
    return ""


@workflow(name="entities.using_the_client")
async def using_the_client() -> list[Any]:
    return [await restock("a", 5), await in_a_thread()]


async def test_activities_have_the_engine_that_runs_them() -> None:
    async with TestEnvironment() as env:
        left, said = await env.execute(using_the_client())
        assert left == 15
        assert "in a thread" in said
    with pytest.raises(NotInWorkflowError, match="activity_client"):
        activity_client()
