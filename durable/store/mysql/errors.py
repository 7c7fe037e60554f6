"""What the errors of MariaDB and MySQL mean."""

from __future__ import annotations

from typing import Final

import pymysql

from durable.store.servers.server_errors import Fault, ServerErrors

# Shutdown, a connection cut or killed, a statement ended, or idle for too long.
_ENDED: Final = (1053, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1317, 1927, 1969)
_ENDED_BY_MYSQL: Final = (3024, 4031)
_BY_CLIENT: Final = range(2000, 3000)  # the server has not said a word
_STORAGE_ENGINE: Final = 1030


class MysqlErrors(ServerErrors):
    """By number: https://mariadb.com/kb/en/mariadb-error-code-reference/."""

    conflicts = frozenset({1062})
    # A deadlock, a row that has changed, a unique key.
    again = frozenset({1213, 1020, 1062})
    locked = frozenset({1205})
    _faults: Final = {
        **dict.fromkeys((*_ENDED, *_ENDED_BY_MYSQL), Fault.LOST),
        **dict.fromkeys((1205, 1213, 1020), Fault.BUSY),
        **dict.fromkeys((1290, 1792, 1836), Fault.READ_ONLY),
        **dict.fromkeys((1021, 1114), Fault.FULL),
        **dict.fromkeys((1040, 1203, 1226), Fault.CROWDED),
        **dict.fromkeys((1045, 1129, 1130, 1698), Fault.NOT_LET_IN),
        **dict.fromkeys((1044, 1142, 1143, 1227), Fault.DENIED),
        1049: Fault.MISSING,
        1146: Fault.NO_TABLE,
        1153: Fault.TOO_LARGE,
        1665: Fault.LOG_OF_STATEMENTS,
    }

    def code_of(self, origin: BaseException) -> int:
        """See `ServerErrors`."""
        if isinstance(origin, pymysql.Error) and origin.args:
            code = origin.args[0]
            return code if isinstance(code, int) else 0
        return 0

    def find_fault(self, origin: BaseException) -> Fault | None:
        """See `ServerErrors`."""
        code = self.code_of(origin)
        if code in _BY_CLIENT or isinstance(origin, pymysql.InterfaceError):
            is_silent = "timed out" in self.say(origin)
            return Fault.SILENT if is_silent else Fault.LOST
        # 28 is what the system calls a disk without space.
        if code == _STORAGE_ENGINE and " 28 " in self.say(origin):
            return Fault.FULL
        return self._faults.get(code)

    def say(self, origin: BaseException) -> str:
        """See `ServerErrors`."""
        text = str(origin.args[1]) if len(origin.args) > 1 else ""
        return text.strip().rstrip(".") or type(origin).__name__
