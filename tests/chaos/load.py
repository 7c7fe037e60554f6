"""The workflows and activities of chaos, for `durable worker` and `durable replay`."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from pathlib import Path

from durable import (
    Attribute,
    OutcomeUnknown,
    ParentClosePolicy,
    RetryPolicy,
    Saga,
    Signal,
    activity,
    activity_info,
    checkpoint,
    continue_as_new,
    run,
    sleep,
    start_child,
    update,
    wait_condition,
    workflow,
)
from tests.chaos import branches, ledger, tale_judge
from tests.chaos.programs import (
    Act,
    Again,
    Book,
    Child,
    Count,
    Gather,
    Once,
    Pause,
    Program,
    Receive,
    Seen,
    Step,
    Updated,
    undoing,
    value_of,
)
from tests.chaos.tales import MENDABLE

LEDGER = ledger.of_this_process()
SABOTAGE = os.environ.get(ledger.SABOTAGE_VARIABLE)
OFTEN = RetryPolicy(max_attempts=1_000, initial_interval="10ms", max_interval="50ms")
HOUR = 3_600
if LEDGER is not None:
    branches.watch(LEDGER)
if SABOTAGE == "rob":
    folder = Path(os.environ[ledger.FOLDER_VARIABLE])
    branches.believe_all_others_dead((folder / ledger.QUIET).exists)


class Scripted(Exception):
    """A failure that the program asks for."""


class Declined(Exception):
    """What a saga is left by."""


# --- effects --------------------------------------------------------------------------


def note(what: str, place: str, value: int | None = None) -> None:
    if LEDGER is not None:
        info = activity_info()
        LEDGER.write(
            what,
            place=place,
            run=info.run_id,
            activity=info.activity_id,
            attempt=info.attempt,
            value=value,
        )


def lasting() -> float:
    return random.random() * random.choice((0.002, 0.05, 0.3))


async def effect(place: str, value: int, failures: int = 0) -> int:
    note("begin", place)
    if SABOTAGE == "rerun" and place.endswith("1"):
        note("begin", place)
    await asyncio.sleep(lasting())
    return finish(place, value, failures)


def finish(place: str, value: int, failures: int) -> int:
    if activity_info().attempt <= failures:
        note("fail", place)
        raise Scripted(place)
    note("end", place, value)
    return value


@activity(name="chaos.act", retry=OFTEN)
async def act(place: str, given: int, failures: int) -> int:
    return await effect(place, value_of(place, given), failures)


@activity(name="chaos.act_in_thread", retry=OFTEN)
def act_in_thread(place: str, given: int, failures: int) -> int:
    note("begin", place)
    time.sleep(lasting())
    return finish(place, value_of(place, given), failures)


@activity(name="chaos.act_once", effect="once")
async def act_once(place: str, given: int) -> int:
    return await effect(place, value_of(place, given))


@activity(name="chaos.unbook", retry=OFTEN)
async def unbook(value: int, place: str, given: int) -> None:
    await effect(undoing(place), value)


@activity(name="chaos.book", retry=OFTEN, compensate=unbook)
async def book(place: str, given: int) -> int:
    return await effect(place, value_of(place, given))


def _mended(place: str) -> Path | None:
    folder = os.environ.get(ledger.FOLDER_VARIABLE)
    return Path(folder) / f"mended {place.replace('/', ' ')}" if folder else None


def mend(place: str) -> None:
    """Let what is done at a place succeed from now on."""
    path = _mended(place)
    assert path is not None
    path.touch()


@activity(name="chaos.act_if_mended", retry=None)
async def act_if_mended(place: str, given: int) -> int:
    note("begin", place)
    path = _mended(place)
    if path is not None and not path.exists():
        note("fail", place)
        raise Scripted(place)
    return finish(place, value_of(place, given), 0)


# --- workflows ------------------------------------------------------------------------

told = Signal("chaos.told", tuple[str, int])


@workflow(name="chaos.sleeper")
async def sleeper() -> None:
    await sleep(HOUR)


@workflow(name="chaos.child")
async def child(steps: tuple[Act | Pause, ...], given: int) -> list[int]:
    values: list[int] = []
    for step in steps:
        values += await simple(step, values[-1] if values else given)
    return values


@workflow(name="chaos.counter", checkpoint_every=8)
async def counter(place: str, count: int, given: int, done: int = 0) -> int:
    while done < count:
        given = await act(f"{place}.{done}", given, 0)
        done += 1
        checkpoint(place, count, given, done)
    return given


async def simple(step: Act | Pause, given: int) -> list[int]:
    if isinstance(step, Pause):
        await sleep(step.milliseconds / 1_000)
        return []
    acting = act_in_thread if step.is_plain else act
    return [await acting(step.place, given, step.failures)]


go = Signal("chaos.go", bool)
tale = Attribute("chaos_tale", str)


@workflow(name=tale_judge.TYPE)
async def operated(places: list[str]) -> list[int]:
    """Act, wait to be let go on, and act again; see tales.py."""
    values: list[int] = []
    for place in places:
        given = values[-1] if values else 0
        if MENDABLE in place:
            values.append(await act_if_mended(place, given))
        else:
            values.append(await act(place, given, 0))
        if len(values) == 1:
            await go.receive()
    return values


@workflow(name="chaos.walk")
class Walk:
    """Walks a program."""

    def __init__(self) -> None:
        self.seen = Seen(values=[], signals={}, updates=[], once={})

    @run
    async def go(self, program: Program, at: int, seen: Seen) -> Seen:
        # What handlers have added before the code began is kept.
        seen.updates += self.seen.updates
        self.seen = seen
        for number, step in enumerate(program.steps[at:], at + 1):
            if isinstance(step, Again):
                continue_as_new(Walk.go(program, number, seen))
            values = seen.values
            values += await self.walk(step, values[-1] if values else 0)
        return seen

    @update
    def add(self, number: int) -> int:
        self.seen.updates.append(number)
        return -number

    async def walk(self, step: Step, given: int) -> list[int]:
        match step:
            case Act() | Pause():
                return await simple(step, given)
            case Once(place):
                try:
                    self.seen.once[place] = await act_once(place, given)
                except OutcomeUnknown:
                    self.seen.once[place] = None
            case Gather(steps):
                each = [self.walk(one, given) for one in steps]
                return [*itertools.chain(*await asyncio.gather(*each))]
            case Child():
                return await self.raise_child(step, given)
            case Book():
                return await self.book(step, given)
            case Count(place, count):
                return [await counter.options(id=place)(place, count, given)]
            case Receive(count):
                for _ in range(count):
                    sender, number = await told.receive()
                    self.seen.signals.setdefault(sender, []).append(number)
            case Updated(count):
                await wait_condition(lambda: len(self.seen.updates) >= count)
            case Again():
                pass
        return []

    async def raise_child(self, step: Child, given: int) -> list[int]:
        simple_steps = tuple(s for s in step.steps if isinstance(s, Act | Pause))
        if step.fate == "awaited":
            return await child.options(id=step.place)(simple_steps, given)
        policy = ParentClosePolicy(step.fate)
        if step.steps:
            call = child.options(parent_close_policy=policy)
            await start_child(call(simple_steps, given), id=step.place)
        else:
            sleeping = sleeper.options(parent_close_policy=policy)
            await start_child(sleeping(), id=step.place)
        return []

    async def book(self, step: Book, given: int) -> list[int]:
        values: list[int] = []
        try:
            async with Saga():
                places = [f"{step.place}.{number}" for number in range(step.count)]
                values += [await book(place, given) for place in places]
                if step.fails:
                    raise Declined(step.place)
        except Declined:
            return []
        return values
