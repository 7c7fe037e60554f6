"""What a group of operations looks at, on PostgreSQL: one trip, or two.

The locks, their order and their strengths are explained in docs/design/servers.md.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from durable import limits
from durable.store.deciding.family import TERMINATE
from durable.store.deciding.wanted import ADDRESSED
from durable.store.postgresql.driver import Statement, numbers, texts
from durable.store.postgresql.write import LOCK_WORKER
from durable.store.servers.locked_look import ABANDON, RUN_COLUMNS, LockedLook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from durable.store.deciding.wanted import Wanted
    from durable.store.postgresql.driver import Row

    Send = Callable[[dict[str, Statement]], dict[str, list[Row]]]

_R: Final = RUN_COLUMNS.format("r")
# All that is open of a family whose members end with their parents.
_FAMILY: Final = (
    "family(id, policy, depth) AS ("  # noqa: S608 - constant names, here and below
    "SELECT c.run_id, c.parent_close_policy, 1 FROM unnest(%b::text[]) AS p(id)"
    " JOIN durable_runs AS c ON c.parent_run_id = p.id AND c.open_key IS NOT NULL"
    " UNION SELECT c.run_id, c.parent_close_policy, f.depth + 1 FROM family AS f"
    " JOIN durable_runs AS c ON c.parent_run_id = f.id AND c.open_key IS NOT NULL"
    f" WHERE f.policy = '{TERMINATE}' AND f.depth < {limits.CHILD_DEPTH_MAX})"
)
_NAMED: Final = (
    "SELECT * FROM unnest(%b::text[], %b::int8[]) AS n(id, mode),"
    " (SELECT false) AS k(keyed)"
)
# No index of namespaces is to be used: see tables.py.
_KEYED: Final = (
    " UNION ALL SELECT r.run_id, k.mode, true"
    " FROM unnest(%b::text[], %b::text[], %b::int8[]) AS k(name, namespace, mode)"
    " JOIN durable_runs AS r"
    " ON r.open_key = k.name AND '' || r.namespace = k.namespace"
    " UNION ALL SELECT r.run_id, 0, false"
    " FROM unnest(%b::text[], %b::text[]) AS q(request, namespace)"
    " JOIN durable_runs AS r"
    " ON r.request_id = q.request AND '' || r.namespace = q.namespace"
)
_OF_FAMILY: Final = (
    f" UNION ALL SELECT id, CASE policy WHEN '{TERMINATE}' THEN 2 ELSE 0 END, false"  # noqa: S608 - as above
    f" FROM family WHERE policy IS DISTINCT FROM '{ABANDON}'"
)
# A target at rest needs its wake-up written, so it is locked for that; all others only
# against closing.
_LOCKS: Final = {
    0: (
        "AND r.owner IS NULL AND r.open_key IS NOT NULL"
        " AND (r.wake_at IS NULL OR r.wake_at >= 0) FOR NO KEY UPDATE",
        "FOR KEY SHARE",
    ),
    1: ("FOR NO KEY UPDATE",),
    2: ("FOR UPDATE",),
}


@functools.cache
def _lock_text(modes: frozenset[int], *, by_keys: bool, families: bool) -> str:
    """Compose the statement that locks everything, in the order of run ids."""
    found = _NAMED + (_KEYED if by_keys else "") + (_OF_FAMILY if families else "")
    # In sub-selects, as a set operation takes no lock by itself.
    locks = " UNION ALL ".join(
        f"SELECT * FROM (SELECT {_R} FROM durable_runs AS r"  # noqa: S608 - as above
        f" WHERE r.run_id = w.id AND w.mode = {mode} {lock}) AS m"
        for mode in (modes if found is _NAMED else _LOCKS)
        for lock in _LOCKS[mode]
    )
    return (
        f"WITH RECURSIVE {_FAMILY + ', ' if families else ''}wanted AS MATERIALIZED ("  # noqa: S608 - as above
        " SELECT id, max(mode) AS mode, bool_or(keyed) AS keyed"
        f" FROM ({found}) AS found GROUP BY id ORDER BY id)"
        f" SELECT w.mode, w.keyed, l.* FROM wanted AS w CROSS JOIN LATERAL ({locks})"
        " AS l"
    )


_NEWEST: Final = (
    f"SELECT l.* FROM unnest(%b::text[], %b::text[]) AS k(name, namespace)"  # noqa: S608 - as above
    f" CROSS JOIN LATERAL (SELECT {_R} FROM durable_runs AS r"
    " WHERE r.workflow_id = k.name AND '' || r.namespace = k.namespace"
    " ORDER BY r.namespace DESC, r.started_at DESC, r.run_id DESC LIMIT 1) AS l"
)
_ENDS: Final = (
    "SELECT w.id, (SELECT max(h.event_id) FROM durable_history AS h"
    " WHERE h.run_id = w.id) FROM unnest(%b::text[]) AS w(id)"
)
_MAIL: Final = (
    "SELECT m.run_id, m.request_id, m.sequence, m.kind FROM durable_inbox AS m"
    " WHERE m.run_id = ANY(%b::text[])"
)
_LETTERS: Final = (
    "SELECT m.run_id, m.request_id, m.sequence, m.kind"
    " FROM unnest(%b::text[], %b::text[]) AS s(request_id, run_id)"
    " JOIN durable_inbox AS m ON m.run_id = s.run_id AND m.request_id = s.request_id"
)
_WAITING: Final = "SELECT count(*) FROM durable_inbox WHERE run_id = ANY(%b::text[])"
_CHILDREN: Final = (
    f"WITH RECURSIVE {_FAMILY} SELECT {_R} FROM (SELECT DISTINCT id FROM family) AS f"  # noqa: S608 - as above
    " JOIN durable_runs AS r ON r.run_id = f.id ORDER BY r.run_id"
)
_OUTBOX: Final = (
    "SELECT sequence, tries FROM durable_outbox WHERE sequence = ANY(%b::int8[])"
    " ORDER BY sequence FOR UPDATE"
)
_CHAIN: Final = (
    f"SELECT {_R} FROM durable_runs AS r WHERE '' || r.namespace = %b"  # noqa: S608 - as above
    " AND r.workflow_id = %b AND r.first_run_id = %b"
    " ORDER BY r.namespace DESC, r.started_at DESC, r.run_id DESC LIMIT 1"
)


def lock(wanted: Wanted) -> dict[str, Statement]:
    """Return the statements of the first trip, by what they bring."""
    runs, families = wanted.runs, bool(wanted.families)
    by_keys = bool(wanted.names or wanted.requests)
    modes = frozenset(runs.values()) or frozenset((0,))
    values: list[Any] = [texts(list(wanted.families))] if families else []
    values += (texts(list(runs)), numbers(list(runs.values())))
    if by_keys:
        names = wanted.names
        values += (*_pairs(names), numbers(list(names.values())))
        values += _pairs(wanted.requests)
    text = _lock_text(modes, by_keys=by_keys, families=families)
    asked = {"worker": Statement(LOCK_WORKER, (wanted.worker_id or "",))}
    if "outbox" in wanted.rare:
        # First: who has waited for another to deliver sees what came of it.
        asked["outbox"] = Statement(_OUTBOX, (numbers(list(wanted.rare["outbox"])),))
    asked["locked"] = Statement(text, tuple(values))
    if wanted.names:
        asked["newest"] = Statement(_NEWEST, _pairs(wanted.names))
    written = [run_id for run_id, mode in runs.items() if mode != ADDRESSED]
    if written:
        asked["ends"] = Statement(_ENDS, (texts(written),))
    if wanted.mail:
        asked["mail"] = Statement(_MAIL, (texts(list(wanted.mail)),))
    return asked


def _pairs(keys: Iterable[tuple[str, str]]) -> tuple[Any, Any]:
    """Arrays of what comes second in each, as names do, and of what comes first."""
    pairs = list(keys)
    return texts([name for _, name in pairs]), texts([space for space, _ in pairs])


def look(wanted: Wanted, first: dict[str, list[Row]], send: Send) -> LockedLook:
    """Make something of the first trip's answers, and read what they ask for.

    Raises:
        RowsMovedError: something has changed meanwhile.
    """
    found = LockedLook(wanted)
    found.take_first(first)
    asked: dict[str, Statement] = {}
    further = found.find_further()
    if further:
        asked["further"] = Statement(_ENDS, (texts(further),))
    letters = found.find_letters()
    if letters:
        pairs = _pairs(letters)
        asked["letters"] = Statement(_LETTERS, pairs)
        asked["waiting"] = Statement(_WAITING, pairs[1:])
    if wanted.families:
        parents = texts(list(wanted.families))
        asked["children"] = Statement(_CHILDREN, (parents,))
    for number, chain in enumerate(wanted.rare.get("chains", ())):
        asked[f"chain{number}"] = Statement(_CHAIN, chain)
    answers = send(asked) if asked else {}
    found.take_ends(answers.get("further", ()))
    found.take_rest(first | answers)
    return found
