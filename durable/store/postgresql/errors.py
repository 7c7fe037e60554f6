"""What PostgreSQL's errors mean."""

from __future__ import annotations

import re
from typing import Final

import psycopg

from durable.store.postgresql.driver import SilentServerError
from durable.store.servers.server_errors import Fault, ServerErrors

# Of a connection that is refused the driver gives no SQLSTATE. In English; a server
# that speaks otherwise and starts or stops is not waited for.
_REFUSALS: Final = {
    re.compile("too many|connection slots|no more connections"): Fault.CROWDED,
    re.compile('database ".*" does not exist'): Fault.MISSING,
    re.compile('authentication|role ".*" does not|pg_hba.conf'): Fault.NOT_LET_IN,
    re.compile(
        "starting up|shutting down|not yet accepting|in recovery|terminating"
    ): Fault.LOST,
}
# Of a session that was ended, of the server, of its disk.
_LOST: Final = ("08", "57P", "58", "53", "XX", "25P03")


class PostgresErrors(ServerErrors):
    """By SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html."""

    conflicts = frozenset({"23505"})
    # Deadlock, serialization, a unique key, a prepared statement that is not there (a
    # pooler has changed its connection).
    again = frozenset({"40P01", "40001", "40003", "23505", "26000"})
    locked = frozenset({"55P03"})
    _faults: Final = {
        **dict.fromkeys(("40P01", "40001", "55P03", "57014"), Fault.BUSY),
        **dict.fromkeys(("28000", "28P01"), Fault.NOT_LET_IN),
        **dict.fromkeys(("42P01", "3F000"), Fault.NO_TABLE),
        "25006": Fault.READ_ONLY,
        "53100": Fault.FULL,
        "53300": Fault.CROWDED,
        "42501": Fault.DENIED,
        "3D000": Fault.MISSING,
    }

    def code_of(self, origin: BaseException) -> str:
        """See `ServerErrors`."""
        return (origin.sqlstate or "") if isinstance(origin, psycopg.Error) else ""

    def find_fault(self, origin: BaseException) -> Fault | None:
        """See `ServerErrors`."""
        code = self.code_of(origin)
        if code:
            is_lost = code.startswith(_LOST)
            return self._faults.get(code) or (Fault.LOST if is_lost else None)
        if isinstance(origin, SilentServerError):
            return Fault.SILENT
        if not isinstance(origin, (psycopg.OperationalError, psycopg.InterfaceError)):
            return None
        _, is_refused, said = str(origin).rpartition("FATAL:")
        if not is_refused:
            return Fault.LOST
        found = (fault for words, fault in _REFUSALS.items() if words.search(said))
        return next(found, Fault.REFUSED)

    def say(self, origin: BaseException) -> str:
        """See `ServerErrors`."""
        # Where several addresses were tried, what a server said matters most.
        lines = str(origin).strip().splitlines()
        said = [line for line in lines if "FATAL:" in line] or lines[:1]
        if not said:
            return type(origin).__name__
        return said[0].rpartition("FATAL:")[2].strip().rstrip(".")
