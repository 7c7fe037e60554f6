"""The writer thread: takes submitted operations, commits them in groups, answers.

It also does what must not depend on the event loop: it renews the lease, notices what
other processes have committed, and looks after the database when nothing else is to
do.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from durable import limits
from durable.errors import InternalError, StoreError
from durable.store.lease import RETRY_SECONDS, ReleaseWorker
from durable.store.sql.reads import Question
from durable.store.submission import deliver, is_withdrawn
from durable.store.threads.alarm import Alarm
from durable.store.threads.forking import Gate
from durable.store.threads.held_up import LOCK_SECONDS, LOCK_SECONDS_AGAIN, HeldUp
from durable.store.threads.reader import read_explained

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from durable.observer import Observer
    from durable.store.database import Database, Session
    from durable.store.deciding.decide import Outcomes
    from durable.store.store import Outcome
    from durable.store.threads.groups import GroupExecutor
    from durable.store.threads.held_up import Item

# Soon after a foreign commit another is likely.
_ACTIVE_SECONDS: Final = 1.0
# Many processes must not ask at one moment.
_JITTER: Final = 0.1


class Writer:
    """Runs a `GroupExecutor` on a thread of its own.

    All methods belong to the event loop.
    """

    def __init__(
        self,
        executor: GroupExecutor,
        *,
        loop: asyncio.AbstractEventLoop,
        database: Database,
        observer: Observer | None,
        ended: Callable[[], None],
    ) -> None:
        """Prepare; `start` starts the thread; `ended` is called as it ends."""
        self._executor = executor
        self._database = database
        self._gate = Gate(executor)
        self._ended = ended
        self._loop = loop
        self._observer = observer
        self._queue: deque[Item] = deque()
        self._alarm = Alarm()
        self._held_up = HeldUp()
        self._is_asleep = False
        self._is_stopping = False
        self._changed: Callable[[], None] | None = None
        self._is_change_due = False
        self._poll_at = 0.0
        self._active_until = 0.0
        self._is_dirty = False
        self._has_news = False
        self._idle_at = 0.0
        self._polled: Session | None = None
        # A daemon: a program that forgets to close its engine must still be able to
        # end. The database survives being cut off at any point.
        self._thread = threading.Thread(
            target=self._run, name=f"durable writer of {database.name}", daemon=True
        )

    def start(self, started: Outcome) -> None:
        """Start the thread; `started` receives whether the database was opened."""
        self._started = started
        self._thread.start()

    def submit(self, operation: Any, done: Outcome) -> None:
        """Queue an operation."""
        self._queue.append((operation, done))
        if self._is_asleep:
            self._wake()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` on the loop when another connection has committed."""
        self._changed = changed
        self._wake()

    def stop(self, stopped: Outcome) -> None:
        """Finish what was submitted, then disconnect; `stopped` is called last."""
        self._stopped = stopped
        self._is_stopping = True
        self._wake()

    def join(self, timeout: float) -> None:
        """Wait for the thread to end."""
        self._thread.join(timeout)

    @property
    def is_abandoned(self) -> bool:
        """Whether the event loop was closed, and the writer was not stopped before."""
        return self._loop.is_closed()

    def _wake(self) -> None:
        self._is_asleep = False
        self._alarm.ring()

    # --- on the thread ----------------------------------------------------------------

    def _run(self) -> None:
        with self._gate:
            try:
                self._polled = self._executor.open()
            except Exception as error:  # noqa: BLE001 - the opener waits for an answer
                self._post([self._started], [(None, error)])
                return
        self._post([self._started], [(None, None)])
        while self._round():
            if not self._queue:
                self._sleep()
        self._ended()
        with self._gate:
            self._executor.close()
        self._alarm.close()
        if self._is_stopping:
            self._post([self._stopped], [(None, None)])

    def _round(self) -> bool:
        """Do what there is to do; False if that was all, for ever."""
        with self._gate:
            # Once the loop is closed nobody can submit, nor hear. A thread that went on
            # would renew the lease of a worker that does nothing.
            is_abandoned = self._loop.is_closed()
            if self._held_up and not is_abandoned:
                self._try_again()
            if self._queue and not is_abandoned:
                self._work()
            elif (self._is_stopping and not self._held_up) or is_abandoned:
                if self._executor.renew_at is not None:
                    self._executor.execute([ReleaseWorker()])
                return False
            self._keep_house()
        return True

    def _work(self) -> None:
        queue = self._queue
        items: list[Item] = []
        # Only this thread takes from the queue, so what was there stays there.
        for _ in range(min(len(queue), limits.COMMIT_OPERATIONS_MAX)):
            if type(queue[0][0]) is Question:
                break
            item = queue.popleft()
            if not is_withdrawn(item[1]):
                items.append(item)
        if not items and queue and type(queue[0][0]) is Question:
            question, done = queue.popleft()
            self._post([done], [self._read(question)])
            return
        since = time.monotonic()
        if self._held_up:
            items = self._held_up.admit(items, since)
        errors = self._carry_out(items, LOCK_SECONDS) if items else {}
        if errors:
            held = [(items[place], error) for place, error in errors.items()]
            self._held_up.hold(held, since, time.monotonic())

    def _try_again(self) -> None:
        now = time.monotonic()
        for done, error in self._held_up.give_up(now):
            self._post([done], [(None, error)])
        tried = self._held_up.take(now)
        if tried:
            items = [entry.item for entry in tried]
            errors = self._carry_out(items, LOCK_SECONDS_AGAIN)
            self._held_up.settle(tried, errors, time.monotonic())

    def _carry_out(
        self, items: list[Item], lock_seconds: float
    ) -> dict[int, BaseException]:
        """Post outcomes; return the places of what is held up, and why."""
        operations = [operation for operation, _ in items]
        began = time.perf_counter_ns()
        outcomes: Outcomes
        try:
            outcomes, calls = self._executor.execute(operations, lock_seconds)
        except Exception as error:  # noqa: BLE001 - the thread must go on
            failure = InternalError(f"A group of operations failed: {error!r}")
            outcomes = [(None, failure) for _ in operations]
            calls = []
        duration = (time.perf_counter_ns() - began) // 1_000
        self._is_dirty = True
        session = self._executor.session
        idle_seconds = 0.0 if session is None else session.idle_seconds
        self._idle_at = time.monotonic() + idle_seconds
        held = {
            place: error
            for place, (_, error) in enumerate(outcomes)
            if error is not None and self._executor.is_held_up(error)
        }
        if held:
            done = [n for n in range(len(items)) if n not in held]
            items, outcomes = [items[n] for n in done], [outcomes[n] for n in done]
        self._post([receiver for _, receiver in items], outcomes)
        for call in calls:
            self._call_on_loop(call)
        if self._observer is not None and items:
            self._observe(self._observer, [one for one, _ in items], duration)
        return held

    def _read(self, question: Question) -> tuple[Any, BaseException | None]:
        try:
            session = self._executor.open()
            return read_explained(self._database, session, [question])[0], None
        except Exception as error:  # noqa: BLE001 - the reader gets it
            return None, error

    def _observe(
        self, observer: Observer, operations: list[Any], duration: int
    ) -> None:
        rows = sum(len(getattr(operation, "rows", ())) for operation in operations)
        # On the loop, where an observer that raises harms nobody.
        self._call_on_loop(
            functools.partial(
                observer.committed,
                operations=len(operations),
                rows=rows,
                duration=duration,
            )
        )

    def _sleep(self) -> None:
        self._is_asleep = True
        # Whoever submits after this line sees the flag; who came before left an item.
        if not self._queue and (self._held_up or not self._is_stopping):
            session = self._executor.session
            descriptor = None if session is None else session.news_descriptor
            if self._alarm.sleep(self._time_to_sleep(), descriptor):
                self._has_news = True
        self._is_asleep = False

    def _time_to_sleep(self) -> float | None:
        moment = self._executor.renew_at
        if self._changed is not None and (moment is None or self._poll_at < moment):
            moment = self._poll_at
        if self._is_dirty and (moment is None or self._idle_at < moment):
            moment = self._idle_at
        due_at = self._held_up.due_at
        if due_at is not None and (moment is None or due_at < moment):
            moment = due_at
        if moment is None:
            return None
        return min(max(0.0, moment - time.monotonic()), threading.TIMEOUT_MAX)

    def _keep_house(self) -> None:
        now = time.monotonic()
        try:
            renew_at = self._executor.renew_at
            if renew_at is not None and now >= renew_at:
                for call in self._executor.renew():
                    self._call_on_loop(call)
            if self._has_news:
                self._has_news = False
                self._executor.open().hear()
            session = self._executor.session
            has_heard = session is not None and session.has_heard
            if self._changed is not None and (has_heard or now >= self._poll_at):
                self._poll(now)
            if self._is_dirty:
                is_idle = now >= self._idle_at
                is_done = self._executor.open().maintain(is_idle=is_idle)
                self._is_dirty = not (is_idle and is_done)
                if is_idle and not is_done:
                    self._idle_at = now + RETRY_SECONDS
        except StoreError:
            # Operations report the error themselves.
            self._poll_at = self._idle_at = now + RETRY_SECONDS
        except Exception:  # noqa: BLE001 - the thread must go on
            # The next who needs a connection gets a new one, or learns the reason.
            self._executor.close()
            self._poll_at = self._idle_at = now + RETRY_SECONDS

    def _poll(self, now: float) -> None:
        session = self._executor.open()
        self._executor.check_place(session)
        # A new connection cannot know what happened before it.
        is_new = session is not self._polled
        self._polled = session
        if session.has_changed() or is_new:
            self._active_until = now + _ACTIVE_SECONDS
            if not self._is_change_due:
                self._is_change_due = True
                self._call_on_loop(self._report_change)
        soon, late = session.poll_seconds
        seconds = soon if now < self._active_until else late
        self._poll_at = now + seconds * random.uniform(1 - _JITTER, 1)  # noqa: S311 - no secret

    def _post(self, receivers: list[Outcome], outcomes: Outcomes) -> None:
        self._call_on_loop(deliver, self._loop, receivers, outcomes)

    def _call_on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # it was closed, and so was everybody who could listen
            return

    # --- on the loop again ------------------------------------------------------------

    def _report_change(self) -> None:
        self._is_change_due = False
        if self._changed is not None:
            self._changed()
