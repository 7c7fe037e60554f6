"""`SyncEngine.start_activity`: the same for code without an event loop."""

from __future__ import annotations

from typing import Generic, TypeVar

from durable.loop_thread import LoopThread
from durable.options import Duration
from durable.standalone.standalone import (
    ActivityHandle,
    StandaloneActivityDescription,
)

R = TypeVar("R")


class SyncActivityHandle(Generic[R]):
    """One standalone activity; see `ActivityHandle`."""

    def __init__(self, thread: LoopThread, handle: ActivityHandle[R]) -> None:
        self._thread = thread
        self._handle = handle
        self.id = handle.id
        self.is_new = handle.is_new

    def __repr__(self) -> str:
        return repr(self._handle)

    def result(self, *, timeout: Duration | None = None) -> R:
        """Wait for its result; see `ActivityHandle.result`."""
        return self._thread.call(self._handle.result(timeout=timeout))

    def cancel(self, reason: str = "") -> None:
        """Ask it to stop; see `ActivityHandle.cancel`."""
        self._thread.call(self._handle.cancel(reason))

    def describe(self) -> StandaloneActivityDescription:
        """Read how it stands; see `ActivityHandle.describe`."""
        return self._thread.call(self._handle.describe())
