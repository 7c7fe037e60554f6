"""That a worker closes, told to its activities: one for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import threading


class WorkerStopping:
    """Whether a worker has begun to close; any thread may ask and wait."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]
        self._waiting = set()

    @property
    def has_begun(self) -> bool:
        """Whether it closes."""
        return self._event.is_set()

    def begin(self) -> None:
        """It closes: tell all who wait."""
        with self._lock:
            self._event.set()
            waiting, self._waiting = self._waiting, set()
        for loop, future in waiting:
            with contextlib.suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(_tell, future)

    def wait_in_thread(self, seconds: float) -> bool:
        """Wait so long at most; say whether it closes."""
        return self._event.wait(seconds)

    async def wait(self) -> None:
        """Wait for it on an event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        waiting = loop, future
        with self._lock:
            if self._event.is_set():
                return
            self._waiting.add(waiting)
        try:
            await future
        finally:
            self._waiting.discard(waiting)


def _tell(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
