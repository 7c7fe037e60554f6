"""What a group of operations looks at, on SQLite: raw SQL on the driver's connection.

`BEGIN IMMEDIATE` has locked out every other writer, so nothing is locked by itself,
and several statements see one state. What cannot be there is not asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from durable import limits
from durable.store.deciding.family import TERMINATE
from durable.store.deciding.rows import Name, Run, Seen, age_of
from durable.store.records import RunStatus
from durable.store.sqlite.texts import ManyKeys

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from durable.store.activity_tasks import TaskKey
    from durable.store.deciding.rows import RequestKey
    from durable.store.deciding.wanted import Wanted

_STATUSES: Final = {status.value: status for status in RunStatus}
# Whatever else was put there, SQLite takes text to be greater than any number.
_LAST: Final = (
    "(SELECT max(event_id) FROM durable_history"
    " WHERE run_id = r.run_id AND event_id <= 2147483647)"
)
_COLUMNS: Final = (
    "r.run_id, r.namespace, r.workflow_id, r.first_run_id, r.status, r.closed_at,"
    " r.owner, r.started_at, r.parent_run_id, r.parent_close_policy,"
    f" coalesce({_LAST}, 0), r.wake_at, r.epoch"
)
_RUNS: Final = f"{_COLUMNS} FROM durable_runs AS r"
# What a row tells of: the header, a run by its id, or by one of its keys.
_HEADER: Final = 0
_BY_ID: Final = 1
_BY_REQUEST: Final = 2
_OPEN: Final = 3
_NEWEST: Final = 4
_USED: Final = 5
# The driver reads the name of each column of each answer: most have four.
_SELECT_HEADER: Final = (
    f"SELECT {_HEADER}, (SELECT 1 FROM durable_workers WHERE worker_id = ?1),"  # noqa: S608 - constant names
    " (SELECT min(sequence) FROM durable_inbox),"
    " CASE WHEN ?2 THEN coalesce((SELECT seq FROM sqlite_sequence"
    " WHERE name = 'durable_inbox'), 0) END"
)
_WIDE_HEADER: Final = _SELECT_HEADER + ", NULL" * 11
_FIND_RUNS: Final = ManyKeys(
    f"{_WIDE_HEADER} UNION ALL SELECT {_BY_ID}, NULL, {_RUNS} WHERE r.run_id IN ({{}})"
)
_OF_REQUESTS: Final = "r.namespace = ?3 AND r.request_id IN ({requests}) UNION ALL"
_USED_NAMES: Final = (
    f"{_SELECT_HEADER} UNION ALL SELECT {_BY_REQUEST}, r.request_id, NULL, NULL"  # noqa: S608 - as above
    f" FROM durable_runs AS r WHERE {_OF_REQUESTS}"
    f" SELECT {_USED}, w.column1, NULL, NULL FROM (VALUES {{rows}}) AS w"
    " WHERE EXISTS (SELECT 1 FROM durable_runs AS n"
    " WHERE n.workflow_id = w.column1 AND n.namespace = ?3)"
)
# Of those that began at one instant the last one counts.
_HELD_NAMES: Final = (
    f"{_WIDE_HEADER} UNION ALL SELECT {_BY_REQUEST}, r.request_id, {_RUNS}"  # noqa: S608 - as above
    f" WHERE {_OF_REQUESTS} SELECT {_OPEN}, r.open_key, {_RUNS}"
    " WHERE r.namespace = ?3 AND r.open_key IN ({names})"
    f" UNION ALL SELECT {_NEWEST}, r.workflow_id, {_RUNS} WHERE r.rowid IN (SELECT"
    " (SELECT n.rowid FROM durable_runs AS n WHERE n.workflow_id = w.column1"
    " AND n.namespace = ?3 ORDER BY n.started_at DESC, n.run_id DESC LIMIT 1)"
    " FROM (VALUES {rows}) AS w)"
)
_FIND_OTHERS: Final = ManyKeys(
    f"{_SELECT_HEADER} UNION ALL SELECT {_BY_ID}, p.column1, NULL, NULL FROM"  # noqa: S608 - as above
    " (VALUES {}) AS p LEFT JOIN durable_runs AS r ON r.run_id = p.column1"
    " WHERE r.owner IS NOT ?1 OR r.epoch IS NOT p.column3"
    f" OR coalesce({_LAST}, 0) IS NOT p.column2",
    3,
)


class _Names:
    """Who holds request ids and workflow ids of one namespace, in a few sizes."""

    def __init__(self, *, is_new: bool) -> None:
        """Compose the texts.

        Args:
            is_new: of all ids, only which of them were ever used.
        """
        compose = self._compose_used if is_new else self._compose_held
        self.texts = [(n, compose(n)) for n in (1, 4, 16, 128, 512)]

    @staticmethod
    def _compose_used(size: int) -> str:
        # Each place has its own value, so none needs a number, for which SQLite looks
        # through all others.
        places = ["?"] * size
        return _USED_NAMES.replace("{requests}", ", ".join(places)).replace(
            "{rows}", ", ".join(f"({place})" for place in places)
        )

    @staticmethod
    def _compose_held(size: int) -> str:
        requests, names = (
            [f"?{number}" for number in range(first, first + size)]
            for first in (4, 4 + size)
        )
        return (
            _HELD_NAMES.replace("{requests}", ", ".join(requests))
            .replace("{names}", ", ".join(names))
            .replace("{rows}", ", ".join(f"({name})" for name in names))
        )

    def fetch(
        self,
        cursor: sqlite3.Cursor,
        before: Sequence[Any],
        requests: list[str],
        names: list[str],
    ) -> list[Any]:
        rows: list[Any] = []
        largest = self.texts[-1][0]
        for start in range(0, max(len(requests), len(names)), largest):
            end = start + largest
            # What is brought twice, or for nothing, does no harm.
            some = requests[start:end] or [""]
            others = names[start:end] or names[-1:]
            most = max(len(some), len(others))
            size, text = next(t for t in self.texts if t[0] >= most)
            values = [*before, *some, *some[-1:] * (size - len(some))]
            values += [*others, *others[-1:] * (size - len(others))]
            rows += cursor.execute(text, values).fetchall()
        return rows


_FIND_NAMES: Final = _Names(is_new=False)
_FIND_USED_NAMES: Final = _Names(is_new=True)
_MAIL: Final = "SELECT m.run_id, m.request_id, m.sequence, m.kind FROM"
_FIND_MAIL: Final = ManyKeys(f"{_MAIL} durable_inbox AS m WHERE m.run_id IN ({{}})")
_FIND_LETTERS_TO_ONE: Final = ManyKeys(
    f"{_MAIL} durable_inbox AS m WHERE m.run_id = ? AND m.request_id IN ({{}})"
)
# A plain join might be turned round by the planner, and walk the inbox.
_FIND_LETTERS: Final = ManyKeys(
    f"{_MAIL} (VALUES {{}}) AS sent CROSS JOIN durable_inbox AS m"
    " ON m.run_id = sent.column1 AND m.request_id = sent.column2",
    2,
)
_FIND_OUTBOX: Final = ManyKeys(
    "SELECT sequence, tries FROM durable_outbox WHERE sequence IN ({})"
)
_LETTERS_TO_ONE: Final = 4
_OPEN_CHILD: Final = (
    "SELECT c.run_id, c.parent_close_policy, {} FROM {} WHERE c.open_key IS NOT NULL"
)
_FIND_FAMILIES: Final = ManyKeys(
    "WITH RECURSIVE family(run_id, policy, depth) AS ("  # noqa: S608 - as above
    + _OPEN_CHILD.format("1", "durable_runs AS c")
    + " AND c.parent_run_id IN ({}) UNION "
    + _OPEN_CHILD.format(
        "f.depth + 1",
        "family AS f CROSS JOIN durable_runs AS c ON c.parent_run_id = f.run_id",
    )
    + f" AND f.policy = '{TERMINATE}' AND f.depth < {limits.CHILD_DEPTH_MAX})"  # noqa: S608 - as above
    # Inputs that no task has taken have no number of their own.
    f" SELECT {_BY_ID}, NULL, {_COLUMNS}, CASE h.task_number WHEN 0 THEN"
    " (SELECT max(t.task_number) FROM durable_history AS t WHERE t.run_id = r.run_id)"
    " ELSE h.task_number END, h.time"
    " FROM family CROSS JOIN durable_runs AS r ON r.run_id = family.run_id"
    f" LEFT JOIN durable_history AS h ON h.run_id = r.run_id AND h.event_id = {_LAST}"
)


_FIND_TASKS: Final = ManyKeys(
    "SELECT t.run_id, t.scheduled_event_id, t.namespace, t.state, t.attempt,"
    " t.worker_id, t.judge_id, t.cancel, t.started_at FROM (VALUES {}) AS k"
    " CROSS JOIN durable_activity_tasks AS t"
    " ON t.run_id = k.column1 AND t.scheduled_event_id = k.column2",
    2,
)


def look_for_tasks(cursor: sqlite3.Cursor, keys: Iterable[TaskKey]) -> list[Any]:
    """Bring tasks, as `LOCK_TASKS` does elsewhere."""
    return _FIND_TASKS.fetch(cursor, list(keys))


def look(cursor: sqlite3.Cursor, wanted: Wanted) -> Seen:
    """Bring all that is wanted and can be known from operations alone."""
    seen = Seen()
    header = (wanted.worker_id, 1 if wanted.letters or wanted.sequence else 0)
    if wanted.names:
        _look_for_names(cursor, wanted, header, seen)
    if wanted.runs:
        run_ids = list(wanted.runs)
        if wanted.is_narrow:
            run_ids = _look_for_places(cursor, wanted, header, seen)
        if run_ids:
            look_for_runs(cursor, run_ids, seen, header)
    elif "tasks" in wanted.rare and not wanted.names:
        _take_header(seen, cursor.execute(_SELECT_HEADER, header).fetchone())
    is_for_mail = wanted.mail or wanted.letters or "looked" in wanted.rare
    if is_for_mail and seen.first_sequence is not None:
        _look_for_mail(cursor, wanted, seen)
    if wanted.families:
        _look_for_families(cursor, list(wanted.families), seen)
    if "outbox" in wanted.rare:
        sequences = list(wanted.rare["outbox"])
        found = _FIND_OUTBOX.fetch(cursor, sequences)
        seen.outbox = dict.fromkeys(sequences) | dict(found)
    return seen


def look_for_runs(
    cursor: sqlite3.Cursor,
    run_ids: list[str],
    seen: Seen,
    header: Sequence[Any] | None = None,
) -> None:
    """Bring runs by their ids, and the header if its values are given."""
    runs = seen.runs
    before = (None, 0) if header is None else header
    for row in _FIND_RUNS.fetch(cursor, run_ids, before=before):
        if row[0] != _HEADER:
            _take_run(runs, row)
        elif header is not None:
            _take_header(seen, row)
    for run_id in run_ids:
        if run_id not in runs:
            runs[run_id] = None


def _look_for_places(
    cursor: sqlite3.Cursor, wanted: Wanted, header: Sequence[Any], seen: Seen
) -> list[str]:
    """Bring runs that are as their worker believes; return all others.

    Each row that is fetched costs a change of threads.
    """
    believed = [(run_id, *place) for run_id, place in wanted.places.items()]
    rows = _FIND_OTHERS.fetch(cursor, believed, before=header)
    _take_header(seen, rows[0])
    seen.runs = wanted.believed_runs()
    others = {row[1]: None for row in rows if row[0] != _HEADER}
    for run_id in others:
        del seen.runs[run_id]
    return list(others)


def _take_header(seen: Seen, row: Sequence[Any]) -> None:
    seen.has_worker = row[1] is not None
    seen.first_sequence, seen.last_sequence = row[2], row[3]


def _take_run(runs: dict[str, Run | None], row: Sequence[Any]) -> Run:
    run_id = row[2]
    run = runs.get(run_id)
    if run is None:
        runs[run_id] = run = Run(
            run_id, row[3], row[4], row[5], _STATUSES.get(row[6]), *row[7:15]
        )
    return run


def _look_for_names(
    cursor: sqlite3.Cursor, wanted: Wanted, header: Sequence[Any], seen: Seen
) -> None:
    asked: dict[str, tuple[list[str], list[str]]] = {}
    requests, names = seen.requests, seen.names
    for key in wanted.names:
        names[key] = Name()
        namespace, workflow_id = key
        if namespace not in asked:
            asked[namespace] = ([], [])
        asked[namespace][1].append(workflow_id)
    for key in wanted.requests:
        requests[key] = None
        namespace, request_id = key
        asked[namespace][0].append(request_id)
    runs = seen.runs
    # Ids that runs are to be started under are new, as a rule; not those of messages.
    find = _FIND_NAMES if wanted.letters else _FIND_USED_NAMES
    for namespace, (request_ids, workflow_ids) in asked.items():
        where = (*header, namespace)
        rows = find.fetch(cursor, where, request_ids, workflow_ids)
        _take_header(seen, rows[0])
        if find is _FIND_USED_NAMES and len(rows) > 1:
            used = [row[1] for row in rows if row[0] == _USED]
            taken = [row[1] for row in rows if row[0] == _BY_REQUEST]
            if used or taken:
                used = used or workflow_ids[:1]
                rows = _FIND_NAMES.fetch(cursor, where, taken, used)
        for row in rows:
            tag = row[0]
            if tag == _HEADER:
                continue
            run = _take_run(runs, row)
            key = (namespace, row[1])
            if tag == _BY_REQUEST:
                requests[key] = run
            elif tag == _OPEN:
                names[key].open = run
            else:
                names[key].newest = run


def _look_for_mail(cursor: sqlite3.Cursor, wanted: Wanted, seen: Seen) -> None:
    mail: dict[str, dict[str, tuple[int, str]]] = {}
    seen.mail = mail
    seen.all_mail = wanted.mail
    rows = _FIND_MAIL.fetch(cursor, list(wanted.mail))
    seen.looked = looked = wanted.find_letters(seen.find_open)
    by_run: dict[str, list[str]] = {}
    for run_id, request_id in looked:
        if run_id not in wanted.mail:
            by_run.setdefault(run_id, []).append(request_id)
    pairs: list[RequestKey] = []
    for run_id, request_ids in by_run.items():
        if len(request_ids) <= _LETTERS_TO_ONE:
            pairs += [(run_id, request_id) for request_id in request_ids]
            continue
        where = (run_id,)
        rows += _FIND_LETTERS_TO_ONE.fetch(cursor, request_ids, before=where)
    rows += _FIND_LETTERS.fetch(cursor, pairs)
    for run_id, request_id, sequence, kind in rows:
        mail.setdefault(run_id, {})[request_id] = (sequence, kind)


def _look_for_families(cursor: sqlite3.Cursor, parents: list[str], seen: Seen) -> None:
    children: dict[str, dict[str, Run]] = {parent: {} for parent in parents}
    seen.ends = ends = {}
    for row in _FIND_FAMILIES.fetch(cursor, parents):
        run = _take_run(seen.runs, row)
        task_number, time = (n if isinstance(n, int) else 0 for n in row[15:17])
        ends[run.run_id] = (run.last_event_id, task_number, time)
        children.setdefault(run.parent_run_id or "", {})[run.run_id] = run
        if run.parent_close_policy == TERMINATE:
            children.setdefault(run.run_id, {})
    seen.children = {
        parent: sorted(found.values(), key=age_of) for parent, found in children.items()
    }
