"""Starts with a debounce: the same id again puts off a run that has not begun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from durable.client.start_options import StartSettings, WantedRun
from durable.core.history.codec import encode_event
from durable.core.history.events import (
    UNPROCESSED,
    HistoryEvent,
    WorkflowExecutionStarted,
)
from durable.errors import InvalidOptionError, WorkflowAlreadyStartedError
from durable.options import ALLOW_DUPLICATE, IdConflictPolicy
from durable.store.queries import FindRun
from durable.store.queues import PutOffRun
from durable.store.records import RunRecord, RunStatus
from durable.store.store import Store

H = TypeVar("H")
_CHECKED: Final = ("delay", "first", "memo", "attributes")
_SAID: Final = {"first": "with_signal"}


def refuse_debounce(how: StartSettings) -> None:
    """Return unless a start is debounced.

    Raises:
        InvalidOptionError: it is, and cannot be.
    """
    if how.debounce is not None or how.debounce_max is not None:
        raise InvalidOptionError(
            "debounce is of engine.start() alone: what is started in a transaction of"
            " yours, or later, cannot be replaced."
        )


def _check(how: StartSettings) -> int:
    if how.debounce is None:
        raise InvalidOptionError("debounce_max is given without debounce: give both.")
    if how.workflow_id is None:
        raise InvalidOptionError(
            "debounce is given without an id.",
            hint="Starts of one id replace each other: give id=, such as 'index-7'.",
        )
    for name in _CHECKED:
        if getattr(how, name):
            raise InvalidOptionError(
                f"debounce and {_SAID.get(name, name)} are given: a start that is"
                " replaced keeps nothing but its id.",
                hint="Leave one of them out.",
            )
    return how.debounce


async def start_debounced(
    store: Store,
    wanted: WantedRun,
    first_event: Callable[[WantedRun], WorkflowExecutionStarted],
    start: Callable[[WantedRun], Awaitable[H]],
    found: Callable[[RunRecord], H],
) -> H:
    """Put off the run of an id, with other arguments, or start one that waits so long.

    Args:
        store: has the runs.
        wanted: what is to run.
        first_event: says what a run begins with.
        start: starts one.
        found: makes a handle of a run that was put off.

    Raises:
        InvalidOptionError: other options do not go with it.
        WorkflowAlreadyStartedError: the run has begun, or is of another workflow.
    """
    how, wait = wanted.how, _check(wanted.how)
    first = msgspec.structs.replace(
        wanted,
        how=msgspec.structs.replace(
            how,
            debounce=None,
            debounce_max=None,
            delay=wait,
            id_reuse=how.id_reuse or ALLOW_DUPLICATE,
            on_conflict=how.on_conflict or IdConflictPolicy.FAIL,
        ),
    )
    namespace, seen = first_event(first).namespace, ""
    while True:
        record = await store.read(FindRun(namespace, wanted.workflow_id, None))
        may_wait = record is not None and _may_wait(record, wanted.name)
        if record is not None and may_wait:
            put_off = _put_off(record, wanted, wait, first_event, store)
            if await store.perform(put_off):
                return found(record)
        try:
            return await start(first)
        except WorkflowAlreadyStartedError as error:
            if error.run_id in (None, seen):
                raise
            seen = error.run_id  # whoever was faster may have just started it


def _may_wait(record: RunRecord, name: str) -> bool:
    is_first = record.run_id == record.first_run_id
    # Taken from a worker time and again it would never begin.
    is_free = record.status is RunStatus.RUNNING and record.owner is None
    return is_first and is_free and record.workflow_type == name


def _put_off(
    record: RunRecord,
    wanted: WantedRun,
    wait: int,
    first_event: Callable[[WantedRun], WorkflowExecutionStarted],
    store: Store,
) -> PutOffRun:
    run_id, began = record.run_id, record.started_at
    due_at = store.now() + wait
    if wanted.how.debounce_max is not None:
        due_at = min(due_at, began + wanted.how.debounce_max)
    started = msgspec.structs.replace(
        first_event(msgspec.structs.replace(wanted, run_id=run_id)),
        request_id=record.request_id,
        version=record.version,
        task_queue=record.task_queue,
        start_delay=due_at - began or msgspec.UNSET,
    )
    row = encode_event(run_id, HistoryEvent(1, UNPROCESSED, began, started))
    return PutOffRun(run_id=run_id, row=row, due_at=due_at)
