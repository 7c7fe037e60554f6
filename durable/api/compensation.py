"""What undoes a finished step, and the ledger of the steps that may have to be undone.

A saga block keeps a `Ledger`. Code within the block finds it by a context variable, so
that tasks which are started there belong to the block too.
"""

from __future__ import annotations

import asyncio
import contextvars
import enum
import inspect
from collections.abc import Awaitable, Callable
from types import CodeType, NoneType
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from durable.api.signature import CallSignature
from durable.core.payload import Payload, Payloads
from durable.core.runtime import ActivityTarget, WorkflowRuntime
from durable.errors import DefinitionError, WorkflowTaskError
from durable.options import ActivityCancellationType

_TRY_CANCEL: Final = ActivityCancellationType.TRY_CANCEL.value
_WAIT: Final = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED.value

# --- what undoes a step ---------------------------------------------------------------


class Undo(NamedTuple):
    """One finished step: how errors call what undoes it, and the call itself."""

    what: str
    call: Callable[[], Awaitable[object]]


class UndoingActivity(Protocol):
    """What a compensation is, as far as this module knows."""

    name: str
    call_signature: CallSignature

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[object]:
        """Schedule it."""
        ...


class Compensation:
    """How one activity is undone by another.

    Args:
        done: the signature of the activity to be undone.
        undo: the activity that undoes it.
        target: the activity to be undone, as workflow code calls it.

    Attributes:
        target: the same, but its outcome is waited for when it is asked to stop.
        is_outcome_wanted: its own options say so: the outcome replaces a cancellation.

    Raises:
        DefinitionError: the two do not fit.
    """

    __slots__ = ("_done", "_result_name", "_undo", "is_outcome_wanted", "target")

    def __init__(
        self, done: CallSignature, undo: UndoingActivity, target: ActivityTarget
    ) -> None:
        self._done = done
        self._undo = undo
        self._result_name = _find_result_name(done, undo.call_signature)
        self.is_outcome_wanted = target.settings.cancellation_type == _WAIT
        self.target = _heard_out(target)

    def of(self, input: Payloads, result: Payload) -> Undo:
        """What undoes the activity that got this input and gave this result.

        Both are decoded when it comes to that, so that nothing which workflow code did
        to the values meanwhile can show.
        """
        return Undo(f"activity {self._undo.name!r}", lambda: self._call(input, result))

    def _call(self, input: Payloads, result: Payload) -> Awaitable[object]:
        done, wanted = self._done, self._undo.call_signature.signature
        args, kwargs = done.unbind(done.decode(input))
        bound = done.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = {n: v for n, v in bound.arguments.items() if n in wanted.parameters}
        if self._result_name is not None:
            given[self._result_name] = done.decode_result(result)
        # Not by `bind`, which takes no names: they are those of the signature.
        call = inspect.BoundArguments(
            wanted, {n: given[n] for n in wanted.parameters if n in given}
        )
        return self._undo(*call.args, **call.kwargs)


def _find_result_name(done: CallSignature, undo: CallSignature) -> str | None:
    """The parameter of a compensation that takes the result; None if it wants none.

    Raises:
        DefinitionError: it wants what the activity has not got.
    """
    known = done.signature.parameters
    others = [
        parameter.name
        for parameter in undo.signature.parameters.values()
        if parameter.name not in known
        and parameter.default is parameter.empty
        and parameter.kind is not parameter.VAR_POSITIONAL
    ]
    if len(others) > 1:
        raise _unfit(done, undo, f"it also wants {_listed(others)}")
    hints, result = _hints_of(done), _result_hint_of(done)
    if others and result in (None, NoneType):
        raise _unfit(
            done, undo, f"it also wants {_listed(others)}, but there is no result"
        )
    if others:
        hints[others[0]] = result
    for name, wanted in _hints_of(undo).items():
        if name in hints and _never_fits(hints[name], wanted):
            raise _unfit(
                done,
                undo,
                f"its {name!r} is {_named(wanted)}, and gets {_named(hints[name])}",
            )
    return others[0] if others else None


def _hints_of(signature: CallSignature) -> dict[str, Any]:
    try:
        hints = signature.hints()
    except DefinitionError:  # they name what comes later; whoever calls it will see
        return {}
    names = [
        p.name
        for p in signature.signature.parameters.values()
        if p.kind is not p.VAR_POSITIONAL
    ]
    return dict(zip(names, hints, strict=True))


def _result_hint_of(signature: CallSignature) -> Any:
    try:
        return signature.result_hint()
    except DefinitionError:
        return Any


def _never_fits(given: object, wanted: object) -> bool:
    """Whether no value of one class is one of another; unsure is no."""
    given, wanted = (NoneType if hint is None else hint for hint in (given, wanted))
    if given is Any or wanted is Any:  # which is a class, too
        return False
    if not isinstance(given, type) or not isinstance(wanted, type):
        return False
    if given is int and wanted in (float, complex):
        return False
    try:
        return not issubclass(given, wanted)
    except TypeError:  # a protocol or a generic
        return False


def _unfit(done: CallSignature, undo: CallSignature, why: str) -> DefinitionError:
    return DefinitionError(
        f"{undo.name}{undo.signature} cannot undo {done.name}{done.signature}: {why}.",
        hint="A compensation takes the activity's result, and any of its parameters by"
        " their names.",
    )


def _listed(names: list[str]) -> str:
    return " and ".join(map(repr, names))


def _named(hint: object) -> str:
    return hint.__qualname__ if isinstance(hint, type) else repr(hint)


def _heard_out(target: ActivityTarget) -> ActivityTarget:
    if target.settings.cancellation_type != _TRY_CANCEL:
        return target
    waiting = msgspec.structs.replace(target.settings, cancellation_type=_WAIT)
    return ActivityTarget(
        target.activity_type, waiting, target.summary, target.same_input
    )


# --- the steps of a block -------------------------------------------------------------


class LedgerState(enum.Enum):
    """What has become of a saga block."""

    OPEN = enum.auto()
    ENDED = enum.auto()
    """It ended well: its steps belong to the block around it, if there is one."""
    UNDONE = enum.auto()


class Ledger:
    """The steps of one saga block.

    Attributes:
        parent: the block around it.
        finished: what undoes each finished step, in the order in which they finished.
        failure_within: how a block within this one failed to undo its own steps.
    """

    __slots__ = ("_running", "_state", "failure_within", "finished", "parent")

    def __init__(self, parent: Ledger | None) -> None:
        self.parent = parent
        self.finished: list[Undo] = []
        self.failure_within: BaseException | None = None
        self._running: list[asyncio.Task[Payload]] = []
        self._state = LedgerState.OPEN

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
        if self._state is LedgerState.UNDONE:
            raise WorkflowTaskError(
                f"Activity {target.activity_type!r} was called by a task of a saga"
                " block that has failed and is undone.",
                hint="Let no task outlive its block; asyncio.TaskGroup sees to that.",
            )

        async def step() -> Payload:
            result = await runtime.execute_activity(target, input, code, instruction)
            heir = self.heir()
            if heir is not None:
                heir.finished.append(compensation.of(input, result))
            return result

        task = asyncio.get_running_loop().create_task(step())
        self._running = [known for known in self._running if not known.done()]
        self._running.append(task)
        cancels = await outlast(task, stop=True)
        if cancels and not (compensation.is_outcome_wanted and not task.cancelled()):
            if not task.cancelled():
                task.exception()  # hear it, or asyncio would report it
            raise cancels[0]
        uncancel(len(cancels))
        return task.result()

    def end(self) -> None:
        """Close a block that ended well; its steps go to the block around it."""
        self._state = LedgerState.ENDED
        heir = self.heir()
        if heir is not None:
            heir.finished += self.finished
            heir._running += self._running

    async def settle(self) -> None:
        """Close a block that failed: ask what still runs to stop, and wait for that."""
        self._state = LedgerState.UNDONE
        for task in self._running:
            task.cancel()
        for task in self._running:
            await outlast(task)


async def outlast(
    task: asyncio.Task[Any], *, stop: bool = False
) -> list[asyncio.CancelledError]:
    """Wait until a task is done, whatever it ends with, through any cancellation.

    Args:
        task: the task.
        stop: cancel it for each cancellation of the wait.

    Returns the cancellations that the wait went through.
    """
    cancels: list[asyncio.CancelledError] = []
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as cancel:
            cancels.append(cancel)
            if stop:
                task.cancel()
    return cancels


def uncancel(times: int) -> None:
    """Take back cancellations of the current task that were caught for good."""
    task = asyncio.current_task()
    if task is not None:
        for _ in range(times):
            task.uncancel()


_ledger: Final[contextvars.ContextVar[Ledger | None]] = contextvars.ContextVar(
    "durable_saga", default=None
)


def find_ledger() -> Ledger | None:
    """The innermost saga block around the running code that has not ended well."""
    ledger = _ledger.get()
    return None if ledger is None else ledger.heir()


def enter_ledger() -> Ledger:
    """Begin a block; what follows in this context belongs to it."""
    ledger = Ledger(find_ledger())
    _ledger.set(ledger)
    return ledger


def leave_ledger(ledger: Ledger) -> None:
    """Go back to the block around it."""
    _ledger.set(ledger.parent)


def context_without_ledger() -> contextvars.Context:
    """A copy of the present context, for code whose calls are steps of no block."""
    context = contextvars.copy_context()
    context.run(_ledger.set, None)
    return context


def has_steps_to_undo() -> bool:
    """Whether a block around the running code would undo anything if it failed."""
    ledger = find_ledger()
    while ledger is not None:
        if ledger.finished:
            return True
        ledger = ledger.parent
    return False
