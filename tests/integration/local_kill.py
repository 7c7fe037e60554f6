"""A worker whose local activities leave a line each; it dies by SIGKILL at one of them.

`python local_kill.py DATABASE LOG NUMBER WHEN`: as the NUMBERth line is written, or in
the loop's next round "after" that. A line's place in the log is what its activity
returns, so no two runs of one give the same.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from durable import Engine, activity, sleep, start_child, workflow

PLACE: list[Any] = [Path("/dev/null"), 0, "in"]
SPANS = ((0, 1, 2), (3, 4, 5), (6,), (7, 8))
"""The local activities between two things that anybody sees."""


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(line: str) -> int:
    """Write a line; return how many there are."""
    log, at, when = PLACE
    with log.open("a") as file:
        file.write(f"{line}\n")
    count = len(log.read_text().splitlines())
    if count == at and when == "in":
        _die()
    if count == at:
        asyncio.get_running_loop().call_soon(_die)
    return count


@activity(name="local_kill.mark", local=True)
async def mark(n: int) -> int:
    return leave(f"mark {n}")


@activity(name="local_kill.show")
async def show(what: str, found: list[int]) -> int:
    return leave(f"{what} {found}")


@workflow(name="local_kill.child")
async def child(found: list[int]) -> None:
    await show("child", found)


@workflow(name="local_kill.run")
async def run() -> list[list[int]]:
    first = [await mark(n) for n in SPANS[0]]
    await show("activity", first)
    second = [await mark(n) for n in SPANS[1]]
    await (await start_child(child(second)))
    third = [await mark(n) for n in SPANS[2]]
    await sleep(0.01)
    fourth = await asyncio.gather(*(mark(n) for n in SPANS[3]))
    return [first, second, third, list(fourth)]


async def main(database: str, log: str, number: str, when: str) -> None:
    PLACE[:] = Path(log), int(number), when
    async with Engine(database, definitions=[run, child, mark, show]) as engine:
        await (await engine.start(run(), id="w")).result()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
