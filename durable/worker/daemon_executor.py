"""Threads for plain functions that never keep a process from ending.

Python waits at its end for every thread of a `ThreadPoolExecutor`, however long the
function in it takes; and from then on a pool refuses work, though `atexit` functions
that close an engine have yet to run. What such a function has done so far is in doubt
either way, and the history says that it had begun.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeAlias, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_Item: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"


class DaemonExecutor(Executor):
    """Runs functions in daemon threads, which are made when they are needed.

    Args:
        limit: how many threads there are at most.
        name: what their names begin with.
    """

    def __init__(self, limit: int, name: str) -> None:
        self._limit = limit
        self._name = name
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # How many threads wait for something to do, and nobody has counted on.
        self._idle = threading.Semaphore(0)
        self._count = 0
        self._is_shut = False

    def submit(
        self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """See `concurrent.futures.Executor`."""
        future: Future[T] = Future()
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot run a function after shutdown")
            self._queue.put((future, lambda: fn(*args, **kwargs)))
            if not self._idle.acquire(blocking=False) and self._count < self._limit:
                name = f"{self._name}_{self._count}"
                self._count += 1
                threading.Thread(target=self._run, name=name, daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `concurrent.futures.Executor`; never waits for what runs."""
        with self._lock:
            self._is_shut = True
            if cancel_futures:
                while not self._queue.empty():
                    item = self._queue.get()
                    if item is not None:
                        item[0].cancel()
            for _ in range(self._count):
                self._queue.put(None)

    def _run(self) -> None:
        while (item := self._next()) is not None:
            future, call = item
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - the future carries it
                    future.set_exception(error)
                else:
                    future.set_result(result)
                    del result
            # Whoever holds the future decides how long its result is kept.
            del item, future, call

    def _next(self) -> _Item | None:
        try:
            return self._queue.get_nowait()
        except queue.Empty:
            self._idle.release()
        return self._queue.get()
