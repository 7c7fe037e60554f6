"""The states of a live run, and those of an attempt of an activity."""

from __future__ import annotations

import enum
from typing import Final


class State(enum.Enum):
    """Where a live run stands. It has at most one write of its own on its way."""

    __hash__ = object.__hash__  # that of enums is a step of Python

    CREATING = "creating"
    """Its first turn is driven, or its creation is being committed."""
    UNREAD = "unread"
    """Its history is being read."""
    REPLAYING = "replaying"
    """Its code is driven through what was read."""
    AT_REST = "at rest"
    """Nothing that it waits for is there; whatever comes drives its next turn."""
    DRIVING = "driving"
    """A turn is driven."""
    COMMITTING = "committing"
    """What a turn decided, or what is to be kept, is being committed."""
    PARKING = "parking"
    """It is being set aside as stuck."""
    GONE = "gone"
    """It has left memory; whoever has to do with it must ask the store."""


class Phase(enum.Enum):
    """Where an attempt of an activity stands."""

    RECORDING = "recording"
    """The row that must be there before its first line runs is being written."""
    RUNNING = "running"
    """It was handed to the pool, which runs it."""
    QUEUED = "queued"
    """The pool has no room for it yet; a row says that it has not begun."""
    BACKOFF = "backoff"
    """It waits for its time."""
    CANCELLING = "cancelling"
    """It runs, and was asked to stop."""
    HELD = "held"
    """Its outcome cannot be recorded, for a bug; it parks its run."""
    OVER = "over"
    """Its outcome is decided; whatever its function still does is not heard."""


# Reading a member of an enum costs a call on Python 3.11.
CREATING: Final = State.CREATING
UNREAD: Final = State.UNREAD
REPLAYING: Final = State.REPLAYING
AT_REST: Final = State.AT_REST
DRIVING: Final = State.DRIVING
COMMITTING: Final = State.COMMITTING
PARKING: Final = State.PARKING
GONE: Final = State.GONE

RECORDING: Final = Phase.RECORDING
RUNNING: Final = Phase.RUNNING
QUEUED: Final = Phase.QUEUED
BACKOFF: Final = Phase.BACKOFF
CANCELLING: Final = Phase.CANCELLING
HELD: Final = Phase.HELD
OVER: Final = Phase.OVER
