"""Runs that go on from an earlier place: what is kept, what is done again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import durable
from durable import (
    ApplicationError,
    Handle,
    RetryPolicy,
    RunStatus,
    WorkflowFailedError,
    WorkflowTerminatedError,
    activity,
    sleep,
    workflow,
)
from durable.client.resets.controls import before
from durable.errors import InvalidResetError
from durable.testing.contract.rows import wait_until
from durable.testing.environment import TestEnvironment
from tests.integration.redoing import (
    BROKEN,
    RAN,
    drawing,
    find_open,
    opened,
    redo,
    redo_listening,
    redo_other,
    redo_parent,
    redo_three,
    word,
)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()
    BROKEN.clear()


# --- places ---------------------------------------------------------------------------


async def test_a_run_is_reset_to_before_a_step(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_three(), id="w")
        assert await run.result() == "abc"

        again = await run.reset(to=before(redo_other), reason="wrong b")

        assert again.run_id != run.run_id
        assert await again.result() == "abc"
        assert RAN == ["a", "b", "c", "b", "c"]
        assert (await run.describe()).run_id == again.run_id
        old = await env.get("w", run_id=run.run_id)
        assert (await old.describe()).status is RunStatus.COMPLETED


@pytest.mark.parametrize(
    ("to", "ran"),
    [
        ("first_task", "abc"),
        ("last_task", ""),
        (1, "abc"),
        (2, "abc"),
        (3, "bc"),
        (4, "bc"),
        (6, "c"),
        (before("redo"), "abc"),
        (before("redo", 2), "c"),
        (before("redo", -1), "c"),
    ],
)
async def test_what_is_kept_does_not_run_again(
    database: str, to: Any, ran: str
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_three(), id="w")
        await run.result()
        RAN.clear()

        assert await (await run.reset(to=to)).result() == "abc"

        assert "".join(RAN) == ran


@pytest.mark.parametrize(
    ("to", "match"),
    [
        (0, "no event 0"),
        (99, "events 1 to 8"),
        (before("redop"), "did you mean 'redo'"),
        (before("redo", 3), "2 times"),
        ("middle", "no place of a run"),
        (True, "no place of a run"),
    ],
)
async def test_a_place_that_is_not_there_is_refused(to: Any, match: str) -> None:
    async with opened("memory://") as env:
        run = await env.start(redo_three(), id="w")
        await run.result()

        with pytest.raises(InvalidResetError, match=match):
            await run.reset(to=to)


# --- what changes ---------------------------------------------------------------------


async def test_randomness_is_new_only_after_the_place(database: str) -> None:
    async with opened(database, max_cached_runs=1) as env:
        run = await env.start(drawing(), id="w")
        one, two, three_, run_id = await run.result()

        again = await run.reset(to=before("redo", 2))
        first, second, third, new_id = await again.result()

        assert (first, second == two) == (one, False)
        assert third != three_
        assert (run_id, new_id) == (run.run_id, again.run_id)
        twice = await again.reset(to=before("redo", 2))
        assert (await twice.result())[0] == one
        whole = await twice.reset(to="first_task")
        assert (await whole.result())[0] != one


async def test_an_open_run_is_terminated_and_its_waiters_follow(
    database: str,
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_listening(), id="w")
        await run.signal(word("one"))
        waiter = asyncio.ensure_future(run.result())
        await run.signal(word("two"))
        await wait_until(lambda: len(RAN) == 2)

        again = await run.reset(to="first_task", reason="why")
        await again.signal(word("redo_three"))

        assert await waiter == ["one", "two", "redo_three"]
        assert await again.result() == ["one", "two", "redo_three"]
        old = await env.get("w", run_id=run.run_id)
        described = await old.describe()
        assert described.status is RunStatus.TERMINATED
        assert "reset: why" in str((await old.history())[-1].attributes)


@pytest.mark.parametrize(
    ("reapply", "heard"),
    [("all", ["one", "two", "redo_three"]), ("none", ["3"]), ("updates", ["3"])],
)
async def test_messages_that_came_later_are_applied_again(
    database: str, reapply: Any, heard: list[str]
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_listening(), id="w")
        for text in ("one", "two", "redo_three"):
            await run.signal(word(text))
        assert await run.result() == ["one", "two", "redo_three"]

        again = await run.reset(to="first_task", reapply=reapply)
        if reapply != "all":
            for text in ("3", "3", "3"):
                await again.signal(word(text))
            heard = heard * 3

        assert await again.result() == heard


async def test_two_requests_are_two_runs_and_the_same_is_one(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_three(), id="w")
        await run.result()

        one = await run.reset(to="first_task", request_id="q")
        same = await run.reset(to="first_task", request_id="q")
        two = await run.reset(to="first_task", request_id="q2")

        assert one.run_id == same.run_id != two.run_id
        assert (one.is_new, same.is_new) == (True, False)
        assert await two.result() == "abc"
        # Also if the place is not to be found any more.
        assert (await two.reset(to=99, request_id="q")).run_id == one.run_id


async def test_of_many_at_once_each_is_a_run_and_one_is_left_open(
    database: str,
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_listening(), id="w")

        runs = await asyncio.gather(*(run.reset(to="first_task") for _ in range(10)))

        assert len({one.run_id for one in runs}) == 10
        open_runs = await env.list(status=RunStatus.RUNNING)
        assert len(open_runs) == 1
        for text in ("1", "2", "3"):
            await run.signal(word(text))
        assert await run.result() == ["1", "2", "3"]


async def test_timeouts_count_anew(database: str) -> None:
    @workflow(name="slow")
    async def slow() -> str:
        await redo("a")
        await sleep("50m")
        return await redo("b")

    async with opened(database, definitions=[slow, redo]) as env:
        run = await env.start(slow(), id="w", run_timeout="1h")
        assert await run.result() == "b"
        env.clock.advance(86_400)

        again = await run.reset(to=before("redo", 2))

        assert await again.result() == "b"
        assert (await again.describe()).status is RunStatus.COMPLETED


@activity(retry=RetryPolicy(max_attempts=1), schedule_to_close_timeout="1h")
async def redo_hurried() -> str:
    RAN.append("hurried")
    if BROKEN:
        raise ApplicationError("broken")
    await asyncio.sleep(1)
    return "in time"


@workflow
async def redo_hurrying() -> str:
    return await redo_hurried()


async def test_the_time_of_an_activity_that_begins_anew_does_too(
    database: str,
) -> None:
    async with opened(database) as env:
        BROKEN.add("hurried")
        run = await env.start(redo_hurrying(), id="w")
        with pytest.raises(WorkflowFailedError):
            await run.result()
        BROKEN.clear()
        env.clock.advance(86_400)

        assert await (await run.retry()).result() == "in time"


@workflow(checkpoint_every=1)
async def redo_laps(done: list[tuple[str, str]]) -> list[tuple[str, str]]:
    while len(done) < 4:
        durable.checkpoint(done)
        await redo("x")
        done.append((str(durable.uuid4()), durable.info().run_id))
    return done


@pytest.mark.parametrize("lap", [1, 2, 3, 4])
async def test_a_checkpoint_carries_on_that_the_run_was_reset(
    database: str, lap: int
) -> None:
    async with opened(database, max_cached_runs=1) as env:
        run = await env.start(redo_laps([]), id="w")
        old = await run.result()
        assert len({identity for identity, _ in old}) == 4

        again = await run.reset(to=before("redo", lap))
        new = await again.result()

        kept = sum(run_id == run.run_id for _, run_id in new)
        assert new[:kept] == old[:kept]
        assert {run_id for _, run_id in new[kept:]} == {again.run_id}
        assert not {identity for identity, _ in new[kept:]} & {i for i, _ in old}
        assert lap - 2 <= kept < lap


# --- families -------------------------------------------------------------------------


async def test_children_that_are_kept_tell_the_new_run(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_parent(), id="p")
        child = await find_open(env, "child")
        late = await find_open(env, "late")

        plan = await run.plan_reset(to=before("redo"))
        again = await run.reset(to=before("redo"))
        assert plan.children_kept == ("child",)
        assert plan.children_undone == ("late",)
        with pytest.raises(WorkflowTerminatedError):
            await late.result()
        await child.signal(word("1"))
        second = await find_open(env, "late")
        await second.signal(word("2"))

        assert await again.result() == "x1y2"
        assert (await child.describe()).status is RunStatus.COMPLETED


async def test_a_child_that_ended_after_the_place_is_not_started_again(
    database: str,
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_parent(), id="p")
        child = await find_open(env, "child")
        await child.signal(word("1"))
        assert await child.result() == "x1"

        again = await run.reset(to=before("redo"))
        late = await find_open(env, "late")
        await late.signal(word("2"))

        assert await again.result() == "x1y2"
        assert len(await env.list(workflow_id="child")) == 1


async def test_the_parent_of_a_child_that_is_reset_sees_one_result(
    database: str,
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_parent(), id="p")
        late = await find_open(env, "late")
        child = await find_open(env, "child")

        again = await child.reset(to="first_task")
        await again.signal(word("1"))
        await late.signal(word("2"))

        assert await run.result() == "x1y2"
        names = [type(e.attributes).__name__ for e in await run.history()]
        assert names.count("ChildWorkflowExecutionCompleted") == 2


async def test_a_child_whose_parent_has_closed_can_be_reset(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_parent(), id="p")
        child = await find_open(env, "child")
        await find_open(env, "late")
        await run.terminate()

        again = await child.reset(to="first_task")
        await again.signal(word("1"))

        assert await again.result() == "x1"


# --- chains and other runs ------------------------------------------------------------


@workflow
async def redo_chain(lap: int) -> list[str]:
    heard = [await word.receive()]
    if lap == 0:
        durable.continue_as_new(redo_chain(1))
    heard.append(await word.receive())
    return heard


async def test_an_earlier_run_of_a_chain_takes_the_place_of_the_later(
    database: str,
) -> None:
    async with opened(database) as env:
        run = await env.start(redo_chain(0), id="w")
        await run.signal(word("1"))
        later = await another_run(env, "w", run.run_id)
        await later.signal(word("2"))
        first = await env.get("w", run_id=run.run_id)

        plan = await first.plan_reset(to="first_task")
        again = await first.reset(to="first_task")

        assert plan.closes == later.run_id
        assert set(plan.messages) == {"word"}  # of those that a run has heard
        await again.signal(word("3"))
        assert await again.result() == ["2", "3"]
        assert (await later.describe()).status is RunStatus.TERMINATED
        assert await run.result() == ["2", "3"]


async def test_a_later_run_of_another_chain_is_left_alone(database: str) -> None:
    async with opened(database) as env:
        run = await env.start(redo_listening(), id="w")
        await run.signal(word("old"))
        await run.terminate()
        other = await env.start(redo_listening(), id="w", id_reuse="after_failure")
        await other.signal(word("new"))
        first = await env.get("w", run_id=run.run_id)

        with pytest.raises(durable.WorkflowAlreadyStartedError):
            await first.reset(to="first_task")
        await other.terminate()
        again = await first.reset(to="first_task")

        names = [getattr(e.attributes, "input", None) for e in await again.history()]
        assert '"new"' not in str(names)
        await again.terminate()


async def another_run(
    env: TestEnvironment, workflow_id: str, run_id: str
) -> Handle[Any]:
    """Wait until a run of that id is open that is another than this one."""
    while True:
        found = await find_open(env, workflow_id)
        if found.run_id != run_id:
            return found
        await asyncio.sleep(0.01)


async def test_a_run_that_is_stuck_is_reset(database: str) -> None:
    @workflow(name="redo_stuck")
    async def broken() -> str:
        first = await redo("a")
        return first + [][1]

    @workflow(name="redo_stuck")
    async def mended() -> str:
        return await redo("z")

    async with TestEnvironment(database, definitions=[broken, redo]) as env:
        run = await env.start(broken(), id="w")
        with pytest.raises(durable.WorkflowStuckError):
            await run.result()
        again = await run.reset(to="first_task")
        with pytest.raises(durable.WorkflowStuckError):
            await again.result()
    async with opened(database, definitions=[mended, redo], clock=env.clock) as env:
        stuck = await env.get("w")
        whole = await stuck.reset(to="first_task")
        assert await whole.result() == "z"
