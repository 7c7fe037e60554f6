"""No statement that workers repeat walks or sorts more than it returns."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from durable.store.database import Session
from durable.store.queries import FindOutbox, OutboxPage
from durable.store.records import RunFilter
from durable.store.sql import backlog, deleting, outbox, statements
from durable.store.sqlite import look as sqlite_look
from durable.store.sqlite import write as sqlite_write
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.sqlite.texts import ManyKeys, ManyRows
from durable.testing.contract.rows import START
from tests.store.tracing import traced

VALUES = {
    "after": 0,
    "due": START,
    "event_id": 1,
    "ended_at": START,
    "first_run_id": "r1",
    "holder": "w",
    "myself": "w",
    "namespace": "default",
    "new_owner": "w",
    "owners": ["w"],
    "page": 10,
    "parked": "r1",
    "reason": "{}",
    "request_id": "q",
    "run_id": "r1",
    "run_ids": ["r1", "r2"],
    "task_queue": "queue",
    "terminated": "r1",
    "until": START,
    "versions": ["1.0.0@order"],
    "workflow_id": "wf",
    "workflow_ids": ["wf", "other"],
    "workflow_types": ["order", "other"],
}
INDEXED = [
    "COUNT_OWNED_RUNS",
    "DELETE_OLD_REPLIES",
    "DISOWN_ALL_RUNS",
    "DISOWN_RUNS",
    "DISOWN_STRAYS",
    "DUE_RUNS",
    "DUE_VERSIONS",
    "FIND_CLAIMABLE",
    "FIND_STUCK",
    "FIND_EVENT",
    "FIND_EVENT_DATA",
    "FIND_HISTORY_ENDS",
    "FIND_NEWEST_RUNS",
    "FIND_NEWEST_RUN_OF_CHAIN",
    "FIND_OPEN_RUNS",
    "IS_OPEN",
    "OPEN_RUNS",
    "LOAD_ATTEMPTS",
    "LOAD_FIRST_ROWS",
    "LOAD_HISTORY",
    "LOAD_HISTORY_FROM_CHECKPOINT",
    "LOAD_PACKED_HISTORY",
    "LOAD_MESSAGES",
    "LOAD_RUNS",
    "NEXT_NAMESPACE",
    "NEXT_WAKE_AT",
    "OWN_RUNS",
    "FIND_REPLIES",
    "FIND_WORKER",
    "READ_HISTORY",
    "READ_NEWS",
    "READ_REPLY",
    "STUCK_VERSIONS",
    "UNOWNED_RUNS",
]
IN_ORDER = [
    "DUE_RUNS",
    "DUE_VERSIONS",
    "FIND_CLAIMABLE",
    "LOAD_ATTEMPTS",
    "LOAD_FIRST_ROWS",
    "LOAD_HISTORY",
    "LOAD_HISTORY_FROM_CHECKPOINT",
    "LOAD_PACKED_HISTORY",
    "NEXT_WAKE_AT",
    "READ_HISTORY",
]


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    session = SqliteDatabase(None).open_writer()
    yield session
    session.close()


def read_plan(session: Session, name: str) -> list[str]:
    return explain(session, getattr(statements, name), VALUES)


def explain(
    session: Session, statement: sa.Executable, values: dict[str, Any]
) -> list[str]:
    connection = session.connection

    def ask_for_plan(*event: Any) -> tuple[str, Any]:
        _, _, text, values, _, _ = event
        return f"EXPLAIN QUERY PLAN {text}", values

    sa.event.listen(connection, "before_cursor_execute", ask_for_plan, retval=True)
    try:
        result = connection.execute(statement, values)
        cursor = result.cursor
        assert cursor is not None
        return [row[3] for row in cursor.fetchall()]
    finally:
        sa.event.remove(connection, "before_cursor_execute", ask_for_plan)


@pytest.mark.parametrize("name", INDEXED)
def test_statement_searches_an_index(session: Session, name: str) -> None:
    plan = read_plan(session, name)

    assert plan
    walks = [step for step in plan if step.startswith("SCAN")]
    assert [step for step in walks if not LISTS.match(step)] == []


@pytest.mark.parametrize(
    "statement", [deleting.FIND_TIES, *deleting.DELETIONS], ids=range(8)
)
def test_deletions_walk_no_other_runs(session: Session, statement: Any) -> None:
    plan = explain(session, statement, {"run_ids": ["r1", "r2"]})

    assert plan
    assert [step for step in plan if step.startswith("SCAN")] == []


@pytest.mark.parametrize("name", IN_ORDER)
def test_statement_finds_its_order_in_the_index(session: Session, name: str) -> None:
    assert not [step for step in read_plan(session, name) if " BY" in step]


@pytest.mark.parametrize("name", ["FIND_CLAIMABLE", "NEXT_WAKE_AT"])
def test_what_is_due_is_found_without_what_is_not(session: Session, name: str) -> None:
    plan = read_plan(session, name)[0]
    assert "durable_runs_due (namespace=? AND task_queue=?" in plan


HOT = {
    f"{name} of {size}": text
    for name, statement in (
        *vars(sqlite_look).items(),
        *vars(sqlite_write).items(),
        *((f"{k.how} {k.names}", text) for k, text in sqlite_write._STATEMENTS.items()),
    )
    if isinstance(statement, ManyRows | ManyKeys | sqlite_look._Names)
    for size, text in statement.texts
}
# Lists of values, which are in the statement itself.
LISTS = re.compile(
    r"SCAN (\d+ CONSTANT ROWS?|CONSTANT ROW|\(subquery.*|new|used|sent|w|p|k"
    # Generations, one from the other; and a table of a single row.
    r"|f|family|sqlite_sequence)$"
)


@pytest.mark.parametrize("name", HOT)
def test_hot_statement_walks_nothing_but_its_own_list(
    session: Session, name: str
) -> None:
    text = HOT[name]
    # Some are numbered and used more than once; others come after those.
    numbers = map(int, re.findall(r"\?(\d+)", text))
    values = ("1",) * (max(numbers, default=0) + len(re.findall(r"\?(?!\d)", text)))

    plan = session.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)

    steps = [step for *_, step in plan]
    assert steps or text.startswith("INSERT")
    walks = [step for step in steps if step.startswith("SCAN")]
    assert [step for step in walks if not LISTS.match(step)] == []
    assert not [step for step in steps if "AUTOMATIC" in step]


def test_open_children_are_found_without_those_that_have_closed(
    session: Session,
) -> None:
    text = HOT["_FIND_FAMILIES of 1"]

    plan = session.connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", ("p",))

    steps = [step for *_, step in plan]
    index = "INDEX durable_runs_parent (parent_run_id=? AND open_key>?)"
    assert len([step for step in steps if step.endswith(index)]) == 2


def test_children_are_listed_from_the_index_of_their_parent(session: Session) -> None:
    where = RunFilter(parent_run_id="p")
    statement = statements.list_runs("default", where, 10)

    plan = explain(session, statement, {})

    assert plan[0].endswith("USING INDEX durable_runs_parent (parent_run_id=?)")


@pytest.mark.parametrize(
    ("statement", "step"),
    [
        (backlog._NEXT_DUE_QUEUE, "durable_runs_due (namespace=? AND task_queue>?)"),
        (
            backlog._DUE,
            "durable_runs_due (namespace=? AND task_queue=? AND wake_at>? AND"
            " wake_at<?)",
        ),
        (backlog._STUCK, "durable_runs_stuck (namespace=?)"),
    ],
)
def test_backlog_is_counted_without_what_sleeps(
    session: Session, statement: sa.Executable, step: str
) -> None:
    plan = explain(session, statement, VALUES)

    (search,) = [one for one in plan if one.startswith("SEARCH")]
    assert step in search
    assert not [one for one in plan if one.startswith("SCAN durable_runs")]


def test_mail_is_found_from_the_runs_that_are_live(session: Session) -> None:
    plan = read_plan(session, "MAILED_RUNS")

    assert "durable_runs_owner (owner=?" in plan[0]
    assert not [step for step in plan if step.startswith("SCAN")]


@pytest.mark.parametrize(
    ("statement", "step"),
    [
        (outbox._HAS_ANY, "durable_outbox_due (namespace=? AND due_at>?)"),
        (outbox._FIND_NEW, "durable_outbox_due (namespace=? AND due_at=?)"),
        (outbox._FIND_RETRIED, "durable_outbox_due (namespace=? AND due_at>?)"),
        (outbox._READ, "durable_outbox_outbox_id (outbox_id=?)"),
        (outbox.FIND_STARTED, "(request_id=? AND namespace=?)"),
    ],
)
def test_outbox_is_read_in_order_by_its_indexes(
    session: Session, statement: sa.Executable, step: str
) -> None:
    plan = explain(session, statement, VALUES | {"outbox_id": "o"})

    assert step in plan[0]
    assert not [one for one in plan if "SCAN" in one or "TEMP B-TREE" in one]


def test_an_empty_outbox_costs_one_statement(session: Session) -> None:
    with traced(session) as texts:
        assert outbox.find(session, FindOutbox("default", START, 10)) == OutboxPage()

    assert len(texts) == 1
