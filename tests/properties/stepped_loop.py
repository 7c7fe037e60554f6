"""An event loop that runs when a test says so, and lives by a virtual clock."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from durable.testing.clock import VirtualClock

T = TypeVar("T")
ROUNDS_MAX = 5_000


class SteppedLoop(asyncio.SelectorEventLoop):
    """Runs nothing between two calls of `settle`; never waits."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        super().__init__()
        # Loop times are sums of floats: what is due this microsecond must be due.
        self._clock_resolution = 1e-6
        self.complaints: list[str] = []
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        return self.clock.now() / 1_000_000

    def settle(self) -> None:
        """Run whatever can run at the present instant.

        Raises:
            AssertionError: there is no end to it.
        """
        asyncio.set_event_loop(self)
        for _ in range(ROUNDS_MAX):
            if not self._has_work():
                asyncio.set_event_loop(None)
                return
            self.call_soon(self.stop)
            self.run_forever()
        raise AssertionError(f"The loop did not come to rest in {ROUNDS_MAX} rounds.")

    def _has_work(self) -> bool:
        ready: Any = self._ready  # type: ignore[attr-defined]  # nobody else may tell
        scheduled: Any = self._scheduled  # type: ignore[attr-defined]  # likewise
        end = self.time() + self._clock_resolution
        return bool(ready) or any(
            handle.when() < end and not handle.cancelled() for handle in scheduled
        )

    def _complain(self, _: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context.get('message')}: {error!r}")

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin a task; it runs when the loop does."""
        return self.create_task(work)

    def end(self) -> None:
        """Cancel what is left and close."""
        try:
            for _ in range(10):
                tasks = asyncio.all_tasks(self)
                if not tasks:
                    break
                for task in tasks:
                    task.cancel()
                self.settle()
        finally:
            asyncio.set_event_loop(None)
            self.close()
