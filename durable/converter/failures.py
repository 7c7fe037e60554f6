"""Exceptions to failures and back.

What is kept: type, message, traceback text, notes, arguments and attributes (if plain
data), the cause chain and exception groups; all bounded. Exceptions are rebuilt only
from classes that this program already knows by name: built-in ones, those of this
library, and those that are visible in the modules which define its workflows and
activities, or were registered. Names in a failure are compared, never imported.
"""

# Exceptions hold values of any type, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import builtins
import contextlib
import pathlib
import sys
import types
from collections.abc import Iterator
from traceback import StackSummary, walk_tb
from typing import Any, Final, TypeVar

import msgspec

from durable import errors, limits
from durable.converter import json
from durable.core.payload import Failure, Payload
from durable.options import to_microseconds

_MARK: Final = "__durable_failure__"
_E = TypeVar("_E", bound=BaseException)
_KEPT_OUT: Final = frozenset({"__notes__", _MARK})

# --- which classes are known ----------------------------------------------------------


class ExceptionClasses:
    """The exception classes that may be rebuilt, by module and qualified name."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], type[BaseException]] = {}
        self._scopes: list[dict[str, Any]] = []
        self._scanned = 0
        for module in (builtins, errors, asyncio):
            self._scan(vars(module))

    def register(self, cls: type[_E]) -> type[_E]:
        """Make a class known; usable as a decorator."""
        self._known[home_of(cls), cls.__qualname__] = cls
        return cls

    def add_scope(self, scope: dict[str, Any]) -> None:
        """Make known what a module that defines a workflow or activity can see."""
        if not any(known is scope for known in self._scopes):
            self._scopes.append(scope)

    def find(self, module: str, name: str) -> type[BaseException] | None:
        """The class of that name, if it is known. Nothing is imported."""
        found = self._known.get((module, name))
        if found is None and self._scopes:
            # Definitions come before their module's later lines, so scan when asked.
            for scope in self._scopes:
                self._scan(scope)
                for value in list(scope.values()):
                    if isinstance(value, types.ModuleType) and value.__name__ == module:
                        self._scan(vars(value))
            found = self._known.get((module, name))
        return found

    def _scan(self, scope: dict[str, Any]) -> None:
        for value in list(scope.values()):
            if isinstance(value, type) and issubclass(value, BaseException):
                self._known[home_of(value), value.__qualname__] = value


def home_of(cls: type) -> str:
    """The module that defines a class, by the name it has when it is imported.

    A program that is run is called `__main__`; the same file, loaded by a worker or a
    test, has its own name. Both must find the same classes.
    """
    if cls.__module__ != "__main__":
        return cls.__module__
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return "__main__" if file is None else pathlib.PurePath(file).stem


CLASSES: Final = ExceptionClasses()


def register_exception(cls: type[_E]) -> type[_E]:
    """Let an exception class be rebuilt when a failure names it.

    Needed only for classes that are visible neither in the module of a workflow nor in
    that of an activity. Usable as a decorator.
    """
    return CLASSES.register(cls)


# --- exception -> failure -------------------------------------------------------------


def failure_of(error: BaseException) -> Failure:
    """Turn an exception into data, whatever is wrong with the exception itself."""
    return _failure_of(error, 0, set())


def _failure_of(error: BaseException, depth: int, seen: set[int]) -> Failure:
    recorded: Failure | None = getattr(error, _MARK, None)
    if recorded is not None:
        return recorded
    seen.add(id(error))
    cls = type(error)
    non_retryable, delay, name = False, None, cls.__name__
    details: tuple[Payload, ...] = ()
    if isinstance(error, errors.ApplicationError):
        non_retryable, name = bool(error.non_retryable), str(error.type)
        details = _details(error.details)
        if error.next_retry_delay is not None:
            delay = _delay(error.next_retry_delay)
    return Failure(
        message=_message(error),
        kind="cancelled"
        if isinstance(error, asyncio.CancelledError)
        else "application",
        type=name,
        module=home_of(cls),
        bases=tuple(
            base.__name__
            for base in cls.__mro__[1:]
            if issubclass(base, Exception) and base is not Exception
        ),
        stack_trace=_stack(error),
        notes=_notes(error),
        arguments=_plain(list(error.args)) if error.args else None,
        state=_state(error),
        details=details,
        cause=_cause(error, depth, seen),
        group=_group(error, depth, seen),
        non_retryable=non_retryable,
        next_retry_delay=delay,
    )


def _message(error: BaseException) -> str:
    try:
        text = error.message if isinstance(error, errors.DurableError) else str(error)
        if isinstance(error, errors.DurableError) and error.hint:
            text = f"{text} {error.hint}"
    except Exception as problem:  # noqa: BLE001 - __str__ may raise anything
        text = f"<no text: __str__ raised {type(problem).__name__}>"
    return _clean(text)


def _clean(text: str) -> str:
    """Bound a text, and make it something that every database keeps."""
    if len(text) > limits.FAILURE_MESSAGE_CHARS_MAX:
        dropped = len(text) - limits.FAILURE_MESSAGE_CHARS_MAX
        text = f"{text[: limits.FAILURE_MESSAGE_CHARS_MAX]}... ({dropped:,} more)"
    return text.encode("utf-8", "backslashreplace").decode()


def _stack(error: BaseException) -> str:
    try:
        frames = [
            frame
            for frame in walk_tb(error.__traceback__)
            if not frame[0].f_globals.get("__name__", "").startswith("durable.")
        ]
        summary = StackSummary.extract(iter(frames[-limits.FAILURE_FRAMES_MAX :]))
        return _clean("".join(summary.format()))
    except Exception as problem:  # noqa: BLE001 - sources may be gone or unreadable
        return f"<no traceback: {type(problem).__name__}>"


def _notes(error: BaseException) -> tuple[str, ...]:
    notes: Any = getattr(error, "__notes__", ())
    if not isinstance(notes, list):
        return ()
    kept: list[Any] = notes[: limits.FAILURE_NOTES_MAX]
    return tuple([_clean(str(note)) for note in kept])


def _state(error: BaseException) -> Payload | None:
    try:
        state = {k: v for k, v in vars(error).items() if k not in _KEPT_OUT}
    except TypeError:
        return None
    plain = {key: value for key, value in state.items() if _plain(value) is not None}
    return _plain(plain) if plain else None


def _plain(value: Any) -> Payload | None:
    """A payload of plain data, or None: a failure never fails for its attachments."""
    try:
        payload = json.encode(value, Any, "exception data")
    except errors.DurableError:
        return None
    return payload if payload.size <= limits.FAILURE_MESSAGE_CHARS_MAX else None


def _details(values: tuple[Any, ...]) -> tuple[Payload, ...]:
    return tuple(p for p in map(_plain, values) if p is not None)


def _delay(value: Any) -> int | None:
    try:
        return to_microseconds(value, "next_retry_delay")
    except errors.InvalidDurationError:
        return None


def _cause(error: BaseException, depth: int, seen: set[int]) -> Failure | None:
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    if cause is None or id(cause) in seen or depth >= limits.FAILURE_DEPTH_MAX:
        return None
    return _failure_of(cause, depth + 1, seen)


def _group(error: BaseException, depth: int, seen: set[int]) -> tuple[Failure, ...]:
    if depth >= limits.FAILURE_DEPTH_MAX:
        return ()
    members = _members(error)[: limits.FAILURE_GROUP_MAX]
    return tuple(
        _failure_of(member, depth + 1, seen)
        for member in members
        if id(member) not in seen
    )


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if isinstance(error, BaseExceptionGroup):
        members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
        return members
    if isinstance(error, errors.CompensationFailed):
        return tuple(error.errors)
    return ()


# --- failure -> exception -------------------------------------------------------------


def exception_of(failure: Failure) -> BaseException:
    """Turn recorded data into the exception that code should see.

    The failure of an activity or child workflow is raised as the exception that it
    raised, if its class is known, so that `except CardDeclined` works; a note names
    the activity or child. Otherwise it is an `ActivityError` or `ChildWorkflowError`
    with a `RemoteError` as its cause.
    """
    error = _exception_of(failure)
    with contextlib.suppress(AttributeError):
        setattr(error, _MARK, failure)
    return error


def is_of_child(error: BaseException) -> bool:
    """Whether an exception is how a child workflow ended."""
    recorded: Failure | None = getattr(error, _MARK, None)
    return recorded is not None and recorded.kind == "child_workflow"


def _exception_of(failure: Failure) -> BaseException:
    if failure.kind == "activity":
        return _activity_exception(failure)
    if failure.kind == "child_workflow":
        return _child_exception(failure)
    if failure.kind == "timeout":
        return _with_cause(TimeoutError(failure.message), failure)
    if failure.kind == "cancelled":
        return asyncio.CancelledError(failure.message)
    cls = CLASSES.find(failure.module, failure.type)
    if cls is None and failure.type:
        cls = _application_class(failure)
    error = None if cls is None else _rebuild(cls, failure)
    if error is None:
        error = errors.RemoteError(_remote_text(failure), type=failure.type)
    for note in failure.notes:
        error.add_note(note)
    return _with_cause(error, failure)


def _application_class(failure: Failure) -> type[BaseException] | None:
    """ApplicationError, if the failure was raised as one under another type name."""
    is_ours = failure.module == errors.__name__ and not failure.group
    return errors.ApplicationError if is_ours else None


def _remote_text(failure: Failure) -> str:
    return f"{failure.type}: {failure.message}" if failure.type else failure.message


def _with_cause(error: BaseException, failure: Failure) -> BaseException:
    if failure.cause is not None:
        error.__cause__ = exception_of(failure.cause)
    return error


def _rebuild(cls: type[BaseException], failure: Failure) -> BaseException | None:
    """Make an exception without calling its constructor, which may want anything."""
    try:
        if issubclass(cls, BaseExceptionGroup):
            members = [exception_of(member) for member in failure.group]
            message = failure.message.rsplit(" (", 1)[0]
            make: Any = cls
            if issubclass(cls, ExceptionGroup) and not all(
                isinstance(member, Exception) for member in members
            ):
                make = BaseExceptionGroup
            rebuilt: BaseException = make(message, members)
            return rebuilt
        arguments = (
            [failure.message]
            if failure.arguments is None
            else msgspec.json.decode(failure.arguments.json)
        )
        error = cls.__new__(cls, *arguments)
        error.args = tuple(arguments)
        if failure.state is not None:
            vars(error).update(msgspec.json.decode(failure.state.json))
        if issubclass(cls, errors.ApplicationError):
            _restore_application_error(error, failure)
        elif issubclass(cls, errors.CompensationFailed):
            vars(error)["errors"] = tuple(map(exception_of, failure.group))
    except Exception:  # noqa: BLE001 - a class may refuse; the failure must not be lost
        return None
    return error


def _restore_application_error(error: Any, failure: Failure) -> None:
    error.message = failure.message
    error.type = failure.type
    error.non_retryable = failure.non_retryable
    error.next_retry_delay = (
        None
        if failure.next_retry_delay is None
        else failure.next_retry_delay / 1_000_000
    )
    error.details = tuple(msgspec.json.decode(d.json) for d in failure.details)


def _activity_exception(failure: Failure) -> BaseException:
    cause = failure.cause
    where = (
        f"activity {failure.activity_type!r} (id {failure.activity_id}),"
        f" attempt {failure.attempt}"
    )
    if cause is not None and cause.kind == "application":
        error = exception_of(cause)
        if not isinstance(error, errors.RemoteError) or cause.type == "RemoteError":
            error.add_note(f"raised by {where}, {_why_last(failure)}")
            return error
    cls: type[errors.ActivityError] = errors.ActivityError
    what = "failed"
    if cause is not None and cause.kind == "timeout":
        cls, what = errors.ActivityTimeoutError, "timed out"
    elif cause is not None and cause.kind == "outcome_unknown":
        cls, what = errors.OutcomeUnknown, "was lost with its worker"
    reason = "" if cause is None else f": {_remote_text(cause)}"
    activity_error = cls(
        f"{where[:1].upper()}{where[1:]} {what}, {_why_last(failure)}{reason}",
        activity_type=failure.activity_type,
        activity_id=failure.activity_id,
        attempt=failure.attempt,
        retry_state=failure.retry_state,
    )
    if isinstance(activity_error, errors.ActivityTimeoutError) and cause is not None:
        activity_error.timeout_type = cause.timeout_type
    return _with_cause(activity_error, failure)


def _child_exception(failure: Failure) -> BaseException:
    cause = failure.cause
    ids = {"workflow_id": failure.workflow_id, "run_id": failure.run_id}
    where = f"child workflow {failure.workflow_type!r} (id {failure.workflow_id!r})"
    said = f"C{where[1:]}"
    if cause is None:
        return _child_error(f"{said} failed.", failure)
    if cause.kind == "cancelled":
        return asyncio.CancelledError(f"{said} was cancelled.")
    if cause.kind == "terminated":
        return errors.WorkflowTerminatedError(
            f"{said} was terminated: {cause.message or 'no reason was given'}", **ids
        )
    if cause.kind == "timeout" and cause.timeout_type in ("run", "execution"):
        return errors.WorkflowTimedOutError(
            f"{said} passed its {cause.timeout_type}_timeout.", **ids
        )
    error = exception_of(cause)
    if isinstance(error, errors.RemoteError) and cause.type != "RemoteError":
        return _child_error(f"{said} failed: {_remote_text(cause)}", failure)
    error.add_note(f"raised by {where}")
    return error


def _child_error(message: str, failure: Failure) -> BaseException:
    error = errors.ChildWorkflowError(
        message,
        workflow_type=failure.workflow_type,
        workflow_id=failure.workflow_id,
        run_id=failure.run_id,
    )
    return _with_cause(error, failure)


_WHY_LAST: Final = {
    "maximum_attempts_reached": "the last that its retry policy allows",
    "non_retryable_failure": "which may not be tried again",
    "timeout": "and its schedule_to_close_timeout leaves no time for another",
    "cancel_requested": "after it was asked to stop",
}


def _why_last(failure: Failure) -> str:
    return _WHY_LAST.get(failure.retry_state, "its last")


# --- bugs -----------------------------------------------------------------------------

BUGS: Final[tuple[type[BaseException], ...]] = (
    TypeError,
    AttributeError,
    NameError,
    ImportError,
    LookupError,
    AssertionError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    errors.DefinitionError,
    errors.InvalidCallError,
    errors.WorkflowTaskError,
    errors.InternalError,
)
"""Exceptions that speak of wrong code: they park a run instead of failing it."""

# These failed runs once; where a history was recorded so, they still do.
_LATER_BUGS: Final[tuple[type[BaseException], ...]] = (errors.PayloadError,)


def is_bug(
    error: BaseException,
    *,
    fail_on: tuple[type[BaseException], ...] = (),
    park_on: tuple[type[BaseException], ...] = (),
    is_replaying: bool = False,
) -> bool:
    """Whether an exception that left a workflow should park the run.

    A failure of an activity or child never does: it was recorded, and no mended code
    would change it. Exception groups are looked into: one bug in them is enough.
    """
    bugs = (*park_on, *BUGS, *(() if is_replaying else _LATER_BUGS))
    return any(_is_one_bug(leaf, fail_on, bugs) for leaf in _leaves(error))


def _is_one_bug(
    error: BaseException,
    fail_on: tuple[type[BaseException], ...],
    bugs: tuple[type[BaseException], ...],
) -> bool:
    if hasattr(error, _MARK):
        return False
    if isinstance(error, fail_on):
        return False
    return isinstance(error, bugs)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in _members(error):
            yield from _leaves(member)
    else:
        yield error
