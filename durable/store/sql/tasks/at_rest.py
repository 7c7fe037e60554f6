"""How PostgreSQL takes runs at rest, and where looks for them begin there.

See `durable.store.looks`. Those that are due at once and those that wait for an instant
are apart in the index. Only reads are full looks: who claims has read before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from durable.store.looks import Place
from durable.store.records import AT_ONCE, at_once
from durable.store.sql import statements
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import RUNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable.store.database import Session
    from durable.store.records import WorkerRecord

_NAMES: Final = ("at_once", "timed")
_STARTS: Final = {"at_once": Place(-AT_ONCE), "timed": Place(0)}
_PLACE: Final = (RUNS.c.wake_at, RUNS.c.run_id)
_WALKED: Final = sa.func.pg_stat_get_xact_tuples_returned(
    sa.literal_column("'durable_runs_due'::regclass")
)


def _from(name: str) -> sa.ColumnElement[bool]:
    names = zip((name, f"{name}_run"), _PLACE, strict=True)
    place = [sa.bindparam(one, type_=column.type) for one, column in names]
    return sa.tuple_(*_PLACE) >= sa.tuple_(*place)


def _text(text: str) -> sa.ColumnElement[Any]:
    return sa.literal_column(f"'{text}'", sa.String)


def _first(name: str, label: str, *where: Any) -> sa.Select[Any, Any, Any]:
    if name == "at_once":
        where = (*where, RUNS.c.wake_at < sa.literal_column("0"))
    return (
        sa.select(_text(label), *_PLACE)
        .where(*statements.AT_REST_IN_QUEUE, _from(name), *where)
        .order_by(*_PLACE)
        .limit(sa.literal(1))
    )


def _count(label: str, count: sa.ColumnElement[Any]) -> sa.Select[Any, Any, Any]:
    return sa.select(_text(label), count, _text(""))


# The parts of a union are carried out one after the other.
_LOOK: Final = sa.union_all(
    _count("before", _WALKED),
    *(_first(name, name) for name in _NAMES),
    _count("after", _WALKED),
    *(_first(name, "served", *statements.SERVED) for name in _NAMES),
)
# What others are taking just now is theirs.
TAKE_CLAIMABLE: Final = statements.FIND_CLAIMABLE.where(_from("since")).with_for_update(
    skip_locked=True
)
TAKE_STUCK: Final = statements.FIND_STUCK.with_for_update(skip_locked=True)


def _what(worker: WorkerRecord) -> tuple[str, str, str]:
    return ("runs", worker.namespace, worker.task_queue)


def find_next(
    session: Session, worker: WorkerRecord, where: dict[str, Any]
) -> list[int]:
    """Return when the first of the runs at rest that a worker serves are due."""
    looks = session.looks
    if looks is None or session.connection.dialect.name != "postgresql":
        return [at for (at,) in fetch(session, statements.NEXT_WAKE_AT, **where)]
    began, look = looks.begin(), looks.recall(_what(worker))
    begin: dict[str, Any] = {}
    for name in _NAMES:
        place = _STARTS[name] if look is None else look.places[name]
        begin |= {name: place.instant, f"{name}_run": place.run_id}
    rows = fetch(session, _LOOK, **where, **begin)
    counted = {label: at for label, at, _ in rows}
    recents = {"at_once": Place(at_once(began.recent.instant)), "timed": began.recent}
    found = recents | {
        label: min(Place(at, run_id), recents[label])
        for label, at, run_id in rows
        if label in recents
    }
    if look is None:
        walked = counted["after"] - counted["before"]
        looks.remember(_what(worker), found, began, walked)
    else:
        for name, place in found.items():
            look.advance(name, place)
    return [at for label, at, _ in rows if label == "served"]


def ranges(
    session: Session, worker: WorkerRecord, now: int
) -> Iterator[dict[str, Any]]:
    """Yield from where on, and until when, a claim looks for runs."""
    look = None if session.looks is None else session.looks.recall(_what(worker))
    if look is None:
        yield {"since": -AT_ONCE, "since_run": "", "until": now}
        return
    for name, until in zip(_NAMES, (min(now, -1), now), strict=True):
        since = look.places[name]
        yield {"since": since.instant, "since_run": since.run_id, "until": until}
