"""A young database, of which the server knows nothing yet, is as quick as an old one.

Until PostgreSQL has analyzed a table, which it does once a minute, it guesses: then it
walked all runs for each that was started.
"""

from __future__ import annotations

import asyncio

import pytest

from durable.store.connect import connect
from durable.store.queries import FindRun
from durable.testing.contract.rows import make_start
from tests.servers import PostgresDatabases

RUNS = 600
AT_ONCE = 100
# Of each run a few rows are looked at; and all, together, once for a group.
ROWS_MAX = 60 * RUNS


@pytest.mark.parametrize("is_analyzed", [False, True])
async def test_starts_walk_no_other_runs(
    postgres_server: PostgresDatabases, postgres_url: str, *, is_analyzed: bool
) -> None:
    database = postgres_url.rpartition("/")[2]
    store = connect(postgres_url)
    await store.open()
    for number in range(10):  # from here on statements are prepared, and planned
        await store.perform(make_start(f"first{number}"))
    if is_analyzed:  # when it was small, and still is for all that the server knows
        postgres_server.execute("VACUUM ANALYZE", database)
        for number in range(10):
            await store.perform(make_start(f"planned{number}"))

    for start in range(0, RUNS, AT_ONCE):
        names = [f"r{number}" for number in range(start, start + AT_ONCE)]
        await asyncio.gather(*[store.perform(make_start(name)) for name in names])
        await asyncio.gather(*[store.read(FindRun("default", name)) for name in names])

    await store.close()  # at which its sessions tell what they have counted
    walked: dict[str, int] = dict(
        postgres_server.execute(
            "SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes"
            " WHERE relname = 'durable_runs' UNION ALL SELECT relname, seq_tup_read"
            " FROM pg_stat_user_tables WHERE relname = 'durable_runs'",
            database,
        )
    )
    assert 0 < sum(walked.values()) < ROWS_MAX, str(walked)
