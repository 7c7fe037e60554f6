"""Says which runs nobody takes: no worker that is open knows their workflow.

The rest of the library is silent about them, as waiting for a worker is all they do.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final, TypeAlias

from durable import limits
from durable.errors import DurableError
from durable.loggers import revive_loggers
from durable.store.queries import FindUnowned, UnownedRun
from durable.store.store import Store

_log: Final = logging.getLogger("durable.client")
_LOOK_SECONDS: Final = 20.0
_PATIENCE_MICROSECONDS: Final = 60_000_000

_Kind: TypeAlias = tuple[str, str, str | None]
"""A task queue, a type of workflow and its version."""


class Unserved:
    """Looks for such runs while an engine is open, and names each type once."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._timer: asyncio.TimerHandle | None = None
        self._look: asyncio.Task[None] | None = None
        self._seen: dict[tuple[str, int], int] = {}
        """Since when each run is known to wait, by run id and since when it is due."""
        self._named: set[_Kind] = set()

    def start(self) -> None:
        """Look every now and then."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOK_SECONDS, self._begin)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._look is not None and not self._look.get_loop().is_closed():
            self._look.cancel()
        self._timer = self._look = None

    def _begin(self) -> None:
        revive_loggers()
        if self._look is None or self._look.done():  # else the database is slow
            self._look = asyncio.get_running_loop().create_task(self._find())
        self.start()

    async def _find(self) -> None:
        now = self._store.now()
        with contextlib.suppress(DurableError):  # whoever works will meet it, and say
            found = await self._store.read(
                FindUnowned(self._namespace, now, limits.LOAD_RUNS_MAX)
            )
            self._judge(found, now)

    def _judge(self, found: list[UnownedRun], now: int) -> None:
        # A run that is between two workers is not seen twice so far apart; one that has
        # fallen due again was taken meanwhile.
        waits = {run: (run.run_id, run.wake_at) for run in found}
        self._seen = {wait: self._seen.get(wait, now) for wait in waits.values()}
        late: dict[_Kind, list[UnownedRun]] = {}
        for run, wait in waits.items():
            if now - self._seen[wait] >= _PATIENCE_MICROSECONDS:
                kind = (run.task_queue, run.workflow_type, run.version)
                late.setdefault(kind, []).append(run)
        for kind, runs in late.items():
            if kind not in self._named:
                self._warn(runs)
        self._named = set(late)

    def _warn(self, runs: list[UnownedRun]) -> None:
        run, more = runs[0], len(runs) - 1
        _log.warning(
            "Nobody runs workflow %r%s on task queue %r: run %r (run id %s)%s has"
            " waited for over %d s, and no open worker knows it. Start a worker with"
            " its code, such as `durable worker MODULE`, on that task queue.",
            run.workflow_type,
            "" if run.version is None else f" in version {run.version}",
            run.task_queue,
            run.workflow_id,
            run.run_id,
            f", like {more:,} more," if more else "",
            _PATIENCE_MICROSECONDS // 1_000_000,
            extra={
                "workflow_id": run.workflow_id,
                "run_id": run.run_id,
                "workflow_type": run.workflow_type,
            },
        )
