"""What PostgreSQL's errors mean, in the library's own."""

from __future__ import annotations

import re
from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError

from durable.errors import (
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    SchemaRevisionError,
    StoreError,
)
from durable.store.database import Blame
from durable.store.postgresql.driver import SilentServerError
from durable.store.servers.locked_look import RowsMovedError

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_CONFLICTS: Final = frozenset({"23505"})
# Deadlock, serialization, a unique key, a lock not given in time, a prepared statement
# that is not there (a pooler has changed its connection).
_AGAIN: Final = frozenset({"40P01", "40001", "40003", "23505", "55P03", "26000"})
_BUSY: Final = frozenset({"40P01", "40001", "55P03", "57014"})
_READ_ONLY: Final = frozenset({"25006"})
_FULL: Final = frozenset({"53100"})
_CROWDED: Final = frozenset({"53300"})
_DENIED: Final = frozenset({"28000", "28P01"})
_FORBIDDEN: Final = frozenset({"42501"})
_MISSING: Final = frozenset({"3D000"})
_NO_TABLE: Final = frozenset({"42P01", "3F000"})
# Of a session that was ended, of the server, of its disk: the connection is of no use.
_SERVER_CLASSES: Final = ("08", "57P", "58", "53", "XX", "25P03", "57014")


def origin_of(error: BaseException) -> BaseException:
    """Return the driver's error, whatever it is wrapped in."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


# Of a connection that is refused the driver gives no SQLSTATE.
_REFUSALS: Final = {
    re.compile("FATAL: .*(?:too many|connection slots|no more connections)"): "53300",
    re.compile('FATAL: .*database ".*" does not exist'): "3D000",
    re.compile('FATAL: .*(?:authentication|role ".*" does not|pg_hba.conf)'): "28000",
}


def code_of(error: BaseException) -> str:
    """Return the SQLSTATE of an error; empty for one that the server did not send."""
    origin = origin_of(error)
    if not isinstance(origin, psycopg.Error):
        return ""
    if origin.sqlstate is None and isinstance(origin, psycopg.OperationalError):
        text = str(origin)
        return next((c for words, c in _REFUSALS.items() if words.search(text)), "")
    return origin.sqlstate or ""


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection is gone, or of no more use."""
    origin = origin_of(error)
    code = code_of(error)
    if code:
        return code.startswith(_SERVER_CLASSES)
    return isinstance(origin, (psycopg.OperationalError, psycopg.InterfaceError))


# What a server says that starts or stops: in English, and else it is not waited for.
_PASSING: Final = (
    "starting up",
    "shutting down",
    "not yet accepting",
    "in recovery",
    "terminating",
)


def may_pass(error: BaseException) -> bool:
    """Tell whether the same may succeed soon, on a new connection."""
    if isinstance(error, DatabaseUnavailableError) and error.__cause__ is not None:
        error = error.__cause__
    if code_of(error) in _READ_ONLY:
        return True  # whoever was the primary server need not be it any more
    if isinstance(error, StoreError) or not is_lost(error):
        return False
    text = str(origin_of(error))
    is_refused = "FATAL" in text and code_of(error) not in _CROWDED
    return not is_refused or any(words in text for words in _PASSING)


def is_conflict(error: BaseException) -> bool:
    """Tell whether a unique key refused a row."""
    return code_of(error) in _CONFLICTS


def judge(error: BaseException) -> Blame:
    """Tell who is at fault for an error within a transaction."""
    if isinstance(error, RowsMovedError) or code_of(error) in _AGAIN:
        return Blame.AGAIN
    return Blame.WHOLE if explain(error, "") is not None else Blame.OPERATION


def is_in_doubt(error: BaseException) -> bool:
    """Tell whether a commit that raised this may have happened all the same."""
    return is_lost(error) and code_of(error) not in (*_FULL, *_CROWDED)


def _say(error: BaseException) -> str:
    # Where several addresses were tried, what a server said matters most.
    lines = str(origin_of(error)).strip().splitlines()
    said = [line for line in lines if "FATAL:" in line] or lines[:1]
    if not said:
        return type(origin_of(error)).__name__
    return said[0].rpartition("FATAL:")[2].strip().rstrip(".")


def explain(error: BaseException, name: str) -> StoreError | None:
    """Return what an error of the database as a whole means; None for any other."""
    code = code_of(error)
    if code in _READ_ONLY:
        return DatabaseReadOnlyError(
            f"{name} takes no writes: {_say(error)}.",
            hint="It is a standby, or set to be read-only: name the primary server.",
        )
    if code in _BUSY:
        return DatabaseUnavailableError(
            f"{name} was kept busy by others for too long: {_say(error)}.",
            hint="Look in pg_stat_activity for transactions that have begun long ago.",
        )
    if code in _FULL:
        return DatabaseFullError(
            f"The disk of {name} is full; nothing was written.",
            hint="Free some space; the next commit then succeeds.",
        )
    if code in _CROWDED:
        return DatabaseUnavailableError(
            f"{name} has no connection left: {_say(error)}.",
            hint="Each engine takes two. Raise max_connections, or put a pooler such"
            " as PgBouncer in front of it.",
        )
    if code in _DENIED:
        return DatabaseUnavailableError(
            f"{name} does not let this user in: {_say(error)}.",
            hint="Correct the user and the password of the URL.",
        )
    if code in _FORBIDDEN:
        return DatabaseUnavailableError(
            f"{name} does not allow this user to do that: {_say(error)}.",
            hint="Grant it SELECT, INSERT, UPDATE and DELETE on the tables whose names"
            " begin with 'durable_', and USAGE on their sequence.",
        )
    if code in _MISSING:
        return DatabaseUnavailableError(
            f"{name} does not exist: {_say(error)}.",
            hint="Create it with 'createdb', or correct the URL.",
        )
    if code in _NO_TABLE:
        return SchemaRevisionError(
            f"{name} lacks a table that was there when it was opened: {_say(error)}.",
            hint="Run 'durable db upgrade'; behind a pooler, set the search_path of the"
            " role.",
        )
    if isinstance(origin_of(error), SilentServerError):
        return DatabaseUnavailableError(
            f"{name} does not answer: {_say(error)}.",
            hint="Look at the server and at what is between it and this machine.",
        )
    if is_lost(error):
        return DatabaseUnavailableError(f"{name} cannot be reached: {_say(error)}.")
    return None
