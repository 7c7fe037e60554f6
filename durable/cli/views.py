"""Runs and events as the JSON of `--json`: snake_case, UTC instants, plain data."""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, TypeGuard

import msgspec

from durable.client.descriptions.description import (
    failure_as_dict,
    paused_note,
    read_attributes,
    read_memo,
    waits_for_turn,
)
from durable.core.folding.run_state import RunState
from durable.core.history.codec import UNREADABLE
from durable.core.history.payload import JSON_PLAIN, Payload
from durable.store.records import NEVER, AttemptRecord, HistoryRow, RunRecord
from durable.telling.pieces import decode_failure, find_datetime, value_of

HIDDEN: Final = "hidden"
"""The key that stands in a payload in place of its value."""


def run_view(record: RunRecord, *, payloads: bool = True) -> dict[str, Any]:
    """A run's row."""
    memo = read_memo(record)
    note = paused_note(record)
    stuck = None if record.stuck is None else decode_failure(record.stuck)
    return {
        **_fields(
            record,
            "namespace workflow_id run_id workflow_type task_queue status started_at"
            " closed_at wake_at owner version first_run_id continued_from_run_id"
            " parent_workflow_id parent_run_id",
        ),
        "stuck": None if stuck is None or note is not None else failure_as_dict(stuck),
        "paused": note,
        **({"wake_at": None} if record.wake_at == NEVER else {}),
        "waits_for_turn": waits_for_turn(record),
        "attributes": msgspec.to_builtins(read_attributes(record)),
        "memo": memo if payloads else _hidden(memo),
    }


def _hidden(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {HIDDEN: True} for name in values}


def attempt_view(row: AttemptRecord) -> dict[str, Any]:
    """One attempt of an activity."""
    failure = None if row.failure is None else decode_failure(row.failure)
    return {
        **_fields(
            row,
            "scheduled_event_id activity_type attempt state due_at started_at closed_at"
            " worker_id",
        ),
        "failure": None if failure is None else failure_as_dict(failure),
    }


def folded_view(state: RunState, *, payloads: bool) -> dict[str, Any]:
    """What a run's history says of it."""
    return {
        "event_count": state.event_count,
        "task_count": state.task_count,
        "checkpoint_event_id": state.checkpoint_event_id,
        "continued_as_run_id": state.continued_as_run_id,
        "state": _state_view(state.published, payloads=payloads),
        "signals": state.signals,
        "dead_letters": [
            {
                "number": letter.number,
                "signal_name": letter.signal_name,
                "error": failure_as_dict(letter.error),
            }
            for letter in state.dead_letters
        ],
        "pending": _pending_view(state),
    }


def _state_view(state: Payload | None, *, payloads: bool) -> Any:
    if state is None:
        return None
    if not payloads:
        return {HIDDEN: True, "encoding": state.encoding, "size": state.size}
    return state.json if state.encoding == JSON_PLAIN else value_of(state)


def _pending_view(state: RunState) -> dict[str, Any]:
    """What a run waits for."""
    activity = "scheduled_event_id activity_id activity_type scheduled_at"
    child = "initiated_event_id workflow_id workflow_type run_id initiated_at"
    delivery = "initiated_event_id workflow_id run_id signal_name sent_at"
    fields = {
        "activities": f"{activity} is_cancel_requested",
        "timers": "started_event_id timer_id due_at summary",
        "children": f"{child} parent_close_policy is_cancel_requested",
        "deliveries": delivery,
        "updates": "accepted_event_id update_id update_name accepted_at",
    }
    return {
        **{
            name: [_fields(item, names) for item in getattr(state, f"pending_{name}")]
            for name, names in fields.items()
        },
        "deadline_at": _shown(state.deadline_at, is_instant=True),
    }


def row_view(row: HistoryRow, *, payloads: bool) -> dict[str, Any]:
    """A row of a history.

    `data` is what was recorded, to the letter (its instants and spans are
    microseconds), so that `durable replay --file` can read it; without `payloads` each
    value in it gives way to its size.
    """
    _, event_id, task_number, kind, time, text, flags = row
    try:
        data: Any = msgspec.json.decode(text)
    except UNREADABLE:
        data = text
    return {
        "event_id": event_id,
        "task_number": task_number,
        "type": kind,
        "time": find_datetime(time),
        "flags": flags,
        "data": msgspec.Raw(text.encode()) if payloads else _hide(data),
    }


# Where events keep values, by field: one payload, a list of them, or a mapping.
_ONE: Final = frozenset({"result", "arguments", "state", "current", "previous"})
_LIST: Final = frozenset({"input", "details"})
_MAPPING: Final = frozenset({"memo", "details", "attributes"})


def _hide(data: Any) -> Any:
    """Replace every payload within an event's data."""
    if _is_list(data):
        return [_hide(item) for item in data]
    if not _is_mapping(data):
        return data
    hidden: dict[str, Any] = {}
    for name, value in data.items():
        if name in _ONE and _is_mapping(value):
            hidden[name] = _size(value)
        elif name in _LIST and _is_list(value):
            hidden[name] = [_size(item) for item in value]
        elif name in _MAPPING and _is_mapping(value):
            hidden[name] = {key: _size(item) for key, item in value.items()}
        else:
            hidden[name] = _hide(value)
    return hidden


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _is_mapping(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _size(payload: Any) -> dict[str, Any]:
    fields = payload if _is_mapping(payload) else {}
    encoding = fields.get("encoding", JSON_PLAIN)
    if encoding == JSON_PLAIN:
        size = len(msgspec.json.encode(fields.get("json")))
    else:
        text = str(fields.get("data", ""))  # base64
        size = len(text) * 3 // 4 - text.count("=")
    return {HIDDEN: True, "encoding": encoding, "size": size}


def _fields(item: object, names: str) -> dict[str, Any]:
    """Some fields, in this order."""
    return {
        name: _shown(getattr(item, name), is_instant=name.endswith("_at"))
        for name in names.split()
    }


def _shown(value: Any, *, is_instant: bool) -> Any:
    if isinstance(value, Enum):
        return value.value
    return find_datetime(value) if is_instant and value is not None else value
