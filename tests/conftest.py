"""What every test shares: hypothesis, shares of long searches, and how to repeat."""

from __future__ import annotations

import compileall
import faulthandler
import os
import random
import shlex
import signal
import sys
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from tests.machine_tables import checked, violations
from tests.sizes import IS_ALL, NAMES, share

# Each run draws new examples from the seed that its first lines tell. A deadline per
# example would measure the machine and not the code, and so would the check for those
# that are slow to draw.
settings.register_profile(
    "default",
    derandomize=False,
    print_blob=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
# A fresh clone has no database of earlier failures, and leaves none behind.
settings.register_profile("ci", settings.get_profile("default"), database=None)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# What ends a test that hangs is meant for one case; a property is a hundred of them.
PROPERTY_SECONDS_MAX = 180

# A job in the background ignores Ctrl-C, and so would every process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything imports it: the contract suites of the testing kit assert, too.
pytest.register_assert_rewrite("durable.testing")

# What is compiled up to the end of the collection is kept for the hundreds of processes
# that tests start. Nothing later is: a program that a test writes anew within a second
# would be taken for the old one.
sys.dont_write_bytecode = False
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

pytest_plugins = ["tests.server_fixtures"]

END_SECONDS = 150
"""From the beginning of the last test of a process to its end, which is 60 s for it."""
HYPOTHESIS_SEED = "hypothesis_seed"
"""Where the option `--hypothesis-seed` is kept."""


@pytest.hookimpl(tryfirst=True)  # before hypothesis looks
def pytest_configure(config: pytest.Config) -> None:
    """One seed for all properties of all workers of this run."""
    seed = config.getoption(HYPOTHESIS_SEED)
    if hasattr(config, "workerinput"):
        seed = config.workerinput[HYPOTHESIS_SEED]
    else:
        seed = seed or str(random.getrandbits(32))
        for folder in ("durable", "migrations"):
            compileall.compile_dir(config.rootpath / folder, quiet=2)
    setattr(config.option, HYPOTHESIS_SEED, seed)


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Three for two cores: a third of the time a test waits for others."""
    return (os.cpu_count() or 1) * 3 // 2 or 1


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_configure_node(node: Any) -> None:
    node.workerinput[HYPOTHESIS_SEED] = node.config.getoption(HYPOTHESIS_SEED)


def pytest_sessionstart() -> None:
    """Every run of every engine in this process keeps to the tables of the machine."""
    from durable.runs import machine

    setattr(machine, "handle", checked(machine.handle))  # noqa: B010 - it is no method


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    """A process that does not end after its last test says where it is, and ends."""
    if nextitem is None:
        faulthandler.dump_traceback_later(END_SECONDS, exit=True, file=2)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    try:
        yield
    finally:
        _fail_for_violations()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    try:
        yield
    finally:
        _fail_for_violations()


def _fail_for_violations() -> None:
    if violations:
        found = "\n".join(violations)
        violations.clear()
        pytest.fail(found, pytrace=False)


def pytest_report_header(config: pytest.Config) -> str:
    return f"seed of all properties: {config.getoption(HYPOTHESIS_SEED)}"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    left_out = _beyond_the_share(config, items)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]
    if hasattr(config, "workerinput"):  # the long ones first, so that none comes alone
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        found = getattr(item, "obj", None)
        if is_hypothesis_test(found) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(PROPERTY_SECONDS_MAX))


def pytest_collection_finish() -> None:
    sys.dont_write_bytecode = True


def _beyond_the_share(
    config: pytest.Config, items: list[pytest.Item]
) -> set[pytest.Item]:
    """The cases of sweeps that this run has no time for.

    In a short run `sweep(n)` keeps n cases of each test, at equal distances;
    `sweep(n, of_class=True)` n tests of a class or module. Where all are to be tried in
    parts, a part of them is kept, and no fewer than that. What the command line names
    by `::` is meant as it is.
    """
    which, parts = share()
    if (IS_ALL and parts == 1) or any("::" in word for word in config.args):
        return set()
    sweeps: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if marker := item.get_closest_marker("sweep"):
            sweep = item.nodeid.partition("[")[0]
            if marker.kwargs.get("of_class"):
                sweep = sweep.rpartition("::")[0]
            sweeps[sweep].append(item)
    left_out: set[pytest.Item] = set()
    for cases in sweeps.values():
        marker = cases[0].get_closest_marker("sweep")
        assert marker is not None
        (count,) = marker.args
        if IS_ALL:
            count = max(count, -(-len(cases) // parts))
        kept = {
            (index * len(cases) // count + which) % len(cases) for index in range(count)
        }
        left_out.update(case for i, case in enumerate(cases) if i not in kept)
    return left_out


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("Once more", _repetition(item)))
    return report


def _repetition(item: pytest.Item) -> str:
    """The command that runs this test again, as it was run."""
    sizes = [f"{name}={os.environ[name]}" for name in NAMES if name in os.environ]
    python = Path(sys.executable)
    if python.is_relative_to(item.config.rootpath):
        python = python.relative_to(item.config.rootpath)
    words = [
        str(python),
        *("-m", "pytest", item.nodeid),
        f"--hypothesis-seed={item.config.getoption(HYPOTHESIS_SEED)}",
    ]
    return shlex.join([*sizes, *words])
