"""Operations that wait for rows which others have locked, so that no others need to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

from durable import limits
from durable.store.deciding.decide import DECIDED
from durable.store.deciding.wanted import want
from durable.store.records import (
    ClaimRuns,
    DeleteRuns,
    ReapWorkers,
    ReleaseRuns,
    RepairRun,
)
from durable.store.submission import is_withdrawn

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durable.store.store import Outcome

Item: TypeAlias = "tuple[Any, Outcome]"
_Keys: TypeAlias = "frozenset[Any] | None"

# Whole seconds, as MariaDB knows no others; 0 does not wait at all.
LOCK_SECONDS: Final = 1.0
"""How long a group waits for somebody else's lock before it is divided."""
LOCK_SECONDS_AGAIN: Final = 0.1
"""How long what is tried again does: nothing else is carried out meanwhile."""
_BUSY_SECONDS: Final = 30.0
_PARTS: Final = 8
_PAUSE_SECONDS: Final = 0.1
_PAUSE_SECONDS_MAX: Final = 0.8


class Entry:
    """An operation that is held up.

    Attributes:
        item: the operation, and who receives its outcome.
        error: why it was held up last; None before it was tried.
        keys: what it touches; None for everything.
        group: how many at most may be tried together with it.
        pause: 0 until it was held up alone.
    """

    __slots__ = ("due_at", "error", "group", "item", "keys", "pause", "since")

    def __init__(self, item: Item, now: float) -> None:
        """Hold it from now on."""
        self.item = item
        self.keys = _keys_of(item[0])
        self.since = self.due_at = now
        self.error: BaseException | None = None
        self.group = limits.COMMIT_OPERATIONS_MAX
        self.pause = 0.0


class _Touched:
    """What some operations touch."""

    def __init__(self) -> None:
        self._keys: set[Any] = set()
        self._is_any = self._is_everything = False

    def add(self, keys: _Keys) -> None:
        self._is_any = True
        self._is_everything = self._is_everything or keys is None
        self._keys.update(keys or ())

    def meets(self, keys: _Keys) -> bool:
        if keys is None or self._is_everything:
            return self._is_any
        return not self._keys.isdisjoint(keys)


class HeldUp:
    """Holds operations in their order, and says which of them to try again.

    They are tried in ever smaller groups: soon only what is really locked is left, and
    alone. What touches the same rows as one before it never overtakes that.
    """

    def __init__(self) -> None:
        """Hold nothing."""
        self._entries: list[Entry] = []
        self._place = 0

    def __bool__(self) -> bool:
        """Whether anything is held."""
        return bool(self._entries)

    @property
    def due_at(self) -> float | None:
        """When to try something again; None if nothing is held."""
        touched = _Touched()
        moments: list[float] = []
        for entry in self._entries:
            if not touched.meets(entry.keys):
                moments.append(entry.due_at)
            touched.add(entry.keys)
        return min(moments, default=None)

    def admit(self, items: Iterable[Item], now: float) -> list[Item]:
        """Return what may be carried out; hold what touches the same as others."""
        admitted: list[Item] = []
        touched = _Touched()
        # What is admitted now came before what is held now.
        self._place = len(self._entries)
        for entry in self._entries:
            touched.add(entry.keys)
        for item in items:
            entry = Entry(item, now)
            if touched.meets(entry.keys):
                touched.add(entry.keys)
                self._entries.append(entry)
            else:
                admitted.append(item)
        return admitted

    def hold(
        self, held: list[tuple[Item, BaseException]], since: float, now: float
    ) -> None:
        """Hold operations that were tried together, since an instant; and why."""
        entries = [Entry(item, since) for item, _ in held]
        place = min(self._place, len(self._entries))
        self._entries[place:place] = entries
        _divide(entries, [error for _, error in held], now)

    def take(self, now: float) -> list[Entry]:
        """Return what is to be tried together; then `settle` is to be called."""
        self._entries = [one for one in self._entries if not is_withdrawn(one.item[1])]
        taken: list[Entry] = []
        touched = _Touched()
        for entry in self._entries:
            is_due = entry.due_at <= now and not touched.meets(entry.keys)
            if is_due and all(len(taken) < one.group for one in (entry, *taken[:1])):
                taken.append(entry)
            else:
                touched.add(entry.keys)
        return taken

    def settle(
        self, tried: list[Entry], errors: dict[int, BaseException], now: float
    ) -> None:
        """Let go what was tried, but for the places of what is still held up."""
        _divide([tried[place] for place in errors], errors.values(), now)
        gone = {id(entry): entry for n, entry in enumerate(tried) if n not in errors}
        self._entries = [entry for entry in self._entries if id(entry) not in gone]
        if any(entry.pause for entry in gone.values()):
            # The lock that has gone may have held up all of them.
            for entry in self._entries:
                entry.group, entry.due_at = limits.COMMIT_OPERATIONS_MAX, now

    def give_up(self, now: float) -> list[tuple[Outcome, BaseException]]:
        """Let go what was held up for too long; return who is to be told what."""
        kept: list[Entry] = []
        told: list[tuple[Outcome, BaseException]] = []
        for entry in self._entries:
            if entry.error is None or now <= entry.since + _BUSY_SECONDS:
                kept.append(entry)
            else:
                told.append((entry.item[1], entry.error))
        self._entries = kept
        return told


def _divide(entries: list[Entry], errors: Iterable[BaseException], now: float) -> None:
    for entry, error in zip(entries, errors, strict=True):
        entry.error = error
        entry.group = max(1, len(entries) // _PARTS)
        if len(entries) == 1:
            longer = max(_PAUSE_SECONDS, entry.pause * 2)
            entry.pause = min(longer, _PAUSE_SECONDS_MAX)
        entry.due_at = now + entry.pause


def _keys_of(operation: Any) -> _Keys:
    kind: Any = operation.__class__
    if kind in DECIDED:
        wanted = want([operation], None)
        requests = wanted.requests
        outbox = wanted.rare.get("outbox", ())
        return frozenset(
            (*wanted.runs, *wanted.names, *requests, *requests.values(), *outbox)
        )
    if kind is ReleaseRuns or kind is DeleteRuns:
        return frozenset(operation.run_ids)
    if kind is RepairRun:
        return frozenset((operation.run_id,))
    # Whoever comes and goes does so between all others.
    return frozenset() if kind is ClaimRuns or kind is ReapWorkers else None
