"""What is asked of a caller's connection, whichever it is, one statement at a time.

Nothing here may fail in the database: on PostgreSQL the caller's transaction would be
lost with it. So each statement is one that the database at the other end understands,
and what may be missing is looked up in its catalogue.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from durable.errors import InvalidCallError, WrongDatabaseError
from durable.store.callers.places import MARKERS, Place

# Texts beside numbers are equal to them on PostgreSQL and MariaDB, and never on SQLite.
# MariaDB alone reads what is in such a comment.
_TELL_APART: Final = "SELECT CASE WHEN '1' = 1 THEN 1 /*!+1*/ ELSE 0 END"
_DIALECTS: Final = ("sqlite", "postgresql", "mysql")
_NAMES: Final = {
    "sqlite": "SQLite",
    "postgresql": "PostgreSQL",
    "mysql": "MariaDB or MySQL",
}


class Ask(NamedTuple):
    """A statement, with `:name` for each value; answered with its only value."""

    text: str
    values: Mapping[str, Any] = MappingProxyType({})
    has_answer: bool = True


class Find(NamedTuple):
    """Asks where this engine's database is; anew if that may have changed."""

    again: bool


Steps: TypeAlias = Generator[Ask | Find, Any, None]
"""What a caller's connection is to do; the answers are sent in."""


WITHIN: Final = "The connection given to within()"


def check(dialect: str | None, given: str = WITHIN) -> Steps:
    """Return if the connection leads to this engine's database.

    Args:
        dialect: SQLAlchemy's name of the database; None if it is not known.
        given: what errors call the connection.

    Raises:
        WrongDatabaseError: it leads to another one.
    """
    place: Place = yield Find(again=False)
    if dialect is None:
        dialect = _DIALECTS[int((yield Ask(_TELL_APART)))]
    dialect = "mysql" if dialect == "mariadb" else dialect
    if dialect != place.dialect:
        kind = _NAMES.get(dialect, dialect)
        raise _wrong(place, given, f"leads to a database of {kind}")
    found = as_text((yield Ask(MARKERS[dialect], place.values)))
    if not place.is_at(found):
        # The server may have been started anew since this was looked up.
        place = yield Find(again=True)
        found = as_text((yield Ask(MARKERS[dialect], place.values)))
    if not place.is_at(found):
        raise _wrong(place, given, place.tell_from(found))
    if place.is_forbidden(found):
        raise WrongDatabaseError(
            f"{given} has a user that may not write to {place.table}.",
            hint=f"Let an owner of it run: GRANT INSERT ON {place.table} TO ...; with"
            " USAGE on its schema.",
        )


def insert(values: dict[str, Any]) -> Steps:
    """Write a row of the outbox."""
    place: Place = yield Find(again=False)
    names = ", ".join(values)
    places = ", ".join(f":{name}" for name in values)
    text = f"INSERT INTO {place.table} ({names}) VALUES ({places})"  # noqa: S608 - constant names
    yield Ask(text, values, has_answer=False)


def as_text(found: Any) -> str:
    """Return the value that a driver gave for a text."""
    return found.decode() if isinstance(found, bytes | bytearray) else str(found)


def only_value(row: Any) -> Any:
    """Return the value of a row that has one, whatever the caller has rows made into.

    Raises:
        InvalidCallError: nothing is known of such rows.
    """
    if row is None or isinstance(row, str | int | bytes):
        return row
    try:
        # Mappings have no places.
        return next(iter(row.values())) if hasattr(row, "values") else row[0]
    except (TypeError, KeyError, IndexError, StopIteration):
        raise InvalidCallError(
            f"The connection given to within() makes its rows into"
            f" {type(row).__name__}, which has no first value.",
            hint="Give a connection whose rows are tuples or mappings.",
        ) from None


def _wrong(place: Place, given: str, what: str) -> WrongDatabaseError:
    return WrongDatabaseError(
        f"{given} {what}, and the runs of this engine are in {place.name}.",
        hint="One transaction is in one database: give a connection to that one, or"
        " open the engine on the URL of yours, which makes its tables there.",
    )
