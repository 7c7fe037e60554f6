"""How many statements groups cost: each would be a trip over a network."""

import asyncio
import itertools
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from durable import Engine, Signal, activity, workflow
from durable.store.records import StartRun
from durable.store.threads.groups import GroupExecutor
from tests.store.tracing import traced

# A group writes more rows than one statement takes in several: those count once.
GROUP_STATEMENTS_MAX = 12

go = Signal("go", int)


@activity(name="statements.step")
async def step(number: int) -> int:
    return number + 1


@workflow(name="statements.child")
async def child(number: int) -> int:
    return await step(number)


@workflow(name="statements.parent")
async def parent(number: int) -> int:
    return await child(number)


@workflow(name="statements.waits")
async def waits(number: int) -> int:
    return number + await go.receive()


class Group(NamedTuple):
    kinds: set[type[Any]]
    texts: list[str]


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Each group of operations, and the texts of all its statements."""
    found: list[Group] = []
    execute = GroupExecutor.execute

    def record(executor: GroupExecutor, operations: list[Any], *how: Any) -> Any:
        with traced(executor.open()) as texts:
            try:
                return execute(executor, operations, *how)
            finally:
                found.append(Group(set(map(type, operations)), texts))

    monkeypatch.setattr(GroupExecutor, "execute", record)
    return found


def cost(group: Group) -> int:
    """The number of statements; neighbours that differ in their rows count once.

    So only the first words of each are compared, up to its first column. Claims stand
    in a transaction of their own; the dearest one counts.
    """
    shapes = [re.sub(r"'[^']*'", "?", text)[:33] for text in group.texts]
    texts = [shape for shape, _ in itertools.groupby(shapes)]
    ends = [place for place, text in enumerate(texts, 1) if text == "COMMIT"]
    return max(
        (end - begin for begin, end in itertools.pairwise([0, *ends])), default=0
    )


async def test_crowd_of_families_costs_few_statements_a_group(
    tmp_path: Path, groups: list[Group]
) -> None:
    async with Engine(tmp_path / "x.db", definitions=[parent, child, step]) as engine:
        groups.clear()
        runs = (engine.execute(parent(n), id=f"p{n}") for n in range(100))
        results = await asyncio.gather(*runs)

    assert results == [n + 1 for n in range(100)]
    assert max(map(cost, groups)) <= GROUP_STATEMENTS_MAX
    assert sum(len(group.texts) for group in groups) < 300


async def test_lone_starts_look_once_and_signals_share_their_looks(
    tmp_path: Path, groups: list[Group]
) -> None:
    async with Engine(tmp_path / "x.db", definitions=[waits]) as engine:
        groups.clear()
        runs = [await engine.start(waits(n), id=f"w{n}") for n in range(100)]
        await asyncio.gather(*(run.signal(go(1)) for run in runs))
        results = await asyncio.gather(*(run.result() for run in runs))

    assert results == [n + 1 for n in range(100)]
    starts = [group.texts for group in groups if group.kinds == {StartRun}]
    kinds = ["BEGIN", "SELECT", "INSERT", "INSERT", "COMMIT"]
    assert [[text.split()[0] for text in texts] for texts in starts] == [kinds] * 100
    assert max(map(cost, groups)) <= GROUP_STATEMENTS_MAX
