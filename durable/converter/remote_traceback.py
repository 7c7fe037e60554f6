"""The tracebacks of recorded failures, shown with the exceptions made from them.

Frames cannot travel, so they are shown as text: as the cause at the end of the chain,
which Python, pytest and every logger print. Recording leaves it out again.
"""

from __future__ import annotations

from typing import Final

from durable.core.history.payload import Failure, innermost

MARK: Final = "__durable_failure__"
"""Where an exception that was made from a failure keeps it."""

_JOINT: Final = (
    "\nThe above exception was the direct cause of the following exception:\n\n"
)


class RemoteTraceback(Exception):
    """Where an exception was raised, in another task, thread or process."""

    def __str__(self) -> str:
        """The frames, as text."""
        return f'\n"""\n{self.args[0]}"""'


def recorded_in(error: BaseException) -> Failure | None:
    """The failure that an exception was made from, if it was."""
    try:
        found = vars(error).get(MARK)
    except Exception:  # noqa: BLE001 - a class may hide its __dict__
        return None
    return found if isinstance(found, Failure) else None


def without_remote(cause: BaseException | None) -> BaseException | None:
    """A cause that code gave; None for one that only shows a traceback."""
    return None if isinstance(cause, RemoteTraceback) else cause


def show_remote(error: BaseException) -> BaseException:
    """Let the recorded tracebacks of an exception, its causes and members be shown."""
    texts: list[str] = []
    shown: BaseException = error
    while True:
        failure, cause = recorded_in(shown), shown.__cause__
        if isinstance(cause, RemoteTraceback):
            return error
        for member in _members(shown):
            show_remote(member)
        if failure is not None:
            raised = innermost(failure)
            is_said_below = cause is not None and recorded_in(cause) is raised
            if raised.stack_trace and not is_said_below:
                texts.append(_text(raised))
        if cause is None:
            break
        shown = cause
    if texts:
        # Not by assignment, which a frozen dataclass refuses.
        remote = RemoteTraceback(_JOINT.join(reversed(texts)))
        object.__setattr__(shown, "__cause__", remote)
    return error


def _members(error: BaseException) -> tuple[BaseException, ...]:
    is_group = isinstance(error, BaseExceptionGroup)
    members: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    return members if is_group else ()


def _text(failure: Failure) -> str:
    what = f"{failure.type}: {failure.message}" if failure.message else failure.type
    return f"Traceback (most recent call last):\n{failure.stack_trace}{what}\n"
