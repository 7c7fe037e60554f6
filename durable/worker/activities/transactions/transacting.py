"""Runs the function of an attempt in a transaction, and commits its outcome with it.

The attempt's row is claimed by this worker. The last statement before the commit writes
the outcome into that row, if it is still so. Whoever comes upon the row afterwards
finds the outcome there, and the worker itself goes on to tell the run as ever.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from durable import limits
from durable.api.activities.activity import Activity
from durable.core.history.events import ActivityTaskCompleted
from durable.core.history.payload import Payload
from durable.errors import AttemptOverError, DurableError, LeaseLostError, StoreError
from durable.runs.activity_tasks.holding import HeldTask
from durable.runs.activity_tasks.task_rows import encode, progress_of
from durable.store.activity_tasks import BeatActivityTask
from durable.store.queries import FindActivityTask
from durable.store.store import Store
from durable.worker.activities.activity_code import Transaction, Transactions
from durable.worker.activities.activity_threads import NotBegunError
from durable.worker.activities.calls import Call

T = TypeVar("T")
_AGAIN_SECONDS: Final = 0.5


class UnfitOutcomeError(Exception):
    """What the function has returned cannot be recorded: it is rolled back."""


class CommitInDoubtError(Exception):
    """The answer to the commit was lost; its cause says how."""

    def __init__(self, payload: Payload | None) -> None:
        super().__init__("the answer to a commit was lost")
        assert payload is not None  # noqa: S101 - it was to be committed
        self.payload = payload


class Work(NamedTuple):
    """What is to be run, and where.

    Attributes:
        args: the arguments, but for the transaction and other resources.
        resources: what the engine was given; one that makes connections, too, perhaps.
    """

    call: Call
    code: Activity[Any, Any]
    transactions: Transactions
    args: list[Any]
    kwargs: Mapping[str, Any]
    resources: Mapping[Any, object]

    def supply(self, given: object) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The function, and its arguments by name with all resources."""
        assert self.code.transaction is not None  # noqa: S101 - by the caller
        kwargs = {**self.kwargs}
        resources = {**self.resources, self.code.transaction[1]: given}
        return self.code.supply(kwargs, resources), kwargs

    @property
    def kind(self) -> type[Any]:
        """The class of what its function is given."""
        assert self.code.transaction is not None  # noqa: S101 - by the caller
        return self.code.transaction[1]

    @property
    def source(self) -> object:
        """What makes connections, if the user has given it."""
        return self.resources.get(self.kind)

    def encode(self, result: Any) -> Payload:
        """Write a result down.

        Raises:
            UnfitOutcomeError: it cannot be.
        """
        try:
            return self.code.call_signature.encode_result(result)
        except Exception as error:
            raise UnfitOutcomeError from error


def in_thread(
    work: Work,
    loop: asyncio.AbstractEventLoop,
    call_plain: Callable[[Callable[..., Any], list[Any], dict[str, Any]], Any],
) -> Payload:
    """Run a plain function in this thread.

    `call_plain` may be interrupted, and nothing else of this.

    Raises:
        NotBegunError: the database could not be reached.
        UnfitOutcomeError, CommitInDoubtError: see there.
        AttemptOverError: the attempt was over before; all is rolled back.
        BaseException: the function's; likewise.
    """
    opened = work.transactions.begin(work.kind, work.source)
    try:
        transaction = opened.__enter__()
    except Exception as error:
        raise _as_not_begun(error) from error
    payload: Payload | None = None
    try:
        function, kwargs = work.supply(transaction.given)
        payload = work.encode(call_plain(function, work.args, kwargs))
        transaction.check()
        attempt, progress = _ask(work.call, payload, loop)
        transaction.finish(attempt, progress)
    except BaseException as error:
        _leave(opened, error)
        if transaction.is_committing:
            raise CommitInDoubtError(payload) from error
        work.call.is_committing = False
        raise
    _leave(opened, None)
    return payload


def _leave(opened: Any, error: BaseException | None) -> None:
    """Give the connection back; whatever it says to that changes nothing any more."""
    kind = None if error is None else type(error)
    try:
        opened.__exit__(kind, error, None if error is None else error.__traceback__)
    except BaseException as other:  # noqa: BLE001 - the first one counts
        if error is not None and other is not error:
            error.add_note(f"The connection could not be given back: {other!r}")


def _as_not_begun(error: Exception) -> Exception:
    """A database that cannot be reached may be later; a wrong one never."""
    if isinstance(error, DurableError) and not isinstance(error, StoreError):
        return error
    return NotBegunError(f"its transaction could not begin: {error}")


def _ask(
    call: Call, payload: Payload, loop: asyncio.AbstractEventLoop
) -> tuple[tuple[str, int, int, str], str]:
    """Ask in a thread whether the attempt may be committed; see `_grant`."""
    answer: Future[tuple[tuple[str, int, int, str], str]] = Future()

    def grant() -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            answer.set_result(_grant(call, payload))
        except Exception as error:  # noqa: BLE001 - it is the thread's to hear
            answer.set_exception(error)

    loop.call_soon_threadsafe(grant)
    try:
        return answer.result(limits.LEASE_SECONDS)
    except TimeoutError:
        if answer.cancel():
            raise _over(call) from None
        return answer.result()


def _grant(call: Call, payload: Payload) -> tuple[tuple[str, int, int, str], str]:
    """Say who commits, and what its row says then; nothing ends the attempt from here.

    Raises:
        AttemptOverError: it has ended otherwise.
    """
    attempt = call.attempt
    if attempt.is_over:
        raise _over(call)
    held: Any = attempt.run
    assert isinstance(held, HeldTask)  # noqa: S101 - it is never its run's own
    call.cancel_timer()
    call.is_committing = True
    record, worker_id = held.record, held.terms.worker_id
    outcome = ActivityTaskCompleted(
        scheduled_event_id=record.scheduled_event_id,
        result=payload,
        attempt=record.attempt,
        started_at=call.started_at,
        identity=worker_id,
        last_failure=held.progress.last_failure,
    )
    progress = msgspec.structs.replace(held.progress, outcome=outcome)
    where = record.run_id, record.scheduled_event_id, record.attempt, worker_id
    return where, encode(progress)


def _over(call: Call) -> AttemptOverError:
    attempt = call.attempt
    return AttemptOverError(
        f"Attempt {attempt.attempt} of activity {attempt.scheduled.activity_type!r} was"
        " over before its transaction could be committed; it is rolled back."
    )


# --- for code that awaits -------------------------------------------------------------


async def on_loop(work: Work) -> Payload:
    """Run an async function in a transaction; as `in_thread`."""
    opened = work.transactions.begin_async(work.kind, work.source)
    try:
        transaction = await opened.__aenter__()
    except Exception as error:
        raise _as_not_begun(error) from error
    payload: Payload | None = None
    try:
        function, kwargs = work.supply(transaction.given)
        result = function(*work.args, **kwargs)
        payload = work.encode(await result if inspect.isawaitable(result) else result)
        transaction.check()
        attempt, progress = _grant(work.call, payload)
        await uninterrupted(_finish(transaction, attempt, progress))
    except BaseException as error:
        await uninterrupted(_leave_async(opened, error))
        if transaction.is_committing:
            raise CommitInDoubtError(payload) from error
        work.call.is_committing = False
        raise
    await uninterrupted(_leave_async(opened, None))
    return payload


async def _finish(
    transaction: Transaction, attempt: tuple[str, int, int, str], progress: str
) -> None:
    given = transaction.given
    # An AsyncSession's connection is in it.
    await given.run_sync(_finish_here, transaction, attempt, progress)


def _finish_here(
    _: object,
    transaction: Transaction,
    attempt: tuple[str, int, int, str],
    progress: str,
) -> None:
    transaction.finish(attempt, progress)


async def _leave_async(opened: Any, error: BaseException | None) -> None:
    kind = None if error is None else type(error)
    trace = None if error is None else error.__traceback__
    try:
        await opened.__aexit__(kind, error, trace)
    except BaseException as other:  # noqa: BLE001 - the first one counts
        if error is not None and other is not error:
            error.add_note(f"The connection could not be given back: {other!r}")


async def uninterrupted(step: Coroutine[Any, Any, T]) -> T:
    """Await a step to its end, whoever cancels the attempt meanwhile."""
    task = asyncio.get_running_loop().create_task(step)
    while True:
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.done():
                return task.result()


# --- a lost answer --------------------------------------------------------------------


async def is_committed(store: Store, call: Call) -> bool:
    """Find out whether an attempt was committed of which the answer is lost.

    Raises:
        AttemptOverError, LeaseLostError: its row is another one's, who sees it, too.
    """
    held: Any = call.attempt.run
    record = held.record
    beat = BeatActivityTask(
        run_id=record.run_id,
        scheduled_event_id=record.scheduled_event_id,
        attempt=record.attempt,
    )
    while True:
        try:
            # It waits for the row, and so for what the server still does with it.
            await store.perform(beat)
            query = FindActivityTask(record.run_id, record.scheduled_event_id)
            found = await store.read(query)
        except (AttemptOverError, LeaseLostError):
            raise
        except StoreError:
            await asyncio.sleep(_AGAIN_SECONDS)
        else:
            return found is not None and progress_of(found).outcome is not None
