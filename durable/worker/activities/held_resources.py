"""What activities use, opened with the engine and closed after the last of them.

A task of its own holds the context manager open, because one that has a task group or
a cancel scope in it must be left by the task that entered it, and an engine may be
opened and closed by different ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Final, TypeAlias, cast

from durable.api.activities.activity_context import NO_RESOURCES
from durable.api.resources import check_key, name_of
from durable.errors import DurableError, InvalidOptionError, ResourceError

_log: Final = logging.getLogger("durable.worker")

Manager: TypeAlias = (
    AbstractAsyncContextManager[Mapping[Any, object]]
    | AbstractContextManager[Mapping[Any, object]]
)
Resources: TypeAlias = Mapping[Any, object] | Callable[[], Manager]
"""Values by class or name; or what opens them, such as an `@asynccontextmanager`."""

# What closing them may take at least.
_LEAVE_SECONDS: Final = 5.0
# Opening that takes longer is said to be under way.
_SLOW_SECONDS: Final = 10.0
_FORM: Final = (
    "Give a mapping such as {Pool: pool}, or a function with @asynccontextmanager that"
    " yields one."
)
# Kept, as what is collected cleans up: in a forked process, what the parent uses.
_inherited: Final[list[asyncio.Task[None]]] = []


class HeldResources:
    """The resources of one engine.

    Args:
        given: values, or what opens them whenever the engine is opened.

    Attributes:
        values: what activities get, while they are open.

    Raises:
        InvalidOptionError: it is neither.
    """

    def __init__(self, given: Resources | None) -> None:
        self._values: Mapping[Any, object] = NO_RESOURCES
        self._open: Callable[[], Manager] | None = None
        is_made = hasattr(given, "__aenter__") or hasattr(given, "__enter__")
        if is_made and not isinstance(given, type):
            raise InvalidOptionError(
                f"resources is a {type(given).__name__} that can be entered once only.",
                hint="Give the function itself, without calling it: an engine that is"
                " opened again opens its resources again.",
            )
        if isinstance(given, Mapping):
            self._values = _checked(cast("object", given))
        elif callable(given):
            self._open = given
        elif given is not None:
            raise InvalidOptionError(
                f"resources is a {type(given).__name__}.", hint=_FORM
            )
        self._task: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] | None = None
        self._is_over = asyncio.Event()
        self.values: Mapping[Any, object] = NO_RESOURCES

    async def open(self, check: Callable[[Mapping[Any, object]], None]) -> None:
        """Enter them, and check what there is; if it is not right, leave them again.

        Raises:
            ResourceError: entering has raised, which is chained; or by `check`.
            InvalidOptionError: it gives no values by classes and names.
        """
        given = self._open
        if given is None:
            check(self._values)
            self.values = self._values
            return
        loop = asyncio.get_running_loop()
        opened = self._opened = loop.create_future()
        self._is_over = asyncio.Event()
        self._task = loop.create_task(
            self._hold(given, check, opened), name=f"durable resources {_name(given)}"
        )
        late = loop.call_later(
            _SLOW_SECONDS,
            _log.warning,
            "The engine still waits for %s to open its resources.",
            _name(given),
        )
        try:
            await opened
        finally:
            late.cancel()

    async def _hold(
        self,
        given: Callable[[], Any],
        check: Callable[[Mapping[Any, object]], None],
        opened: asyncio.Future[None],
    ) -> None:
        try:
            async with _entered(given) as values:
                try:
                    self.values = _checked(values)
                    check(self.values)
                except Exception as error:  # noqa: BLE001 - the manager might swallow it
                    _tell(opened, error)
                else:
                    _tell(opened, None)
                    await self._is_over.wait()
        except asyncio.CancelledError:
            opened.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - a user's context manager may raise anything
            if opened.done():
                _log.error(
                    "The resources of an engine, by %s, have ended with an error%s.",
                    _name(given),
                    "" if self._is_over.is_set() else ", though the engine is open",
                    exc_info=error,
                )
            else:
                _tell(opened, _failed(given, error))
        finally:
            self.values = NO_RESOURCES

    async def close(self, grace: float) -> None:
        """Leave them, in reverse order; what is wrong with that is logged.

        Args:
            grace: seconds that activities had to end; it may take as long again, or
                5 s if that is more, and is cancelled then.
        """
        seconds = closing_seconds(grace, self._open)
        task, self._task = self._task, None
        self._is_over.set()
        if task is None:
            self.values = NO_RESOURCES
            return
        if self._opened is not None and self._opened.cancelled():
            task.cancel()  # nobody has waited for it to be opened
        done, _ = await asyncio.wait({task}, timeout=seconds)
        if not done:
            _log.error(
                "The resources of an engine were not closed within %g s, and are left.",
                seconds,
            )
            task.cancel()
            await asyncio.wait({task}, timeout=1)

    def forget(self) -> None:
        """Do nothing about them: their event loop has ended, or is not ours."""
        if self._task is not None and not self._task.done():
            _inherited.append(self._task)
        self._task, self.values = None, NO_RESOURCES


def _tell(opened: asyncio.Future[None], error: Exception | None) -> None:
    if opened.done():  # nobody waits any more
        return
    if error is None:
        opened.set_result(None)
    else:
        opened.set_exception(error)


def closing_seconds(grace: float, given: Resources | None) -> float:
    """How long leaving resources may take, by the time that activities have."""
    return max(grace, _LEAVE_SECONDS) if callable(given) else 0.0


@contextlib.asynccontextmanager
async def _entered(given: Callable[[], Any]) -> AsyncGenerator[Any, None]:
    manager = given()
    if hasattr(manager, "__aenter__"):
        async with manager as values:
            yield values
    elif hasattr(manager, "__enter__"):
        with manager as values:
            yield values
    else:
        if inspect.iscoroutine(manager):
            manager.close()
        raise InvalidOptionError(
            f"{_name(given)}() gives a {type(manager).__name__}, which is no context"
            " manager.",
            hint=_FORM,
        )


def _checked(values: object) -> Mapping[Any, object]:
    if not isinstance(values, Mapping):
        raise InvalidOptionError(
            f"The resources are a {type(values).__name__}.", hint=_FORM
        )
    checked: dict[Any, object] = dict(cast("Mapping[Any, object]", values))
    for key, value in checked.items():
        check_key(key)
        if value is key:
            raise InvalidOptionError(
                f"The resource {name_of(key)} is the class itself.",
                hint="Give an object of it.",
            )
    return checked


def _failed(given: object, error: Exception) -> DurableError:
    if isinstance(error, DurableError):
        return error
    failed = ResourceError(
        f"The resources of the engine could not be opened: {_name(given)} raised"
        f" {type(error).__name__}: {error}."
    )
    failed.__cause__ = error
    return failed


def _name(given: object) -> str:
    return str(getattr(given, "__qualname__", type(given).__name__))
