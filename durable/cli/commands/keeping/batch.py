"""`durable batch`: one action on all runs that a filter holds for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import click
import msgspec

from durable.batches.batches import RATE, Batch, BatchDescription, BatchHandle
from durable.cli.commands.mending.resets import REAPPLY, TO, place_of
from durable.cli.connection import open_client, require_database
from durable.cli.output import note, tell, width_of, write_json, write_line
from durable.cli.parameters import Word, standard_options
from durable.cli.session import Session, pass_session
from durable.cli.signals import run_interruptible
from durable.cli.user_code.loading import read_arguments
from durable.client.resets.planning import Reapply
from durable.engine import Engine
from durable.store.connect import connect
from durable.store.queries import ListWorkers
from durable.store.records import PAUSED, STUCK, RunStatus
from durable.telling.escaping import escape

F = TypeVar("F", bound=Callable[..., Any])
_Begin = Callable[[Batch], Awaitable[BatchHandle]]
_LOOK_SECONDS: Final = 0.1
_BAR: Final = 30
_QUEUE: Final = "default"  # of an engine that names none


def _filters(command: F) -> F:
    """Add the filters of `durable list`, and what batches have in common."""
    options = [
        click.option("--where", metavar="QUERY", help="Runs that a query holds for."),
        click.option(
            "--status",
            type=Word([*(status.value for status in RunStatus), STUCK, PAUSED]),
            help="Runs of this status.",
        ),
        click.option(
            "--type", "workflow_type", metavar="NAME", help="Runs of a workflow."
        ),
        click.option(
            "--id", "workflow_id", metavar="ID", help="Runs of a workflow id."
        ),
        click.option("--stuck/--not-stuck", default=None, help="Parked runs, or none."),
        click.option(
            "--before",
            "started_before",
            type=click.DateTime(
                ["%Y-%m-%dT%H:%M:%S.%fZ", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"]
            ),
            metavar="INSTANT",
            help="Runs that started before.",
        ),
        click.option("--all", "all_runs", is_flag=True, help="All runs."),
        click.option(
            "--rate",
            type=click.FloatRange(min=0, min_open=True),
            default=RATE,
            show_default=True,
            metavar="N",
            help="Runs a second at most.",
        ),
        click.option("--no-rate", is_flag=True, help="As many a second as it can."),
        click.option("--dry-run", is_flag=True, help="Count the runs, do nothing."),
        click.option(
            "--batch-id",
            metavar="ID",
            help="The batch's own id: given again, it is it.",
        ),
        click.option(
            "--detach", is_flag=True, help="Begin it, and leave it to workers."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.group("batch")
def batch() -> None:
    """Signal, cancel, end, delete, pause or mend all runs that a filter holds for.

    Filters are those of `durable list`. A batch is durable: it goes on after a crash,
    and does nothing twice. `durable batch show ID` tells how far it is.
    """


@batch.command("signal")
@click.argument("name", metavar="NAME")
@click.argument("values", metavar="[JSON]...", nargs=-1)
@_filters
@standard_options
@pass_session
def signal(
    session: Session, /, *, name: str, values: tuple[str, ...], **given: Any
) -> None:
    """Send a signal to all open runs of the filter."""
    raw = read_arguments(values, None).positional
    arguments = [msgspec.json.decode(value) for value in raw]
    _run(
        session,
        given,
        lambda chosen, how: chosen.signal(name, *arguments, **how),
    )


@batch.command("cancel")
@click.option("--reason", default="", metavar="TEXT", help="Why; the runs are told.")
@_filters
@standard_options
@pass_session
def cancel(session: Session, /, *, reason: str, **given: Any) -> None:
    """Ask all open runs of the filter to stop; they may clean up."""
    _run(session, given, lambda chosen, how: chosen.cancel(reason, **how))


@batch.command("terminate")
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who look.")
@_filters
@standard_options
@pass_session
def terminate(session: Session, /, *, reason: str, **given: Any) -> None:
    """End all open runs of the filter at once."""
    _run(session, given, lambda chosen, how: chosen.terminate(reason, **how))


@batch.command("delete")
@click.option("--terminate", is_flag=True, help="End those first that are open.")
@_filters
@standard_options
@pass_session
def delete(session: Session, /, *, terminate: bool, **given: Any) -> None:
    """Delete the closed runs of the filter for good; what is needed is skipped."""
    _run(
        session,
        given,
        lambda chosen, how: chosen.delete(terminate=terminate, **how),
        only_open=False,
    )


@batch.command("pause")
@click.option("--note", default="", metavar="TEXT", help="Why, for those who look.")
@_filters
@standard_options
@pass_session
def pause(session: Session, /, *, note: str, **given: Any) -> None:
    """Let nothing of the open runs of the filter begin any more."""
    _run(session, given, lambda chosen, how: chosen.pause(note=note, **how))


@batch.command("resume")
@click.option("--note", default="", metavar="TEXT", help="Why, for those who look.")
@_filters
@standard_options
@pass_session
def resume(session: Session, /, *, note: str, **given: Any) -> None:
    """Let the paused runs of the filter go on."""
    _run(session, given, lambda chosen, how: chosen.resume(note=note, **how))


@batch.command("reset")
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who look.")
@TO
@click.option(
    "--before-step",
    "step",
    metavar="NAME",
    help="Go on from before this activity or child workflow was first asked for.",
)
@REAPPLY
@_filters
@standard_options
@pass_session
def reset(
    session: Session,
    /,
    *,
    reason: str,
    to: str | None,
    step: str | None,
    reapply: Reapply,
    **given: Any,
) -> None:
    """Let the newest run of each id of the filter go on from an earlier place."""
    place = place_of(to, step)
    _run(
        session,
        given,
        lambda chosen, how: chosen.reset(
            to=place, reason=reason, reapply=reapply, **how
        ),
        only_open=False,
    )


@batch.command("retry")
@click.option("--reason", default="", metavar="TEXT", help="Why, for those who look.")
@_filters
@standard_options
@pass_session
def retry(session: Session, /, *, reason: str, **given: Any) -> None:
    """Let the failed runs of the filter go on from before what failed."""
    _run(
        session,
        given,
        lambda chosen, how: chosen.retry(reason=reason, **how),
        only_open=False,
    )


@batch.command("show")
@click.argument("batch_id", metavar="ID")
@standard_options
@pass_session
def show(session: Session, /, *, batch_id: str) -> None:
    """Tell how far a batch is, and what it did."""

    async def read() -> BatchDescription:
        async with open_client(session) as (engine, _):
            return await engine.get_batch(batch_id).describe()

    _tell(session, asyncio.run(read()))


def _run(
    session: Session,
    given: dict[str, Any],
    begin: Callable[[Batch, dict[str, Any]], Awaitable[BatchHandle]],
    *,
    only_open: bool = True,
) -> None:
    """Begin a batch, and follow it to its end."""
    rate = None if given.pop("no_rate") else given.pop("rate")
    how = {"rate": rate, "id": given.pop("batch_id")}
    given.pop("rate", None)
    is_dry, is_detached = given.pop("dry_run"), given.pop("detach")
    before: datetime | None = given["started_before"]
    if before is not None:
        given["started_before"] = before.replace(tzinfo=UTC)

    # A blank text is most likely one that a script has failed to fill in.
    is_narrow = any(
        given[name] is not None and str(given[name]).strip()
        for name in given
        if name != "all_runs"
    )
    if is_narrow is given["all_runs"]:
        raise click.UsageError("Give a filter, such as --type NAME, or else --all.")

    async def work() -> None:
        async with _open(session, is_detached=is_dry or is_detached) as engine:
            chosen = engine.batch(**given)
            if is_dry:
                counts = await chosen.count(only_open=only_open)
                least = "" if counts.is_complete else "at least "
                runs = "run" if counts.total == 1 else "runs"
                data = {"total": counts.total, "is_complete": counts.is_complete}
                tell(session, data, f"{least}{counts.total:,} {runs}")
                return
            handle = await begin(chosen, how)
            if not is_detached:
                await _follow(session, handle)
            _tell(session, await handle.describe())

    run_interruptible(work())


@asynccontextmanager
async def _open(session: Session, *, is_detached: bool) -> AsyncGenerator[Engine]:
    """Open a client; where no worker is, one that runs the batch itself."""
    if is_detached:
        async with open_client(session) as (engine, _):
            yield engine
        return
    async with open_client(session) as (engine, store):
        now = store.now()
        has_worker = any(
            (worker.namespace, worker.task_queue) == (session.namespace, _QUEUE)
            and worker.lease_expires_at > now
            for worker in await store.read(ListWorkers())
        )
        if has_worker:
            yield engine
            return
    require_database(session)
    store = connect(session.database_url, migrate=False)
    async with Engine(
        store, definitions=[], namespace=session.namespace, blocked_after=None
    ) as engine:
        yield engine


async def _follow(session: Session, handle: BatchHandle) -> None:
    """Wait until it is through; on a terminal, show how far it is."""
    width = None if session.is_json else width_of(sys.stderr)
    waiting = asyncio.ensure_future(handle.result())
    try:
        while not waiting.done():
            if width is not None:
                _draw(await handle.describe(), width - 1)
            await asyncio.wait([waiting], timeout=_LOOK_SECONDS)
    finally:
        waiting.cancel()
        if width is not None:
            click.echo(f"\r{'':<{width - 1}}\r", err=True, nl=False)
    await waiting


def _draw(found: BatchDescription, width: int) -> None:
    seen = found.done + sum(found.skipped.values()) + sum(found.failed.values())
    share = min(1.0, seen / found.total) if found.total else 0.0
    full = round(share * _BAR)
    text = f"[{'#' * full}{'.' * (_BAR - full)}] {seen:,} of {found.total or 0:,}"
    click.echo(f"\r{text[:width]:<{width}}", err=True, nl=False)


def _tell(session: Session, found: BatchDescription) -> None:
    if session.is_json:
        write_json(found.to_dict())
        return
    of = "" if found.total is None else f" of {found.total:,}"
    words = [f"{found.done:,}{of} done"]
    words += [f"{count:,} skipped ({why})" for why, count in found.skipped.items()]
    words += [f"{count:,} failed ({code})" for code, count in found.failed.items()]
    state = "" if found.status == RunStatus.COMPLETED else f" {found.status.value}"
    action = f" {found.action}" if found.action else ""
    write_line(f"batch {escape(found.id)}:{action}{state}: {', '.join(words)}")
    for workflow_id, run_id, code in found.failures:
        write_line(f"  {escape(workflow_id)} (run {escape(run_id)}): {code}")
    if len(found.failures) < sum(found.failed.values()):
        note("see `durable list` with the same filter for the others that failed")
