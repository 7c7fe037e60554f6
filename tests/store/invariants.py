"""What must hold of the rows of any database, whoever has written them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from durable.store.records import NEVER

Execute = Callable[[str], list[tuple[Any, ...]]]
Message = tuple[str, str]
"""Run id, request id."""

_RULES = {
    "open child of a closed parent": (
        "SELECT c.run_id FROM durable_runs AS c"
        " JOIN durable_runs AS p ON p.run_id = c.parent_run_id"
        " WHERE c.status = 'running' AND p.status <> 'running'"
        " AND c.parent_close_policy = 'terminate'"
    ),
    "owned by a worker without a row": (
        "SELECT run_id FROM durable_runs WHERE owner IS NOT NULL"
        " AND owner NOT IN (SELECT worker_id FROM durable_workers)"
    ),
    "two open runs of an id": (
        "SELECT workflow_id FROM durable_runs WHERE status = 'running'"
        " GROUP BY namespace, workflow_id HAVING count(*) > 1"
    ),
    "open key of a closed run, or none of an open one": (
        "SELECT run_id FROM durable_runs"
        " WHERE (status = 'running') <> (open_key IS NOT NULL)"
    ),
    "closed and not at rest": (
        "SELECT run_id FROM durable_runs WHERE status <> 'running'"
        " AND (owner IS NOT NULL OR wake_at IS NOT NULL OR closed_at IS NULL)"
    ),
    "message for nobody": (
        "SELECT run_id FROM durable_inbox WHERE run_id NOT IN"
        " (SELECT run_id FROM durable_runs WHERE status = 'running')"
    ),
    "at rest with mail and not due": (
        "SELECT r.run_id FROM durable_runs AS r"
        " JOIN durable_inbox AS m ON m.run_id = r.run_id"
        " WHERE r.owner IS NULL AND r.stuck IS NULL"
        " AND (r.wake_at IS NULL OR r.wake_at >= 0)"
    ),
    "paused though somebody has resumed it": (
        "SELECT r.run_id FROM durable_runs AS r"  # noqa: S608 - a constant
        " JOIN durable_inbox AS m ON m.run_id = r.run_id AND m.kind = 'resume'"
        f" WHERE r.wake_at = {NEVER}"
    ),
    "open child of a run that is gone": (
        "SELECT run_id FROM durable_runs WHERE status = 'running'"
        " AND parent_run_id IS NOT NULL"
        " AND parent_run_id NOT IN (SELECT run_id FROM durable_runs)"
    ),
    "open run of a chain whose first run is gone": (
        "SELECT run_id FROM durable_runs WHERE status = 'running'"
        " AND first_run_id NOT IN (SELECT run_id FROM durable_runs)"
    ),
    "gap in a history": (
        "SELECT run_id FROM durable_history GROUP BY run_id"
        " HAVING min(event_id) <> 1 OR max(event_id) <> count(*)"
    ),
}
_RULES |= {
    f"rows of {table} without a run": (
        f"SELECT run_id FROM durable_{table}"  # noqa: S608 - all written here
        " WHERE run_id NOT IN (SELECT run_id FROM durable_runs)"
    )
    for table in ("history", "attempts", "replies", "attributes")
}
_ALL_RULES = " UNION ALL ".join(
    f"SELECT '{rule}', x.* FROM ({text}) AS x"  # noqa: S608 - all written here
    for rule, text in _RULES.items()
)


def find_violations(
    execute: Execute,
    acknowledged: Iterable[Message] = (),
    seen: Iterable[Message] = (),
    about: str = "",
) -> dict[str, list[Any]]:
    """Return what is wrong, by rule.

    Args:
        execute: carries out a SELECT.
        acknowledged: messages that their senders were told to be put.
        seen: those that a commit has consumed which was acknowledged.
        about: only what has this in its id.
    """
    found: dict[str, list[Any]] = {}
    for rule, run_id in execute(_ALL_RULES):
        if about in run_id:
            found.setdefault(rule, []).append(run_id)
    statuses: dict[str, str] = dict(execute("SELECT run_id, status FROM durable_runs"))
    waiting = set(execute("SELECT run_id, request_id FROM durable_inbox"))
    # Nobody reads what waits for a run that is terminated.
    lost = [
        message
        for message in sorted(set(acknowledged) - waiting - set(seen))
        if statuses.get(message[0]) != "terminated"
    ]
    return {**found, "lost message": lost} if lost else found
