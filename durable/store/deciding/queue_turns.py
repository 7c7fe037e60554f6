"""What a claim may take of a configured queue, and of whose tasks: pure.

The rate is a bucket of tokens, kept as one instant: that by which all would have begun
if each had waited for the one before.
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


class Pace(NamedTuple):
    """A rate: the microseconds from one token to the next, and the bucket's size."""

    spacing: int
    burst: int


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


def pace_of(record: QueueRecord) -> Pace | None:
    """The rate of a queue; None if it has none.

    With the burst that is ours to choose, no window of the rate's length has more than
    its count: what may come at once is given up of what comes in a row.
    """
    if not record.rate_count or not record.rate_per:
        return None
    count, per = record.rate_count, record.rate_per
    if record.rate_burst is not None:
        return Pace(-(-per // count), record.rate_burst)
    burst = 1 + count // 25
    return Pace(-(-per // (count - burst + 1)), burst)


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
    pace = pace_of(record)
    if pace is not None and turn.room > 0:
        spacing, burst = pace
        latest = now + (burst - 1) * spacing
        tokens = (latest - max(record.rate_at, now)) // spacing + 1
        turn.room = max(0, min(turn.room, tokens))
        if not turn.room:
            gathered = min(burst // 2 * spacing, _GATHER_MICROSECONDS)
            turn.next_at = record.rate_at - (burst - 1) * spacing + gathered
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
    record, pace = turn.record, pace_of(turn.record)
    rate_at = record.rate_at
    if pace is not None and taken:
        rate_at = max(rate_at, now) + taken * pace.spacing
    return msgspec.structs.replace(
        record, rate_at=rate_at, last_key=turn.last_key, key_credit=turn.credit
    )


def configure(record: QueueRecord, before: QueueRecord | None, now: int) -> QueueRecord:
    """Return the row of a queue that is given other limits."""
    if before is None:
        return record
    rate_at, pace = before.rate_at, pace_of(record)
    if pace is not None and pace != pace_of(before):
        rate_at = min(rate_at, now + pace.burst * pace.spacing)
    return msgspec.structs.replace(
        record,
        rate_at=rate_at,
        last_key=before.last_key,
        key_credit=before.key_credit,
    )
