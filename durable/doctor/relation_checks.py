"""What must be true between runs: parents and children, and the runs of one chain.

A run that closes tells its parent, parts from its children and starts its successor in
the same commit. So the other side is read after the run itself: what is missing there
then was never written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from durable import limits
from durable.core.folding.run_state import PendingChild, RunState
from durable.core.history.events import WorkflowExecutionCancelRequested
from durable.doctor.findings import Check, Finding, key_of
from durable.doctor.mail_checks import Breach, asks_to_stop, tells_of_child
from durable.store.queries import FindRun, ListRuns, ReadHistory
from durable.store.records import LoadedRun, RunFilter, RunRecord, RunStatus
from durable.store.store import Store

_GOES_ON: Final = frozenset(
    {RunStatus.CONTINUED_AS_NEW, RunStatus.FAILED, RunStatus.TIMED_OUT}
)
"""How runs end whose chain may go on."""
_TERMINATE: Final = "terminate"
_REQUEST_CANCEL: Final = "request_cancel"
_ASKED: Final = WorkflowExecutionCancelRequested.__name__


class Relations:
    """Goes through runs, newest first, and compares each with those it belongs to."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Who says that it goes on with a run: its run id, and the first of its chain.
        self._successors: dict[str, tuple[str, str]] = {}
        # Closed runs stay closed; of open ones nothing is remembered.
        self._closed_parents: dict[str, RunRecord] = {}

    async def check(self, run: LoadedRun, state: RunState | None) -> list[Finding]:
        """Check one run; `state` is None if its history cannot be read."""
        key = key_of(run.record)
        breaches = [breach async for breach in self._breaches(run, state)]
        return [Finding(check, key, message) for check, message in breaches]

    async def _breaches(
        self, run: LoadedRun, state: RunState | None
    ) -> AsyncIterator[Breach]:
        record = run.record
        # One that was reset says of whom the run before it was the successor.
        if state is None or state.reset is None:
            for breach in self._check_claim(record):
                yield breach
        if state is None:
            return
        if state.continued_as_run_id is not None:
            problem = await self._find_broken_chain(record, state.continued_as_run_id)
            if problem is not None:
                yield Check.SUCCESSION, problem
        if record.status is not RunStatus.RUNNING:
            return
        problem = await self._find_orphaned(run, state)
        if problem is not None:
            yield Check.FAMILY, problem
        for child in state.pending_children:
            problem = await self._find_estranged(run, child)
            if problem is not None:
                yield Check.FAMILY, problem

    # --- chains -----------------------------------------------------------------------

    def _check_claim(self, record: RunRecord) -> list[Breach]:
        """V8: only a run that continued as new, or failed, has a successor: one."""
        breaches: list[Breach] = []
        before = record.continued_from_run_id
        if before is not None:
            ours = record.run_id, record.first_run_id
            other, _ = self._successors.setdefault(before, ours)
            if other != record.run_id:
                message = f"run {other} goes on with run {before}, too"
                breaches.append((Check.SUCCESSION, message))
        claim = self._successors.get(record.run_id)
        if claim is not None and record.status not in _GOES_ON:
            message = f"run {claim[0]} goes on with it, but it is {record.status.value}"
            breaches.append((Check.SUCCESSION, message))
        return breaches

    async def _find_broken_chain(self, record: RunRecord, named: str) -> str | None:
        """V8: the run that the terminal event names exists and follows this one."""
        if self._successors.get(record.run_id) == (named, record.first_run_id):
            return None
        successor = await self._store.read(
            FindRun(record.namespace, record.workflow_id, named)
        )
        if successor is None:
            if record.run_id == record.first_run_id:
                return None  # kept longer than those that follow it
            return f"it goes on as run {named}, which does not exist"
        is_reset = record.status is RunStatus.TERMINATED
        before = record.run_id if is_reset else successor.continued_from_run_id
        if successor.damage is None and (before, successor.first_run_id) != (
            record.run_id,
            record.first_run_id,
        ):
            return f"it goes on as run {named}, whose row names another predecessor"
        return None

    # --- as a child -------------------------------------------------------------------

    async def _find_orphaned(self, run: LoadedRun, state: RunState) -> str | None:
        """V20: an open run whose parent has closed may be open."""
        record = run.record
        policy = record.parent_close_policy
        if record.parent_run_id is None or policy not in (_TERMINATE, _REQUEST_CANCEL):
            return None
        parent = await self._find_closed_parent(record)
        if parent is None:
            return None
        closed = f"its parent {parent.workflow_id!r} (run {parent.run_id}) has closed"
        if policy == _TERMINATE:
            return f"{closed}, and it should have been terminated then"
        if state.cancel_requested_at is not None or asks_to_stop(run.messages):
            return None
        if await self._was_asked_before(record):
            return None
        return f"{closed}, and it should have been asked to stop then"

    async def _was_asked_before(self, record: RunRecord) -> bool:
        """Whether a run from which this one goes on was asked to stop.

        It may have taken no notice, and a request does not pass on to the next run.
        """
        while record.continued_from_run_id is not None:
            before = record.continued_from_run_id
            rows = await self._store.read(ReadHistory(before))
            if any(row[3] == _ASKED for row in rows):
                return True
            found = await self._store.read(
                FindRun(record.namespace, record.workflow_id, before)
            )
            if found is None:
                return True  # deleted since: nobody knows
            record = found
        return False

    async def _find_closed_parent(self, record: RunRecord) -> RunRecord | None:
        parent_run_id, workflow_id = record.parent_run_id, record.parent_workflow_id
        if parent_run_id is None or workflow_id is None:
            return None
        known = self._closed_parents.get(parent_run_id)
        if known is not None:
            return known
        parent = await self._store.read(
            FindRun(record.namespace, workflow_id, parent_run_id)
        )
        if parent is None or parent.status is RunStatus.RUNNING:
            return None
        self._closed_parents[parent_run_id] = parent
        return parent

    # --- as a parent ------------------------------------------------------------------

    async def _find_estranged(self, run: LoadedRun, child: PendingChild) -> str | None:
        """V20: a child that the run waits for exists, and will tell it how it ends."""
        record = run.record
        if child.run_id is None:
            return None
        name = f"its child {child.workflow_id!r} (run {child.run_id})"
        found = await self._store.read(
            FindRun(record.namespace, child.workflow_id, child.run_id)
        )
        if found is None:
            return f"{name} has started, but there is no such run"
        if found.damage is not None:
            return None  # which is reported where that run is examined
        if (found.parent_run_id, found.parent_initiated_event_id) != (
            record.run_id,
            child.initiated_event_id,
        ):
            return f"the row of {name} names another parent"
        last = await self._find_last_of_chain(found)
        if last.status is RunStatus.RUNNING or any(
            tells_of_child(message, child.initiated_event_id)
            for message in run.messages
        ):
            return None
        return f"{name} is {last.status.value}, but nothing tells it so"

    async def _find_last_of_chain(self, first: RunRecord) -> RunRecord:
        if first.status not in _GOES_ON:
            return first
        where = RunFilter(workflow_id=first.workflow_id, limit=limits.LIST_PAGE_MAX)
        runs = await self._store.read(ListRuns(first.namespace, where))
        chain = [run for run in runs if run.first_run_id == first.first_run_id]
        opened = [run for run in chain if run.status is RunStatus.RUNNING]
        return next(iter(opened or chain), first)
