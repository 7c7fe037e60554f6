"""Sagas: what is finished is undone if what follows fails."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from durable.api.sagas.compensation import Undo
from durable.api.sagas.ledger import Ledger, enter_ledger, leave_ledger, leaves_memory
from durable.core.runtime import find_continuation, get_runtime
from durable.errors import InvalidCallError, WorkflowTaskError

P = ParamSpec("P")
T = TypeVar("T")


class Saga:
    """A block whose finished steps are undone if it is left by an error.

        async with Saga() as saga:
            seat = await book_seat(trip)          # @activity(compensate=release_seat)
            await charge(trip.price)              # @activity(compensate=refund)
            saga.point_of_no_return()
            await send_ticket(seat)

    A step is an activity with a `compensate=`, called within the block or by a task
    that was started there. When the block is left by an error, what undoes the steps
    that have finished is called, in the reverse order of finishing, and then the error
    goes on. Every step is tried, whatever happens to the others. Steps that failed or
    never ran are not undone. Steps that are still running are asked to stop and waited
    for first; so are those whose wait is cancelled within the block.

    Undoing is recorded like all the rest, so that a run that dies in the middle of it
    goes on undoing. No cancellation interrupts it. But a run that is terminated, or
    passes its `run_timeout`, undoes nothing: no code of it runs any more. An error that
    speaks of a bug undoes nothing either: it parks the run where it is, so that it goes
    on from there with mended code; see `fail_on` of `WorkflowOptions`.

    Blocks may be nested: the steps of one that ended well belong to the one around it.

    Args:
        parallel: undo all steps at once instead of one after the other.
        on_cancel: undo also if the block is left by a cancellation: of the run, of the
            task, or by a timeout around the block. False leaves finished steps alone.

    Raises (when the block is left):
        CompensationFailed: steps could not be undone; it has every error, and the error
            that the block was left by as its cause.
    """

    def __init__(self, *, parallel: bool = False, on_cancel: bool = True) -> None:
        """See the class."""
        self._is_parallel = parallel
        self._undoes_on_cancel = on_cancel
        self._ledger: Ledger | None = None
        self._steps: list[tuple[Callable[[], Any], Callable[[Any], Any] | None]] = []

    async def __aenter__(self) -> Self:
        """Begin the block.

        Raises:
            NotInWorkflowError: this is not inside of a workflow.
            WorkflowTaskError: this saga has had its block already.
        """
        get_runtime("Saga")
        if self._ledger is not None:
            raise WorkflowTaskError(
                "A saga was entered a second time.", hint="Make a new one: Saga()."
            )
        self._ledger = enter_ledger(is_parallel=self._is_parallel)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ledger = self._ledger
        if ledger is None or (error is not None and leaves_memory(error)):
            return
        leave_ledger(ledger)
        if not ledger.is_open:
            return  # another task has left the block around it, which took its steps
        if error is None:
            ledger.end()
        elif find_continuation(error) is not None or (
            isinstance(error, asyncio.CancelledError) and not self._undoes_on_cancel
        ):
            ledger.keep_all()
            ledger.end()
        else:
            await ledger.fail(error)

    # --- what is undone, and what not -------------------------------------------------

    def add_compensation(
        self, undo: Callable[P, Awaitable[object]], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Have a call made if the block fails from here on.

        For steps that are no activity with a `compensate=`, such as child workflows:

            trip = await book_trip(order)
            saga.add_compensation(cancel_trip, trip.id)

        Args:
            undo: an activity, a workflow, or an async function of workflow code.
            *args: what to call it with.
            **kwargs: what to call it with.

        Raises:
            WorkflowTaskError: the block has not begun, or is over.
            InvalidCallError: it cannot be called.
        """
        ledger = self._get_ledger("add_compensation")
        _check_callable("undo", undo)
        ledger.add(Undo(_name_of(undo), functools.partial(undo, *args, **kwargs)))

    def point_of_no_return(self) -> None:
        """Keep all that the block has finished so far, whatever comes.

        Steps that finish later are undone if the block fails.

        Raises:
            WorkflowTaskError: the block has not begun, or is over.
        """
        self._get_ledger("point_of_no_return").keep_all()

    def _get_ledger(self, operation: str) -> Ledger:
        if self._ledger is None or not self._ledger.is_open:
            state = "not begun" if self._ledger is None else "ended"
            raise WorkflowTaskError(
                f"Saga.{operation}() was called, but its block has {state}.",
                hint="Use it within `async with Saga() as saga:`.",
            )
        return self._ledger

    # --- a saga as a list of steps ----------------------------------------------------

    def add_step(
        self,
        do: Callable[[], Awaitable[T]],
        undo: Callable[[T], Awaitable[object]] | None = None,
    ) -> Self:
        """Add a step for `execute`.

            saga = Saga()
            saga.add_step(lambda: book_seat(trip), release_seat)
            saga.add_step(lambda: charge(trip.price), refund)
            seat, receipt = await saga.execute()

        Args:
            do: called without arguments to begin the step.
            undo: called with the step's result to undo it. It replaces what the
                activities of the step declare. Without it, that counts.

        Raises:
            InvalidCallError: one of them cannot be called.
        """
        _check_callable("do", do)
        if undo is not None:
            _check_callable("undo", undo)
        self._steps.append((do, undo))
        return self

    async def execute(self) -> list[Any]:
        """Run the added steps one after the other; return their results in order.

        If one fails, those before it are undone and its error goes on, as with a block.

        Raises:
            CompensationFailed: steps could not be undone.
            NotInWorkflowError: called outside of a workflow.
            WorkflowTaskError: this saga has had its block already.
        """
        results: list[Any] = []
        async with self:
            for do, undo in self._steps:
                async with self._make_inner() as step:
                    result = await do()
                    if undo is not None:
                        step.point_of_no_return()
                        step.add_compensation(undo, result)
                results.append(result)
        return results

    def _make_inner(self) -> Saga:
        return Saga(parallel=self._is_parallel, on_cancel=self._undoes_on_cancel)


def _check_callable(what: str, function: object) -> None:
    if callable(function):
        return
    if inspect.iscoroutine(function):
        function.close()  # it would warn that nobody awaited it
    raise InvalidCallError(
        f"{what} of a saga's step is {function!r}, which cannot be called.",
        hint=f"Give a function, such as lambda: charge(order), as {what}.",
    )


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    kind = getattr(function, "kind", "function")
    name = getattr(function, "name", None) or getattr(function, "__qualname__", None)
    return f"{kind} {name or function!r}"
