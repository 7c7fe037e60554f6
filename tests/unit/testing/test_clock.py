"""Virtual time: exact, without waiting, and never while something is under way."""

import asyncio
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from durable.errors import InvalidDurationError, InvalidOptionError
from durable.testing.clock import VirtualClock, VirtualTime


class Virtual:
    """The running loop in virtual time, for the length of a block."""

    def __init__(self, is_housekeeping: Callable[[object], bool] | None = None) -> None:
        self.is_housekeeping = is_housekeeping or (lambda _: False)

    async def __aenter__(self) -> VirtualTime:
        self.time = VirtualTime.on(
            asyncio.get_running_loop(),
            clock=VirtualClock(),
            is_housekeeping=self.is_housekeeping,
        )
        return self.time

    async def __aexit__(self, *_: object) -> None:
        self.time.off()


async def test_sleeping_costs_nothing_and_ends_on_the_microsecond() -> None:
    # Slept for really, it would take longer than a test may.
    async with Virtual() as virtual:
        start = virtual.clock.now()
        for seconds in (0.000001, 0.1, 1 / 3, 86_400, 86_400 * 365.25 * 10, 1e-6):
            before = virtual.clock.now()
            await asyncio.sleep(seconds)
            assert virtual.clock.now() - before == round(seconds * 1_000_000)
        assert virtual.clock.now() > start


async def test_timers_run_in_order_and_only_when_due() -> None:
    async with Virtual() as virtual:
        seen: list[tuple[str, int]] = []
        start = virtual.clock.now()
        loop = asyncio.get_running_loop()

        def note(name: str) -> None:
            seen.append((name, (virtual.clock.now() - start) // 1_000_000))

        for name, delay in (("c", 30), ("a", 10), ("b", 10), ("d", 40)):
            loop.call_later(delay, note, name)
        loop.call_later(20, note, "never").cancel()
        await asyncio.sleep(35)
        assert seen == [("a", 10), ("b", 10), ("c", 30)]


async def test_timeouts_are_virtual_too() -> None:
    async with Virtual():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3_600):
                await asyncio.Event().wait()


async def test_time_stands_still_while_a_thread_works() -> None:
    release = threading.Event()
    async with Virtual() as virtual:
        before = virtual.clock.now()
        sleeping = asyncio.ensure_future(asyncio.sleep(5))
        working = asyncio.ensure_future(asyncio.to_thread(release.wait, 10))
        threading.Timer(0.05, release.set).start()
        await working
        assert virtual.clock.now() == before
        await sleeping
        assert virtual.clock.now() == before + 5_000_000


async def test_an_answer_from_a_socket_comes_before_the_jump() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        loop = asyncio.get_running_loop()
        async with Virtual() as virtual:
            before = virtual.clock.now()
            reading = asyncio.ensure_future(loop.sock_recv(left, 5))
            await asyncio.sleep(0)
            right.send(b"hello")
            async with asyncio.timeout(60):
                assert await reading == b"hello"
            assert virtual.clock.now() == before


async def test_time_passes_though_a_socket_stays_open() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        loop = asyncio.get_running_loop()
        async with Virtual():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(loop.sock_recv(left, 5), 60)


async def test_chores_never_make_the_clock_jump_but_run_once_it_has() -> None:
    seen: list[str] = []

    def chore() -> None:
        seen.append("chore")
        asyncio.get_running_loop().call_later(5, chore)

    async with Virtual(lambda callback: callback is chore) as virtual:
        asyncio.get_running_loop().call_later(5, chore)
        before = virtual.clock.now()
        await asyncio.sleep(1_000_000)
        assert virtual.clock.now() == before + 1_000_000_000_000
        assert seen == ["chore"]


async def test_a_stall_is_told_once() -> None:
    told: list[int] = []
    cancelled: list[bool] = []
    async with Virtual() as virtual:
        task = asyncio.current_task()
        assert task is not None
        virtual.on_stall.append(lambda: told.append(1))
        virtual.on_stall.append(lambda: cancelled.append(task.cancel()))
        with pytest.raises(asyncio.CancelledError):
            await asyncio.Event().wait()
        task.uncancel()
    assert (told, cancelled) == ([1], [True])


async def test_settling_waits_for_the_present_and_not_longer() -> None:
    async with Virtual() as virtual:
        seen: list[int] = []

        async def work() -> None:
            for number in range(50):
                await asyncio.sleep(0)
                seen.append(number)
            await asyncio.sleep(1)
            seen.append(-1)

        working = asyncio.ensure_future(work())
        before = virtual.clock.now()
        await virtual.settle()
        assert (len(seen), virtual.clock.now()) == (50, before)
        await working


async def test_the_loop_is_as_before_afterwards() -> None:
    loop = asyncio.get_running_loop()
    now, selector = loop.time(), loop._selector  # type: ignore[attr-defined]  # what is replaced
    async with Virtual():
        await asyncio.sleep(1_000)
    assert now <= loop.time() < now + 10
    assert loop._selector is selector  # type: ignore[attr-defined]  # as above
    assert "time" not in vars(loop)
    assert "call_at" not in vars(loop)


async def test_one_loop_has_one_clock() -> None:
    loop = asyncio.get_running_loop()
    async with Virtual() as virtual:
        with pytest.raises(InvalidOptionError, match="another virtual clock"):
            VirtualTime.on(loop, clock=VirtualClock(), is_housekeeping=bool)
        same = VirtualTime.on(loop, clock=None, is_housekeeping=bool)
        assert same is virtual
        same.off()
        await asyncio.sleep(100)  # the outer user still has virtual time


def test_another_kind_of_loop_is_refused() -> None:
    class Odd(asyncio.AbstractEventLoop):
        pass

    with pytest.raises(InvalidOptionError, match="selector"):
        VirtualTime.on(Odd(), clock=None, is_housekeeping=bool)  # type: ignore[abstract]  # the fault under test


def test_clock_moves_as_told() -> None:
    clock = VirtualClock(datetime(2030, 1, 1, tzinfo=UTC))
    assert clock.datetime() == datetime(2030, 1, 1, tzinfo=UTC)
    clock.advance("1d")
    assert clock.datetime() == datetime(2030, 1, 2, tzinfo=UTC)
    instant = clock.now()
    clock.advance_to(instant - 5)
    assert clock.now() == instant
    clock.set_back(1)
    assert clock.now() == instant - 1_000_000
    with pytest.raises(InvalidDurationError):
        clock.advance(-1)
    with pytest.raises(ValueError, match="naive"):
        VirtualClock(datetime(2030, 1, 1))  # noqa: DTZ001 - the fault under test
