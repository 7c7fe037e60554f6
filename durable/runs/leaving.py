"""How a live run leaves memory, and what becomes of what still comes for it."""

from __future__ import annotations

from typing import Any

from durable.errors import LeaseLostError
from durable.runs import attempts, inputs, messages
from durable.runs.effects import CLOSED, Creation, Effects, Left, also
from durable.runs.live_run import LiveRun
from durable.runs.states import DRIVING, GONE
from durable.store.records import Started


def leave(run: LiveRun, left: Left, effects: Effects) -> None:
    """Take a run out of memory; whoever has to do with it must ask the store."""
    if run.state is DRIVING:
        run.incoming.take_back()  # no write will end that speaks of it
    run.state = GONE
    effects.left = left
    effects.drive = None
    messages.give_back(run, effects)
    is_closed = left is CLOSED or left is Left.CLOSED_ELSEWHERE
    attempts.forget(run, effects, is_closed=is_closed)
    run.incoming.is_reading = False


def parked(run: LiveRun, given: inputs.Settled, effects: Effects, now: int) -> None:
    """It is set aside."""
    leave(run, Left.PARKED, effects)


def not_parked(run: LiveRun, given: inputs.Refused, effects: Effects, now: int) -> None:
    """It is not; whoever is next finds it as it was."""
    effects.rare.refused = given.error
    is_lost = isinstance(given.error, LeaseLostError)
    leave(run, Left.LEASE_LOST if is_lost else Left.PARKED, effects)


def closed_elsewhere(
    run: LiveRun, given: inputs.ClosedElsewhere, effects: Effects, now: int
) -> None:
    """It was closed by a write that is not this worker's."""
    leave(run, Left.CLOSED_ELSEWHERE, effects)


def left(run: LiveRun, given: inputs.Leave, effects: Effects, now: int) -> None:
    """It has to."""
    leave(run, Left.DROPPED, effects)


# --- after that -----------------------------------------------------------------------


def ignored(run: LiveRun, given: Any, effects: Effects, now: int) -> None:
    """It was meant for a run that is gone."""


def told(run: LiveRun, given: inputs.Told, effects: Effects, now: int) -> None:
    """Who has a message for it must ask the store."""
    messages.refuse(given, effects)


def asked(run: LiveRun, given: inputs.Asked, effects: Effects, now: int) -> None:
    """Who wants to look at it must ask the store."""
    effects.rare.unanswered = [given.token]


def external(
    run: LiveRun, given: inputs.AttemptExternal, effects: Effects, now: int
) -> None:
    """It is nobody's to hand out any more."""
    effects.tell = also(effects.tell, (given.token, False))


def recorded(run: LiveRun, given: inputs.Recorded, effects: Effects, now: int) -> None:
    """What was written of an attempt is, or is not."""
    token = given.recording.token
    if token is not None:
        effects.tell = also(effects.tell, (token, given.error is None))


def settled(run: LiveRun, given: inputs.Settled, effects: Effects, now: int) -> None:
    """What it had written has taken place."""
    if run.creator is not None:
        assert isinstance(given.result, Started)  # noqa: S101 - of a start
        effects.creation = Creation(run.creator, given.result, has_ended=False)
        if given.result.created:
            if given.result.terminated_run_id is not None:
                effects.rare.closed = [given.result.terminated_run_id]
            if run.completion is not None and run.completion.is_closed:
                effects.rare.closed = [*effects.rare.closed, run.run_id]
        else:
            effects.rare.spread = given.result.committed
    messages.give_back_updates(run.incoming.in_commit, effects)


def refused(run: LiveRun, given: inputs.Refused, effects: Effects, now: int) -> None:
    """What it had written has not."""
    if run.creator is not None:
        effects.creation = Creation(run.creator, given.error, has_ended=False)
    messages.give_back_updates(run.incoming.in_commit, effects)
