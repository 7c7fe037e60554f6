"""Kills transfers between entities at every SQL statement, and resumes them.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. Two workflows move money under a lock while a call comes from outside. Whatever
the moment of the kill: in the end every call has been carried out once, and no key is
held any more.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import field
from functools import partial
from pathlib import Path

from durable import (
    Engine,
    Entity,
    IdConflictPolicy,
    RetryPolicy,
    activity,
    entity,
    exclusive,
    locked,
    shared,
    workflow,
)
from tests.integration import crash_sweep
from tests.integration.crash_sweep import (
    Point,
    check_database,
    crash_and_resume,
    in_child,
    note,
    visit,
    warm_up,
    watch_statements,
)

POLICY = RetryPolicy(max_attempts=20, initial_interval="1ms", max_interval="1ms")


@activity(name="entity_kill.post", retry=POLICY)
async def post(entry: str) -> str:
    """Tell the world of an entry; that may happen again."""
    note(f"entity_kill.post {json.dumps(entry)}")
    return entry


@entity(name="entity_kill.Account")
class Account(Entity):
    """Money, and every change of it."""

    money: int = 100
    entries: list[str] = field(default_factory=list)

    @exclusive
    async def change(self, n: int, entry: str) -> int:
        """Change the money in the middle of an activity."""
        self.money += n
        self.entries.append(await post(entry))
        return self.money

    @shared
    def statement(self) -> list[str]:
        """Everything."""
        return [str(self.money), *sorted(self.entries)]


@workflow(name="entity_kill.transfer")
async def transfer(source: str, target: str, n: int) -> None:
    """Move money while nobody else can."""
    async with locked(Account[source], Account[target]):
        await Account[source].change(-n, f"{n} out")
        await Account[target].change(n, f"{n} in")


def run_engine(database: Path, answer: Path, at: int) -> None:
    """Run or resume everything; write what came of it and the number of moments."""
    point = Point(at)
    watch_statements(point)

    async def main() -> list[list[str]]:
        async with Engine(f"sqlite:///{database}", blocked_after=None) as engine:
            runs = [
                await engine.start(
                    call,
                    id=f"transfer-{number}",
                    request_id=f"transfer-{number}",
                    on_conflict=IdConflictPolicy.USE_EXISTING,
                )
                for number, call in enumerate(
                    (transfer("a", "b", 10), transfer("b", "a", 5))
                )
            ]
            paid = Account["a"].change(1, "1 paid in")
            await engine.call(paid, update_id="paid", timeout="50s")
            for run in runs:
                await run.result(timeout="50s")
            return [await engine.call(Account[key].statement()) for key in "ab"]

    found = asyncio.run(main())
    answer.write_text(json.dumps({"found": found, "moments": point.count}))


EXPECTED = [["96", "1 paid in", "10 out", "5 in"], ["105", "10 in", "5 out"]]


def try_point(folder: Path, at: int) -> tuple[bool, int]:
    """Crash at one moment, resume, check. Returns whether it crashed, and moments."""
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    crash_sweep.LEDGER = folder / f"{at}.ledger"
    crash_sweep.LEDGER.touch()
    was_killed = crash_and_resume(at, partial(run_engine, database, answer))
    outcome = json.loads(answer.read_text())
    if outcome["found"] != EXPECTED:
        raise SystemExit(f"point {at}: found {outcome['found']}")
    ran = crash_sweep.LEDGER.read_text().splitlines()
    again = len(ran) - len(set(ran))
    if again > 1:  # one is under way at most: the others wait for their turn
        raise SystemExit(f"point {at}: run again: {ran}")
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    return was_killed, outcome["moments"]


def main(first: int, step_size: int) -> None:
    """Visit every `step_size`-th point, beginning with `first`."""
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        visit(partial(try_point, folder), first, step_size)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
