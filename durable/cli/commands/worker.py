"""`durable worker`."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click

from durable import limits
from durable.api.registry import REGISTRY
from durable.cli.logs import logging_to_stderr
from durable.cli.output import users_code_prints_to_stderr
from durable.cli.parameters import SPAN, database_options, resources_option
from durable.cli.reporting import mask
from durable.cli.session import Session, pass_session
from durable.cli.signals import run_until_signal
from durable.cli.user_code.loading import load_modules, load_resources
from durable.engine import Engine
from durable.options import to_microseconds
from durable.store.connect import connect
from durable.store.queries import ListWorkers
from durable.worker.activities.held_resources import closing_seconds

F = TypeVar("F", bound=Callable[..., Any])

_log: Final = logging.getLogger("durable.cli")
# A run is some eighty objects that the collector looks at. By Python's own thresholds
# a burst of runs that begin has all of them looked at again and again.
_THRESHOLDS: Final = (50_000, 20, 50)
# How long after --drain-timeout the process is ended by force.
_LEAVE_SECONDS: Final = 2.0


def _at_least_one(name: str, default: int, text: str, **how: Any) -> Callable[[F], F]:
    count = click.IntRange(min=1)
    return click.option(
        name, type=count, default=default, show_default=True, help=text, **how
    )


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
    "How many of them may be plain functions.",
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
@resources_option
@database_options
@pass_session
def worker(
    session: Session,
    /,
    *,
    modules: tuple[str, ...],
    queues: tuple[str, ...],
    resources: str | None,
    **options: Any,
) -> None:
    """Run workflows and activities until stopped.

    MODULE is a dotted name as seen from the current folder, or the path of a .py file.
    The first SIGTERM or SIGINT drains: nothing more begins, running activities may
    finish within --drain-timeout, and the rest is left to other workers. The second
    one ends the process at once, as does the end of 2 s more; nothing is lost by that.
    With --resources there is as long again for closing them.
    """
    session.refuse_memory()
    log = logging_to_stderr(session.log_level or "info", session.log_format)
    with log, users_code_prints_to_stderr():
        load_modules(modules)
        options["resources"] = load_resources(resources)

        async def work(stop: asyncio.Event) -> None:
            await _work(session, queues, options, stop)

        grace = to_microseconds(options["drain_timeout"], "--drain-timeout") / 1_000_000
        limit = grace + closing_seconds(grace, options["resources"]) + _LEAVE_SECONDS
        run_until_signal(work, _announce_draining, limit)


@contextmanager
def quieter_collector() -> Generator[None]:
    """Let the cyclic collector work in larger steps, and not look at what was imported.

    Only a process that is ours alone may do so: it holds for the whole process.
    """
    former = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*former)
        gc.unfreeze()


def _announce_draining(number: int) -> None:
    _log.info(
        "%s: draining; a second signal ends the process at once",
        signal.Signals(number).name,
    )


async def _work(
    session: Session,
    queues: tuple[str, ...],
    options: dict[str, Any],
    stop: asyncio.Event,
) -> None:
    engines: list[Engine] = []
    try:
        for queue in dict.fromkeys(queues):
            store = connect(session.database_url)
            engine = Engine(
                store, namespace=session.namespace, task_queue=queue, **options
            )
            engines.append(await engine.open())
            ours = [
                record.worker_id
                for record in await store.read(ListWorkers())
                if record.pid == os.getpid() and record.task_queue == queue
            ]
            _log.info(
                "worker %s ready: task queue %r of %s, workflows: %d, activities: %d",
                ", ".join(ours),
                queue,
                mask(session.database_url, session.secrets()),
                len(REGISTRY.workflows),
                len(REGISTRY.activities),
            )
        with quieter_collector():
            await stop.wait()
    finally:
        # Side by side: all of them share one time to drain.
        closed = await asyncio.gather(
            *(engine.close() for engine in engines), return_exceptions=True
        )
    for error in closed:
        if error is not None:
            raise error
    _log.info("worker stopped; its runs are left to others")
