"""A worker of DBOS that takes jobs from a queue."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.benchmarks.children import work_until_told
from tests.benchmarks.dbos_workloads import _MODULE, DBOS, _launch

QUEUE = _MODULE.Queue("jobs")


@DBOS.workflow()
async def job(number: int) -> int:
    return number


@contextlib.asynccontextmanager
async def working(directory: Path) -> AsyncIterator[None]:
    _launch(directory)
    try:
        yield
    finally:
        DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(work_until_told(working(Path(sys.argv[1]))))
