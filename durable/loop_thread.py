"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from durable.errors import EngineClosedError

# How long what was cancelled has to end, and then the thread.
_CANCEL_SECONDS: Final = 2.0
_STOP_SECONDS: Final = 4.0

T = TypeVar("T")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._process_id = os.getpid()
        # A signal's handler may call in the middle of a call.
        self._lock = threading.RLock()
        self._waiting: set[concurrent.futures.Future[Any]] = set()
        self._is_stopped = False
        # A daemon: a program that forgets to close its engine must still be able to
        # end.
        self._thread = threading.Thread(
            target=self._run, name="durable-engine", daemon=True
        )
        self._thread.start()

    @property
    def is_inherited(self) -> bool:
        """Whether it stayed behind in the process that this one was forked from."""
        return self._process_id != os.getpid()

    def call(self, work: Coroutine[Any, Any, T], limit: float | None = None) -> T:
        """Run a coroutine on the loop and wait for it, for `limit` seconds at most.

        Ctrl-C while waiting cancels the coroutine, not the run behind it.
        """
        try:
            future = self._submit(work)
        except EngineClosedError:
            work.close()
            raise
        try:
            return future.result(limit)
        except concurrent.futures.CancelledError:
            if not self._is_stopped:
                raise
            raise EngineClosedError(
                "The engine was closed while this call waited; its run goes on."
            ) from None
        finally:
            future.cancel()
            with self._lock:
                self._waiting.discard(future)

    def _submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        if self.is_inherited:  # and so is the lock, in whatever state it was
            raise EngineClosedError(
                f"This SyncEngine was opened by process {self._process_id}, before the"
                f" fork that made this one ({os.getpid()}).",
                hint="Call open() in each process, after the fork.",
            )
        if threading.current_thread() is self._thread:
            raise EngineClosedError(
                "A SyncEngine was used from its own event loop, which would wait for"
                " itself.",
                hint="In async code use Engine; in activities durable.activity_client"
                " or a plain function.",
            )
        with self._lock:
            if self._is_stopped:
                raise EngineClosedError(
                    "This engine was closed.",
                    hint="Use it within `with SyncEngine(...)`.",
                )
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._waiting.add(future)
        return future

    def stop(self) -> bool:
        """Cancel what still runs on the loop, and end its thread; False if it hangs."""
        with self._lock:
            self._is_stopped = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        # What came in too late to be heard must not be waited for.
        for future in list(self._waiting):
            future.cancel()
        return not self._thread.is_alive()

    def _run(self) -> None:
        loop = self._loop
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=_CANCEL_SECONDS))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
