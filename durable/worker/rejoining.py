"""Joins again after a lease was lost, as often as that happens.

Every outcome names the lease it speaks of: what was refused under an earlier one says
nothing about the lease that stands, and one that is lost while the worker is joining
again is a loss like any other. Whatever is in memory then goes, because it may have
lived through turns that were refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from durable import limits
from durable.errors import DurableError
from durable.store.store import Store
from durable.worker.log_lines import is_told
from durable.worker.runner import Runner

_log: Final = logging.getLogger("durable.worker")
_RETRY_SECONDS: Final = 1.0


class Rejoining:
    """Knows which lease was lost, and gets another.

    Args:
        runner: lives in the worker that the lease is of.
        join: enters the store as a new worker; takes its new id at once.
        take_over: claims runs without an owner.
    """

    def __init__(
        self,
        store: Store,
        runner: Runner,
        join: Callable[[], Awaitable[None]],
        take_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._runner = runner
        self._join = join
        self._take_over = take_over
        self._lost: str | None = None
        self._is_under_way = False

    def lease_lost(self, worker_id: str) -> None:
        """That worker's lease is gone: forget everything, join again as a new one."""
        runner = self._runner
        if (
            not runner.is_open
            or worker_id != runner.terms.worker_id
            or worker_id == self._lost
        ):
            return  # of an earlier lease, or known already
        self._lost = worker_id
        _log.error(
            "Worker %s has lost its lease: it did not renew for %.0f s, and another"
            " worker took over its runs. What it still tried to write was refused.",
            worker_id,
            limits.LEASE_SECONDS,
        )
        runner.has_lease = False
        runner.forget_all()
        if not self._is_under_way:
            self._is_under_way = True
            runner.spawn(self._rejoin())

    async def _rejoin(self) -> None:
        runner = self._runner
        try:
            while self._lost == runner.terms.worker_id:
                try:
                    await self._join()
                except DurableError as error:
                    # The new id has no lease either.
                    self._lost = runner.terms.worker_id
                    if not is_told(error):
                        _log.error("The worker cannot join again yet: %s", error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    with contextlib.suppress(DurableError):
                        await self._store.release_worker()
            runner.has_lease = True
        finally:
            self._is_under_way = False
        await self._take_over()
