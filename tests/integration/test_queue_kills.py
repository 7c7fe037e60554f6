"""Whatever limits a queue has, and whenever its workers are killed: they hold.

What began and ended is told by an append-only ledger of the workers themselves. In the
end all is done, and no slot is taken.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from durable import Engine, Rate
from durable.store.queries import CountActivityTasks
from tests.integration import queue_kill
from tests.integration.queue_kill import QUEUE

ROOT = Path(__file__).parents[2]
WORKERS = 3
KILLS = 5
TASKS = 40
RUNS = 24
COMMITS_MAX = 16


class Limits(msgspec.Struct, frozen=True):
    """What a queue is given."""

    concurrency: int | None
    worker_concurrency: int | None
    key_concurrency: int | None
    rate: Rate | None


def draw(chance: random.Random) -> Limits:
    """Draw limits of which at least one is low."""
    while True:
        found = Limits(
            chance.choice([None, None, 2, 4]),
            chance.choice([None, None, 1, 2]),
            chance.choice([None, 1, 2]),
            chance.choice([None, None, Rate(5, "100ms"), Rate(20, "200ms", burst=3)]),
        )
        if found != Limits(None, None, None, None):
            return found


class Line(NamedTuple):
    """A line of the ledger."""

    at: int
    pid: int
    what: str
    words: list[str]


def read_ledger(path: Path) -> list[Line]:
    lines = [line.split() for line in path.read_text().splitlines()]
    return sorted(Line(int(at), int(pid), what, w) for at, pid, what, *w in lines)


def judge(ledger: list[Line], limits: Limits) -> None:
    """See that no limit was ever passed."""
    running: dict[int, Counter[str]] = {}
    for line in ledger:
        mine = running.setdefault(line.pid, Counter())
        if line.what == "begins":
            mine[line.words[0]] += 1
        elif line.what == "ends":
            mine[line.words[0]] -= 1
        elif line.what == "dies":
            mine.clear()
        keys = sum(running.values(), Counter())
        for most, found in (
            (limits.concurrency, keys.total()),
            (limits.worker_concurrency, mine.total()),
            (limits.key_concurrency, max(keys.values(), default=0)),
        ):
            assert most is None or found <= most, f"{found} ran at {line}"
    if limits.rate is not None:
        claims = sorted(int(one.words[0]) for one in ledger if one.what == "claims")
        per = int(str(limits.rate.per).removesuffix("ms")) * 1_000
        pairs = zip(claims, claims[limits.rate.count :], strict=False)
        assert all(later - earlier >= per for earlier, later in pairs)


class Workers:
    """So many processes, of which each that has died has a successor."""

    def __init__(
        self, database: str, ledger: Path, chance: random.Random, *what: str
    ) -> None:
        self._where = (database, str(ledger))
        self._what = what
        self._chance = chance
        self._all: list[asyncio.subprocess.Process] = []
        self.killed = 0

    async def keep(self) -> None:
        """Be one of them, and its successors."""
        while True:
            commit = 0
            if self.killed < KILLS:
                commit = self._chance.choice([-1, 1]) * self._chance.randint(
                    2, COMMITS_MAX
                )
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    queue_kill.__file__,
                    *self._where,
                    str(commit),
                    *self._what,
                ),
                stdout=asyncio.subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            self._all.append(process)
            assert await process.wait() == -9
            self.killed += 1

    async def end(self) -> None:
        """Kill those that are left."""
        for process in self._all:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def hold(database: str, ledger: Path, seed: int) -> None:
    chance = random.Random(seed)
    limits = draw(chance)
    keys = "".join(chance.choice("abc") for _ in range(TASKS))
    workers = Workers(database, ledger, chance)
    given: dict[str, Any] = msgspec.structs.asdict(limits)
    async with Engine(database, definitions=[queue_kill.fan]) as engine:
        await engine.queues.configure(QUEUE, **given)
        run = await engine.start(queue_kill.fan(keys))
        kept = [asyncio.create_task(workers.keep()) for _ in range(WORKERS)]
        try:
            assert await run.result(timeout=50) == sum(range(TASKS))
        finally:
            for task in kept:
                task.cancel()
            await asyncio.gather(*kept, return_exceptions=True)
            await workers.end()
        counts = await engine._open_client().store.read(CountActivityTasks("default"))
        assert counts == []
        assert (await engine.queues.get(QUEUE)).running == 0
    told = read_ledger(ledger)
    judge(told, limits)
    done = {int(line.words[1]) for line in told if line.what == "ends"}
    assert done == set(range(TASKS))
    assert sum(line.what == "dies" for line in told) >= KILLS / 2


async def hold_runs(database: str, ledger: Path, seed: int) -> None:
    """See that no more runs are under way than may be, whoever is killed."""
    chance = random.Random(seed)
    most, of_key = chance.choice([(2, None), (3, 1), (4, 2)])
    workers = Workers(database, ledger, chance, "runs")
    async with Engine(database, definitions=[queue_kill.turn], worker=False) as engine:
        limits = engine.queues.runs
        await limits.configure(QUEUE, concurrency=most, key_concurrency=of_key)
        keys = [chance.choice("abc") for _ in range(RUNS)]
        runs = [
            await engine.start(
                queue_kill.turn(key, n), task_queue=QUEUE, fairness_key=key
            )
            for n, key in enumerate(keys)
        ]
        kept = [asyncio.create_task(workers.keep()) for _ in range(WORKERS)]
        try:
            async with asyncio.timeout(50):
                for n, one in enumerate(runs):
                    assert await one.result() == n
        finally:
            for task in kept:
                task.cancel()
            await asyncio.gather(*kept, return_exceptions=True)
            await workers.end()
        found = await limits.get(QUEUE)
        assert (found.running, found.waiting) == (0, 0)
    told = read_ledger(ledger)
    under_way: set[tuple[str, str]] = set()
    for line in told:
        key = tuple(line.words[:2])
        if line.what == "opens":
            under_way.add((key[0], key[1]))
            assert len(under_way) <= most
            assert of_key is None or sum(k == key[0] for k, _ in under_way) <= of_key
        elif line.what == "closes":
            under_way.discard((key[0], key[1]))
    assert sum(line.what == "dies" for line in told) >= KILLS / 2


@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("seed", range(1, 5))
async def test_limits_of_runs_hold_under_kills(tmp_path: Path, seed: int) -> None:
    await hold_runs(f"sqlite:///{tmp_path}/queue.db", tmp_path / "ledger", seed)


@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("kind", ["postgres_url", "mariadb_url"])
async def test_limits_of_runs_hold_under_kills_on_servers(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    await hold_runs(request.getfixturevalue(kind), tmp_path / "ledger", len(kind))


@pytest.mark.slow
@pytest.mark.sweep(1)
@pytest.mark.parametrize("seed", range(1, 6))
async def test_limits_hold_under_kills(tmp_path: Path, seed: int) -> None:
    await hold(f"sqlite:///{tmp_path}/queue.db", tmp_path / "ledger", seed)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgres_url", "mariadb_url"])
async def test_limits_hold_under_kills_on_servers(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    await hold(request.getfixturevalue(kind), tmp_path / "ledger", len(kind))
