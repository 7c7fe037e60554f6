"""Whether runs and attempts go only where the tables of the machine say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from durable.runs.effects import Effects
from durable.runs.live_run import Attempt, LiveRun
from durable.runs.states import Phase
from durable.runs.transitions import (
    CANCELLED,
    COMES_DUE,
    FORGOTTEN,
    PHASES,
    TRANSITIONS,
    WRITTEN,
)

Handle: TypeAlias = Callable[[LiveRun, Any, int], Effects]

violations: Final[list[str]] = []
"""What this process has seen since a test has ended; any thread may add to it."""


def checked(handle: Handle) -> Handle:
    """The same, which raises if a step is not in the tables."""

    def handle_and_check(run: LiveRun, given: Any, now: int) -> Effects:
        state = run.state
        kind: type[Any] = type(given)
        there = TRANSITIONS[state].get(kind)
        named = _attempt_of(given)
        others: list[tuple[Attempt, Phase]] = []
        if named is not None:
            others = [(named, named.phase)]
        for attempt in (*run.attempts.values(), *run.backoffs.values()):
            if attempt is not named:
                others.append((attempt, attempt.phase))
        effects = handle(run, given, now)
        if there is not None and run.state not in there:
            _violated(f"{kind.__name__} led a run from {state} to {run.state}")
        for attempt, phase in others:
            is_named = attempt is named
            if not is_named and attempt.phase is phase:
                continue
            if attempt.phase not in _phases(phase, kind if is_named else None):
                _violated(
                    f"{kind.__name__} led {'its' if is_named else 'another'} attempt"
                    f" from {phase} to {attempt.phase}"
                )
        return effects

    return handle_and_check


def _attempt_of(given: Any) -> Attempt | None:
    recording = getattr(given, "recording", None)
    attempt: Attempt | None = getattr(recording or given, "attempt", None)
    return attempt


def _phases(phase: Phase, kind: type[Any] | None) -> set[Phase]:
    """Where an input may lead the attempt that it names, or its run any other."""
    table = PHASES[phase]
    if kind is not None:
        return table.get(kind, set())
    rules = (CANCELLED, COMES_DUE, FORGOTTEN, WRITTEN)
    by_run = (table.get(rule, set()) for rule in rules)
    return set[Phase]().union(*by_run)


def _violated(text: str) -> None:
    text += ", which its table does not have."
    violations.append(text)
    raise AssertionError(text)
