"""What may be given to a run in each state, and where that leads; attempts likewise.

`durable.runs.machine` takes nothing that `TRANSITIONS` does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from durable.runs import inputs
from durable.runs.states import (
    AT_REST,
    BACKOFF,
    CANCELLING,
    COMMITTING,
    CREATING,
    DRIVING,
    GONE,
    HELD,
    OVER,
    PARKING,
    QUEUED,
    RECORDING,
    REPLAYING,
    RUNNING,
    UNREAD,
    Phase,
    State,
)

_Inputs: TypeAlias = tuple[type[Any], ...]

# --- groups of inputs that lead to the same -------------------------------------------

_MESSAGES: Final[_Inputs] = (
    inputs.Told,
    inputs.ChildEnded,
    inputs.MailCame,
    inputs.MailRead,
    inputs.MailFound,
    inputs.Asked,
)
_READ_ANEW: Final[_Inputs] = (inputs.Harmed, inputs.Claimed)
_OUTCOMES: Final[_Inputs] = (
    inputs.AttemptCompleted,
    inputs.AttemptFailed,
    inputs.AttemptStopped,
    inputs.AttemptNotBegun,
    inputs.AttemptLost,
    inputs.AttemptExternal,
    inputs.AttemptMended,
)
_CHANGES_OF_ATTEMPTS: Final[_Inputs] = (
    inputs.AttemptUnrecorded,
    inputs.AttemptDoubtful,
    inputs.AttemptBeat,
    inputs.AttemptQueued,
    inputs.AttemptUnknown,
    inputs.AttemptReady,
    inputs.AttemptLeft,
    inputs.AttemptUnheard,
    inputs.AttemptRepeated,
    inputs.HoldAgain,
)
_OF_WHAT_BEGAN: Final[_Inputs] = (
    *_OUTCOMES,
    *_CHANGES_OF_ATTEMPTS,
    inputs.AttemptStillUnrecorded,
    inputs.Recorded,
    inputs.ChildAnswered,
    inputs.Delivered,
)
_LEAVES: Final[_Inputs] = (inputs.ClosedElsewhere, inputs.Leave)


def _lead(kinds: Iterable[type[Any]], *there: State) -> dict[type[Any], set[State]]:
    return {kind: set(there) for kind in kinds}


def _wait(state: State) -> dict[type[Any], set[State]]:
    """What comes while a run is busy waits; only its end does not."""
    return {
        **_lead((*_MESSAGES, *_READ_ANEW, *_OF_WHAT_BEGAN, inputs.Due), state),
        **_lead((inputs.Recorded,), state, GONE),  # its lease may be lost
        **_lead(_LEAVES, GONE),
    }


# --- a run ----------------------------------------------------------------------------

_NEXT: Final = (AT_REST, DRIVING, COMMITTING, PARKING, UNREAD)

TRANSITIONS: Final[dict[State, dict[type[Any], set[State]]]] = {
    CREATING: {
        **_lead((*_MESSAGES, *_READ_ANEW, inputs.Due), CREATING),
        **_lead(_LEAVES, GONE),
        inputs.Driven: {CREATING},
        inputs.Settled: {*_NEXT, GONE},
        inputs.Refused: {GONE},
    },
    UNREAD: {**_wait(UNREAD), inputs.Loaded: {REPLAYING, PARKING, GONE}},
    REPLAYING: {**_wait(REPLAYING), inputs.Driven: {*_NEXT}},
    AT_REST: {
        inputs.MailCame: {AT_REST},
        # What calls for a row has local activities written that are not yet.
        **_lead(_CHANGES_OF_ATTEMPTS, AT_REST, COMMITTING),
        # Whatever comes drives what is due, and parks what waits for nothing else. A
        # worker that drains keeps what came for the next; what is at rest is given up.
        **_lead(
            (
                inputs.Told,
                inputs.Asked,
                inputs.Due,
                inputs.AttemptStillUnrecorded,
                *_OUTCOMES,
                inputs.Delivered,
            ),
            *(AT_REST, DRIVING, COMMITTING, PARKING),
        ),
        inputs.MailFound: {*_NEXT},
        inputs.ChildEnded: {DRIVING, COMMITTING},
        inputs.ChildAnswered: {*_NEXT},
        inputs.MailRead: {*_NEXT},
        inputs.Recorded: {*_NEXT, GONE},
        inputs.Harmed: {UNREAD},
        inputs.Claimed: {*_NEXT},
        **_lead(_LEAVES, GONE),
    },
    DRIVING: {
        **_wait(DRIVING),
        inputs.Harmed: {UNREAD},
        inputs.Driven: {*_NEXT},
    },
    COMMITTING: {
        **_wait(COMMITTING),
        inputs.Settled: {*_NEXT, GONE},
        inputs.Refused: {UNREAD, GONE},
    },
    PARKING: {
        **_wait(PARKING),
        **_lead((inputs.Settled, inputs.Refused), GONE),
    },
    GONE: _lead(
        (
            *_MESSAGES,
            *_READ_ANEW,
            *_OF_WHAT_BEGAN,
            inputs.Due,
            *_LEAVES,
            inputs.Driven,
            inputs.Settled,
            inputs.Refused,
            inputs.Loaded,
        ),
        GONE,
    ),
}

# --- an attempt -----------------------------------------------------------------------

# What its run does with it, whatever that was given.
CANCELLED: Final = "its run asks it to stop"
COMES_DUE: Final = "its time has come"
FORGOTTEN: Final = "its run leaves memory"
WRITTEN: Final = "its activity is written, a local one"

_WHATEVER_ENDS_IT: Final[_Inputs] = (
    inputs.AttemptCompleted,
    inputs.AttemptFailed,
    inputs.AttemptDoubtful,
    inputs.AttemptLost,
    inputs.AttemptUnheard,
)


def _end(
    *kinds: type[Any] | str, also: dict[type[Any] | str, set[Phase]]
) -> dict[type[Any] | str, set[Phase]]:
    return {**{kind: {OVER} for kind in kinds}, FORGOTTEN: {OVER}, **also}


PHASES: Final[dict[Phase, dict[type[Any] | str, set[Phase]]]] = {
    RECORDING: _end(
        inputs.AttemptFailed,
        CANCELLED,
        also={inputs.Recorded: {RUNNING, RECORDING, OVER}},
    ),
    RUNNING: _end(
        inputs.AttemptCompleted,
        inputs.AttemptLost,
        inputs.AttemptUnheard,
        also={
            # What calls for a row waits, should its activity not be written yet.
            inputs.AttemptFailed: {OVER, RUNNING},
            inputs.AttemptDoubtful: {OVER, RUNNING},
            inputs.AttemptLeft: {OVER, RUNNING},
            inputs.AttemptNotBegun: {BACKOFF, RUNNING},
            inputs.AttemptUnrecorded: {HELD, RUNNING},
            inputs.AttemptBeat: {RUNNING},
            inputs.AttemptExternal: {OVER},
            inputs.AttemptQueued: {QUEUED, OVER, RUNNING},
            inputs.AttemptReady: {RUNNING},
            inputs.AttemptUnknown: {QUEUED, RUNNING},
            inputs.Recorded: {RUNNING, OVER},
            CANCELLED: {CANCELLING},
            WRITTEN: {RUNNING, QUEUED, RECORDING, BACKOFF, HELD, OVER},
        },
    ),
    QUEUED: _end(
        inputs.AttemptFailed,
        CANCELLED,
        also={
            inputs.AttemptQueued: {QUEUED, OVER},
            inputs.AttemptReady: {RUNNING, RECORDING},
            inputs.Recorded: {QUEUED, OVER},
        },
    ),
    BACKOFF: _end(
        CANCELLED,
        also={
            inputs.Recorded: {BACKOFF, OVER},
            COMES_DUE: {RECORDING, QUEUED, RUNNING, OVER},
        },
    ),
    CANCELLING: _end(
        *_WHATEVER_ENDS_IT,
        inputs.AttemptStopped,
        inputs.AttemptNotBegun,
        also={
            inputs.AttemptUnrecorded: {HELD},
            inputs.AttemptBeat: {CANCELLING},
            inputs.AttemptExternal: {CANCELLING},
            inputs.Recorded: {CANCELLING, OVER},
        },
    ),
    HELD: _end(
        inputs.AttemptMended,
        inputs.AttemptRepeated,
        CANCELLED,
        also={
            inputs.AttemptStillUnrecorded: {HELD},
            inputs.HoldAgain: {HELD},
            inputs.Recorded: {HELD, OVER},
        },
    ),
    OVER: _end(
        *_WHATEVER_ENDS_IT,
        inputs.AttemptStopped,
        inputs.AttemptNotBegun,
        inputs.AttemptUnrecorded,
        inputs.AttemptBeat,
        inputs.AttemptExternal,
        inputs.AttemptReady,
        inputs.AttemptLeft,
        inputs.AttemptMended,
        inputs.AttemptStillUnrecorded,
        inputs.AttemptRepeated,
        inputs.HoldAgain,
        inputs.Recorded,
        also={},
    ),
}
