"""Copies a database into another one that is empty, or half such a copy.

The source is read three times: to find what cannot be copied before anything is
written, to copy, and, by its digests, to compare. Until all is compared the target's
revision is one that every release refuses, so nobody works on half a copy; it also
holds the instant of the copy, by which one that was interrupted ends as it began.
"""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Final, NamedTuple

import sqlalchemy as sa

from durable.errors import DatabaseUnavailableError, InvalidOptionError
from durable.store.copying.rows import TABLES, Digest, Sum, check, disown, lose
from durable.store.copying.side import Side
from durable.store.records import due_since
from durable.store.sql.fetching import fetch
from durable.store.sql.schema import COPYING, HEAD, prepare_for_copy
from durable.store.sql.tables import ACTIVITY_TASKS, RUNS, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durable.store.copying.rows import Row
    from durable.store.records import WorkerRecord
    from durable.store.threads.sql_store import SqlStore

_RESTART: Final = (
    "Stop every program that uses either; --restart deletes the half copy first."
)
_COUNT_RUNS: Final = sa.select(sa.func.count()).select_from(RUNS)
_FIND_OWNED: Final = sa.select(RUNS.c.run_id).where(RUNS.c.owner.is_not(None)).limit(1)
_FIND_WAKE_AT: Final = sa.select(RUNS.c.wake_at).where(
    RUNS.c.run_id == sa.bindparam("run_id")
)
_COUNT_OWNED: Final = sa.select(sa.func.count()).where(RUNS.c.owner.is_not(None))


class Progress(NamedTuple):
    """How far a copy is.

    Attributes:
        step: "checking", "copying" or "comparing".
        rows: so many rows of the table are done,
        of: of so many; None if they are not counted yet.
    """

    step: str
    table: str
    rows: int
    of: int | None


class Copied(NamedTuple):
    """What was copied.

    Attributes:
        tables: what each table holds now, on both sides.
        disowned: how many runs of dead workers are at rest now.
        resumed: how many rows an interrupted copy had brought.
    """

    tables: dict[str, Sum]
    disowned: int
    resumed: int


def copy(
    source: SqlStore,
    target: SqlStore,
    *,
    is_dead: Callable[[WorkerRecord], bool],
    restarts: bool = False,
    told: Callable[[Progress], None] = lambda _: None,
) -> Copied:
    """Copy everything but the workers, and compare.

    An interrupted copy goes on where it was. Nobody else may write to either database
    meanwhile: the source is locked, and what comes into the target is found at the end.

    Args:
        source: where from; not opened.
        target: where to; not opened. It gets its tables if it has none.
        is_dead: whether a worker has ended, though its lease may run.
        restarts: whether what an interrupted copy has brought is deleted.
        told: hears what is done.

    Raises:
        InvalidOptionError: it is one database, or the target has rows of its own.
        CorruptHistoryError: a row cannot be held by every database.
        StoreError: one of them is in use, at another revision, or cannot be reached.
    """
    with contextlib.closing(Side(source)) as origin:
        _refuse_workers(origin, is_dead)  # before the other one gets its tables
        with contextlib.closing(Side(target, prepare_for_copy)) as goal:
            # Before the lock: MariaDB's would keep us from what we have locked.
            _refuse_same(origin, goal)
            with origin.explaining():
                origin.session.begin_alone()
            _refuse_workers(origin, is_dead)
            return _Copy(origin, goal, is_dead, told).carry_out(restarts=restarts)


def _refuse_same(source: Side, target: Side) -> None:
    with source.explaining():
        place = source.session.identify()
    with target.explaining():
        is_same = target.session.identify() == place
    if is_same:
        raise InvalidOptionError(
            f"{source.name} and {target.name} are the same database."
        )


def _refuse_workers(side: Side, is_dead: Callable[[WorkerRecord], bool]) -> None:
    with side.explaining():
        workers = side.list_workers()
    now = side.now()
    for worker in workers:
        if worker.lease_expires_at > now and not is_dead(worker):
            raise side.in_use(
                f"worker {worker.worker_id!r} (process {worker.pid} on"
                f" {worker.host.partition('/')[0]!r}) has a lease"
            )


class _Copy:
    """One copy, from a source that is locked."""

    def __init__(
        self,
        source: Side,
        target: Side,
        is_dead: Callable[[WorkerRecord], bool],
        told: Callable[[Progress], None],
    ) -> None:
        self._source, self._target = source, target
        self._is_dead, self._told = is_dead, told
        self._now = source.now()
        self._sums: dict[str, Sum] = {}
        self._disowned = self._resumed = 0

    def carry_out(self, *, restarts: bool) -> Copied:
        target = self._target
        try:
            self._look_at_target()
        except InvalidOptionError:
            if not self._is_copied():
                raise
            resumed = sum(found.rows for found in self._sums.values())
            return Copied(self._sums, self._disowned, resumed)
        self._check_source()
        with target.alone():
            # Somebody may have come meanwhile, who is not let in any more from here on.
            self._look_at_target()
            if restarts and target.read_revision() != HEAD:
                target.clear()
            target.session.connection.execute(sa.delete(WORKERS))
            target.write_revision(f"{COPYING}{self._now}")
        for table in TABLES:
            self._copy_table(table)
        self._finish()
        return Copied(self._sums, self._disowned, self._resumed)

    def _look_at_target(self) -> None:
        target = self._target
        _refuse_workers(target, self._is_dead)
        with target.explaining():
            revision, has_rows = target.read_revision(), target.has_rows()
        if revision.startswith(COPYING):
            self._now = int(revision.removeprefix(COPYING))
        elif has_rows:
            raise InvalidOptionError(
                f"{target.name} has runs of its own; a copy goes into an empty database"
                " only.",
                hint="Give another one, which need not exist yet, or another schema.",
            )

    def _is_copied(self) -> bool:
        """Whether the target holds all of it and nothing else: a copy that has ended.

        Whoever killed the command cannot know that it had ended.
        """
        source, target = self._source, self._target
        with source.explaining():
            count = fetch(source.session, _COUNT_RUNS)
            owned = fetch(source.session, _FIND_OWNED)
        with target.explaining():
            if fetch(target.session, _COUNT_RUNS) != count:
                return False
            for (run_id,) in owned:
                for (wake_at,) in fetch(target.session, _FIND_WAKE_AT, run_id=run_id):
                    self._now = due_since(wake_at or 0)  # when it was disowned
        self._check_source()
        return all(
            target.sum_up(table, self._teller("comparing", table))
            == self._sums[table.name]
            for table in TABLES
        )

    def _read_source(self, table: sa.Table) -> Iterator[list[Row]]:
        for rows in self._source.read(table):
            check(table, rows)
            if table is RUNS:
                rows = disown(rows, self._now)
            elif table is ACTIVITY_TASKS:
                rows = lose(rows)
            yield rows

    def _check_source(self) -> None:
        with self._source.explaining():
            ((self._disowned,),) = fetch(self._source.session, _COUNT_OWNED)
        for table in TABLES:
            digest = Digest()
            for rows in self._read_source(table):
                digest.add(rows)
                self._told(Progress("checking", table.name, digest.rows, None))
            self._sums[table.name] = digest.sum

    def _copy_table(self, table: sa.Table) -> None:
        target, expected = self._target, self._sums[table.name]
        there = target.sum_up(table, self._teller("comparing", table))
        self._resumed += there.rows
        tell = self._teller("copying", table)
        done = Digest()
        pages = self._read_source(table)
        rest: list[Row] = []
        while done.rows < there.rows and not rest:
            page = next(pages, None)
            if page is None:
                break
            place = there.rows - done.rows
            done.add(page[:place])
            rest = page[place:]
        if done.sum != there:
            raise DatabaseUnavailableError(
                f"{target.name} is half a copy of something else: {table.name} has"
                f" {there.rows} rows that are not the first of {self._source.name},"
                " which may have changed since.",
                hint=_RESTART,
            )
        for page in itertools.chain([rest] if rest else [], pages):
            with target.writing():
                target.session.insert(table, page)
            done.add(page)
            tell(done.rows)
        if done.sum != expected:
            raise self._source.in_use(f"{table.name} was changed during the copy")

    def _teller(self, step: str, table: sa.Table) -> Callable[[int], None]:
        of = self._sums[table.name].rows
        return lambda rows: self._told(Progress(step, table.name, rows, of))

    def _finish(self) -> None:
        source, target = self._source, self._target
        with source.explaining():
            last_sequence = source.find_last_sequence()
        with target.alone():
            for table in TABLES:
                found = target.sum_up(table, self._teller("comparing", table))
                if found != self._sums[table.name]:
                    raise DatabaseUnavailableError(
                        f"{target.name} does not hold what was copied into it:"
                        f" {table.name} has {found.rows} rows, instead of"
                        f" {self._sums[table.name].rows}, or others. Something else"
                        " has written to it, or it is damaged.",
                        hint=_RESTART,
                    )
            if target.list_workers():
                raise target.in_use("a worker has begun there")
            if not source.session.is_in_place():
                raise source.database.not_in_place()
            target.session.raise_sequence(last_sequence)
            target.write_revision(HEAD)
