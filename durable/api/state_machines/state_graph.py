"""States and transitions of a state machine, and what can be wrong with them.

Everything is checked on the graph alone. What guards will say is not known, so a
transition with a guard counts as one that may be taken, and may be refused.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from durable.api.signature import CallSignature, gives_coroutine
from durable.errors import DefinitionError


@dataclasses.dataclass(frozen=True, eq=False)
class Transition:
    """One way from a state to another.

    Attributes:
        event: what has to be fired; None if nothing has.
        after: microseconds in the source state after which it is taken; None if not by
            time. Without an event too it is taken at once, when the state is entered.
        guard: says whether it may be taken.
        action: what is done on the way.
    """

    source: str
    target: str
    event: str | None
    after: int | None
    guard: Callable[..., Any] | None
    action: Callable[..., Any] | None

    @property
    def is_automatic(self) -> bool:
        """Whether it is taken as soon as its source is entered."""
        return self.event is None and self.after is None

    @property
    def functions(self) -> list[Callable[..., Any]]:
        """The guard and the action, if there are."""
        return [f for f in (self.guard, self.action) if f is not None]

    def __str__(self) -> str:
        if self.event is not None:
            label = f" on {self.event!r}"
        elif self.after is not None:
            label = f" after {span(self.after)}"
        else:
            label = ""
        return f"{self.source!r} -> {self.target!r}{label}"


class StateGraph:
    """The states and transitions of one machine.

    Attributes:
        initial: where a run begins.
        final: where a run ends.
        on_enter: each state, with what is done when it is entered.
        transitions: in order of definition, which is that of trying them.
    """

    def __init__(self, initial: str, final: frozenset[str]) -> None:
        self.initial = initial
        self.final = final
        self.on_enter: dict[str, Callable[..., Any] | None] = dict.fromkeys(
            [initial, *sorted(final)]
        )
        self.transitions: list[Transition] = []

    def functions(self) -> Iterator[Callable[..., Any]]:
        """All that a run of the machine may call."""
        yield from (entered for entered in self.on_enter.values() if entered)
        for transition in self.transitions:
            yield from transition.functions

    # --- what a run asks --------------------------------------------------------------

    def on_event(self, state: str, event: str) -> list[Transition]:
        """The transitions of an event in a state, in the order of trying them."""
        return [t for t in self.transitions if (t.source, t.event) == (state, event)]

    def automatic(self, state: str) -> list[Transition]:
        """The transitions that are tried when a state has been entered."""
        return [t for t in self.transitions if t.source == state and t.is_automatic]

    def timed(self, state: str) -> list[Transition]:
        """The transitions that are taken by time."""
        return [
            t for t in self.transitions if t.source == state and t.after is not None
        ]

    def events(self, state: str | None = None) -> list[str]:
        """The events that mean something in a state, or anywhere."""
        found = (t.event for t in self.transitions if state in (None, t.source))
        return sorted({event for event in found if event is not None})

    def event_signature(self, event: str) -> CallSignature:
        """The arguments of an event: those of the function that takes the most.

        Raises:
            DefinitionError: they cannot be recorded as a list of values.
        """
        functions = [_takes_nothing, *self._functions_of(event)]
        most = max(functions, key=lambda function: len(parameters_of(function)))
        return CallSignature(most, event, skip=("data",))

    def _functions_of(self, event: str) -> Iterator[Callable[..., Any]]:
        for transition in self.transitions:
            if transition.event == event:
                yield from transition.functions

    # --- what can be wrong ------------------------------------------------------------

    def find_problems(self) -> list[str]:
        """Everything that is wrong, each as a sentence."""
        problems = [*self._wrong_ends()]
        if problems:  # the rest would only repeat them
            return problems
        taken = self._taken()
        return [
            *self._unreachable(taken),
            *self._dead_ends(taken),
            *self._never_taken(taken),
            *self._endless(taken),
            *self._wrong_functions(),
        ]

    def _wrong_ends(self) -> Iterator[str]:
        known = ", ".join(map(repr, sorted(self.on_enter)))
        for transition in self.transitions:
            for state in dict.fromkeys((transition.source, transition.target)):
                if state not in self.on_enter:
                    yield (
                        f"The transition {transition} names {state!r}, which is no"
                        f" state; there are {known}."
                    )
            if transition.source in self.final:
                yield f"The transition {transition} leads out of a final state."
        if self.initial in self.final:
            yield f"The initial state {self.initial!r} is a final one too."

    def _taken(self) -> list[Transition]:
        """The transitions that can be taken at all.

        One without a guard stands in the way of those that are tried later.
        """
        taken: list[Transition] = []
        for state in self.on_enter:
            automatic = _up_to_first_sure(self.automatic(state))
            taken += automatic
            if automatic and automatic[-1].guard is None:
                continue
            for event in self.events(state):
                taken += _up_to_first_sure(self.on_event(state, event))
            timed = sorted(self.timed(state), key=lambda t: t.after or 0)
            taken += _up_to_first_sure(timed)
        return taken

    def _unreachable(self, taken: list[Transition]) -> Iterator[str]:
        reached = _closure({self.initial}, [(t.source, t.target) for t in taken])
        for state in self.on_enter:
            if state not in reached:
                yield f"The state {state!r} can never be reached."

    def _dead_ends(self, taken: list[Transition]) -> Iterator[str]:
        if not self.final:  # an endless machine
            return
        ending = _closure(set(self.final), [(t.target, t.source) for t in taken])
        for state in self.on_enter:
            if state not in ending:
                yield f"From the state {state!r} no final state can be reached."

    def _never_taken(self, taken: list[Transition]) -> Iterator[str]:
        for transition in self.transitions:
            if transition not in taken:
                yield (
                    f"The transition {transition} can never be taken: another one,"
                    " without a guard, always is."
                )

    def _endless(self, taken: list[Transition]) -> Iterator[str]:
        """Circles of transitions that are taken at once, and for sure."""
        sure = {t.source: t.target for t in taken if t.is_automatic and not t.guard}
        seen: set[str] = set()
        for first in sure:
            path: list[str] = []
            state = first
            while state in sure and state not in seen:
                seen.add(state)
                path.append(state)
                state = sure[state]
            if state in path:
                circle = " -> ".join(map(repr, [*path[path.index(state) :], state]))
                yield f"The machine goes round for ever without waiting: {circle}."

    def _wrong_functions(self) -> Iterator[str]:
        for transition in self.transitions:
            if transition.guard is not None and gives_coroutine(transition.guard):
                yield (
                    f"The guard of the transition {transition} is async; it only looks"
                    " at the data, so write a plain def."
                )
            if transition.event is None:
                for function in transition.functions:
                    wanted = [
                        p for p in parameters_of(function) if p.default is p.empty
                    ]
                    if wanted:
                        yield (
                            f"{_name(function)} of the transition {transition} takes"
                            f" {wanted[0].name!r}, but there is no event to bring it."
                        )
        for event in self.events():
            yield from self._wrong_parameters(event)

    def _wrong_parameters(self, event: str) -> Iterator[str]:
        """Functions of an event that do not agree on its arguments."""
        try:
            widest = self.event_signature(event)
            known = _hints(widest)
            for function in dict.fromkeys(self._functions_of(event)):
                own = _hints(CallSignature(function, event, skip=("data",)))
                for name, hint in own.items():
                    if known.get(name) != hint:
                        yield (
                            f"{_name(function)} and {_name(widest.function)} take"
                            f" different arguments of the event {event!r}: {name!r} is"
                            f" {hint} in the one and {known.get(name, 'missing')} in"
                            " the other."
                        )
        except DefinitionError as error:
            yield error.message


def span(microseconds: int) -> str:
    """A span in the largest unit that divides it, as durations are written."""
    seconds, rest = divmod(microseconds, 1_000_000)
    if rest:
        return f"{microseconds / 1_000:g}ms"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """What a guard or action takes besides the data, which comes first."""
    return [*inspect.signature(function).parameters.values()][1:]


async def _takes_nothing(data: Any) -> None: ...


def _hints(signature: CallSignature) -> dict[str, str]:
    """The annotation of each parameter, as text."""
    names = signature.signature.parameters
    return {
        name: inspect.formatannotation(signature.hint_at(index))
        for index, name in enumerate(names)
    }


def _name(function: Callable[..., Any]) -> str:
    return repr(getattr(function, "__name__", function))


def _up_to_first_sure(transitions: list[Transition]) -> list[Transition]:
    """Those that are tried: up to the first that has no guard."""
    tried: list[Transition] = []
    for transition in transitions:
        tried.append(transition)
        if transition.guard is None:
            break
    return tried


def _closure(start: set[str], edges: Iterable[tuple[str, str]]) -> set[str]:
    """What can be reached along the edges."""
    reached, edges = set(start), list(edges)
    has_grown = True
    while has_grown:
        more = {to for come, to in edges if come in reached} - reached
        reached |= more
        has_grown = bool(more)
    return reached
