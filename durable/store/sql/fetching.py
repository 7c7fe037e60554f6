"""Reads the rows of a statement, as bare as the driver gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durable.store.database import Session


def fetch(session: Session, statement: Any, **values: Any) -> list[Any]:
    """Return bare tuples: building rows with names would take twice as long.

    Text that is none comes as bytes, and is somebody's damage.
    """
    try:
        return _fetch_once(session, statement, values)
    except Exception as error:
        tolerance = session.tolerate(error)
        if tolerance is None:
            raise
        with tolerance:
            return _fetch_once(session, statement, values)


def _fetch_once(session: Session, statement: Any, values: dict[str, Any]) -> list[Any]:
    result = session.connection.execute(statement, values)
    try:
        cursor = result.cursor
        return [] if cursor is None else list(cursor.fetchall())
    finally:
        result.close()
