"""State machines: a workflow as states and the transitions between them."""

from __future__ import annotations

import enum
import functools
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from typing_extensions import Unpack

from durable.api.definitions import check_name, class_of_place
from durable.api.messages.messages import QueryCall, UpdateCall
from durable.api.sagas.ledger import closing_blocks
from durable.api.signature import CallSignature
from durable.api.state_machines.state_graph import StateGraph, Transition, span
from durable.api.state_machines.state_run import DATA_QUERY, STATE_QUERY, StateRun
from durable.api.workflows.workflow_definition import (
    Workflow,
    WorkflowCall,
    WorkflowOptions,
    register_workflow,
)
from durable.converter import json
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import MessageKind, WorkflowRuntime, get_runtime
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from durable.options import Duration, check_option_names, to_microseconds

D = TypeVar("D")
P = ParamSpec("P")

States: TypeAlias = str | Collection[str]


class MachineEvent(Generic[P]):
    """An event of a state machine: call it to get what a handle's `update` sends.

    Attributes:
        name: the event's name.
        action: the decorated function.
    """

    def __init__(self, machine: StateMachine[Any], name: str, action: Any) -> None:
        self.name = name
        self.action = action
        self._machine = machine
        wrapper: Any = self
        functools.update_wrapper(wrapper, action, updated=())

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> UpdateCall[str]:
        """Make a call value; see `StateMachine.fire`."""
        return self._machine.fire(self.name, *args, **kwargs)

    def __repr__(self) -> str:
        return f"<event {self.name!r} of {self._machine!r}>"


class ActionDecorator(Protocol[D]):
    """What `StateMachine.transition` returns."""

    def __call__(
        self, action: Callable[Concatenate[D, P], Awaitable[D | None] | D | None], /
    ) -> MachineEvent[P]: ...


_EnterFunction: TypeAlias = Callable[[D], Awaitable[D | None] | D | None]
_E = TypeVar("_E", bound=Callable[..., Any])
# Two forms each, or mypy could not infer lambdas.
_Guard: TypeAlias = Callable[[D], bool] | Callable[Concatenate[D, ...], bool]
_Action: TypeAlias = (
    Callable[[D], Awaitable[D | None] | D | None]
    | Callable[Concatenate[D, ...], Awaitable[D | None] | D | None]
)


class StateMachine(Workflow[[D], D]):
    """A workflow that is written as states and transitions.

        order = StateMachine("order", data=Order, initial="pending", final={"shipped"})
        order.add_state("paid", on_enter=pack)

        @order.transition("pending", "paid", guard=covers)
        async def pay(order: Order, cents: int) -> None:
            order.receipt = await charge(order.id, cents)

        run = await engine.start(order(Order("tea")), id="order-42")
        assert await run.update(pay(500)) == "paid"

    Events are updates: their sender gets the new state, or the error why there is none.
    One that is illegal in the present state fails with `IllegalTransition`, which is
    recorded, and the run goes on. The state is published at every transition, so
    `Handle.state` reads it too. In a final state the run ends; its result is the data.

    A transition is whole or not at all. Its guard, its action and the `on_enter` of its
    target see a copy of the data, which is kept if all goes well. If the action or
    `on_enter` raises, the machine is where it was, activities with a `compensate=` that
    have finished are undone, and the sender gets the error. A transition that no event
    asked for has no sender: then the error fails the run.

    Transitions are taken one at a time; events wait for their turn. Of several that an
    event allows, the first is taken whose guard says yes.

    Args:
        name: the name of the workflow; data in every history.
        data: what a run works on: any type that a parameter may have.
        initial: the state in which a run begins.
        final: the states in which it ends; none for a machine that goes on for ever.
        **options: as for `@workflow`.

    Raises:
        DefinitionError: the name is taken, or a state's name is no text.
        InvalidOptionError, InvalidDurationError: an option has a wrong value.
    """

    @overload
    def __init__(
        self,
        name: str,
        *,
        data: type[D],
        initial: str,
        final: States = (),
        **options: Unpack[WorkflowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: StateMachine[Any],
        name: str,
        *,
        data: Any,
        initial: str,
        final: States = (),
        **options: Unpack[WorkflowOptions],
    ) -> None: ...
    def __init__(
        self,
        name: str,
        *,
        data: Any,
        initial: str,
        final: States = (),
        **options: Unpack[WorkflowOptions],
    ) -> None:
        """See the class."""
        check_option_names(options, WorkflowOptions.__annotations__, "workflow option")
        checked = check_name(name, "workflow")
        super().__init__(_run_function(checked, data), checked, options)
        self.origin = class_of_place(checked, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # as dataclasses do
        self.__doc__ = None
        self._graph = StateGraph(_text(initial), frozenset(_texts(final)))
        self._is_checked = False
        self._signatures: dict[str, CallSignature] = {}
        register_workflow(self)

    # --- definition -------------------------------------------------------------------

    def add_state(
        self, name: str, *, on_enter: _EnterFunction[D] | None = None
    ) -> None:
        """Add a state, or say what is done on entering the initial or a final one.

        Args:
            name: its name.
            on_enter: called with the data when the state has been entered and
                published. It changes the data in place, or returns the new data; it may
                be async and call activities.

        Raises:
            DefinitionError: the state has an `on_enter` already, the name is no text,
                or the machine is in use.
        """
        self._refuse_if_used()
        state, known = _text(name), self._graph.on_enter
        if known.get(state) is not None:
            raise DefinitionError(
                f"State {state!r} of {self!r} has an on_enter already."
            )
        if on_enter is not None:
            _check_callable(on_enter, f"on_enter of state {state!r}")
        known[state] = on_enter

    def on_enter(self, state: str) -> Callable[[_E], _E]:
        """Decorate the function that is called when a state is entered; adds the state.

        Raises: as `add_state`.
        """

        def decorate(function: _E) -> _E:
            self.add_state(state, on_enter=function)
            return function

        return decorate

    def add_transition(
        self,
        source: States,
        target: str,
        *,
        on: str | None = None,
        after: Duration | None = None,
        guard: _Guard[D] | None = None,
        action: _Action[D] | None = None,
    ) -> None:
        """Add a transition: on an event, after a time, or at once.

        Without `on` and `after` it is tried as soon as the source state has been
        entered. Of equal transitions the first is taken whose guard says yes.

        Args:
            source: the state, or the states, from which it leads.
            target: the state it leads to; the source itself is left and entered again.
            on: the event that asks for it.
            after: the time in the source state after which it is tried, once.
            guard: called with the data, and with those of the event's arguments that
                it names; says whether the transition may be taken. It only looks: a
                plain def.
            action: called likewise on the way. It changes the data in place, or returns
                the new data; it may be async and call activities. Of the functions of
                an event, the one that takes the most says what its arguments are.

        Raises:
            DefinitionError: a name is no text, a function none, or the machine in use.
            InvalidOptionError: both `on` and `after` are given, or `after` is 0.
            InvalidDurationError: `after` is no duration.
        """
        self._refuse_if_used()
        label = f"of the transition {source!r} -> {target!r}"
        if on is not None and after is not None:
            raise InvalidOptionError(
                f"on={on!r} and after={after!r} {label} exclude each other.",
                hint="Add two transitions.",
            )
        microseconds = None
        if after is not None:
            microseconds = to_microseconds(after, f"after {label}")
            if microseconds == 0:
                raise InvalidOptionError(
                    f"after {label} is 0.", hint="Leave it out to mean at once."
                )
        for function, what in ((guard, "the guard"), (action, "the action")):
            if function is not None:
                _check_callable(function, f"{what} {label}")
        event = None if on is None else check_name(_text(on), "event")
        for state in _texts(source):
            self._graph.transitions.append(
                Transition(state, _text(target), event, microseconds, guard, action)
            )

    def transition(
        self,
        source: States,
        target: str,
        *,
        on: str | None = None,
        guard: _Guard[D] | None = None,
    ) -> ActionDecorator[D]:
        """Decorate the action of a transition; what comes of it is a typed event.

            @order.transition("pending", "paid")
            async def pay(order: Order, cents: int) -> None: ...

            await run.update(pay(500))

        Args:
            source: the state, or the states, from which it leads.
            target: the state it leads to.
            on: the event; the function's name by default.
            guard: as for `add_transition`.

        Raises: as `add_transition`.
        """

        def decorate(action: Any) -> Any:
            event = _text(action.__name__ if on is None else on)
            self.add_transition(source, target, on=event, guard=guard, action=action)
            return MachineEvent(self, event, action)

        return decorate

    def check(self) -> None:
        """Check the definition as a whole; done anyway when it is first used.

        A state that can never be reached or from which no final state can, a name that
        is no state's, a transition that can never be taken because another one always
        is, a circle without any waiting, functions that do not fit. Guards count as if
        they could say both.

        Raises:
            DefinitionError: with all that is wrong.
        """
        if self._is_checked:
            return
        problems = self._graph.find_problems()
        if problems:
            raise DefinitionError(
                "\n- ".join([f"{self!r} cannot work:", *problems]),
                hint="\nGuards are taken for functions that may say yes or no.",
            )
        self._signatures = {
            event: self._graph.event_signature(event) for event in self._graph.events()
        }
        self._is_checked = True

    def _refuse_if_used(self) -> None:
        if self._is_checked:
            raise DefinitionError(
                f"{self!r} is in use and cannot be changed any more.",
                hint="Add its states and transitions where it is defined.",
            )

    def code_parts(self) -> Iterable[Callable[..., Any]]:
        """Its guards and what it does on the way."""
        return self._graph.functions()

    def check_annotations(self) -> None:
        """See that values can be recorded by the annotations of data and events.

        Raises:
            DefinitionError: one cannot be resolved, or not be decoded by.
        """
        super().check_annotations()
        for event in self._graph.events():
            self._graph.event_signature(event).check_annotations(
                f"event {event!r} of {self.name!r}: ", has_result=False
            )

    def diagram(self) -> str:
        """Draw the machine as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {self._graph.initial}"]
        for transition in self._graph.transitions:
            label = transition.event or (
                "" if transition.after is None else span(transition.after)
            )
            if transition.guard is not None:
                guard = getattr(transition.guard, "__name__", "guard")
                label = f"{label} [{guard}]".strip()
            arrow = f"    {transition.source} --> {transition.target}"
            lines.append(f"{arrow} : {label}" if label else arrow)
        lines += [f"    {state} --> [*]" for state in sorted(self._graph.final)]
        return "\n".join(lines)

    # --- calls ------------------------------------------------------------------------

    def __call__(self, data: D, /) -> WorkflowCall[D]:
        """Make a call value: what an engine starts, or a parent workflow awaits.

        Raises:
            DefinitionError: the machine cannot work.
            PayloadError: the data cannot be recorded as it is.
        """
        self.check()
        return super().__call__(data)

    def fire(self, event: str, /, *args: Any, **kwargs: Any) -> UpdateCall[str]:
        """Make a call value: an event for a handle's `update`, which gives the state.

        Raises:
            InvalidCallError: the machine has no such event, or the arguments do not
                fit it.
            DefinitionError: the machine cannot work.
            PayloadError: an argument cannot be recorded as it is.
        """
        self.check()
        name = _text(event)
        signature = self._signatures.get(name)
        if signature is None:
            events = ", ".join(map(repr, self._graph.events())) or "none"
            raise InvalidCallError(
                f"{self!r} has no event {name!r}; there are: {events}."
            )
        values = signature.bind(args, kwargs)
        return UpdateCall(name, signature.encode(values), _decode_state)

    def state(self) -> QueryCall[str]:
        """Make a call value: the query for the present state."""
        return QueryCall(STATE_QUERY, (), _decode_state)

    def data(self) -> QueryCall[D]:
        """Make a call value: the query for the data, as the last transition left it."""
        return QueryCall(DATA_QUERY, (), self.call_signature.decode_result)

    def __repr__(self) -> str:
        return f"<state machine {self.name!r}>"

    # --- as the core sees it ----------------------------------------------------------

    def prepare(self, runtime: WorkflowRuntime, input: Payloads) -> None:
        """Make the run and set its handlers, before the first message."""
        self.check()
        run = StateRun(self.name, self._graph, self.call_signature, runtime, input)
        runtime.instance = run
        run.set_handlers()

    def message_signatures(
        self, kind: MessageKind
    ) -> dict[str | None, CallSignature] | None:
        """Its events, which are updates."""
        if kind == "query":
            return None
        self.check()
        return dict(self._signatures.items()) if kind == "update" else {}

    async def call(self, input: Payloads) -> Payload:
        """Run the machine; encode its data."""
        run: StateRun = get_runtime("A state machine").instance
        return self.call_signature.encode_result(await closing_blocks(run.run()))


def _run_function(name: str, data: Any) -> Callable[..., Any]:
    """A function whose signature is that of a machine's runs.

    Runs begin with data alone. A checkpoint also carries the state and the instant
    since when, in microseconds since 1970.
    """

    async def run(data: Any, state: str | None = None, since: int = 0) -> Any: ...

    if isinstance(data, str):
        raise DefinitionError(
            f"The data of state machine {name!r} is the text {data!r}.",
            hint="Give the type itself; make the machine after the type.",
        )
    run.__annotations__ |= {"data": data, "return": data}
    run.__annotations__ |= {"state": str | None, "since": int}
    run.__name__ = run.__qualname__ = name
    return run


def _check_callable(function: object, what: str) -> None:
    if not callable(function):
        raise DefinitionError(f"{what} is {function!r}, which cannot be called.")


def _text(name: object) -> str:
    """The name of a state or event; members of enums stand for their values."""
    found = name.value if isinstance(name, enum.Enum) else name
    return check_name(found, "state or event")


def _texts(names: object) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Collection):
        return [_text(names)]
    return [_text(name) for name in cast("Collection[object]", names)]


def _decode_state(payload: Payload) -> str:
    state: str = json.decode(payload, str, "the state")
    return state
