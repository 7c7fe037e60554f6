"""What a lock holds up comes in its order, and everything comes in the end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable.errors import StoreError
from durable.store.lease import ReleaseWorker
from durable.store.records import ReleaseRuns
from durable.store.submission import Waiter
from durable.store.threads.held_up import HeldUp, Item
from tests.sizes import examples

EVERYTHING = "everything"
RUNS = "abc"

# What an operation touches; nothing stands for everything.
touching = st.lists(st.sampled_from(RUNS), unique=True, max_size=2)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.lists(touching, min_size=1, max_size=20)),
        st.tuples(st.just("lock"), touching),
    ),
    max_size=20,
)


def ignore(result: object, error: BaseException | None) -> None:
    pass


class Thread:
    """Carries groups out as the writer does, upon rows that others lock."""

    def __init__(self) -> None:
        self.held_up = HeldUp()
        self.locked: set[str] = set()
        self.submitted: list[Any] = []
        self.done: list[Any] = []
        self.tries = 0
        self.now = 0.0

    def submit(self, groups: list[list[str]]) -> None:
        operations = [
            ReleaseRuns(run_ids=tuple(runs)) if runs else ReleaseWorker()
            for runs in groups
        ]
        self.submitted += operations
        items: list[Item] = [(operation, ignore) for operation in operations]
        items = self.held_up.admit(items, self.now)
        errors = self.carry_out(items)
        if errors:
            held = [(items[place], error) for place, error in errors.items()]
            self.held_up.hold(held, self.now, self.now)

    def carry_out(self, items: list[Item]) -> dict[int, BaseException]:
        touched = {run for one, _ in items for run in getattr(one, "run_ids", RUNS)}
        if self.locked & touched:
            return {place: StoreError("locked") for place in range(len(items))}
        self.done += [operation for operation, _ in items]
        return {}

    def go_on(self, tries_max: int) -> None:
        for _ in range(tries_max):
            due_at = self.held_up.due_at
            if due_at is None:
                return
            # The thread asks whenever it has done something else, too.
            self.now += min(0.03, max(0, due_at - self.now))
            tried = self.held_up.take(self.now)
            assert tried or due_at > self.now, "it is due, and there is nothing"
            errors = self.carry_out([entry.item for entry in tried])
            self.held_up.settle(tried, errors, self.now)
            self.tries += bool(tried)


def by_run(operations: list[Any]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for operation in operations:
        for run in (*getattr(operation, "run_ids", RUNS), EVERYTHING):
            if run != EVERYTHING or isinstance(operation, ReleaseWorker):
                found[run].append(id(operation))
    return found


@settings(max_examples=examples(500))
@given(steps)
def test_order_is_kept_and_only_what_is_locked_waits(
    drawn: list[tuple[str, list[Any]]],
) -> None:
    thread = Thread()
    for kind, what in drawn:
        if kind == "lock":
            thread.locked = set(what)
        else:
            thread.submit(what)
        thread.go_on(3)
    # What meets no lock, itself or by what it comes after, is soon through.
    thread.go_on(50 * len(thread.submitted))
    free = set(RUNS) - thread.locked
    before: set[str] = set()
    for operation in thread.submitted:
        touched = set(getattr(operation, "run_ids", RUNS))
        if touched <= free - before:
            assert any(operation is one for one in thread.done)
        else:
            before |= touched

    thread.locked = set()
    thread.go_on(50 * len(thread.submitted))

    assert not thread.held_up
    assert by_run(thread.done) == by_run(thread.submitted)


def test_one_locked_run_of_many_is_alone_after_few_tries() -> None:
    thread = Thread()
    thread.locked = {"a"}
    thread.submit([["a"], *([["b"]] * 1_000)])
    while len(thread.done) < 1_000:
        thread.go_on(1)
        assert thread.tries < 50

    assert thread.held_up


def test_what_waits_alone_is_tried_ever_less_often_and_fails_in_the_end() -> None:
    thread = Thread()
    thread.locked = {"a"}
    thread.submit([["a"], ["a"]])
    while thread.now < 30:
        assert thread.held_up.give_up(thread.now) == []
        thread.go_on(1)

    thread.now = 31
    ((_, error),) = thread.held_up.give_up(thread.now)[:1]
    assert isinstance(error, StoreError)
    assert thread.tries < 60


async def test_what_its_caller_has_given_up_is_not_tried_again() -> None:
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    held_up = HeldUp()
    waiters = [Waiter(future, may_withdraw=may) for may in (True, False)]
    items: list[Item] = [(ReleaseRuns(run_ids=("a",)), one) for one in waiters]
    held_up.hold([(item, StoreError("locked")) for item in items], 0, 0)
    future.cancel()

    assert [entry.item for entry in held_up.take(1)] == items[1:]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_who_comes_and_goes_waits_for_all_and_all_wait_for_it(place: int) -> None:
    thread = Thread()
    thread.locked = {"a"}
    groups = [["a"], ["b"], ["c"]]
    groups.insert(place, [])
    for group in groups:
        thread.submit([group])
        thread.go_on(3)

    expected = {0: [], 1: [], 2: ["b"]}[place]
    assert [one.run_ids[0] for one in thread.done] == expected
    thread.locked = set()
    thread.go_on(50)
    assert by_run(thread.done) == by_run(thread.submitted)
