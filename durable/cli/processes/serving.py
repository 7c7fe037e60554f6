"""One process that works: an engine for each task queue, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
from collections.abc import Callable, Generator
from typing import Any, Final

from durable.api.definitions import is_own
from durable.api.registry import REGISTRY
from durable.cli.health.report import ProcessHealth
from durable.cli.processes.observing import make_observer
from durable.cli.reporting import mask
from durable.cli.session import Session
from durable.engine import Engine
from durable.errors import CommitUnknownError, DurableError, StoreError
from durable.store.connect import connect
from durable.worker.health import WorkerHealth

_log: Final = logging.getLogger("durable.cli")
# For a server that is not there yet, and between two tries.
_START_SECONDS_MAX: Final = 60.0
_AGAIN_SECONDS: Final = 0.5
_NAMES_MAX: Final = 10
# A run is some eighty objects that the collector looks at. By Python's own thresholds
# a burst of runs that begin has all of them looked at again and again.
_THRESHOLDS: Final = (50_000, 20, 50)


@contextlib.contextmanager
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


class Serving:
    """The workers of this process.

    Args:
        options: for every engine.
        stop: set when they are to drain.
        is_scraped: somebody may ask for `scrape`.
    """

    def __init__(
        self,
        session: Session,
        queues: tuple[str, ...],
        options: dict[str, Any],
        stop: asyncio.Event,
        *,
        is_scraped: bool,
    ) -> None:
        self._session = session
        self._queues = tuple(dict.fromkeys(queues))
        self._options = options
        # One of the engines serves them: their places are those of the process.
        self._activity_queues = dict(options.pop("activity_queues", ()))
        self._observer, self.scrape = make_observer(is_scraped=is_scraped)
        self._stop = stop
        self._engines: list[Engine] = []
        self._is_ready = False

    async def work(self, ready: Callable[[], None] | None = None) -> None:
        """Run workflows and activities until it is told to stop; then drain.

        Args:
            ready: called once all of them work.

        Raises:
            StoreError: the database cannot be used; the subclass says why.
        """
        try:
            for queue in self._queues:
                await self._open(queue)
            self._is_ready = not self._stop.is_set()
            if ready is not None and self._is_ready:
                ready()
            with quieter_collector():
                await self._stop.wait()
        finally:
            # Side by side: all of them share one time to drain.
            closed = await asyncio.gather(
                *(engine.close() for engine in self._engines), return_exceptions=True
            )
        for error in closed:
            if error is not None:
                raise error
        _log.info("worker stopped; its runs are left to others")

    async def _open(self, queue: str) -> None:
        session = self._session
        engine = Engine(
            connect(session.database_url, observer=self._observer),
            namespace=session.namespace,
            task_queue=queue,
            observer=self._observer,
            activity_queues={} if self._engines else self._activity_queues,
            **self._options,
        )
        if not await self._open_patiently(engine):
            return
        self._engines.append(engine)
        health = await engine.health()
        served = [f"task queue {queue!r}"]
        if health is not None:
            places = health.activity_queues.items()
            served += [f"activity queue {name!r} ({n} places)" for name, n in places]
        _log.info(
            "worker %s ready: %s of %s, workflows: %d, activities: %d",
            "" if health is None else health.worker_id,
            ", ".join(served),
            mask(session.database_url, session.secrets()),
            len([name for name in REGISTRY.workflows if not is_own(name)]),
            len(REGISTRY.activities),
        )

    async def _open_patiently(self, engine: Engine) -> bool:
        """Open an engine; where all start at once, its server may come later.

        False if it is to stop before: then nothing of it has begun.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_SECONDS_MAX
        is_told = False
        while not self._stop.is_set():
            try:
                return await self._open_or_stop(engine)
            except StoreError as error:
                # Whatever became of an entry whose answer was lost, a new one has its
                # own id, and the lease of the other ends.
                is_passing = error.may_pass or isinstance(error, CommitUnknownError)
                if not is_passing or loop.time() > deadline:
                    raise
                if not is_told:
                    is_told = True
                    wait = f"trying again for {_START_SECONDS_MAX:g} s"
                    _log.warning("%s: %s", error.message.rstrip("."), wait)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _AGAIN_SECONDS)
        return False

    async def _open_or_stop(self, engine: Engine) -> bool:
        """Open an engine; False if it is to stop before: then it is closed again."""
        opening = asyncio.ensure_future(engine.open())
        told = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({opening, told}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            told.cancel()
            opening.cancel()  # nothing, if it is open
            await asyncio.wait({opening})
        if opening.cancelled():
            return False
        await opening
        return True

    def describe_left(self) -> str:
        """What an end at once leaves to others; any thread may ask."""
        running = [one for e in self._engines for one in e.running_activities()]
        if not running:
            return "no activity was running"
        more = len(running) - _NAMES_MAX
        shown = ", ".join(running[:_NAMES_MAX])
        return f"left to other workers: {shown}" + (f" and {more} more" * (more > 0))

    async def look(self) -> ProcessHealth:
        """Say how the workers do."""
        found = await asyncio.gather(*map(_look, self._engines))
        workers = [health for health in found if health is not None]
        if self._stop.is_set():
            return ProcessHealth(pid=os.getpid(), status="draining", workers=workers)
        is_ready = len(workers) == len(self._queues) and all(
            worker.is_ready for worker in workers
        )
        return ProcessHealth(
            pid=os.getpid(),
            status="starting"
            if not self._is_ready
            else "ready"
            if is_ready
            else "unavailable",
            workers=workers,
        )


async def _look(engine: Engine) -> WorkerHealth | None:
    try:
        return await engine.health()
    except DurableError:  # it is being closed
        return None
