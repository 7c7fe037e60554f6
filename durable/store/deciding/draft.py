"""What a group of operations has decided so far, upon what was seen: pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from durable.errors import AttributeTypeError
from durable.search.kinds import kept_in, kinds_in
from durable.store.deciding import rows as bits
from durable.store.deciding.rows import Name, Rows, Run, age_of
from durable.store.records import RUNNING, at_once

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable.store.deciding.rows import (
        AttributeRow,
        ChainKey,
        End,
        NameKey,
        RequestKey,
        Seen,
    )
    from durable.store.deciding.wanted import Lack
    from durable.store.records import (
        HistoryRow,
        ImportRun,
        Properties,
        ResetRun,
        RunRecord,
        RunStatus,
        StartRun,
    )

_CREATED: Final = bits.CREATED
_CLOSED: Final = bits.CLOSED
_MOVED: Final = bits.MOVED
_PARKED: Final = bits.PARKED
_PUBLISHED: Final = bits.PUBLISHED
_DESCRIBED: Final = bits.DESCRIBED


class UnseenError(Exception):
    """What look has not brought was needed; the draft says what."""


class Draft:
    """Runs as they are after some of a group's operations, and the rows to write.

    Whatever is asked for and was not seen is noted in `lacking`: nothing of the draft
    counts then, and the group is decided anew with all of it.
    """

    def __init__(self, seen: Seen, now: int | None) -> None:
        """Begin with nothing decided."""
        self.seen = seen
        self._now = now
        self.lacking: list[Lack] = []
        self.rows = Rows()
        self._created: list[Run] = []
        self._begun: dict[str, list[Run]] = {}
        self._adopted: dict[str, str] = {}
        self._described: dict[str, tuple[str, int, str | None]] = {}

    def lack(self, field: str, key: object) -> NoReturn:
        """Say what has to be seen."""
        self.lacking.append((field, key))
        raise UnseenError

    # --- what is there ----------------------------------------------------------------

    @property
    def now(self) -> int:
        """The database's time."""
        if self._now is None:
            self.lack("has_time", None)
        return self._now

    def find_run(self, run_id: str) -> Run | None:
        """Return a run; None if there is none."""
        try:
            return self.seen.runs[run_id]
        except KeyError:
            self.lack("runs", run_id)

    def find_name(self, key: NameKey) -> Name:
        """Return who holds a workflow id."""
        try:
            return self.seen.names[key]
        except KeyError:
            self.lack("names", key)

    def find_request(self, key: RequestKey) -> Run | None:
        """Return the run that was started under a request id."""
        try:
            return self.seen.requests[key]
        except KeyError:
            self.lack("requests", key)

    def find_newest_of_chain(self, key: ChainKey) -> Run | None:
        """Return the newest run of a chain."""
        try:
            found = self.seen.chains[key]
        except KeyError:
            self.lack("chains", key)
        chain = [
            run
            for run in self._created
            if (run.namespace, run.workflow_id, run.first_run_id) == key
        ]
        if found is not None:
            chain.append(found)
        return max(chain, key=age_of, default=None)

    def find_children(self, run_id: str) -> list[Run]:
        """Return the open children of a run, in no order."""
        children = self.seen.children.get(run_id)
        if children is None:
            run = self.find_run(run_id)
            # The children of a run that the group began can only be of the group.
            if run is not None and not run.changes & _CREATED:
                self.lack("families", run_id)
            children = []
        begun = self._begun.get(run_id)
        if begun is not None:
            children = children + begun
        adopted = self._adopted
        return [
            run
            for run in children
            if run.status is RUNNING and adopted.get(run.run_id, run_id) == run_id
        ]

    def find_record(self, run: Run) -> RunRecord:
        """Return a run's whole row as it is now."""
        record = run.record
        if record is None:
            record = self.seen.records.get(run.run_id)
        if record is None:
            self.lack("records", run.run_id)
        if run.run_id in self._adopted:
            record = msgspec.structs.replace(record, parent_run_id=run.parent_run_id)
        return _complete(run, record)

    def find_first_data(self, run_id: str) -> str | None:
        """Return what a run began with."""
        run = self.seen.runs.get(run_id)
        if run is not None and run.changes & _CREATED:
            return next((row[5] for row in self.rows.history if row[0] == run_id), None)
        try:
            return self.seen.first_data[run_id]
        except KeyError:
            self.lack("first_data", run_id)

    def find_end(self, run: Run) -> End:
        """Return id, number of the last workflow task, and time of its newest event."""
        row, end = run.last_row, (0, 0, 0)
        number = 0  # of an input that no task has taken, too
        if row is not None:
            number = max(one[2] for one in self.rows.history if one[0] == run.run_id)
        if not number and not run.changes & _CREATED:
            found = self.seen.ends.get(run.run_id)
            if found is None:
                self.lack("records", run.run_id)
            end = found
        return end if row is None else (row[1], number or end[1], row[4])

    def find_tries(self, sequence: int) -> int | None:
        """Return how often a row of the outbox was refused; None if it is not there."""
        if sequence in self.rows.delivered:
            return None
        if sequence in self.rows.settled:
            return self.rows.settled[sequence].tries
        try:
            return self.seen.outbox[sequence]
        except KeyError:
            self.lack("outbox", sequence)

    def check_attributes(
        self, namespace: str, packed: str, *, keeps: bool = True
    ) -> None:
        """Return if each attribute of a run is of the type that others know it by.

        What is new is known so from then on, unless it is not kept.

        Raises:
            AttributeTypeError: one is not.
        """
        new: dict[NameKey, str] = {}
        for name, kind in kinds_in(packed).items():
            key = (namespace, name)
            known = self.rows.kinds.get(key)
            if known is None:
                try:
                    known = self.seen.kinds[key]
                except KeyError:
                    self.lack("kinds", key)
            if known is None:
                new[key] = kind
            elif known != kind:
                raise AttributeTypeError(
                    f"The attribute {name!r} is a {kind} here, and a {known} of"
                    f" namespace {namespace!r}: a name has one type for ever.",
                    hint="Give it another name.",
                )
        if keeps:
            self.rows.kinds.update(new)

    # --- what becomes of it -----------------------------------------------------------

    def create(self, operation: StartRun | ResetRun | ImportRun, name: Name) -> Run:
        """Create a run that has a name."""
        record = operation.record
        status = record.status
        run = Run(
            record.run_id,
            record.namespace,
            record.workflow_id,
            record.first_run_id,
            status,
            record.closed_at,
            record.owner,
            record.started_at,
            record.parent_run_id,
            record.parent_close_policy,
            0,
            record.wake_at,
            record.epoch,
            _CREATED,
        )
        run.record = record
        seen = self.seen
        seen.runs[record.run_id] = run
        seen.requests[record.namespace, record.request_id] = run
        if status is RUNNING:
            name.open = run
        if name.newest is None or age_of(run) > age_of(name.newest):
            name.newest = run
        self._created.append(run)
        if record.parent_run_id is not None:
            self._begun.setdefault(record.parent_run_id, []).append(run)
        if operation.rows:
            self.append(run, operation.rows)
        if record.attributes is not None:
            place = (record.namespace, record.started_at, record.attributes)
            self._described[record.run_id] = place
        return run

    def adopt(self, child: Run, parent: Run) -> None:
        """Let an open child belong to another run than the one that began it."""
        child.parent_run_id = self._adopted[child.run_id] = parent.run_id
        self._begun.setdefault(parent.run_id, []).append(child)
        self.rows.adopted[child.run_id] = parent.run_id

    def mark_reset(self, first: Run, run_id: str) -> None:
        """Say of the first run of a chain that a run goes on from it.

        Whoever would delete it could not tell: it has ended as any other.

        Args:
            first: that run.
            run_id: the other; empty for whichever.
        """
        name = f"{bits.RESET}{run_id}"[: bits.ATTRIBUTE_NAME_CHARS]
        at = (first.run_id, name, 0, first.namespace, first.started_at)
        self.rows.marks[first.run_id, name] = (*at, None, None)

    def append(self, run: Run, rows: list[HistoryRow]) -> None:
        """Append events to a run's history."""
        self.rows.history += rows
        last = rows[-1]
        run.last_row = last
        run.last_event_id = last[1]

    def move(self, run: Run, owner: str | None, wake_at: int | None) -> None:
        """Say who owns a run, and when it is to be woken."""
        run.owner = owner
        run.wake_at = wake_at
        self._change(run, _MOVED)

    def wake(self, run: Run) -> None:
        """Have a run that is at rest woken now; who owns one looks into its inbox."""
        if run.owner is None and (run.wake_at is None or run.wake_at >= 0):
            self.move(run, None, at_once(self.now))

    def park(self, run: Run, stuck: str | None) -> None:
        """Set a run aside that was moved; None takes it up again."""
        run.stuck = stuck
        self._change(run, _PARKED)

    def publish(self, run: Run, state: str | None, checkpoint: int | None) -> None:
        """Set a run's state and checkpoint; None leaves what is there."""
        if state is not None:
            run.state = state
        if checkpoint is not None:
            run.checkpoint_event_id = checkpoint
        self._change(run, _PUBLISHED)

    def describe(self, run: Run, properties: Properties) -> None:
        """Set a run's attributes and memo."""
        run.properties = properties
        place = (properties.namespace, run.started_at, properties.attributes)
        self._described[run.run_id] = place
        if not run.changes & _CREATED and run.run_id not in self.rows.reindexed:
            self.rows.reindexed.append(run.run_id)
        self._change(run, _DESCRIBED)

    def close(self, run: Run, status: RunStatus, closed_at: int) -> None:
        """Close a run: nobody owns it, and it waits for nothing."""
        run.status = status
        run.closed_at = closed_at
        run.owner = None
        names = self.seen.names
        if names:
            name = names.get((run.namespace, run.workflow_id))
            if name is not None and name.open is run:
                name.open = None
        if not run.changes:
            self.rows.changed.append(run)
        run.changes |= _CLOSED

    def _change(self, run: Run, change: int) -> None:
        if not run.changes:
            self.rows.changed.append(run)
        run.changes |= change

    def finish(self) -> Rows:
        """Return the rows to write."""
        if self._created:
            self.rows.created = [
                run.record
                if run.changes == _CREATED
                and run.record is not None
                and run.run_id not in self._adopted
                else self.find_record(run)
                for run in self._created
            ]
        if self._described:
            self.rows.attributes = [
                row for run_id in self._described for row in self._index(run_id)
            ]
        return self.rows

    def _index(self, run_id: str) -> Iterator[AttributeRow]:
        namespace, started_at, packed = self._described[run_id]
        for name, values in kept_in(packed).items():
            for position, value in enumerate(values):
                at = (run_id, name, position, namespace, started_at)
                yield (
                    (*at, value, None)
                    if isinstance(value, str)
                    else (
                        *at,
                        None,
                        value,
                    )
                )


def _complete(run: Run, record: RunRecord) -> RunRecord:
    """Put into a run's row what the group has changed of it."""
    changes = run.changes
    if not changes & ~_CREATED:
        return record
    new: dict[str, object] = {}
    if changes & _PUBLISHED:
        if run.state is not None:
            new["state"] = run.state
        if run.checkpoint_event_id is not None:
            new["checkpoint_event_id"] = run.checkpoint_event_id
    if changes & _CLOSED:
        new |= {"status": run.status, "closed_at": run.closed_at, "owner": None}
        new |= {"wake_at": None, "stuck": None}
    else:
        if changes & _MOVED:
            new |= {"owner": run.owner, "wake_at": run.wake_at, "epoch": run.epoch}
        if changes & _PARKED:
            new["stuck"] = run.stuck
    if run.properties is not None:
        new["attributes"] = run.properties.attributes
        new["memo"] = run.properties.memo
    return msgspec.structs.replace(record, **new)
