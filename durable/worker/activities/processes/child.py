"""What runs in a process of a worker: one attempt after the other, in its main thread.

A thread hears what the worker says, another one tells it what there is to tell. If the
worker is gone, the process is, too. It does not end by the signals that a terminal or a
service manager sends to all processes of a group: its worker waits for what runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import inspect
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, Final, cast

from durable.api.activities.activity import Activity
from durable.api.activities.activity_context import CURRENT, ActivityContext
from durable.api.activities.interruption import Interruption
from durable.api.activities.worker_stopping import WorkerStopping
from durable.converter.failures import failure_of
from durable.core.history.payload import Payloads
from durable.errors import DefinitionError
from durable.observer import Measurement, WorkerObserver
from durable.worker.activities.plain_calls import call_plain, exit_error, keep_result
from durable.worker.activities.processes import carrying
from durable.worker.activities.processes import messages as told

_READ_BYTES: Final = 256 * 1024
# Lines of a log that wait to be told; what is said beyond that is counted, and dropped.
_BEAT: Final = b""
"""Stands in the queue for the last heartbeat."""
_LINES_MAX: Final = 10_000
_PR_SET_PDEATHSIG: Final = 1


class Child:
    """This process, as its worker sees it."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._sending = threading.Lock()
        self._outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._jobs: queue.SimpleQueue[told.Job | None] = queue.SimpleQueue()
        self._worker_stopping = WorkerStopping()
        self._current: tuple[int, ActivityContext] | None = None
        self._stop: told.Stop | None = None
        self._dropped = 0
        self._beat: told.Beat | None = None

    def serve(self) -> None:
        """Run what comes, until the worker lets this process go."""
        logging.getLogger().addHandler(_Telling(self))
        for listen in (self._hear, self._tell):
            threading.Thread(target=listen, daemon=True).start()
        while (job := self._jobs.get()) is not None:
            self._run(job)
            with contextlib.suppress(Exception):  # whatever the user put there
                sys.stdout.flush()
                sys.stderr.flush()

    # --- what the worker says ---------------------------------------------------------

    def _hear(self) -> None:
        unpacker = told.Unpacker()
        with contextlib.suppress(OSError):
            while data := self._link.recv(_READ_BYTES):
                for message in unpacker.feed(data):
                    self._heard(message)
        os._exit(1)  # the worker is gone, and nobody wants what is done here

    def _heard(self, message: Any) -> None:
        if isinstance(message, told.Job):
            self._jobs.put(message)
        elif isinstance(message, told.Stop):
            self._stop = message
            self._stop_current()
        elif isinstance(message, told.WorkerStops):
            self._worker_stopping.begin()
        else:
            self._jobs.put(None)

    def _stop_current(self) -> None:
        """Ask the attempt that runs to stop, if that is the one which is meant."""
        current, stop = self._current, self._stop
        if current is None or stop is None or stop.number != current[0]:
            return
        context = current[1]
        context.cancel(stop.reason)
        if context.interruption is not None:
            context.interruption.insist()

    # --- what the worker is told ------------------------------------------------------

    def _tell(self) -> None:
        while True:
            data = self._outgoing.get()
            if data != _BEAT:
                self.tell_now(data)
                continue
            beat, self._beat = self._beat, None
            if beat is not None:
                self.tell_now(told.pack(beat))

    def tell_now(self, data: bytes) -> None:
        """Tell it before anything else is done."""
        try:
            with self._sending:
                self._link.sendall(data)
        except OSError:
            os._exit(1)

    def tell(self, message: object) -> None:
        """Tell it soon, in order. Being interrupted meanwhile does no harm."""
        self._outgoing.put(told.pack(message))

    def beat(self, number: int, details: Payloads) -> None:
        """Tell a heartbeat soon; of several that wait the last is enough."""
        waits = self._beat is not None
        self._beat = told.Beat(number, details)
        if not waits:
            self._outgoing.put(_BEAT)

    def say(self, record: logging.LogRecord) -> None:
        """Tell what is logged, as long as the worker keeps up with it."""
        current = self._current
        if current is None or self._outgoing.qsize() >= _LINES_MAX:
            self._dropped += 1
        else:
            self.tell(told.Said(current[0], _portable(record)))

    # --- an attempt -------------------------------------------------------------------

    def _run(self, job: told.Job) -> None:
        if job.begin_by is not None and time.monotonic() > job.begin_by:
            self.tell(told.NotBegun(job.number))
            return
        context = ActivityContext(
            job.info,
            watch=cast("WorkerObserver", _Watch(self, job.number))
            if job.is_measured
            else None,
            worker_stopping=self._worker_stopping,
            beat=lambda _, details: self.beat(job.number, details),
            interruption=Interruption() if job.cancel_thread else None,
        )
        self.tell_now(told.pack(told.Begun(job.number)))
        self._current = job.number, context
        self._stop_current()  # it may have been asked to before
        _set_levels(job.levels)
        outcome = contextvars.Context().run(self._outcome, job, context)
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            logging.getLogger("durable.worker").warning(
                "%d lines that activity %r has logged were dropped: there were more"
                " than the worker could take.",
                dropped,
                job.name,
            )
        self._current = None
        self._outgoing.put(_BEAT)  # what the attempt said last comes before its end
        self.tell(outcome)

    def _outcome(self, job: told.Job, context: ActivityContext) -> told.Outcome:
        CURRENT.set(context)
        number = job.number
        try:
            activity = carrying.load(job.name, job.module, job.code)
        except BaseException as error:  # noqa: BLE001 - a module's own code may raise anything
            error.add_note(
                f"raised while activity {job.name!r} was loaded in a process"
            )
            return told.Raised(number, failure_of(error))
        signature = activity.call_signature
        try:
            args, kwargs = signature.unbind(signature.decode(job.input))
        except Exception as error:  # noqa: BLE001 - a type's own code may raise anything
            return told.UnfitArguments(number, failure_of(error))
        try:
            result = _call(activity, args, kwargs, context)
        except BaseException as error:  # noqa: BLE001 - whatever an activity raises is its outcome
            return _ended_by(error, number, context)
        try:
            return told.Returned(number, signature.encode_result(result))
        except Exception as error:  # noqa: BLE001 - a value's own code may raise anything
            kept = keep_result(signature, result)
            return told.UnfitResult(number, failure_of(error), kept)


def _call(
    activity: Activity[Any, Any],
    args: list[Any],
    kwargs: Mapping[str, Any],
    context: ActivityContext,
) -> Any:
    result = call_plain(context.interruption, activity.function, args, kwargs)
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise DefinitionError(
            f"Activity {activity.name!r} runs in a process and gave a coroutine.",
            hint="Make it a plain function around no async one, or run it elsewhere.",
        )
    return result


def _ended_by(
    error: BaseException, number: int, context: ActivityContext
) -> told.Outcome:
    if not isinstance(error, asyncio.CancelledError):
        return told.Raised(number, failure_of(error))
    if context.is_cancelled:
        return told.Stopped(number)
    return told.Raised(number, failure_of(exit_error(error)))


# --- logging and measuring ------------------------------------------------------------


class _Telling(logging.Handler):
    """Hands what is logged here to the worker, whose handlers know where it belongs."""

    def __init__(self, child: Child) -> None:
        super().__init__()
        self._child = child

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._child.say(record)
        except Exception:  # noqa: BLE001 - as all handlers do
            self.handleError(record)


def _portable(record: logging.LogRecord) -> logging.LogRecord:
    """A record whose parts can be pickled, with its text made here."""
    made = logging.makeLogRecord(vars(record))
    made.msg, made.args = record.getMessage(), None
    if record.exc_info:
        made.exc_text = logging.Formatter().formatException(record.exc_info)
        made.exc_info = None
    for name, value in list(vars(made).items()):
        if not isinstance(value, str | int | float | bool | None):
            try:
                told.pack(value)
            except Exception:  # noqa: BLE001 - a value's own code may raise anything
                setattr(made, name, repr(value))
    return made


def _set_levels(levels: dict[str, int]) -> None:
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


class _Watch:
    """Hands what an activity measures to the observer of its worker.

    Of all that an observer is told, only this comes from within an activity.
    """

    def __init__(self, child: Child, number: int) -> None:
        self._child = child
        self._number = number

    def measured(self, measurement: Measurement, **_: str) -> None:
        self._child.tell(told.Measured(self._number, measurement))

    def activity_span(self, *_: object) -> AbstractContextManager[None]:
        """None: spans belong to the worker's process."""
        return contextlib.nullcontext()


# --- the process ----------------------------------------------------------------------


def main(handle: int, parent: int, argv: list[str]) -> None:
    """Be a process of a worker.

    Args:
        handle: the socket to it, as a file descriptor; on Windows, where that cannot be
            inherited, how many bytes of stdin describe it.
        parent: the worker's process id.
        argv: `sys.argv` of the program.
    """
    sys.argv = argv
    if sys.platform == "win32":
        link = socket.fromshare(sys.stdin.buffer.read(handle))
    else:
        link = socket.socket(fileno=handle)
        link.set_inheritable(False)
    # Not ignored: what is ignored is inherited by the programs that activities start.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _do_nothing)
    _die_with(parent)
    Child(link).serve()


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """The worker decides when this process ends."""


def _die_with(parent: int) -> None:
    """End even in the middle of a long call in C, if the parent does."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it has ended before that
            os._exit(1)
