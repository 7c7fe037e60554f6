"""Refuses what would start the user's program while a module of it is imported.

A file that ends in `asyncio.run(main())` runs its `main` when it is imported: beside
the worker that was asked for, or instead of it. The first call that would do so is
refused, whatever stands around it, and the error names its line.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

from durable.cli.reporting import UsersCodeError
from durable.core.loop.user_code import Owner, owner_of
from durable.sync import SyncEngine

_STARTS: Final[tuple[tuple[Any, str, str], ...]] = (
    (asyncio, "run", "runs an event loop"),
    (asyncio.Runner, "run", "runs an event loop"),
    (asyncio.BaseEventLoop, "run_until_complete", "runs an event loop"),
    (asyncio.BaseEventLoop, "run_forever", "runs an event loop"),
    (SyncEngine, "open", "opens an engine"),
)


class _Refused(BaseException):
    """Leaves the module that is imported; no `except Exception` in it stops that."""


@contextmanager
def refusing_to_start(name: str) -> Generator[None]:
    """Refuse to open an engine or to run an event loop in this thread.

    Args:
        name: the module as it was given.

    Raises:
        UsersCodeError: the module tried to; it names the line.
    """
    refusing = _Refusing(name)
    refusing.begin()
    try:
        yield
    except _Refused:
        pass
    finally:
        refusing.end()
    if refusing.error is not None:
        raise refusing.error from None


class _Refusing:
    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: int | None = None
        self._replaced: list[tuple[Any, str, Any, Any]] = []
        self.error: UsersCodeError | None = None

    def begin(self) -> None:
        self._thread = threading.get_ident()
        for owner, attribute, what in _STARTS:
            original = vars(owner)[attribute]
            replacement = self._replacement(original, what)
            setattr(owner, attribute, replacement)
            self._replaced.append((owner, attribute, original, replacement))

    def end(self) -> None:
        self._thread = None  # who has kept a replacement gets the original by it
        for owner, attribute, original, replacement in self._replaced:
            if vars(owner)[attribute] is replacement:
                setattr(owner, attribute, original)

    def _replacement(self, original: Callable[..., Any], what: str) -> Any:
        @functools.wraps(original)
        def start(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return original(*args, **kwargs)
            for given in args:
                if asyncio.iscoroutine(given):
                    given.close()  # or Python would warn that it was never awaited
            self._refuse(what)

        return start

    def _refuse(self, what: str) -> NoReturn:
        frame: FrameType | None = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]  # the line that is refused
        while frame and owner_of(frame.f_code.co_filename) is not Owner.USER:
            frame = frame.f_back
        place = ""
        if frame is not None:
            place = f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
        self.error = self.error or UsersCodeError(
            f"{self._name!r} {what} while it is imported{place}; nothing was started.",
            hint='Put what starts your program under `if __name__ == "__main__":`.',
        )
        raise _Refused
