"""Where looks for what waits may begin, while a server keeps what has been taken.

An old snapshot, of a backup or a long read, keeps a server from removing what has been
taken since. That stays at the front of the index by which workers look, and each look
steps over all of it. So where a full look has found something is remembered, and those
that come after it begin there. What has come to lie before that place meanwhile they
miss, until the next full look: those are repeated as often as they are cheap enough.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from durable import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping


class Place(NamedTuple):
    """Where something is in an index, behind what all of its part have alike."""

    instant: int
    run_id: str = ""
    event_id: int = 0


# What is written with the present instant may become visible so much later.
_LATE_MICROSECONDS: Final = 2_000_000
# A full look steps over so many entries in a millisecond or two.
_FEW: Final = 2_000
# Full looks may cost a fiftieth of the time.
_PAUSES: Final = 50.0
# Of what has more parts, each look is a full one; likewise of what is looked for when
# that has become so much.
_PARTS_MAX: Final = 100
_LOOKS_MAX: Final = 200


def pause_after(walked: int, seconds: float) -> float:
    """For how many seconds after a full look none need follow; at most a lease.

    Args:
        walked: how many entries of an index it has stepped over.
        seconds: how long that has taken.
    """
    if walked < _FEW:
        return 0.0
    return min(seconds * _PAUSES, limits.LEASE_SECONDS)


class Look:
    """What a full look has found, and others that came after it."""

    def __init__(self, places: dict[Any, Place], until: float) -> None:
        self.places = places
        """Before which nothing was found, of each part of what was looked for."""
        self.until = until
        """By the monotonic clock: then a full look is due."""

    def advance(self, part: Any, place: Place) -> None:
        """Nothing was found before a place, by whoever began at the one before.

        Threads do this at the same time: each of them is right.
        """
        self.places[part] = max(self.places[part], place)


class Began(NamedTuple):
    """When a look began: what it does not see may lie behind `recent`."""

    recent: Place
    at: float


class Looks:
    """What was found by the sessions of one store, of whatever thread.

    A full look replaces all that was known before. Who goes on with that meanwhile
    changes what nobody asks for any more.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        """Know nothing yet; `now` is the time by which is written what waits."""
        self._now = now
        self._found: dict[Hashable, Look] = {}
        self.pause_after: Callable[[int, float], float] = pause_after
        self.monotonic: Callable[[], float] = time.monotonic
        """Which, as what decides how long full looks are spared, tests replace."""

    def begin(self) -> Began:
        """Say when a look begins."""
        return Began(Place(self._now() - _LATE_MICROSECONDS), self.monotonic())

    def recall(self, what: Hashable) -> Look | None:
        """Return what was found of something; None if a full look is due."""
        look = self._found.get(what)
        is_due = look is None or self.monotonic() >= look.until
        return None if is_due else look

    def remember(
        self, what: Hashable, found: Mapping[Any, Place], began: Began, walked: int
    ) -> None:
        """Take what a full look has found: of each part the first that there is.

        Parts that had something before may have something soon.
        """
        ended = self.monotonic()
        pause = self.pause_after(walked, ended - began.at)
        before = self._found.pop(what, None)
        places = {part: min(place, began.recent) for part, place in found.items()}
        for part in () if before is None else before.places:
            if len(places) < _PARTS_MAX:
                places.setdefault(part, began.recent)
        if len(places) > _PARTS_MAX:
            return
        if len(self._found) >= _LOOKS_MAX:
            self._found.clear()
        self._found[what] = Look(places, ended + pause)
