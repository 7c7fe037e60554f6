"""Messages of one transaction: whom they reach, and which wait already.

Runs are looked up for many messages at once and remembered until the transaction ends,
so whatever opens or closes a run in it must say so here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable import limits
from durable.store import policies, salvage, statements
from durable.store.policies import Target
from durable.store.records import PutMessage, RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from durable.store.database import Closing, RequestKey, Session
    from durable.store.family import Letter
    from durable.store.records import RunRecord, TerminateRun
    from durable.store.steady_clock import SteadyClock


class Mail:
    """Addresses and puts the messages of one transaction."""

    def __init__(
        self, session: Session, clock: SteadyClock, had_any: Callable[[], bool]
    ) -> None:
        """Know no run yet.

        Args:
            session: has begun the transaction.
            clock: says when messages are put.
            had_any: whether any inbox held anything when the transaction began.
        """
        self._connection = session.connection
        self._hot = session.hot
        self._clock = clock
        self._targets: dict[str, Target | None] = {}
        self._open_run_ids: dict[tuple[str, str], str | None] = {}
        self._had_any = had_any
        self._has_put = False
        # Messages in all inboxes; of each run what this transaction was asked to put,
        # and what waited when it first mattered.
        self._count: int | None = None
        self._asked: dict[str, set[str]] = {}
        self._counts: dict[str, int] = {}
        self._expected: Callable[[], Iterable[PutMessage]] | None = None

    # --- addresses --------------------------------------------------------------------

    def expect(self, expected: Callable[[], Iterable[PutMessage]]) -> None:
        """Look these messages up together, as soon as one of them is looked up."""
        self._expected = expected

    def _look_up(self, requests: Iterable[PutMessage | TerminateRun]) -> None:
        """Look up the runs of many requests with few statements."""
        run_ids: dict[str, None] = {}
        workflow_ids: dict[str, dict[str, None]] = {}
        for request in requests:
            if request.run_id is not None:
                run_ids[request.run_id] = None
            else:
                namesakes = workflow_ids.setdefault(request.namespace, {})
                namesakes[request.workflow_id] = None
        if run_ids:
            self._targets.update(dict.fromkeys(run_ids))
            self._remember(self._hot.find_targets(list(run_ids)))
        for namespace, group in workflow_ids.items():
            self._open_run_ids.update(((namespace, name), None) for name in group)
            self._remember(self._hot.find_open_targets(namespace, list(group)))

    def _remember(self, targets: list[Target]) -> None:
        for target in targets:
            self._targets[target.run_id] = target
            if target.status is RunStatus.RUNNING:
                key = (target.namespace, target.workflow_id)
                self._open_run_ids[key] = target.run_id

    def find(self, request: PutMessage | TerminateRun) -> Target:
        """Return the open run that a request is for.

        Raises:
            WorkflowNotFoundError, WorkflowClosedError: it reaches nobody.
        """
        if self._expected is not None:
            expected, self._expected = self._expected, None
            self._look_up(expected())
        key = (request.namespace, request.workflow_id)
        run_id = request.run_id
        if run_id is None:
            if key not in self._open_run_ids:
                self._look_up([request])
            run_id = self._open_run_ids[key]
        elif run_id not in self._targets:
            self._look_up([request])
        target = None if run_id is None else self._targets[run_id]
        if target is not None and not policies.is_addressed(request, target):
            target = None
        if target is None and request.run_id is None:
            target = self._find_newest(request)
        target = policies.get_open_target(request, target)
        if isinstance(request, PutMessage):
            self.check_room(target.run_id, request)
        return target

    def check_room(self, run_id: str, message: PutMessage) -> None:
        """Return if the run's inbox has room for a message, or holds it already.

        Raises:
            InboxFullError: it has not.
        """
        if not policies.is_bounded(message):
            return
        asked = self._asked.setdefault(run_id, set())
        if message.request_id in asked:
            return
        if self._count is None:
            most = limits.INBOX_MESSAGES_MAX
            self._count = (
                self._read(statements.COUNT_INBOX, most=most) if self._had_any() else 0
            )
        self._count += 1
        if self._count > limits.INBOX_MESSAGES_MAX:  # of all runs together
            waiting = self._counts.get(run_id)
            if waiting is None:
                waiting = self._read(statements.COUNT_MESSAGES, run_id=run_id)
                self._counts[run_id] = waiting
            if waiting + len(asked) >= limits.INBOX_MESSAGES_MAX:
                key = run_id, message.request_id
                if not self._hot.find_requests([key]):
                    raise policies.inbox_full(message)
        asked.add(message.request_id)

    def _read(self, statement: Any, **values: Any) -> int:
        found: int = self._connection.execute(statement, values).scalar_one()
        return found

    def _find_newest(self, request: PutMessage | TerminateRun) -> Target | None:
        values = {"namespace": request.namespace, "workflow_id": request.workflow_id}
        statement = statements.FIND_NEWEST_RUN
        if request.first_run_id is not None:
            statement = statements.FIND_NEWEST_RUN_OF_CHAIN
            values["first_run_id"] = request.first_run_id
        row = self._connection.execute(statement, values).first()
        return None if row is None else _to_target(salvage.to_run(row))

    def note_starts(self, records: Iterable[RunRecord]) -> None:
        """Note that runs were inserted."""
        if self._targets or self._open_run_ids:
            self._remember([_to_target(record) for record in records])

    def note_closings(self, closings: Iterable[Closing]) -> None:
        """Note that runs were closed."""
        if not self._targets:
            return
        for run_id, status, closed_at, _ in closings:
            target = self._targets.get(run_id)
            if target is None:
                continue
            key = (target.namespace, target.workflow_id)
            if self._open_run_ids.get(key) == run_id:
                self._open_run_ids[key] = None
            self._targets[run_id] = Target(
                run_id, *key, target.first_run_id, RunStatus(status), closed_at
            )

    def forget(self) -> None:
        """Forget all runs, because a part of the transaction was undone."""
        self._targets.clear()
        self._open_run_ids.clear()
        self._asked.clear()
        self._counts.clear()

    # --- inboxes ----------------------------------------------------------------------

    @property
    def has_any(self) -> bool:
        """Whether any inbox may hold anything."""
        return self._has_put or self._had_any()

    def put(self, letters: Sequence[Letter]) -> None:
        """Put messages for open runs, but for those whose request waits already."""
        keys = [letter[:2] for letter in letters]
        known: set[RequestKey] = set()
        if self.has_any:
            known.update(self._hot.find_requests(keys))
        fresh: list[Letter] = []
        for key, letter in zip(keys, letters, strict=True):
            if key not in known:
                known.add(key)
                fresh.append(letter)
        if fresh:
            self._hot.insert_messages(fresh, self._clock.now())
            self._has_put = True


def _to_target(record: RunRecord) -> Target:
    return Target(
        record.run_id,
        record.namespace,
        record.workflow_id,
        record.first_run_id,
        record.status,
        record.closed_at,
    )
