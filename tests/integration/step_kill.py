"""A worker whose steps leave a line each; it dies by SIGKILL in the middle of one.

`python step_kill.py DATABASE LOG NUMBER`: within the body that begins as the NUMBERth.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from durable import Engine, activity_info, sleep, step, workflow

PLACE: list[Any] = [Path("/dev/null"), 0]


@workflow(name="step_kill.run")
async def run(word: str) -> list[str]:
    def body(n: int) -> Callable[[], Coroutine[Any, Any, str]]:
        async def note() -> str:
            log, at = PLACE
            with log.open("a") as file:
                file.write(f"{n} {activity_info().attempt}\n")
            if len(log.read_text().splitlines()) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return f"{word} {n}"

        return note

    found = [await step("first", body(0), key=[word, 0])]
    calls = [step("fan", body(n), key=[word, n]) for n in (1, 2)]
    found += await asyncio.gather(*calls)
    await sleep(0.01)
    return [*found, await step("last", body(3), key=[word, 3])]


async def main(database: str, log: str, number: str) -> None:
    PLACE[:] = Path(log), int(number)
    async with Engine(database, definitions=[run]) as engine:
        await (await engine.start(run("done"), id="w")).result()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
