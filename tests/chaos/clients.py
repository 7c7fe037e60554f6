"""The process of a client: programs and tales, so many at once.

`python -m tests.chaos.clients URL SEED INDEX CLIENTS INFLIGHT`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import sys
from pathlib import Path

from durable import Engine
from durable.errors import StoreError
from tests.chaos import ledger, operating, tales
from tests.chaos.client import Client
from tests.chaos.programs import draw


async def main(url: str, seed: int, index: int, clients: int, inflight: int) -> None:
    folder = Path(os.environ[ledger.FOLDER_VARIABLE])
    own = ledger.Ledger(folder, os.environ[ledger.NAME_VARIABLE])
    lines = ledger.read(folder)
    of_mine = [x for x in lines if x["what"] in ("begun", "done") and x["of"] == index]
    begun = [x["program"] for x in of_mine if x["what"] == "begun"]
    done = {x["program"] for x in of_mine if x["what"] == "done"}
    left = iter([number for number in begun if number not in done])
    fresh = itertools.count(max(begun, default=index - clients) + clients, clients)

    async with Engine(url, worker=False) as engine:
        client = Client(engine, lines)

        async def walk() -> None:
            while True:
                number = next(left, None)
                if number is None:
                    if (folder / ledger.QUIET).exists():
                        return
                    number = next(fresh)
                    own.write("begun", of=index, program=number)
                await asyncio.gather(
                    client.see_through(draw(seed, number)),
                    operating.Teller(client, tales.draw(seed, number)).tell(),
                )
                own.write("done", of=index, program=number)

        await asyncio.gather(*(walk() for _ in range(inflight)))


async def open_and_run(url: str, *numbers: int) -> None:
    while True:
        try:
            return await main(url, *numbers)
        except StoreError as error:
            logging.warning("The client begins again: %s", error)
            await asyncio.sleep(0.3)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(open_and_run(sys.argv[1], *map(int, sys.argv[2:])))
