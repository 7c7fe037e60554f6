"""The steps of saga blocks: who finished when, and how they are undone.

A block keeps a `Ledger`. Code within the block finds it by a context variable, so that
tasks which are started there belong to the block too.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import inspect
import itertools
from collections.abc import Awaitable
from types import CodeType
from typing import Any, Final, NamedTuple, NoReturn, TypeVar

from durable.api.cancellation import cancel_again, outlast, pass_on, uncancel
from durable.api.sagas.compensation import Compensation, Undo
from durable.converter import failures
from durable.core.history.payload import Payload, Payloads
from durable.core.runtime import WorkflowRuntime, find_continuation, get_runtime
from durable.errors import CompensationFailed, WorkflowTaskError

T = TypeVar("T")


class _Finished(NamedTuple):
    """A finished step, with its place among all steps of the program."""

    number: int
    undo: Undo


class Undone(NamedTuple):
    """What came of undoing a step: the error, or None."""

    undo: Undo
    error: BaseException | None


class LedgerState(enum.Enum):
    """What has become of a saga block."""

    OPEN = enum.auto()
    ENDED = enum.auto()
    """Its steps belong to the block around it, if there is one."""
    UNDONE = enum.auto()
    """It failed: its steps are undone, or being undone."""


_numbers: Final = itertools.count()


class Ledger:
    """The steps of one saga block.

    Args:
        parent: the block around it.
        is_parallel: undo all steps at once.

    Attributes:
        parent: the block around it, or that which took its steps.
    """

    def __init__(self, parent: Ledger | None, *, is_parallel: bool) -> None:
        self.parent = parent
        self._is_parallel = is_parallel
        self._state = LedgerState.OPEN
        self._finished: list[_Finished] = []
        self._running: list[asyncio.Task[Payload]] = []
        # Blocks within this one that were entered and not left, in whatever task.
        self._inner: list[Ledger] = []
        self._undoing: asyncio.Task[list[Undone]] | None = None
        self._failure_within: BaseException | None = None
        self._siblings().append(self)

    @property
    def is_open(self) -> bool:
        """Whether the block has not been left."""
        return self._state is LedgerState.OPEN

    def heir(self) -> Ledger | None:
        """The block that the steps of this one belong to by now."""
        ledger: Ledger | None = self
        while ledger is not None and ledger._state is LedgerState.ENDED:
            ledger = ledger.parent
        return ledger

    def add(self, undo: Undo) -> None:
        """Note what undoes a step that has finished."""
        self._finished.append(_Finished(next(_numbers), undo))

    def keep_all(self) -> None:
        """Forget all steps that have finished: they are not undone."""
        self._finished.clear()

    def has_steps_to_undo(self) -> bool:
        """Whether it, or a block around it, would undo anything if it failed now."""
        heir = self.heir()
        return heir is not None and (
            bool(heir._finished)
            or (heir.parent is not None and heir.parent.has_steps_to_undo())
        )

    # --- steps ------------------------------------------------------------------------

    async def run_step(
        self,
        compensation: Compensation,
        runtime: WorkflowRuntime,
        input: Payloads,
        code: CodeType | None,
        instruction: int,
    ) -> Payload:
        """Run an activity, and note what undoes it if it comes to its end.

        If the wait is cancelled, the activity is asked to stop and its outcome is
        awaited: a step that has happened after all must be undone. Then the
        cancellation goes on.

        Raises:
            WorkflowTaskError: the block was undone already.
        """
        target = compensation.target
        self.refuse_if_undone(f"Activity {target.activity_type!r}")

        async def step() -> Payload:
            result = await runtime.execute_activity(target, input, code, instruction)
            heir = self.heir()
            if heir is not None:
                heir.add(compensation.of(input, result))
            return result

        task = asyncio.get_running_loop().create_task(step())
        self._running = [known for known in self._running if not known.done()]
        self._running.append(task)
        cancels = await outlast(task, stop=True)
        if cancels and not (compensation.is_outcome_wanted and not task.cancelled()):
            if not task.cancelled():
                task.exception()  # hear it, or asyncio would report it
            raise cancels[0]
        if not pass_on(cancels):
            uncancel(len(cancels))
        return task.result()

    def refuse_if_undone(self, what: str) -> None:
        """Raise if nothing may begin here any more.

        Raises:
            WorkflowTaskError: the block has failed.
        """
        if self._state is LedgerState.UNDONE:
            raise WorkflowTaskError(
                f"{what} was called by a task of a saga block that has failed and is"
                " undone.",
                hint="Let no task outlive its block; asyncio.TaskGroup sees to that.",
            )

    # --- how the block is left --------------------------------------------------------

    def end(self) -> None:
        """Close a block that ended well; its steps go to the block around it."""
        self._siblings().remove(self)
        self._state = LedgerState.ENDED
        heir = self.heir()
        if heir is None:
            _open_blocks().extend(self._inner)
            return
        for finished in self._finished:
            heir.add(finished.undo)
        heir._running += self._running
        heir._inner += self._inner

    async def fail(self, error: BaseException) -> None:
        """Undo the steps of a block that was left by an error.

        It returns if that went well, and goes through any cancellation. If the error
        speaks of a bug it undoes nothing, and never returns: the run parks.

        Raises:
            CompensationFailed: steps could not be undone.
        """
        runtime = get_runtime("Saga")
        if _is_bug(runtime, error):
            await _park(error)
        was_cancelled = runtime.info().cancellation_reason is not None
        undoing = self.start_undoing()
        cancels = await outlast(undoing)
        if self in self._siblings():
            self._siblings().remove(self)
        is_cancelled = runtime.info().cancellation_reason is not None
        if not pass_on(cancels) and cancels and is_cancelled and not was_cancelled:
            cancel_again()
        self._raise_failures(undoing.result(), error)

    def start_undoing(self) -> asyncio.Task[list[Undone]]:
        """Begin to undo the steps, if that has not begun; its task never fails."""
        if self._undoing is None:
            self._state = LedgerState.UNDONE
            # Nothing that undoes a step is a step of any block itself.
            context = contextvars.copy_context()
            context.run(_ledger.set, None)
            self._undoing = asyncio.get_running_loop().create_task(
                self._undo(), context=context
            )
        return self._undoing

    async def _undo(self) -> list[Undone]:
        """Undo what has finished, here and in the blocks within that are still open."""
        undone: list[Undone] = []
        for inner in list(self._inner):
            undone += await self._take(inner)
        for task in self._running:
            task.cancel()
        for task in self._running:
            await outlast(task)
        self._finished.sort(key=lambda finished: finished.number)
        undos = [finished.undo for finished in reversed(self._finished)]
        if self._is_parallel:
            tasks = [asyncio.ensure_future(_try(undo)) for undo in undos]
            return undone + [await task for task in tasks]
        return undone + [await _try(undo) for undo in undos]

    async def _take(self, inner: Ledger) -> list[Undone]:
        """Take the steps of a block within, which some other task has not left yet.

        If that is undoing them already, wait for it.
        """
        if inner._undoing is not None:
            await outlast(inner._undoing)
            return inner._undoing.result()
        undone: list[Undone] = []
        for innermost in inner._inner:
            undone += await self._take(innermost)
        inner._state, inner.parent = LedgerState.ENDED, self
        self._finished += inner._finished
        self._running += inner._running
        return undone

    def _raise_failures(self, undone: list[Undone], error: BaseException) -> None:
        """Raise what could not be undone, with what a block within has raised of it."""
        earlier: tuple[BaseException, ...] = ()
        cause: BaseException | None = error
        if isinstance(error, CompensationFailed) and error is self._failure_within:
            earlier, cause = error.errors, error.__cause__
        failed = failure_of(undone, cause, earlier)
        if failed is None:
            return
        if self.parent is not None:
            self.parent._failure_within = failed
        raise failed from cause

    def _siblings(self) -> list[Ledger]:
        return _open_blocks() if self.parent is None else self.parent._inner


def failure_of(
    undone: list[Undone],
    cause: BaseException | None,
    earlier: tuple[BaseException, ...] = (),
) -> CompensationFailed | None:
    """What to raise because steps could not be undone, if there are any.

    Args:
        undone: what came of undoing each step.
        cause: why they were undone.
        earlier: errors of undoing that are told already.
    """
    failed = [(undo, error) for undo, error in undone if error is not None]
    if not failed:
        return None
    what = "; ".join(f"{undo.what}: {_said(error)}" for undo, error in failed)
    also = f", besides {len(earlier)} of a block within it" if earlier else ""
    why = f" They were undone because of {_said(cause)}" if cause is not None else ""
    return CompensationFailed(
        f"{len(failed)} of {len(undone)} finished steps of a saga could not be"
        f" undone{also}: {what}.{why}",
        errors=(*earlier, *(error for _, error in failed)),
    )


def _said(error: BaseException | None) -> str:
    text = f"{error}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


async def _try(undo: Undo) -> Undone:
    """Undo one step, and say what came of it."""
    try:
        undone = undo.call()
        if inspect.isawaitable(undone):  # untyped code may pass a plain function
            await undone
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the others are tried all the same
        if _is_bug(get_runtime("Saga"), error):
            await _park(error)
        return Undone(undo, error)
    return Undone(undo, None)


# --- the end of a run -----------------------------------------------------------------


_BLOCKS: Final = "durable_saga_blocks"


def _open_blocks() -> list[Ledger]:
    """The outermost blocks of the running run that are open, in whatever task.

    Its loop keeps them, since each run has its own.
    """
    blocks: list[Ledger] = vars(asyncio.get_running_loop()).setdefault(_BLOCKS, [])
    return blocks


def _has_open_blocks() -> bool:
    # Most runs have none ever: nothing is to be made for them.
    return bool(getattr(asyncio.get_running_loop(), _BLOCKS, None))


async def closing_blocks(run: Awaitable[T]) -> T:
    """Await the main code of a run, then undo the blocks that other tasks have open.

    These tasks are dropped with the run, so that nobody else would.

    Raises:
        CompensationFailed: steps could not be undone.
    """
    try:
        result = await run
    except BaseException as error:
        # First of all: a run that leaves memory may have no loop any more.
        if (
            not leaves_memory(error)
            and _has_open_blocks()
            and not _is_bug(get_runtime("Saga"), error)
        ):
            await _undo_open_blocks(error)
        raise
    if _has_open_blocks():
        await _undo_open_blocks(None)
    return result


async def _undo_open_blocks(error: BaseException | None) -> None:
    undone: list[Undone] = []
    while blocks := _open_blocks():
        block = blocks[0]
        undoing = block.start_undoing()
        await outlast(undoing)
        undone += undoing.result()
        if block in blocks:
            blocks.remove(block)
    failed = failure_of(undone, error)
    if failed is not None:
        raise failed from error


def leaves_memory(error: BaseException) -> bool:
    """Whether an error means that the run will be here again, from its history."""
    return find_continuation(error) is None and not isinstance(error, _OUTCOMES)


_OUTCOMES: Final[tuple[type[BaseException], ...]] = (
    Exception,
    asyncio.CancelledError,
    BaseExceptionGroup,
)


def _is_bug(runtime: WorkflowRuntime, error: BaseException) -> bool:
    code: Any = getattr(runtime, "code", None)
    return bool(failures.is_bug(error) if code is None else code.is_bug(error))


async def _park(error: BaseException) -> NoReturn:
    """Fail the workflow task, whatever handlers of errors stand around.

    Were the bug only raised, an `except Exception` further out could let the run go on
    and end with the steps neither kept nor undone.
    """

    def fail() -> NoReturn:
        raise error

    loop = asyncio.get_running_loop()
    loop.call_soon(fail)
    await loop.create_future()
    raise error


# --- the block around running code ----------------------------------------------------

_ledger: Final[contextvars.ContextVar[Ledger | None]] = contextvars.ContextVar(
    "durable_saga", default=None
)


def find_ledger() -> Ledger | None:
    """The innermost saga block around the running code that has not ended well."""
    ledger = _ledger.get()
    return None if ledger is None else ledger.heir()


def enter_ledger(*, is_parallel: bool) -> Ledger:
    """Begin a block; what follows in this context belongs to it.

    Raises:
        WorkflowTaskError: the block around it has failed.
    """
    around = find_ledger()
    if around is not None:
        around.refuse_if_undone("A block")
    ledger = Ledger(around, is_parallel=is_parallel)
    _ledger.set(ledger)
    return ledger


def leave_ledger(ledger: Ledger) -> None:
    """Go back to the block around it."""
    _ledger.set(ledger.parent)


def has_steps_to_undo() -> bool:
    """Whether a block around the running code would undo anything if it failed."""
    ledger = _ledger.get()
    return ledger is not None and ledger.has_steps_to_undo()
