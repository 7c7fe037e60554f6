"""A worker of DBOS that takes jobs from a queue."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.benchmarks.children import work_until_told
from tests.benchmarks.dbos_workloads import DBOS, launch


@DBOS.workflow()
async def job(number: int) -> int:
    return number


@contextlib.asynccontextmanager
async def working(directory: Path) -> AsyncIterator[None]:
    launch(directory)
    await DBOS.register_queue_async("jobs")
    try:
        yield
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(work_until_told(working(Path(sys.argv[1]))))
