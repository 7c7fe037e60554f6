"""An update id is an idempotency key over a chain of runs, as request ids are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from durable import (
    Engine,
    Handle,
    QueryFailedError,
    RunStatus,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowClosedError,
    checkpoint,
    continue_as_new,
    query,
    run,
    signal,
    update,
    wait_condition,
    workflow,
)


@workflow(name="update_ids.Account", checkpoint_every=1)
class Account:
    """Goes on as new, or begins anew, when it is told to."""

    def __init__(self) -> None:
        self.cents, self.notes, self.way = 0, 0, ""

    @run
    async def keep(self, cents: int = 0, notes: int = 0) -> int:
        self.cents += cents
        self.notes += notes
        await wait_condition(lambda: bool(self.way))
        if self.way == "end":
            return self.cents
        if self.way == "checkpoint":
            checkpoint(self.cents, self.notes)
        continue_as_new(self.cents, self.notes)

    @update
    async def charge(self, cents: int) -> int:
        self.cents += cents
        if cents < 0:
            raise ValueError(cents)
        return self.cents

    @update
    async def stall(self) -> None:
        self.cents += 1
        await asyncio.Event().wait()

    @signal
    def note(self) -> None:
        self.notes += 1

    @signal
    def go(self, way: str) -> None:
        self.way = way

    @query
    def seen(self) -> tuple[int, int]:
        return self.cents, self.notes


async def _charge_again(handle: Handle[Any]) -> None:
    """Everything that was asked before, under the same ids."""
    assert await handle.update(Account.charge(100), update_id="pay-1") == 100
    with pytest.raises(UpdateFailedError) as caught:
        await handle.update(Account.charge(-1), update_id="pay-2")
    assert isinstance(caught.value.__cause__, ValueError)
    await handle.signal(Account.note(), request_id="note-1")


@pytest.mark.parametrize("ways", [[], ["next"], ["checkpoint"]])
async def test_a_signal_that_a_closed_run_has_had_may_be_sent_again(
    database: str, ways: list[str]
) -> None:
    async with Engine(database) as engine:
        handle = await engine.start(Account.keep(), id="account", request_id="begin")
        await handle.signal(Account.note(), request_id="note-1")
        for way in ways:
            await _next_run(engine, handle, way)
        await handle.signal(Account.go("end"), request_id="end")
        await handle.result()

        await handle.signal(Account.note(), request_id="note-1")
        await handle.signal(Account.go("end"), request_id="end")

        for new in ("note-2", "begin"):
            with pytest.raises(WorkflowClosedError):
                await handle.signal(Account.note(), request_id=new)
        with pytest.raises(WorkflowClosedError):
            await handle.signal(Account.note())


async def _next_run(engine: Engine, handle: Handle[Any], way: str) -> None:
    before = await engine.list(workflow_id="account")
    await handle.signal(Account.go(way))
    while way == "next":
        if len(await engine.list(workflow_id="account")) > len(before):
            break
        await asyncio.sleep(0)


@pytest.mark.parametrize("ways", [["next"], ["next", "next"], ["checkpoint", "next"]])
@pytest.mark.parametrize("place", ["here", "from afar", "after a restart"])
async def test_an_update_is_carried_out_once_in_a_chain_of_runs(
    database: str, place: str, ways: list[str]
) -> None:
    engine = await Engine(database).open()
    handle = await engine.start(Account.keep(), id="account")
    await _charge_again(handle)
    for way in ways:
        await _next_run(engine, handle, way)
    if place == "after a restart":
        await engine.close()
        engine = await Engine(database).open()
    asked = engine
    if place == "from afar":
        asked = await Engine(database, worker=False).open()
    for pinned_before in (handle.run_id, None):
        again = await asked.get("account", run_id=pinned_before)
        if pinned_before is None:
            await _charge_again(again)
            assert await again.query(Account.seen()) == (99, 1)
        sent = again.get_update("pay-1")
        assert await sent.result(timeout=10) == 100
    # A handle that was made before goes with its run.
    sent = await (await asked.get("account")).start_update(
        Account.charge(100), update_id="pay-1"
    )
    assert await sent.result() == 100
    # And an id that is new is a new update.
    assert await again.update(Account.charge(1), update_id="pay-3") == 100
    if asked is not engine:
        await asked.close()
    await engine.close()


async def test_an_update_that_its_run_left_unanswered_is_not_begun_again(
    database: str,
) -> None:
    async with Engine(database) as engine:
        handle = await engine.start(Account.keep(), id="account")
        await handle.start_update(Account.stall(), update_id="stall")
        await _next_run(engine, handle, "next")
        with pytest.raises(UpdateFailedError, match="ended before its handler"):
            await handle.update(Account.stall(), update_id="stall")
        assert await handle.query(Account.seen()) == (1, 0)
        await handle.signal(Account.go("end"))
        assert await handle.result() == 1


async def test_a_run_of_another_chain_takes_the_same_id_anew(database: str) -> None:
    async with Engine(database) as engine:
        for _ in range(2):
            handle = await engine.start(
                Account.keep(), id="account", id_reuse="new_run"
            )
            assert await handle.update(Account.charge(5), update_id="pay") == 5
            await handle.signal(Account.go("end"))
            assert await handle.result() == 5
        assert len(await engine.list(status=RunStatus.COMPLETED)) == 2


@workflow(name="ids.received")
class Received:
    @update
    def add(self, number: int) -> int:
        return number

    @query
    def times(self, number: int) -> int:
        return number

    @run
    async def wait(self) -> None:
        await wait_condition(lambda: False)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [(("hunter2",), "Argument 'number' of"), ((), "0 arguments"), ((1, 2), "2 arg")],
)
async def test_arguments_that_cannot_be_read_were_received_and_never_recorded(
    arguments: tuple[Any, ...], why: str
) -> None:
    async with Engine("memory://", definitions=[Received]) as engine:
        handle = await engine.start(Received.wait())

        with pytest.raises(UpdateRejectedError, match=f"{why}.* (was|were) received"):
            await handle.update("add", *arguments)
        with pytest.raises(QueryFailedError, match=f"{why}.* (was|were) received"):
            await handle.query("times", *arguments)

        assert len(await handle.history()) <= 2
