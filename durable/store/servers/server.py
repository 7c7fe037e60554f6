"""What sessions and databases on servers have alike."""

from __future__ import annotations

import contextlib
import enum
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from durable.errors import DatabaseUnavailableError, StoreError
from durable.store.sql.sql_session import SqlSession

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import sqlalchemy as sa

    from durable.store.database import Blame
    from durable.store.servers.server_errors import ServerErrors
    from durable.store.servers.server_url import ServerUrl


class Phase(enum.Enum):
    """Where the transaction of a session stands."""

    NONE = "none"
    TO_WRITE = "to write"
    """One that writes is to begin with the first statement."""
    TO_READ = "to read"
    BEGUN = "begun"


class ServerSession(SqlSession, ABC):
    """A connection to a server; implements `Session` but for its trips.

    A transaction begins with its first statement, to save the trip.
    """

    is_harmed_by_fork = True

    def __init__(self, connection: sa.Connection) -> None:
        """Take over a connection that is in autocommit mode."""
        self._connection = connection
        self.phase = Phase.NONE

    @property
    def connection(self) -> sa.Connection:
        """See `Session`."""
        if self.phase is Phase.TO_WRITE:
            self.begin_writing_now()
        elif self.phase is Phase.TO_READ:
            self.begin_reading_now()
        return self._connection

    def begin(self) -> None:
        """See `Session`."""
        self.phase = Phase.TO_WRITE

    def begin_reading(self) -> None:
        """See `Session`."""
        self.phase = Phase.TO_READ

    @abstractmethod
    def begin_writing_now(self) -> None:
        """Begin a transaction that writes; `phase` is BEGUN then."""

    @abstractmethod
    def begin_reading_now(self) -> None:
        """Begin a transaction that reads at one instant; likewise."""

    def tolerate(self, error: BaseException) -> AbstractContextManager[None] | None:
        """See `Session`. Servers keep what is no text out of texts."""
        del error
        return None

    def check(self) -> list[str]:
        """See `Session`."""
        return []

    def is_in_place(self) -> bool:
        """See `Session`."""
        return True

    def disconnect(self) -> None:
        """Close the connection, whatever becomes of it."""
        with contextlib.suppress(Exception):
            self._connection.close()


class ServerDatabase(ABC):
    """Implements what of `Database` has no meaning on a server."""

    def __init__(self, url: ServerUrl, errors: ServerErrors) -> None:
        """Connect to nothing yet."""
        self.url = url
        self._errors = errors
        self.name = url.name

    def forget_file(self) -> None:  # noqa: B027 - it has no file, whoever it is
        """See `Database`."""

    def note_workers(self, process_ids: list[int]) -> None:
        """See `Database`."""
        del process_ids

    def find_blockers(self) -> list[str]:
        """See `Database`."""
        return []

    def not_in_place(self) -> StoreError:
        """See `Database`."""
        return DatabaseUnavailableError(f"{self.name} is another database now.")

    # --- errors -----------------------------------------------------------------------

    def is_conflict(self, error: BaseException) -> bool:
        """See `Database`."""
        return self._errors.is_conflict(error)

    def judge(self, error: BaseException) -> Blame:
        """See `Database`."""
        return self._errors.judge(error)

    def is_in_doubt(self, error: BaseException) -> bool:
        """See `Database`."""
        return self._errors.is_in_doubt(error)

    def is_lost(self, error: BaseException) -> bool:
        """See `Database`."""
        return self._errors.may_pass(error)

    def explain(self, error: BaseException) -> StoreError | None:
        """See `Database`."""
        if isinstance(error, StoreError):
            return None
        return self._errors.explain(error, self.name)

    def find_fate(self, fate: object) -> bool | None:
        """See `Database`. Only rows tell, as a rule."""
        del fate
        return None

    @abstractmethod
    def read_revision(self) -> str | None:
        """The revision of the schema, as `schema.read_revision` says it.

        Raises:
            StoreError: it cannot be read.
        """

    def as_store_error(self, error: Exception) -> StoreError:
        """Return what an error means that was met as a connection was made."""
        if isinstance(error, StoreError):
            return error
        return self.explain(error) or DatabaseUnavailableError(
            f"{self.name} cannot be opened: {type(error).__name__}."
        )
