"""How long a database that is away, or busy, is waited for; and what is said of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from durable.errors import StoreError

_log: Final = logging.getLogger("durable.store")

# Others are through soon; so long as each waits for a different while.
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.001
_PAUSE_SECONDS_MAX: Final = 0.1
_BUSY_SECONDS: Final = 30.0
# A server that is restarted is back soon. Until then nobody need hear of it.
_OUTAGE_SECONDS: Final = 5.0
_PAUSE_SECONDS_LOST: Final = 0.02
_PAUSE_SECONDS_LOST_MAX: Final = 0.5


class Patience:
    """How often, and for how long, something is repeated."""

    def __init__(self) -> None:
        """Begin now."""
        self._began = time.monotonic()
        self._tries = 0

    def waits(self, *, is_lost: bool) -> bool:
        """Pause, differently each time; False if it has taken too long.

        `is_lost` is whether the database is away, rather than busy.
        """
        self._tries += 1
        passed = time.monotonic() - self._began
        if is_lost:
            if passed > _OUTAGE_SECONDS:
                return False
            longest = min(_PAUSE_SECONDS_LOST * 2**self._tries, _PAUSE_SECONDS_LOST_MAX)
        elif self._tries >= _TRIES or passed > _BUSY_SECONDS:
            return False
        else:
            longest = min(_PAUSE_SECONDS * 2**self._tries, _PAUSE_SECONDS_MAX)
        time.sleep(random.uniform(longest / 4, longest))  # noqa: S311 - no secret
        return True


class Outage:
    """Says once that a database is away, and once that it is back."""

    def __init__(self, name: str) -> None:
        """Speak of the database as `name`."""
        self._name = name
        # The writer and the reader both meet it.
        self._lock = threading.Lock()
        self._since: float | None = None
        self._is_told = False

    def met(self, error: StoreError, *, may_pass: bool = False) -> None:
        """The database is away: whoever gets this error need not say so again.

        `may_pass` is whether it is tried again, so that it is said only after a while.
        """
        error.may_pass = True
        with self._lock:
            now = time.monotonic()
            if self._since is None:
                self._since = now
            if may_pass and now < self._since + _OUTAGE_SECONDS:
                return
            error.is_told = True
            if self._is_told:
                return
            self._is_told = True
        _log.error(
            "%s Nothing is recorded until it is back; it is tried again and again.",
            error.message,
        )

    def over(self) -> None:
        """It is there."""
        with self._lock:
            since, self._since = self._since, None
            is_told, self._is_told = self._is_told, False
        if since is not None and is_told:
            seconds = time.monotonic() - since
            _log.warning("%s is back after %.1f s.", self._name, seconds)
