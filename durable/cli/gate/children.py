"""Child processes that hold the candidate code, and replay what they are sent."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import AsyncIterable, AsyncIterator, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Final, TypeAlias

import click

from durable.cli.gate.verdicts import Replayed, replay_rows
from durable.cli.user_code.loading import load_modules
from durable.errors import DurableError, WorkflowBlockedError
from durable.store.records import HistoryRow
from durable.worker.guards.guards import install_guards

Batch: TypeAlias = list[tuple[list[HistoryRow], str | None]]
"""Histories that are sent to a child at once, each with the version of its run."""

BATCH_EVENTS: Final = 5_000
# Batches on their way, for each child: one in work, one that waits.
_AHEAD: Final = 2


class ChildDiedError(DurableError):
    """A process that replayed histories ended before it answered."""

    code = "child_died"


async def replay_in_children(
    batches: AsyncIterable[Batch],
    modules: tuple[str, ...],
    *,
    processes: int,
    seconds: float,
) -> AsyncIterator[list[Replayed]]:
    """Replay batches of histories in child processes; in any order.

    Args:
        batches: asked for no faster than they are replayed.
        modules: the candidate code, by name or path.
        processes: how many children to start.
        seconds: how long the code of one run may hold its process.

    Raises:
        UsersCodeError, click.UsageError: a module cannot be loaded.
        ChildDiedError: a child was killed, or the code ended its process.
    """
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"))
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Future[list[Replayed] | _Usage]] = set()
    try:
        # Before any history is read: what cannot be loaded is said at once.
        first: Batch = []
        _checked(
            await loop.run_in_executor(pool, _replay_batch, first, modules, seconds)
        )
        async for batch in batches:
            pending.add(
                loop.run_in_executor(pool, _replay_batch, batch, modules, seconds)
            )
            if len(pending) >= processes * _AHEAD:
                done, pending = await asyncio.wait(
                    pending, return_when=asyncio.FIRST_COMPLETED
                )
                for each in done:
                    yield _checked(each.result())
        for each in asyncio.as_completed(pending):
            yield _checked(await each)
    except BrokenProcessPool:
        raise ChildDiedError(
            "A process that replayed histories has ended before it answered.",
            hint="It was killed, for want of memory perhaps, or the code calls"
            " os._exit. `durable replay` shows each run by itself.",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Usage(str):
    """Wrong usage that a child has met: click's errors do not survive pickling."""


def _checked(answer: list[Replayed] | _Usage) -> list[Replayed]:
    if isinstance(answer, _Usage):
        raise click.UsageError(str(answer))
    return answer


# --- in the child ---------------------------------------------------------------------

_loaded: Final[set[tuple[str, ...]]] = set()


def _replay_batch(
    batch: Batch, modules: tuple[str, ...], seconds: float
) -> list[Replayed] | _Usage:
    if modules not in _loaded:
        # Ctrl-C goes to all processes of a terminal; the parent ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            load_modules(modules)
        except click.UsageError as error:
            return _Usage(error.format_message())
        install_guards()
        _loaded.add(modules)
        # Else the process waits for threads that the modules have begun, perhaps for
        # ever. Finalizers of multiprocessing come after that wait since Python 3.13.
        getattr(threading, "_register_atexit")(_leave)  # noqa: B009 - private, and nothing public is as early
    return [_replay_in_time(rows, version, seconds) for rows, version in batch]


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _replay_in_time(
    rows: Sequence[HistoryRow], version: str | None, seconds: float
) -> Replayed:
    with _interrupting(seconds):
        return replay_rows(rows, version)


@contextmanager
def _interrupting(seconds: float) -> Generator[None]:
    """Interrupt code that never comes to an end, where the system can."""
    is_main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not is_main:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise WorkflowBlockedError(
            f"The workflow's code held its process for {seconds:g} s.",
            hint="It waits for something, or never ends: see its lines below.",
        )

    signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
