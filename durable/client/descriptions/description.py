"""What users see of a run's row."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import msgspec

from durable.clock import from_datetime, to_datetime
from durable.converter import json
from durable.converter.failures import exception_of, show_remote
from durable.core.history.codec import UNREADABLE
from durable.core.history.payload import Failure, is_paused, summary_of
from durable.errors import (
    InvalidOptionError,
    PayloadError,
    UndecodableError,
    WorkflowPausedError,
    WorkflowStuckError,
)
from durable.options import check_id
from durable.search.attributes import decode_attributes
from durable.search.kinds import unpack
from durable.store.records import (
    NEVER,
    PAUSED,
    STUCK,
    WAITING,
    RunRecord,
    RunStatus,
    due_since,
)
from durable.suggestions import ending_with_closest

_failure_decoder: Final = msgspec.json.Decoder(Failure)


class RunDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says about a run.

    Web frameworks may return it as it is: `to_dict` gives it as plain data, `dict` of
    it does the same, and pydantic knows it as a field or a response.

    Attributes:
        stuck: why it is parked, or None.
        paused: the note of whoever has paused it, perhaps empty; None if it is not
            paused, or has activities under way that are to end before it is.
        waits_for_turn: its queue says how many runs are under way at once, or how fast
            they begin, and it has not begun yet; see `Queues.runs`.
        wake_at: when its next timer, retry or timeout is due, if it waits for one.
        owner: the worker that has it, or None.
        attributes: what it is found by, by name.
        memo: what else was said of it. Empty for runs that an older release started.
        root_workflow_id, root_run_id: the run at the top of its family: its parent's
            parent and so on; its own or that of its chain's first run without a
            parent. The workflow id is None if that run is not in the database any more.
    """

    namespace: str
    workflow_id: str
    run_id: str
    workflow_type: str
    task_queue: str
    status: RunStatus
    started_at: datetime
    closed_at: datetime | None
    wake_at: datetime | None
    owner: str | None
    version: str | None
    stuck: Failure | None
    paused: str | None
    waits_for_turn: bool
    first_run_id: str
    continued_from_run_id: str | None
    parent_workflow_id: str | None
    parent_run_id: str | None
    root_workflow_id: str | None
    root_run_id: str | None
    attributes: dict[str, Any]
    memo: dict[str, Any]

    @property
    def cursor(self) -> str:
        """Where it stands in a listing: `list(after=...)` goes on behind it."""
        closed_at = None if self.closed_at is None else from_datetime(self.closed_at)
        return _cursor(from_datetime(self.started_at), closed_at, self.run_id)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data: instants as ISO 8601 text, no value of an error."""
        plain: dict[str, Any] = msgspec.to_builtins(
            {**msgspec.structs.asdict(self), "stuck": None}
        )
        if self.stuck is not None:
            plain["stuck"] = failure_as_dict(self.stuck)
        return plain

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """The items of `to_dict`, so that `dict()` makes plain data of it."""
        return iter(self.to_dict().items())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """How pydantic, and whatever rests on it, writes it as JSON."""
        # Whoever asks has pydantic; nobody else needs it.
        schemas: Any = importlib.import_module("pydantic_core.core_schema")
        return schemas.is_instance_schema(
            cls,
            serialization=schemas.plain_serializer_function_ser_schema(
                cls.to_dict, return_schema=schemas.dict_schema()
            ),
        )


def failure_as_dict(failure: Failure) -> dict[str, Any]:
    """A failure as plain data, without the values that may be attached to it."""
    cause = failure.cause
    return {
        "type": failure.type,
        "message": failure.message,
        "stack_trace": failure.stack_trace,
        "cause": None if cause is None else failure_as_dict(cause),
    }


def _cursor(started_at: int, closed_at: int | None, run_id: str) -> str:
    # Whatever the order is; the run id tells apart those of one instant.
    closed = "" if closed_at is None else f"-{closed_at:x}"
    return f"{started_at:x}{closed}.{run_id}"


def cursor_of(record: RunRecord) -> str:
    """Where a run stands in a listing; see `RunDescription.cursor`."""
    return _cursor(record.started_at, record.closed_at, record.run_id)


def read_cursor(text: object, name: str = "after") -> tuple[int, int | None, str]:
    """The start, the end if there was one, and the run id that a cursor is made of.

    Args:
        text: the cursor.
        name: what messages call it.

    Raises:
        InvalidOptionError: it is no cursor.
    """
    instant, dot, run_id = (
        text.partition(".") if isinstance(text, str) else ("", "", "")
    )
    try:
        if dot:
            started, _, closed = instant.partition("-")
            check_id(run_id, "the run id of the cursor")
            return int(started, 16), int(closed, 16) if closed else None, run_id
    except ValueError:  # an InvalidIdError is one
        pass
    raise InvalidOptionError(
        f"{name} is {text!r}: give the `cursor` of the last run of the page before."
    )


def describe(record: RunRecord, root_workflow_id: str | None = None) -> RunDescription:
    """Turn a run's row into what users see.

    `root_workflow_id` is looked at where the row itself does not tell.
    """
    root_run_id = record.root_run_id
    wake_at = None if record.wake_at == NEVER else record.wake_at
    if record.parent_run_id is None:
        root_run_id = root_run_id or record.first_run_id
        root_workflow_id = record.workflow_id
    elif root_run_id == record.parent_run_id:
        root_workflow_id = record.parent_workflow_id
    return RunDescription(
        **{name: getattr(record, name) for name in _AS_IN_THE_ROW},
        started_at=to_datetime(record.started_at),
        closed_at=None if record.closed_at is None else to_datetime(record.closed_at),
        wake_at=None if wake_at is None else to_datetime(due_since(wake_at)),
        stuck=None if is_paused(record.stuck) else decode_stuck(record.stuck),
        paused=paused_note(record),
        waits_for_turn=waits_for_turn(record),
        root_workflow_id=root_workflow_id,
        root_run_id=root_run_id,
        attributes=read_attributes(record),
        memo=read_memo(record),
    )


def read_attributes(record: RunRecord) -> dict[str, Any]:
    """What a run is found by; nothing of what cannot be read."""
    with contextlib.suppress(*UNREADABLE):
        return decode_attributes(unpack(record.attributes))
    return {}


def read_memo(record: RunRecord) -> dict[str, Any]:
    """What a run's row says of its memo; nothing of what cannot be read."""
    with contextlib.suppress(PayloadError, UndecodableError, *UNREADABLE):
        return {
            key: json.decode(value, Any, f"memo {key!r} of run {record.workflow_id!r}")
            for key, value in unpack(record.memo).items()
        }
    return {}


_CHANGED: Final = (
    "started_at closed_at wake_at stuck paused waits_for_turn root_workflow_id"
    " root_run_id attributes memo"
)
_AS_IN_THE_ROW: Final = tuple(
    name for name in RunDescription.__struct_fields__ if name not in _CHANGED.split()
)


def decode_stuck(text: str | None) -> Failure | None:
    """Read why a run is parked; whatever stands there, say something."""
    if text is None:
        return None
    try:
        return _failure_decoder.decode(text)
    except UNREADABLE:
        return Failure(message="The reason cannot be read.", type="CorruptHistoryError")


def paused_note(record: RunRecord) -> str | None:
    """The note with which a run was paused; None if it is not paused."""
    if not is_paused(record.stuck):
        return None
    failure = decode_stuck(record.stuck)
    return "".join(failure.notes) if failure is not None else ""


def waits_for_turn(record: RunRecord) -> bool:
    """Whether a run has not begun because its queue has no room."""
    is_open = record.status is RunStatus.RUNNING
    return is_open and record.stuck is None and record.wake_at == NEVER


def status_word(record: RunRecord) -> str:
    """What people call the status of a run."""
    if record.stuck is None:
        return WAITING if waits_for_turn(record) else record.status.value
    return PAUSED if is_paused(record.stuck) else STUCK


def paused_error(record: RunRecord) -> WorkflowPausedError:
    """The error of what a run cannot do while it is paused."""
    note = paused_note(record)
    return WorkflowPausedError(
        f"Run {record.workflow_id!r} is paused{f': {note}' if note else ''}; its code"
        " answers nothing.",
        hint="Resume it first.",
    )


def stuck_error(record: RunRecord, failure: Failure) -> WorkflowStuckError:
    """The error that says why a run is parked, with that as its cause."""
    trace = f"\n{failure.stack_trace}" if failure.stack_trace else ""
    error = WorkflowStuckError(
        f"Run {record.workflow_id!r} is stuck, nothing is lost:"
        f" {summary_of(failure)}{trace}",
        hint="Mend the code and start the program again: the run then goes on.",
        workflow_id=record.workflow_id,
        run_id=record.run_id,
    )
    error.__cause__ = show_remote(exception_of(failure))
    return error


def to_status(value: Any) -> RunStatus:
    """Read a status.

    Raises:
        InvalidOptionError: there is no such status.
    """
    with contextlib.suppress(ValueError):
        return RunStatus(value)
    words = [*(status.value for status in RunStatus), STUCK, PAUSED]
    raise InvalidOptionError(
        f"status is {value!r}: give one of {', '.join(words)}"
        f"{ending_with_closest(value, words)}"
    )
