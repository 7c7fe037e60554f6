"""The store's time never falls, and does not stand still while the clock is behind."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.store.steady_clock import SteadyClock

DAY = 86_400_000_000


class Machine:
    """A clock that is set, and one that nobody sets."""

    def __init__(self) -> None:
        self.time = 10 * DAY
        self.passed = 0

    def now(self) -> int:
        return self.time

    def monotonic_ns(self) -> int:
        return self.passed * 1_000

    def wait(self, microseconds: int) -> None:
        self.time += microseconds
        self.passed += microseconds


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2 * DAY),
            st.one_of(st.just(0), st.integers(-2 * DAY, 2 * DAY)),
        )
    )
)
def test_it_never_falls_and_never_stands_still(
    steps: list[tuple[int, int]],
) -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    before = clock.now()
    for waited, change in steps:
        machine.wait(waited)
        machine.time += change
        now = clock.now()
        assert now >= before + waited or now == machine.time
        assert now >= max(before, machine.time)
        assert clock.read() == machine.time
        before = now


@pytest.mark.parametrize("behind", [1_000_000, 30_000_000, DAY])
def test_it_goes_on_at_its_pace_until_the_clock_has_caught_up(behind: int) -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    before = clock.now()
    machine.time -= behind
    for waited in (0, 1, 500_000, 3):
        machine.wait(waited)
        before += waited
        assert clock.now() == before
    machine.time += 2 * behind
    assert clock.now() == machine.time


def test_it_warns_once_of_each_time_that_the_clock_is_set_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    clock.now()
    with caplog.at_level(logging.WARNING, "durable.store"):
        machine.time -= 999_999  # a time server's correction
        clock.now()
        assert not caplog.records
        for _ in range(2):
            machine.time -= 30_000_000
            for _ in range(3):
                machine.wait(100)
                clock.now()
            machine.time += DAY
            clock.now()
    first, second = (record.getMessage() for record in caplog.records)
    assert "set back by 31.0 s" in first
    assert "set back by" in second


def test_it_warns_again_only_of_another_step(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    clock.now()
    with caplog.at_level(logging.WARNING, "durable.store"):
        for _ in range(3):
            machine.wait(DAY)
            clock.now()
            assert not caplog.records
        machine.time -= 30_000_000
        for _ in range(3):
            machine.wait(1_000)
            clock.now()
    assert len(caplog.records) == 1


def test_a_step_back_between_two_looks_is_seen() -> None:
    machine = Machine()
    clock = SteadyClock(machine)
    before = clock.now()
    machine.wait(60_000_000)
    machine.time -= 30_000_000
    assert clock.now() == before + 60_000_000


def test_a_clock_without_a_pace_of_its_own_may_stand_still() -> None:
    class Told:
        time = 10 * DAY

        def now(self) -> int:
            return self.time

    told = Told()
    clock = SteadyClock(told)
    passed = Machine()
    clock._pace = passed.monotonic_ns
    for _ in range(3):
        passed.wait(DAY)
        assert clock.now() == 10 * DAY
    told.time -= 5
    for days in (11, 12):
        passed.wait(DAY)
        assert clock.now() == days * DAY
    told.time += 5 * DAY
    for _ in range(2):
        assert clock.now() == told.time
        passed.wait(DAY)
