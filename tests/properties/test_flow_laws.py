"""The laws of `seq`, `par` and `choice`, and the truth of what the check says.

Flows are drawn at random and run in the real core. Two sides of a law run in the same
world: it says which steps fail, and in which order steps end. Equal means equal results
(or errors) and equal recorded activities.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import (
    Flow,
    WorkflowFailedError,
    activity,
    choice,
    need,
    never,
    par,
    provide,
    seq,
    skip,
    workflow,
)
from durable.core.history.events import ActivityTaskScheduled
from durable.errors import DefinitionError
from durable.testing import Driver
from durable.testing.pending import PendingActivity
from tests.sizes import examples

STEPS = 12
TOKENS = ("x", "y")


class Refused(Exception):
    """The error of a step."""


@activity(name="flow_laws.step")
async def run_step(number: int, value: str) -> str:
    return f"{value}.{number}"


_flows: list[Flow[str, Any]] = []
BEGUN: set[int] = set()
"""The steps that have begun, perhaps to be withdrawn in the same turn."""
RECORDED: set[int] = set()
"""The steps whose activity was recorded."""


@workflow(name="flow_laws.run")
async def run_flow(value: str) -> str:
    return repr(await _flows[0](value))


def step(number: int) -> Callable[[Any], Any]:
    async def body(value: Any) -> Any:
        BEGUN.add(number)
        return await run_step(number, repr(value))

    body.__name__ = f"step{number}"
    return body


AnyFlow: TypeAlias = Flow[Any, Any]
Shape: TypeAlias = Any
"""Of a flow: a token's use, or a combinator with the shapes of its parts, or a step."""
COMBINE: dict[str, Callable[..., AnyFlow]] = {"seq": seq, "par": par, "choice": choice}


def shapes(*, max_leaves: int, tokens: bool = False) -> st.SearchStrategy[Shape]:
    leaves: st.SearchStrategy[Shape] = st.just("step")
    if tokens:
        leaves |= st.sampled_from([p(t) for t in TOKENS for p in (provide, need)])

    def compose(parts: st.SearchStrategy[Shape]) -> st.SearchStrategy[Shape]:
        some = st.lists(parts, min_size=2, max_size=3)
        return st.tuples(st.sampled_from(sorted(COMBINE)), some)

    return st.recursive(leaves, compose, max_leaves=max_leaves)


def build(shape: Shape, numbers: Iterator[int]) -> AnyFlow:
    """A flow of that shape, whose steps have the next numbers."""
    if isinstance(shape, Flow):
        return shape
    if isinstance(shape, tuple):
        kind, parts = shape
        return COMBINE[kind](*[build(part, numbers) for part in parts])
    return seq(step(next(numbers)))


def flows(count: int) -> st.SearchStrategy[list[AnyFlow]]:
    """Some flows, no two steps of which have the same number."""
    drawn = st.lists(shapes(max_leaves=4), min_size=count, max_size=count)

    def build_all(found: list[Shape]) -> list[AnyFlow]:
        numbers = itertools.count(1)
        return [build(shape, numbers) for shape in found]

    return drawn.map(build_all)


law = settings(max_examples=examples(50))
"""Two runs an example, or four, in the real core."""


# --- running in a world ---------------------------------------------------------------


@dataclasses.dataclass
class World:
    """What happens outside of the code.

    Attributes:
        order: steps that come earlier in it end earlier.
        failing: steps that fail.
    """

    order: list[int]
    failing: set[int]

    def choose(self, pending: list[PendingActivity]) -> PendingActivity:
        return min(pending, key=lambda p: self.order.index(_number(p)))


worlds = st.builds(
    World,
    st.permutations(range(1, STEPS + 1)),
    st.sets(st.integers(1, STEPS), max_size=2),
)


def _number(pending: PendingActivity) -> int:
    number: int = msgspec.json.decode(pending.arguments[0].json)
    return number


@dataclasses.dataclass
class Outcome:
    """How a flow ended, and what it had recorded by then."""

    ended: str
    recorded: collections.Counter[str]


def run(flow: AnyFlow, world: World) -> Outcome:
    _flows[:] = [flow]
    driver = Driver(run_flow("v"))
    driver.start()
    while not driver.is_closed:
        running = [p for p in driver.pending if not p.is_cancel_requested]
        chosen = world.choose(running)
        if _number(chosen) in world.failing:
            driver.fail(chosen, Refused(str(_number(chosen))))
        else:
            driver.complete(chosen, f"<{_number(chosen)}>")
    try:
        ended = driver.result()
    except WorkflowFailedError as error:
        ended = repr(error.__cause__)
    recorded = collections.Counter(
        " ".join(bytes(payload.json).decode() for payload in event.attributes.input)
        for event in driver.history
        if isinstance(event.attributes, ActivityTaskScheduled)
    )
    return Outcome(ended, recorded)


def same(left: AnyFlow, right: AnyFlow, world: World) -> None:
    assert run(left, world) == run(right, world)


def then(flow: AnyFlow, change: Callable[[Any], Any]) -> AnyFlow:
    """The flow, with its result changed, since tuples nest otherwise on the sides."""

    async def changed(value: Any) -> Any:
        return change(value)

    return seq(flow, changed)


# --- the laws -------------------------------------------------------------------------


@law
@given(flows(3), worlds)
def test_seq_is_associative(parts: list[AnyFlow], world: World) -> None:
    f, g, h = parts
    same(seq(seq(f, g), h), seq(f, seq(g, h)), world)
    same(seq(f, seq(g, h)), seq(f, g, h), world)


@law
@given(flows(1), worlds)
def test_skip_is_neutral_in_seq(parts: list[AnyFlow], world: World) -> None:
    (f,) = parts
    same(seq(skip(), f), f, world)
    same(seq(f, skip()), f, world)


@law
@given(flows(3), worlds)
def test_par_is_associative_but_for_the_nesting_of_its_result(
    parts: list[AnyFlow], world: World
) -> None:
    f, g, h = parts
    flat = par(f, g, h)
    same(then(par(par(f, g), h), lambda t: (*t[0], t[1])), then(flat, tuple), world)
    same(then(par(f, par(g, h)), lambda t: (t[0], *t[1])), then(flat, tuple), world)


@law
@given(flows(2), worlds)
def test_par_is_commutative_but_for_the_order_of_its_result(
    parts: list[AnyFlow], world: World
) -> None:
    f, g = parts
    same(then(par(f, g), lambda t: t[::-1]), then(par(g, f), tuple), world)


@law
@given(flows(1), worlds)
def test_par_of_one_is_that_one_in_a_tuple(parts: list[AnyFlow], world: World) -> None:
    (f,) = parts
    same(then(par(f), lambda t: t[0]), then(f, lambda t: t), world)


@law
@given(flows(3), worlds)
def test_choice_is_associative(parts: list[AnyFlow], world: World) -> None:
    f, g, h = parts
    same(choice(choice(f, g), h), choice(f, g, h), world)
    same(choice(f, choice(g, h)), choice(f, g, h), world)


@law
@given(flows(2), worlds)
def test_choice_is_commutative(parts: list[AnyFlow], world: World) -> None:
    f, g = parts
    same(choice(f, g), choice(g, f), world)


@law
@given(flows(1), worlds)
def test_never_is_neutral_in_choice(parts: list[AnyFlow], world: World) -> None:
    (f,) = parts
    same(choice(f, never()), f, world)
    same(choice(never(), f), f, world)


def test_seq_does_not_distribute_over_choice() -> None:
    """A law that does not hold: what is chosen later is chosen by what ends later."""
    f, g, h = (seq(step(number)) for number in (1, 2, 3))
    world = World([1, 2, 3], set())
    early = run(seq(choice(f, g), h), world)
    late = run(choice(seq(f, h), seq(g, h)), world)
    assert early.ended == late.ended
    assert early.recorded != late.recorded


# --- the check tells the truth --------------------------------------------------------


def orders(flow: AnyFlow) -> Iterator[bool]:
    """Run a flow in every order in which its steps can end; whether each run ended."""
    pending: list[list[int]] = [[]]
    while pending:
        prefix = pending.pop()
        _flows[:] = [flow]
        driver = Driver(run_flow("v"))
        driver.start()
        for event_id in prefix:
            driver.complete(event_id, "<>")
        running = [p for p in driver.pending if not p.is_cancel_requested]
        if driver.is_closed or not running:
            RECORDED.update(
                msgspec.json.decode(event.attributes.input[0].json)
                for event in driver.history
                if isinstance(event.attributes, ActivityTaskScheduled)
            )
            yield driver.is_closed
        else:
            pending += [[*prefix, p.scheduled_event_id] for p in running]


def unchecked(flow: AnyFlow) -> AnyFlow:
    """A flow that runs whatever the check says of it."""
    same_flow = seq(flow)
    same_flow._is_checked = True
    return same_flow


@settings(max_examples=examples(100))
@given(shapes(max_leaves=6, tokens=True))
def test_what_the_check_says_is_what_some_order_shows(shape: Shape) -> None:
    numbers = itertools.count(1)
    flow = build(shape, numbers)
    said = ""
    try:
        flow.check()
    except DefinitionError as error:
        said = error.message
    BEGUN.clear()
    RECORDED.clear()
    all_end = all(orders(unchecked(flow)))
    all_begin = set(range(1, next(numbers))) == BEGUN
    assert ("can wait for ever" in said) is (not all_end)
    assert said or all_begin
    for hidden in re.findall(r"- (.*) can never run", said):
        assert RECORDED.isdisjoint(map(int, re.findall(r"'step(\d+)'", hidden)))


def test_the_property_can_fail() -> None:
    assert False in orders(unchecked(par(seq(step(1)), need("x"))))
