"""Payloads and failures: values as the core carries them, never as Python objects.

A payload is bytes with an encoding label. JSON, the usual case, is kept as raw JSON so
that a history row reads as one document; everything else is bytes. The core compares
payloads and passes them on; only the converter looks inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

NO_JSON: Final = msgspec.Raw(b"")
JSON_PLAIN: Final = "json/plain"
BINARY_PLAIN: Final = "binary/plain"


class Payload(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One value: raw JSON, or bytes under another encoding label.

    Attributes:
        json: the value itself when `encoding` is `json/plain`.
        encoding: how to read it; chosen by configuration, never trusted from a row.
        data: the bytes of every other encoding.
        metadata: further labels, kept without loss for other systems' histories.
    """

    json: msgspec.Raw = NO_JSON
    encoding: str = JSON_PLAIN
    data: bytes = b""
    metadata: dict[str, str] = {}

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return len(bytes(self.json)) or len(self.data)

    def __repr__(self) -> str:
        """Say how much it is, never what."""
        return f"<payload of {self.size:,} bytes, {self.encoding}>"


_payload_decoder: Final = msgspec.json.Decoder(Payload)


def decode_payload(text: str) -> Payload:
    """Read a payload that is kept as JSON text."""
    return _payload_decoder.decode(text)


NULL: Final = Payload(json=msgspec.Raw(b"null"))

Payloads = tuple[Payload, ...]


_details_decoder: Final = msgspec.json.Decoder(Payloads)


def encode_details(details: Payloads | None) -> str | None:
    """Write what a heartbeat said as JSON text; None if there was none."""
    return None if details is None else msgspec.json.encode(details).decode()


def decode_details(text: str | None) -> Payloads | None:
    """Read that."""
    return None if text is None else _details_decoder.decode(text)


def changed(
    before: Mapping[str, Payload], changes: Mapping[str, Payload]
) -> dict[str, Payload]:
    """Return named values after a change; null takes one away."""
    after = {**before, **changes}
    return {name: value for name, value in after.items() if value != NULL}


def changed_headers(
    before: Mapping[str, str], changes: Mapping[str, str]
) -> dict[str, str]:
    """Return headers after a change; an empty text takes one away."""
    return {name: text for name, text in {**before, **changes}.items() if text}


class Failure(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An exception as data: what a history keeps of it.

    Attributes:
        message: the exception's text, bounded.
        kind: "application", "cancelled", "terminated", "timeout", "server", "activity",
            "child_workflow" or "outcome_unknown".
        type: the class name, such as `CardDeclined`; or what an `ApplicationError` is
            to be called.
        module: the module that defines the class. It is compared with known classes,
            never imported.
        bases: the names of its base classes up to `Exception`, for retry policies.
        classes: the class and its bases as `module:qualified name`, nearest first.
            Older failures have none, and are read as they always were.
        stack_trace: the traceback's text, bounded.
        source: which library recorded it.
        notes: `__notes__`.
        arguments: the exception's arguments, if they are data.
        state: the exception's attributes, as far as they are data.
        left_out: what could not be kept, in words.
        added: what code added to the exception that this failure was raised as, before
            it raised it again: notes, attributes, arguments and a cause.
        details: values that the code attached.
        cause: `__cause__`, or the context that was not suppressed.
        group: the members, if it is an exception group.
        non_retryable: the code asked for no further attempt.
        next_retry_delay: microseconds until the next attempt, if the code chose.
        timeout_type: for `timeout`: `start_to_close`, `schedule_to_close`,
            `schedule_to_start`, `heartbeat`, `run` or `execution`.
        activity_type: for `activity`: its name; likewise the fields below.
    """

    message: str = ""
    kind: str = "application"
    type: str = ""
    module: str = ""
    bases: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    stack_trace: str = ""
    source: str = "durable"
    notes: tuple[str, ...] = ()
    arguments: Payload | None = None
    state: Payload | None = None
    left_out: tuple[str, ...] = ()
    added: Failure | None = None
    details: Payloads = ()
    cause: Failure | None = None
    group: tuple[Failure, ...] = ()
    non_retryable: bool = False
    next_retry_delay: int | None = None
    timeout_type: str = ""
    activity_type: str = ""
    activity_id: str = ""
    attempt: int = 0
    retry_state: str = ""
    workflow_type: str = ""
    workflow_id: str = ""
    run_id: str = ""


PAUSED: Final = "paused"
"""The kind of what says why a run is set aside that somebody has paused."""
PAUSED_TEXT: Final = '{"kind":"paused"'
"""How that begins as JSON: the row of a run tells by it whether the run is paused."""


def paused_by(note: str) -> Failure:
    """What says that a run was paused."""
    return Failure(kind=PAUSED, notes=(note,))


def is_paused(text: str | None) -> bool:
    """Whether a run is paused, by why it is set aside, as JSON."""
    return text is not None and text.startswith(PAUSED_TEXT)


def innermost(failure: Failure) -> Failure:
    """What an activity or a child workflow raised, without the failures around it."""
    while failure.kind in ("activity", "child_workflow") and failure.cause is not None:
        failure = failure.cause
    return failure


_LEAVES_SAID: Final = 5


def summary_of(failure: Failure) -> str:
    """What was raised, as text; of an exception group also what is in it."""
    failure = innermost(failure)
    name = failure.type or failure.kind
    text = f"{name}: {failure.message}" if failure.message else name
    leaves = [summary_of(leaf) for leaf in _leaves(failure)] if failure.group else []
    said = [leaf for leaf in leaves if leaf not in text]
    if not said:
        return text
    more = len(said) - _LEAVES_SAID
    rest = f"; and {more:,} more" if more > 0 else ""
    return f"{text}: {'; '.join(said[:_LEAVES_SAID])}{rest}"


def _leaves(failure: Failure) -> Iterator[Failure]:
    for member in map(innermost, failure.group):
        if member.group:
            yield from _leaves(member)
        else:
            yield member
