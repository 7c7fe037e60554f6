"""The same history and the same code give the same commands, byte for byte.

Random programs meet a random outside world once; then they are cut at every workflow
task and replayed cold: in this process, in processes with other hash seeds (so other
orders of sets and other addresses), and on another Python if there is one.
"""

import sys
import uuid
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from durable.core.history.events import TERMINAL_EVENTS
from durable.testing.histories import comparable, dump_history
from durable.testing.programs.schedules import Case, drive_case
from durable.testing.replaying import replay, replay_at_every_prefix
from durable.testing.strategies import cases
from tests.properties.other_process import OtherProcess, find_other_python
from tests.sizes import examples

run_ids = st.integers(0, 2**128 - 1).map(lambda number: str(uuid.UUID(int=number)))
# A longer search: DURABLE_EXAMPLES=20000 pytest tests/properties --timeout 0. The other
# processes serve all examples of a test.
many = settings(
    max_examples=examples(150),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@many
@given(cases())
def test_programs_replay_at_every_prefix(case: Case) -> None:
    driver = drive_case(case)
    replayed = replay_at_every_prefix(driver.history)
    assert (replayed.terminal is not None) is driver.is_closed
    if replayed.result is not None:
        assert replayed.result == driver.result()


@many
@given(cases(), run_ids)
def test_programs_do_the_same_twice(case: Case, run_id: str) -> None:
    first = drive_case(case, run_id=run_id)
    second = drive_case(case, run_id=run_id)
    assert dump_history(first.history) == dump_history(second.history)


@many
@given(cases())
def test_crashes_change_nothing(case: Case) -> None:
    """Losing the live code between any two tasks leaves no trace in the history."""
    steps = [
        tuple(msgspec.structs.replace(step, crash=crash) for step in case.steps)
        for crash in (False, True)
    ]
    never, always = (drive_case(Case(case.program, some)) for some in steps)
    assert dump_history(never.history) == dump_history(always.history)


@many
@given(cases())
def test_histories_keep_their_rules(case: Case) -> None:
    history = drive_case(case).history
    assert [event.event_id for event in history] == list(range(1, len(history) + 1))
    times = [event.time for event in history]
    assert times == sorted(times)
    numbers = [event.task_number for event in history if event.task_number]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, max(numbers) + 1))
    terminal = [e for e in history if isinstance(e.attributes, TERMINAL_EVENTS)]
    assert len(terminal) <= 1
    assert not terminal or terminal[0] is history[-1]


@pytest.fixture(scope="module", params=[1, 4_242])
def other(request: pytest.FixtureRequest) -> Iterator[OtherProcess]:
    process = OtherProcess(sys.executable, hash_seed=request.param)
    yield process
    process.close()


@many
@given(case=cases(), run_id=run_ids)
def test_processes_with_other_hash_seeds_agree(
    case: Case, run_id: str, other: OtherProcess
) -> None:
    history = drive_case(case, run_id=run_id).history
    assert dump_history(other.drive(case, run_id, history)) == dump_history(history)


@pytest.fixture(scope="module")
def other_python() -> Iterator[OtherProcess]:
    python = find_other_python()
    if python is None:
        pytest.skip("no Python of another version here has msgspec")
    process = OtherProcess(python, hash_seed=7)
    yield process
    process.close()


@many
@given(case=cases(), run_id=run_ids)
def test_another_python_agrees(
    case: Case, run_id: str, other_python: OtherProcess
) -> None:
    history = drive_case(case, run_id=run_id).history
    there = other_python.drive(case, run_id, history)
    assert comparable(there) == comparable(history)
    assert replay(there).event_count == len(history)
