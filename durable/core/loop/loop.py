"""An asyncio event loop whose order is a function of its inputs alone.

No selector, no clock, no threads: `ready` is one FIFO queue, `time()` is the workflow
task's recorded time, and `call_later` is a durable timer. All of asyncio that is built
on tasks, futures and `call_*` works on it; what needs the outside world raises
`ForbiddenInWorkflowError` with advice.

Sets of tasks and futures iterate alike in every process, because both hash by their
creation number mixed with the run's seed. What asyncio itself does in another order
from process to process or from Python to Python is replaced for workflow loops only
(see `durable.core.loop.stable_asyncio`).
"""

from __future__ import annotations

import asyncio
import asyncio.events
import collections
import contextvars
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, Final, NoReturn, Protocol, TypeVar

import msgspec

from durable import limits
from durable.core.history import flags
from durable.core.loop.stable_asyncio import install_stable_asyncio
from durable.core.loop.tasks import WorkflowFuture, WorkflowTaskHandle
from durable.core.loop.teardown import RunTornDown
from durable.core.loop.user_code import line_in
from durable.errors import (
    ForbiddenInWorkflowError,
    InvalidDurationError,
    ReadOnlyError,
    WorkflowTaskError,
)

T = TypeVar("T")

_HASH_FACTOR: Final = 0x9E3779B97F4A7C15  # odd, from the golden ratio: spreads numbers
_HASH_MASK: Final = (1 << 61) - 1
_TASKS_KEPT_MIN: Final = 64

allowed: Final[contextvars.ContextVar[str | None]] = contextvars.ContextVar(
    "allowed", default=None
)
"""Why the code that runs may do what cannot be replayed; see `durable.allow`."""


# Structs, since each step of a run makes one: no step of Python sets their fields.
class Handle(msgspec.Struct, eq=False):
    """One queued call; what asyncio asks of a handle and no more."""

    callback: Callable[..., object]
    args: tuple[Any, ...]
    context: contextvars.Context
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Make the call not happen."""
        self.is_cancelled = True

    def cancelled(self) -> bool:
        """Say whether `cancel` was called."""
        return self.is_cancelled


class TimerHandle(Handle, eq=False):
    """One call that waits for a durable timer."""

    time: float = 0.0
    on_cancel: Callable[[], None] | None = None

    def when(self) -> float:
        """The loop time at which the call is due."""
        return self.time

    def cancel(self) -> None:
        """Make the call not happen, and drop its timer."""
        if not self.is_cancelled:
            self.is_cancelled = True
            on_cancel, self.on_cancel = self.on_cancel, None
            if on_cancel is not None:
                on_cancel()


class LoopOwner(Protocol):
    """What the loop asks of the run it belongs to."""

    def start_loop_timer(self, handle: TimerHandle, delay: float) -> None:
        """Start a durable timer that queues the handle when it fires."""
        ...

    def report_unhandled(self, context: dict[str, Any]) -> None:
        """Take what asyncio would have logged."""
        ...

    def keep_bug(self, error: WorkflowTaskError) -> None:
        """Take what parks the run at the end of the turn, whatever the code does."""
        ...


class DeterministicLoop(asyncio.AbstractEventLoop):
    """The event loop of one run."""

    # Most runs set few of these, so they are made at first use.
    given_number = 0
    """The number of the task that is just made, if it is not the next one."""
    generators: list[AsyncGenerator[Any, Any]] | None = None
    """Started async generators, held so that no collector finalizes them."""
    is_torn_down = False
    flags: int = flags.CURRENT
    """The recorded behaviour of the turn that is driven."""
    outside = 0
    """The id of what is being handled where the turn is driven: by a client that starts
    a run in its `except`, say. Python makes it the context of whatever the code raises.
    """
    read_only = ""
    """What is running that may change nothing; empty for all other code."""
    refusal: WorkflowTaskError | None = None
    _created = 0
    _task_names = 0
    _tasks_kept = _TASKS_KEPT_MIN
    _now = 0.0
    _put_off: Sequence[Handle] = ()
    """Calls that did nothing but ask for themselves again; the next turn has them."""
    _is_careful = False
    _changes: collections.deque[Handle]

    def __init__(self, owner: LoopOwner, seed: int) -> None:
        self._owner: Any = owner
        # How `durable.api` finds the runtime; any loop may carry one.
        self.durable_runtime: Any = owner
        self._ready: collections.deque[Handle] = collections.deque()
        self._seed = seed & _HASH_MASK
        # In order of creation. Done ones are dropped now and then, not one by one: a
        # callback on each task would cost a turn of the loop.
        self.tasks: list[WorkflowTaskHandle[Any]] = []
        install_stable_asyncio(DeterministicLoop)

    def part(self) -> None:
        """Part from its run, both of which would wait for the cyclic collector."""
        self._owner = self.durable_runtime = None

    # --- order ------------------------------------------------------------------------

    def next_number(self) -> int:
        """Number the next task or future."""
        self._created += 1
        return self._created

    def hash_of(self, number: int) -> int:
        """The hash of a numbered task or future: stable in a run, spread over runs."""
        return (number * _HASH_FACTOR ^ self._seed) & _HASH_MASK

    def begin_turn(self, instant: int) -> None:
        """Set the time of the current workflow task, in microseconds since 1970."""
        self._now = instant / 1_000_000
        if self._put_off:
            self._ready.extend(self._put_off)
            self._put_off = ()

    def time(self) -> float:
        """The workflow task's time, in seconds since 1970."""
        return self._now

    def has_ready(self) -> bool:
        """Say whether any call is queued."""
        return bool(self._ready or self._put_off)

    def queued(self) -> tuple[Handle, ...]:
        """The calls that are queued, in order."""
        return tuple(self._ready)

    def call_now(self, handle: Handle) -> None:
        """Make a queued call before all others."""
        self._ready.remove(handle)
        handle.callback(*handle.args)

    def drain(self) -> None:
        """Run queued calls, and those they queue, until none is left.

        Raises whatever a plain callback raises; tasks keep their exceptions.
        """
        ready = self._ready
        handle: Handle | None = None
        while ready:
            handle = ready.popleft()
            if not handle.is_cancelled:
                handle.context.run(handle.callback, *handle.args)
        # Or a traceback of what was called (from 3.12 on) would hold its own task.
        handle = None

    def drain_with_care(self) -> None:
        """Drain what is queued by now in a way that ends, whatever repeats itself.

        A cancel scope of anyio cancels its tasks again and again until they leave it. A
        wait that outlasts cancels does not leave before the world has answered, and the
        world answers after the turn.
        """
        if not self._is_careful:
            self._is_careful = True
            self.call_soon(self._drain_with_care)

    def _drain_with_care(self) -> None:
        rounds, progress = 0, self._progress()
        while True:
            repeated = self._drain_but_for_repeats()
            reached = self._progress()
            rounds = rounds + 1 if reached == progress else 0
            progress = reached
            if not repeated or rounds > limits.ROUNDS_WITHOUT_PROGRESS:
                break
            self._ready.extend(repeated)
        self._put_off = (*self._put_off, *repeated)
        self._is_careful = False

    def _drain_but_for_repeats(self) -> list[Handle]:
        """Run what is queued; return the calls that asked for themselves again."""
        ready = self._ready
        repeated: list[Handle] = []
        while ready:
            handle = ready.popleft()
            if handle.is_cancelled:
                continue
            others = len(ready)
            handle.context.run(handle.callback, *handle.args)
            fresh = [ready.pop() for _ in range(len(ready) - others)]
            for one in reversed(fresh):
                is_same = one.callback == handle.callback and one.args == handle.args
                (repeated if is_same else ready).append(one)
        return repeated

    def _progress(self) -> tuple[int, int]:
        """What changes when tasks come and go."""
        return len(self.tasks), sum(task.done() for task in self.tasks)

    # --- what asyncio calls -----------------------------------------------------------

    def call_soon(  # type: ignore[override]  # Handle is ours, not asyncio's class
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Handle:
        """Queue a call after all that are queued."""
        if context is None:
            context = contextvars.copy_context()
        handle = Handle(callback, args, context)
        if not self.is_torn_down:
            self._ready.append(handle)
        return handle

    def queue(self, handle: Handle) -> None:
        """Queue a handle that waited elsewhere."""
        self._ready.append(handle)

    def call_later(  # type: ignore[override]  # as for call_soon
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> TimerHandle:
        """Start a durable timer; a delay that is not positive only queues the call."""
        if context is None:
            context = contextvars.copy_context()
        handle = TimerHandle(callback, args, context, time=self._now + delay)
        if self.is_torn_down:
            return handle  # never called
        if delay <= 0:
            self._ready.append(handle)
        else:
            self._owner.start_loop_timer(handle, delay)
        return handle

    def call_at(  # type: ignore[override]  # as for call_soon
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> TimerHandle:
        """Start a durable timer that is due at a loop time."""
        return self.call_later(when - self._now, callback, *args, context=context)

    def create_future(self) -> WorkflowFuture[Any]:
        """Make a future of this run."""
        if self.read_only:  # somebody steps a coroutine by hand
            self.refuse_change("Waiting for something")
        future: WorkflowFuture[Any] = WorkflowFuture(loop=self)
        self._created += 1
        future.order = self._created
        return future

    def create_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        number: int = 0,
        **_: Any,
    ) -> asyncio.Task[Any]:
        """Make a task of this run; unnamed tasks are numbered within the run.

        A task that is given its number uses none up.
        """
        if self.is_torn_down:
            return self._make_stillborn(coro)
        if self.read_only:
            coro.close()  # or Python would warn that it was never awaited
            self.refuse_change("asyncio.create_task()")
        if name is None:
            self._task_names += 1
            name = f"Task-{self._task_names}"
        elif type(name) is not str:
            name = str(name)
        self.given_number = number
        task = WorkflowTaskHandle(coro, loop=self, name=name, context=context)
        if task.order_hash is None:  # a later Python's constructor may not ask for it
            hash(task)
        self.given_number = 0
        self.tasks.append(task)
        if len(self.tasks) > self._tasks_kept:
            self.drop_done_tasks()
            self._tasks_kept = max(_TASKS_KEPT_MIN, 2 * len(self.tasks))
        return task

    def drop_done_tasks(self) -> None:
        """Let done tasks go; asyncio then reports those that failed unheard."""
        self.tasks = [task for task in self.tasks if not task.done()]

    def _make_stillborn(self, coro: Any) -> asyncio.Task[Any]:
        """A task that never begins, for cleanup code of a run that is torn down."""
        task = WorkflowTaskHandle(coro, loop=self)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio's own switch for its warning
        coro.close()  # or Python would warn that it was never awaited
        return task

    def get_debug(self) -> bool:
        """Debug mode is off: it changes neither order nor results, but costs."""
        return False

    def is_running(self) -> bool:
        """Say whether this loop runs in this thread."""
        return asyncio.events._get_running_loop() is self

    def is_closed(self) -> bool:
        """Say whether the run was torn down."""
        return self.is_torn_down

    def get_task_factory(self) -> None:
        """There is none."""
        return

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand on what nobody handled."""
        if not self.is_torn_down:
            self._owner.report_unhandled(context)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Hand on what nobody handled."""
        self.call_exception_handler(context)

    def get_exception_handler(self) -> None:
        """There is none."""
        return

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: a run's generators are closed when it is torn down."""

    def keep_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Hold a started async generator until the run is torn down."""
        if self.generators is None:
            self.generators = []
        self.generators.append(generator)

    # --- refusals ---------------------------------------------------------------------

    def begin_reading(self, what: str) -> None:
        """Refuse all changes until `end_reading`, on behalf of a query or validator."""
        self._ready, self._changes = _ReadOnlyQueue(self, self._ready), self._ready
        self.read_only, self.refusal = what, None

    def end_reading(self) -> None:
        """Allow changes again."""
        self._ready, self.read_only, self.refusal = self._changes, "", None

    def refuse_change(self, what: str) -> NoReturn:
        """Refuse what a query or validator tried."""
        self.refusal = ReadOnlyError(
            f"{what} was called by {self.read_only}, which may change nothing.",
            hint="Do it in an update or a signal handler.",
        )
        raise self.refusal

    def refuse_if_torn_down(self) -> None:
        """Raise if nothing may come of this run any more."""
        if self.is_torn_down:
            raise RunTornDown

    def forbid(self, what: str, advice: str) -> NoReturn:
        """Refuse an operation that cannot be replayed."""
        self.refuse_if_torn_down()
        line = line_in(sys._getframe(), self)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
        raise self.refuse_call(what, line, advice)

    @property
    def is_guarded(self) -> bool:
        """Whether no refusal of what cannot be replayed may be swallowed."""
        return bool(self.flags & flags.Flag.GUARDED)

    def refuse_call(
        self, what: str, line: str, advice: str
    ) -> ForbiddenInWorkflowError:
        """Make the error that refuses a call; the turn fails even if code catches it.

        But not in a run that began before that was so.
        """
        error = ForbiddenInWorkflowError(
            f"Workflow code called {what}{line}, which cannot be replayed.", hint=advice
        )
        if not self.is_guarded or allowed.get() is not None:
            return error
        if self.read_only:
            self.refusal = self.refusal or error
        else:
            self._owner.keep_bug(error)
        return error

    def run_in_executor(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]  # refuses whatever it is given
        """Refuse: threads are not replayable."""
        self.forbid(
            "run_in_executor() or asyncio.to_thread()",
            "Move the work into an activity: a sync function under @activity runs in a"
            " thread.",
        )

    def call_soon_threadsafe(self, *_: Any, **__: Any) -> NoReturn:  # type: ignore[override]  # refuses whatever it is given
        """Refuse: other threads have no place in a run's order.

        A plain NotImplementedError subclass, since libraries probe for it.
        """
        self.forbid(
            "loop.call_soon_threadsafe()",
            "Let the other thread send the run a message instead.",
        )


class _ReadOnlyQueue(collections.deque[Handle]):
    """Stands for the queue of ready calls while nothing may be queued."""

    def __init__(self, loop: DeterministicLoop, ready: Iterable[Handle]) -> None:
        super().__init__(ready)
        self._loop = loop

    def append(self, handle: Handle, /) -> None:
        """Refuse."""
        self._loop.refuse_change("Something that has effects later")


_IN_ACTIVITY: Final = "Do it in an activity and await that."
# What reaches outside of the run.
_OUTSIDE: Final = (
    "add_reader remove_reader add_writer remove_writer getaddrinfo getnameinfo"
    " create_connection create_server create_unix_connection create_unix_server"
    " create_datagram_endpoint connect_accepted_socket start_tls sendfile"
    " connect_read_pipe connect_write_pipe subprocess_shell subprocess_exec sock_recv"
    " sock_recv_into sock_recvfrom sock_recvfrom_into sock_sendall sock_sendto"
    " sock_sendfile sock_connect sock_accept"
)
_FORBIDDEN: Final = {
    "run_forever": "A workflow's loop is driven by the library; return from the task.",
    "run_until_complete": "Use await.",
    "stop": "Return from the workflow instead.",
    "close": "Return from the workflow instead.",
    "set_default_executor": "Workflows have no threads. " + _IN_ACTIVITY,
    "shutdown_default_executor": "Workflows have no threads.",
    "set_task_factory": "The order of tasks is part of the history.",
    "set_exception_handler": "Handle exceptions where they are raised.",
    "set_debug": "Debug mode has no meaning here.",
    **dict.fromkeys(_OUTSIDE.split(), _IN_ACTIVITY),
    "add_signal_handler": "Signals of the process belong to the program, not to a run.",
    "remove_signal_handler": "Signals of the process belong to the program.",
}


def _forbidden_method(name: str, advice: str) -> Callable[..., NoReturn]:
    def forbidden(self: DeterministicLoop, *_: Any, **__: Any) -> NoReturn:
        self.forbid(f"loop.{name}()", advice)

    forbidden.__name__ = name
    return forbidden


for _name, _advice in _FORBIDDEN.items():
    setattr(DeterministicLoop, _name, _forbidden_method(_name, _advice))


def make_loop(owner: LoopOwner, seed: int) -> DeterministicLoop:
    """Make the loop of one run."""
    # The abstract methods that checkers miss are the refusals set above.
    make: Callable[[LoopOwner, int], DeterministicLoop] = DeterministicLoop
    return make(owner, seed)


def loop_delay(seconds: float) -> int:
    """What asyncio asks for, in microseconds."""
    if not seconds <= limits.DURATION_SECONDS_MAX:
        raise InvalidDurationError(
            f"Workflow code asked to wait for {seconds!r} s; the limit is"
            f" {limits.DURATION_SECONDS_MAX} s (100 years).",
            hint="To wait without end, wait for an asyncio.Event instead.",
        )
    return max(1, round(seconds * 1_000_000))
