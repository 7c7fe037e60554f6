"""Keeps several processes of one worker command alive, and ends them in order.

They are started as any command is, and share nothing but the database. The first one
begins alone: what is wrong with the command is so told once, and a database that is to
be upgraded is upgraded by one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from durable.cli.health.report import Health, ProcessHealth, sum_up
from durable.cli.processes.link import HEALTH, KeeperEnd
from durable.cli.reporting import ExitCode

_log: Final = logging.getLogger("durable.cli")

_FIRST_PAUSE_SECONDS: Final = 1.0
_PAUSE_SECONDS_MAX: Final = 30.0
# A process that has lived so long was well: its end is not one of a row.
_LONG_LIFE_SECONDS: Final = 60.0


class Pauses:
    """How long to wait before a process is started again."""

    def __init__(self) -> None:
        self._next = _FIRST_PAUSE_SECONDS

    def after(self, lived: float) -> float:
        """The pause after a life of so many seconds: longer with each short one."""
        if lived >= _LONG_LIFE_SECONDS:
            self._next = _FIRST_PAUSE_SECONDS
        pause = self._next
        self._next = min(2 * pause, _PAUSE_SECONDS_MAX)
        return pause


def describe_end(code: int) -> str:
    """Say how a process ended: by itself, or by a signal."""
    if code >= 0:
        return f"with exit code {code}"
    try:
        return f"by {signal.Signals(-code).name}"
    except ValueError:
        return f"by signal {-code}"


def command_of(arguments: Sequence[str]) -> list[str]:
    """The command line of a further `durable`, which finds the same modules."""
    here = os.getcwd()
    # `python -m` looks into the current folder first, and the script `durable` not.
    flags = [] if {"", here} & set(sys.path) else ["-P"]
    warnings = [f"-W{option}" for option in sys.warnoptions]
    return [sys.executable, *flags, *warnings, "-m", "durable", *arguments]


class Supervisor:
    """Keeps the processes of one command.

    Args:
        count: how many.
        arguments: makes those of a process, given its line to this one.
        environment: what each finds there.
        limit: how long draining may take, in seconds, until they are killed.

    Attributes:
        exit_code: how the command ends.
    """

    def __init__(
        self,
        count: int,
        arguments: Callable[[int], Sequence[str]],
        environment: dict[str, str],
        limit: float,
    ) -> None:
        self.arguments = arguments
        self.environment = environment
        self.stop = asyncio.Event()
        self.limit = limit
        self.exit_code = 0
        self.has_been_ready = asyncio.Event()
        self._places = [_Place(self, number) for number in range(1, count + 1)]

    async def keep(self, stop: asyncio.Event) -> None:
        """Keep them alive until it is told to stop; then drain them."""
        self.stop = stop
        _log.info("process %d keeps %d workers", os.getpid(), len(self._places))
        began = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for place in self._places:
                group.create_task(place.keep())
        codes = [place.code for place in self._places if place.code is not None]
        faults = (place.fault for place in self._places)
        self.exit_code = self.exit_code or next(filter(None, faults), 0)
        _log.info(
            "all stopped after %.0f s: %d processes, started again: %d times, ended %s",
            asyncio.get_running_loop().time() - began,
            len(self._places),
            sum(place.restarts for place in self._places),
            ", ".join(map(describe_end, codes)) or "before they began",
        )

    def give_up(self, code: int) -> None:
        """End, since no process can begin: it has said why."""
        self.exit_code = code
        self.stop.set()

    def kill(self) -> None:
        """End all processes at once; any thread may ask for it."""
        for place in self._places:
            place.kill()

    async def look(self, what: bytes = HEALTH) -> Health:
        """Say how all of them do."""
        processes = await asyncio.gather(*(place.look(what) for place in self._places))
        return sum_up(processes, is_draining=self.stop.is_set())


class _Place:
    """Where one process lives after the other."""

    def __init__(self, supervisor: Supervisor, number: int) -> None:
        self._supervisor = supervisor
        self._number = number
        self._pauses = Pauses()
        self._process: asyncio.subprocess.Process | None = None
        self._line: KeeperEnd | None = None
        self._has_lived = False
        self._is_ready = False
        self.restarts = 0
        self.code: int | None = None
        """How its process ended, once it is to have none any more."""

    @property
    def fault(self) -> int:
        """The exit code for an end that was not in order, else 0."""
        if not self.code or (self.code == -signal.SIGTERM and not self._is_ready):
            return 0
        return 128 - self.code if self.code < 0 else self.code

    async def keep(self) -> None:
        """Keep a process alive here until all are to drain."""
        supervisor, loop = self._supervisor, asyncio.get_running_loop()
        if self._number > 1:
            await _first(supervisor.has_been_ready, supervisor.stop)
        while not supervisor.stop.is_set():
            began = loop.time()
            code = await self._live()
            lived = loop.time() - began
            if supervisor.stop.is_set():
                self.code = code
            elif code > 0 and not supervisor.has_been_ready.is_set():
                supervisor.give_up(code)
            else:
                await self._pause(code, lived)

    async def _pause(self, code: int, lived: float) -> None:
        pause = self._pauses.after(lived)
        _log.warning(
            "process %d ended %s after %.1f s; another one is started in %g s",
            self._number,
            describe_end(code),
            lived,
            pause,
        )
        await _first(self._supervisor.stop, timeout=pause)
        self.restarts += not self._supervisor.stop.is_set()

    async def _live(self) -> int:
        """Start a process, and wait for its end."""
        line = KeeperEnd()
        self._has_lived, self._is_ready = True, False
        try:
            process = await self._start(line.descriptor)
        except OSError as error:
            line.close()
            _log.error("process %d cannot be started: %s", self._number, error)
            return ExitCode.ERROR
        self._process, self._line = process, line
        listening = asyncio.create_task(line.listen(self._ready))
        ended = asyncio.create_task(process.wait())
        try:
            await _first(self._supervisor.stop, ended)
            if not ended.done():
                await self._drain(process, line, ended)
            return await ended
        finally:
            self._process = None
            # A process that it started may hold the line open.
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            line.close()

    async def _start(self, descriptor: int) -> asyncio.subprocess.Process:
        supervisor = self._supervisor
        return await asyncio.create_subprocess_exec(
            *command_of(supervisor.arguments(descriptor)),
            env=supervisor.environment,
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[descriptor],
            # A terminal signals all processes of a group; they are told in order.
            process_group=0,
        )

    def _ready(self) -> None:
        self._is_ready = True
        self._supervisor.has_been_ready.set()

    async def _drain(
        self,
        process: asyncio.subprocess.Process,
        line: KeeperEnd,
        ended: asyncio.Task[int],
    ) -> None:
        if self._is_ready:
            line.drain()
        else:  # it does not listen yet, and has nothing under way
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        await _first(ended, timeout=self._supervisor.limit)
        if not ended.done():
            _log.warning(
                "process %d does not end and is killed; other workers take over what"
                " it had",
                self._number,
            )
            self.kill()

    def kill(self) -> None:
        """End the process at once, if there is one."""
        process = self._process
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    async def look(self, what: bytes) -> ProcessHealth:
        """Say how its process does."""
        process, line = self._process, self._line
        told = ProcessHealth(
            status="restarting" if self._has_lived else "starting",
            number=self._number,
            restarts=self.restarts,
        )
        if process is None or line is None or line.has_ended:
            return told
        health = await line.ask(what) if self._is_ready else None
        if health is not None:
            told = msgspec.structs.replace(
                health, number=self._number, restarts=self.restarts
            )
        elif not self._is_ready:
            told = msgspec.structs.replace(told, status="starting")
        elif not line.has_ended:
            told = msgspec.structs.replace(told, status="silent")
        return msgspec.structs.replace(told, pid=process.pid)


async def _first(
    *waits: asyncio.Event | asyncio.Task[int], timeout: float | None = None
) -> None:
    """Wait until one of these is there, or the time is up."""
    own = [asyncio.create_task(w.wait()) for w in waits if isinstance(w, asyncio.Event)]
    tasks = [w for w in waits if isinstance(w, asyncio.Task)]
    try:
        await asyncio.wait(
            [*own, *tasks], timeout=timeout, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        for task in own:
            task.cancel()
