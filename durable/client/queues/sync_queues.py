"""`Queues` for code that is not async."""

from __future__ import annotations

import builtins

import msgspec

from durable.client.queues.queues import QueueDescription, Queues, Rate
from durable.loop_thread import LoopThread

_Limit = int | msgspec.UnsetType | None


class SyncQueues:
    """What task queues may have at once and how fast; see `Engine.queues`."""

    def __init__(self, thread: LoopThread, queues: Queues) -> None:
        self._thread = thread
        self._queues = queues

    @property
    def runs(self) -> SyncQueues:
        """The same for whole runs of workflows; see `Queues.runs`."""
        return SyncQueues(self._thread, self._queues.runs)

    def configure(
        self,
        name: str,
        *,
        concurrency: _Limit = msgspec.UNSET,
        worker_concurrency: _Limit = msgspec.UNSET,
        key_concurrency: _Limit = msgspec.UNSET,
        rate: Rate | str | msgspec.UnsetType | None = msgspec.UNSET,
        paused: bool | msgspec.UnsetType = msgspec.UNSET,
        note: str | msgspec.UnsetType | None = msgspec.UNSET,
    ) -> QueueDescription:
        """Give a queue limits, or change some; see `Queues.configure`."""
        return self._thread.call(
            self._queues.configure(
                name,
                concurrency=concurrency,
                worker_concurrency=worker_concurrency,
                key_concurrency=key_concurrency,
                rate=rate,
                paused=paused,
                note=note,
            )
        )

    def pause(
        self, name: str, *, note: str | msgspec.UnsetType | None = msgspec.UNSET
    ) -> QueueDescription:
        """Let nothing of a queue begin; see `Queues.pause`."""
        return self._thread.call(self._queues.pause(name, note=note))

    def resume(self, name: str) -> QueueDescription:
        """Let a paused queue go on; see `Queues.resume`."""
        return self._thread.call(self._queues.resume(name))

    def get(self, name: str) -> QueueDescription:
        """Return what a queue allows; see `Queues.get`."""
        return self._thread.call(self._queues.get(name))

    def list(self) -> builtins.list[QueueDescription]:
        """List the queues that somebody has configured; see `Queues.list`."""
        return self._thread.call(self._queues.list())

    def delete(self, name: str) -> None:
        """Take all limits of a queue away; see `Queues.delete`."""
        self._thread.call(self._queues.delete(name))
