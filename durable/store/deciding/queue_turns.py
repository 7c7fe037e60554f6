"""What a claim may take of a configured queue, and of whose tasks: pure.

The rate is kept as how many began in which cell of the time; its burst as one instant:
that by which all would have begun if each had waited for the one before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

if TYPE_CHECKING:
    from durable.store.queues import HeldCount, QueueRecord

# A worker that waits for tokens wakes for some at once, if that is so soon.
_GATHER_MICROSECONDS = 20_000
_CELLS = 25
_PLENTY = 1 << 31


class Head(NamedTuple):
    """A fairness key of which tasks are due: how many it may have in one turn."""

    fairness_key: str
    kind: str
    due_at: int
    weight: int


class Turn(msgspec.Struct):
    """What one claim may take.

    Attributes:
        room: so many tasks.
        held: how many are claimed of each key.
        last_key: whose turn it was last; `credit` more may begin in it.
        next_at: when a token comes, if only that is lacking.
    """

    record: QueueRecord
    room: int
    held: dict[str, int]
    last_key: str
    credit: int
    next_at: int | None = None

    def room_of(self, fairness_key: str) -> int:
        """How many of a key may be taken; tasks without a key have no such limit."""
        most = self.record.key_concurrency
        if most is None or not fairness_key:
            return self.room
        return min(self.room, most - self.held.get(fairness_key, 0))

    def shares(self, heads: Iterable[Head]) -> list[tuple[str, list[str], int]]:
        """Say how many may be taken of which key, of its types in this order.

        `heads` are the keys that are due and have room. As many turns are shared out as
        there is room for, as if enough waited of each.
        """
        kinds: dict[str, list[Head]] = {}
        for head in heads:
            kinds.setdefault(head.fairness_key, []).append(head)
        given = dict.fromkeys(self._in_turn(kinds), 0)
        left, before = self.room, -1
        while 0 < left != before and len(given) > 1:
            before = left
            for key in given:
                if key != self.last_key or not self.credit:
                    self.credit = max(head.weight for head in kinds[key])
                share = min(self.credit, self.room_of(key) - given[key], left)
                given[key] += share
                left -= share
                self.last_key, self.credit = key, self.credit - share
                if not left:
                    break
                self.credit = 0
        if len(given) == 1:  # nobody to share with
            given = {key: self.room_of(key) for key in given}
        return [
            (key, _by_age(kinds[key]), share) for key, share in given.items() if share
        ]

    def _in_turn(self, kinds: dict[str, list[Head]]) -> list[str]:
        last, keys = self.last_key, sorted(kinds)
        if self.credit:
            return [k for k in keys if k >= last] + [k for k in keys if k < last]
        return [k for k in keys if k > last] + [k for k in keys if k <= last]

    def took(self, fairness_key: str, tasks: int) -> None:
        """So many of a key have been taken."""
        self.room -= tasks
        self.held[fairness_key] = self.held.get(fairness_key, 0) + tasks


def _by_age(heads: list[Head]) -> list[str]:
    return [head.kind for head in sorted(heads, key=lambda head: head.due_at)]


def _window_room(record: QueueRecord, now: int) -> tuple[int, int]:
    """How many may begin of the rate's count, and if none may, when one may.

    What began is kept by cells of the time. A cell counts until all of it is over, so
    every window has at most the count, and a steady stream nearly that.
    """
    if record.rate_count is None or record.rate_per is None:
        return _PLENTY, 0
    cell = _cell_of(record.rate_per)
    counted = _counted(record, now)
    room = record.rate_count - sum(tasks for _, tasks in counted)
    left = room
    for number, tasks in counted:
        if left > 0:
            break
        left += tasks
        now = (number + 1) * cell + record.rate_per
    return room, now


def _cell_of(per: int) -> int:
    return -(-per // _CELLS)


def _counted(record: QueueRecord, now: int) -> list[tuple[int, int]]:
    """The cells that count still: their numbers, and how many began in each."""
    if record.rate_log is None or record.rate_per is None:
        return []
    cell, since = _cell_of(record.rate_per), now - record.rate_per
    found: list[list[int]] = msgspec.json.decode(record.rate_log)
    return [(number, n) for number, n in found if (number + 1) * cell > since]


def _burst_room(record: QueueRecord, now: int) -> tuple[int, int]:
    """Likewise of the burst: a bucket that is filled as the rate says."""
    spacing, burst = _spacing_of(record), record.rate_burst
    if spacing is None or burst is None:
        return _PLENTY, 0
    latest = now + (burst - 1) * spacing
    room = (latest - max(record.rate_at, now)) // spacing + 1
    gathered = min(burst // 2 * spacing, _GATHER_MICROSECONDS)
    return room, record.rate_at - (burst - 1) * spacing + gathered


def _spacing_of(record: QueueRecord) -> int | None:
    if not record.rate_count or not record.rate_per or record.rate_burst is None:
        return None
    return -(-record.rate_per // record.rate_count)


def begin_turn(
    record: QueueRecord,
    held: Iterable[HeldCount],
    worker_id: str,
    wanted: int,
    now: int,
) -> Turn:
    """Say what a worker may take now, of the tasks that it wants."""
    keys: dict[str, int] = {}
    total = own = 0
    for key, owner, tasks in held:
        total += tasks
        own += tasks if owner == worker_id else 0
        keys[key] = keys.get(key, 0) + tasks
    room = 0 if record.paused_at is not None else wanted
    if record.concurrency is not None:
        room = min(room, record.concurrency - total)
    if record.worker_concurrency is not None:
        room = min(room, record.worker_concurrency - own)
    turn = Turn(record, max(0, room), keys, record.last_key, record.key_credit)
    if turn.room:
        rooms = (_window_room(record, now), _burst_room(record, now))
        turn.room = max(0, min(turn.room, *(room for room, _ in rooms)))
        if not turn.room:
            turn.next_at = max(at for room, at in rooms if room <= 0)
    return turn


def take_by_turns(
    heads: Iterable[tuple[int, int, str]],
    turn: Turn,
    find: Callable[[dict[str, Any], Sequence[str]], list[Head]],
    take: Callable[[dict[str, Any]], int],
) -> None:
    """Take as much as a turn allows, of what waits by priority and then by key.

    Args:
        heads: priority, first instant and type of what waits and is due.
        turn: is told what was taken.
        find: returns the keys of some types of one priority.
        take: takes tasks of one key and type; returns how many.
    """
    for priority, group in itertools.groupby(sorted(heads), lambda head: head[0]):
        if turn.room <= 0:
            return
        of_priority: dict[str, Any] = {"of_priority": priority}
        ready = find(of_priority, [kind for _, _, kind in group])
        for key, kinds, share in turn.shares(ready):
            left = share
            for kind in kinds:
                if left > 0:
                    page = {"key": key, "kind": kind, "page": left}
                    left -= take({**of_priority, **page})
            turn.took(key, share - left)


def end_turn(turn: Turn, taken: int, now: int) -> QueueRecord:
    """Return a queue's row as a claim leaves it."""
    record, spacing = turn.record, _spacing_of(turn.record)
    rate_at, log = record.rate_at, record.rate_log
    if spacing is not None:
        rate_at = max(rate_at, now) + taken * spacing
    if record.rate_per is not None and taken:
        cells = dict(_counted(record, now))
        number = now // _cell_of(record.rate_per)
        cells[number] = cells.get(number, 0) + taken
        log = msgspec.json.encode(sorted(cells.items())).decode()
    return msgspec.structs.replace(
        record,
        rate_at=rate_at if taken else record.rate_at,
        rate_log=log,
        last_key=turn.last_key,
        key_credit=turn.credit,
    )


def configure(record: QueueRecord, before: QueueRecord | None, now: int) -> QueueRecord:
    """Return the row of a queue that is given other limits."""
    if before is None:
        return record
    spacing = _spacing_of(record) or 0
    is_same_time = record.rate_per == before.rate_per
    return msgspec.structs.replace(
        record,
        # Of another rate the bucket is empty at worst.
        rate_at=min(before.rate_at, now + (record.rate_burst or 0) * spacing),
        rate_log=before.rate_log if is_same_time else None,
        last_key=before.last_key,
        key_credit=before.key_credit,
    )
