"""The sweeps of `crash_sweep.py` and of the programs `*_kill.py`, run as tests.

Each test visits some of the moments; all of them together visit every one, or every
so many.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.sizes import size

ROOT = Path(__file__).parents[2]
STRIDE = size("DURABLE_STRIDE", 8, 8)
"""Every so many moments of the family are visited; DURABLE_STRIDE=1 visits them all."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sweep(1),
    pytest.mark.skipif(sys.platform == "win32", reason="forks, and sends SIGKILL"),
]


@dataclass(frozen=True)
class Swept:
    """What a sweep tells of itself."""

    moments: int
    tried: int
    crashed: int
    undoing: int = 0


def shards(count: int) -> pytest.MarkDecorator:
    """So many tests share the moments; each is one that a minute is enough for."""
    return pytest.mark.parametrize("shard", [(i, count) for i in range(count)], ids=str)


def sweep(*words: str, shard: tuple[int, int], stride: int = 1) -> Swept:
    """Visit every `stride`-th moment, of these the share of one shard."""
    index, count = shard
    first, step_size = 1 + index * stride, count * stride
    done = subprocess.run(
        [sys.executable, "-m", *words, str(first), str(step_size)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 wrong" in done.stdout
    swept = Swept(*map(int, re.findall(r"(\d+) (?!wrong)", done.stdout)))
    assert swept.tried == len(range(first, swept.moments + 1, step_size))
    return swept


@shards(60)
def test_a4_a_kill_at_any_statement_loses_and_repeats_nothing(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.crash_sweep", "reference", shard=shard)
    assert swept.moments >= 300  # or the sweep has gone blind
    # Grouping differs from run to run, so the very last moments may not come.
    assert swept.crashed >= int(swept.tried * 0.9)


@pytest.mark.timeout(max(60, 960 // STRIDE))
@shards(24)
def test_a_kill_at_any_statement_of_a_family_loses_and_repeats_nothing(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.crash_sweep", "family", shard=shard, stride=STRIDE)
    assert swept.moments >= 600
    assert swept.crashed >= int(swept.tried * 0.9)


@shards(36)
def test_a_kill_at_any_statement_loses_no_call_and_repeats_none(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.entity_kill", shard=shard, stride=2)
    assert swept.moments >= 150
    # What comes together shares a commit, so runs differ by some statements.
    assert swept.crashed >= int(swept.tried * 0.8)


@shards(48)
def test_a_kill_at_any_statement_leaves_one_run_for_each_time_of_a_schedule(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.schedule_kill", shard=shard, stride=2)
    assert swept.moments >= 300
    # What comes together shares a commit, so runs differ by some statements.
    assert swept.crashed >= int(swept.tried * 0.7)


@shards(24)
def test_a_kill_at_any_statement_of_a_reset_leaves_all_of_it_or_nothing(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.reset_kill", shard=shard, stride=2)
    assert swept.moments >= 100


@shards(8)
def test_a_sweep_of_closed_runs_that_is_killed_leaves_them_whole_or_gone(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.retention_kill", shard=shard, stride=2)
    assert swept.moments >= 150
    assert swept.crashed >= int(swept.tried * 0.9)


@shards(8)
def test_a_sweep_into_an_archive_that_is_killed_loses_no_run(
    shard: tuple[int, int],
) -> None:
    words = ("tests.integration.retention_kill", "archived")
    swept = sweep(*words, shard=shard, stride=2)
    assert swept.moments >= 200
    assert swept.crashed >= int(swept.tried * 0.9)


@shards(40)
def test_a_kill_at_any_statement_of_a_batch_loses_and_repeats_nothing(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.batch_kill", shard=shard, stride=2)
    assert swept.moments >= 300
    # What comes together shares a commit, so runs differ by some statements.
    assert swept.crashed >= int(swept.tried * 0.7)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", ["schedules", "batches"])
@shards(40)
def test_a_kill_at_any_write_leaves_the_other_worker_of_a_postgresql_to_go_on(
    shard: tuple[int, int], scenario: str, postgres_url: str
) -> None:
    sweep_operating(scenario, postgres_url, shard)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("scenario", ["schedules", "batches"])
@shards(40)
def test_a_kill_at_any_write_leaves_the_other_worker_of_a_mariadb_to_go_on(
    shard: tuple[int, int], scenario: str, mariadb_url: str
) -> None:
    sweep_operating(scenario, mariadb_url, shard)


def sweep_operating(scenario: str, url: str, shard: tuple[int, int]) -> None:
    words = ("tests.integration.operating_kill", scenario, url)
    swept = sweep(*words, shard=shard)
    assert swept.moments >= 30
    # The other worker may do the rest before a late moment comes.
    assert swept.crashed or shard[0] > 10


@shards(10)
def test_a_saga_that_is_killed_in_the_middle_of_undoing_undoes_the_rest(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.saga_kill", shard=shard, stride=3)
    assert swept.moments >= 180
    assert swept.crashed >= int(swept.tried * 0.9)
    assert swept.undoing >= 1


@shards(40)
def test_a_kill_at_any_statement_leaves_an_order_and_its_run_or_neither(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.outbox_kill", "orders", shard=shard, stride=2)
    assert swept.moments >= 300
    # What comes together shares a commit, so runs differ by some statements.
    assert swept.crashed >= int(swept.tried * 0.7)


@shards(30)
def test_a_kill_after_each_of_a_hundred_messages_of_one_commit_loses_none(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.outbox_kill", "messages", shard=shard, stride=2)
    assert swept.moments >= 200
    assert swept.crashed >= int(swept.tried * 0.7)


@shards(40)
def test_a_kill_at_any_statement_leaves_a_row_and_its_result_or_neither(
    shard: tuple[int, int],
) -> None:
    swept = sweep("tests.integration.transaction_kill", shard=shard)
    assert swept.moments >= 150
    # What comes together shares a commit, so runs differ by some statements.
    assert swept.crashed >= int(swept.tried * 0.7)
