"""The rows about messages, queries, chains and families that take an engine.

Rows 3, 4, 5, 18, 23 and 24; see `test_semantics.py` for the others.
"""

import asyncio
import logging
from typing import Any

import pytest

import durable
from durable import (
    ApplicationError,
    Engine,
    Handle,
    IdReusePolicy,
    ParentClosePolicy,
    QueryFailedError,
    RunStatus,
    Signal,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    continue_as_new,
    logger,
    query,
    signal,
    start_child,
    update,
    wait_condition,
    workflow,
)
from durable.core.history.events import (
    WorkflowExecutionSignaled,
    WorkflowExecutionUpdateAccepted,
)
from durable.testing import TestEnvironment

orders = Signal("orders", str)


@activity(name="chains.slow", retry=None)
async def slow(seconds: int) -> int:
    await asyncio.sleep(seconds)
    return seconds


@workflow(name="chains.Counter")
class Counter:
    """Counts; goes on as a new run, ends or fails when it is told."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.order = ""

    @durable.run
    async def run(self, count: int) -> int:
        """Wait for an order."""
        await wait_condition(lambda: bool(self.order))
        if self.order == "go on":
            continue_as_new(self.count)
        if self.order == "fail":
            raise ApplicationError("as ordered")
        if self.order == "break":
            raise KeyError("a bug, as ordered")
        return self.count

    @signal
    def add(self, number: int = 1) -> None:
        """Count up."""
        self.count += number

    @signal
    def tell(self, order: str) -> None:
        """Take an order."""
        self.order = order

    @update
    def take(self, number: int) -> int:
        """Count up; say how far."""
        self.count += number
        return self.count

    @take.validator
    def check(self, number: int) -> None:
        if number < 0:
            raise ValueError("only up")

    @update(unfinished="abandon")
    async def take_slowly(self, number: int) -> int:
        """Count up after a while."""
        await slow(10)
        return self.take(number)

    @query
    def read(self) -> int:
        """The count."""
        logger.warning("read at %d", self.count)
        return self.count


async def histories(env: Engine, workflow_id: str) -> list[list[str]]:
    """The kinds of events of all runs of an id, oldest run first."""
    found = []
    for run in reversed(await env.list(workflow_id=workflow_id)):
        handle = await env.get(workflow_id, run_id=run.run_id)
        found.append([type(e.attributes).__name__ for e in await handle.history()])
    return found


# --- row 3 ----------------------------------------------------------------------------


async def test_row_03_a_signal_after_continuing_goes_to_the_new_run() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.add())
        await run.signal(Counter.tell("go on"))
        await run.signal(Counter.add())
        await run.signal(Counter.tell("end"))
        assert await run.result() == 2
        old, new = await histories(env, "counter")
        assert old.count("WorkflowExecutionSignaled") == 2
        assert new.count("WorkflowExecutionSignaled") == 2


async def test_row_03_signals_that_nobody_received_move_to_the_next_run_in_order() -> (
    None
):
    @workflow(name="chains.relay")
    async def relay(round: int) -> list[str]:
        first = await orders.receive()
        if round:
            return [first, await orders.receive(), await orders.receive()]
        continue_as_new(1)

    async with TestEnvironment() as env:
        run = await env.start(relay(0), id="relay", with_signal=orders("zero"))
        run = await env.get("relay", workflow=relay)
        await run.signal(orders("one"))
        await run.signal(orders("two"))
        await run.signal(orders("three"))
        assert await run.result() == ["one", "two", "three"]


async def test_row_03_a_signal_to_a_closed_run_is_refused() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.tell("end"))
        await run.result()
        with pytest.raises(WorkflowClosedError):
            await run.signal(Counter.add())


# --- row 4 ----------------------------------------------------------------------------


async def test_row_04_a_caller_may_wait_for_the_acceptance_or_the_answer() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        before = env.now()
        sent = await run.start_update(Counter.take_slowly(5), update_id="u")
        assert env.now() == before
        assert await sent.result() == 5
        assert (env.now() - before).total_seconds() == 10
        # The same id is the same update, answered as it was.
        assert await run.update(Counter.take_slowly(99), update_id="u") == 5
        assert await run.get_update("u").result() == 5


async def test_row_04_a_rejected_update_leaves_no_event_and_its_id_is_free() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        before = await run.history()
        with pytest.raises(UpdateRejectedError):
            await run.update(Counter.take(-1), update_id="u")
        assert await run.history() == before
        assert await run.update(Counter.take(1), update_id="u") == 1


# --- row 5 ----------------------------------------------------------------------------


async def test_row_05_an_accepted_update_fails_with_the_end_of_its_run() -> None:
    async with TestEnvironment() as env:
        for order in ("end", "go on", "fail"):
            run = await env.start(Counter.run(0), id=order)
            sent = await run.start_update(Counter.take_slowly(5))
            await run.signal(Counter.tell(order))
            with pytest.raises(UpdateFailedError, match="ended"):
                await sent.result()
            assert not isinstance(sent, UpdateRejectedError)


async def test_row_05_an_update_that_no_run_took_goes_on_to_the_next() -> None:
    """It is sent while no worker runs; the run continues before it sees the update."""
    async with TestEnvironment("memory://row-05") as env:
        run = await env.start(Counter.run(0), id="counter")
        clock = env.clock
    async with TestEnvironment("memory://row-05", clock=clock, worker=False) as env:
        run = await env.get("counter", workflow=Counter.run)
        await run.signal(Counter.tell("go on"))
        waiting = asyncio.ensure_future(run.update(Counter.take(5), update_id="u"))
        await asyncio.sleep(1)
        assert not waiting.done()
        async with TestEnvironment("memory://row-05", clock=clock) as working:
            assert await waiting == 5
            runs = await histories(working, "counter")
    accepted = [one.count("WorkflowExecutionUpdateAccepted") for one in runs]
    assert sum(accepted) == 1


async def test_row_05_an_update_that_no_run_took_is_refused_by_a_real_end() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.tell("end"))
        await run.result()
        with pytest.raises(WorkflowClosedError):
            await run.update(Counter.take(5))


async def test_row_05_an_answer_can_be_read_after_the_run_has_closed() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.update(Counter.take(5), update_id="u")
        await run.signal(Counter.tell("end"))
        await run.result()
        assert await run.get_update("u").result() == 5
        assert await run.update(Counter.take(5), update_id="u") == 5


# --- row 18 ---------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["end", "fail", "cancel", "terminate"])
async def test_row_18_closed_runs_answer_queries(order: str) -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.add(3))
        if order == "cancel":
            await run.cancel()
        elif order == "terminate":
            await run.terminate()
        else:
            await run.signal(Counter.tell(order))
        await env.settle()
        assert (await run.describe()).status is not RunStatus.RUNNING
        assert await run.query(Counter.read()) == 3


async def test_row_18_a_run_that_closed_before_any_task_cannot_be_asked() -> None:
    async with TestEnvironment(worker=False) as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.terminate()
        with pytest.raises(QueryFailedError):
            await run.query(Counter.read())


async def test_row_18_a_stuck_run_says_so_at_once() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.tell("break"))
        await env.settle()
        before = env.now()
        with pytest.raises(WorkflowStuckError):
            await run.query(Counter.read())
        assert env.now() == before
        assert await run.stack()


async def test_row_18_a_query_counts_in_what_was_acknowledged_before_it() -> None:
    async with TestEnvironment("memory://row-18") as env:
        run = await env.start(Counter.run(0), id="counter")
        clock = env.clock
        for count in range(1, 6):
            await run.signal(Counter.add())
            assert await run.query(Counter.read()) == count
    async with TestEnvironment("memory://row-18", clock=clock, worker=False) as env:
        run = await env.get("counter", workflow=Counter.run)
        for count in range(6, 11):  # nobody works on it
            await run.signal(Counter.add())
            assert await run.query(Counter.read()) == count


@pytest.mark.parametrize("is_live", [True, False])
async def test_row_18_logs_of_a_query_are_written_even_if_state_was_replayed(
    is_live: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(7), id="counter")
        if not is_live:
            await run.signal(Counter.tell("end"))
            await run.result()
        with caplog.at_level(logging.WARNING, "durable.workflow"):
            assert await run.query(Counter.read()) == 7
        assert [record.getMessage() for record in caplog.records] == ["read at 7"]


# --- row 23 ---------------------------------------------------------------------------


@workflow(name="chains.kid")
async def kid(name: str) -> str:
    return await orders.receive()


@workflow(name="chains.Parent")
class Parent:
    """Has one child for each policy, and ends as it is told."""

    @durable.run
    async def run(self, order: str) -> str:
        """Start the children, wait, end."""
        if order == "again":
            return await orders.receive()
        for policy in ParentClosePolicy:
            call = kid.options(
                id=f"kid-{policy.value}",
                parent_close_policy=policy,
                inherit_parent_timeout=False,
            )
            await start_child(call(policy.value))
        await orders.receive()
        if order == "go on":
            continue_as_new("again")
        if order == "fail":
            raise ApplicationError("as ordered")
        return order


@pytest.mark.parametrize(
    "order", ["end", "fail", "go on", "cancel", "terminate", "time out"]
)
async def test_row_23_the_close_policy_applies_however_the_parent_ends(
    order: str,
) -> None:
    async with TestEnvironment() as env:
        timeout = "1m" if order == "time out" else None
        run = await env.start(Parent.run(order), id="parent", run_timeout=timeout)
        await env.settle()
        if order == "cancel":
            await run.cancel()
        elif order == "terminate":
            await run.terminate()
        elif order == "time out":
            await env.sleep("2m")
        else:
            await run.signal(orders("now"))
        await env.settle()
        kids = {
            policy: await (await env.get(f"kid-{policy.value}")).describe()
            for policy in ParentClosePolicy
        }
        assert kids[ParentClosePolicy.ABANDON].status is RunStatus.RUNNING
        assert kids[ParentClosePolicy.TERMINATE].status is RunStatus.TERMINATED
        assert kids[ParentClosePolicy.REQUEST_CANCEL].status is RunStatus.CANCELLED


async def test_row_23_an_abandoned_child_of_the_last_turn_does_exist() -> None:
    @workflow(name="chains.brief")
    async def brief() -> str:
        for policy in ParentClosePolicy:
            call = kid.options(id=f"kid-{policy.value}", parent_close_policy=policy)
            asyncio.ensure_future(start_child(call("x")))  # noqa: RUF006 - on purpose
        await asyncio.sleep(0)
        return "done"

    async with TestEnvironment() as env:
        assert await env.execute(brief()) == "done"
        await env.settle()
        (only,) = await env.list(status=RunStatus.RUNNING)
        assert only.workflow_id == "kid-abandon"


# --- row 24 ---------------------------------------------------------------------------


async def test_row_24_waiting_follows_the_chain_unless_one_run_was_asked_for() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        first = await env.get("counter", run_id=run.run_id)
        waiting = asyncio.ensure_future(run.result())
        await run.signal(Counter.tell("go on"))
        await env.settle()
        assert not waiting.done()
        assert (await run.describe()).status is RunStatus.RUNNING
        assert (await first.describe()).status is RunStatus.CONTINUED_AS_NEW
        with pytest.raises(WorkflowClosedError):
            await first.signal(Counter.add())
        await run.signal(Counter.tell("end"))
        assert await waiting == 0


async def test_row_24_a_handle_never_reaches_another_chain_of_its_id() -> None:
    async with TestEnvironment() as env:
        old: Handle[int] = await env.start(Counter.run(0), id="counter")
        await old.signal(Counter.tell("end"))
        await old.result()
        new = await env.start(Counter.run(0), id="counter", id_reuse="new_run")
        for work in (old.cancel, old.terminate):
            with pytest.raises(WorkflowClosedError):
                await work()
        with pytest.raises(WorkflowClosedError):
            await old.signal(Counter.add())
        await env.settle()
        assert (await new.describe()).status is RunStatus.RUNNING
        assert await new.query(Counter.read()) == 0


@pytest.mark.parametrize(
    ("order", "may_start"), [("end", False), ("fail", True), ("terminate", True)]
)
async def test_row_24_only_failed_chains_may_be_started_again_if_that_is_asked(
    order: str, may_start: bool
) -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.tell("go on"))
        if order == "terminate":
            await run.terminate()
        else:
            await run.signal(Counter.tell(order))
        await env.settle()
        again: Any = env.start(
            Counter.run(0),
            id="counter",
            on_conflict="fail",
            id_reuse=IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
        )
        if may_start:
            await again
        else:
            with pytest.raises(durable.WorkflowAlreadyStartedError):
                await again


async def test_row_24_a_request_id_is_known_along_the_chain() -> None:
    """The same signal again, after its run has gone on, changes nothing."""
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.add(), request_id="once")
        for _ in range(3):
            await run.signal(Counter.tell("go on"))
            await run.signal(Counter.add(), request_id="once")
        await run.signal(Counter.tell("end"))
        assert await run.result() == 1


async def test_row_24_a_failed_run_of_a_chain_is_what_its_waiter_hears_of() -> None:
    async with TestEnvironment() as env:
        run = await env.start(Counter.run(0), id="counter")
        await run.signal(Counter.tell("go on"))
        await run.signal(Counter.tell("fail"))
        with pytest.raises(WorkflowFailedError):
            await run.result()


def test_kinds_of_events_named_here_exist() -> None:
    """The tests above compare names; a renamed kind must not make them pass."""
    assert WorkflowExecutionSignaled.__name__ == "WorkflowExecutionSignaled"
    name = WorkflowExecutionUpdateAccepted.__name__
    assert name == "WorkflowExecutionUpdateAccepted"
