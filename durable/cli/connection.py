"""Engines as commands need them: mere clients, or workers in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from durable import limits
from durable.cli.session import Session
from durable.client.handle import Handle
from durable.engine import Engine
from durable.errors import DatabaseUnavailableError, WorkflowNotFoundError
from durable.store.connect import connect
from durable.store.queries import ListRuns
from durable.store.records import RunFilter
from durable.store.store import Store
from durable.suggestions import closest

T = TypeVar("T")


class Connection(NamedTuple):
    """An open engine and the store below it."""

    engine: Engine
    store: Store


@asynccontextmanager
async def open_client(session: Session) -> AsyncGenerator[Connection]:
    """Open what only looks and asks: it makes no file, migrates nothing, runs nothing.

    Raises:
        StoreError: there is no database, or it cannot be used as it is.
        click.UsageError: the database is one in memory.
    """
    require_database(session)
    store = connect(session.database_url, migrate=False)
    async with Engine(store, namespace=session.namespace, worker=False) as engine:
        try:
            yield Connection(engine, store)
        except WorkflowNotFoundError as error:
            # Only here: whoever works with a database may see all of its ids.
            newest = RunFilter(limit=limits.LIST_PAGE_MAX)
            records = await store.read(ListRuns(session.namespace, newest))
            close = closest(error.workflow_id, [r.workflow_id for r in records])
            if close is not None:
                error.hint = f"Did you mean {close!r}?"
            raise


async def ask_run(
    session: Session,
    workflow_id: str,
    run_id: str | None,
    ask: Callable[[Handle[Any]], Awaitable[T]],
) -> tuple[Handle[Any], T]:
    """Find a run, and ask it something.

    Raises: as `open_client`, and what the question raises.
    """
    async with open_client(session) as (engine, _):
        handle: Handle[Any] = await engine.get(workflow_id, run_id=run_id)
        return handle, await ask(handle)


def read_revision(session: Session) -> str | None:
    """The revision of the database's tables; None if it has none.

    Raises:
        StoreError: it cannot be read.
    """
    # What speaks SQL takes 0.3 s to import.
    from durable.store.threads.sql_store import SqlStore

    store = connect(session.database_url)
    return store.read_revision() if isinstance(store, SqlStore) else None


def require_database(session: Session) -> None:
    """Refuse to go on where connecting would make a new database.

    Raises:
        DatabaseUnavailableError: there is no database file, or nothing is in it.
        click.UsageError: the database is one in memory.
    """
    session.refuse_memory()
    path = session.find_file()
    if path is None:
        return
    shown = str(path.absolute())
    if not path.exists():
        raise DatabaseUnavailableError(
            f"There is no database file {shown!r}.",
            hint="Pass --database or set DURABLE_DATABASE_URL; the first 'durable"
            " start', 'run' or 'worker' makes the file.",
        )
    if path.is_file() and path.stat().st_size == 0:
        raise DatabaseUnavailableError(
            f"The database file {shown!r} is empty.",
            hint="'durable db upgrade' makes the tables.",
        )
