"""`durable doctor`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from durable.cli.connection import open_client
from durable.cli.output import is_colored, note, write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.cli.timeline import COLORED, PLAIN
from durable.doctor.doctor import examine
from durable.doctor.findings import Finding, RunKey
from durable.doctor.repairs import MENDABLE, Repaired, mend
from durable.telling.escaping import escape
from durable.telling.pieces import Piece, Role


@click.command("doctor")
@click.option(
    "--fix",
    is_flag=True,
    help="Mend what can be mended without doing anything twice; say what was done.",
)
@standard_options
@click.pass_context
@pass_session
def doctor(session: Session, context: click.Context, /, *, fix: bool) -> None:
    """Check the database for faults, and what keeps runs from going on.

    All namespaces are looked at unless one is named. Every run's history is compared
    with its rows; what is wrong is read again after a moment, since workers may be at
    work. Nothing is written without --fix. Ends with exit code 1 if anything is wrong
    and was not mended; advice alone does not count.
    """
    found, mended = asyncio.run(_examine(session, fix))
    if not found and not session.is_json:
        note("nothing is wrong")
    left = (finding for finding in found if finding.run not in mended)
    if any(not finding.check.is_notice for finding in left):
        context.exit(1)


async def _examine(session: Session, fix: bool) -> tuple[list[Finding], set[RunKey]]:
    version = None
    if session.is_sqlite:
        import sqlite3

        version = sqlite3.sqlite_version_info
    found: list[Finding] = []
    async with open_client(session) as (_, store):
        findings = examine(
            store, namespace=session.chosen_namespace, sqlite_version=version
        )
        async for finding in findings:
            found.append(finding)
            _write(session, finding)
        suspects = (f.run for f in found if f.run is not None and f.check in MENDABLE)
        mended: set[RunKey] = set()
        for run in dict.fromkeys(suspects) if fix else ():
            repaired = await mend(store, run)
            _write_repaired(session, repaired)
            if repaired.is_mended:
                mended.add(run)
    return found, mended


def _write(session: Session, finding: Finding) -> None:
    check = finding.check
    role: Role = "warn" if check.is_notice else "bad"
    about = {"check": check.value, "is_notice": check.is_notice}
    _tell(session, about, finding.run, Piece(check.value, role), finding.message)


def _write_repaired(session: Session, repaired: Repaired) -> None:
    is_mended = repaired.is_mended
    word = Piece("mended", "good") if is_mended else Piece("not mended", "bad")
    about = {"check": "fix", "is_mended": is_mended}
    _tell(session, about, repaired.run, word, repaired.message)


def _tell(
    session: Session,
    about: dict[str, Any],
    run: RunKey | None,
    word: Piece,
    message: str,
) -> None:
    if session.is_json:
        ids = {
            "namespace": None if run is None else run.namespace,
            "workflow_id": None if run is None else run.workflow_id,
            "run_id": None if run is None else run.run_id,
        }
        write_json({**about, **ids, "message": message})
        return
    style = COLORED if is_colored(sys.stdout) else PLAIN
    name = style.paint(Piece(f"{word.text:<14}", word.role))
    place = "" if run is None else _place(run)
    write_line(f"{name}  {escape(place + message)}")


def _place(run: RunKey) -> str:
    within = "" if run.namespace == "default" else f" in namespace {run.namespace!r}"
    return f"{run.workflow_id} (run {run.run_id}{within}): "
