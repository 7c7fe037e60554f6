"""Reads runs that are to come into memory, or that must be read again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

from durable import limits
from durable.core.history.events import (
    UNPROCESSED,
    WorkflowExecutionReset,
    WorkflowExecutionStarted,
)
from durable.errors import DatabaseUnavailableError, StoreError
from durable.runs.live_run import LiveRun
from durable.store.queries import LoadRuns
from durable.store.records import LoadedRun, RunRecord, RunStatus
from durable.store.store import Store

_log: Final = logging.getLogger("durable.worker")
_RESET: Final = WorkflowExecutionReset.__name__
_RETRY_SECONDS: Final = 1.0
_RETRY_SECONDS_MAX: Final = 60.0


class Loader:
    """Reads the runs of one worker.

    Args:
        entered: told of each run that was read for the first time.
        mail: told of runs that got a message while they were read.
        spawn: runs a step in the background; its errors are logged.
    """

    def __init__(
        self,
        store: Store,
        *,
        entered: Callable[[LoadedRun], None],
        mail: Callable[[str], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._store = store
        self._entered = entered
        self._mail = mail
        self._spawn = spawn
        self.loading: set[str] = set()
        self._reads = 0
        self._stalled = 0
        self.when_idle: Callable[[], None] = lambda: None
        """Called when all that was to be read has had its turn."""
        self.idle_since = 0.0
        """When all that was to be read had had its turn, by the loop's clock."""
        # Mail that came while its run was being read, perhaps too late for that read.
        self._mailed: set[str] = set()

    def load(self, run_ids: Iterable[str]) -> int:
        """Begin to load those that are not being loaded; return how many they are."""
        ids = [run_id for run_id in run_ids if run_id not in self.loading]
        self.loading.update(ids)
        for start in range(0, len(ids), limits.LOAD_RUNS_MAX):
            self._reads += 1
            self._spawn(self._load(ids[start : start + limits.LOAD_RUNS_MAX]))
        return len(ids)

    def forget_all(self) -> None:
        """Let what is being read go by: it was asked for under a lease that is gone."""
        self.loading = set()
        self._mailed = set()

    def mailed(self, run_id: str) -> None:
        """Mail came for a run that is being loaded."""
        self._mailed.add(run_id)

    @property
    def is_busy(self) -> bool:
        """Whether runs are being read, or wait for the turn that follows.

        Those that wait for a database that is away keep nobody from other work.
        """
        return self._reads > self._stalled

    async def _load(self, run_ids: list[str]) -> None:
        try:
            await self._enter(run_ids)
        finally:
            self._reads -= 1
            self.idle_since = asyncio.get_running_loop().time()
            if not self.is_busy:
                self.when_idle()

    async def _enter(self, run_ids: list[str]) -> None:
        loading = self.loading
        try:
            loaded = await self._read(run_ids)
        finally:
            loading.difference_update(run_ids)
        mailed = self._mailed.intersection(run_ids)
        self._mailed -= mailed
        for index, one in enumerate(loaded):
            if loading is not self.loading:
                return  # whoever has the runs now reads them anew
            self._entered(one)
            if index % 16 == 15:
                await asyncio.sleep(0)  # other work goes on between replays
        for run_id in mailed:
            self._mail(run_id)

    async def read_again(self, run: LiveRun) -> LoadedRun | None:
        """Read a run that is in memory; None if there is no such run any more."""
        if run.should_pause:
            await asyncio.sleep(_RETRY_SECONDS)
        loaded = await self._read([run.run_id])
        return loaded[0] if loaded else None

    async def _read(self, run_ids: list[str]) -> list[LoadedRun]:
        """Read runs; nobody else would, so try until the database answers.

        What no database would ever answer concerns one of them: it gets its reason.
        """
        delay = _RETRY_SECONDS
        while True:
            try:
                return await self._store.read(LoadRuns(run_ids))
            except StoreError as error:
                if not isinstance(error, DatabaseUnavailableError):
                    return await self._read_apart(run_ids, error)
                if not error.is_told:
                    _log.error(
                        "%d runs could not be read (%s); trying again in %g s.",
                        len(run_ids),
                        error,
                        delay,
                    )
                self._stalled += 1
                try:
                    if not self.is_busy:
                        self.when_idle()
                    await asyncio.sleep(delay)
                finally:
                    self._stalled -= 1
                delay = min(2 * delay, _RETRY_SECONDS_MAX)

    async def _read_apart(
        self, run_ids: list[str], error: StoreError
    ) -> list[LoadedRun]:
        if len(run_ids) == 1:
            return [_unreadable(run_ids[0], error)]
        return [one for run_id in run_ids for one in await self._read([run_id])]


def first_task_at(loaded: LoadedRun, in_turn_at: int | None = None) -> int | None:
    """When a run at rest that has had no task, and has no mail, is to begin.

    If only a claim may begin it, `in_turn_at` is when that is to be tried: also if all
    that it has is what it has kept of another run.
    """
    if not loaded.rows or loaded.record.owner is not None:
        return None
    is_new = loaded.rows[0][2] == UNPROCESSED
    if in_turn_at is not None:
        return in_turn_at if is_new or loaded.rows[-1][3] == _RESET else None
    if not is_new or loaded.messages:
        return None
    return loaded.record.wake_at


def _unreadable(run_id: str, error: StoreError) -> LoadedRun:
    """Stands for a run of which nothing can be read."""
    record = RunRecord(
        namespace="",
        workflow_id=run_id,
        run_id=run_id,
        workflow_type="",
        task_queue="",
        status=RunStatus.RUNNING,
        started_at=0,
        first_run_id=run_id,
        request_id=run_id,
        damage=error.message,
    )
    return LoadedRun(record=record, rows=[], messages=[], attempts=[])


def not_read_yet(record: RunRecord) -> WorkflowExecutionStarted:
    """Stands for a run's first event until its history was read."""
    return WorkflowExecutionStarted(
        workflow_type=record.workflow_type,
        input=(),
        task_queue=record.task_queue,
        workflow_id=record.workflow_id,
        run_id=record.run_id,
        first_run_id=record.first_run_id,
        request_id=record.request_id,
    )
