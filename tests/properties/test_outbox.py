"""Random transactions of several connections, against what must come of them.

Each transaction asks for starts and signals, sets savepoints, rolls back to them, and
is committed or rolled back. What was committed is delivered, once and in order for each
workflow id, and nothing else is. Signals that were written before the start of their
run are refused, and set aside: nothing of their workflow id overtakes them before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import Engine, Signal, workflow
from durable.client.outbox import delivery
from tests.sizes import examples

noted = Signal("noted", int)


@workflow(name="outbox_property.gather")
async def gather() -> list[int]:
    """Take messages until one says that it was the last."""
    found: list[int] = []
    while not found or found[-1] >= 0:
        found.append(await noted.receive())
    return found[:-1]


NAMES = ("a", "b", "c")
END = -1

requests = st.tuples(st.sampled_from(["start", "signal"]), st.sampled_from(NAMES))
steps = st.lists(
    st.one_of(requests, st.sampled_from(["savepoint", "rollback to", "release"])),
    max_size=8,
)
transactions = st.lists(st.tuples(steps, st.booleans()), max_size=8)

Asked = list[tuple[str, str, int]]


class Model:
    """What was asked for and committed, in order."""

    def __init__(self) -> None:
        self.committed: Asked = []
        self._number = 0

    def carry_out(
        self, engine: Engine, connection: sqlite3.Connection, given: list[Any]
    ) -> Asked:
        """Do what a transaction says; return what it leaves if it is committed."""
        within = engine.within(connection)
        asked: Asked = []
        places: list[int] = []
        connection.execute("INSERT INTO mine VALUES (1)")
        for step in given:
            if step == "savepoint":
                places.append(len(asked))
                connection.execute(f"SAVEPOINT s{len(places)}")
            elif step == "rollback to" and places:
                del asked[places[-1] :]
                connection.execute(f"ROLLBACK TO s{len(places)}")
            elif step == "release" and places:
                connection.execute(f"RELEASE s{len(places)}")
                places.pop()
            elif isinstance(step, tuple):
                self._number += 1
                kind, name = step
                asked.append((kind, name, self._number))
                if kind == "start":
                    within.start(gather(), id=name)
                else:
                    within.signal(name, noted(self._number))
        return asked

    def expected(self) -> tuple[dict[str, list[int]], list[str]]:
        """What each run has taken in the end, and whose signals are set aside."""
        signals: dict[str, list[int]] = {}
        refused: list[str] = []
        for kind, name, number in self.committed:
            if kind == "start":
                signals.setdefault(name, [])
            elif name in signals:
                signals[name].append(number)
            else:
                refused.append(name)
        return signals, refused


@pytest.mark.slow
@settings(max_examples=examples(60))
@given(done=transactions)
def test_what_was_committed_is_done_once_and_in_order_and_nothing_else(
    done: list[tuple[list[Any], bool]],
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr(delivery, "_FIRST_RETRY", 10)  # us
        asyncio.run(play(Path(folder) / "x.db", done))


async def play(path: Path, done: list[tuple[list[Any], bool]]) -> None:
    model = Model()
    url = f"sqlite:///{path}"
    async with Engine(url, definitions=[gather]) as engine:
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
            connection.execute("CREATE TABLE mine (id)")
            for given, is_committed in done:
                asked = model.carry_out(engine, connection, given)
                if is_committed:
                    connection.commit()
                    model.committed += asked
                else:
                    connection.rollback()
            # Every run gets what waits for it, and its end.
            for name in NAMES:
                engine.within(connection).start(gather(), id=name)
                model.committed.append(("start", name, 0))
                connection.commit()
            signals, refused = model.expected()
            while await engine.outbox.list(set_aside=False):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.002)
            for name in NAMES:
                engine.within(connection).signal(name, noted(END))
            connection.commit()
            found = {
                name: await (await engine.get(name, workflow=gather)).result(timeout=30)
                for name in NAMES
            }
            assert found == signals
            aside = await engine.outbox.list(set_aside=True)
            assert [row.workflow_id for row in aside] == refused
            assert (await engine.count()).total == len(NAMES)
            counted = connection.execute("SELECT count(*) FROM mine").fetchone()
            assert counted == (sum(is_committed for _, is_committed in done),)
