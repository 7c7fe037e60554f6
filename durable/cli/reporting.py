"""How a command ends: exit codes, and errors as text or JSON; never a traceback.

| code | meaning |
| --- | --- |
| 0 | done |
| 1 | error |
| 2 | wrong usage |
| 3 | not found |
| 4 | conflict: the id exists, or the run has closed already |
| 5 | the workflow failed, was cancelled or terminated, timed out, or would not answer |
| 6 | waiting took too long |
| 7 | the database cannot be used as it is |
| 8 | a history does not replay |
| 130, 143 | ended by SIGINT, SIGTERM |
"""

from __future__ import annotations

import enum
import os
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any, Final

import click

from durable import errors
from durable.cli.output import to_json
from durable.namesakes import explain
from durable.telling.escaping import escape_lines


class ExitCode(enum.IntEnum):
    """What a command's exit code says."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    WORKFLOW_FAILED = 5
    TIMED_OUT = 6
    DATABASE = 7
    NONDETERMINISM = 8
    INTERRUPTED = 130


# Whose message is the whole help; click 8.1 has no such class.
_NO_ARGS: Final[Any] = getattr(click.exceptions, "NoArgsIsHelpError", ())

_EXIT_CODES: Final[tuple[tuple[type[errors.DurableError], ExitCode], ...]] = (
    (errors.WorkflowNotFoundError, ExitCode.NOT_FOUND),
    (errors.ScheduleNotFoundError, ExitCode.NOT_FOUND),
    (errors.ActivityNotFoundError, ExitCode.NOT_FOUND),
    (errors.QueueNotFoundError, ExitCode.NOT_FOUND),
    (errors.AttemptOverError, ExitCode.CONFLICT),
    (errors.ScheduleExistsError, ExitCode.CONFLICT),
    (errors.ResetConflictError, ExitCode.CONFLICT),
    (errors.WorkflowAlreadyStartedError, ExitCode.CONFLICT),
    (errors.WorkflowClosedError, ExitCode.CONFLICT),
    (errors.RunNeededError, ExitCode.CONFLICT),
    (errors.RunExistsError, ExitCode.CONFLICT),
    (errors.WorkflowFailedError, ExitCode.WORKFLOW_FAILED),
    (errors.QueryFailedError, ExitCode.WORKFLOW_FAILED),
    (errors.UpdateFailedError, ExitCode.WORKFLOW_FAILED),
    (errors.ResultTimeoutError, ExitCode.TIMED_OUT),
    (errors.NoAnswerError, ExitCode.TIMED_OUT),
    (errors.DatabaseUnavailableError, ExitCode.DATABASE),
    (errors.DatabaseReadOnlyError, ExitCode.DATABASE),
    (errors.DatabaseFullError, ExitCode.DATABASE),
    (errors.NotADatabaseError, ExitCode.DATABASE),
    (errors.SchemaRevisionError, ExitCode.DATABASE),
    (errors.NondeterminismError, ExitCode.NONDETERMINISM),
    (errors.InvalidInputError, ExitCode.USAGE),
)


class Interrupted(Exception):
    """A signal asked the command to stop, and it has."""

    def __init__(self, signal_number: int) -> None:
        """Keep which signal it was."""
        super().__init__(signal_number)
        self.exit_code = 128 + signal_number


class UsersCodeError(errors.DurableError):
    """A module that the command was given cannot be imported."""

    code = "import_failed"


def exit_code_of(error: BaseException) -> int:
    """Which exit code an exception ends the command with."""
    if isinstance(error, Interrupted | click.ClickException):
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    for cls, code in _EXIT_CODES:
        if isinstance(error, cls):
            return code
    return ExitCode.ERROR


def report(error: BaseException, *, is_json: bool, secrets: Iterable[str] = ()) -> int:
    """Say on stderr what went wrong, and return the exit code."""
    code = exit_code_of(error)
    if os.environ.get("DURABLE_DEBUG", "") not in ("", "0"):
        traceback.print_exception(error)
    if isinstance(error, Interrupted | click.Abort | KeyboardInterrupt):
        return code
    if is_json:
        lines = [to_json({"error": describe(error)})]
    elif isinstance(error, click.ClickException):
        lines = escape_lines(_usage_of(error))
    else:
        lines = _lines_of(describe(error))
    for line in lines:
        click.echo(mask(line, secrets), err=True)
    return code


def describe(error: BaseException) -> dict[str, Any]:
    """An error as the keys that its JSON form has."""
    if isinstance(error, click.UsageError):
        hint = None
        if error.ctx is not None:
            hint = f"Try '{error.ctx.command_path} --help'."
        return {"code": "usage", "message": error.format_message(), "hint": hint}
    if isinstance(error, click.ClickException):
        return {"code": "error", "message": error.format_message(), "hint": None}
    if isinstance(error, errors.DurableError):
        return {
            "code": error.code,
            "message": _as_flags(error.message),
            "hint": None if error.hint is None else _as_flags(error.hint),
        }
    if isinstance(error, OSError):
        return {"code": "system_error", "message": f"{error}.", "hint": None}
    clash = explain(error)
    if clash is not None:
        return {"code": "package_clash", "message": clash, "hint": None}
    return {
        "code": errors.InternalError.code,
        "message": f"{type(error).__name__}: {error}",
        "hint": "Run it again with DURABLE_DEBUG=1 for the traceback, and report it.",
    }


def _as_flags(text: str) -> str:
    """Turn the options that Python code would pass into those of a command line."""
    return re.sub(
        r'\b(on_conflict|id_reuse)="(\w+)"',
        lambda found: f"--{found[1].replace('_', '-')} {found[2]}",
        text,
    )


def _usage_of(error: click.ClickException) -> str:
    """What click says of wrong usage: the right one, where to read on, the error."""
    message = error.format_message()
    if isinstance(error, _NO_ARGS):
        return message
    usage = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        path = error.ctx.command_path
        usage = f"{error.ctx.get_usage()}\nTry '{path} --help' for help.\n\n"
    return f"{usage}error: {message}"


def _lines_of(described: dict[str, Any]) -> list[str]:
    lines = escape_lines(f"error: {described['message']}".rstrip("\n"))
    if described["hint"]:
        lines += escape_lines(f"hint: {described['hint']}")
    return [*lines, f"code: {described['code']}"]


_NAMED_SECRET: Final = re.compile(
    r"\b(\w*(?:passw\w*|passphrase|pwd|secret|token)\w*=)[^\s&;'\"]+", re.IGNORECASE
)


def mask(text: str, secrets: Iterable[str] = ()) -> str:
    """Put three stars in place of passwords: those given, and that of every URL."""
    for secret in secrets:
        text = text.replace(secret, "***")
    # Up to the last @ of a word, because people write passwords unescaped.
    text = re.sub(r"(://[^\s/:@'\"]*):[^\s'\"]*@", r"\1:***@", text)
    return _NAMED_SECRET.sub(r"\1***", text)


def is_json_asked_for(args: list[str] | None) -> bool:
    """Whether errors are to be JSON, however wrong the rest of the line is."""
    return "--json" in (sys.argv[1:] if args is None else args)
