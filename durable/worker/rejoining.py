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
from collections.abc import Coroutine
from typing import Any, Final, Protocol

from durable import limits
from durable.errors import DurableError

_log: Final = logging.getLogger("durable.worker")
_RETRY_SECONDS: Final = 1.0


class Host(Protocol):
    """What joining again asks of the worker around it."""

    worker_id: str

    @property
    def is_open(self) -> bool:
        """Whether the worker still works."""
        ...

    def forget_all(self) -> None:
        """Take every run out of memory, and every read that is under way."""
        ...

    async def join(self) -> None:
        """Enter the store as a new worker; takes its new id at once."""
        ...

    async def leave(self) -> None:
        """Give up whatever lease the store still holds."""
        ...

    async def take_over(self) -> None:
        """Claim runs without an owner."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a step in the background; its errors are logged."""
        ...


class Rejoining:
    """Knows which lease was lost, and gets another."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lost: str | None = None
        self._is_under_way = False

    def lease_lost(self, worker_id: str) -> None:
        """That worker's lease is gone: forget everything, join again as a new one."""
        host = self._host
        if not host.is_open or worker_id != host.worker_id or worker_id == self._lost:
            return  # of an earlier lease, or known already
        self._lost = worker_id
        _log.error(
            "Worker %s has lost its lease: it did not renew for %.0f s, and another"
            " worker took over its runs. What it still tried to write was refused.",
            worker_id,
            limits.LEASE_SECONDS,
        )
        host.forget_all()
        if not self._is_under_way:
            self._is_under_way = True
            host.spawn(self._rejoin())

    async def _rejoin(self) -> None:
        host = self._host
        try:
            while self._lost == host.worker_id:
                try:
                    await host.join()
                except DurableError as error:
                    # The new id has no lease either.
                    self._lost = host.worker_id
                    _log.error("The worker cannot join again yet: %s", error)
                    await asyncio.sleep(_RETRY_SECONDS)
                    with contextlib.suppress(DurableError):
                        await host.leave()
        finally:
            self._is_under_way = False
        await host.take_over()
