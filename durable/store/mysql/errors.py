"""What the errors of MariaDB and MySQL mean, in the library's own."""

from __future__ import annotations

from typing import Final

import pymysql
from sqlalchemy.exc import DBAPIError

from durable.errors import (
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    SchemaRevisionError,
    StoreError,
)
from durable.store.database import Blame
from durable.store.servers.locked_look import RowsMovedError

# https://mariadb.com/kb/en/mariadb-error-code-reference/
_CONFLICT: Final = 1062
# A lock not given in time, a deadlock, a row that has changed, a unique key.
_AGAIN: Final = frozenset({1205, 1213, 1020, _CONFLICT})
_READ_ONLY: Final = frozenset({1290, 1792, 1836})
_BINARY_LOG: Final = 1665
_FULL: Final = frozenset({1021, 1114})
_STORAGE_ENGINE: Final = 1030
_CROWDED: Final = frozenset({1040, 1203, 1226})
_NOT_LET_IN: Final = frozenset({1045, 1129, 1130, 1698})
_DENIED: Final = frozenset({1044, 1142, 1143, 1227})
_MISSING: Final = 1049
_NO_TABLE: Final = 1146
_TOO_LARGE: Final = 1153
# Shutdown, a connection cut or killed, a statement ended, or idle for too long.
_ENDED: Final = frozenset(
    {1053, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1317, 1927, 1969, 3024, 4031}
)
_BY_CLIENT: Final = range(2000, 3000)  # the server has not said a word


def origin_of(error: BaseException) -> BaseException:
    """Return the driver's error, whatever it is wrapped in."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


def code_of(error: BaseException) -> int:
    """Return the number of an error; 0 for one of neither the server nor the driver."""
    origin = origin_of(error)
    if isinstance(origin, pymysql.Error) and origin.args:
        code = origin.args[0]
        return code if isinstance(code, int) else 0
    return 0


def _is_closed(error: BaseException) -> bool:
    return isinstance(origin_of(error), pymysql.InterfaceError)


def is_lost(error: BaseException) -> bool:
    """Tell whether the connection is gone, or of no more use."""
    code = code_of(error)
    return code in _ENDED | _CROWDED or code in _BY_CLIENT or _is_closed(error)


def may_pass(error: BaseException) -> bool:
    """Tell whether the same may succeed soon, on a new connection."""
    if isinstance(error, StoreError) and error.__cause__ is not None:
        error = error.__cause__
    # A replica becomes the primary.
    return is_lost(error) or code_of(error) in _READ_ONLY


def is_conflict(error: BaseException) -> bool:
    """Tell whether a unique key refused a row."""
    return code_of(error) == _CONFLICT


def judge(error: BaseException) -> Blame:
    """Tell who is at fault for an error within a transaction."""
    if isinstance(error, RowsMovedError) or code_of(error) in _AGAIN:
        return Blame.AGAIN
    return Blame.WHOLE if explain(error, "") is not None else Blame.OPERATION


def is_in_doubt(error: BaseException) -> bool:
    """Tell whether a commit that raised this may have happened all the same."""
    return is_lost(error) and code_of(error) not in _CROWDED


def _say(error: BaseException) -> str:
    origin = origin_of(error)
    text = str(origin.args[1]) if len(origin.args) > 1 else ""
    return text.strip().rstrip(".") or type(origin).__name__


def _is_full(error: BaseException) -> bool:
    code = code_of(error)
    # 28 is what the system calls a disk without space.
    return code in _FULL or (code == _STORAGE_ENGINE and " 28 " in _say(error))


def explain(error: BaseException, name: str) -> StoreError | None:
    """Return what an error of the database as a whole means; None for any other."""
    code = code_of(error)
    if code in _READ_ONLY:
        return DatabaseReadOnlyError(
            f"{name} takes no writes: {_say(error)}.",
            hint="It is a replica, or set to be read-only: name the primary server.",
        )
    if code == _BINARY_LOG:
        return DatabaseReadOnlyError(
            f"{name} takes no writes at the level READ COMMITTED: {_say(error)}.",
            hint="Set binlog_format of the server to ROW or MIXED.",
        )
    if _is_full(error):
        return DatabaseFullError(
            f"The disk of {name} is full; nothing was written.",
            hint="Free some space; the next commit then succeeds.",
        )
    if code in _CROWDED:
        return DatabaseUnavailableError(
            f"{name} has no connection left: {_say(error)}.",
            hint="Each engine takes two. Raise max_connections, or what the user may"
            " have of them.",
        )
    if code in _NOT_LET_IN:
        return DatabaseUnavailableError(
            f"{name} does not let this user in: {_say(error)}.",
            hint="Correct the user and the password of the URL.",
        )
    if code in _DENIED:
        return DatabaseUnavailableError(
            f"{name} does not allow this user to do that: {_say(error)}.",
            hint="Grant it SELECT, INSERT, UPDATE and DELETE on the tables whose names"
            " begin with 'durable_'; and CREATE, ALTER and INDEX to make them.",
        )
    if code == _MISSING:
        return DatabaseUnavailableError(
            f"{name} does not exist: {_say(error)}.",
            hint="Create it with CREATE DATABASE, or correct the URL.",
        )
    if code == _NO_TABLE:
        return SchemaRevisionError(
            f"{name} lacks a table that was there when it was opened: {_say(error)}.",
            hint="Run 'durable db upgrade'.",
        )
    if code == _TOO_LARGE:
        return DatabaseUnavailableError(
            f"{name} does not take packets of that size: {_say(error)}.",
            hint="Raise max_allowed_packet of the server.",
        )
    if is_lost(error):
        return DatabaseUnavailableError(
            f"{name} cannot be reached, or has not answered in time: {_say(error)}."
        )
    return None
