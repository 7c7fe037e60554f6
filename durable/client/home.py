"""Where an engine may be used: one process, and one event loop of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
from asyncio import _get_running_loop  # pyright: ignore[reportPrivateUsage]  # the other one raises
from collections.abc import Callable, Coroutine
from typing import Any

from durable.errors import EngineClosedError


class Home:
    """The process and the event loop that an engine was opened in, while it is open."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process_id = 0
        self._was_left = False
        self.lock = asyncio.Lock()
        """Held while the engine opens or closes."""

    def enter(self) -> None:
        """Belong to this process and the loop that runs now."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self.lock = asyncio.Lock()
        self._loop, self._process_id = loop, os.getpid()

    def leave(self) -> None:
        """The engine is closed."""
        self._loop = None
        self._was_left = True

    @property
    def is_entered(self) -> bool:
        """Whether the engine is open, or is being opened, somewhere."""
        return self._loop is not None

    @property
    def is_inherited(self) -> bool:
        """Whether it was opened by the process that this one was forked from."""
        return self._loop is not None and self._process_id != os.getpid()

    @property
    def is_abandoned(self) -> bool:
        """Whether its event loop was closed before the engine was."""
        return self._loop is not None and self._loop.is_closed()

    def check(self) -> None:
        """Return if the engine may be used here.

        Raises:
            EngineClosedError: it is closed, or belongs to another process or loop.
        """
        loop = self._loop
        here = _get_running_loop()
        if loop is here and here is not None and self._process_id == os.getpid():
            return
        if loop is None:
            state = "was closed" if self._was_left else "is not open"
            raise EngineClosedError(
                f"This engine {state}.", hint="Use it within `async with Engine(...)`."
            )
        if self._process_id != os.getpid():
            raise EngineClosedError(
                f"This engine was opened by process {self._process_id}, before the fork"
                f" that made this one ({os.getpid()}).",
                hint="Open an engine of its own in each process, after the fork.",
            )
        if loop.is_closed():
            raise EngineClosedError(
                "This engine was opened on an event loop that was closed since, such as"
                " that of an earlier asyncio.run().",
                hint="Keep the engine within one loop, or open it again on this one.",
            )
        raise EngineClosedError(
            "This engine belongs to another event loop than the one that runs here.",
            hint="Open an engine on each loop, or use SyncEngine, which any thread may"
            " call. A workflow starts other runs as its children.",
        )

    def check_process(self) -> None:
        """Return if the engine is open in this process, on whichever thread.

        Raises:
            EngineClosedError: it is not.
        """
        loop = self._loop
        if loop is None or self._process_id != os.getpid() or loop.is_closed():
            self.check()

    def call(self, call: Callable[..., None], *arguments: Any) -> None:
        """Call something on the engine's loop; not if that has ended."""
        loop = self._loop
        if loop is None or self._process_id != os.getpid():
            return
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(call, *arguments)


async def finish(work: Coroutine[Any, Any, None]) -> None:
    """Wait for something to end, even if this task is cancelled meanwhile."""
    task = asyncio.get_running_loop().create_task(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(task)
    task.result()
