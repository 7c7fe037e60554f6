"""Whatever order the world answers in: what has happened is undone, once, or kept.

Programs of steps, side by side and one after the other, in blocks within blocks, meet
worlds that let steps end, fail and stop in any order, let time pass and cancel the run.
The run dies after each of its workflow tasks.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
from typing import Any, TypeAlias

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import (
    CompensationFailed,
    Saga,
    WorkflowFailedError,
    activity,
    sleep,
    workflow,
)
from durable.core.history.events import ActivityTaskCompleted, ActivityTaskScheduled
from durable.testing import Driver, replay_at_every_prefix
from tests.sizes import examples

Program: TypeAlias = Any
"""A list that begins with what to do: step, sleep, seq, gather, group, saga, within."""


class Refused(Exception):
    """The error of a step, or of what undoes it."""


@activity(name="saga_orders.undo")
async def undo(number: int) -> None: ...


@activity(name="saga_orders.step", compensate=undo)
async def step(number: int) -> None: ...


@workflow(name="saga_orders.run")
async def run_program(program: Program, parallel: bool) -> None:
    async with Saga(parallel=parallel):
        await walk(program)


@workflow(name="saga_orders.run_blocks")
async def run_blocks(programs: list[Program]) -> None:
    """A block for each program; `gather` leaves the others when one fails."""

    async def run_block(program: Program) -> None:
        async with Saga():
            await walk(program)

    await asyncio.gather(*map(run_block, programs))


async def walk(program: Program) -> None:
    kind, *rest = program
    if kind == "step":
        await step(*rest)
    elif kind == "sleep":
        await sleep(*rest)
    elif kind == "seq":
        for part in rest:
            await walk(part)
    elif kind == "gather":
        await asyncio.gather(*map(walk, rest))
    elif kind == "group":
        async with asyncio.TaskGroup() as group:
            for part in rest:
                group.create_task(walk(part))
    elif kind == "saga":
        async with Saga():
            await walk(rest[0])
    elif kind == "within":
        async with asyncio.timeout(rest[0]):
            await walk(rest[1])


def numbered(program: Program, numbers: collections.Counter[str]) -> Program:
    kind, *rest = program
    if kind == "step":
        numbers["next"] += 1
        return [kind, numbers["next"]]
    return [kind, *(numbered(p, numbers) if isinstance(p, list) else p for p in rest)]


def compose(parts: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(parts, min_size=2, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["seq", "gather", "group"]), several).map(
            lambda drawn: [drawn[0], *drawn[1]]
        ),
        parts.map(lambda part: ["saga", part]),
        st.tuples(st.integers(1, 3), parts).map(lambda drawn: ["within", *drawn]),
    )


leaves = st.one_of(
    st.just(["step"]), st.just(["step"]), st.integers(1, 4).map(lambda s: ["sleep", s])
)
shapes = st.recursive(leaves, compose, max_leaves=7)
programs = shapes.map(lambda program: numbered(program, collections.Counter()))


@dataclasses.dataclass
class Answer:
    """One move of the world: which pending activity ends, and how."""

    which: int
    how: str


answers = st.builds(
    Answer,
    st.integers(0, 5),
    st.sampled_from(["end", "end", "end", "fail", "stop", "cancel", "wait"]),
)


def move(driver: Driver, answer: Answer) -> None:
    """Let one thing happen; what cannot happen becomes something that can."""
    pending = driver.pending
    if answer.how == "cancel":
        driver.cancel()
    elif not pending or (answer.how == "wait" and driver.next_timer_at is not None):
        driver.fire_next_timer()
    else:
        chosen = pending[answer.which % len(pending)]
        if answer.how == "stop" and chosen.is_cancel_requested:
            driver.turn(driver.cancelled(chosen))
        elif answer.how in ("fail", "stop"):
            driver.fail(chosen, Refused(f"{_number(chosen.arguments)}"))
        else:
            driver.complete(chosen)
    driver.crash()


def _number(payloads: Any) -> int:
    number: int = msgspec.json.decode(payloads[0].json)
    return number


def happened(driver: Driver, name: str) -> tuple[list[int], list[int]]:
    """The numbers of an activity: as it was called, and as it came to its end."""
    called: dict[int, int] = {}
    ended: list[int] = []
    for event in driver.history:
        what = event.attributes
        if isinstance(what, ActivityTaskScheduled) and what.activity_type == name:
            called[event.event_id] = _number(what.input)
        elif (
            isinstance(what, ActivityTaskCompleted)
            and what.scheduled_event_id in called
        ):
            ended.append(called[what.scheduled_event_id])
    return [*called.values()], ended


def drive(driver: Driver, moves: list[Answer]) -> None:
    driver.start()
    for answer in moves:
        if driver.is_closed:
            break
        move(driver, answer)
    while not driver.is_closed:
        move(driver, Answer(0, "end"))
    replay_at_every_prefix(driver.history)
    assert driver.unhandled == []


def find_failure(driver: Driver) -> WorkflowFailedError | None:
    try:
        driver.result()
    except WorkflowFailedError as error:
        return error
    return None


def compensation_errors(error: BaseException | None) -> int:
    """How many failures of undoing an error tells of."""
    if isinstance(error, CompensationFailed):
        return len(error.errors) + compensation_errors(error.__cause__)
    if isinstance(error, BaseExceptionGroup):
        inner: tuple[BaseException, ...] = error.exceptions
        return sum(map(compensation_errors, inner))
    return 0


many = settings(max_examples=examples(100))


@many
@given(programs, st.booleans(), st.lists(answers, max_size=12))
def test_every_step_that_happened_is_undone_once_if_the_run_fails(
    program: Program, parallel: bool, moves: list[Answer]
) -> None:
    driver = Driver(run_program(program, parallel))
    drive(driver, moves)
    _, steps = happened(driver, "saga_orders.step")
    undone, well_undone = happened(driver, "saga_orders.undo")
    failed = find_failure(driver)
    if failed is None:
        assert undone == []
        return
    assert sorted(undone) == sorted(steps)
    assert compensation_errors(failed.__cause__) == len(undone) - len(well_undone)
    if not parallel and "saga" not in repr(program):
        assert undone == steps[::-1]


@many
@given(st.lists(shapes, min_size=2, max_size=3), st.lists(answers, max_size=12))
def test_no_run_ends_with_a_block_that_is_neither_done_nor_undone(
    shapes: list[Program], moves: list[Answer]
) -> None:
    _, *blocks = numbered(["seq", *shapes], collections.Counter())
    driver = Driver(run_blocks(blocks))
    drive(driver, moves)
    begun, steps = happened(driver, "saga_orders.step")
    undone, _ = happened(driver, "saga_orders.undo")
    assert len(undone) == len(set(undone))
    for block in blocks:
        own = {n for n in begun if f"'step', {n}]" in f"{block}"}
        # A block that ended well keeps all its steps; one that did not, none.
        assert own & set(undone) in (set(), own & set(steps))
