"""Messages to a run as values: channels, and calls of signals, queries and updates.

A call is made where its arguments are checked and is sent by whoever holds the run:
`run.signal(approved(True))`, `run.query(Cart.count())`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, NoneType
from typing import Any, Final, Generic, Self, TypeVar, overload

from durable.api.definitions import check_name
from durable.converter import json
from durable.core.history.flags import Flag
from durable.core.history.payload import NULL, Payload, Payloads
from durable.core.runtime import find_runtime, get_runtime
from durable.errors import DefinitionError, InvalidCallError, UndecodableError
from durable.options import check_id

T = TypeVar("T")
R_co = TypeVar("R_co", covariant=True)

_NOTHING: Final = (None, NoneType, Any)


# --- calls ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class SignalCall:
    """A signal with its arguments: what a handle's `signal` sends."""

    name: str
    input: Payloads

    def __repr__(self) -> str:
        return f"<call of signal {self.name!r}>"


@dataclass(frozen=True, slots=True, repr=False)
class QueryCall(Generic[R_co]):
    """A query with its arguments: what a handle's `query` asks.

    Attributes:
        decode_result: turns the recorded answer into the value that the handler gave;
            raises UndecodableError.
    """

    name: str
    input: Payloads
    decode_result: Callable[[Payload], R_co]

    def __repr__(self) -> str:
        return f"<call of query {self.name!r}>"


@dataclass(frozen=True, slots=True, repr=False)
class UpdateCall(Generic[R_co]):
    """An update with its arguments: what a handle's `update` sends.

    Attributes:
        decode_result: turns the recorded answer into the value that the handler gave;
            raises UndecodableError.
    """

    name: str
    input: Payloads
    decode_result: Callable[[Payload], R_co]

    def __repr__(self) -> str:
        return f"<call of update {self.name!r}>"


def signal_call(call: SignalCall | str, args: tuple[Any, ...]) -> SignalCall:
    """What to send, given a call of a signal, or a signal's name and arguments.

    Raises:
        InvalidCallError: it is neither.
        InvalidIdError: the name is no id.
        PayloadError: an argument is no plain data.
    """
    if isinstance(call, str):
        return SignalCall(check_id(call, "the signal's name"), _plain(call, args))
    if not isinstance(call, SignalCall):
        raise _no_call(call, "signal", "approved(True) or Cart.add('apple')")
    _refuse_more(call, args)
    return call


def query_call(call: QueryCall[Any] | str, args: tuple[Any, ...]) -> QueryCall[Any]:
    """What to ask, given a call of a query, or a query's name and arguments.

    Raises: as `signal_call`.
    """
    if isinstance(call, str):
        name = check_id(call, "the query's name")
        return QueryCall(name, _plain(call, args), _plain_result(f"query {name!r}"))
    if not isinstance(call, QueryCall):
        raise _no_call(call, "query", "Cart.count()")
    _refuse_more(call, args)
    return call


def update_call(call: UpdateCall[Any] | str, args: tuple[Any, ...]) -> UpdateCall[Any]:
    """What to send, given a call of an update, or an update's name and arguments.

    Raises: as `signal_call`.
    """
    if isinstance(call, str):
        name = check_id(call, "the update's name")
        return UpdateCall(name, _plain(call, args), _plain_result(f"update {name!r}"))
    if not isinstance(call, UpdateCall):
        raise _no_call(call, "update", "Cart.checkout()")
    _refuse_more(call, args)
    return call


def _plain(name: str, args: tuple[Any, ...]) -> Payloads:
    return tuple(
        json.encode(value, Any, f"argument {index} of {name!r}")
        for index, value in enumerate(args, start=1)
    )


def _plain_result(what: str) -> Callable[[Payload], Any]:
    return lambda payload: json.decode(payload, Any, f"the result of {what}")


def _refuse_more(call: object, args: tuple[Any, ...]) -> None:
    if args:
        raise InvalidCallError(
            f"Arguments were given beside {call!r}.", hint="Put them into the call."
        )


def _no_call(call: object, kind: str, example: str) -> InvalidCallError:
    if inspect.iscoroutine(call):
        call.close()  # it would warn that nobody awaited it
    return InvalidCallError(
        f"{call!r} is no call of a {kind}.",
        hint=f"Give a call such as {example}, or the {kind}'s name and arguments.",
    )


# --- channels -------------------------------------------------------------------------


class Signal(Generic[T]):
    """A typed channel into a run, made once, at module level.

        approved = Signal("approved", bool)

    Outside, `await run.signal(approved(True))` sends a value. Inside a workflow,
    `await approved.receive()` waits for the next one, and `async for` goes through
    them. Each value is received once, in the order in which the signals were accepted;
    what nobody has received yet is kept.

    Args:
        name: the signal's name; data in every history that used it.
        type: any annotation that a parameter may have, such as `bool`, `list[int]` or
            a dataclass. With `None` the signal carries nothing: `stop = Signal("stop",
            None)` is sent as `stop()`.

    Raises:
        DefinitionError: the name is no id, or the type is a text.
    """

    @overload
    def __init__(self: Signal[None], name: str, type: None) -> None: ...
    @overload
    def __init__(self, name: str, type: type[T]) -> None: ...
    @overload
    def __init__(self: Signal[Any], name: str, type: Any) -> None: ...
    def __init__(self, name: str, type: Any) -> None:
        """See the class."""
        self.name = check_name(name, "signal")
        if isinstance(type, str):
            raise DefinitionError(
                f"The type of signal {name!r} is the text {type!r}.",
                hint="Give the type itself; make the signal after the type.",
            )
        self.type = type
        self._label = f"the value of signal {name!r}"
        self._is_checked = False

    @overload
    def __call__(self: Signal[None], /) -> SignalCall: ...
    @overload
    def __call__(self, value: T, /) -> SignalCall: ...
    def __call__(self, *values: Any) -> SignalCall:
        """Make a call value: nothing is sent until a handle's `signal` gets it.

        Raises:
            PayloadError: the value does not fit the signal's type, or cannot be
                recorded as it is.
            InvalidCallError: there is not exactly one value.
        """
        if not values and self.type in (None, NoneType):
            values = (None,)
        if len(values) != 1:
            raise InvalidCallError(
                f"Signal {self.name!r} was given {len(values)} values; it takes one."
            )
        payload = json.encode(values[0], self.type, self._label)
        return SignalCall(self.name, (payload,))

    async def receive(self) -> T:
        """Wait for the next value that nobody has received.

        Raises:
            DefinitionError: no value can be read by the signal's type.
            NotInWorkflowError: called outside of a workflow.
        """
        runtime = get_runtime("Signal.receive()")
        self.check_in_run()
        return await runtime.receive(self.name, self.decode)

    def receive_nowait(self) -> T:
        """The next value that is here already.

        Raises:
            asyncio.QueueEmpty: there is none.
            DefinitionError: no value can be read by the signal's type.
            NotInWorkflowError: called outside of a workflow.
        """
        runtime = get_runtime("Signal.receive_nowait()")
        self.check_in_run()
        return runtime.receive_nowait(self.name, self.decode)

    def __aiter__(self) -> Self:
        """Go through the values as they come, without end."""
        return self

    async def __anext__(self) -> T:
        """Wait for the next value; the same as `receive`."""
        return await self.receive()

    def __repr__(self) -> str:
        return f"<signal {self.name!r}>"

    def check_type(self) -> None:
        """See that values can be recorded by the signal's type.

        Raises:
            DefinitionError: they cannot.
        """
        if not self._is_checked:
            try:
                json.check_annotation(self.type)
            except DefinitionError as error:
                raise DefinitionError(
                    f"{self._label[0].upper()}{self._label[1:]}: {error.message}",
                    hint=error.hint,
                ) from None
            self._is_checked = True

    def check_in_run(self) -> None:
        """The same, in a run that was not recorded before this was done.

        Raises: as `check_type`.
        """
        if not self._is_checked and checks_handlers():
            self.check_type()

    def decode(self, input: Payloads) -> T:
        """Turn the arguments of a recorded signal into its value.

        Raises:
            UndecodableError: they are not one value of the signal's type.
        """
        if not input and self.type in _NOTHING:
            input = (NULL,)
        if len(input) != 1:
            raise UndecodableError(
                f"Signal {self.name!r} came with {len(input)} arguments; it takes one."
            )
        value: T = json.decode(input[0], self.type, self._label)
        return value


def checks_handlers() -> bool:
    """Whether the present turn refuses annotations of handlers and channels."""
    if find_runtime() is None:
        return True
    loop: Any = asyncio.get_running_loop()
    return bool(loop.flags & Flag.HANDLERS_CHECKED)


def channels_of(part: Any) -> Iterator[Signal[Any]]:
    """The channels that the code of a function, or of a class's methods, names."""
    if isinstance(part, type):
        for member in vars(part).values():
            if not isinstance(member, type):
                yield from channels_of(member)
        return
    function: Any = inspect.unwrap(part) if callable(part) else part
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return
    names: set[str] = set()
    codes = [code]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
    cells = inspect.getclosurevars(function).nonlocals
    for value in (*map(function.__globals__.get, sorted(names)), *cells.values()):
        if isinstance(value, Signal):
            yield value
