"""Critical sections: the order of keys, what is refused, and that all is let go."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from durable import (
    Entity,
    EntityDeadlockError,
    continue_as_new,
    entity,
    exclusive,
    locked,
    shared,
    sleep,
    workflow,
)
from durable.api.entities.entity_caller import Caller
from durable.api.entities.entity_turns import Section, Turns
from durable.converter import json
from durable.core.history.events import (
    ActivityTaskCanceled,
    ActivityTaskCancelRequested,
    ActivityTaskCompleted,
    ActivityTaskScheduled,
    WorkflowExecutionCanceled,
    WorkflowExecutionContinuedAsNew,
)
from durable.errors import InvalidCallError, NotInWorkflowError, WorkflowTaskError
from tests.unit.api.entities.one_entity import OneEntity
from tests.unit.api.one_run import RUN_ID, OneRun


@entity(name="unit.Account")
class Account(Entity):
    money: int = 0

    @exclusive
    async def deposit(self, n: int) -> int:
        self.money += n
        return self.money

    @exclusive
    async def nest(self) -> None:
        async with locked(Account["z"]):
            pass

    @exclusive
    async def pass_on(self, other: str) -> int:
        return await Account[other].deposit(1)

    @shared
    def balance(self) -> int:
        return self.money


A, B, C = (f"entity:unit.Account:{key}" for key in "abc")


class Caught(OneRun):
    """A run whose calls of entities the test answers."""

    def calls(self) -> list[tuple[str, str, Any, list[Any]]]:
        """Key, method, caller and arguments of each call, in order."""
        found: list[tuple[str, str, Any, list[Any]]] = []
        for event in self.events(ActivityTaskScheduled):
            _, key, method, caller, *rest = (
                msgspec.json.decode(p.json) for p in event.input
            )
            found.append((key, method, caller, rest))
        return found

    def short(self) -> list[str]:
        return [
            f"{method.removeprefix('durable.')} {key}"
            for key, method, *_ in self.calls()
        ]

    def answer(self, number: int, value: Any = None) -> None:
        self.turn(self.answered(number, value))

    def answered(self, number: int, value: Any = None) -> ActivityTaskCompleted:
        ids = [
            e.event_id
            for e in self.history
            if isinstance(e.attributes, ActivityTaskScheduled)
        ]
        return ActivityTaskCompleted(
            scheduled_event_id=ids[number],
            result=json.encode(value, Any, "the result"),
            attempt=1,
            started_at=self.now,
        )

    def answer_all(self) -> None:
        """Let everything that is called answer at once, until nothing is left."""
        while pending := self.replayer.pending_activities():
            self.turn(
                *[
                    ActivityTaskCompleted(
                        scheduled_event_id=machine.scheduled_event_id,
                        result=json.encode(1, int, "the result"),
                        attempt=1,
                        started_at=self.now,
                    )
                    for machine in pending
                ]
            )


@workflow(name="unit.transfer")
async def transfer(how: str = "") -> str:
    async with locked(Account["b"], Account["a"], Account["b"]):
        await Account["b"].deposit(1)
        if how == "raise":
            raise ValueError("as asked")
        if how == "continue":
            continue_as_new("")
        if how == "other":
            await Account["c"].deposit(1)
        if how == "read":
            await Account["c"].balance()
        if how == "inner":
            async with locked(Account["a"], Account["c"]):
                await Account["c"].deposit(1)
        if how == "disorder":
            async with locked(Account["Z"]):
                pass
        await asyncio.gather(Account["a"].deposit(2), sleep(5))
    await Account["c"].deposit(3)
    return "done"


def test_keys_are_taken_one_by_one_in_order_and_each_once() -> None:
    one = Caught(transfer())
    one.start()
    assert one.short() == ["hold a"]
    one.answer(0, True)
    assert one.short() == ["hold a", "hold b"]
    one.answer(1, True)
    assert one.short()[2:] == ["deposit b"]
    (section,) = one.calls()[0][3]
    assert section["run_id"] == RUN_ID
    assert one.calls()[2][2] == {"sections": {A: section["id"], B: section["id"]}}


def test_all_is_let_go_at_the_end_and_what_follows_is_no_part_of_it() -> None:
    one = Caught(transfer())
    one.start()
    one.answer_all()
    one.now += 5_000_000
    one.turn()
    assert one.short()[3:] == ["deposit a", "let_go a", "let_go b"]
    one.answer_all()
    assert one.short()[6:] == ["deposit c"]
    assert one.calls()[6][2] == {}
    one.answer_all()
    assert one.result() == "done"


def test_all_is_let_go_if_the_block_raises() -> None:
    one = Caught(transfer("raise"))
    one.start()
    one.answer_all()
    assert one.short()[3:] == ["let_go a", "let_go b"]
    with pytest.raises(ValueError, match="as asked"):
        one.result()


def test_all_is_let_go_before_the_run_continues_as_new() -> None:
    one = Caught(transfer("continue"))
    one.start()
    one.answer_all()
    assert one.short()[3:] == ["let_go a", "let_go b"]
    assert isinstance(one.history[-1].attributes, WorkflowExecutionContinuedAsNew)


def test_cancellation_within_the_block_lets_go_and_goes_on() -> None:
    one = Caught(transfer())
    one.start()
    one.answer(0, True)
    one.answer(1, True)
    one.cancel()
    assert one.short()[3:] == ["let_go a", "let_go b"]
    one.answer_all()
    assert isinstance(one.history[-1].attributes, WorkflowExecutionCanceled)


def test_cancellation_while_keys_are_taken_lets_go_of_what_was_asked_for() -> None:
    one = Caught(transfer())
    one.start()
    one.answer(0, True)
    one.cancel()
    (asked_to_stop,) = one.events(ActivityTaskCancelRequested)
    assert one.short()[2:] == ["let_go a", "let_go b"]
    one.turn(
        ActivityTaskCanceled(
            scheduled_event_id=asked_to_stop.scheduled_event_id,
            attempt=1,
            started_at=one.now,
        )
    )
    one.answer_all()
    assert isinstance(one.history[-1].attributes, WorkflowExecutionCanceled)
    assert one.short()[4:] == []


def test_cancellation_while_keys_are_let_go_is_heard_after_that() -> None:
    one = Caught(transfer("raise"))
    one.start()
    for number in range(3):
        one.answer(number, 1)
    assert one.short()[3:] == ["let_go a", "let_go b"]
    one.cancel()
    assert not one.events(ActivityTaskCancelRequested)
    one.answer_all()
    assert isinstance(one.history[-1].attributes, WorkflowExecutionCanceled)


@workflow(name="unit.hasty")
async def hasty() -> str:
    try:
        async with asyncio.timeout(10):
            async with locked(Account["a"]):
                await Account["a"].deposit(1)
    except TimeoutError:
        return "too late"
    return "done"


def test_timeout_around_the_block_is_heard_although_letting_go_takes_long() -> None:
    one = Caught(hasty())
    one.start()
    one.answer(0, True)
    one.now += 10_000_000
    one.turn()
    assert one.short()[2:] == ["let_go a"]
    one.now += 100_000_000
    one.answer_all()
    assert one.result() == "too late"


def test_key_that_comes_with_its_timeout_is_let_go() -> None:
    one = Caught(hasty())
    one.start()
    one.now += 10_000_000
    one.answer(0, True)
    one.answer_all()
    assert one.short()[-1] == "let_go a"
    assert one.result() == "too late"


@pytest.mark.parametrize(
    ("how", "match"),
    [("other", "holds only"), ("disorder", r"wants 'entity:unit\.Account:Z'.*outer")],
)
def test_what_could_wait_for_another_section_is_refused(how: str, match: str) -> None:
    one = Caught(transfer(how))
    one.start()
    one.answer_all()
    assert one.short()[3:] == ["let_go a", "let_go b"]
    with pytest.raises(EntityDeadlockError, match=match):
        one.result()


def test_block_within_a_block_takes_what_is_not_held() -> None:
    one = Caught(transfer("inner"))
    one.start()
    one.answer_all()
    assert one.short()[3:7] == ["hold c", "deposit c", "let_go c", "deposit a"]
    inner = one.calls()[4][2]["sections"]
    assert inner[A] == inner[B] != inner[C]
    assert one.calls()[6][2] == {"sections": {A: inner[A], B: inner[B]}}


def test_reading_another_key_is_no_danger() -> None:
    one = Caught(transfer("read"))
    one.start()
    one.answer_all()
    assert one.short()[3:5] == ["balance c", "deposit a"]


def test_section_in_a_method_of_an_entity_is_refused() -> None:
    one = OneEntity(Account["a"])
    with pytest.raises(EntityDeadlockError, match="from a workflow"):
        one.call(Account["a"].nest())


def test_methods_that_are_called_in_a_section_are_part_of_it() -> None:
    one = OneEntity(Account["a"])
    caller = Caller(sections={A: "s", B: "s"})
    one.turn(one.request(Account["a"].pass_on("b"), caller))
    ((_, scheduled),) = one.scheduled()
    assert json.decode(scheduled.input[3], Caller, "the caller") == Caller(
        (A,), {A: "s", B: "s"}
    )
    one.turn(one.completed(1))
    with pytest.raises(EntityDeadlockError, match="holds only"):
        one.call(Account["a"].pass_on("c"), caller)


async def test_wrong_use_is_refused() -> None:
    with pytest.raises(InvalidCallError, match="no entity"):
        locked("a")  # type: ignore[arg-type]  # the fault under test
    with pytest.raises(InvalidCallError, match="no entity"):
        locked(Account)
    with pytest.raises(InvalidCallError, match="nothing to hold"):
        locked()
    with pytest.raises(NotInWorkflowError, match="locked"):
        async with locked(Account["a"]):
            pass


@workflow(name="unit.twice")
async def twice() -> str:
    section = locked(Account["a"])
    async with section:
        pass
    with pytest.raises(WorkflowTaskError, match="second time"):
        async with section:
            pass
    return "done"


def test_section_is_entered_once() -> None:
    one = Caught(twice())
    one.start()
    one.answer_all()
    assert one.result() == "done"


# --- turns ----------------------------------------------------------------------------


def section_of(name: str) -> Section:
    return Section(name, f"run {name}", f"id {name}")


class Queue:
    """Turns, and a log of who has had one."""

    def __init__(self) -> None:
        self.blocked = 0
        self.turns = Turns(self._on_blocked)
        self.log: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def _on_blocked(self) -> None:
        self.blocked += 1

    async def _call(self, name: str, section: str | None) -> None:
        await self.turns.begin(section)
        self.log.append(name)

    async def _hold(self, name: str) -> None:
        held = await self.turns.hold(section_of(name))
        self.log.append(f"hold {name} {held}")

    async def call(self, name: str, section: str | None = None) -> None:
        self.tasks.append(asyncio.create_task(self._call(name, section)))
        await asyncio.sleep(0)

    async def hold(self, name: str) -> None:
        self.tasks.append(asyncio.create_task(self._hold(name)))
        await asyncio.sleep(0)

    async def end(self) -> None:
        self.turns.end()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def let_go(self, name: str) -> None:
        self.turns.let_go(name)
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_section_gets_its_turn_like_a_call_and_lets_only_its_own_pass() -> None:
    queue = Queue()
    await queue.call("one")
    await queue.hold("s")
    await queue.call("two")
    await queue.call("mine", "s")
    assert queue.log == ["one"]
    await queue.end()
    assert queue.log == ["one", "hold s True", "mine"]
    assert queue.blocked
    await queue.end()
    await queue.call("mine again", "s")
    await queue.end()
    assert queue.log[3:] == ["mine again"]
    await queue.let_go("s")
    assert queue.log[4:] == ["two"]


async def test_sections_follow_each_other() -> None:
    queue = Queue()
    for name in "abc":
        await queue.hold(name)
    await queue.hold("a")
    for name in "ab":
        await queue.let_go(name)
    assert queue.log == [f"hold {name} True" for name in "aabc"]


async def test_section_that_was_let_go_before_it_held_never_holds() -> None:
    queue = Queue()
    await queue.hold("a")
    await queue.hold("b")
    await queue.let_go("b")
    await queue.let_go("c")
    await queue.hold("c")
    await queue.let_go("a")
    await queue.call("one")
    assert queue.log == ["hold a True", "hold b False", "hold c False", "one"]


async def test_withdrawn_request_does_not_get_the_turn_of_the_same_moment() -> None:
    queue = Queue()
    for name in "abc":
        await queue.hold(name)
    queue.turns.let_go("b")
    await queue.let_go("a")
    assert queue.log == ["hold a True", "hold b False", "hold c True"]


async def test_request_that_is_withdrawn_as_it_gets_its_turn_never_holds() -> None:
    queue = Queue()
    await queue.call("one")
    await queue.hold("s")
    await queue.call("two")
    queue.turns.end()
    await queue.let_go("s")
    assert queue.log == ["one", "hold s False", "two"]


async def test_waiter_that_is_cancelled_leaves_its_turn_to_the_next() -> None:
    queue = Queue()
    await queue.call("one")
    await queue.call("two")
    await queue.call("three")
    queue.turns.end()  # the turn is given to the second, who is cancelled with it
    queue.tasks[1].cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert queue.log == ["one", "three"]
    await queue.call("four")
    queue.tasks[3].cancel()
    await asyncio.sleep(0)
    await queue.end()
    await queue.call("five")
    assert queue.log == ["one", "three", "five"]
    await queue.call("six")
    await queue.call("seven")
    queue.tasks[5].cancel()
    await queue.end()
    assert queue.log == ["one", "three", "five", "seven"]
