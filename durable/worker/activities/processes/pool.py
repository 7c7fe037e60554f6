"""The processes of one worker: begun when they are needed, and again when they die.

They are new interpreters, never forks of this one, whose threads may hold any lock. An
event loop's transports carry what is said, so that nobody ever waits for a process to
listen; a thread for each waits for its end. One that dies takes its attempt along, and
nothing else.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import contextvars
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.spawn import get_executable
from types import FrameType
from typing import Any, Final

from durable.api.activities.activity_context import ActivityCancellationReason
from durable.core.history.payload import Payloads
from durable.observer import Measurement
from durable.worker.activities.activity_threads import NotBegunError
from durable.worker.activities.processes import messages as told

_log: Final = logging.getLogger("durable.worker")
# What is asked to stop and does not is killed after so long.
KILL_SECONDS: Final = 5.0
# A process that has nothing to do for so long ends.
IDLE_SECONDS: Final = 60.0
# How long processes may take to end that have nothing to do.
_LEAVE_SECONDS: Final = 0.5
# What a process has said before its end is there by then.
_LAST_WORDS_SECONDS: Final = 0.5


class ProcessLostError(Exception):
    """The process that ran a function has died in the middle of it."""


class ProcessCall:
    """One call in a process, and whether that is free again.

    Args:
        name: how the log names the attempt.
        make_job: the job, once a process is there for it.
        on_end: called once the process is free again, or gone.
        measured: told what it measures.
        beat: told its heartbeats.
    """

    def __init__(
        self,
        name: str,
        make_job: Callable[[int], told.Job],
        on_end: Callable[[], None],
        measured: Callable[[Measurement], None],
        beat: Callable[[Payloads], None],
    ) -> None:
        self.name = name
        self.make_job = make_job
        self.on_end = on_end
        self.measured = measured
        self.beat = beat
        self.context = contextvars.copy_context()
        self.outcome: concurrent.futures.Future[told.Outcome]
        self.outcome = concurrent.futures.Future()
        self.has_ended = False
        self.has_begun = False
        self._process: Process | None = None
        self._reason: ActivityCancellationReason | None = None
        self._killer: threading.Timer | None = None

    def run(self) -> None:
        """What an executor is given: a process runs it."""

    def frame(self) -> FrameType | None:
        """None: where a process is, nobody here can tell."""
        return None

    def given_to(self, process: Process) -> None:
        """A process runs it now."""
        self._process = process
        if self._reason is not None:
            self._ask_to_stop(process, self._reason)

    def interrupt(self, reason: ActivityCancellationReason) -> None:
        """Ask it to stop; if it does not, its process is killed."""
        if self._reason is None and not self.has_ended:
            self._reason = reason
            if self._process is not None:
                self._ask_to_stop(self._process, reason)

    def _ask_to_stop(
        self, process: Process, reason: ActivityCancellationReason
    ) -> None:
        process.send(told.Stop(process.number, reason))
        # A thread's timer: the loop's time may be a test's, which stands still now.
        self._killer = threading.Timer(KILL_SECONDS, process.kill_soon, (self,))
        self._killer.daemon = True
        self._killer.start()

    @property
    def was_asked_to_stop(self) -> bool:
        """Whether it may have been killed for not stopping."""
        return self._reason is not None

    def end(self, outcome: told.Outcome | Exception) -> None:
        """It has ended like this, and its process is free or gone."""
        if self.has_ended:
            return
        self.has_ended = True
        if self._killer is not None:
            self._killer.cancel()
        self._process = None
        self.on_end()
        # Cancelled by who has waited for it, it runs on unheard.
        if self.outcome.cancelled():
            return
        if isinstance(outcome, Exception):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class Process(asyncio.Protocol):
    """One process, and what it says."""

    def __init__(self, pool: ActivityProcesses, popen: subprocess.Popen[bytes]) -> None:
        self._pool = pool
        self._popen = popen
        self._unpacker = told.Unpacker()
        self._transport: asyncio.WriteTransport | None = None
        self._loop = asyncio.get_running_loop()
        self._is_silent = False
        self._exit_code: int | None = None
        self.call: ProcessCall | None = None
        self.number = 0
        self.idle_since = 0.0
        self.may_leave = False
        self.is_over = False
        threading.Thread(
            target=self._await_end, name=f"durable-process_{popen.pid}", daemon=True
        ).start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # that of a socket can write

    def data_received(self, data: bytes) -> None:
        for message in self._unpacker.feed(data):
            self._heard(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_silent = True
        if self._exit_code is None:
            self.kill()  # it can be told nothing any more
        else:
            self._end()

    # --- what it is told --------------------------------------------------------------

    def send(self, message: object) -> None:
        """Tell it something, without waiting until it listens."""
        if self._transport is not None and not self._is_silent:
            self._transport.write(told.pack(message))

    def take(self, call: ProcessCall) -> None:
        """Run a call; it has none."""
        self.number += 1
        self.call = call
        try:
            job = call.make_job(self.number)
        except Exception as error:  # noqa: BLE001 - what the user's function refers to may raise anything
            self.call = None
            call.end(error)
            self._pool.is_free(self)
            return
        self.send(job)
        call.given_to(self)

    def let_go(self) -> None:
        """It may end."""
        self.may_leave = True
        self.send(told.Leave())

    def kill(self) -> None:
        """End it at once; any thread may do that."""
        with contextlib.suppress(OSError):
            self._popen.kill()

    def abandon(self) -> None:
        """End it at once, and hear no more of it."""
        self.kill()
        if self._transport is not None and not self._loop.is_closed():
            self._transport.abort()

    def kill_soon(self, call: ProcessCall) -> None:
        """End it, if it still runs this call; any thread may ask."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._kill_for, call)

    def _kill_for(self, call: ProcessCall) -> None:
        if self.call is call:
            _log.warning(
                "Activity %s has not stopped within %g s of being asked to; its process"
                " (pid %d) is killed.",
                call.name,
                KILL_SECONDS,
                self.pid,
            )
            self.kill()

    # --- what it says -----------------------------------------------------------------

    def _heard(self, message: Any) -> None:
        call = self.call
        if call is None or message.number != self.number:
            return
        if isinstance(message, told.Begun):
            call.has_begun = True
        elif isinstance(message, told.Said):
            call.context.run(_log_here, message.record)
        elif isinstance(message, told.Beat):
            call.beat(message.details)
        elif isinstance(message, told.Measured):
            call.context.run(call.measured, message.measurement)
        else:
            self.call = None
            call.end(message)
            self._pool.is_free(self)

    def _await_end(self) -> None:
        code = self._popen.wait()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks
            self._loop.call_soon_threadsafe(self._ended, code)

    def _ended(self, code: int) -> None:
        self._exit_code = code
        if self._is_silent or self._transport is None:
            self._end()
        else:
            # What it said last may be on its way. Others may hold its end of the line.
            self._loop.call_later(_LAST_WORDS_SECONDS, self._end)

    def _end(self) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._transport is not None:
            self._transport.abort()
        call, self.call = self.call, None
        how = _in_words(self._exit_code)
        if call is not None:
            what = f"the process that ran it (pid {self.pid}) {how}"
            call.end(ProcessLostError(what) if call.has_begun else NotBegunError(what))
        self._pool.is_gone(self, call, how)


def _in_words(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _log_here(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class ActivityProcesses(concurrent.futures.Executor):
    """The processes of one worker.

    Args:
        size: how many there may be.

    Attributes:
        lost: how many have died, and were neither let go nor killed for ignoring that
            their attempt was to stop.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._processes: set[Process] = set()
        self._idle: list[Process] = []
        self._waiting: collections.deque[ProcessCall] = collections.deque()
        self._starting: set[asyncio.Task[None]] = set()
        self._retiring: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._all_gone: asyncio.Event | None = None
        self._is_stopping = False
        self.lost = 0

    @property
    def alive(self) -> int:
        """How many there are."""
        return len(self._processes)

    def call(self, work: ProcessCall) -> asyncio.Future[told.Outcome]:
        """Run something in a process, begun for it if none is free.

        The future raises `ProcessLostError` if that dies, and `NotBegunError` if it did
        so before; or what making the job has raised.
        """
        future: asyncio.Future[told.Outcome]
        future = asyncio.get_running_loop().run_in_executor(self, work.run)  # type: ignore[arg-type]  # submit() gives its outcome
        return future

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> concurrent.futures.Future[Any]:
        """Run a `ProcessCall.run`."""
        work: ProcessCall = fn.__self__  # type: ignore[attr-defined]  # by `call`
        self._waiting.append(work)
        self._serve()
        return work.outcome

    def _serve(self) -> None:
        while self._waiting and self._idle:
            call = self._waiting.popleft()
            if call.outcome.cancelled():
                call.end(NotBegunError("nobody waits for it"))
            else:
                self._idle.pop().take(call)
        wanted = len(self._waiting) - len(self._starting)
        for _ in range(min(wanted, self._size - self.alive - len(self._starting))):
            self._start()

    def worker_stops(self) -> None:
        """Tell all that the worker closes."""
        self._is_stopping = True
        for process in self._processes:
            process.send(told.WorkerStops())

    # --- their lives ------------------------------------------------------------------

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._begin())
        self._starting.add(task)
        task.add_done_callback(self._started)

    def _started(self, task: asyncio.Task[None]) -> None:
        self._starting.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._waiting:
            problem = f"no process could be started: {error}"
            self._waiting.popleft().end(NotBegunError(problem))

    async def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                popen = _spawn(theirs)
        except BaseException:
            ours.close()
            raise
        process = Process(self, popen)
        self._processes.add(process)
        try:
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: process, sock=ours)
        except BaseException:
            ours.close()
            process.kill()
            raise
        if self._is_stopping:
            process.send(told.WorkerStops())
        self.is_free(process)

    def is_free(self, process: Process) -> None:
        """A process has nothing to do."""
        if process.is_over:
            return
        if self._is_closed:
            process.let_go()
            return
        process.idle_since = time.monotonic()
        self._idle.append(process)
        self._serve()
        if self._retiring is None:
            self._retire()

    def _retire(self) -> None:
        """Let those end that had nothing to do for long."""
        self._retiring = None
        over = time.monotonic() - IDLE_SECONDS
        while self._idle and self._idle[0].idle_since <= over:
            self._idle.pop(0).let_go()
        if self._idle:
            loop = asyncio.get_running_loop()
            self._retiring = loop.call_later(IDLE_SECONDS / 2, self._retire)

    def is_gone(self, process: Process, call: ProcessCall | None, how: str) -> None:
        """A process has ended."""
        self._processes.discard(process)
        with contextlib.suppress(ValueError):
            self._idle.remove(process)
        if self._is_closed:
            if self._all_gone is not None and not self._processes:
                self._all_gone.set()
            return
        is_expected = process.may_leave if call is None else call.was_asked_to_stop
        if not is_expected:
            self.lost += 1
            _log.warning(
                "The process %s (pid %d) %s; another takes its place.",
                "without work" if call is None else f"of activity {call.name}",
                process.pid,
                how,
            )
        self._serve()
        # Whoever comes next need not wait for it; but what dies at its beginning would
        # do so again and again.
        has_worked = process.number > 0 and (call is None or call.has_begun)
        is_short = self.alive + len(self._starting) < self._size
        if has_worked and is_short and not (is_expected and call is None):
            self._start()

    async def close(self) -> None:
        """End all: those that have nothing to do by themselves, the others at once."""
        self._is_closed = True
        if self._retiring is not None:
            self._retiring.cancel()
        while self._waiting:
            self._waiting.popleft().end(NotBegunError("the worker has closed"))
        for task in [*self._starting]:
            task.cancel()
        for process in [*self._processes]:
            if process.call is None:
                process.let_go()
            else:
                process.kill()
        if self._processes:
            self._all_gone = asyncio.Event()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._all_gone.wait()
        self.abandon()
        await asyncio.sleep(0)  # now transports close what they have

    def abandon(self) -> None:
        """Kill what there is; nothing is waited for."""
        self._is_closed = True
        for process in self._processes:
            process.abandon()


def _spawn(link: socket.socket) -> subprocess.Popen[bytes]:
    """Begin a process that has the other end of a socket."""
    shares = sys.platform == "win32"
    handle = 0 if shares else link.fileno()
    home = "durable.worker.activities.processes.child"
    argv = list(getattr(sys, "argv", []))
    code = f"import sys; sys.path[:] = {sys.path!r}; from {home} import main; main("
    if shares:
        return _spawn_and_share(link, code, argv)
    code += f"{handle}, {os.getpid()}, {argv!r})"
    return subprocess.Popen(  # noqa: S603 - this interpreter, and code from above
        [get_executable(), *_interpreter_flags(), "-c", code],
        stdin=subprocess.DEVNULL,
        pass_fds=(handle,),
    )


def _spawn_and_share(
    link: socket.socket, code: str, argv: list[str]
) -> subprocess.Popen[bytes]:
    """The same on Windows, where a socket is shared with a process that is there."""
    share: Any = link
    # How many bytes a share takes is the same for all.
    size = len(share.share(os.getpid()))
    code += f"{size}, {os.getpid()}, {argv!r})"
    popen = subprocess.Popen(  # noqa: S603 - likewise
        [get_executable(), *_interpreter_flags(), "-c", code], stdin=subprocess.PIPE
    )
    assert popen.stdin is not None  # noqa: S101 - it is a pipe
    with popen.stdin as stdin:
        stdin.write(share.share(popen.pid))
    return popen


def _interpreter_flags() -> list[str]:
    """Those of this interpreter, as multiprocessing hands them on."""
    known: Mapping[str, Any] = vars(subprocess)
    flags: list[str] = known["_args_from_interpreter_flags"]()
    return flags
