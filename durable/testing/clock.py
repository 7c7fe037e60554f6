"""Time for tests: a clock that stands still, and a loop that jumps instead of waiting.

`VirtualTime` makes a running event loop live by a `VirtualClock`. When the loop would
go to sleep, because nothing is ready and no thread works for it, the clock jumps to
the next instant at which something is due. Nothing waits, and with a store in memory
nothing depends on the machine's speed.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import weakref
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeAlias

from durable.clock import from_datetime, to_datetime
from durable.errors import InvalidOptionError
from durable.options import Duration, to_microseconds

Select: TypeAlias = Callable[[float | None], list[Any]]
DEFAULT_START: Final = datetime(2025, 1, 1, tzinfo=UTC)

# A thread that nobody told us of may still wake the loop: wait this long, really,
# before saying that nothing can happen any more.
_STALL_GRACE_SECONDS: Final = 0.5
# With sockets open, an answer may be on its way: look this long before jumping.
_SOCKET_GRACE_SECONDS: Final = 0.02


class VirtualClock:
    """A clock that moves only when it is told to.

    Args:
        start: the first instant, an aware datetime; 2025-01-01 in UTC by default.
    """

    def __init__(self, start: datetime = DEFAULT_START) -> None:
        self._now = from_datetime(start)
        self._was_set_back = 0

    def now(self) -> int:
        """Microseconds since 1970, UTC."""
        return self._now

    def monotonic(self) -> int:
        """The same as if it had never been set back."""
        return self._now + self._was_set_back

    def monotonic_ns(self) -> int:
        """How time passes, in nanoseconds."""
        return self.monotonic() * 1_000

    def datetime(self) -> datetime:
        """The same instant as an aware datetime."""
        return to_datetime(self._now)

    def advance(self, duration: Duration) -> None:
        """Move the clock forward; what is due then runs when the loop comes to it.

        Raises:
            InvalidDurationError: negative, not finite, or no duration.
        """
        self._now += to_microseconds(duration, "the duration of advance()")

    def advance_to(self, instant: int) -> None:
        """Move the clock forward to an instant; never back."""
        self._now = max(self._now, instant)

    def set_back(self, duration: Duration) -> None:
        """Move the clock back, as an operator or a time server would.

        Raises:
            InvalidDurationError: negative, not finite, or no duration.
        """
        distance = to_microseconds(duration, "the duration of set_back()")
        self._now -= distance
        self._was_set_back += distance


class TimeSource(Protocol):
    """Something besides the loop's own timers that virtual time must know of."""

    @property
    def in_flight(self) -> int:
        """How many operations have begun and have not answered."""
        ...

    @property
    def operation_count(self) -> int:
        """How many operations ever began: equal counts mean that nothing changed."""
        ...

    def now(self) -> int:
        """Its own time, which goes on when the clock is set back."""
        ...

    async def next_wake_at(self) -> int | None:
        """The next instant at which it has work, in microseconds since 1970."""
        ...


class VirtualTime:
    """Makes one event loop live by a virtual clock; see `VirtualTime.on`.

    Timers of the engine's own housekeeping never make the clock jump: a run that
    sleeps for a year costs one jump, not a patrol every five seconds. They do run
    when something else has moved the clock past them.

    While a thread works for the loop (a store's, an executor's), the loop really waits
    for it and time stands still.
    """

    _of_loop: Final[
        weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, VirtualTime]
    ] = weakref.WeakKeyDictionary()

    def __init__(
        self,
        loop: asyncio.SelectorEventLoop,
        clock: VirtualClock,
        is_housekeeping: Callable[[object], bool],
    ) -> None:
        self.clock = clock
        self.on_stall: list[Callable[[], None]] = []
        self._loop = loop
        self._is_housekeeping = is_housekeeping
        self._users = 0
        self._sources: list[TimeSource] = []
        self._threads = 0
        self._settling: list[asyncio.Future[None]] = []
        self._asking: asyncio.Task[None] | None = None
        self._answer: tuple[int, int | None] | None = None
        self._is_stalled = False
        self._order = itertools.count()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._chores: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._origin = clock.monotonic()
        self._loop_origin = 0.0
        self._undo: list[Callable[[], None]] = []
        self._has_sockets: Callable[[], bool] = bool

    @classmethod
    def on(
        cls,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: VirtualClock | None,
        is_housekeeping: Callable[[object], bool],
    ) -> VirtualTime:
        """Begin to use virtual time on a loop, perhaps together with others.

        Raises:
            InvalidOptionError: the loop is none of asyncio's selector loops, or it
                lives by another clock already.
        """
        known = cls._of_loop.get(loop)
        if known is None:
            if not isinstance(loop, asyncio.SelectorEventLoop):
                raise InvalidOptionError(
                    f"Virtual time needs asyncio's selector event loop, not {loop!r}.",
                    hint="Run the test on asyncio.SelectorEventLoop.",
                )
            known = cls(loop, clock or VirtualClock(), is_housekeeping)
            known._install()
            cls._of_loop[loop] = known
        elif clock is not None and clock is not known.clock:
            raise InvalidOptionError(
                "This event loop lives by another virtual clock already.",
                hint="Give both environments the same clock.",
            )
        known._users += 1
        return known

    def off(self) -> None:
        """End one use; with the last one the loop has its own time again."""
        self._users -= 1
        if self._users == 0:
            del self._of_loop[self._loop]
            while self._undo:
                self._undo.pop()()

    def add_source(self, source: TimeSource) -> None:
        """Heed this source's operations and due times."""
        self._sources.append(source)
        self._answer = None

    def remove_source(self, source: TimeSource) -> None:
        """Heed it no longer."""
        self._sources.remove(source)
        self._answer = None

    async def settle(self) -> None:
        """Wait until nothing more can happen at the present instant."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._settling.append(future)
        await future

    # --- the loop's clock and timers --------------------------------------------------

    def _install(self) -> None:
        loop: Any = self._loop  # its methods are replaced, on this object only
        self._loop_origin = loop.time()
        call_at, run_in_executor = loop.call_at, loop.run_in_executor
        selector, resolution = loop._selector, loop._clock_resolution
        select = selector.select

        def virtual_call_at(when: float, callback: Any, *args: Any, **kw: Any) -> Any:
            handle = call_at(when, callback, *args, **kw)
            heap = self._chores if self._is_housekeeping(callback) else self._timers
            heapq.heappush(heap, (when, next(self._order), handle))
            return handle

        def counted_executor(executor: Any, function: Any, *args: Any) -> Any:
            future = run_in_executor(executor, function, *args)
            self._threads += 1
            future.add_done_callback(self._thread_done)
            return future

        def virtual_select(timeout: float | None = None) -> list[Any]:
            events: list[Any] = select(0)
            if events or (timeout is not None and timeout <= 0):
                return events
            return self._pass_time(select)

        loop.time = self._loop_time
        loop.call_at = virtual_call_at
        loop.run_in_executor = counted_executor
        selector.select = virtual_select
        # Loop times are sums of floats: what is due this very microsecond, by the
        # rounding of _instant_of, must be due for the loop as well, and no more.
        loop._clock_resolution = 7e-7
        known_files = len(selector.get_map())
        self._has_sockets = lambda: len(selector.get_map()) > known_files

        def restore() -> None:
            del loop.time, loop.call_at, loop.run_in_executor, selector.select
            loop._clock_resolution = resolution

        self._undo.append(restore)

    def _loop_time(self) -> float:
        return self._loop_origin + (self.clock.monotonic() - self._origin) / 1_000_000

    def _instant_of(self, when: float) -> int:
        return self._origin + round((when - self._loop_origin) * 1_000_000)

    def _thread_done(self, _: object) -> None:
        self._threads -= 1

    def _next_timer_at(
        self, heap: list[tuple[float, int, asyncio.TimerHandle]]
    ) -> int | None:
        now = self.clock.monotonic()
        while heap:
            when, _, handle = heap[0]
            instant = self._instant_of(when)
            if instant > now and not handle.cancelled():
                return instant
            heapq.heappop(heap)  # cancelled, or the loop has run it
        return None

    # --- when the loop would sleep ----------------------------------------------------

    def _pass_time(self, select: Select) -> list[Any]:
        """Do what a sleep of the loop is for, without sleeping."""
        if self._threads or any(source.in_flight for source in self._sources):
            return select(None)
        if self._has_sockets():
            events = select(_SOCKET_GRACE_SECONDS)
            if events:
                return events
        count = self._operation_count()
        if self._sources and (self._answer is None or self._answer[0] != count):
            if self._asking is None:
                self._asking = self._loop.create_task(self._ask(count))
                return []
            return select(None)
        wake_at = None if self._answer is None else self._answer[1]
        self._answer = None
        return self._jump(select, wake_at)

    def _operation_count(self) -> int:
        return sum(source.operation_count for source in self._sources)

    async def _ask(self, count: int) -> None:
        try:
            answers: list[int] = []
            for source in self._sources:
                instant = await source.next_wake_at()
                if instant is not None:
                    answers.append(instant - source.now() + self.clock.monotonic())
            self._answer = count, min(answers, default=None)
        finally:
            self._asking = None

    def _jump(self, select: Select, wake_at: int | None) -> list[Any]:
        now = self.clock.monotonic()
        is_overdue = wake_at is not None and wake_at <= now
        if self._settling and not is_overdue:
            settling, self._settling = self._settling, []
            for future in settling:
                if not future.done():
                    future.set_result(None)
            return []
        candidates = [self._next_timer_at(self._timers)]
        # What is overdue has been looked at and waits for the next look.
        candidates.append(self._next_timer_at(self._chores) if is_overdue else wake_at)
        instants = [instant for instant in candidates if instant is not None]
        if instants:
            self._is_stalled = False
            self.clock.advance_to(self.clock.now() + min(instants) - now)
            return []
        return self._stall(select)

    def _stall(self, select: Select) -> list[Any]:
        if self._is_stalled:
            return select(None)
        events = select(_STALL_GRACE_SECONDS)
        if not events:
            self._is_stalled = True
            for tell in self.on_stall:
                tell()
        return events
