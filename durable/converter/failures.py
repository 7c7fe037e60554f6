"""Exceptions to failures and back.

What is kept: type, message, traceback text, notes, arguments and attributes, the cause
chain and exception groups; all bounded, and what is left out is said. Exceptions are
rebuilt only from classes that this program already knows by name: built-in ones, those
of this library, those that the modules which define its workflows and activities can
name, or were registered. Names in a failure are compared, never imported.
"""

# Exceptions hold values of any type, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterator
from typing import Any, Final

from durable import errors
from durable.converter import json
from durable.converter.exception_classes import CLASSES as CLASSES
from durable.converter.exception_classes import ExceptionClasses as ExceptionClasses
from durable.converter.exception_classes import register_exception as register_exception
from durable.converter.exception_values import read, read_attributes
from durable.converter.failure_recording import Recorder, members_of
from durable.converter.remote_traceback import MARK, recorded_in
from durable.converter.remote_traceback import show_remote as show_remote
from durable.core.history.payload import Failure


def failure_of(error: BaseException) -> Failure:
    """Turn an exception into data, whatever is wrong with the exception itself.

    One that was made from a failure is that failure again, with what code has added to
    it since: notes, attributes, a cause.
    """
    return Recorder(exception_of).failure_of(error)


# --- failure -> exception -------------------------------------------------------------


def exception_of(failure: Failure) -> BaseException:
    """Turn recorded data into the exception that code should see.

    The failure of an activity or child workflow is raised as the exception that it
    raised, if its class is known, so that `except CardDeclined` works; a note names
    the activity or child. Otherwise it is an `ActivityError` or `ChildWorkflowError`
    with a `RemoteError` as its cause.
    """
    error = _exception_of(failure)
    if failure.added is not None:
        _add(error, failure.added)
    vars(error)[MARK] = failure
    return error


def _add(error: BaseException, added: Failure) -> None:
    """Do again what code did to an exception before it raised it again."""
    if added.added is not None:
        _add(error, added.added)
    _add_notes(error, added)
    try:
        if added.arguments is not None:
            error.args = tuple(read(added.arguments, exception_of))
        _restore_attributes(error, added)
    except Exception as problem:  # noqa: BLE001 - the failure itself must not be lost
        _note(error, f"not rebuilt: what was added to it ({type(problem).__name__})")
    if added.cause is not None:
        _set_cause(error, exception_of(added.cause))


def is_of_child(error: BaseException) -> bool:
    """Whether an exception is how a child workflow ended."""
    recorded = recorded_in(error)
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
    cls = _class_of(failure)
    error = None if cls is None else _rebuild(cls, failure)
    if error is None:
        error = _caught_as(
            errors.RemoteError(_remote_text(failure), type=failure.type), failure
        )
    _add_notes(error, failure)
    return _with_cause(error, failure)


# --- the class ------------------------------------------------------------------------


def _class_of(failure: Failure) -> type[BaseException] | None:
    """The class to rebuild a failure with, if it is known."""
    if failure.classes:
        cls: type[BaseException] | None = _reach(failure.classes[0])
        if cls is not None and issubclass(cls, StopIteration):
            return None  # no coroutine can raise it
    else:
        cls = CLASSES.find(failure.module, failure.type)
    if cls is None and failure.type:
        # One of this library that was raised under a type of its own.
        is_ours = failure.module == errors.__name__ and not failure.group
        cls = errors.ApplicationError if is_ours else None
    # Others would end the program that reads them.
    if cls is not None and not issubclass(
        cls, Exception | asyncio.CancelledError | BaseExceptionGroup
    ):
        return None
    return cls


def _reach(name: str) -> Any:
    home, _, qualified = name.partition(":")
    cls = CLASSES.reach(home, qualified)
    return cls if cls is not None and issubclass(cls, BaseException) else None


def _caught_as(error: errors.FailureError, failure: Failure) -> BaseException:
    """The same error, caught also by the nearest known base of the class it is for."""
    for name in failure.classes[1:]:
        base = _reach(name)
        if base in (None, Exception) or isinstance(error, base):
            continue
        if not issubclass(base, Exception) or issubclass(
            base, StopIteration | BaseExceptionGroup
        ):
            continue
        try:
            combined = _bare(_combined(type(error), base), error.args)
            combined.args = error.args
            vars(combined).update(vars(error))
            own = frozenset((*vars(error), "code", "hint"))
            _restore_attributes(combined, failure, keep=own)
            str(combined)
        except Exception:  # noqa: BLE001, S112 - the next base may do
            continue
        return combined
    return error


_combinations: Final[dict[tuple[type, type], type[BaseException]]] = {}


def _combined(
    cls: type[errors.FailureError], base: type[Exception]
) -> type[BaseException]:
    found = _combinations.get((cls, base))
    if found is None:
        found = _combinations[cls, base] = _combine(cls, base)
    return found


def _combine(
    cls: type[errors.FailureError], base: type[Exception]
) -> type[BaseException]:
    return types.new_class(
        cls.__name__,
        (cls, base),
        exec_body=lambda body: body.update(
            __module__=cls.__module__,
            __qualname__=cls.__qualname__,
            __doc__=cls.__doc__,
            __str__=BaseException.__str__,
            __repr__=BaseException.__repr__,
            __reduce__=_reduce_combined,
        ),
    )


def _reduce_combined(error: Any) -> tuple[Any, ...]:
    cls, base = type(error).__bases__
    return _unpickle_combined, (cls, base, error.args, vars(error))


def _unpickle_combined(
    cls: type[errors.FailureError],
    base: type[Exception],
    args: tuple[Any, ...],
    state: dict[str, Any],
) -> BaseException:
    error = _bare(_combined(cls, base), args)
    error.args = args
    vars(error).update(state)
    return error


def _bare(cls: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """An object of a class, without any code of the class."""
    for base in cls.__mro__:
        make = vars(base).get("__new__")
        if isinstance(make, types.BuiltinFunctionType):
            made: BaseException = make(cls, *args)
            return made
    raise TypeError(cls.__qualname__)  # never: BaseException has one


# --- its parts ------------------------------------------------------------------------


def _remote_text(failure: Failure) -> str:
    return f"{failure.type}: {failure.message}" if failure.type else failure.message


def _note(error: BaseException, note: str) -> None:
    # Not by add_note(), which a frozen dataclass refuses; likewise below.
    notes: list[str] = vars(error).setdefault("__notes__", [])
    notes.append(note)


def _add_notes(error: BaseException, failure: Failure) -> None:
    for note in failure.notes:
        _note(error, note)
    if failure.left_out:
        _note(error, f"not recorded: {', '.join(failure.left_out)}")


def _set_cause(error: BaseException, cause: BaseException) -> None:
    object.__setattr__(error, "__cause__", cause)


def _with_cause(error: BaseException, failure: Failure) -> BaseException:
    if failure.cause is not None:
        _set_cause(error, exception_of(failure.cause))
    return error


def _rebuild(cls: type[BaseException], failure: Failure) -> BaseException | None:
    """Make an exception without calling its constructor, which may want anything."""
    try:
        if issubclass(cls, BaseExceptionGroup):
            return _rebuild_group(cls, failure)
        arguments: list[Any] = (
            [failure.message]
            if failure.arguments is None
            else read(failure.arguments, exception_of)
        )
        error = _new(cls, tuple(arguments), failure)
        _restore_attributes(error, failure)
        if isinstance(error, errors.ApplicationError):
            _restore_application_error(error, failure)
        elif isinstance(error, errors.CompensationFailed):
            vars(error)["errors"] = tuple(map(exception_of, failure.group))
        if failure.classes and not failure.message.startswith("<no text"):
            str(error)  # which its class may build of what was left out
    except Exception:  # noqa: BLE001 - a class may refuse; the failure must not be lost
        return None
    return error


def _new(
    cls: type[BaseException], args: tuple[Any, ...], failure: Failure
) -> BaseException:
    try:
        error = cls.__new__(cls, *args)
        if type(error) is not cls:
            raise TypeError(cls.__qualname__)
    except Exception:
        if not failure.classes:
            raise
        error = _bare(cls, args)
    object.__setattr__(error, "args", args)
    return error


def _restore_attributes(
    error: BaseException, failure: Failure, keep: frozenset[str] = frozenset()
) -> None:
    if failure.state is None:
        return
    state, lost = read_attributes(failure.state, exception_of)
    for name, value in state.items():
        slot = _slot(type(error), name)
        if name in keep:
            continue
        if slot is None:
            vars(error)[name] = value
        else:
            slot.__set__(error, value)
    if lost:
        _note(error, f"not rebuilt: attributes {', '.join(lost)}")


def _slot(cls: type[BaseException], name: str) -> Any:
    for base in cls.__mro__:
        slot = vars(base).get(name)
        if type(slot) is types.MemberDescriptorType:
            return slot
    return None


def _rebuild_group(
    cls: type[BaseExceptionGroup[Any]], failure: Failure
) -> BaseException:
    members = [exception_of(member) for member in failure.group]
    message = (
        failure.message.rsplit(" (", 1)[0]
        if failure.arguments is None
        else read(failure.arguments, exception_of)[0]
    )
    make: Any = cls
    if issubclass(cls, ExceptionGroup) and not all(
        isinstance(member, Exception) for member in members
    ):
        make = BaseExceptionGroup
    try:
        rebuilt: BaseException = make(message, members)
    except Exception:
        if not failure.classes:
            raise
        rebuilt = BaseExceptionGroup.__new__(make, message, members)
    _restore_attributes(rebuilt, failure)
    return rebuilt


def _restore_application_error(error: Any, failure: Failure) -> None:
    delay = failure.next_retry_delay
    for name, value in (
        ("message", failure.message),
        ("type", failure.type),
        ("non_retryable", failure.non_retryable),
        ("next_retry_delay", None if delay is None else delay / 1_000_000),
        ("details", tuple(read(item, exception_of) for item in failure.details)),
    ):
        vars(error)[name] = value  # not set, which a frozen dataclass refuses


# --- how activities and children end --------------------------------------------------


def _activity_exception(failure: Failure) -> BaseException:
    cause = failure.cause
    where = (
        f"activity {failure.activity_type!r} (id {failure.activity_id}),"
        f" attempt {failure.attempt}"
    )
    if cause is not None and cause.kind == "application":
        error = exception_of(cause)
        if not isinstance(error, errors.RemoteError) or cause.type == "RemoteError":
            _note(error, f"raised by {where}, {_why_last(failure)}")
            return error
    cls: type[errors.ActivityError] = errors.ActivityError
    what = "failed"
    if cause is not None and cause.kind == "timeout":
        cls, what = errors.ActivityTimeoutError, "timed out"
    elif cause is not None and cause.kind == "outcome_unknown":
        cls, what = errors.OutcomeUnknown, "is in doubt"
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
        if cause.timeout_type == "heartbeat":
            activity_error.heartbeat_details = tuple(
                json.decode(one, Any, "a heartbeat's detail") for one in cause.details
            )
    raised = activity_error if cause is None else _caught_as(activity_error, cause)
    return _with_cause(raised, failure)


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
    _note(error, f"raised by {where}")
    return error


def _child_error(message: str, failure: Failure) -> BaseException:
    error = errors.ChildWorkflowError(
        message,
        workflow_type=failure.workflow_type,
        workflow_id=failure.workflow_id,
        run_id=failure.run_id,
    )
    cause = failure.cause
    return _with_cause(error if cause is None else _caught_as(error, cause), failure)


_WHY_LAST: Final = {
    "maximum_attempts_reached": "the last that its retry policy allows",
    "non_retryable_failure": "which may not be tried again",
    "timeout": "and its schedule_to_close_timeout leaves no time for another",
    "cancel_requested": "after it was asked to stop",
    "outcome_unknown": "which must not be run again blindly",
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
    if recorded_in(error) is not None:
        return False
    if isinstance(error, fail_on):
        return False
    return isinstance(error, bugs)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for member in members_of(error):
            yield from _leaves(member)
    else:
        yield error
