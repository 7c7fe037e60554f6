"""Calls of the command line within the test's own process."""

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from durable.cli.main import cli
from tests.unit.cli import orders_app as app

APP = str(Path(app.__file__))


def invoke(*args: str, **options: Any) -> Result:
    done = CliRunner().invoke(cli, args, **options)
    assert "Traceback" not in done.output
    return done


def lines_of(done: Result) -> list[Any]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def error_of(done: Result) -> dict[str, Any]:
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    error: dict[str, Any] = json.loads(line)["error"]
    assert set(error) == {"code", "message", "hint"}
    return error
