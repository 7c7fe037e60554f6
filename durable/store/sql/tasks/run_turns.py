"""Runs that wait for their turn: statements, and what a transaction does with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from durable.core.history.events import UNPROCESSED
from durable.store.deciding.queue_turns import Head, begin_turn, take_by_turns
from durable.store.deciding.run_turns import RESET, Beginning
from durable.store.queues import HeldCount, RunTurn, TurnCount, TurnState
from durable.store.records import NEVER, OF_RUNS, MessageKind
from durable.store.sql import statements
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import HISTORY, INBOX, RUN_TURNS, RUNS
from durable.store.sql.tasks.queue_tables import read_queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from durable.store.database import Session
    from durable.store.deciding.queue_turns import Turn
    from durable.store.queries import CountRunTurns, FindRunTurn, NextRunTurnAt
    from durable.store.queues import QueueRecord
    from durable.store.records import ClaimRuns, WorkerRecord

_T: Final = RUN_TURNS.c
_COLUMNS: Final = [_T[name] for name in RunTurn.__struct_fields__]
# No key has this character.
_AFTER: Final = "\x01"
# Of what waits a claim looks at so many whether they have closed, first of all.
_PAGE: Final = 200


def _many(name: str) -> sa.BindParameter[Any]:
    return sa.bindparam(name, expanding=True)


def _of(state: TurnState) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        _T.namespace == sa.bindparam("namespace"),
        _T.task_queue == sa.bindparam("task_queue"),
        _T.state == sa.literal_column(f"'{state.value}'"),
    )


_WAITING: Final = _of(TurnState.WAITING)
_ADMITTED: Final = _of(TurnState.ADMITTED)
_chain: Final = RUNS.alias("chain")
_HAS_OPEN: Final = sa.exists().where(
    _chain.c.open_key == _T.workflow_id,
    _chain.c.namespace == _T.namespace,
    _chain.c.first_run_id == _T.first_run_id,
)

# --- who lines up ---------------------------------------------------------------------

_parent: Final = RUNS.alias("parent")
_events: Final = HISTORY.alias("events")
_last: Final = HISTORY.alias("last")
_last_type: Final = (
    sa.select(_last.c.type)
    .where(_last.c.run_id == RUNS.c.run_id)
    .order_by(_last.c.event_id.desc())
    .limit(1)
    .correlate(RUNS)
    .scalar_subquery()
)
_FIND_BEGINNINGS: Final = (
    sa.select(
        *(RUNS.c.run_id, RUNS.c.first_run_id, RUNS.c.workflow_id),
        *(RUNS.c.workflow_type, RUNS.c.started_at, RUNS.c.wake_at),
        sa.and_(
            sa.exists().where(
                _events.c.run_id == RUNS.c.run_id, _events.c.task_number > UNPROCESSED
            ),
            _last_type != RESET,
        ),
        *(HISTORY.c.data, _parent.c.task_queue, _T.state, _T.run_id, _T.task_queue),
    )
    .select_from(
        RUNS.outerjoin(
            HISTORY,
            sa.and_(HISTORY.c.run_id == RUNS.c.run_id, HISTORY.c.event_id == 1),
        )
        .outerjoin(_parent, _parent.c.run_id == RUNS.c.parent_run_id)
        .outerjoin(RUN_TURNS, _T.first_run_id == RUNS.c.first_run_id)
    )
    .where(RUNS.c.run_id.in_(_many("run_ids")))
)
_DROP_CHAINS: Final = sa.delete(RUN_TURNS).where(_T.first_run_id.in_(_many("chains")))
_DROP_RUN: Final = sa.delete(RUN_TURNS).where(_T.run_id == sa.bindparam("dropped"))
_INSERT: Final = sa.insert(RUN_TURNS).inline()
_HOLD_BACK: Final = (
    sa.update(RUNS).where(RUNS.c.run_id.in_(_many("run_ids"))).values(wake_at=NEVER)
)

# --- what has ended -------------------------------------------------------------------

_ENDED: Final = sa.select(_T.first_run_id).where(*_ADMITTED, ~_HAS_OPEN)
_first: Final = (
    sa.select(_T.first_run_id, _T.run_id)
    .where(*_WAITING)
    .order_by(_T.priority, _T.fairness_key, _T.due_at, _T.run_id)
    .limit(sa.literal(_PAGE))
    .subquery()
)
_ENDED_WAITING: Final = (
    sa.select(_first.c.first_run_id)
    .select_from(_first.outerjoin(RUNS, RUNS.c.run_id == _first.c.run_id))
    .where(RUNS.c.open_key.is_(None))
)

# --- whose turn it is -----------------------------------------------------------------

_of_run: Final = RUN_TURNS.join(RUNS, RUNS.c.run_id == _T.run_id)
_SERVED: Final = (
    *statements.SERVED,
    RUNS.c.owner.is_(None),
    RUNS.c.wake_at == NEVER,
    RUNS.c.open_key.is_not(None),
    RUNS.c.stuck.is_(None),
)
_OF_PRIORITY: Final = _T.priority == sa.bindparam("of_priority")
_NEXT_PRIORITY: Final = sa.select(sa.func.min(_T.priority)).where(
    *_WAITING, _T.priority > sa.bindparam("after")
)
_NEXT_KEY: Final = (
    sa.select(_T.fairness_key, _T.fairness_weight, _T.due_at)
    .select_from(_of_run)
    .where(*_WAITING, *_SERVED, _OF_PRIORITY)
    .where(_T.fairness_key >= sa.bindparam("from_key"))
    .order_by(_T.fairness_key, _T.due_at, _T.run_id)
    .limit(sa.literal(1))
)
_OF_KEY: Final = (
    sa.select(_T.run_id)
    .select_from(_of_run)
    .where(*_WAITING, *_SERVED, _OF_PRIORITY)
    .where(_T.fairness_key == sa.bindparam("key"))
    .order_by(_T.due_at, _T.run_id)
    .limit(sa.bindparam("page"))
)
_ADMIT: Final = (
    sa.update(RUN_TURNS)
    .where(_T.run_id.in_(_many("run_ids")))
    .values(state=TurnState.ADMITTED.value)
)
_COUNT: Final = (
    sa.select(_T.fairness_key, sa.func.count())
    .where(*_ADMITTED)
    .group_by(_T.fairness_key)
)
_COUNT_OPEN: Final = _COUNT.where(_HAS_OPEN)

# --- who begins out of turn -----------------------------------------------------------

_EXPIRED: Final = (
    sa.select(_T.run_id, _T.expires_at)
    .select_from(_of_run)
    .where(*_WAITING, *_SERVED, _T.expires_at.is_not(None))
    .order_by(_T.expires_at)
    .limit(sa.bindparam("page"))
)
_CANCELLED: Final = (
    sa.select(_T.run_id)
    .select_from(_of_run.join(INBOX, INBOX.c.run_id == _T.run_id))
    .where(*_WAITING, *_SERVED, INBOX.c.kind == MessageKind.CANCEL.value)
    .limit(sa.bindparam("page"))
)

# --- for people, and when nobody is limited any more ----------------------------------

_ALL_WAITING: Final = sa.select(_T.run_id).where(*_WAITING).order_by(_T.run_id)
_DROP_QUEUE: Final = sa.delete(RUN_TURNS).where(*_WAITING[:2])
_LET_GO: Final = (
    sa.update(RUNS)
    .where(
        RUNS.c.run_id.in_(_many("run_ids")),
        RUNS.c.owner.is_(None),
        RUNS.c.wake_at == NEVER,
        RUNS.c.stuck.is_(None),
        RUNS.c.open_key.is_not(None),
    )
    .values(wake_at=sa.bindparam("due"))
)
_COUNT_ALL: Final = (
    sa.select(_T.task_queue, _T.state, sa.func.count())
    .where(_T.namespace == sa.bindparam("namespace"), _HAS_OPEN)
    .group_by(_T.task_queue, _T.state)
    .order_by(_T.task_queue, _T.state)
)
_FIND: Final = sa.select(*_COLUMNS).where(_T.run_id == sa.bindparam("run_id"))


def _pages(run_ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (run_ids[at : at + _PAGE] for at in range(0, len(run_ids), _PAGE))


def _where(worker: WorkerRecord) -> dict[str, Any]:
    return {"namespace": worker.namespace, "task_queue": worker.task_queue}


def _served(asked: ClaimRuns | NextRunTurnAt) -> dict[str, Any]:
    return {
        "workflow_types": asked.workflow_types,
        "versions": statements.served(asked.versions),
    }


def _find_keys(session: Session, where: dict[str, Any], turn: Turn) -> list[Head]:
    """Return the keys of a priority that have room, in turn, and one more at most."""
    found: list[Head] = []
    for from_key, end in ((turn.last_key, None), ("", turn.last_key)):
        after = from_key
        while len(found) <= turn.room:
            rows = fetch(session, _NEXT_KEY, **where, from_key=after)
            if not rows or (end is not None and rows[0][0] >= end):
                break
            key, weight, due_at = rows[0]
            if turn.room_of(key) > 0:
                found.append(Head(key, "", due_at, weight))
            after = key + _AFTER
    return found


def _find_priorities(session: Session, where: dict[str, Any]) -> Iterable[int]:
    after = -1
    while True:
        ((priority,),) = fetch(session, _NEXT_PRIORITY, **where, after=after)
        if priority is None:
            return
        yield priority
        after = priority


class RunTurnTables:
    """The part of `Tables` that concerns runs that wait for their turn."""

    _session: Session

    def find_beginnings(self, run_ids: Sequence[str]) -> list[Beginning]:
        """See `Tables`."""
        rows: list[Any] = []
        for page in _pages(run_ids):
            rows += fetch(self._session, _FIND_BEGINNINGS, run_ids=page)
        found = [Beginning(*row) for row in rows]
        return [one._replace(has_begun=bool(one.has_begun)) for one in found]

    def put_turns(self, turns: Sequence[RunTurn]) -> None:
        """See `Tables`."""
        for page in _pages([one.first_run_id for one in turns]):
            self._session.connection.execute(_DROP_CHAINS, {"chains": page})
        rows = [{**msgspec.structs.asdict(t), "state": t.state.value} for t in turns]
        self._session.connection.execute(_INSERT, rows)

    def hold_back(self, run_ids: Sequence[str]) -> None:
        """See `Tables`."""
        for page in _pages(run_ids):
            self._session.connection.execute(_HOLD_BACK, {"run_ids": page})

    def drop_turn(self, run_id: str) -> None:
        """See `Tables`."""
        self._session.connection.execute(_DROP_RUN, {"dropped": run_id})

    def end_turns(self, namespace: str, task_queue: str) -> None:
        """See `Tables`."""
        where = {"namespace": namespace, "task_queue": task_queue}
        ended = fetch(self._session, _ENDED, **where)
        ended += fetch(self._session, _ENDED_WAITING, **where)
        for page in _pages([chain for (chain,) in ended]):
            self._session.connection.execute(_DROP_CHAINS, {"chains": page})

    def count_turns(self, namespace: str, task_queue: str) -> list[HeldCount]:
        """See `Tables`."""
        where = {"namespace": namespace, "task_queue": task_queue}
        rows = fetch(self._session, _COUNT, **where)
        return [HeldCount(key, None, runs) for key, runs in rows]

    def call_out(
        self, worker: WorkerRecord, claim: ClaimRuns, now: int
    ) -> dict[str, int]:
        """See `Tables`."""
        where = {**_where(worker), **_served(claim), "page": claim.limit}
        found = [r for r, at in fetch(self._session, _EXPIRED, **where) if at <= now]
        found += [run_id for (run_id,) in fetch(self._session, _CANCELLED, **where)]
        taken = self._take(list(dict.fromkeys(found))[: claim.limit])
        for run_id in taken:
            self.drop_turn(run_id)
        return taken

    def admit_in_turn(
        self, worker: WorkerRecord, claim: ClaimRuns, turn: Turn
    ) -> dict[str, int]:
        """See `Tables`."""
        session, where = self._session, {**_where(worker), **_served(claim)}
        admitted: dict[str, int] = {}

        def find(of: dict[str, Any], _: Sequence[str]) -> list[Head]:
            return _find_keys(session, {**where, **of}, turn)

        def take(of: dict[str, Any]) -> int:
            of_key = {name: of[name] for name in ("of_priority", "key", "page")}
            rows = fetch(session, _OF_KEY, **where, **of_key)
            taken = self._take([run_id for (run_id,) in rows])
            if taken:
                session.connection.execute(_ADMIT, {"run_ids": list(taken)})
                admitted.update(taken)
            return len(taken)

        priorities = _find_priorities(session, _where(worker))
        take_by_turns([(one, 0, "") for one in priorities], turn, find, take)
        return admitted

    def _take(self, run_ids: Sequence[str]) -> dict[str, int]:
        """Lock runs that nobody else is taking just now, in the order given."""
        epochs: dict[str, int] = {}
        for page in _pages(run_ids):
            epochs.update(fetch(self._session, statements.TAKE_RUNS, run_ids=page))
        return {run_id: epochs[run_id] for run_id in run_ids if run_id in epochs}

    def let_go(self, namespace: str, task_queue: str, due: int) -> None:
        """See `Tables`."""
        where = {"namespace": namespace, "task_queue": task_queue}
        waiting = [run_id for (run_id,) in fetch(self._session, _ALL_WAITING, **where)]
        for page in _pages(waiting):
            self._session.connection.execute(_LET_GO, {"run_ids": page, "due": due})
        self._session.connection.execute(_DROP_QUEUE, where)


# --- reads ----------------------------------------------------------------------------


def next_at(session: Session, query: NextRunTurnAt, worker: WorkerRecord) -> int | None:
    """See the query."""
    namespace, queue = worker.namespace, worker.task_queue
    record = read_queue(session, namespace, queue + OF_RUNS)
    if record is None:
        return None
    where = {**_where(worker), **_served(query)}
    instants = [at for _, at in fetch(session, _EXPIRED, **where, page=1)]
    if fetch(session, _CANCELLED, **where, page=1):
        instants.append(0)
    at = _turn_at(session, record, where, worker, query.now)
    return min([*instants, *([] if at is None else [at])], default=None)


def _turn_at(
    session: Session,
    record: QueueRecord,
    where: dict[str, Any],
    worker: WorkerRecord,
    now: int,
) -> int | None:
    of_queue = _where(worker)
    rows = fetch(session, _COUNT_OPEN, **of_queue) if record.has_slots else ()
    held = [HeldCount(key, None, runs) for key, runs in rows]
    turn = begin_turn(record, held, worker.worker_id, 1, now)
    if not turn.room and turn.next_at is None:
        return None
    at, turn.room = turn.next_at or 0, 1
    for priority in _find_priorities(session, of_queue):
        if _find_keys(session, {**where, "of_priority": priority}, turn):
            return at
    return None


def counted(session: Session, query: CountRunTurns) -> list[TurnCount]:
    """See the query."""
    rows = fetch(session, _COUNT_ALL, namespace=query.namespace)
    return [TurnCount(queue, TurnState(state), runs) for queue, state, runs in rows]


def found(session: Session, query: FindRunTurn) -> RunTurn | None:
    """See the query."""
    rows = fetch(session, _FIND, run_id=query.run_id)
    if not rows:
        return None
    return msgspec.convert(
        dict(zip(RunTurn.__struct_fields__, rows[0], strict=True)), RunTurn
    )
