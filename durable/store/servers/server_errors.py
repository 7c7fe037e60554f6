"""What the errors of a server mean, in the library's own."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

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


class Fault(enum.Enum):
    """What an error says of the database as a whole."""

    LOST = enum.auto()
    """The connection is gone, or of no more use."""
    REFUSED = enum.auto()
    """No connection was made, for a reason that does not pass by itself."""
    SILENT = enum.auto()
    READ_ONLY = enum.auto()
    BUSY = enum.auto()
    FULL = enum.auto()
    CROWDED = enum.auto()
    NOT_LET_IN = enum.auto()
    DENIED = enum.auto()
    MISSING = enum.auto()
    NO_TABLE = enum.auto()
    TOO_LARGE = enum.auto()
    LOG_OF_STATEMENTS = enum.auto()


_PLACE: Final = "Look whether the server runs, and at the host and port of the URL."
# {0} is the database, {1} what the server has said.
_WORDS: Final[dict[Fault, tuple[type[StoreError], str, str | None]]] = {
    Fault.LOST: (DatabaseUnavailableError, "{0} cannot be reached: {1}.", _PLACE),
    Fault.REFUSED: (DatabaseUnavailableError, "{0} cannot be reached: {1}.", _PLACE),
    Fault.SILENT: (
        DatabaseUnavailableError,
        "{0} does not answer: {1}.",
        "Look at the server and at what is between it and this machine.",
    ),
    Fault.READ_ONLY: (
        DatabaseReadOnlyError,
        "{0} takes no writes: {1}.",
        "It is a standby, or set to be read-only: name the primary server.",
    ),
    Fault.BUSY: (
        DatabaseUnavailableError,
        "{0} was kept busy by others for too long: {1}.",
        "Look for transactions that have begun long ago.",
    ),
    Fault.FULL: (
        DatabaseFullError,
        "The disk of {0} is full; nothing was written.",
        "Free some space; the next commit then succeeds.",
    ),
    Fault.CROWDED: (
        DatabaseUnavailableError,
        "{0} has no connection left: {1}.",
        "Each engine takes two. Raise max_connections, or put a pooler in front of it.",
    ),
    Fault.NOT_LET_IN: (
        DatabaseUnavailableError,
        "{0} does not let this user in: {1}.",
        "Correct the user and the password of the URL.",
    ),
    Fault.DENIED: (
        DatabaseUnavailableError,
        "{0} does not allow this user to do that: {1}.",
        "To read takes SELECT on the tables whose names begin with 'durable_'; all else"
        " takes INSERT, UPDATE and DELETE on them, too, and USAGE on the sequences of"
        " PostgreSQL; to upgrade takes their owner. docs/how-to/use-a-server.md has the"
        " grants.",
    ),
    Fault.MISSING: (
        DatabaseUnavailableError,
        "{0} does not exist: {1}.",
        "Create it (createdb, or CREATE DATABASE), or correct the URL.",
    ),
    Fault.NO_TABLE: (
        SchemaRevisionError,
        "{0} lacks a table that was there when it was opened: {1}.",
        "Run 'durable db upgrade'; behind a pooler, set the search_path of the role.",
    ),
    Fault.TOO_LARGE: (
        DatabaseUnavailableError,
        "{0} does not take packets of that size: {1}.",
        "Raise max_allowed_packet of the server.",
    ),
    Fault.LOG_OF_STATEMENTS: (
        DatabaseReadOnlyError,
        "{0} takes no writes at the level READ COMMITTED: {1}.",
        "Set binlog_format of the server to ROW or MIXED.",
    ),
}
# A server comes back, a standby becomes the primary, guests leave, disks are emptied.
_PASSING: Final = frozenset(
    {Fault.LOST, Fault.SILENT, Fault.READ_ONLY, Fault.FULL, Fault.CROWDED}
)
_IN_DOUBT: Final = frozenset({Fault.LOST, Fault.SILENT})


def origin_of(error: BaseException) -> BaseException:
    """Return the driver's error, whatever it is wrapped in."""
    if isinstance(error, StoreError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    return error


class ServerErrors(ABC):
    """The errors of one kind of server.

    Attributes:
        again: the codes of errors that others have caused: deadlocks, keys and such.
        locked: those by which a lock was not given in time.
        conflicts: those of them by which a unique key refused a row.
    """

    again: ClassVar[frozenset[Any]]
    locked: ClassVar[frozenset[Any]]
    conflicts: ClassVar[frozenset[Any]]

    @abstractmethod
    def code_of(self, origin: BaseException) -> Any:
        """Return the server's code of an error of the driver; falsy without one."""

    @abstractmethod
    def find_fault(self, origin: BaseException) -> Fault | None:
        """Return what the driver's error says of the database; None for nothing."""

    @abstractmethod
    def say(self, origin: BaseException) -> str:
        """Return what the server has said, in one line without a full stop."""

    def is_conflict(self, error: BaseException) -> bool:
        """Tell whether a unique key refused a row."""
        return self.code_of(origin_of(error)) in self.conflicts

    def judge(self, error: BaseException) -> Blame:
        """Tell who is at fault for an error within a transaction."""
        origin = origin_of(error)
        code = self.code_of(origin)
        if isinstance(origin, RowsMovedError) or code in self.again:
            return Blame.AGAIN
        if code in self.locked:
            return Blame.LOCKED
        return Blame.OPERATION if self.find_fault(origin) is None else Blame.WHOLE

    def may_pass(self, error: BaseException) -> bool:
        """Tell whether the same may succeed soon, on a new connection."""
        return self.find_fault(origin_of(error)) in _PASSING

    def is_in_doubt(self, error: BaseException) -> bool:
        """Tell whether a commit that raised this may have happened all the same."""
        return self.find_fault(origin_of(error)) in _IN_DOUBT

    def explain(self, error: BaseException, name: str) -> StoreError | None:
        """Return what an error of the database as a whole means; None for others."""
        origin = origin_of(error)
        fault = self.find_fault(origin)
        if fault is None:
            return None
        kind, text, hint = _WORDS[fault]
        return kind(text.format(name, self.say(origin)), hint=hint)
