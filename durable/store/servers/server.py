"""What sessions and databases on servers have alike."""

from __future__ import annotations

import contextlib
import enum
import random
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from durable import limits
from durable.errors import DatabaseUnavailableError, StoreError
from durable.store.database import LOCK_SECONDS, Session, SqlSession
from durable.store.looks import Looks
from durable.store.sql.schema import prepare_schema, read_revision

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import sqlalchemy as sa

    from durable.store.database import Blame, Prepare
    from durable.store.servers.server_clock import ServerClock
    from durable.store.servers.server_errors import ServerErrors
    from durable.store.servers.server_url import ServerUrl


PATIENCE_SECONDS: Final = limits.LEASE_SECONDS * 0.8
"""After so long without an answer a server is given up by who writes.

Longer than what the server ends by itself, and shorter than a lease.
"""
READ_SECONDS: Final = limits.LEASE_SECONDS * 3
"""Likewise, by who only reads."""
MIGRATION_SECONDS: Final = 3_600.0
"""Likewise, by who changes the schema, which copies tables of any size."""
_FATE_PAUSE_SECONDS: Final = 0.1


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

    scheme: ClassVar[str]
    """As URLs name it."""
    commit_text: ClassVar[Any]
    """The statement that ends a transaction, as it is sent."""
    place_text: ClassVar[Any]
    """The one that tells this database from all others, by whatever name it came."""

    def __init__(self, connection: sa.Connection, clock: ServerClock) -> None:
        """Take over a connection that is in autocommit mode."""
        self._connection = connection
        self._clock = clock
        self._pending: list[Any] = []
        self._has_written = False
        self.sequence: int | None = None
        """See `EnteringSession`."""
        self.phase = Phase.NONE
        self.lock_seconds = LOCK_SECONDS
        self.has_migrated = False
        """Whether it is without limits, as whoever changes the schema needs it."""

    @property
    def connection(self) -> sa.Connection:
        """See `Session`."""
        if self.phase is Phase.TO_WRITE:
            self.begin_writing_now()
        elif self.phase is Phase.TO_READ:
            self.begin_reading_now()
        return self._connection

    def begin(self, lock_seconds: float = LOCK_SECONDS) -> None:
        """See `Session`."""
        self.phase = Phase.TO_WRITE
        self.lock_seconds = lock_seconds

    def begin_reading(self) -> None:
        """See `Session`."""
        self.phase = Phase.TO_READ

    @abstractmethod
    def send(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Carry statements out in one trip; their answers by the same names."""

    @abstractmethod
    def begin_with(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin a transaction that writes, with its first statements.

        One that has only looked is over by that.
        """

    def begin_by(self, first: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        """Begin one with statements of which `header` tells the time first."""
        if self.phase is Phase.BEGUN:
            first = {"commit": self.commit_text, **first}
        self.phase = Phase.BEGUN
        before = time.monotonic_ns()
        answers = self.send(first | asked)
        self._clock.hear(answers["header"][0][0], before, time.monotonic_ns())
        return answers

    def begin_writing_now(self) -> None:
        """Begin a transaction that writes; `phase` is BEGUN then."""
        self.begin_with({})
        self._has_written = True  # whoever takes the connection may

    def write_later(self, written: list[Any]) -> None:
        """Carry statements out together with the commit."""
        self._pending += written

    @abstractmethod
    def begin_reading_now(self) -> None:
        """Begin a transaction that reads at one instant; likewise."""

    @abstractmethod
    def rollback(self) -> None:
        """See `Session`."""

    def tolerate(self, error: BaseException) -> AbstractContextManager[None] | None:
        """See `Session`. Servers keep what is no text out of texts."""
        del error
        return None

    def identify(self) -> str:
        """See `Session`."""
        ((place,),) = self.send({"place": self.place_text})["place"]
        return f"{self.scheme} {place}"

    def check(self) -> list[str]:
        """See `Session`."""
        return []

    def is_in_place(self) -> bool:
        """See `Session`."""
        return True

    def close(self) -> None:
        """See `Session`."""
        for end in (self.rollback, self._connection.invalidate, self._connection.close):
            with contextlib.suppress(Exception):
                end()


class EnteringSession(Session, Protocol):
    """A session of a server's database."""

    @property
    def has_migrated(self) -> bool:
        """Whether it is to be replaced by one that has its limits."""
        ...

    @property
    def sequence(self) -> int | None:
        """The number before those that the transaction may give to messages."""
        ...

    def enter(self) -> None:
        """Get ready to write, with the schema in place."""
        ...

    def read_fate(self, fate: Any) -> bool | None:
        """Tell whether a transaction was committed; None if the server forgot it.

        Raises:
            Exception: the server cannot be asked, or the transaction has not ended.
        """
        ...


class ServerDatabase(ABC):
    """Implements `Database` but for how a connection is made.

    Args:
        url: where it is, and who comes.
        clock: is told the server's time.
        migrate: whether its tables may be made or upgraded.
        errors: what the server's errors mean.
    """

    def __init__(
        self, url: ServerUrl, clock: ServerClock, *, migrate: bool, errors: ServerErrors
    ) -> None:
        """Connect to nothing yet."""
        self.url = url
        self.clock = clock
        self._migrate = migrate
        self._errors = errors
        self._looks = Looks(clock.now)
        self.name = url.name

    # --- connections ------------------------------------------------------------------

    @abstractmethod
    def connect(self, *, is_writer: bool) -> EnteringSession:
        """Make a connection in autocommit mode.

        Raises:
            StoreError: the server cannot be reached.
        """

    def open_writer(self, prepare: Prepare | None = None) -> Session:
        """See `Database`."""
        session = self.connect(is_writer=True)
        try:
            if prepare is None:
                prepare_schema(session, self.name, migrate=self._migrate)
            else:
                prepare(session, self.name)
            if session.has_migrated:
                session.close()
                session = self.connect(is_writer=True)
            session.looks = self._looks
            session.enter()
        except Exception as error:
            session.close()
            raise self.as_store_error(error) from error
        return session

    def open_reader(self) -> Session:
        """See `Database`."""
        session = self.connect(is_writer=False)
        session.looks = self._looks
        return session

    def read_revision(self) -> str | None:
        """See `Database`."""
        with contextlib.closing(self.connect(is_writer=False)) as session:
            return read_revision(session)

    def too_old(self, product: str, *versions: object) -> DatabaseUnavailableError:
        """Build the error of a server of a version before the oldest that will do."""
        found, oldest = versions
        return DatabaseUnavailableError(
            f"{self.name} is {product} {found}, and this release needs {oldest} or"
            " later."
        )

    # --- what has no meaning here -----------------------------------------------------

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
        """See `Database`. The server is asked until it answers."""
        deadline = time.monotonic() + limits.LEASE_SECONDS
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(Exception),
                contextlib.closing(self.connect(is_writer=True)) as session,
            ):
                return session.read_fate(fate)
            time.sleep(random.uniform(0.5, 1) * _FATE_PAUSE_SECONDS)  # noqa: S311 - no secret
        return None

    def as_store_error(self, error: Exception) -> StoreError:
        """Return what an error means that was met as a connection was made."""
        if isinstance(error, StoreError):
            return error
        return self.explain(error) or DatabaseUnavailableError(
            f"{self.name} cannot be opened: {type(error).__name__}."
        )
