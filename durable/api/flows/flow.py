"""Combinators: activities, workflows and functions composed into one checked flow."""

from __future__ import annotations

import asyncio
import collections
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import (
    Any,
    ClassVar,
    Generic,
    Never,
    TypeAlias,
    TypeGuard,
    TypeVar,
    cast,
    overload,
)

from durable.api.cancellation import Cancels, outlast, pass_on
from durable.api.flows.flow_graph import Kind, Part, find_problems
from durable.api.sagas.ledger import find_ledger
from durable.api.sagas.saga import Saga
from durable.errors import CompensationFailed, DefinitionError, InvalidCallError
from durable.options import check_id

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")
F = TypeVar("F")
T = TypeVar("T")
A_contra = TypeVar("A_contra", contravariant=True)
B_co = TypeVar("B_co", covariant=True)

_To: TypeAlias = Callable[[A], Awaitable[B]]
"""What may be a part: a function of one value."""
_Tokens: TypeAlias = collections.defaultdict[str, asyncio.Event]


class Flow(ABC, Generic[A_contra, B_co]):
    """A composed function: await a call of it in workflow code.

        checkout = seq(price, par(charge, reserve), ship)
        parcel = await checkout(order)

    `seq`, `par` and `choice` compose flows of activities, workflows, async functions
    and other flows, all of which take one value. Flows are values: make them once, at
    module level, and call them as often as you like. They start plain asyncio tasks and
    record nothing of their own.

    Before its first run a flow is checked as a whole; see `check`.
    """

    _is_checked = False

    def __call__(self, value: A_contra, /) -> Coroutine[Any, Any, B_co]:
        """Run the flow on a value.

        Raises:
            DefinitionError: the flow as a whole cannot work.
        """
        self.check()
        return self._run(value, collections.defaultdict(asyncio.Event))

    def check(self) -> None:
        """Check the flow as a whole; done anyway before its first run.

        All orders are tried in which its steps can end, if there are not more than
        some thousand; it is assumed that each step does end. Found are parts that can
        never run, and states in which parts wait for each other, or for what is never
        provided, for ever. What happens within a step is not looked into.

        Raises:
            DefinitionError: with all that is wrong.
        """
        if self._is_checked:
            return
        problems = find_problems(self.part())
        if problems:
            raise DefinitionError(
                "\n- ".join([f"The flow {self!r} cannot work:", *problems])
            )
        self._is_checked = True

    @abstractmethod
    def part(self) -> Part:
        """The flow as its check sees it."""

    @abstractmethod
    async def _run(self, value: A_contra, tokens: _Tokens, /) -> B_co:
        """Run on a value, as a part of the flow that the tokens belong to."""

    def __repr__(self) -> str:
        return str(self.part())


# --- parts ----------------------------------------------------------------------------


class _Step(Flow[A, B]):
    def __init__(self, function: Callable[[A], Awaitable[B]]) -> None:
        self._function = function

    def part(self) -> Part:
        function: Any = self._function
        while isinstance(function, functools.partial):
            function = function.func
        name = getattr(function, "name", None) or getattr(function, "__name__", None)
        return Part(Kind.STEP, str(name or function))

    async def _run(self, value: A, tokens: _Tokens, /) -> B:
        return await self._function(value)


class Same(Flow[Any, Any]):
    """A flow that gives back the very value it got: of whatever type, the same type."""

    def __init__(self, kind: Kind, name: str = "") -> None:
        self._part = Part(kind, name)

    def __call__(self, value: T, /) -> Coroutine[Any, Any, T]:
        """Run the flow on a value.

        Raises:
            DefinitionError: it needs what nothing provides.
        """
        return super().__call__(value)

    def part(self) -> Part:
        """The flow as its check sees it."""
        return self._part

    async def _run(self, value: Any, tokens: _Tokens, /) -> Any:
        if self._part.kind is Kind.PROVIDE:
            tokens[self._part.name].set()
        elif self._part.kind is Kind.NEED:
            await tokens[self._part.name].wait()
        return value


class _Fail(Flow[A, Never]):
    def __init__(self, make_error: Callable[[A], BaseException]) -> None:
        self._make_error = make_error

    def part(self) -> Part:
        return Part(Kind.FAIL, "")

    async def _run(self, value: A, tokens: _Tokens, /) -> Never:
        raise self._make_error(value)


class _Forever(Flow[object, Never]):
    def part(self) -> Part:
        return Part(Kind.NEVER, "")

    async def _run(self, value: object, tokens: _Tokens, /) -> Never:
        while True:
            await asyncio.get_running_loop().create_future()


class _Composed(Flow[Any, Any]):
    kind: ClassVar[Kind]

    def __init__(self, parts: tuple[object, ...]) -> None:
        self._parts = [_flow_of(part, self.kind) for part in parts]

    def part(self) -> Part:
        return Part(self.kind, "", tuple(part.part() for part in self._parts))


class _Seq(_Composed):
    kind = Kind.SEQ

    async def _run(self, value: Any, tokens: _Tokens, /) -> Any:
        for part in self._parts:
            value = await part._run(value, tokens)
        return value


class _Par(_Composed):
    kind = Kind.PAR

    async def _run(self, value: Any, tokens: _Tokens, /) -> Any:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(part._run(value, tokens)) for part in self._parts]
        if not tasks:
            return ()
        first: asyncio.Task[Any] | None = None
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            first = next((task for task in tasks if _has_failed(task)), None)
        finally:
            await _stop(tasks)
        if first is not None:
            first.result()  # it raises
        return tuple([task.result() for task in tasks])


class _Choice(_Composed):
    kind = Kind.CHOICE

    async def _run(self, value: Any, tokens: _Tokens, /) -> Any:
        loop = asyncio.get_running_loop()
        ended: list[int] = []
        tasks = [
            loop.create_task(self._compete(number, value, tokens, ended))
            for number in range(len(self._parts))
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _stop(tasks)
        return tasks[ended[0]].result()

    async def _compete(
        self, number: int, value: Any, tokens: _Tokens, ended: list[int]
    ) -> Any:
        if find_ledger() is None:
            return await self._come_first(number, value, tokens, ended)
        # In a saga, what a losing branch has finished is undone at once.
        async with Saga():
            return await self._come_first(number, value, tokens, ended)

    async def _come_first(
        self, number: int, value: Any, tokens: _Tokens, ended: list[int]
    ) -> Any:
        try:
            result = await self._parts[number]._run(value, tokens)
        except BaseException:
            ended.append(number)
            raise
        ended.append(number)
        if ended[0] != number:
            raise asyncio.CancelledError("another branch was faster")
        return result


async def _stop(tasks: list[asyncio.Task[Any]]) -> None:
    """Cancel what still runs and wait for it, through any cancellation.

    Raises:
        CompensationFailed: a saga within one of them could not be undone.
    """
    for task in tasks:
        task.cancel()
    cancels = Cancels()
    for task in tasks:
        cancels.join(await outlast(task))
    # Ask each for its error, or asyncio would report that nobody did.
    errors = [None if task.cancelled() else task.exception() for task in tasks]
    for error in errors:
        if isinstance(error, CompensationFailed):
            pass_on(cancels)
            raise error
    if cancels:
        raise cancels[0]


def _has_failed(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _flow_of(part: object, kind: Kind) -> Flow[Any, Any]:
    if _is_flow(part):
        return part
    if callable(part):
        function: Callable[[Any], Awaitable[Any]] = cast("Any", part)
        return _Step(function)
    if inspect.iscoroutine(part):
        part.close()  # it would warn that nobody awaited it
    raise InvalidCallError(
        f"A part of {kind.name.lower()}() is {part!r}, which cannot be called.",
        hint="Give the activity, workflow or async function itself, and no call of it.",
    )


def _is_flow(value: object) -> TypeGuard[Flow[Any, Any]]:
    return isinstance(value, Flow)


# --- combinators ----------------------------------------------------------------------


@overload
def seq(f: _To[A, B], /) -> Flow[A, B]: ...
@overload
def seq(f: _To[A, B], g: _To[B, C], /) -> Flow[A, C]: ...
@overload
def seq(f: _To[A, B], g: _To[B, C], h: _To[C, D], /) -> Flow[A, D]: ...
@overload
def seq(f: _To[A, B], g: _To[B, C], h: _To[C, D], i: _To[D, E], /) -> Flow[A, E]: ...
@overload
def seq(
    f: _To[A, B], g: _To[B, C], h: _To[C, D], i: _To[D, E], j: _To[E, F], /
) -> Flow[A, F]: ...
@overload
def seq(*parts: _To[A, A]) -> Flow[A, A]: ...
def seq(*parts: Any) -> Any:
    """Run one part after the other, each on the result of the one before.

    Without any part it gives back what it got. Type checkers follow up to five parts;
    nest it for more.

    Raises:
        InvalidCallError: a part cannot be called.
    """
    return _Seq(parts)


@overload
def par(f: _To[A, B], /) -> Flow[A, tuple[B]]: ...
@overload
def par(f: _To[A, B], g: _To[A, C], /) -> Flow[A, tuple[B, C]]: ...
@overload
def par(f: _To[A, B], g: _To[A, C], h: _To[A, D], /) -> Flow[A, tuple[B, C, D]]: ...
@overload
def par(
    f: _To[A, B], g: _To[A, C], h: _To[A, D], i: _To[A, E], /
) -> Flow[A, tuple[B, C, D, E]]: ...
@overload
def par(
    f: _To[A, B], g: _To[A, C], h: _To[A, D], i: _To[A, E], j: _To[A, F], /
) -> Flow[A, tuple[B, C, D, E, F]]: ...
@overload
def par(*parts: _To[A, B]) -> Flow[A, tuple[B, ...]]: ...
def par(*parts: Any) -> Any:
    """Run all parts at once on the same value; the result is the tuple of theirs.

    If one raises, the others are cancelled and waited for, and then its error goes on
    as it is. Of several that failed in the same turn, the first part's counts.

    Raises:
        InvalidCallError: a part cannot be called.
    """
    return _Par(parts)


@overload
def choice(f: _To[A, B], /) -> Flow[A, B]: ...
@overload
def choice(f: _To[A, B], g: _To[A, C], /) -> Flow[A, B | C]: ...
@overload
def choice(f: _To[A, B], g: _To[A, C], h: _To[A, D], /) -> Flow[A, B | C | D]: ...
@overload
def choice(
    f: _To[A, B], g: _To[A, C], h: _To[A, D], i: _To[A, E], /
) -> Flow[A, B | C | D | E]: ...
@overload
def choice(
    f: _To[A, B], g: _To[A, C], h: _To[A, D], i: _To[A, E], j: _To[A, F], /
) -> Flow[A, B | C | D | E | F]: ...
@overload
def choice(*parts: _To[A, B]) -> Flow[A, B]: ...
def choice(*parts: Any) -> Any:
    """Run all parts at once on the same value; the first to end wins.

    Its result, or its error, is that of the choice. The others are cancelled and waited
    for. Within a `Saga` block, what they have finished by then is undone at once; what
    they provided stays provided.

    Raises:
        InvalidCallError: a part cannot be called, or there is none.
    """
    if not parts:
        raise InvalidCallError(
            "choice() has nothing to choose from.", hint="never() never ends, too."
        )
    return _Choice(parts)


# --- small flows ----------------------------------------------------------------------


def skip() -> Same:
    """Do nothing: give back the value. The neutral part of `seq`."""
    return Same(Kind.SKIP)


def fail(make_error: Callable[[A], BaseException], /) -> Flow[A, Never]:
    """Raise an error: what comes after in a `seq` can never run.

        seq(check, choice(pay, seq(wait_a_day, fail(TooLate))), ship)

    Args:
        make_error: called with the value; an exception class will do.

    Raises:
        InvalidCallError: it cannot be called.
    """
    if not callable(make_error):
        raise InvalidCallError(
            f"fail() got {make_error!r}, which cannot be called.",
            hint="Give an exception's class, or a function that makes an exception.",
        )
    return _Fail(make_error)


def never() -> Flow[object, Never]:
    """Wait until cancelled: the neutral part of `choice`."""
    return _Forever()


def provide(name: str, /) -> Same:
    """Let the parts of the same flow go on that `need` this name; give back the value.

    Once provided it stays so until the flow has ended.

    Raises:
        InvalidIdError: the name breaks the rule for ids.
    """
    return Same(Kind.PROVIDE, check_id(name, "what is provided"))


def need(name: str, /) -> Same:
    """Wait until another part of the same flow provides this name; give back the value.

        par(seq(pack, provide("parcel")), seq(call_van, need("parcel"), load_van))

    Raises:
        InvalidIdError: the name breaks the rule for ids.
    """
    return Same(Kind.NEED, check_id(name, "what is needed"))
