"""Records a run that passes sets of texts on, or replays it: in a process of its own.

The order of such a set is another one in each process.
"""

import sys
from pathlib import Path

from durable import Signal, activity, set_state, set_update_handler, workflow
from durable.testing import Driver, dump_history, replay_at_every_prefix

WORDS = frozenset(f"word {number}" for number in range(20))
more = Signal("more", frozenset[str])


@activity(retry=None)
async def count(words: frozenset[str]) -> int:
    return len(words)


@workflow
async def child(words: dict[str, set[str]]) -> int:
    return len(words)


@workflow
async def passing() -> tuple[frozenset[str], list[set[str]]]:
    set_update_handler("all", _all)
    await count(WORDS)
    await child({"words": {*WORDS}})
    set_state({*WORDS})
    await more.receive()
    return WORDS, [{*WORDS}]


def _all() -> frozenset[str]:
    return WORDS


def main(task: str, path: Path) -> None:
    if task == "replay":
        replay_at_every_prefix(path)
        return
    driver = Driver(passing())
    driver.start()
    driver.complete(driver.pending[0], 20)
    driver.turn(driver.children[0].completed(1))
    driver.update("all")
    driver.signal(more(WORDS))
    assert driver.is_closed
    path.write_text(dump_history(driver.history))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
