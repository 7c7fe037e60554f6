"""What all stores do alike on their way in: refusals, and waiting for an outcome."""

from __future__ import annotations

import asyncio
import enum
import os
from typing import TYPE_CHECKING, Any, Final

from durable.core.loop.collector import call_uncollected
from durable.errors import EngineClosedError, InternalError
from durable.store.records import PutMessage, StartRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from durable.store.deciding.decide import Outcomes
    from durable.store.store import Outcome


class _State(enum.Enum):
    NEW = "was never opened"
    OPENING = "is being opened"
    OPEN = "is open"
    CLOSED = "is closed"


_OPEN: Final = _State.OPEN  # on Python 3.11 reading a member is a call
_ASKED_FOR: Final = frozenset({StartRun, PutMessage})


class Admission:
    """Says whether a store may be used now, here: open, and not a forked copy."""

    def __init__(self, name: str) -> None:
        """Speak of the store as `name`, which holds no password."""
        self.name = name
        self._state = _State.NEW
        self._process_id = 0

    def begin_opening(self) -> None:
        """Note that the store is being opened.

        Raises:
            InternalError: it is open, or being opened.
        """
        if self._state in (_State.OPENING, _State.OPEN) and not self.is_forked:
            raise InternalError(f"The store {self.name} {self._state.value} already.")
        self._state = _State.OPENING
        self._process_id = os.getpid()

    def open(self) -> None:
        """Let calls in, in this process."""
        self._state = _State.OPEN

    def close(self) -> None:
        """Refuse calls from now on."""
        self._state = _State.CLOSED

    @property
    def is_forked(self) -> bool:
        """Whether the store was opened by the process this one was forked from."""
        is_open = self._state in (_State.OPENING, _State.OPEN)
        return is_open and os.getpid() != self._process_id

    def check(self) -> None:
        """Return if the store may be used.

        Raises:
            EngineClosedError: it is closed, was never opened, or was opened by the
                process that this one was forked from.
        """
        if self._state is not _OPEN:
            raise EngineClosedError(
                f"The store {self.name} {self._state.value}.",
                hint="Use it inside 'async with Engine(...)'.",
            )
        if os.getpid() != self._process_id:
            raise EngineClosedError(
                f"The store {self.name} was opened by process {self._process_id} and"
                f" this is its fork {os.getpid()}, which has no writer thread.",
                hint="Open an engine of its own in each process, after the fork.",
            )


class Waiter:
    """Receives the outcome of something that a call waits for.

    Attributes:
        may_withdraw: what was asked for is not to be done if the call was cancelled
            before it was begun.
    """

    __slots__ = ("_future", "may_withdraw")

    def __init__(self, future: asyncio.Future[Any], *, may_withdraw: bool) -> None:
        """Receive for `future`."""
        self._future = future
        self.may_withdraw = may_withdraw

    def __call__(self, result: Any, error: BaseException | None) -> None:
        """See `Outcome`."""
        if self._future.done():
            return
        if error is None:
            self._future.set_result(result)
        else:
            self._future.set_exception(error)

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits any longer; any thread may ask."""
        return self._future.cancelled()


def is_withdrawn(done: Outcome) -> bool:
    """Whether what this waits for is not to be done any more."""
    return isinstance(done, Waiter) and done.may_withdraw and done.is_cancelled


async def wait_for_outcome(
    submit: Callable[[Outcome], None], *, may_withdraw: bool = False
) -> Any:
    """Submit something and wait for its outcome.

    A cancelled wait takes back what has not begun, if it may, and nothing else.

    Args:
        submit: hands its argument, the outcome's receiver, to the store.
        may_withdraw: see `Waiter`.
    """
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    submit(Waiter(future, may_withdraw=may_withdraw))
    return await future


def is_asked_for(operation: object) -> bool:
    """Whether it is done because a caller asks, who may change his mind until then."""
    return type(operation) in _ASKED_FOR


def deliver(
    loop: asyncio.AbstractEventLoop, receivers: Iterable[Outcome], outcomes: Outcomes
) -> None:
    """Call the receivers in order; one that raises harms no other."""
    call_uncollected(_deliver_each, loop, receivers, outcomes)


def _deliver_each(
    loop: asyncio.AbstractEventLoop, receivers: Iterable[Outcome], outcomes: Outcomes
) -> None:
    for done, (result, error) in zip(receivers, outcomes, strict=True):
        try:
            done(result, error)
        except Exception as failure:  # noqa: BLE001 - whatever a callback raises
            loop.call_exception_handler(
                {"message": "The receiver of an outcome raised", "exception": failure}
            )
