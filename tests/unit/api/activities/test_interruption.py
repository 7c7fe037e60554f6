"""How a function in a thread is interrupted: once, where it is, and nowhere else."""

from __future__ import annotations

import asyncio
import ctypes
import functools
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

import pytest

from durable.api.activities.interruption import ActivityCancelledError, Interruption

SECONDS = 10.0


class Running:
    """A function that runs in a thread, interruptible."""

    def __init__(self, function: Callable[[], object]) -> None:
        self.interruption = Interruption()
        self.result: object = None
        self.error: BaseException | None = None
        self.after: BaseException | None = None
        self.thread = threading.Thread(target=self._run, args=(function,), daemon=True)

    def _run(self, function: Callable[[], object]) -> None:
        try:
            self.result = self.interruption.run(function)
        except BaseException as error:  # noqa: BLE001 - the test
            self.error = error
        try:  # innocent code, which nothing may hit
            sum(len(str(number)) for number in range(2_000))
        except BaseException as error:  # noqa: BLE001 - the test
            self.after = error

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()
        assert self.after is None


def wait_for(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends_at


def compute_for_ever() -> None:
    while True:
        sum(range(100))


def test_function_is_interrupted_where_it_is_and_except_exception_lets_it_pass() -> (
    None
):
    begun, swallowed = threading.Event(), threading.Event()

    def compute() -> None:
        begun.set()
        while True:
            try:
                sum(range(100))
            except Exception:  # noqa: BLE001 - the test
                swallowed.set()

    running = Running(compute)
    with running:
        begun.wait(SECONDS)
        running.interruption.insist()
    assert isinstance(running.error, asyncio.CancelledError)
    assert str(running.error) == "the activity was asked to stop"
    assert not swallowed.is_set()


def test_function_that_has_not_begun_is_not_called() -> None:
    calls: list[int] = []
    interruption = Interruption()
    assert interruption.request()
    with pytest.raises(ActivityCancelledError):
        interruption.run(lambda: calls.append(1))
    assert calls == []


def test_it_is_raised_once_so_that_cleaning_up_is_not_disturbed() -> None:
    begun, cleaned = threading.Event(), threading.Event()

    def compute() -> str:
        try:
            begun.set()
            compute_for_ever()
        except asyncio.CancelledError:
            for _ in range(3):
                sum(range(10_000))
            cleaned.set()
        return "cleaned"

    running = Running(compute)
    with running:
        begun.wait(SECONDS)
        running.interruption.insist()
        cleaned.wait(SECONDS)
        running.interruption.insist()
    assert running.result == "cleaned"


@pytest.mark.parametrize("depth", [1, 3])
def test_shield_puts_it_off_until_the_outermost_is_left_even_by_a_return(
    depth: int,
) -> None:
    begun, go_on, seen = threading.Event(), threading.Event(), list[str]()

    def shielded(left: int) -> str:
        with running.interruption:
            if left > 1:
                shielded(left - 1)
                seen.append("inner left")
            else:
                begun.set()
                wait_for(go_on.is_set)
                seen.append("done")
            return "returned"

    running = Running(lambda: shielded(depth))
    with running:
        begun.wait(SECONDS)
        assert running.interruption.request()  # nothing to be asked again for
        go_on.set()
    assert isinstance(running.error, ActivityCancelledError)
    assert seen == ["done", *["inner left"] * (depth - 1)]


def test_shield_that_is_left_by_an_exception_keeps_that_as_the_context() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fail() -> None:
        with running.interruption:
            begun.set()
            wait_for(go_on.is_set)
            raise ValueError("first")

    running = Running(fail)
    with running:
        begun.wait(SECONDS)
        running.interruption.request()
        go_on.set()
    assert isinstance(running.error, ActivityCancelledError)
    assert isinstance(running.error.__context__, ValueError)


def test_shield_of_another_thread_does_not_count() -> None:
    begun = threading.Event()

    def compute() -> None:
        begun.set()
        compute_for_ever()

    running = Running(compute)
    with running:
        begun.wait(SECONDS)
        with running.interruption:
            running.interruption.insist()
            running.thread.join(SECONDS)
    assert isinstance(running.error, ActivityCancelledError)


def test_nothing_is_raised_where_other_threads_would_be_left_with_a_lock() -> None:
    """A lock of the standard library must not be left held"""
    waiting: queue.Queue[int] = queue.Queue()
    begun = threading.Event()

    def wait() -> int:
        begun.set()
        return waiting.get()

    running = Running(wait)
    with running:
        begun.wait(SECONDS)
        wait_for(lambda: waiting.not_empty._waiters.__len__() == 1)  # type: ignore[attr-defined]  # it is in there
        assert not running.interruption.request()
        running.interruption.insist()
        waiting.put(1)
    assert running.result == 1 or isinstance(running.error, ActivityCancelledError)


def test_nothing_is_raised_in_what_its_thread_does_after_it() -> None:
    interruption, hit = Interruption(), list[BaseException]()
    has_ended, go_on = list[int](), list[int]()

    def serve() -> None:
        assert interruption.run(lambda: 5) == 5
        try:
            has_ended.append(1)
            while not go_on:
                pass
        except BaseException as error:  # noqa: BLE001 - the test
            hit.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    wait_for(lambda: bool(has_ended))
    assert interruption.request()  # there is nothing to be asked again for
    go_on.append(1)
    thread.join(SECONDS)
    assert hit == []


def test_result_of_a_function_that_has_returned_is_kept_though_it_was_sent() -> None:
    interruption = Interruption()
    # What is sent at the end of a C function is raised when that has returned.
    send = functools.partial(
        ctypes.pythonapi.PyThreadState_SetAsyncExc,
        ctypes.c_ulong(threading.get_ident()),
        ctypes.py_object(ActivityCancelledError),
    )
    assert interruption.run(send) == 1


def test_stop_iteration_of_a_function_is_no_end_of_an_iteration() -> None:
    def stop() -> Any:
        raise StopIteration(3)

    with pytest.raises(RuntimeError, match="activity raised StopIteration"):
        Interruption().run(stop)


@pytest.mark.slow
def test_function_that_ends_as_it_is_interrupted_keeps_its_result_or_is_stopped(
    request: pytest.FixtureRequest,
) -> None:
    """Never later, and never lost."""
    ended: list[bool] = []
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    request.addfinalizer(lambda: sys.setswitchinterval(before))

    def work(calls: queue.SimpleQueue[Running | None]) -> None:
        while (running := calls.get()) is not None:
            running._run(lambda: sum(range(300)))

    calls: queue.SimpleQueue[Running | None] = queue.SimpleQueue()
    thread = threading.Thread(target=work, args=(calls,), daemon=True)
    thread.start()
    ran: list[Running] = []
    for round in range(500):
        running = Running(compute_for_ever)
        ran.append(running)
        calls.put(running)
        for _ in range(round % 50):
            pass
        running.interruption.insist()
        wait_for(lambda each=running: each.result is not None or each.error is not None)  # type: ignore[misc]  # of this turn
        ended.append(running.error is not None)
    calls.put(None)
    thread.join(SECONDS)
    assert not thread.is_alive()  # it has served all, one after the other
    for running in ran:
        assert running.after is None
        assert running.result == 44_850 or isinstance(
            running.error, ActivityCancelledError
        )
    assert any(ended)
