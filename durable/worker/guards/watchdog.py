"""Notices code that holds the event loop's thread: a workflow's or an activity's.

One daemon thread. A workflow task that goes on for too long is named with its line and
interrupted, since workflow code has nothing to wait for in Python; an activity that
blocks the loop is named with its line and left alone, since its effects are its own.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import traceback
from types import FrameType
from typing import Final

from durable.api.activities.thread_exceptions import (
    frame_of,
    may_interrupt,
    raise_in,
    withdraw,
)
from durable.core.loop.user_code import Owner, frames_in_turn, owner_of, users_frame
from durable.core.replay.replayer import Replayer
from durable.errors import WorkflowBlockedError
from durable.runs.live_run import LiveRun
from durable.worker.log_lines import extra_of, name_of

_log: Final = logging.getLogger("durable.worker")
_STEP_SECONDS_MIN: Final = 0.005
_AIM_SECONDS: Final = 0.001
"""How long to wait until the thread is looked at again, for a place to interrupt it."""
_LOOKS_MAX: Final = 200
"""How often to look for a line of the user's code, if the thread is elsewhere then."""
_FRAMES_SHOWN: Final = 20


class Watchdog:
    """Watches one event loop's thread.

    Args:
        loop: the loop that workflow tasks and async activities run on.
        limit: how many seconds code may hold the thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        self._loop = loop
        self._limit = limit
        self._thread_id = threading.get_ident()
        self._lock = threading.Lock()
        self._turn: LiveRun | None = None
        self._turn_number = 0
        self._replayer: Replayer | None = None
        self._is_interrupted = False
        self._place = ""  # the line that held the thread last, if it was seen
        self._beat = 0
        self._answered = 0
        self._is_blocked_reported = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._watch, name="durable-watchdog", daemon=True
        )
        self._thread.start()

    def enter(self, run: LiveRun) -> None:
        """A workflow task of `run` begins in the watched thread."""
        self._replayer = run.replayer
        self._turn_number += 1
        self._turn = run

    def leave(self) -> bool:
        """It has ended. True if it was interrupted, whatever it made of that.

        Raises:
            WorkflowBlockedError: the interruption arrived only now; call it again.
        """
        with self._lock:
            self._turn = self._replayer = None
            interrupted, self._is_interrupted = self._is_interrupted, False
            if interrupted:
                # What was not delivered yet must not hit innocent code.
                withdraw(self._thread_id)
        return interrupted

    def error(
        self, workflow_id: str, raised: BaseException | None
    ) -> WorkflowBlockedError:
        """What becomes of a turn that was interrupted, and raised that, if it did."""
        place = f" at {self._place}" if self._place else ""
        error = WorkflowBlockedError(
            f"Workflow code of run {workflow_id!r} held its thread{place} for too long"
            " and was interrupted."
        )
        return error.with_traceback(None if raised is None else raised.__traceback__)

    def stop(self) -> None:
        """Stop watching."""
        self._stopping.set()

    def _watch(self) -> None:
        patience = Patience(self._limit)
        step = pause = max(self._limit / 8, _STEP_SECONDS_MIN)
        while not self._stopping.wait(pause):
            pause = step
            turn, replayer, number = self._turn, self._replayer, self._turn_number
            if self._loop.is_closed():
                return
            if turn is None or replayer is None:
                patience.forget()
                self._check_loop()
            # A replay drives one recorded turn after the other: each has its time.
            elif patience.is_out((number, replayer.task_count), time.monotonic()):
                pause = _AIM_SECONDS
                if not patience.is_said:
                    patience.is_said = self._name(turn, replayer, patience)
                if patience.is_said and self._interrupt(number):
                    patience.forget()
                    pause = step

    def _name(self, turn: LiveRun, replayer: Replayer, patience: Patience) -> bool:
        """Name the user's line; False to look again when the thread is there.

        Tasks that wake each other in a circle are in the loop's code at times.
        """
        frame = frame_of(self._thread_id)
        patience.looks += 1
        if users_frame(frame) is None and patience.looks < _LOOKS_MAX:
            return False
        self._place = replayer.users_place(frame)
        _log.error(
            "Workflow task of run %s has held its thread for %.1f s at %s."
            " It is interrupted; the run will park if this goes on.\n%s",
            name_of(turn),
            self._limit,
            self._place or _place(frame),
            _stack(frame),
            extra=extra_of(turn),
        )
        return True

    def _interrupt(self, number: int) -> bool:
        """Raise in the user's code; False if the thread is elsewhere just now."""
        with self._lock:
            if self._turn is None or self._turn_number != number:
                return False
            if not may_interrupt(frame_of(self._thread_id)):
                return False
            self._is_interrupted = True
            raise_in(self._thread_id, WorkflowBlockedError)
            return True

    def _check_loop(self) -> None:
        """See whether the loop answers; if not, name what holds it."""
        if self._beat == self._answered:
            self._is_blocked_reported = False
            self._sent_at = time.monotonic()
            if asyncio.current_task(self._loop) is None:
                return  # asleep or between callbacks: do not wake it for nothing
            self._beat += 1
            beat = self._beat
            try:
                self._loop.call_soon_threadsafe(self._answer, beat)
            except RuntimeError:  # the loop is closed
                self._stopping.set()
        elif (
            not self._is_blocked_reported
            and time.monotonic() - self._sent_at >= self._limit
        ):
            self._is_blocked_reported = True
            frame = frame_of(self._thread_id)
            task = asyncio.current_task(self._loop)
            _log.error(
                "%s has blocked the worker's event loop for %.1f s at %s. Nothing else"
                " runs meanwhile; make the activity a plain function, so that it runs"
                " in a thread, or await instead of blocking.\n%s",
                task.get_name() if task is not None else "A callback",
                self._limit,
                _place(frame),
                _stack(frame),
            )

    def _answer(self, beat: int) -> None:
        self._answered = beat


class Patience:
    """How long one thing has gone on, as seen now and then.

    Args:
        limit: after how many seconds patience is out.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self.forget()

    def forget(self) -> None:
        """Whatever is seen next is new."""
        self._seen: object = None
        self._since = 0.0
        self.is_said = False
        """Somebody was told that it is out."""
        self.looks = 0
        """How often somebody has looked for what there is to say."""

    def is_out(self, thing: object, now: float) -> bool:
        """Whether `thing` was there since `limit` seconds before `now`."""
        if thing != self._seen:
            self.forget()
            self._seen, self._since = thing, now
        return now - self._since >= self._limit


def _place(frame: FrameType | None) -> str:
    """The innermost line of the user's code, or else of whatever runs."""
    frame = users_frame(frame) or frame
    if frame is None:
        return "an unknown line"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _stack(frame: FrameType | None) -> str:
    """The user's lines in the turn, the innermost last; all others are only counted."""
    frames = list(frames_in_turn(frame))
    shown = [each for each in frames if not _is_folded(each)][:_FRAMES_SHOWN]
    text = "".join(
        traceback.format_list(
            traceback.StackSummary.extract(
                (each, each.f_lineno) for each in shown[::-1]
            )
        )
    )
    folded = len(frames) - len(shown)
    return f"{text}  ({folded} frames of durable and Python not shown)" * bool(frames)


def _is_folded(frame: FrameType) -> bool:
    return owner_of(frame.f_code.co_filename) in (Owner.DURABLE, Owner.STDLIB)
