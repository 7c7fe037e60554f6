"""`durable result`."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from durable.cli.connection import open_client
from durable.cli.output import write_json, write_value
from durable.cli.parameters import (
    run_id_option,
    standard_options,
    workflow_id_argument,
)
from durable.cli.session import Session, pass_session
from durable.client.handle import Handle


@click.command("result")
@workflow_id_argument
@run_id_option
@click.option(
    "--timeout", metavar="SPAN", help='How long to wait, such as "30s"; no end to it.'
)
@standard_options
@pass_session
def result(
    session: Session, /, *, workflow_id: str, run_id: str | None, timeout: str | None
) -> None:
    """Wait for a run to end and print its result, as JSON."""

    async def wait() -> tuple[Handle[Any], Any]:
        async with open_client(session) as (engine, _):
            handle = await engine.get(workflow_id, run_id=run_id)
            return handle, await handle.result(timeout=timeout)

    handle, value = asyncio.run(wait())
    write_result(session, handle, value)


def write_result(session: Session, handle: Handle[Any], value: Any) -> None:
    """Print what a run returned."""
    if session.is_json:
        write_json(
            {
                "workflow_id": handle.workflow_id,
                "run_id": handle.run_id,
                "status": "completed",
                "result": value,
            }
        )
    else:
        write_value(value)
