"""Servers that refuse transactions which write, for others' sake."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from durable.store.mysql.session import MysqlSession
from durable.store.postgresql.driver import Statement
from durable.store.postgresql.session import PostgresSession
from durable.store.servers.server import Phase

CODES = {"postgresql": ("40001", "40P01"), "mysql": ("1213", "1205")}
"""Serialization failure and deadlock; deadlock, and a lock not given in time."""


def _refusal(code: str) -> dict[str, Any]:
    """Statements of which the server answers the last with that error."""
    if code in CODES["postgresql"]:
        raising = f"RAISE EXCEPTION 'injected' USING ERRCODE = '{code}'"
        return {"refused": Statement(f"DO $$ BEGIN {raising}; END $$")}
    signal = f"SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code}"
    # A deadlock leaves nothing of a transaction; the other takes one statement back.
    undone = {"undone": "ROLLBACK"} if code == "1213" else {}
    return {**undone, "refused": signal}


@contextmanager
def refusing(
    code: str, is_meant: Callable[[int], bool], *, commits_only: bool = False
) -> Generator[Callable[[], int]]:
    """Refuse trips of transactions at their ends, by numbers from 1 on.

    Yields what tells how many it was. A commit that is refused does not take place,
    though all that comes before it does.
    """
    kind: Any = PostgresSession if code in CODES["postgresql"] else MysqlSession
    send, number, refused = kind.send, 0, 0

    def send_or_refuse(session: Any, asked: dict[str, Any]) -> Any:
        nonlocal number, refused
        *before, (_, last) = asked.items()
        is_commit = last == kind.commit_text
        writes = bool(before) or session._has_written
        if session.phase is not Phase.BEGUN or (
            commits_only and not (is_commit and writes)
        ):
            return send(session, asked)
        number += 1
        if not is_meant(number):
            return send(session, asked)
        refused += 1
        return send(session, dict(before if is_commit else asked) | _refusal(code))

    with patch.object(kind, "send", send_or_refuse):
        yield lambda: refused
