"""Sweeps every now and then while an engine with a worker is open."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Final

from durable.client.keeping.retention import RetentionRule, sweep
from durable.errors import DurableError
from durable.loggers import revive_loggers
from durable.store.store import Store

_log: Final = logging.getLogger("durable.client")
# What was under way when all workers died is taken up first: it may ask again for what
# it had started, and must find it.
FIRST_SECONDS: Final = 60.0
_SECONDS: Final = 3_600.0


class Sweeper:
    """Deletes closed runs whose time is over, beside all other work.

    Args:
        is_busy: whether the worker has something to do.
    """

    def __init__(
        self,
        store: Store,
        namespace: str,
        rules: tuple[RetentionRule, ...],
        is_busy: Callable[[], bool],
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._rules = rules
        self._is_busy = is_busy
        self._timer: asyncio.TimerHandle | None = None
        self._sweep: asyncio.Task[None] | None = None
        self._since: int | None = None

    def lag(self) -> int:
        """For how many microseconds the oldest run that is to go should be gone.

        It grows while a sweep is under way, or has failed. Any thread may ask.
        """
        since = self._since
        return 0 if since is None else max(0, self._store.now() - since)

    def _say_since(self, since: int | None) -> None:
        self._since = since

    def start(self) -> None:
        """Sweep before long, and then once an hour or so."""
        self._wait(FIRST_SECONDS)

    def _wait(self, seconds: float) -> None:
        # Workers that began together need not sweep together.
        seconds *= random.uniform(0.75, 1.25)  # noqa: S311 - no secret
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(seconds, self._begin)

    def stop(self) -> None:
        """Sweep no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._sweep is not None and not self._sweep.get_loop().is_closed():
            self._sweep.cancel()
        self._timer = self._sweep = None

    def _begin(self) -> None:
        revive_loggers()
        self._sweep = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        where = self._namespace
        try:
            swept = await sweep(
                self._store,
                where,
                self._rules,
                is_busy=self._is_busy,
                say_since=self._say_since,
            )
        except DurableError as error:
            _log.warning(
                "Closed runs of namespace %r are not deleted now: %s", where, error
            )
        else:
            if swept.deleted:
                _log.info(
                    "%d closed runs of namespace %r were deleted: their time was over.",
                    swept.deleted,
                    where,
                )
        self._wait(_SECONDS)
