"""`SyncEngine.batch`: the same for code without an event loop."""

from __future__ import annotations

from typing import Any

from durable.api.messages.messages import SignalCall
from durable.batches.batches import RATE, Batch, BatchDescription, BatchHandle
from durable.client.resets.planning import Reapply
from durable.core.resetting import Point
from durable.loop_thread import LoopThread
from durable.options import Duration
from durable.store.queries import RunCounts


class SyncBatchHandle:
    """One batch; see `BatchHandle`."""

    def __init__(self, thread: LoopThread, handle: BatchHandle) -> None:
        self._thread = thread
        self._handle = handle
        self.id = handle.id

    def __repr__(self) -> str:
        return repr(self._handle)

    def describe(self) -> BatchDescription:
        """Tell how far it is; see `BatchHandle.describe`."""
        return self._thread.call(self._handle.describe())

    def result(self, *, timeout: Duration | None = None) -> BatchDescription:
        """Wait until it is through; see `BatchHandle.result`."""
        return self._thread.call(self._handle.result(timeout=timeout))

    def cancel(self) -> None:
        """Stop it; see `BatchHandle.cancel`."""
        self._thread.call(self._handle.cancel())


class SyncBatch:
    """Some runs, and what can be done with all of them; see `Batch`."""

    def __init__(self, thread: LoopThread, batch: Batch) -> None:
        self._thread = thread
        self._batch = batch

    def count(self, *, only_open: bool = False) -> RunCounts:
        """Count the runs that would be acted on; see `Batch.count`."""
        return self._thread.call(self._batch.count(only_open=only_open))

    def signal(
        self,
        call: SignalCall | str,
        /,
        *args: Any,
        rate: float | None = RATE,
        id: str | None = None,
    ) -> SyncBatchHandle:
        """Send a signal to those that are open; see `Batch.signal`."""
        return self._made(self._batch.signal(call, *args, rate=rate, id=id))

    def cancel(
        self, reason: str = "", *, rate: float | None = RATE, id: str | None = None
    ) -> SyncBatchHandle:
        """Ask those that are open to stop; see `Batch.cancel`."""
        return self._made(self._batch.cancel(reason, rate=rate, id=id))

    def terminate(
        self, reason: str = "", *, rate: float | None = RATE, id: str | None = None
    ) -> SyncBatchHandle:
        """Close those that are open at once; see `Batch.terminate`."""
        return self._made(self._batch.terminate(reason, rate=rate, id=id))

    def delete(
        self,
        *,
        terminate: bool = False,
        rate: float | None = RATE,
        id: str | None = None,
    ) -> SyncBatchHandle:
        """Delete those that are closed, or all; see `Batch.delete`."""
        return self._made(self._batch.delete(terminate=terminate, rate=rate, id=id))

    def pause(
        self, *, note: str = "", rate: float | None = RATE, id: str | None = None
    ) -> SyncBatchHandle:
        """Pause those that are open; see `Batch.pause`."""
        return self._made(self._batch.pause(note=note, rate=rate, id=id))

    def resume(
        self, *, note: str = "", rate: float | None = RATE, id: str | None = None
    ) -> SyncBatchHandle:
        """Let those that are paused go on; see `Batch.resume`."""
        return self._made(self._batch.resume(note=note, rate=rate, id=id))

    def reset(
        self,
        *,
        to: Point = "last_task",
        reason: str = "",
        reapply: Reapply = "all",
        rate: float | None = RATE,
        id: str | None = None,
    ) -> SyncBatchHandle:
        """Let them go on from an earlier place; see `Batch.reset`."""
        return self._made(
            self._batch.reset(to=to, reason=reason, reapply=reapply, rate=rate, id=id)
        )

    def retry(
        self, *, reason: str = "", rate: float | None = RATE, id: str | None = None
    ) -> SyncBatchHandle:
        """Let those that failed go on; see `Batch.retry`."""
        return self._made(self._batch.retry(reason=reason, rate=rate, id=id))

    def _made(self, begun: Any) -> SyncBatchHandle:
        return SyncBatchHandle(self._thread, self._thread.call(begun))
