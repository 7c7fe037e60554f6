"""What waits in a queue, by type and priority: found anew, or on from where it was."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from durable import limits
from durable.store.looks import Place
from durable.store.sql.fetching import fetch
from durable.store.sql.tables import COLLATIONS
from durable.store.sql.tasks import statements

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from durable.store.database import Session
    from durable.store.looks import Look, Looks

# Before all types and priorities.
_FIRST: Final = ("", -1)


class Waiting(NamedTuple):
    """The first that waits of a priority and type."""

    priority: int
    due_at: int
    kind: str
    run_id: str = ""
    event_id: int = 0

    @property
    def place(self) -> Place:
        """Before it none of its priority and type waits."""
        return Place(self.due_at, self.run_id, self.event_id)


def since(place: Place) -> dict[str, Any]:
    """Tell a statement where to begin."""
    instant, run_id, event_id = place
    return {"since": instant, "since_run": run_id, "since_event": event_id}


def find_heads(
    session: Session, namespace: str, task_queue: str, types: Iterable[str] | None
) -> Iterator[Waiting]:
    """Yield what waits in a queue: the first of each priority and type."""
    known = None if types is None else frozenset(types)
    where = {"namespace": namespace, "task_queue": task_queue}
    dialect = session.connection.dialect.name
    found: Iterable[Waiting]
    if session.looks is not None and dialect == "postgresql":
        found = _look(session, session.looks, where, known)
    elif dialect in COLLATIONS:
        found = _step(session, where, known)
    else:
        found = _find_all(session, where)
    for one in found:
        if (known is None or one.kind in known) and isinstance(one.due_at, int):
            yield one


def _find_all(session: Session, where: dict[str, Any]) -> Iterator[Waiting]:
    """Find them in one statement, or several if there are very many types."""
    after: Any = ""
    while after is not None:
        found = fetch(session, statements.FIND_HEADS, **where, after=after)
        yield from (Waiting(*row) for row in found)
        kinds = {kind for _, _, kind in found}
        after = max(kinds) if len(kinds) >= limits.TASK_TYPES_AT_ONCE else None


def _step(
    session: Session, where: dict[str, Any], known: Collection[str] | None
) -> Iterator[Waiting]:
    """Find one after the other; types that nobody asks for are jumped over."""
    jumps = sorted(known or ())
    found = fetch(session, statements.NEXT_KIND, **where, after="")
    while found:
        first = Waiting(*found[0])
        kind = first.kind
        if known is None or kind in known:
            yield first
            key = {"kind": kind, "of_priority": first.priority}
            if more := fetch(session, statements.NEXT_PRIORITY, **where, **key):
                found = more
                continue
        if known is None:
            found = fetch(session, statements.NEXT_KIND, **where, after=kind)
            continue
        place = bisect.bisect_right(jumps, kind)
        if place == len(jumps):
            return
        jump = jumps[place]
        found = fetch(session, statements.FIRST_OF_KIND, **where, kind=jump)


# --- where an old snapshot keeps what has been taken ----------------------------------


def _look(
    session: Session, looks: Looks, where: dict[str, Any], known: Collection[str] | None
) -> list[Waiting]:
    """Find all of them if that is cheap, or due."""
    what, began = ("tasks", *where.values()), looks.begin()
    look = looks.recall(what)
    if look is not None:
        return list(_look_on(session, look, began.recent, where, known))
    found, walked = _walk(session, where)
    places = {(one.kind, one.priority): one.place for one in found}
    looks.remember(what, places, began, walked - len(found))
    return found


def _walk(session: Session, where: dict[str, Any]) -> tuple[list[Waiting], int]:
    """Find them by one walk; return over how many entries it has gone, too."""
    found: list[Waiting] = []
    walked, (kind, priority) = 0, _FIRST
    page = limits.TASK_TYPES_AT_ONCE
    while True:
        key = {"after": kind, "after_priority": priority, "page": page}
        before, *rows, after = fetch(session, statements.WALK_HEADS, **where, **key)
        walked += before[1] + after[1]
        found += (Waiting(*row) for row in rows)
        if len(rows) < page:
            return found, walked
        kind, priority = found[-1].kind, found[-1].priority


def _look_on(
    session: Session,
    look: Look,
    recent: Place,
    where: dict[str, Any],
    known: Collection[str] | None,
) -> Iterator[Waiting]:
    """Find those of the types and priorities that there were, from their places on."""
    for part, place in list(look.places.items()):
        kind, priority = part
        if known is None or kind in known:
            of_kind = {"kind": kind, "of_priority": priority, **since(place)}
            rows = fetch(session, statements.FIRST_FROM, **where, **of_kind)
            first = [Waiting(*row) for row in rows]
            look.advance(part, min([recent, *(one.place for one in first)]))
            yield from first
