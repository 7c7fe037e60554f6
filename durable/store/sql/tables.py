"""The tables, for every database: names, widths, keys and indexes.

Ids are compared byte by byte. Instants are microseconds since 1970 in a BIGINT. No
foreign keys: each would cost a lookup per row on the hot path, and rows are only
written by operations that have looked.

On SQLite a table without a rowid keeps its rows in the order of its key, which is how
histories are read. `runs` has many indexes, and those are smaller with a rowid;
`replies` has large rows, which such a table is slow with.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

METADATA: Final = sa.MetaData()
COLLATIONS: Final = {"mariadb": "utf8mb4_nopad_bin", "mysql": "utf8mb4_0900_bin"}
"""Those that tell texts apart byte by byte, by SQLAlchemy's name of the database.

The default calls 'Order-1', 'order-1' and 'Ordér-1' one id, most others 'a' and 'a '.
"""


class _Bytes(sa.types.UserDefinedType[str]):
    """Text as so many bytes, on MariaDB.

    Of text each character counts for four, where an index may have 3,072.
    """

    cache_ok = True

    def __init__(self, length: int) -> None:
        self.length = length

    def get_col_spec(self, **_: object) -> str:
        return f"VARBINARY({self.length})"


def _id(length: int = 255) -> sa.String:
    # Locks are taken in the order of ids, which is Python's then.
    found = sa.String(length)
    for dialect, collation in ({"postgresql": "C"} | COLLATIONS).items():
        text = sa.String(length, collation=collation)
        found = found.with_variant(text, dialect)
    return found


def _place() -> sa.String:
    # `durable_runs_due` has two of them beside two texts, and no room for a third.
    return (
        sa.String(255)
        .with_variant(_Bytes(255), *COLLATIONS)
        .with_variant(sa.String(255, collation="C"), "postgresql")
    )


def _json() -> sa.Text:
    # Plain TEXT ends at 64 KiB on MySQL; from this length it makes a LONGTEXT.
    return sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")


RUNS: Final = sa.Table(
    "durable_runs",
    METADATA,
    sa.Column("run_id", _id(), primary_key=True),
    sa.Column("namespace", _place(), nullable=False),
    sa.Column("workflow_id", _id(), nullable=False),
    sa.Column("workflow_type", _id(), nullable=False),
    sa.Column("task_queue", _place(), nullable=False),
    sa.Column("status", _id(32), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("first_run_id", _id(), nullable=False),
    sa.Column("request_id", _id(), nullable=False),
    sa.Column("closed_at", sa.BigInteger),
    sa.Column("owner", _id()),
    sa.Column("wake_at", sa.BigInteger),
    sa.Column("stuck", _json()),
    sa.Column("version", _id()),
    sa.Column("continued_from_run_id", _id()),
    sa.Column("parent_workflow_id", _id()),
    sa.Column("parent_run_id", _id()),
    sa.Column("root_run_id", _id()),
    # The workflow id while the run is open, NULL once it has closed. NULLs never
    # collide, so the unique key means: never two open runs of one workflow id.
    sa.Column("open_key", _id()),
    sa.Column("parent_initiated_event_id", sa.Integer),
    sa.Column("parent_close_policy", _id(32)),
    sa.Column("state", _json()),
    sa.Column("checkpoint_event_id", sa.Integer, nullable=False, server_default="0"),
    sa.Column("epoch", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attributes", _json()),
    sa.Column("memo", _json()),
    # What tells rows apart comes first, because keys are compared from the left.
    sa.UniqueConstraint("open_key", "namespace", name="durable_runs_open_key"),
    sa.UniqueConstraint("request_id", "namespace", name="durable_runs_request_id"),
)
sa.Index(
    "durable_runs_workflow_id", RUNS.c.workflow_id, RUNS.c.namespace, RUNS.c.started_at
)


class _Listed(FunctionElement[str]):
    """A column as the index of listings has it."""

    inherit_cache = True


class _Unlisted(FunctionElement[str]):
    """A column that no index is to be used for."""

    inherit_cache = True


@compiles(_Listed)
@compiles(_Unlisted)
def _compile_column(element: Any, compiler: Any, **how: Any) -> str:
    return str(compiler.process(element.clauses, **how))


@compiles(_Listed, "postgresql")
def _compile_listed(element: _Listed, compiler: Any, **how: Any) -> str:
    return f"({compiler.process(element.clauses, **how)} || '')"


@compiles(_Unlisted, "postgresql")
def _compile_unlisted(element: _Unlisted, compiler: Any, **how: Any) -> str:
    return f"('' || {compiler.process(element.clauses, **how)})"


# Until PostgreSQL has looked at a table, it takes each index that has a column which is
# compared for as good as any other: for one id of a namespace it would walk all runs of
# that namespace. So there its name is hidden in expressions.
listed_namespace: Final = _Listed(RUNS.c.namespace)
"""The namespace, for statements that walk all runs of it, or those of a time."""
unlisted_namespace: Final = _Unlisted(RUNS.c.namespace)
"""The namespace, for statements that find few runs by something else."""
sa.Index("durable_runs_started_at", listed_namespace, RUNS.c.started_at)
listed_type: Final = _Listed(RUNS.c.workflow_type)
"""The workflow's name, for listings; whoever claims runs has a better index."""
listed_status: Final = _Listed(RUNS.c.status)
"""The status, likewise."""
sa.Index("durable_runs_type", listed_type, RUNS.c.namespace, RUNS.c.started_at)
sa.Index("durable_runs_status", listed_status, RUNS.c.namespace, RUNS.c.started_at)
sa.Index(
    "durable_runs_closed_at",
    listed_namespace,
    RUNS.c.closed_at,
    sqlite_where=RUNS.c.closed_at.is_not(None),
    postgresql_where=RUNS.c.closed_at.is_not(None),
)
# Closed runs are many, and have neither owner nor wake-up; many others wait for mail
# alone. Leave them out where the database can.
sa.Index(
    "durable_runs_due",
    RUNS.c.namespace,
    RUNS.c.task_queue,
    RUNS.c.wake_at,
    RUNS.c.run_id,
    RUNS.c.workflow_type,
    sqlite_where=sa.and_(RUNS.c.owner.is_(None), RUNS.c.wake_at.is_not(None)),
    postgresql_where=sa.and_(RUNS.c.owner.is_(None), RUNS.c.wake_at.is_not(None)),
)
sa.Index(
    "durable_runs_owner",
    RUNS.c.owner,
    RUNS.c.wake_at,
    RUNS.c.run_id,
    sqlite_where=RUNS.c.owner.is_not(None),
    postgresql_where=RUNS.c.owner.is_not(None),
)
sa.Index(
    "durable_runs_stuck",
    RUNS.c.namespace,
    RUNS.c.task_queue,
    RUNS.c.run_id,
    sqlite_where=sa.and_(RUNS.c.stuck.is_not(None), RUNS.c.open_key.is_not(None)),
    postgresql_where=sa.and_(RUNS.c.stuck.is_not(None), RUNS.c.open_key.is_not(None)),
)
# Most runs have no parent: leave them out. The open key is in it so that the open
# children of a run are found without walking those that have closed.
sa.Index(
    "durable_runs_parent",
    RUNS.c.parent_run_id,
    RUNS.c.open_key,
    sqlite_where=RUNS.c.parent_run_id.is_not(None),
    postgresql_where=RUNS.c.parent_run_id.is_not(None),
)

# --- what most runs do not have -------------------------------------------------------

# For searches. Runs that have nothing of this pay nothing for it; MariaDB has no such
# indexes, and would write each for every run, so there such searches only walk.
USUAL_QUEUE: Final = "default"
"""Runs of no other task queue are not in the index of task queues."""
LONG_MICROSECONDS: Final = 60_000_000
"""Runs that took less are not in the index of durations."""
listed_queue: Final = _Listed(RUNS.c.task_queue)
"""The task queue, for listings; whoever claims runs has a better index."""
listed_version: Final = _Listed(RUNS.c.version)
"""The version, likewise."""
is_unusual_queue: Final = RUNS.c.task_queue != sa.literal_column(f"'{USUAL_QUEUE}'")
duration: Final = RUNS.c.closed_at - RUNS.c.started_at
is_long: Final = duration >= sa.literal_column(str(LONG_MICROSECONDS))
is_later_in_chain: Final = RUNS.c.first_run_id != RUNS.c.run_id


def _has_partial(*_: Any, dialect: Any, **__: Any) -> bool:
    return dialect.name not in COLLATIONS


def _index_some(name: str, where: sa.ColumnElement[bool], *columns: Any) -> str:
    index = sa.Index(
        f"durable_runs_{name}", *columns, sqlite_where=where, postgresql_where=where
    )
    index.ddl_if(callable_=_has_partial)
    return str(index.name)


_of_listing: Final = (RUNS.c.namespace, RUNS.c.started_at)
PARTIAL: Final = frozenset(
    [
        _index_some("queue", is_unusual_queue, listed_queue, *_of_listing),
        _index_some(
            "version", RUNS.c.version.is_not(None), listed_version, *_of_listing
        ),
        _index_some(
            "parent_id",
            RUNS.c.parent_workflow_id.is_not(None),
            RUNS.c.parent_workflow_id,
            *_of_listing,
        ),
        _index_some("root", RUNS.c.root_run_id.is_not(None), RUNS.c.root_run_id),
        _index_some("first", is_later_in_chain, RUNS.c.first_run_id),
        _index_some("duration", is_long, listed_namespace, RUNS.c.started_at),
    ]
)
"""Indexes that MariaDB does not have."""

HISTORY: Final = sa.Table(
    "durable_history",
    METADATA,
    sa.Column("run_id", _id(), primary_key=True),
    sa.Column("event_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("task_number", sa.Integer, nullable=False),
    sa.Column("type", _id(), nullable=False),
    sa.Column("time", sa.BigInteger, nullable=False),
    sa.Column("data", _json(), nullable=False),
    sa.Column("flags", sa.BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

INBOX: Final = sa.Table(
    "durable_inbox",
    METADATA,
    sa.Column(
        "sequence",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
    ),
    sa.Column("run_id", _id(), nullable=False),
    sa.Column("kind", _id(), nullable=False),
    sa.Column("request_id", _id(), nullable=False),
    sa.Column("data", _json(), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    # Its prefix is the index for the messages of a run.
    sa.UniqueConstraint("run_id", "request_id", name="durable_inbox_request_id"),
    # A sequence is never used twice: a late commit would delete another message.
    sqlite_autoincrement=True,
)

REPLIES: Final = sa.Table(
    "durable_replies",
    METADATA,
    sa.Column("run_id", _id(), primary_key=True),
    sa.Column("request_id", _id(), primary_key=True),
    sa.Column("data", _json(), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)
# Replies that nobody read are dropped by age.
sa.Index("durable_replies_created_at", REPLIES.c.created_at)

ATTEMPTS: Final = sa.Table(
    "durable_attempts",
    METADATA,
    sa.Column("run_id", _id(), primary_key=True),
    sa.Column("scheduled_event_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("activity_type", _id(), nullable=False),
    sa.Column("state", _id(32), nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("closed_at", sa.BigInteger),
    sa.Column("failure", _json()),
    sa.Column("worker_id", _id()),
    sa.Column("details", _json()),
    sa.Column("heartbeat_at", sa.BigInteger),
    sqlite_with_rowid=False,
)

ACTIVITY_TASKS: Final = sa.Table(
    "durable_activity_tasks",
    METADATA,
    sa.Column("run_id", _id(), primary_key=True),
    sa.Column("scheduled_event_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("namespace", _place(), nullable=False),
    sa.Column("task_queue", _place(), nullable=False),
    sa.Column("activity_type", _id(), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("data", _json(), nullable=False),
    sa.Column("state", _id(32), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("worker_id", _id()),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("heartbeat_at", sa.BigInteger),
    sa.Column("judge_id", _id()),
    sa.Column("cancel", _id()),
    sa.Column("progress", _json()),
    sa.Column("fairness_key", _id(64), nullable=False, server_default=""),
    sa.Column("fairness_weight", sa.Integer, nullable=False, server_default="1"),
)
_is_waiting = sa.text("state = 'waiting'")
# What a worker takes of one type and priority is together, whatever else waits: it may
# know few of the types, and much may not be due.
sa.Index(
    "durable_activity_tasks_due",
    ACTIVITY_TASKS.c.namespace,
    ACTIVITY_TASKS.c.task_queue,
    ACTIVITY_TASKS.c.activity_type,
    ACTIVITY_TASKS.c.priority,
    ACTIVITY_TASKS.c.due_at,
    ACTIVITY_TASKS.c.run_id,
    ACTIVITY_TASKS.c.scheduled_event_id,
    sqlite_where=_is_waiting,
    postgresql_where=_is_waiting,
)
# The same by the keys that take turns. They are together, so that of each the first is
# found from the one before.
sa.Index(
    "durable_activity_tasks_turns",
    ACTIVITY_TASKS.c.namespace,
    ACTIVITY_TASKS.c.task_queue,
    ACTIVITY_TASKS.c.activity_type,
    ACTIVITY_TASKS.c.priority,
    ACTIVITY_TASKS.c.fairness_key,
    ACTIVITY_TASKS.c.due_at,
    ACTIVITY_TASKS.c.run_id,
    ACTIVITY_TASKS.c.scheduled_event_id,
    sqlite_where=_is_waiting,
    postgresql_where=_is_waiting,
)
# What runs of a queue, which is as much as its limits allow.
_is_claimed = sa.text("state = 'claimed'")
sa.Index(
    "durable_activity_tasks_held",
    ACTIVITY_TASKS.c.namespace,
    ACTIVITY_TASKS.c.task_queue,
    ACTIVITY_TASKS.c.fairness_key,
    ACTIVITY_TASKS.c.worker_id,
    sqlite_where=_is_claimed,
    postgresql_where=_is_claimed,
)
sa.Index(
    "durable_activity_tasks_expiry",
    ACTIVITY_TASKS.c.namespace,
    ACTIVITY_TASKS.c.expires_at,
    ACTIVITY_TASKS.c.run_id,
    ACTIVITY_TASKS.c.scheduled_event_id,
    sqlite_where=ACTIVITY_TASKS.c.expires_at.is_not(None),
    postgresql_where=ACTIVITY_TASKS.c.expires_at.is_not(None),
)
sa.Index(
    "durable_activity_tasks_worker",
    ACTIVITY_TASKS.c.worker_id,
    ACTIVITY_TASKS.c.cancel,
    sqlite_where=ACTIVITY_TASKS.c.worker_id.is_not(None),
    postgresql_where=ACTIVITY_TASKS.c.worker_id.is_not(None),
)

WORKERS: Final = sa.Table(
    "durable_workers",
    METADATA,
    sa.Column("worker_id", _id(), primary_key=True),
    sa.Column("namespace", _place(), nullable=False),
    sa.Column("host", _id(), nullable=False),
    sa.Column("pid", sa.BigInteger, nullable=False),
    sa.Column("process_started_at", _id(), nullable=False),
    sa.Column("task_queue", _place(), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("lease_expires_at", sa.BigInteger, nullable=False),
    sa.Column("status", _id(32), nullable=False, server_default="running"),
    sa.Column("places", _json()),
    sqlite_with_rowid=False,
)

# What runs are found by. A number stands for each value that is no text; a text has a
# row for each of its words, and a list one for each of its texts.
ATTRIBUTES: Final = sa.Table(
    "durable_attributes",
    METADATA,
    sa.Column("run_id", _id(), primary_key=True),
    sa.Column("name", _id(64), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("namespace", _place(), nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("keyword", _id()),
    sa.Column("number", sa.BigInteger),
    sqlite_with_rowid=False,
)
# Each in the order of a listing. Without the condition PostgreSQL would take the one
# for the other as long as it has not looked at the table.
for _value in (ATTRIBUTES.c.keyword, ATTRIBUTES.c.number):
    sa.Index(
        f"durable_attributes_{_value.name}",
        ATTRIBUTES.c.namespace,
        ATTRIBUTES.c.name,
        _value,
        ATTRIBUTES.c.started_at,
        ATTRIBUTES.c.run_id,
        sqlite_where=_value.is_not(None),
        postgresql_where=_value.is_not(None),
    )

# Rows are only ever added: whoever has seen one knows it for ever.
ATTRIBUTE_KINDS: Final = sa.Table(
    "durable_attribute_kinds",
    METADATA,
    sa.Column("namespace", _place(), primary_key=True),
    sa.Column("name", _id(64), primary_key=True),
    sa.Column("kind", _id(32), nullable=False),
    sqlite_with_rowid=False,
)

NAMESPACES: Final = sa.Table(
    "durable_namespaces",
    METADATA,
    sa.Column("namespace", _place(), primary_key=True),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("retention_days", sa.Integer),
    sa.Column("description", _json()),
    sa.Column("defaults", _json()),
    sqlite_with_rowid=False,
)

QUEUES: Final = sa.Table(
    "durable_queues",
    METADATA,
    sa.Column("namespace", _place(), primary_key=True),
    sa.Column("name", _id(), primary_key=True),
    sa.Column("concurrency", sa.Integer),
    sa.Column("worker_concurrency", sa.Integer),
    sa.Column("key_concurrency", sa.Integer),
    sa.Column("rate_count", sa.Integer),
    sa.Column("rate_per", sa.BigInteger),
    sa.Column("rate_burst", sa.Integer),
    sa.Column("paused_at", sa.BigInteger),
    sa.Column("note", _json()),
    sa.Column("version", sa.Integer, nullable=False),
    # What claims leave for the next one.
    sa.Column("rate_log", _json()),
    sa.Column("rate_at", sa.BigInteger, nullable=False),
    sa.Column("last_key", _id(64), nullable=False),
    sa.Column("key_credit", sa.Integer, nullable=False),
    sqlite_with_rowid=False,
)

# Written by claims of a queue whose runs are limited, and by nothing else: a chain that
# has closed has a row until the next claim.
RUN_TURNS: Final = sa.Table(
    "durable_run_turns",
    METADATA,
    sa.Column("first_run_id", _id(), primary_key=True),
    sa.Column("run_id", _id(), nullable=False),
    sa.Column("namespace", _place(), nullable=False),
    sa.Column("task_queue", _place(), nullable=False),
    sa.Column("workflow_id", _id(), nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("state", _id(32), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("fairness_key", _id(64), nullable=False),
    sa.Column("fairness_weight", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.BigInteger),
    sqlite_with_rowid=False,
)
sa.Index(
    "durable_run_turns_turns",
    RUN_TURNS.c.namespace,
    RUN_TURNS.c.task_queue,
    RUN_TURNS.c.state,
    RUN_TURNS.c.priority,
    RUN_TURNS.c.fairness_key,
    RUN_TURNS.c.due_at,
    RUN_TURNS.c.run_id,
)
sa.Index(
    "durable_run_turns_expiry",
    RUN_TURNS.c.namespace,
    RUN_TURNS.c.task_queue,
    RUN_TURNS.c.state,
    RUN_TURNS.c.expires_at,
)
sa.Index("durable_run_turns_run", RUN_TURNS.c.run_id)

# Written by the connections of strangers, in transactions of theirs: so no key of it
# can refuse a row, and nothing else is looked at. Numbers are the database's own, since
# clocks of several programs differ.
OUTBOX: Final = sa.Table(
    "durable_outbox",
    METADATA,
    sa.Column(
        "sequence",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        sa.Identity(),  # other than of a sequence, everybody may ask for its numbers
        primary_key=True,
    ),
    sa.Column("outbox_id", _id(), nullable=False),
    sa.Column("namespace", _place(), nullable=False),
    sa.Column("target", _id(), nullable=False),
    sa.Column("kind", _id(32), nullable=False),
    sa.Column("data", _json(), nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    # 0 for at once, whatever the clock of who looks; NULL once it is set aside.
    sa.Column("due_at", sa.BigInteger),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("failure", _json()),
    # A number is never used twice: two may deliver the same row.
    sqlite_autoincrement=True,
)
sa.Index("durable_outbox_due", OUTBOX.c.namespace, OUTBOX.c.due_at, OUTBOX.c.sequence)
sa.Index("durable_outbox_outbox_id", OUTBOX.c.outbox_id)

# A crash of PostgreSQL empties it. Transactions of before and after it may have the
# same number.
INCARNATION: Final = sa.Table(
    "durable_incarnation",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("life", _id(32), nullable=False),
    prefixes=["UNLOGGED"],
)
# Each connection to MariaDB counts its commits here: nothing else tells others of them.
CHANGES: Final = sa.Table(
    "durable_changes",
    sa.MetaData(),
    sa.Column("session_id", _id(32), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
)
SERVER_TABLES: Final = {
    "postgresql": (INCARNATION,),
    "mariadb": (CHANGES,),
    "mysql": (CHANGES,),
}
"""Tables that only one kind of database has, by SQLAlchemy's name of it."""

# There an index has no condition. Closed runs are not walked, since what they have
# nothing of is among its columns.
INNODB_INDEXES: Final = {
    "durable_runs_stuck": "stuck(1)",
    "durable_runs_wake_at": "wake_at",
    "durable_activity_tasks_due": (
        "namespace, task_queue, state, activity_type, priority, due_at, run_id,"
        " scheduled_event_id"
    ),
    "durable_activity_tasks_turns": (
        "namespace, task_queue, state, activity_type, priority, fairness_key, due_at,"
        " run_id, scheduled_event_id"
    ),
    "durable_activity_tasks_held": (
        "namespace, task_queue, state, fairness_key, worker_id"
    ),
}
"""Indexes on MariaDB, beside those of the others or in their place; each is of the
table that it is named after."""

# Whatever a server makes of tables by default.
for _table in (*METADATA.tables.values(), CHANGES):
    for _dialect, _collation in COLLATIONS.items():
        _table.dialect_kwargs.update(
            {
                f"{_dialect}_engine": "InnoDB",
                f"{_dialect}_row_format": "DYNAMIC",
                f"{_dialect}_charset": "utf8mb4",
                f"{_dialect}_collate": _collation,
            }
        )
