"""Messages as JSON: what lies in the inbox of a run, and what replies say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from durable.core.history.events import (
    ACTIVITY_OUTCOMES,
    CHILD_OUTCOMES,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionPaused,
    WorkflowExecutionSignaled,
    WorkflowExecutionUnpaused,
)
from durable.core.history.payload import Failure, Payload, Payloads
from durable.core.workflow_task import UpdateRequest


class ChildNews(msgspec.Struct, frozen=True):
    """How a child ended: the type and the data of an event of its parent."""

    type: str
    event: msgspec.Raw


class ActivityNews(msgspec.Struct, frozen=True):
    """How an activity ended elsewhere: the type and the data of an event of its run."""

    type: str
    event: msgspec.Raw


class ActivityReturned(msgspec.Struct, frozen=True):
    """An activity has returned elsewhere, and for a bug that cannot be recorded.

    A row of its attempt says why; what becomes of it is its run's business again.
    """

    scheduled_event_id: int


class QueryRequest(msgspec.Struct, frozen=True):
    """A question to a run's code."""

    name: str
    input: Payloads
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class ActivityResolution(msgspec.Struct, frozen=True):
    """Run an activity whose result could not be recorded again, or take this as it.

    Attributes:
        scheduled_event_id: the event that scheduled the activity.
        attempt: the attempt that the operator has seen.
        result: what to take as its result; None runs it again.
        identity: who decided.
    """

    scheduled_event_id: int
    attempt: int
    result: Payload | None = None
    identity: str = ""


class QueryReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a run's code answered to a question, or raised."""

    result: Payload | None = None
    failure: Failure | None = None


class UpdateReply(msgspec.Struct, frozen=True):
    """Why an update was refused."""

    rejected: Failure


decode_query_reply: Final = msgspec.json.Decoder(QueryReply).decode
decode_update_reply: Final = msgspec.json.Decoder(UpdateReply).decode

_DECODERS: Final[dict[str, Callable[[str], Any]]] = {
    "cancel": msgspec.json.Decoder(WorkflowExecutionCancelRequested).decode,
    "pause": msgspec.json.Decoder(WorkflowExecutionPaused).decode,
    "resume": msgspec.json.Decoder(WorkflowExecutionUnpaused).decode,
    "signal": msgspec.json.Decoder(WorkflowExecutionSignaled).decode,
    "update": msgspec.json.Decoder(UpdateRequest).decode,
    "child": msgspec.json.Decoder(ChildNews).decode,
    "activity": msgspec.json.Decoder(ActivityNews).decode,
    "query": msgspec.json.Decoder(QueryRequest).decode,
    "resolve": msgspec.json.Decoder(ActivityResolution).decode,
}
_CHILD_DECODERS: Final[dict[str, Callable[[msgspec.Raw], Any]]] = {
    outcome.__name__: msgspec.json.Decoder(outcome).decode for outcome in CHILD_OUTCOMES
}
_ACTIVITY_DECODERS: Final[dict[str, Callable[[msgspec.Raw], Any]]] = {
    outcome.__name__: msgspec.json.Decoder(outcome).decode
    for outcome in (*ACTIVITY_OUTCOMES, ActivityReturned)
}


def encode_message(message: object) -> str:
    """Turn a message into the data of its row; what ended elsewhere is wrapped."""
    if isinstance(message, (*CHILD_OUTCOMES, *ACTIVITY_OUTCOMES, ActivityReturned)):
        event = msgspec.Raw(msgspec.json.encode(message))
        wrap = ChildNews if isinstance(message, CHILD_OUTCOMES) else ActivityNews
        message = wrap(type(message).__name__, event)
    return msgspec.json.encode(message).decode()


def decode_message(kind: str, data: str) -> Any:
    """What a message of that kind says; of what ended elsewhere, the event of that.

    Raises what `UNREADABLE` of `durable.core.history.codec` names.

    Raises:
        KeyError: this release does not know the kind.
    """
    message = _DECODERS[kind](data)
    if isinstance(message, ChildNews):
        return _CHILD_DECODERS[message.type](message.event)
    if isinstance(message, ActivityNews):
        return _ACTIVITY_DECODERS[message.type](message.event)
    return message
