"""`durable check`: the deploy gate. Open runs against the code that is to go out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from durable.cli.connection import open_client
from durable.cli.gate.causes import Cause, causes_of, count_of, explain
from durable.cli.gate.children import BATCH_EVENTS, Batch, replay_in_children
from durable.cli.gate.files import read_file
from durable.cli.gate.junit import junit_of
from durable.cli.gate.reading import list_all, read_histories
from durable.cli.gate.verdicts import FAILING, Replayed
from durable.cli.output import note, write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.errors import NondeterminismError
from durable.store.records import HistoryRow, RunFilter, RunStatus
from durable.worker.activities.processes.cores import usable_cores

_SECONDS: Final = 10.0


class _Wanted(NamedTuple):
    """What to check."""

    files: tuple[str, ...]
    workflow_type: str | None
    is_all: bool
    sample: int | None


@click.command("check")
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--file",
    "files",
    metavar="FILE",
    multiple=True,
    help="Check what `durable history ID --json --payloads` wrote, not the database;"
    " may be repeated.",
)
@click.option("--workflow", "workflow_type", metavar="NAME", help="Only its runs.")
@click.option("--all", "is_all", is_flag=True, help="Closed runs, too.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Check N runs of each workflow and shape of history, not each of them.",
)
@click.option(
    "--skip-unknown",
    is_flag=True,
    help="Let runs pass whose workflow is in none of the modules.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many to replay in; one for each core by default.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=_SECONDS,
    show_default=True,
    help="How long the code of one run may take.",
)
@click.option("--junit", metavar="FILE", help="Write what came of each run, as XML.")
@standard_options
@pass_session
def check(
    session: Session,
    /,
    *,
    modules: tuple[str, ...],
    files: tuple[str, ...],
    workflow_type: str | None,
    is_all: bool,
    sample: int | None,
    skip_unknown: bool,
    processes: int | None,
    seconds: float,
    junit: str | None,
) -> None:
    """Try all open runs against new code before it is deployed.

    Each is replayed in a child process, without any effect, as a worker would that has
    the new code. Of those that do not replay each distinct cause is told once: both
    lines, how many runs, and the patch to write. Ends with exit code 8 then.
    """
    wanted = _Wanted(files, workflow_type, is_all, sample)
    count = usable_cores() if processes is None else processes
    replayed = asyncio.run(_check(session, wanted, modules, count, seconds))
    if skip_unknown:
        failing: tuple[str, ...] = FAILING
    else:
        failing = (*FAILING, "skipped")
    causes = [c for c in causes_of(replayed) if c.first.verdict in failing]
    if junit is not None:
        _write(junit, junit_of(replayed))
    _tell(session, replayed, causes)


async def _check(
    session: Session,
    wanted: _Wanted,
    modules: tuple[str, ...],
    processes: int,
    seconds: float,
) -> list[Replayed]:
    found: list[Replayed] = []
    progress = _Progress()
    async for batch in replay_in_children(
        _batches(_histories(session, wanted, progress), wanted.sample),
        modules,
        processes=processes,
        seconds=seconds,
    ):
        found += batch
        progress.show(found)
    progress.end()
    return found


# --- which histories ------------------------------------------------------------------


async def _histories(
    session: Session, wanted: _Wanted, progress: _Progress
) -> AsyncIterator[tuple[list[HistoryRow], str | None]]:
    if wanted.files:
        progress.total = len(wanted.files)
        for path in wanted.files:
            yield read_file(path), None
        return
    where = RunFilter(
        status=None if wanted.is_all else RunStatus.RUNNING,
        workflow_type=wanted.workflow_type,
    )
    async with open_client(session) as (_, store):
        runs = await list_all(store, session.namespace, where)
        progress.total = len(runs)
        async for record, rows in read_histories(store, runs):
            yield rows, record.version


async def _batches(
    histories: AsyncIterator[tuple[list[HistoryRow], str | None]], sample: int | None
) -> AsyncIterator[Batch]:
    """Put histories together; of each shape no more than the sample."""
    batch: Batch = []
    events = 0
    seen: dict[int, int] = {}
    async for rows, version in histories:
        if sample is not None:
            shape = hash((version, _shape_of(rows)))
            seen[shape] = seen.get(shape, 0) + 1
            if seen[shape] > sample:
                continue
        batch.append((rows, version))
        events += len(rows)
        if events >= BATCH_EVENTS:
            yield batch
            batch, events = [], 0
    if batch:
        yield batch


def _shape_of(rows: Sequence[HistoryRow]) -> int:
    """What histories have in common that went one way through one workflow's code."""
    first = rows[0][5] if rows else ""
    _, _, rest = first.partition('"workflow_type":"')
    return hash((rest.partition('"')[0], tuple((row[2], row[3]) for row in rows)))


# --- what came of it ------------------------------------------------------------------


class _Progress:
    """A bar on a terminal, and nothing elsewhere."""

    def __init__(self) -> None:
        self.total = 0
        self._is_shown = sys.stderr.isatty()
        self._bar: Any = None
        self._done = 0

    def show(self, found: Sequence[Replayed]) -> None:
        if not self._is_shown:
            return
        if self._bar is None:
            self._bar = click.progressbar(
                length=self.total, label="Replaying", file=sys.stderr
            )
            self._bar.__enter__()
        self._bar.update(len(found) - self._done)
        self._done = len(found)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, "utf-8")
    except OSError as error:
        raise click.UsageError(f"{path!r} cannot be written: {error}.") from None


def _tell(
    session: Session, replayed: Sequence[Replayed], causes: Sequence[Cause]
) -> None:
    """Say how it went.

    Raises:
        NondeterminismError: something does not replay.
    """
    broken = sum(cause.runs for cause in causes)
    events = sum(each.event_count for each in replayed)
    if session.is_json:
        write_json(
            {
                "histories": len(replayed),
                "events": events,
                "broken": broken,
                "causes": causes,
            }
        )
    else:
        for number, cause in enumerate(causes, 1):
            for line in explain(number, cause):
                write_line(line)
    counted = f"{count_of(len(replayed), 'run')}, {count_of(events, 'event')}"
    if broken:
        told = count_of(len(causes), "cause")
        raise NondeterminismError(
            f"{broken:,} of {counted} cannot go on with this code, for {told}.",
            hint="Write the patches, restore the code, or let the old version finish.",
        )
    if not session.is_json:
        note(f"All go on with this code: {counted}.")
