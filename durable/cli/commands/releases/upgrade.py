"""`durable upgrade`: moves open runs to another version, once that is proven to fit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import click

from durable.api.workflows.versions import Version, VersionRange
from durable.cli.connection import open_client
from durable.cli.gate.causes import causes_of, count_of, explain
from durable.cli.gate.children import BATCH_EVENTS, Batch, replay_in_children
from durable.cli.gate.reading import list_all, read_histories
from durable.cli.gate.verdicts import Replayed
from durable.cli.output import note, write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.client.descriptions.searching import read_condition
from durable.errors import NondeterminismError
from durable.options import check_id
from durable.search.conditions import matches
from durable.search.run_fields import reader_of
from durable.store.records import HistoryRow, RepairRun, RunFilter, RunRecord, RunStatus
from durable.store.store import Store
from durable.worker.activities.processes.cores import usable_cores


@click.command("upgrade")
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option("--workflow", "name", metavar="NAME", required=True, help="Whose runs.")
@click.option("--to", "version", metavar="VERSION", required=True, help="Where to.")
@click.option(
    "--from",
    "versions",
    metavar="RANGE",
    default="*",
    show_default=True,
    help='Only runs of these versions, such as ">=1.2,<2".',
)
@click.option("--id", "workflow_id", metavar="ID", help="Only the run of that id.")
@click.option(
    "--where",
    "--query",
    "query",
    metavar="QUERY",
    help="Only runs that a query holds for, as durable list takes it.",
)
@click.option("--yes", is_flag=True, help="Move them; without it nothing is changed.")
@click.option(
    "--seconds", type=float, default=10.0, help="How long the code of one run may take."
)
@standard_options
@pass_session
def upgrade(
    session: Session,
    /,
    *,
    modules: tuple[str, ...],
    name: str,
    version: str,
    versions: str,
    workflow_id: str | None,
    query: str | None,
    yes: bool,
    seconds: float,
) -> None:
    """Move open runs to another version of their workflow's code.

    Each is replayed on that code first, without any effect. Those that do not replay
    stay as they are, and why is told as `durable check` tells it; it ends with exit
    code 8 then. The others are moved if --yes is given: whichever worker has that
    version goes on with them.
    """
    Version(version, "--to")
    where = RunFilter(
        status=RunStatus.RUNNING,
        workflow_type=check_id(name, "--workflow"),
        workflow_id=None if workflow_id is None else check_id(workflow_id, "--id"),
    )
    chosen = VersionRange(versions, "--from")
    done = asyncio.run(
        _upgrade(
            session,
            modules,
            (where, chosen, query),
            version,
            is_real=yes,
            seconds=seconds,
        )
    )
    _tell(session, done, version, is_real=yes)


class _Done:
    """What came of it."""

    def __init__(self) -> None:
        self.replayed: list[Replayed] = []
        self.moved = 0
        self.went_on: list[str] = []


async def _upgrade(
    session: Session,
    modules: tuple[str, ...],
    which: tuple[RunFilter, VersionRange, str | None],
    version: str,
    *,
    is_real: bool,
    seconds: float,
) -> _Done:
    done = _Done()
    where, chosen, query = which
    async with open_client(session) as (_, store):
        condition = await read_condition(store, session.namespace, query)
        records = [
            record
            for record in await list_all(store, session.namespace, where)
            if record.version != version
            and (record.version or "") in chosen
            and (condition is None or matches(condition, reader_of(record)))
        ]
        positions: dict[str, tuple[int, ...]] = {}
        async for replayed in replay_in_children(
            _batches(store, records, version, positions),
            modules,
            processes=usable_cores(),
            seconds=seconds,
        ):
            done.replayed += replayed
            fitting = [one.run_id for one in replayed if one.verdict == "ok"]
            if is_real:
                await _move(store, fitting, version, positions, done)
    return done


async def _batches(
    store: Store,
    records: list[RunRecord],
    version: str,
    positions: dict[str, tuple[int, ...]],
) -> AsyncIterator[Batch]:
    batch: list[tuple[list[HistoryRow], str | None]] = []
    events = 0
    async for record, rows in read_histories(store, records):
        positions[record.run_id] = tuple(row[1] for row in rows)
        batch.append((rows, version))
        events += len(rows)
        if events >= BATCH_EVENTS:
            yield batch
            batch, events = [], 0
    if batch:
        yield batch


async def _move(
    store: Store,
    run_ids: list[str],
    version: str,
    positions: dict[str, tuple[int, ...]],
    done: _Done,
) -> None:
    """Move runs whose histories are still what was replayed."""
    for run_id in run_ids:
        known = positions[run_id]
        move = RepairRun(
            run_id=run_id, expected=known, keep=known[-1], rows=[], version=version
        )
        if await store.perform(move):
            done.moved += 1
        else:
            done.went_on.append(run_id)


def _tell(session: Session, done: _Done, version: str, *, is_real: bool) -> None:
    """Say how it went.

    Raises:
        NondeterminismError: some do not replay on the new code.
    """
    causes = causes_of(done.replayed)
    broken = sum(cause.runs for cause in causes)
    fitting = len(done.replayed) - broken
    if session.is_json:
        write_json(
            {
                "runs": len(done.replayed),
                "fit": fitting,
                "moved": done.moved,
                "went_on": done.went_on,
                "causes": causes,
            }
        )
    else:
        for number, cause in enumerate(causes, 1):
            for line in explain(number, cause):
                write_line(line)
        if not done.replayed:
            note("no open run is to be moved: 'durable versions' lists those there are")
        elif is_real:
            note(f"{count_of(done.moved, 'run')} moved to {version}")
        else:
            note(f"{count_of(fitting, 'run')} can move to {version}: add --yes")
        if done.went_on:
            note(
                f"{count_of(len(done.went_on), 'run')} went on meanwhile: run it again"
            )
    if broken:
        raise NondeterminismError(
            f"{count_of(broken, 'run')} of {len(done.replayed):,} cannot go on with"
            f" version {version}, and stay where they are.",
            hint="Write the patches, or let the old version finish them.",
        )
