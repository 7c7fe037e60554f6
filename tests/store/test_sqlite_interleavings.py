"""On SQLite a group looks and writes within one write lock: nobody comes in between.

The scenes of `test_interleavings.py`. At each statement of a group a stranger tries to
write to the file. Looking before the lock is taken, by `BEGIN` rather than
`BEGIN IMMEDIATE`, fails each of them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from durable.clock import SystemClock
from durable.store.lease import RegisterWorker
from durable.store.sqlite.sqlite import SqliteDatabase
from durable.store.steady_clock import SteadyClock
from durable.store.threads.groups import GroupExecutor
from durable.testing.contract.rows import make_worker
from tests.store.invariants import find_violations
from tests.store.stage import Scene, ignore
from tests.store.test_interleavings import SCENES


class Watched:
    """A worker, and who finds the file free to write to during its groups."""

    def __init__(self, path: Path, number: str) -> None:
        self._executor = GroupExecutor(SqliteDatabase(path), SteadyClock(SystemClock()))
        self._executor.execute([RegisterWorker(make_worker(f"x-{number}"), ignore)])
        self._path = path
        self.free_at: list[str] = []
        self.statements = 0

    def execute(self, operations: list[Any]) -> None:
        session: Any = self._executor.open()
        with contextlib.closing(
            sqlite3.connect(self._path, timeout=0, isolation_level=None)
        ) as stranger:

            def look(text: str) -> None:
                # It is called before the statement: that which locks finds it free.
                if not text.startswith(("BEGIN IMMEDIATE", "PRAGMA", "--")):
                    self.statements += 1
                    with contextlib.suppress(sqlite3.OperationalError):
                        stranger.execute("BEGIN IMMEDIATE")
                        stranger.execute("ROLLBACK")
                        self.free_at.append(text)

            session._raw.set_trace_callback(look)
            try:
                self._executor.execute(operations)
            finally:
                session._raw.set_trace_callback(None)

    def select(self, text: str) -> list[tuple[Any, ...]]:
        rows = self._executor.open().connection.exec_driver_sql(text)
        return [tuple(row) for row in rows]

    def close(self) -> None:
        self._executor.close()


@pytest.mark.sweep(24)
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("make_scene", SCENES, ids=lambda scene: scene.__name__)
def test_nobody_comes_between_the_statements_of_a_group(
    tmp_path: Path, make_scene: Callable[[str], Scene], first: int
) -> None:
    scene = make_scene("1-")
    workers = [Watched(tmp_path / "x.db", number) for number in "12"]
    try:
        for worker, before in zip(workers, scene.before, strict=True):
            worker.execute(before)
        groups = (scene.one, scene.other)
        for number in (first, 1 - first):
            workers[number].execute(groups[number])
        assert [worker.free_at for worker in workers] == [[], []]
        assert all(worker.statements for worker in workers)
        assert find_violations(workers[0].select) == {}
    finally:
        for worker in workers:
            worker.close()
