"""`durable worker`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Final, TypeVar, cast

import click
import msgspec

from durable import limits
from durable.cli.health.report import Health, sum_up
from durable.cli.health.server import serve_health
from durable.cli.logs import logging_to_stderr
from durable.cli.output import users_code_prints_to_stderr
from durable.cli.parameters import (
    SPAN,
    database_options,
    interceptors_option,
    resources_option,
)
from durable.cli.processes.link import METRICS, WorkerEnd
from durable.cli.processes.serving import Serving
from durable.cli.processes.supervisor import Supervisor
from durable.cli.session import Session, pass_session
from durable.cli.signals import Stop, run_until_signal
from durable.cli.user_code.loading import (
    load_interceptors,
    load_modules,
    load_resources,
)
from durable.options import to_microseconds
from durable.worker.activities.held_resources import closing_seconds
from durable.worker.activities.processes.cores import usable_cores

F = TypeVar("F", bound=Callable[..., Any])

_log: Final = logging.getLogger("durable.cli")
# How long after --drain-timeout the process is ended by force.
_LEAVE_SECONDS: Final = 2.0
# And how much later what it keeps is, which ends by itself if it can.
_KILL_SECONDS: Final = 1.0


def _at_least_one(name: str, default: int, text: str, **how: Any) -> Callable[[F], F]:
    count = click.IntRange(min=1)
    return click.option(
        name, type=count, default=default, show_default=True, help=text, **how
    )


class _ProcessCount(click.IntRange):
    """A number of processes, or `auto` for as many as there are cores."""

    name = "processes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if value == "auto":
            return min(usable_cores(), limits.WORKER_PROCESSES_MAX)
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(
                f"{value!r} is neither 'auto' nor a number from 1 to {self.max}.",
                param,
                ctx,
            )


class _QueueSlots(click.ParamType[Any]):
    """A task queue and how many activities of it run at once, as `gpu=4`."""

    name = "queue"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int]:
        if isinstance(value, tuple):  # converted already
            return cast("tuple[str, int]", value)
        queue, _, slots = str(value).rpartition("=")
        if not (queue and slots.isdecimal() and int(slots)):
            self.fail(
                f"{value!r} names no queue and its places: write NAME=PLACES, such as"
                " gpu=4.",
                param,
                ctx,
            )
        return queue, int(slots)


@click.command("worker")
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--queue",
    "queues",
    metavar="NAME",
    multiple=True,
    default=("default",),
    show_default=True,
    envvar="DURABLE_QUEUES",
    show_envvar=True,
    help="The task queue to serve; may be given several times.",
)
@click.option(
    "--activity-queue",
    "activity_queues",
    metavar="NAME=PLACES",
    type=_QueueSlots(),
    multiple=True,
    envvar="DURABLE_ACTIVITY_QUEUES",
    show_envvar=True,
    help="Serve this task queue for activities alone, so many at once, such as gpu=4;"
    " may be given several times.",
)
@click.option(
    "--processes",
    type=_ProcessCount(min=1, max=limits.WORKER_PROCESSES_MAX),
    metavar="N|auto",
    default=None,
    envvar="DURABLE_PROCESSES",
    show_envvar=True,
    help="Keep so many processes alive; 'auto' is one for each usable core. The"
    " options below count for each of them.",
)
@_at_least_one(
    "--max-activities",
    limits.ACTIVITIES_MAX,
    "How many activities run at once.",
    envvar="DURABLE_MAX_ACTIVITIES",
    show_envvar=True,
)
@_at_least_one(
    "--max-activity-threads",
    limits.ACTIVITY_THREADS_MAX,
    "How many of them may be plain functions in threads.",
)
@click.option(
    "--max-activity-processes",
    type=click.IntRange(min=1),
    default=usable_cores,
    show_default="one for each usable core",
    help="How many may be plain functions in processes, which begin when needed.",
)
@_at_least_one(
    "--max-cached-runs", limits.CACHED_RUNS_MAX, "How many idle runs are kept live."
)
@click.option(
    "--drain-timeout",
    type=SPAN,
    metavar="SPAN",
    default="10s",
    show_default=True,
    help="How long stopping waits for running activities.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65_535),
    metavar="PORT",
    default=None,
    envvar="DURABLE_HEALTH_PORT",
    show_envvar=True,
    help="Answer /live, /ready, /health and /metrics there; 0 takes a free one.",
)
@click.option(
    "--health-host",
    metavar="HOST",
    default="127.0.0.1",
    show_default=True,
    envvar="DURABLE_HEALTH_HOST",
    show_envvar=True,
    help="The address for that; 0.0.0.0 or :: lets other machines ask.",
)
@click.option(
    "--metrics/--no-metrics",
    default=True,
    show_default=True,
    envvar="DURABLE_METRICS",
    show_envvar=True,
    help="Whether runs are measured for /metrics; else it tells health alone.",
)
@click.option(
    "--keeper-line", type=int, hidden=True, default=None, allow_from_autoenv=False
)
@click.option("--observed", is_flag=True, hidden=True, allow_from_autoenv=False)
@resources_option
@interceptors_option
@database_options
@pass_session
def worker(
    session: Session,
    /,
    *,
    processes: int | None,
    health_port: int | None,
    health_host: str,
    metrics: bool,
    keeper_line: int | None,
    observed: bool,
    drain_timeout: str,
    resources: str | None,
    interceptors: str | None,
    **options: Any,
) -> None:
    """Run workflows and activities until stopped.

    MODULE is a dotted name as seen from the current folder, or the path of a .py file.
    The first SIGTERM or SIGINT drains: nothing more begins, running activities may
    finish within --drain-timeout, and the rest is left to other workers. The second
    one ends the process at once, as does the end of 2 s more; nothing is lost by that.
    With --resources there is as long again for closing them.

    With --processes all of that goes for each process, and one that dies is started
    again.
    """
    session.refuse_memory()
    grace = to_microseconds(drain_timeout, "--drain-timeout") / 1_000_000
    probes = (health_host, health_port) if keeper_line is None else ("", None)
    with logging_to_stderr(session.log_level or "info", session.log_format):
        if processes is None or keeper_line is not None:
            options.update(drain_timeout=drain_timeout, resources=resources)
            options.update(interceptors=interceptors)
            is_scraped = observed or (metrics and probes[1] is not None)
            _work(session, options, grace, probes, keeper_line, is_scraped)
        else:
            if sys.platform == "win32":
                raise click.UsageError("--processes needs a system with POSIX signals.")
            options.update(drain_timeout=drain_timeout)
            is_scraped = metrics and health_port is not None
            named = {"resources": resources, "interceptors": interceptors}
            arguments = _arguments(session, options, named, is_scraped=is_scraped)
            # What they are is only known where they are loaded.
            closing = closing_seconds(grace, _some_resources if resources else None)
            limit = grace + closing + _LEAVE_SECONDS
            _keep(session, processes, arguments, limit, probes)


def _some_resources() -> nullcontext[dict[Any, object]]:
    return nullcontext({})


def _announce_draining(number: int) -> None:
    _log.info(
        "%s: draining; a second signal ends the process at once",
        signal.Signals(number).name,
    )


def _work(
    session: Session,
    options: dict[str, Any],
    grace: float,
    probes: tuple[str, int | None],
    keeper_line: int | None,
    is_scraped: bool,
) -> None:
    """Work in this process."""
    with users_code_prints_to_stderr():
        load_modules(options.pop("modules"))
        options["resources"] = load_resources(options["resources"])
        options["interceptors"] = load_interceptors(options["interceptors"])
        queues = options.pop("queues")
        made: list[Serving] = []

        async def work(stop: Stop) -> None:
            serving = Serving(session, queues, options, stop, is_scraped=is_scraped)
            made.append(serving)
            ready = None
            if keeper_line is not None:
                line = WorkerEnd(keeper_line, serving.look, serving.scrape, stop)
                ready = line.tell_ready

            async def look() -> Health:
                return sum_up([await serving.look()], is_draining=False)

            async def scrape() -> Health:
                own = msgspec.structs.replace(
                    await serving.look(), metrics=serving.scrape()
                )
                return sum_up([own], is_draining=False)

            async with serve_health(*probes, look, scrape):
                await serving.work(ready)

        limit = grace + closing_seconds(grace, options["resources"]) + _LEAVE_SECONDS
        run_until_signal(
            work,
            _announce_draining,
            limit,
            lambda: ", ".join(serving.describe_left() for serving in made),
        )


def _keep(
    session: Session,
    count: int,
    arguments: Callable[[int], list[str]],
    limit: float,
    probes: tuple[str, int | None],
) -> None:
    """Keep processes that do.

    Raises:
        SystemExit: one of them has failed, and has said why.
    """
    environment = {
        **os.environ,
        # Not as an argument: everybody may read those, and it may hold a password.
        "DURABLE_DATABASE_URL": session.database_url,
        "DURABLE_NAMESPACE": session.namespace,
    }
    if session.config is not None:
        environment["DURABLE_CONFIG"] = session.config
    supervisor = Supervisor(count, arguments, environment, limit + _KILL_SECONDS)

    async def work(stop: asyncio.Event) -> None:
        scrape = partial(supervisor.look, METRICS)
        async with serve_health(*probes, supervisor.look, scrape):
            await supervisor.keep(stop)

    # It must be there until the last of them is not.
    run_until_signal(
        work,
        _announce_draining,
        limit + 2 * _KILL_SECONDS,
        lambda: f"so are its {count} processes: what they had is left to other workers",
        supervisor.kill,
    )
    if supervisor.exit_code:
        raise SystemExit(supervisor.exit_code)


def _arguments(
    session: Session,
    options: dict[str, Any],
    named: dict[str, str | None],
    *,
    is_scraped: bool,
) -> Callable[[int], list[str]]:
    """Make the arguments of a process from the options of this command."""
    given = [f"--queue={queue}" for queue in options.pop("queues")]
    for queue, slots in options.pop("activity_queues"):
        given.append(f"--activity-queue={queue}={slots}")
    modules = options.pop("modules")
    given += [f"--{name}={place}" for name, place in named.items() if place]
    given += [f"--{n.replace('_', '-')}={value}" for n, value in options.items()]
    given += ["--observed"] if is_scraped else []
    level, form = session.log_level or "info", session.log_format
    logs = [f"--log-level={level}", f"--log-format={form}"]
    return lambda line: [
        *(*logs, "worker", f"--keeper-line={line}", *given, "--", *modules)
    ]
