"""What a group of operations looks at, on MariaDB: one packet, or two.

The locks and their order are explained in docs/design/servers.md. A statement takes one
kind of lock, and answers none of what it would need to know beforehand. So a first
packet finds by names, without locks, whose rows the second one locks and reads.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from durable import limits
from durable.store.deciding.family import TERMINATE
from durable.store.deciding.wanted import ADDRESSED, CLOSED
from durable.store.mysql.driver import listed, literal
from durable.store.servers.locked_look import (
    ABANDON,
    RUN_COLUMNS,
    LockedLook,
    RowsMovedError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from durable.store.deciding.rows import NameKey, RequestKey
    from durable.store.deciding.wanted import Wanted
    from durable.store.mysql.driver import Row

    Send = Callable[[dict[str, str]], dict[str, Sequence[Row]]]

# ruff: noqa: S608 - values are literals, the rest are constants

_R: Final = RUN_COLUMNS.format("r")
# A target at rest needs its wake-up written, so it is locked for that; all others only
# against closing.
_AT_REST: Final = (
    "(r.owner IS NULL AND r.open_key IS NOT NULL"
    " AND (r.wake_at IS NULL OR r.wake_at >= 0))"
)
# All that is open of a family whose members end with their parents.
_FAMILY: Final = (
    "WITH RECURSIVE family(id, policy, depth) AS ("
    "SELECT c.run_id, c.parent_close_policy, 1"
    " FROM durable_runs AS c FORCE INDEX (durable_runs_parent)"
    " WHERE c.parent_run_id IN ({0}) AND c.open_key IS NOT NULL"
    " UNION SELECT c.run_id, c.parent_close_policy, f.depth + 1 FROM family AS f"
    " STRAIGHT_JOIN durable_runs AS c FORCE INDEX (durable_runs_parent)"
    " ON c.parent_run_id = f.id AND c.open_key IS NOT NULL"
    f" WHERE f.policy = '{TERMINATE}' AND f.depth < {limits.CHILD_DEPTH_MAX})"
)
_MEMBERS: Final = (
    f"{_FAMILY} SELECT r.run_id, {_AT_REST}, f.policy"
    " FROM (SELECT DISTINCT id, policy FROM family) AS f"
    f" STRAIGHT_JOIN durable_runs AS r ON r.run_id = f.id"
    f" WHERE NOT f.policy <=> '{ABANDON}'"
)
_CHILDREN: Final = (
    f"{_FAMILY} SELECT {_R} FROM (SELECT DISTINCT id FROM family) AS f"
    " STRAIGHT_JOIN durable_runs AS r ON r.run_id = f.id ORDER BY r.run_id"
)
_LOCK_WORKER: Final = (
    "SELECT 1 FROM durable_workers WHERE worker_id = {0} LOCK IN SHARE MODE"
)
_BY_ID: Final = (
    f"SELECT r.run_id, {_AT_REST} FROM durable_runs AS r FORCE INDEX (PRIMARY)"
    " WHERE r.run_id IN ({0})"
)
_BY_NAME: Final = (
    f"SELECT r.run_id, {_AT_REST}, r.namespace, r.open_key"
    " FROM durable_runs AS r FORCE INDEX (durable_runs_open_key)"
    " WHERE r.open_key IN ({0}) AND r.namespace = {1}"
)
_BY_REQUEST: Final = (
    f"SELECT r.run_id, {_AT_REST}"
    " FROM durable_runs AS r FORCE INDEX (durable_runs_request_id)"
    " WHERE r.request_id IN ({0}) AND r.namespace = {1}"
)
_LOCK: Final = (
    f"SELECT {_R} FROM durable_runs AS r FORCE INDEX (PRIMARY)"
    " WHERE r.run_id IN ({0}) ORDER BY r.run_id {1}"
)
_NEWEST: Final = (
    f"(SELECT {_R} FROM durable_runs AS r FORCE INDEX (durable_runs_workflow_id)"
    " WHERE r.workflow_id = {1} AND r.namespace = {0}"
    " ORDER BY r.started_at DESC, r.run_id DESC LIMIT 1)"
)
_OUTBOX: Final = (
    "SELECT sequence, tries FROM durable_outbox FORCE INDEX (PRIMARY)"
    " WHERE sequence IN ({0}) ORDER BY sequence FOR UPDATE"
)
_CHAIN: Final = (
    f"SELECT {_R} FROM durable_runs AS r FORCE INDEX (durable_runs_workflow_id)"
    " WHERE r.namespace = {0} AND r.workflow_id = {1} AND r.first_run_id = {2}"
    " ORDER BY r.started_at DESC, r.run_id DESC LIMIT 1"
)
_ENDS: Final = (
    "SELECT r.run_id, (SELECT h.event_id FROM durable_history AS h"
    " WHERE h.run_id = r.run_id ORDER BY h.event_id DESC LIMIT 1)"
    " FROM durable_runs AS r FORCE INDEX (PRIMARY) WHERE r.run_id IN ({0})"
)
_MAIL: Final = (
    "SELECT m.run_id, m.request_id, m.sequence, m.kind"
    " FROM durable_inbox AS m FORCE INDEX (durable_inbox_request_id) WHERE {0}"
)
_WAITING: Final = "SELECT COUNT(*) FROM durable_inbox AS m WHERE m.run_id IN ({0})"


class _Locks:
    """The runs to lock, and how strongly."""

    def __init__(self, wanted: Wanted) -> None:
        self._modes = dict(wanted.runs)
        self._keyed: set[str] = set()
        self._at_rest: set[str] = set()
        self.names: dict[NameKey, str] = {}
        """The open run of each name."""

    def take(self, wanted: Wanted, answers: dict[str, Sequence[Row]]) -> None:
        """Take what was found without locks."""
        self._modes = {r: m for r, m in self._modes.items() if m != ADDRESSED}
        for kind, rows in answers.items():
            if not kind.startswith("found"):
                continue
            for run_id, is_at_rest, *key in rows:
                mode = ADDRESSED
                if len(key) == 2:
                    name = (key[0], key[1])
                    mode = wanted.names[name]
                    self.names[name] = run_id
                    self._keyed.add(run_id)
                elif key:
                    mode = CLOSED if key[0] == TERMINATE else ADDRESSED
                self._modes[run_id] = max(self._modes.get(run_id, ADDRESSED), mode)
                if is_at_rest:
                    self._at_rest.add(run_id)

    def _is_strong(self, run_id: str) -> bool:
        return self._modes[run_id] != ADDRESSED or run_id in self._at_rest

    def compose(self) -> dict[str, str]:
        """Return the statements: in the order of run ids, neighbours together."""
        groups = itertools.groupby(sorted(self._modes), self._is_strong)
        return {
            f"locked{number}": _LOCK.format(
                listed(run_ids), "FOR UPDATE" if is_strong else "LOCK IN SHARE MODE"
            )
            for number, (is_strong, run_ids) in enumerate(groups)
        }

    def written(self) -> list[str]:
        """Return those that may be written to."""
        return [run_id for run_id, mode in self._modes.items() if mode != ADDRESSED]

    def explain(self, rows: Iterable[Row]) -> Iterable[Row]:
        """Say of locked runs what `LockedLook` must know."""
        for row in rows:
            run_id = row[0]
            taken = (self._modes[run_id], run_id in self._keyed, *row)
            yield taken
            if taken[0] == ADDRESSED and run_id in self._at_rest:
                yield taken


def look(wanted: Wanted, begin: Send, send: Send) -> LockedLook:
    """Begin a transaction, lock what is wanted, and read it.

    Raises:
        RowsMovedError: something has changed meanwhile.
    """
    locks = _Locks(wanted)
    worker = {"worker": _LOCK_WORKER.format(literal(wanted.worker_id or ""))}
    if "outbox" in wanted.rare:
        # First: who has waited for another to deliver sees what came of it.
        worker["outbox"] = _OUTBOX.format(listed(wanted.rare["outbox"]))
    finding = _find(wanted)
    found = LockedLook(wanted)
    if finding:
        answers = begin(worker | finding)
        locks.take(wanted, answers)
        letters = wanted.find_letters(locks.names.get)
        rest = _read(wanted, locks, letters)
        if rest:
            answers |= send(rest)
    else:
        letters = wanted.find_letters(locks.names.get)
        answers = begin(worker | _read(wanted, locks, letters))
    locked = [rows for kind, rows in answers.items() if kind.startswith("locked")]
    explained = locks.explain(itertools.chain(*locked))
    found.take_first({**answers, "locked": explained})
    if not letters.issuperset(found.find_letters()):
        raise RowsMovedError  # a run has begun, or is not what it was found by
    found.take_rest(answers)
    return found


def _by_namespace(keys: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Lists of names, and the namespace of each."""
    names: dict[str, list[str]] = defaultdict(list)
    for namespace, name in keys:
        names[namespace].append(name)
    return [(listed(found), literal(namespace)) for namespace, found in names.items()]


def _find(wanted: Wanted) -> dict[str, str]:
    """Return the statements that find what is to be locked, and is not known yet."""
    texts = [_BY_NAME.format(*key) for key in _by_namespace(wanted.names)]
    texts += [_BY_REQUEST.format(*key) for key in _by_namespace(wanted.requests)]
    addressed = [run_id for run_id, mode in wanted.runs.items() if mode == ADDRESSED]
    if addressed:
        texts.append(_BY_ID.format(listed(addressed)))
    if wanted.families:
        texts.append(_MEMBERS.format(listed(wanted.families)))
    found = {f"found{number}": text for number, text in enumerate(texts)}
    if wanted.names:
        newest = (_NEWEST.format(*map(literal, key)) for key in wanted.names)
        found["newest"] = " UNION ALL ".join(newest)
    return found


def _read(wanted: Wanted, locks: _Locks, letters: set[RequestKey]) -> dict[str, str]:
    """Return the statements that lock, and those that read after that."""
    asked = locks.compose()
    written = locks.written()
    if written:
        asked["ends"] = _ENDS.format(listed(written))
    if wanted.mail:
        asked["mail"] = _MAIL.format(f"m.run_id IN ({listed(wanted.mail)})")
    if letters:
        by_run = itertools.groupby(sorted(letters), itemgetter(0))
        asked["letters"] = _MAIL.format(
            " OR ".join(
                f"m.run_id = {literal(run_id)}"
                f" AND m.request_id IN ({listed(request for _, request in keys)})"
                for run_id, keys in by_run
            )
        )
        asked["waiting"] = _WAITING.format(listed({run_id for run_id, _ in letters}))
    if wanted.families:
        asked["children"] = _CHILDREN.format(listed(wanted.families))
    for number, key in enumerate(wanted.rare.get("chains", ())):
        asked[f"chain{number}"] = _CHAIN.format(*map(literal, key))
    return asked
