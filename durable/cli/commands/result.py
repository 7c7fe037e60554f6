"""`durable result`."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Generator
from typing import Any

import click

from durable.cli.connection import ask_run
from durable.cli.output import ids_of, write_json, write_value
from durable.cli.parameters import (
    SPAN,
    run_id_option,
    standard_options,
    workflow_id_argument,
)
from durable.cli.session import Session, pass_session
from durable.client.handle import Handle
from durable.errors import ResultTimeoutError, WorkflowFailedError, WorkflowStuckError


@click.command("result")
@workflow_id_argument
@run_id_option
@click.option(
    "--timeout",
    type=SPAN,
    metavar="SPAN",
    help='How long to wait, such as "30s"; no end to it.',
)
@standard_options
@pass_session
def result(
    session: Session, /, *, workflow_id: str, run_id: str | None, timeout: str | None
) -> None:
    """Wait for a run to end and print its result, as JSON."""

    async def wait(run: Handle[Any]) -> Any:
        with pointing_to(workflow_id):
            return await run.result(timeout=timeout)

    write_result(session, *asyncio.run(ask_run(session, workflow_id, run_id, wait)))


@contextlib.contextmanager
def pointing_to(workflow_id: str) -> Generator[None]:
    """Let an error that says how a run went point to what tells more of it."""
    try:
        yield
    except (WorkflowFailedError, WorkflowStuckError, ResultTimeoutError) as error:
        more = f"'durable show {shlex.quote(workflow_id)}' tells what happened."
        error.hint = f"{error.hint} {more}" if error.hint else more
        raise


def write_result(session: Session, handle: Handle[Any], value: Any) -> None:
    """Print what a run returned."""
    if session.is_json:
        write_json({**ids_of(handle), "status": "completed", "result": value})
    else:
        write_value(value)
