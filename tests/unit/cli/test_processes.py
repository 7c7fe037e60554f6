"""How many processes make sense, how they are begun, and when they are begun again."""

import math
import os
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from durable import limits
from durable.cli.main import cli
from durable.cli.processes.supervisor import Pauses, command_of, describe_end
from durable.worker.activities.processes.cores import usable_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), False)


@pytest.mark.usefixtures("many_cores")
def test_without_control_groups_affinity_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert usable_cores(tmp_path) == 16

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)

    assert usable_cores(tmp_path) == 1


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 16),
        ("400000 100000", 4),
        ("150000 100000", 2),
        ("10000 100000", 1),
        ("6400000 100000", 16),
        ("", 16),
        ("nonsense", 16),
        ("0 0", 16),
    ],
)
def test_limit_of_a_control_group_counts(
    tmp_path: Path, limit: str, cores: int
) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/")
    write(tmp_path / "sys/fs/cgroup/cpu.max", limit)

    assert usable_cores(tmp_path) == cores


@pytest.mark.usefixtures("many_cores")
def test_narrowest_of_nested_groups_counts(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/system.slice/orders.service")
    mount = tmp_path / "sys/fs/cgroup"
    write(mount / "system.slice/orders.service/cpu.max", "800000 100000")
    assert usable_cores(tmp_path) == 8

    write(mount / "system.slice/cpu.max", "300000 100000")

    assert usable_cores(tmp_path) == 3


@pytest.mark.usefixtures("many_cores")
@pytest.mark.parametrize("path", ["/", "/docker/4711"])
def test_first_version_of_control_groups_counts(tmp_path: Path, path: str) -> None:
    write(tmp_path / "proc/self/cgroup", f"5:cpuset:/\n4:cpu,cpuacct:{path}\n0::/")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "250000")
    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")

    assert usable_cores(tmp_path) == 3

    write(tmp_path / "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    assert usable_cores(tmp_path) == 16


def test_pauses_double_until_a_process_was_well() -> None:
    pauses = Pauses()

    assert [pauses.after(0.1) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert pauses.after(59.9) == 30
    assert [pauses.after(60), pauses.after(0.1)] == [1, 2]
    assert pauses.after(math.inf) == 1


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (0, "with exit code 0"),
        (7, "with exit code 7"),
        (-signal.SIGKILL, "by SIGKILL"),
        (-99, "by signal 99"),
    ],
)
def test_ends_are_told_in_words(code: int, text: str) -> None:
    assert describe_end(code) == text


def test_further_process_finds_the_modules_that_this_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["error"])
    monkeypatch.setattr(sys, "path", ["/elsewhere"])
    assert command_of(["list"]) == [
        sys.executable, "-P", "-Werror", "-m", "durable", "list",
    ]  # fmt: skip

    monkeypatch.setattr(sys, "path", [os.getcwd()])

    assert "-P" not in command_of(["list"])


@pytest.mark.parametrize("count", ["0", "-1", "257", "many", "1.5", ""])
def test_number_of_processes_that_is_none_is_refused(count: str) -> None:
    assert limits.WORKER_PROCESSES_MAX == 256

    done = CliRunner().invoke(
        cli, ["worker", "app", "--database", "x.db", f"--processes={count}"]
    )

    assert done.exit_code == 2
    assert f"{count!r} is neither 'auto' nor a number from 1 to 256" in done.stderr
