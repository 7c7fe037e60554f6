"""What a run does with its messages: handlers, channels, updates, queries.

A signal goes to the handler of its name, else to the handler of all names, else it is
kept in arrival order until somebody receives it or a handler is set. Handlers are
started in arrival order, before whatever else a turn brings. A signal that the code
cannot decode becomes a dead letter: recorded, set aside, never dropped.

Once it is decided that the run continues as new, nothing more is handed out in its last
turn: what the code saw now, the next run would never know of. Signals go on to that run
as unread, and updates are left for it.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import inspect
import zlib
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, TypeVar

from msgspec import UNSET

from durable.core.history.commands import CompleteWorkflowExecutionUpdate
from durable.core.history.events import (
    UnreadSignal,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
)
from durable.core.history.payload import Failure, Payload, Payloads
from durable.core.loop.loop import DeterministicLoop
from durable.core.loop.teardown import RunTornDown
from durable.core.machines.fact import DeadLetter, DeadLetterEntry, FactEntry
from durable.core.machines.machine import Entry
from durable.core.runtime import Handler, MessageKind, WorkflowCode, find_continuation
from durable.core.workflow_task import UpdateRequest
from durable.errors import (
    NondeterminismError,
    QueryFailedError,
    ReadOnlyError,
    UndecodableError,
)
from durable.suggestions import ending_with_closest

T = TypeVar("T")
_UpdateMessage = UpdateRequest | WorkflowExecutionUpdateAccepted
_current_update: Final[contextvars.ContextVar[tuple[str, str]]] = (
    contextvars.ContextVar("durable_update")
)
# Numbers of update tasks are far from those of all others: a rejected update leaves no
# trace, so it may not use up a number.
_UPDATE_NUMBERS: Final = 1 << 40


class Run(Protocol):
    """What a mailbox asks of the run it belongs to."""

    started: WorkflowExecutionStarted
    code: WorkflowCode
    loop: DeterministicLoop
    is_replaying: bool
    is_continuing: bool

    def send(self, entry: Entry) -> None:
        """Take a command."""
        ...

    def handler_raised(self, error: BaseException) -> None:
        """Judge what left a handler."""
        ...

    def reading_only(self, what: str) -> AbstractContextManager[None]:
        """Refuse all changes while a query or a validator runs."""
        ...

    def refuse_if_read_only(self, what: str) -> None:
        """Raise if a query or a validator runs."""
        ...

    def report_unhandled(self, context: dict[str, Any]) -> None:
        """Log something, unless it is only replayed."""
        ...


class Mailbox:
    """The messages of one run.

    Attributes:
        signal_count: signals the run has had; a signal's number is its place in that.
        dead: signals that history says were set aside.
        accepted: live updates that were accepted in this turn.
        admitted: the update whose validator was asked before the turn, if any.
        rejected: live updates that were refused in this turn, and why.
        updates: every accepted update by id, with its answer once it has one.
    """

    __slots__ = (
        "_buffers",
        "_context",
        "_handlers",
        "_unclaimed",
        "_waiters",
        "accepted",
        "admitted",
        "dead",
        "rejected",
        "signal_count",
        "unfinished",
        "updates",
    )

    def __init__(self, context: Run) -> None:
        self._context = context
        self._handlers: dict[MessageKind, dict[str | None, Handler]] = {
            "signal": {},
            "update": {},
            "query": {},
        }
        self._buffers: dict[str, collections.deque[UnreadSignal]] = {}
        # Woken in order of waiting; whoever runs first takes the oldest signal.
        self._waiters: dict[str, collections.deque[asyncio.Future[None]]] = {}
        self._unclaimed: list[_UpdateMessage] = []
        self.unfinished: dict[int, tuple[str, Handler]] = {}
        self.signal_count = 0
        self.dead: set[int] = set()
        self.accepted: set[str] = set()
        self.admitted: UpdateRequest | None = None
        self.rejected: dict[str, Failure] = {}
        self.updates: dict[str, WorkflowExecutionUpdateCompleted | None] = {}

    # --- handlers ---------------------------------------------------------------------

    def set_handler(
        self, kind: MessageKind, name: str | None, handler: Handler | None
    ) -> None:
        """Set a handler, and hand it what was kept for it."""
        handlers = self._handlers[kind]
        if handler is None:
            handlers.pop(name, None)
            return
        handlers[name] = handler
        if kind == "signal":
            for kept in [name] if name is not None else list(self._buffers):
                for signal in self._buffers.pop(kept, ()):
                    self._start_signal(handler, signal)
        elif kind == "update" and self._unclaimed:
            waiting, self._unclaimed = self._unclaimed, []
            for update in waiting:
                self.update(update)

    def _find(self, kind: MessageKind, name: str) -> Handler | None:
        handlers = self._handlers[kind]
        return handlers.get(name) or handlers.get(None)

    def known(self, kind: MessageKind, name: str) -> str:
        """End an error with the names that have a handler, and one that is like it."""
        names = sorted(name for name in self._handlers[kind] if name is not None)
        ending = ending_with_closest(name, names)
        return f"{', '.join(map(repr, names)) or 'none'}{ending}"

    @property
    def is_quiet(self) -> bool:
        """Whether no handler is under way and nobody waits for a signal."""
        return not (self.unfinished or self._unclaimed or any(self._waiters.values()))

    # --- signals ----------------------------------------------------------------------

    def signal(self, event: WorkflowExecutionSignaled) -> None:
        """Take a signal from history, or a live one."""
        self.signal_count += 1
        name, headers = event.signal_name, event.headers or UNSET
        self._take(UnreadSignal(self.signal_count, name, event.input, headers))

    def restore(self, unread: Iterable[UnreadSignal]) -> None:
        """Take the signals that a checkpoint carries on."""
        for signal in unread:
            self._take(signal)

    def _take(self, signal: UnreadSignal) -> None:
        handler = self._find("signal", signal.signal_name)
        if handler is not None:
            self._start_signal(handler, signal)
        else:
            self._keep(signal)

    def _keep(self, signal: UnreadSignal) -> None:
        """Keep a signal until somebody takes it; wake who has waited longest."""
        name = signal.signal_name
        self._buffers.setdefault(name, collections.deque()).append(signal)
        self._wake(name)

    def _wake(self, name: str) -> None:
        waiters = self._waiters.get(name)
        while waiters:
            waiter = waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def unread(self) -> tuple[UnreadSignal, ...]:
        """The signals that nobody has received, in order of arrival."""
        kept = [signal for buffer in self._buffers.values() for signal in buffer]
        kept.sort(key=lambda signal: signal.number)
        return tuple(kept)

    def _start_signal(self, handler: Handler, signal: UnreadSignal) -> None:
        name, headers = signal.signal_name, signal.headers or None
        call = self._decode(signal, lambda i: handler.bound(name, i, headers))
        if call is None:
            return
        loop = self._context.loop
        key = signal.number
        self.unfinished[key] = (f"signal {signal.signal_name!r}", handler)
        if handler.is_async:
            loop.create_task(
                self._run_signal(signal, call[0]), context=contextvars.Context()
            )
        else:
            loop.call_soon(
                self._call_signal, signal, call[0], context=contextvars.Context()
            )

    def _call_signal(self, signal: UnreadSignal, call: Callable[[], Any]) -> None:
        if self._is_left(signal):
            return
        try:
            call()
        except RunTornDown:
            raise
        except BaseException as error:  # noqa: BLE001 - the context judges it
            self._context.handler_raised(error)
        self.unfinished.pop(signal.number, None)

    async def _run_signal(
        self, signal: UnreadSignal, call: Callable[[], Coroutine[Any, Any, Any]]
    ) -> None:
        if self._is_left(signal):
            return
        try:
            await call()
        except RunTornDown:
            raise
        except BaseException as error:  # noqa: BLE001 - the context judges it
            self._context.handler_raised(error)
        self.unfinished.pop(signal.number, None)

    def _is_left(self, signal: UnreadSignal) -> bool:
        """Keep a signal for the next run, if there is to be one."""
        if not self._context.is_continuing:
            return False
        self.unfinished.pop(signal.number, None)
        self._keep(signal)
        return True

    def _decode(
        self, signal: UnreadSignal, decode: Callable[[Payloads], T]
    ) -> tuple[T] | None:
        """Decode a signal, in a tuple; or set it aside and give None."""
        if signal.number in self.dead:
            error: BaseException = UndecodableError("It was set aside before.")
        else:
            try:
                return (decode(signal.input),)
            except UndecodableError as refused:
                error = refused
        context = self._context
        failure = context.code.failure_of(error)
        letter = DeadLetter(
            signal.number,
            signal.signal_name,
            Failure(message=failure.message, type=failure.type),
        )
        context.send(DeadLetterEntry(letter))
        if not context.is_replaying:
            context.report_unhandled(
                {
                    "message": f"signal {signal.signal_name!r} cannot be decoded and"
                    " was set aside as a dead letter",
                    "exception": error,
                }
            )
        return None

    # --- channels ---------------------------------------------------------------------

    async def receive(self, name: str, decode: Callable[[Payloads], T]) -> T:
        """Wait for the next signal of that name which can be decoded."""
        while True:
            value = self._decode(await self._next(name), decode)
            if value is not None:
                return value[0]

    def receive_nowait(self, name: str, decode: Callable[[Payloads], T]) -> T:
        """The next signal of that name which can be decoded, if there is one."""
        while True:
            if not self._has_next(name):
                raise asyncio.QueueEmpty(f"No signal {name!r} waits.")
            value = self._decode(self._pop(name), decode)
            if value is not None:
                return value[0]

    def _has_next(self, name: str) -> bool:
        return name in self._buffers and not self._context.is_continuing

    def _pop(self, name: str) -> UnreadSignal:
        self._context.refuse_if_read_only("Signal.receive()")
        buffer = self._buffers[name]
        signal = buffer.popleft()
        if not buffer:
            del self._buffers[name]
        return signal

    async def _next(self, name: str) -> UnreadSignal:
        while not self._has_next(name):
            waiters = self._waiters.setdefault(name, collections.deque())
            waiter: asyncio.Future[None] = self._context.loop.create_future()
            waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter in waiters:
                    waiters.remove(waiter)
                elif name in self._buffers and not self._context.loop.is_torn_down:
                    self._wake(name)  # another one may take what this was woken for
                raise
        return self._pop(name)

    # --- updates ----------------------------------------------------------------------

    def update(self, update: _UpdateMessage) -> None:
        """Start an update's handler, or keep the update until the turn's end."""
        handler = self._find("update", update.update_name)
        if handler is None:
            self._unclaimed.append(update)
            return
        key = -_UPDATE_NUMBERS - zlib.crc32(update.update_id.encode())
        self._context.loop.create_task(
            self._run_update(key, update, handler),
            name=f"update {update.update_id}",
            context=contextvars.Context(),
            number=-key,
        )

    def refuse_unclaimed(self) -> None:
        """Refuse the updates that no handler has claimed by the end of a turn."""
        unclaimed, self._unclaimed = self._unclaimed, []
        for update in unclaimed:
            if self._context.is_continuing and isinstance(update, UpdateRequest):
                continue  # the next run may have a handler
            what = (
                f"No handler of update {update.update_name!r} is set; there are"
                f" handlers of {self.known('update', update.update_name)}"
            )
            if not isinstance(update, UpdateRequest):
                raise NondeterminismError(
                    f"Run {self._context.started.workflow_id!r} accepted update"
                    f" {update.update_id!r} before. {what}"
                )
            self.rejected[update.update_id] = Failure(message=what, kind="server")

    def admit(self, update: UpdateRequest) -> bool:
        """Ask an update's validator outside of any turn; False if it refuses."""
        handler = self._find("update", update.update_name)
        if handler is None:
            self._unclaimed.append(update)
            self.refuse_unclaimed()
            return False
        if not self._is_valid(update, handler):
            return False
        self.admitted = update
        return True

    def _is_valid(self, update: UpdateRequest, handler: Handler) -> bool:
        if update is self.admitted:
            return True
        what = f"the validator of update {update.update_name!r}"
        token = _current_update.set((update.update_id, update.update_name))
        try:
            with self._context.reading_only(what):
                if handler.validate is None:
                    handler.bound(update.update_name, update.input, update.headers)
                else:
                    handler.validate(update.update_name, update.input)
        except ReadOnlyError:
            raise
        except Exception as error:  # noqa: BLE001 - this is how validators refuse
            if isinstance(error, UndecodableError):
                error = _as_received(error)
            self.rejected[update.update_id] = self._context.code.failure_of(error)
            return False
        finally:
            _current_update.reset(token)
        return True

    async def _run_update(
        self, key: int, update: _UpdateMessage, handler: Handler
    ) -> None:
        context = self._context
        try:
            if isinstance(update, UpdateRequest):
                if context.is_continuing:
                    return  # neither accepted nor refused: it is for the next run
                if not self._is_valid(update, handler):
                    return
                self.accepted.add(update.update_id)
            self.updates[update.update_id] = None
            _current_update.set((update.update_id, update.update_name))
            self.unfinished[key] = (
                f"update {update.update_name!r} (id {update.update_id!r})",
                handler,
            )
            name, input = update.update_name, update.input
            result = handler.bound(name, input, update.headers)()
            if handler.is_async:
                result = await result
            answer = CompleteWorkflowExecutionUpdate(
                update.update_id, handler.encode(result)
            )
        except RunTornDown:
            raise
        except BaseException as error:  # noqa: BLE001 - judged here
            if (
                isinstance(error, ReadOnlyError)
                or find_continuation(error) is not None
                or context.code.is_bug(error)
            ):
                context.handler_raised(error)
                return
            answer = CompleteWorkflowExecutionUpdate(
                update.update_id, failure=context.code.failure_of(error)
            )
        self.unfinished.pop(key, None)
        self.updates[update.update_id] = WorkflowExecutionUpdateCompleted(
            answer.update_id, answer.result, answer.failure
        )
        context.send(FactEntry(answer, "update_id"))

    def forget_judgements(self) -> None:
        """Begin a turn: what the last one accepted and refused was told."""
        if self.accepted or self.rejected:
            self.accepted, self.rejected = set(), {}

    def update_info(self) -> tuple[str, str] | None:
        """Id and name of the update whose handler this code belongs to."""
        return _current_update.get(None)

    # --- queries ----------------------------------------------------------------------

    def has_query(self, name: str) -> bool:
        """Whether the code handles a query of that name."""
        return name in self._handlers["query"]

    def query(
        self, name: str, input: Payloads, headers: dict[str, str] | None = None
    ) -> Payload:
        """Ask the code, which may change nothing."""
        handler = self._find("query", name)
        if handler is None:
            raise QueryFailedError(
                f"No handler of query {name!r} is set; besides the built-in 'stack'"
                f" there are handlers of {self.known('query', name)}"
            )
        with self._context.reading_only(f"query {name!r}"):
            try:
                call = handler.bound(name, input, headers)
            except UndecodableError as error:
                raise _as_received(error) from None
            answer = call()
            if inspect.iscoroutine(answer):
                answer.close()
                raise ReadOnlyError(
                    f"The handler of query {name!r} is async.",
                    hint="A query reads what is there: write a plain def.",
                )
            return handler.encode(answer)


def _as_received(error: UndecodableError) -> UndecodableError:
    """The same of a message that is refused, and so is never recorded."""
    message = error.message.replace(" was recorded, but", " was received, but", 1)
    message = message.replace(" were recorded for ", " were received for ", 1)
    return UndecodableError(message, hint="Send what its handler takes.")
