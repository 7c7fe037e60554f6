"""The line between the process that keeps workers and each of those.

Both ends write lines: the keeper `health`, `metrics` and `drain`, the worker `ready`
and JSON. A line that ends says that the other process has. A signal would not do for
`drain`: a service manager may have sent one to all of them, and the second ends a
worker at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import msgspec

from durable.cli.health.report import ProcessHealth
from durable.cli.signals import Stop
from durable.telling.prometheus_text import Family

_log: Final = logging.getLogger("durable.cli")

DRAIN: Final = b"drain\n"
HEALTH: Final = b"health\n"
METRICS: Final = b"metrics\n"
"""Asks for the same, with what its observer has."""
READY: Final = b"ready\n"

_Answer: TypeAlias = tuple[str, ProcessHealth]
# The database of a worker may take two of them to be given up.
_ANSWER_SECONDS_MAX: Final = 3.0
_LINE_BYTES_MAX: Final = 32 * 1024 * 1024


class WorkerEnd:
    """The worker's end.

    Args:
        descriptor: of the line, which no process that the worker starts may keep open.
        look: says how this process does.
        scrape: what its observer has.
        stop: set once it drains.
    """

    def __init__(
        self,
        descriptor: int,
        look: Callable[[], Awaitable[ProcessHealth]],
        scrape: Callable[[], Sequence[Family]],
        stop: Stop,
    ) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._look = look
        self._scrape = scrape
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._looking: set[asyncio.Task[None]] = set()
        # It must hear of the end though the event loop is held up.
        threading.Thread(target=self._listen, name="keeper-line", daemon=True).start()

    def tell_ready(self) -> None:
        """Tell the keeper that the workers are ready."""
        self._write(READY)

    def _write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # the listening thread notices as well
            self._socket.sendall(line)

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                if line == DRAIN:
                    self._drain()
                elif line in (HEALTH, METRICS):
                    with contextlib.suppress(RuntimeError):  # the loop has ended
                        self._loop.call_soon_threadsafe(self._begin_look, line)
        if not self._stop.is_asked:
            _log.warning("the process that keeps this worker has ended: draining")
        self._drain()

    def _drain(self) -> None:
        """Do as at a first signal, which counts the time as well."""
        main = threading.main_thread().ident
        if not self._stop.is_asked and main is not None:
            signal.pthread_kill(main, signal.SIGTERM)

    def _begin_look(self, asked: bytes) -> None:
        task = self._loop.create_task(self._answer(asked))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _answer(self, asked: bytes) -> None:
        health = await self._look()
        if asked == METRICS:
            health = msgspec.structs.replace(health, metrics=self._scrape())
        self._write(msgspec.json.encode((asked.decode(), health)) + b"\n")


class KeeperEnd:
    """The keeper's end of the line to one worker."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[bytes, asyncio.Future[ProcessHealth | None]] = {}
        self.has_ended = False

    @property
    def descriptor(self) -> int:
        """What the worker takes over as it starts."""
        return self._theirs.fileno()

    async def listen(self, ready: Callable[[], None]) -> None:
        """Hear what the worker says, until it has ended."""
        self._theirs.close()
        reader, self._writer = await asyncio.open_connection(
            sock=self._ours, limit=_LINE_BYTES_MAX
        )
        try:
            while line := await reader.readline():
                if line == READY:
                    ready()
                else:
                    what, health = msgspec.json.decode(line, type=_Answer)
                    self._answered(what.encode(), health)
        except (OSError, ValueError, msgspec.MsgspecError):
            pass  # what does not speak this way is silent from now on
        finally:
            self.has_ended = True
            for asked in self._asked:
                self._answered(asked, None)

    def close(self) -> None:
        """Let go of the line."""
        self._theirs.close()
        if self._writer is None:
            self._ours.close()
        else:
            self._writer.close()

    def _answered(self, asked: bytes, health: ProcessHealth | None) -> None:
        answer = self._asked.get(asked)
        if answer is not None and not answer.done():
            answer.set_result(health)

    def drain(self) -> None:
        """Have the worker drain, if it does not yet."""
        self._write(DRAIN)

    def _write(self, line: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(line)

    async def ask(self, what: bytes = HEALTH) -> ProcessHealth | None:
        """Ask the worker how it does; None if it does not answer in time."""
        asked = self._asked.get(what)
        if asked is None or asked.done():
            asked = self._asked[what] = asyncio.get_running_loop().create_future()
            self._write(what)
        # It goes on after that: what comes late is heard by who asks next.
        await asyncio.wait([asked], timeout=_ANSWER_SECONDS_MAX)
        return asked.result() if asked.done() else None
