"""Programs as data, drawn from a seed, and what must come of each: no durable here.

A program is a list of steps that one workflow walks (tests/chaos/load.py). Whatever has
an effect has a place, which no other effect of the run of chaos has.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import msgspec

SENDERS: Final = ("left", "right")
Fate: TypeAlias = Literal["awaited", "abandon", "request_cancel", "terminate"]
_ENDS: Final[dict[Fate, str]] = {
    "awaited": "completed",
    "abandon": "completed",
    "request_cancel": "cancelled",
    "terminate": "terminated",
}


class _Step(msgspec.Struct, frozen=True, tag=True, tag_field="do"):
    """Base of the steps; `do` in their JSON says which one it is."""


class Act(_Step, frozen=True):
    """Await an activity that fails so often before it returns."""

    place: str
    failures: int = 0
    is_plain: bool = False


class Once(_Step, frozen=True):
    """Await an activity that may begin at most once."""

    place: str


class Pause(_Step, frozen=True):
    """Await a timer."""

    milliseconds: int


class Gather(_Step, frozen=True):
    """All at once."""

    steps: tuple[Step, ...]


class Child(_Step, frozen=True):
    """Start a child; one that is not awaited shows what becomes of it at the close."""

    place: str
    fate: Fate
    steps: tuple[Step, ...] = ()


class Book(_Step, frozen=True):
    """Do so much in a saga, and perhaps undo it all."""

    place: str
    count: int
    fails: bool


class Count(_Step, frozen=True):
    """Await a child that acts so often, with checkpoints."""

    place: str
    count: int


class Again(_Step, frozen=True):
    """Continue as new."""


class Receive(_Step, frozen=True):
    """Receive so many signals, of whichever sender."""

    count: int


class Updated(_Step, frozen=True):
    """Wait until there have been so many updates."""

    count: int


Step: TypeAlias = (
    Act | Once | Pause | Gather | Child | Book | Count | Again | Receive | Updated
)


class Program(msgspec.Struct, frozen=True):
    """What a run does, and how many messages of each sender it gets."""

    workflow_id: str
    steps: tuple[Step, ...]
    signals: dict[str, int]
    updates: int


class Seen(msgspec.Struct):
    """What a run has come to; its result in the end.

    `once` has what became of each activity that may begin once: None if nobody knows.
    """

    values: list[int] = []
    signals: dict[str, list[int]] = {}
    updates: list[int] = []
    once: dict[str, int | None] = {}


def value_of(place: str, given: int) -> int:
    """What the activity at a place makes of what came before it."""
    return zlib.crc32(f"{place} {given}".encode())


def undoing(place: str) -> str:
    """Where what was done at a place is undone."""
    return f"{place}~"


# --- drawing --------------------------------------------------------------------------


def draw(seed: int, index: int) -> Program:
    """Draw the program of a number."""
    return _Drawing(random.Random(f"{seed}/{index}"), f"p{seed}-{index}").program()


class _Drawing:
    def __init__(self, source: random.Random, workflow_id: str) -> None:
        self._random = source
        self._id = workflow_id
        self._places = 0

    def program(self) -> Program:
        choose = self._random
        signals = {sender: choose.randrange(4) for sender in SENDERS}
        updates = choose.choice((0, 0, 1, 3))
        steps = [self._step() for _ in range(choose.randrange(2, 9))]
        if choose.random() < 0.3:
            steps.insert(choose.randrange(len(steps)), Again())
        early = choose.randrange(sum(signals.values()) + 1)
        steps.insert(choose.randrange(len(steps)), Receive(early))
        steps += [Receive(sum(signals.values()) - early), Updated(updates)]
        return Program(self._id, tuple(steps), signals, updates)

    def _place(self) -> str:
        self._places += 1
        return f"{self._id}/{self._places}"

    def _simple(self) -> Step:
        choose = self._random
        if choose.random() < 0.2:
            return Pause(choose.choice((1, 30, 200)))
        failures = choose.choice((0, 0, 0, 1, 2))
        return Act(self._place(), failures, is_plain=choose.random() < 0.3)

    def _several(self) -> tuple[Step, ...]:
        return tuple(self._simple() for _ in range(self._random.randrange(1, 4)))

    def _step(self) -> Step:
        choose = self._random
        match choose.choices(range(6), (40, 15, 14, 14, 10, 7))[0]:
            case 0:
                return self._simple()
            case 1:
                return Once(self._place())
            case 2:
                return Gather((*self._several(), Once(self._place())))
            case 3:
                return self._child(choose.choice(tuple(_ENDS)))
            case 4:
                fails = choose.random() < 0.5
                return Book(self._place(), choose.randrange(1, 4), fails)
            case _:
                return Count(self._place(), choose.randrange(3, 9))

    def _child(self, fate: Fate) -> Child:
        works = _ENDS[fate] == "completed"
        return Child(self._place(), fate, self._several() if works else ())


# --- what must come of it -------------------------------------------------------------


@dataclass
class Expected:
    """What must come of a program, whatever happens.

    Attributes:
        result: its result, but for `once`, whose every value may be None instead.
        effects: what every effect returns, by its place.
        children: as what each child ends.
        undone: places of bookings that are undone, in the order of the undoing.
    """

    result: Seen
    effects: dict[str, int] = field(default_factory=dict)
    children: dict[str, str] = field(default_factory=dict)
    undone: list[list[str]] = field(default_factory=list)


def expect(program: Program) -> Expected:
    signals = {who: [*range(n)] for who, n in program.signals.items() if n}
    updates = [*range(program.updates)]
    expected = Expected(Seen(values=[], signals=signals, updates=updates, once={}))
    values = expected.result.values
    for step in program.steps:
        values += _walk(expected, step, values[-1] if values else 0)
    return expected


def _walk(expected: Expected, step: Step, given: int) -> list[int]:
    effects = expected.effects
    match step:
        case Act(place):
            effects[place] = value_of(place, given)
            return [effects[place]]
        case Once(place):
            effects[place] = expected.result.once[place] = value_of(place, given)
        case Gather(steps):
            return [v for each in steps for v in _walk(expected, each, given)]
        case Child(place, fate, steps):
            expected.children[place] = _ENDS[fate]
            values: list[int] = []
            for each in steps:
                values += _walk(expected, each, values[-1] if values else given)
            return values if fate == "awaited" else []
        case Book(place, count, fails):
            done = [f"{place}.{number}" for number in range(count)]
            effects.update({each: value_of(each, given) for each in done})
            if not fails:
                return [effects[each] for each in done]
            effects.update({undoing(each): effects[each] for each in done})
            expected.undone.append(done[::-1])
        case Count(place, count):
            expected.children[place] = "completed"
            for number in range(count):
                given = effects[f"{place}.{number}"] = value_of(
                    f"{place}.{number}", given
                )
            return [given]
        case _:
            pass
    return []
