"""`durable queue`: list, show, set, pause, resume and delete them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import click

from durable.cli.connection import open_client
from durable.cli.output import note as tell_note
from durable.cli.output import write_json, write_line
from durable.cli.parameters import standard_options
from durable.cli.session import Session, pass_session
from durable.client.queues.queues import QueueDescription, Queues, parse_rate
from durable.telling.escaping import escape

T = TypeVar("T")
_HEADINGS: Final = (
    *("QUEUE", "OF", "STATE", "RUNNING", "WAITING", "AT ONCE", "PER WORKER", "PER KEY"),
    *("RATE", "NOTE"),
)
_LIMITS: Final = ("concurrency", "worker_concurrency", "key_concurrency")

_name = click.argument("name")
_runs = click.option("--runs", is_flag=True, help="Of whole runs, not of activities.")
_note = click.option("--note", metavar="TEXT", help="What others are told of it.")


@click.group("queue")
def queue() -> None:
    """Say what of a task queue runs at once, how fast it begins, and pause it.

    It counts for all workers, while they run.
    """


@queue.command("list")
@standard_options
@pass_session
def list_queues(session: Session, /) -> None:
    """List the queues that somebody has configured."""
    found = sorted(_ask(session, _list_all), key=lambda one: (one.name, one.of_runs))
    if session.is_json:
        for one in found:
            write_json(one.to_dict())
    elif found:
        _write(found)
    else:
        tell_note("no queue has limits")


@queue.command("show")
@_name
@_runs
@standard_options
@pass_session
def show(session: Session, /, *, name: str, runs: bool) -> None:
    """Show one, with what waits in it and runs."""
    _show(session, _ask(session, lambda of: of.get(name), of_runs=runs))


@queue.command("set")
@_name
@_runs
@click.option("--concurrency", metavar="N", help="So many run at once; or none.")
@click.option("--worker-concurrency", metavar="N", help="On one worker; or none.")
@click.option("--key-concurrency", metavar="N", help="Of one key; or none.")
@click.option("--rate", metavar="N/TIME", help="So many begin: 100/s, 5/min; or none.")
@click.option("--burst", metavar="N", type=int, help="So many of them at one instant.")
@_note
@standard_options
@pass_session
def set_limits(
    session: Session, /, *, name: str, runs: bool, **given: str | None
) -> None:
    """Give a queue limits; what is left out stays, and "none" takes one away."""
    said = _settings(given)
    _show(session, _ask(session, lambda of: of.configure(name, **said), of_runs=runs))


@queue.command("pause")
@_name
@_runs
@_note
@standard_options
@pass_session
def pause(session: Session, /, *, name: str, runs: bool, note: str | None) -> None:
    """Let nothing of a queue begin any more; what runs goes on."""
    said: dict[str, Any] = {} if note is None else {"note": note}
    _show(session, _ask(session, lambda of: of.pause(name, **said), of_runs=runs))


@queue.command("resume")
@_name
@_runs
@standard_options
@pass_session
def resume(session: Session, /, *, name: str, runs: bool) -> None:
    """Let a paused queue go on."""
    _show(session, _ask(session, lambda of: of.resume(name), of_runs=runs))


@queue.command("delete")
@_name
@_runs
@standard_options
@pass_session
def delete(session: Session, /, *, name: str, runs: bool) -> None:
    """Take all limits of a queue away."""
    _ask(session, lambda of: of.delete(name), of_runs=runs)
    if session.is_json:
        write_json({"name": name, "deleted": True})
    else:
        write_line(f"queue {escape(name)} has no limits any more")


async def _list_all(queues: Queues) -> list[QueueDescription]:
    return [*await queues.list(), *await queues.runs.list()]


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {
        name: _number(name, given[name]) for name in _LIMITS if given[name] is not None
    }
    if given["note"] is not None:
        said["note"] = given["note"]
    rate, burst = given["rate"], given["burst"]
    if burst is not None and rate in (None, "none"):
        raise click.UsageError("--burst is of a rate: give --rate, too.")
    if rate == "none":
        said["rate"] = None
    elif rate is not None:
        said["rate"] = parse_rate(rate, burst)
    if not said:
        raise click.UsageError("Say what is to change, such as --concurrency 4.")
    return said


def _number(name: str, text: str) -> int | None:
    if text == "none":
        return None
    try:
        return int(text)
    except ValueError:
        option = name.replace("_", "-")
        raise click.BadParameter(
            f"{text!r} is no number, and not 'none'.", param_hint=f"--{option}"
        ) from None


def _ask(
    session: Session, ask: Callable[[Queues], Awaitable[T]], *, of_runs: bool = False
) -> T:
    async def answer() -> T:
        async with open_client(session) as (engine, _):
            return await ask(engine.queues.runs if of_runs else engine.queues)

    return asyncio.run(answer())


def _show(session: Session, found: QueueDescription) -> None:
    if session.is_json:
        write_json(found.to_dict())
    else:
        _write([found])


def _write(found: list[QueueDescription]) -> None:
    rows = [_HEADINGS, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (c.ljust(width) for c, width in zip(row, widths, strict=True))
        write_line("  ".join(cells).rstrip())


def _cells(one: QueueDescription) -> tuple[str, ...]:
    limits = (one.concurrency, one.worker_concurrency, one.key_concurrency, one.rate)
    burst = "" if one.rate is None or one.rate.burst is None else f" +{one.rate.burst}"
    shown = ["-" if limit is None else str(limit) for limit in limits]
    return (
        escape(one.name),
        "runs" if one.of_runs else "activities",
        "open" if one.paused_at is None else "paused",
        str(one.running),
        str(one.waiting),
        *shown[:3],
        shown[3] + burst,
        escape(one.note or ""),
    )
