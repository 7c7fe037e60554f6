"""Exit codes, and errors as text and JSON."""

import inspect
import json
from typing import Any

import click
import pytest

from durable import errors
from durable.cli.logs import TextFormatter
from durable.cli.reporting import ExitCode, Interrupted, exit_code_of, mask, report
from durable.errors import DurableError
from durable.telemetry import JsonFormatter

IDS = {"workflow_id": "a", "run_id": "b"}
SPECIAL: dict[type[DurableError], dict[str, Any]] = {
    errors.ActivityError: {"activity_type": "a", "activity_id": "1"},
    errors.ActivityTimeoutError: {"activity_type": "a", "activity_id": "1"},
    errors.OutcomeUnknown: {"activity_type": "a", "activity_id": "1"},
    errors.RemoteError: {"type": "X"},
    errors.ChildWorkflowError: {"workflow_type": "w", **IDS},
    errors.OutboxRefusedError: {"sequence": 1},
    errors.IllegalTransition: {"state": "paid", "event": "pay"},
}
CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, DurableError)
]


def make(cls: type[DurableError]) -> DurableError:
    arguments = SPECIAL.get(cls, {})
    if not arguments and "workflow_id" in inspect.signature(cls.__init__).parameters:
        arguments = IDS
    return cls("what happened", **arguments)


EXPECTED: list[tuple[type[DurableError], ExitCode]] = [
    (errors.WorkflowNotFoundError, ExitCode.NOT_FOUND),
    (errors.WorkflowAlreadyStartedError, ExitCode.CONFLICT),
    (errors.WorkflowClosedError, ExitCode.CONFLICT),
    (errors.WorkflowFailedError, ExitCode.WORKFLOW_FAILED),
    (errors.WorkflowCancelledError, ExitCode.WORKFLOW_FAILED),
    (errors.WorkflowTerminatedError, ExitCode.WORKFLOW_FAILED),
    (errors.WorkflowTimedOutError, ExitCode.WORKFLOW_FAILED),
    (errors.WorkflowStuckError, ExitCode.ERROR),
    (errors.QueryFailedError, ExitCode.WORKFLOW_FAILED),
    (errors.UpdateFailedError, ExitCode.WORKFLOW_FAILED),
    (errors.UpdateRejectedError, ExitCode.WORKFLOW_FAILED),
    (errors.ResultTimeoutError, ExitCode.TIMED_OUT),
    (errors.NoAnswerError, ExitCode.TIMED_OUT),
    (errors.DatabaseUnavailableError, ExitCode.DATABASE),
    (errors.SchemaRevisionError, ExitCode.DATABASE),
    (errors.NotADatabaseError, ExitCode.DATABASE),
    (errors.CorruptHistoryError, ExitCode.ERROR),
    (errors.NondeterminismError, ExitCode.NONDETERMINISM),
    (errors.InvalidIdError, ExitCode.USAGE),
    (errors.InternalError, ExitCode.ERROR),
]


@pytest.mark.parametrize(("cls", "code"), EXPECTED, ids=lambda value: str(value))
def test_each_error_has_its_exit_code(cls: type[DurableError], code: ExitCode) -> None:
    assert exit_code_of(make(cls)) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (Interrupted(15), 143),
        (ValueError("x"), 1),
    ],
    ids=repr,
)
def test_other_endings_have_theirs(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_prints_message_hint_and_code(
    cls: type[DurableError], capsys: pytest.CaptureFixture[str]
) -> None:
    error = make(cls)
    error.hint = "do this"

    report(error, is_json=False)

    assert capsys.readouterr() == (
        "",
        f"error: what happened\nhint: do this\ncode: {cls.code}\n",
    )


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_as_json_is_one_object(
    cls: type[DurableError], capsys: pytest.CaptureFixture[str]
) -> None:
    error = make(cls)

    report(error, is_json=True)

    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err) == {
        "error": {"code": cls.code, "message": "what happened", "hint": error.hint}
    }


def test_unforeseen_error_is_no_traceback_but_in_debug_mode(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DURABLE_DEBUG", raising=False)
    assert report(ZeroDivisionError("oops"), is_json=False) == 1
    err = capsys.readouterr().err
    assert "error: ZeroDivisionError: oops" in err
    assert "DURABLE_DEBUG=1" in err
    assert "Traceback" not in err

    monkeypatch.setenv("DURABLE_DEBUG", "1")
    try:
        raise ZeroDivisionError("oops")
    except ZeroDivisionError as error:
        report(error, is_json=False)
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_interrupt_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    for is_json in (False, True):
        assert report(KeyboardInterrupt(), is_json=is_json) == 130
    assert capsys.readouterr() == ("", "")


def test_message_with_control_characters_stays_on_its_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report(DurableError("a\x1b[2J\nerror: forged\r"), is_json=False)

    lines = capsys.readouterr().err.splitlines()
    assert lines == [r"error: a\x1b[2J", r"error: forged\r", "code: durable_error"]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://u:secret@h/db", "postgresql://u:***@h/db"),
        ("at 'x://u:p@ss@h' and y://v:w@z", "at 'x://u:***@h' and y://v:***@z"),
        ("sqlite:///orders.db", "sqlite:///orders.db"),
        ("x://h/d?sslpassword=a&b=1", "x://h/d?sslpassword=***&b=1"),
        ("host=h Pwd=a;b", "host=h Pwd=***;b"),
        ("see https://example.com/a:b", "see https://example.com/a:b"),
        ("the hidden word", "the *** word"),
    ],
)
def test_passwords_are_masked(text: str, masked: str) -> None:
    assert mask(text, ["hidden"]) == masked


def test_log_entries_are_one_line_each_whatever_they_hold() -> None:
    import logging

    record = logging.LogRecord(
        "app", logging.INFO, "f.py", 1, "run %s", ("a\n2026 forged\x1b[0m",), None
    )
    record.created = 0.0

    text = TextFormatter().format(record)
    entry = json.loads(JsonFormatter().format(record))

    assert text == r"1970-01-01T00:00:00.000Z info app: run a\n2026 forged\x1b[0m"
    assert entry == {
        "time": "1970-01-01T00:00:00.000Z",
        "level": "info",
        "logger": "app",
        "message": "run a\n2026 forged\x1b[0m",
    }


def test_tracebacks_in_the_log_are_indented_below_their_entry() -> None:
    import logging
    import sys

    try:
        raise ValueError("a\nb\x1b")
    except ValueError:
        record = logging.LogRecord(
            "app", logging.ERROR, "f.py", 1, "failed", (), sys.exc_info()
        )

    first, *rest = TextFormatter().format(record).split("\n")

    assert first.endswith(" error app: failed")
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == r"    b\x1b"
    assert "Traceback" in json.loads(JsonFormatter().format(record))["traceback"]
