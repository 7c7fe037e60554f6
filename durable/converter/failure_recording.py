"""Exceptions to failures: recording one never fails, and what it cannot keep it says.

Each part of an exception is taken by itself, so that one which raises costs no other.
The whole is bounded: causes and members of groups share what their parent leaves.
"""

# Exceptions hold values of any type, so their parts have no static type:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import types
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage]  # the other one raises
from collections.abc import Callable, Iterator
from traceback import StackSummary, walk_tb
from typing import Any, Final, TypeVar

import msgspec

from durable import errors, limits
from durable.converter.exception_classes import home_of
from durable.converter.exception_values import UnkeptError, write
from durable.converter.remote_traceback import recorded_in, without_remote
from durable.core.history.payload import Failure, Payload
from durable.options import to_microseconds

T = TypeVar("T")
_NAME_CHARS_MAX: Final = 255
# Below this a failure says nothing any more.
_BYTES_MIN: Final = 1_024
_LEFT_OUT_MAX: Final = 20
_BASES_MAX: Final = 50
# Exceptions among the values of exceptions.
_NESTED_MAX: Final = 200
_NESTED_DEPTH_MAX: Final = 3
_HEAP_TYPE: Final = 1 << 9
# These are kept as fields of the failure; what code changes in them later, as values.
_FIELDS: Final = frozenset(
    ("message", "details", "type", "non_retryable", "next_retry_delay")
)
# Members are kept as a group. Python sets `obj` for its own hints, to any object.
_NEVER: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (errors.CompensationFailed, "errors"),
    (BaseExceptionGroup, "message"),
    (BaseExceptionGroup, "exceptions"),
    (AttributeError, "obj"),
)


class Recorder:
    """Turns exceptions into failures.

    Args:
        remake: makes the exception of a failure, to see what code added to it.
    """

    def __init__(self, remake: Callable[[Failure], BaseException]) -> None:
        self._remake = remake
        self._nested_left = _NESTED_MAX

    def failure_of(self, error: BaseException) -> Failure:
        """Turn an exception into data, whatever is wrong with the exception itself."""
        return self.record(error, limits.FAILURE_BYTES_MAX, ())

    def record_nested(
        self, error: BaseException, path: tuple[BaseException, ...]
    ) -> Failure:
        """Record an exception that stands among the values of another.

        Raises:
            UnkeptError: it is too deep there, or one too many.
        """
        self._nested_left -= 1
        is_cycle = any(error is outer for outer in path)
        if self._nested_left < 0 or len(path) > _NESTED_DEPTH_MAX or is_cycle:
            raise UnkeptError("exceptions that hold too many others")
        return self.record(error, limits.FAILURE_MESSAGE_CHARS_MAX // 2, path)

    def record(
        self, error: BaseException, room: int, path: tuple[BaseException, ...]
    ) -> Failure:
        """Turn an exception into data of at most so many bytes.

        Args:
            error: the exception.
            room: the bytes that there is room for.
            path: the exceptions that it is a part of, outermost first.
        """
        recorded = recorded_in(error)
        try:
            if recorded is None:
                return _Recording(error, room, path, self).make()
            failure = self._with_added(error, recorded, room, path)
            if not path or _size(failure) <= room:
                return failure
            return _trimmed(failure, room)
        except Exception as problem:  # noqa: BLE001 - its class may do anything
            name = type.__getattribute__(type(error), "__name__")
            return recorded or Failure(
                message=f"<it cannot be looked at: {type(problem).__name__}>",
                type=_clean(str(name))[:_NAME_CHARS_MAX],
            )

    def _with_added(
        self,
        error: BaseException,
        recorded: Failure,
        room: int,
        path: tuple[BaseException, ...],
    ) -> Failure:
        """What an exception was recorded as, with what code has added to it since."""
        fresh = self._remake(recorded)
        cause = without_remote(error.__cause__)
        if cause is not None and fresh.__cause__ is not None:
            first = recorded_in(cause)
            if first is not None and first is recorded_in(fresh.__cause__):
                cause = None
        now = _Recording(error, room // 2, path, self)
        before = _Recording(fresh, room // 2, path, self)
        old = {
            name: now.written(value)
            for name, value in before.attributes(with_fields=True)
        }
        changed = {
            name: value
            for name, value in now.attributes(with_fields=True)
            if name not in old or now.written(value) != old[name]
        }
        known = before.notes()
        args = now.written([*error.args]) != now.written([*fresh.args])
        added = Failure(
            notes=tuple(note for note in now.notes() if note not in known),
            state=now.state(changed),
            arguments=now.arguments() if args else None,
            left_out=tuple(now.left_out),
            cause=None if cause is None else now.child(cause, room // 2),
        )
        if added == Failure():
            return recorded
        return msgspec.structs.replace(
            recorded,
            added=msgspec.structs.replace(added, added=recorded.added),
            non_retryable=recorded.non_retryable
            or ("non_retryable" in changed and bool(changed["non_retryable"])),
        )


class _Recording:
    """One exception on its way into a failure."""

    def __init__(
        self,
        error: BaseException,
        room: int,
        path: tuple[BaseException, ...],
        recorder: Recorder,
    ) -> None:
        self._error = error
        self._room = room
        self._path = (*path, error)
        self._recorder = recorder
        self._left = room
        self.left_out: list[str] = []

    def make(self) -> Failure:
        error, cls = self._error, type(self._error)
        children = self._children()
        if children:
            self._left = self._room // 2
        non_retryable, delay, name = False, None, str(cls.__name__)
        details: tuple[Payload, ...] = ()
        message = self.text(_message(error))
        if isinstance(error, errors.ApplicationError):
            non_retryable = _safely(lambda: bool(error.non_retryable), False)
            name = _safely(lambda: str(error.type), name)
            details = _safely(self._details, ())
            delay = self._delay(error)
        arguments = _safely(self.arguments, None)
        state = _safely(lambda: self.state(dict(self.attributes())), None)
        # What is left after these may be short, so the long texts come last.
        notes = tuple(map(self.text, self.notes()))
        stack_trace = self.text(_stack(error))
        cause, group = self._recorded_children(children)
        is_cancelled = isinstance(error, asyncio.CancelledError)
        failure = Failure(
            message=message,
            kind="cancelled" if is_cancelled else "application",
            type=_clean(name)[:_NAME_CHARS_MAX],
            module=_clean(home_of(cls))[:_NAME_CHARS_MAX],
            bases=tuple(
                _clean(base.__name__)[:_NAME_CHARS_MAX]
                for base in cls.__mro__[1 : _BASES_MAX + 1]
                if issubclass(base, Exception) and base is not Exception
            ),
            classes=tuple(
                _clean(f"{home_of(base)}:{base.__qualname__}")[: 2 * _NAME_CHARS_MAX]
                for base in cls.__mro__[:_BASES_MAX]
                if issubclass(base, BaseException) and base is not BaseException
            ),
            stack_trace=stack_trace,
            notes=notes,
            arguments=arguments,
            state=state,
            details=details,
            cause=cause,
            group=group,
            non_retryable=non_retryable,
            next_retry_delay=delay,
            left_out=self._said(),
        )
        return (
            failure if _size(failure) <= self._room else _trimmed(failure, self._room)
        )

    # --- texts ------------------------------------------------------------------------

    def text(self, text: str) -> str:
        """A text that every database keeps, cut to what there is room for."""
        text = _clean(text)
        if len(text) > self._left:  # a character is a byte at least
            text = f"{text[: max(self._left - 64, 0)]}... (more)"
        while text and (size := len(msgspec.json.encode(text))) > self._left:
            kept = len(text) * max(self._left - 64, 0) // size
            text = f"{text[:kept]}... (more)" if kept else ""
        self._left -= len(msgspec.json.encode(text))
        return text

    def notes(self) -> list[str]:
        """The notes, as texts."""
        found: Any = _safely(lambda: getattr(self._error, "__notes__", ()), ())
        if not isinstance(found, list):
            return []
        if len(found) > limits.FAILURE_NOTES_MAX:
            self.left_out.append(f"{len(found) - limits.FAILURE_NOTES_MAX:,} notes")
        return [_note(note) for note in found[: limits.FAILURE_NOTES_MAX]]

    def _said(self) -> tuple[str, ...]:
        lost = self.left_out
        more = len(lost) - _LEFT_OUT_MAX
        return tuple(lost[:_LEFT_OUT_MAX] + ([f"{more:,} more"] if more > 0 else []))

    # --- values -----------------------------------------------------------------------

    def attributes(self, *, with_fields: bool = False) -> Iterator[tuple[str, Any]]:
        """What an exception holds by name: in its `__dict__` and in its slots."""
        error = self._error
        never = {name for cls, name in _NEVER if isinstance(error, cls)}
        if isinstance(error, errors.ApplicationError) and not with_fields:
            never |= _FIELDS
        values: dict[Any, Any] = {**slots_of(error), **_safely(lambda: vars(error), {})}
        for name, value in values.items():
            # Two underscores: of Python itself, such as __notes__, or of this library.
            if type(name) is str and not name.startswith("__") and name not in never:
                yield name, value

    def state(self, attributes: dict[str, Any]) -> Payload | None:
        """The attributes as one payload, without those that are no data."""
        kept: dict[str, Any] = {}
        for name, value in attributes.items():
            most = self._most()
            try:
                size = write(value, most, self._nested).size
                if size + len(name) > most:
                    raise UnkeptError(f"{size:,} bytes")
            except Exception as problem:  # noqa: BLE001 - said below
                self._lose(f"attribute {_clean(name)[:100]!r}", problem)
            else:
                kept[name] = value
                self._left -= size + len(name) + 8
        try:
            return write(kept, limits.FAILURE_BYTES_MAX, self._nested) if kept else None
        except Exception as problem:  # noqa: BLE001 - said below
            self._lose("the attributes", problem)
            return None

    def arguments(self) -> Payload | None:
        """The arguments as one payload."""
        args = list(self._error.args)
        if isinstance(self._error, BaseExceptionGroup):
            args = args[:1]
        if not args:
            return None
        try:
            payload = write(args, self._most(), self._nested)
        except Exception as problem:  # noqa: BLE001 - said below
            self._lose("the arguments", problem)
            return None
        self._left -= payload.size
        return payload

    def written(self, value: Any) -> bytes | None:
        """A value as data, to compare it; None if it is none."""
        try:
            return bytes(write(value, self._most(), self._nested).json)
        except Exception:  # noqa: BLE001 - whatever has no form cannot have changed
            return None

    def _details(self) -> tuple[Payload, ...]:
        kept: list[Payload] = []
        error: Any = self._error
        for number, value in enumerate(error.details, start=1):
            try:
                payload = write(value, self._most(), self._nested)
            except Exception as problem:  # noqa: BLE001 - said below
                self._lose(f"detail {number}", problem)
                payload = write(None, self._most(), self._nested)
            kept.append(payload)
            self._left -= payload.size
            if self._left < _BYTES_MIN:
                break
        return tuple(kept)

    def _delay(self, error: errors.ApplicationError) -> int | None:
        value: Any = _safely(lambda: error.next_retry_delay, None)
        if value is None:
            return None
        try:
            return to_microseconds(value, "next_retry_delay")
        except Exception as problem:  # noqa: BLE001 - said below
            self._lose("next_retry_delay", problem)
            return None

    def _most(self) -> int:
        return max(0, min(self._left, limits.FAILURE_MESSAGE_CHARS_MAX))

    def _nested(self, error: BaseException) -> Failure:
        """An exception among the values: bounded as the values are."""
        return self._recorder.record_nested(error, self._path)

    def _lose(self, what: str, problem: Exception) -> None:
        why = problem if isinstance(problem, UnkeptError) else type(problem).__name__
        self.left_out.append(f"{what} ({why})")

    # --- causes and members -----------------------------------------------------------

    def _children(self) -> list[tuple[str, BaseException]]:
        error = self._error
        cause: BaseException | None = _safely(lambda: error.__cause__, None)
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
            if id(cause) == getattr(_get_running_loop(), "outside", 0):
                cause = None  # it is none of the run's, and no replay would find it
        cause = without_remote(cause)
        found = [] if cause is None else [("cause", cause)]
        members = [("member", member) for member in _members(error)]
        if len(members) > limits.FAILURE_GROUP_MAX:
            lost = len(members) - limits.FAILURE_GROUP_MAX
            self.left_out.append(f"{lost:,} of {len(members):,} members")
            members = members[: limits.FAILURE_GROUP_MAX]
        found = [
            (what, child)
            for what, child in [*found, *members]
            if not any(child is outer for outer in self._path)
        ]
        if found and len(self._path) > limits.FAILURE_DEPTH_MAX:
            self.left_out.append("causes and members that are nested deeper")
            return []
        return found

    def _recorded_children(
        self, children: list[tuple[str, BaseException]]
    ) -> tuple[Failure | None, tuple[Failure, ...]]:
        left = self._room // 2 + self._left
        cause: Failure | None = None
        group: list[Failure] = []
        for number, (what, child) in enumerate(children):
            failure = self.child(child, left // (len(children) - number))
            if failure is None:
                continue
            left -= _size(failure)
            if what == "cause":
                cause = failure
            else:
                group.append(failure)
        return cause, tuple(group)

    def child(self, error: BaseException, room: int) -> Failure | None:
        """A cause or member, in its share of the room."""
        if room < _BYTES_MIN:
            self.left_out.append(f"a {_name_of(error)}, for want of room")
            return None
        return self._recorder.record(error, room, self._path)


def members_of(error: BaseException) -> tuple[BaseException, ...]:
    """The exceptions that an exception is a group of."""
    if isinstance(error, BaseExceptionGroup):
        members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
        return members
    if isinstance(error, errors.CompensationFailed):
        return tuple(error.errors)
    return ()


def slots_of(error: BaseException) -> dict[str, Any]:
    """What an exception holds outside of its `__dict__`: slots, members made in C."""
    values: dict[str, Any] = {}
    for cls in type(error).__mro__:
        for name, slot in vars(cls).items():
            if type(slot) is not types.MemberDescriptorType or name in values:
                continue
            try:
                value = slot.__get__(error, type(error))
            except AttributeError:  # never set
                continue
            # One made in C is None where there is nothing.
            if value is not None or cls.__flags__ & _HEAP_TYPE:
                values[name] = value
    return values


def _members(error: BaseException) -> tuple[BaseException, ...]:
    try:
        return members_of(error)
    except Exception:  # noqa: BLE001 - of CompensationFailed, which code may change
        return ()


def _trimmed(failure: Failure, room: int) -> Failure:
    """A recorded failure, cut down to a share of the room."""
    cause = failure.cause
    if cause is not None:
        cause = _trimmed(cause, room // 2) if room >= _BYTES_MIN else None
    has_short_names = sum(map(len, (*failure.bases, *failure.classes))) < room // 4
    return msgspec.structs.replace(
        failure,
        message=failure.message[: room // 16],
        bases=failure.bases if has_short_names else (),
        classes=failure.classes if has_short_names else (),
        stack_trace="",
        notes=(),
        arguments=None,
        state=None,
        added=None,
        details=(),
        group=(),
        cause=cause,
        left_out=("its traceback, notes and values, for want of room",),
    )


def _size(failure: Failure) -> int:
    return len(msgspec.json.encode(failure))


def _safely(part: Callable[[], T], otherwise: T) -> T:
    """A part of an exception; its code may raise anything."""
    try:
        return part()
    except Exception:  # noqa: BLE001 - a failure never fails for one of its parts
        return otherwise


def _name_of(error: BaseException) -> str:
    return str(type(error).__name__)[:100]


def _message(error: BaseException) -> str:
    try:
        text: Any = str(error)
        if isinstance(error, errors.DurableError):
            text = error.message
            if error.hint:
                text = f"{text} {error.hint}"
        return text if isinstance(text, str) else str(text)
    except Exception as problem:  # noqa: BLE001 - __str__ may raise anything
        return f"<no text: __str__ raised {type(problem).__name__}>"


def _note(note: object) -> str:
    try:
        return _clean(str(note))
    except Exception as problem:  # noqa: BLE001 - a note may be anything
        return f"<no text: __str__ raised {type(problem).__name__}>"


def _clean(text: str) -> str:
    """Bound a text, and make it something that every database keeps."""
    text = str.__str__(text)  # a subclass may have its own idea of slices
    if len(text) > limits.FAILURE_MESSAGE_CHARS_MAX:
        dropped = len(text) - limits.FAILURE_MESSAGE_CHARS_MAX
        text = f"{text[: limits.FAILURE_MESSAGE_CHARS_MAX]}... ({dropped:,} more)"
    return text.encode("utf-8", "backslashreplace").decode()


def _stack(error: BaseException) -> str:
    try:
        frames = [
            frame
            for frame in walk_tb(error.__traceback__)
            if not str(frame[0].f_globals.get("__name__", "")).startswith("durable.")
        ]
        summary = StackSummary.extract(iter(frames[-limits.FAILURE_FRAMES_MAX :]))
        return "".join(summary.format())
    except Exception as problem:  # noqa: BLE001 - sources may be gone or unreadable
        return f"<no traceback: {type(problem).__name__}>"
