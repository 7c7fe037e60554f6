"""What a worker and its processes tell each other: pickled structs behind their length.

Arguments, results and failures travel in the form in which they are recorded, so that
what the first run sees is what a replay sees. Pickles pass between a process and its
own children only, and are never kept.
"""

from __future__ import annotations

import logging
import pickle
import struct
from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import msgspec

from durable.api.activities.activity_context import (
    ActivityCancellationReason,
    ActivityInfo,
)
from durable.core.history.payload import Failure, Payload, Payloads
from durable.observer import Measurement

_LENGTH: Final = struct.Struct("!Q")

# --- from the worker ------------------------------------------------------------------


class Job(msgspec.Struct, frozen=True):
    """Run an attempt.

    Attributes:
        number: which one it is, for this process.
        module: the module that defines the activity, to be imported; None if `code`
            brings the function along.
        code: the function, pickled by value.
        begin_by: until when the run is certainly the worker's, by the machine's
            monotonic clock; None if the worker has asked the database.
        levels: what the worker's loggers let through, by name.
        is_measured: somebody wants to hear what is measured.
    """

    number: int
    info: ActivityInfo
    name: str
    module: str | None
    code: bytes | None
    input: Payloads
    cancel_thread: bool
    begin_by: float | None
    levels: dict[str, int]
    is_measured: bool


class Stop(msgspec.Struct, frozen=True):
    """Ask an attempt to stop."""

    number: int
    reason: ActivityCancellationReason


class WorkerStops(msgspec.Struct, frozen=True):
    """The worker closes."""


class Leave(msgspec.Struct, frozen=True):
    """There is nothing more to do."""


# --- from the process -----------------------------------------------------------------


class Begun(msgspec.Struct, frozen=True):
    """The attempt begins; before this nothing of the user's has run."""

    number: int


class NotBegun(msgspec.Struct, frozen=True):
    """It came too late to begin, and has not."""

    number: int


class Returned(msgspec.Struct, frozen=True):
    """The function has returned."""

    number: int
    result: Payload


class Raised(msgspec.Struct, frozen=True):
    """The function has raised."""

    number: int
    failure: Failure


class Stopped(msgspec.Struct, frozen=True):
    """The function has ended as it was asked to."""

    number: int


class UnfitArguments(msgspec.Struct, frozen=True):
    """The function was not called: the arguments do not fit it."""

    number: int
    problem: Failure


class UnfitResult(msgspec.Struct, frozen=True):
    """The function has returned what cannot be recorded; `kept` is what it was."""

    number: int
    problem: Failure
    kept: Payload | None


class Said(msgspec.Struct, frozen=True):
    """Something was logged."""

    number: int
    record: logging.LogRecord


class Measured(msgspec.Struct, frozen=True):
    """Something was measured."""

    number: int
    measurement: Measurement


class Beat(msgspec.Struct, frozen=True):
    """The attempt goes on, and has said how far it has come."""

    number: int
    details: Payloads


Outcome: TypeAlias = (
    NotBegun | Returned | Raised | Stopped | UnfitArguments | UnfitResult
)
"""How an attempt has ended, told once."""


def pack(message: object) -> bytes:
    """A message as it travels."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


class Unpacker:
    """Takes bytes as they come, and gives messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        """Give each message that is complete now."""
        buffer = self._buffer
        buffer += data
        begin = 0
        while len(buffer) - begin >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, begin)
            end = begin + _LENGTH.size + length
            if len(buffer) < end:
                break
            with memoryview(buffer) as view:
                message = pickle.loads(view[begin + _LENGTH.size : end])  # noqa: S301 - of this process's own children, and parent
            begin = end
            yield message
        del buffer[:begin]
