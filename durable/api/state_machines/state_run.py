"""One run of a state machine: takes one transition at a time, each whole or not at all.

Everything happens in the run's main task. Handlers of events only queue them and wait
for the answer, so that a cancellation of the run meets the transition that is under
way.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import inspect
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

from durable.api.cancellation import outlast, pass_on
from durable.api.sagas.saga import Saga
from durable.api.signature import CallSignature
from durable.api.state_machines.state_graph import StateGraph, Transition, parameters_of
from durable.api.workflows.operations import (
    all_handlers_finished,
    info,
    sleep,
    wait_condition,
)
from durable.converter import json
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import Handler, WorkflowRuntime
from durable.errors import IllegalTransition

DATA_QUERY = "data"
STATE_QUERY = "state"


class _Fired(NamedTuple):
    """An event with its arguments, and where its sender waits for the answer."""

    event: str
    arguments: dict[str, Any]
    answer: asyncio.Future[str]


class _Due(NamedTuple):
    """A transition whose time has come, unless its state was left meanwhile."""

    transition: Transition
    entry: int


class StateRun:
    """One run of a machine.

    Args:
        name: the machine's name.
        graph: its states and transitions.
        signature: its input, whose first part is the data, and its result.
        runtime: what drives the run.
        input: the data alone for a new run; else the data, the state, and since when.
    """

    def __init__(
        self,
        name: str,
        graph: StateGraph,
        signature: CallSignature,
        runtime: WorkflowRuntime,
        input: Payloads,
    ) -> None:
        self._name = name
        self._graph = graph
        self._signature = signature
        self._runtime = runtime
        values = signature.decode(input)
        self._data = input[0]
        self._is_new = len(values) < 2
        self._state: str = graph.initial if self._is_new else values[1]
        self._since: int = 0 if self._is_new else values[2]
        self._entries = 0
        self._timers: list[asyncio.Task[None]] = []
        self._has_timers = False
        self._queue: collections.deque[_Fired | _Due] = collections.deque()

    # --- messages ---------------------------------------------------------------------

    def set_handlers(self) -> None:
        """Serve the machine's events and queries."""
        for event in self._graph.events():
            self._runtime.set_handler("update", event, self._handler(event))
        for name, read in (
            (STATE_QUERY, self._encoded_state),
            (DATA_QUERY, lambda: self._data),
        ):
            self._runtime.set_handler("query", name, _reader(read))

    def _handler(self, event: str) -> Handler:
        signature = self._graph.event_signature(event)

        def bind(_: str, input: Payloads) -> Callable[[], Any]:
            args, kwargs = signature.unbind(signature.decode(input))
            bound = signature.signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return functools.partial(self._fire, event, bound.arguments)

        # A run that ends tells whoever still waits.
        return Handler(bind, is_async=True, encode=encode_state, warns_unfinished=False)

    async def _fire(self, event: str, arguments: dict[str, Any]) -> str:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._queue.append(_Fired(event, arguments, answer))
        return await answer

    def _encoded_state(self) -> Payload:
        return encode_state(self._state)

    # --- the life of the run ----------------------------------------------------------

    async def run(self) -> Any:
        """Go from state to state until a final one; return the data."""
        graph = self._graph
        if self._is_new:
            await self._enter_initial()
        while self._state not in graph.final:
            automatic = self._choose(graph.automatic(self._state), {})
            if automatic is not None:
                await self._take(automatic, {})
                continue
            await self._offer_checkpoint()
            self._start_timers()
            if not self._queue:
                await wait_condition(lambda: bool(self._queue))
            await self._serve(self._queue.popleft())
        await self._refuse_rest()
        return self._decode(self._data)

    async def _serve(self, item: _Fired | _Due) -> None:
        if isinstance(item, _Fired):
            await self._answer(item)
        elif item.entry == self._entries:
            transition = self._choose([item.transition], {})
            if transition is not None:
                await self._take(transition, {})

    async def _answer(self, fired: _Fired) -> None:
        """Take the transition that an event asks for; its sender hears of it."""
        event, arguments, answer = fired
        try:
            transitions = self._graph.on_event(self._state, event)
            transition = self._choose(transitions, arguments)
            if transition is None:
                raise self._illegal(event, transitions)
            await self._take(transition, arguments)
        except Exception as error:  # noqa: BLE001 - it leaves the handler, which is judged
            answer.set_exception(error)
        else:
            answer.set_result(self._state)

    def _illegal(self, event: str, transitions: list[Transition]) -> IllegalTransition:
        where = f"{self._name!r} is in state {self._state!r}"
        if transitions:
            guards = (
                "its guard says no" if len(transitions) == 1 else "no guard says yes"
            )
            text = f"{where}, and event {event!r} is not possible there now: {guards}."
        elif self._state in self._graph.final:
            text = f"{where}, which is final: event {event!r} comes too late."
        else:
            events = ", ".join(map(repr, self._graph.events(self._state))) or "none"
            text = (
                f"{where}, where event {event!r} is not possible; possible there:"
                f" {events}."
            )
        return IllegalTransition(text, state=self._state, event=event)

    async def _refuse_rest(self) -> None:
        """Refuse what nobody has answered, and let the answers go out."""
        while not all_handlers_finished():
            for item in self._queue:
                if isinstance(item, _Fired):
                    item.answer.set_exception(self._illegal(item.event, []))
            self._queue.clear()
            await wait_condition(lambda: all_handlers_finished() or bool(self._queue))

    # --- transitions ------------------------------------------------------------------

    def _choose(
        self, transitions: list[Transition], arguments: dict[str, Any]
    ) -> Transition | None:
        """The first transition whose guard says yes."""
        for transition in transitions:
            guard = transition.guard
            if guard is None or _call(guard, self._decode(self._data), arguments):
                return transition
        return None

    async def _take(self, transition: Transition, arguments: dict[str, Any]) -> None:
        source, data = self._state, self._data
        has_left = False
        try:
            async with Saga():
                data = await self._act(transition.action, data, arguments)
                has_left = True
                data = await self._enter(transition.target, data)
        except (Exception, asyncio.CancelledError):
            if has_left:
                self._publish(source)
            raise
        await self._settle(data)

    async def _enter_initial(self) -> None:
        async with Saga():
            data = await self._enter(self._state, self._data)
        await self._settle(data)

    async def _enter(self, state: str, data: Payload) -> Payload:
        self._publish(state)
        return await self._act(self._graph.on_enter[state], data, {})

    async def _act(
        self,
        function: Callable[..., Any] | None,
        data: Payload,
        arguments: dict[str, Any],
    ) -> Payload:
        """Let a function work on a copy of the data; return what came of it."""
        if function is None:
            return data
        copy = self._decode(data)
        result = _call(function, copy, arguments)
        if inspect.isawaitable(result):
            result = await result
        return json.encode(
            copy if result is None else result,
            self._signature.hint_at(0),
            f"the data of {self._name!r}",
        )

    async def _settle(self, data: Payload) -> None:
        """Keep what a transition has made; the time in the new state begins."""
        self._data = data
        self._since = self._runtime.now()
        self._entries += 1
        await self._stop_timers()

    def _publish(self, state: str) -> None:
        self._state = state
        self._runtime.set_state(encode_state(state))

    def _decode(self, data: Payload) -> Any:
        """The data, fresh: what is done to it does not count until it is kept."""
        hint = self._signature.hint_at(0)
        return json.decode(data, hint, f"the data of {self._name!r}")

    # --- time -------------------------------------------------------------------------

    def _start_timers(self) -> None:
        if self._has_timers:
            return
        self._has_timers = True
        loop = asyncio.get_running_loop()
        for transition in self._graph.timed(self._state):
            self._timers.append(
                loop.create_task(self._wait_for(transition), name=str(transition))
            )

    async def _wait_for(self, transition: Transition) -> None:
        due_at = self._since + (transition.after or 0)
        rest = timedelta(microseconds=max(0, due_at - self._runtime.now()))
        entry = self._entries
        await sleep(rest, summary=f"{self._name}: {transition}")
        self._queue.append(_Due(transition, entry))

    async def _stop_timers(self) -> None:
        timers, self._timers, self._has_timers = self._timers, [], False
        for timer in timers:
            timer.cancel()
            pass_on(await outlast(timer))

    async def _offer_checkpoint(self) -> None:
        """Let the run begin anew from here, if its history has grown long."""
        is_overdue = info().is_continue_as_new_suggested
        if self._queue or (self._timers and not is_overdue):
            return
        await self._stop_timers()
        # The answer to the last event is still on its way out.
        await wait_condition(lambda: all_handlers_finished() or bool(self._queue))
        if not self._queue:
            since = json.encode(self._since, int, "an instant")
            self._runtime.checkpoint((self._data, self._encoded_state(), since))


def _call(function: Callable[..., Any], data: Any, arguments: dict[str, Any]) -> Any:
    """Call a function with the data, and with those of the arguments that it names."""
    wanted = parameters_of(function)
    given = {p.name: arguments[p.name] for p in wanted if p.name in arguments}
    call = inspect.BoundArguments(inspect.Signature(wanted), given)
    return function(data, *call.args, **call.kwargs)


def _reader(read: Callable[[], Payload]) -> Handler:
    def bind(name: str, input: Payloads) -> Callable[[], Payload]:
        return read

    return Handler(bind, is_async=False, encode=lambda payload: payload)


def encode_state(state: str) -> Payload:
    """A state as it is recorded."""
    return json.encode(state, str, "the state")
