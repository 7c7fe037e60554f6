"""`durable worker`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import AsyncExitStack
from typing import Any, Final

import click

from durable import limits
from durable.api.registry import REGISTRY
from durable.cli.loading import load_modules
from durable.cli.logs import logging_to_stderr
from durable.cli.output import users_code_prints_to_stderr
from durable.cli.parameters import SPAN, database_options
from durable.cli.reporting import mask
from durable.cli.session import Session, pass_session
from durable.cli.signals import run_until_signal
from durable.engine import Engine
from durable.store.connect import connect

_log: Final = logging.getLogger("durable.cli")


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
    "--max-activities",
    type=click.IntRange(min=1),
    default=limits.ACTIVITIES_MAX,
    show_default=True,
    envvar="DURABLE_MAX_ACTIVITIES",
    show_envvar=True,
    help="How many activities run at once.",
)
@click.option(
    "--max-activity-threads",
    type=click.IntRange(min=1),
    default=limits.ACTIVITY_THREADS_MAX,
    show_default=True,
    help="How many of them may be plain functions.",
)
@click.option(
    "--max-cached-runs",
    type=click.IntRange(min=1),
    default=limits.CACHED_RUNS_MAX,
    show_default=True,
    help="How many idle runs are kept live.",
)
@click.option(
    "--drain-timeout",
    type=SPAN,
    metavar="SPAN",
    default="10s",
    show_default=True,
    help="How long stopping waits for running activities.",
)
@database_options
@pass_session
def worker(
    session: Session,
    /,
    *,
    modules: tuple[str, ...],
    queues: tuple[str, ...],
    **options: Any,
) -> None:
    """Run workflows and activities until stopped.

    MODULE is a dotted name as seen from the current folder, or the path of a .py file.
    The first SIGTERM or SIGINT drains: nothing more begins, running activities may
    finish within --drain-timeout, and the rest is left to other workers. The second
    one ends the process at once; nothing is lost by that.
    """
    session.refuse_memory()
    log = logging_to_stderr(session.log_level or "info", session.log_format)
    with log, users_code_prints_to_stderr():
        load_modules(modules)

        async def work(stop: asyncio.Event) -> None:
            await _work(session, queues, options, stop)

        run_until_signal(work, _announce_draining)


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
    async with AsyncExitStack() as stack:
        for queue in dict.fromkeys(queues):
            store = connect(session.database_url)
            engine = Engine(
                store, namespace=session.namespace, task_queue=queue, **options
            )
            await stack.enter_async_context(engine)
            ours = [
                record.worker_id
                for record in await store.list_workers()
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
        await stop.wait()
    _log.info("worker stopped; its runs are left to others")
