"""The doctor: what must be true in a database, checked from outside.

It reads through the store's protocol, page by page, and runs no user code. Each run's
history is folded by `durable.core.folding.fold`, which shares no code with the replay
machine, and compared with the run's rows. Runs may go on meanwhile: whatever looks
wrong is read again after a moment, and only what is still wrong is reported.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec

from durable import limits
from durable.doctor.findings import Check, Finding, key_of
from durable.doctor.outbox_checks import examine_outbox
from durable.doctor.relation_checks import Relations
from durable.doctor.run_checks import PATIENCE, Workers, examine_run
from durable.doctor.whole_histories import with_whole_history
from durable.errors import CorruptHistoryError
from durable.namesakes import find_namesakes
from durable.store.queries import CheckIntegrity, ListNamespaces, ListRuns, LoadRuns
from durable.store.records import LoadedRun, RunFilter, RunRecord, RunStatus, due_since
from durable.store.store import Store


@runtime_checkable
class LockWatching(Protocol):
    """A store that may know who holds a lock which others wait for."""

    async def find_blockers(self) -> Sequence[str]:
        """The processes that have kept all others from writing for a while now."""
        ...


# Rows that one read may bring; runs differ in length by a factor of 10,000.
_ROWS_PER_READ: Final = 20_000
_SETTLE_SECONDS: Final = 0.25


# --- the whole database ---------------------------------------------------------------


async def examine(
    store: Store,
    *,
    namespace: str | None = None,
    sqlite_version: tuple[int, ...] | None = None,
    settle: float = _SETTLE_SECONDS,
) -> AsyncGenerator[Finding]:
    """Check everything that this release keeps in a database, and yield what is wrong.

    Args:
        store: an open store; nothing is written.
        namespace: whose runs to check; those of all by default.
        sqlite_version: the version of the SQLite library in use, if it is SQLite.
        settle: how long to wait before reading again what looks wrong, in seconds.

    Raises:
        StoreError: the database cannot be read.
    """
    for finding in find_package_clash():
        yield finding
    if isinstance(store, LockWatching):
        for blocker in await store.find_blockers():
            yield Finding(
                Check.LOCKED,
                None,
                f"{blocker} holds the write lock: nobody else can write until it goes"
                " on or ends",
            )
    for message in await store.read(CheckIntegrity()):
        yield Finding(Check.INTEGRITY, None, message)
    survey = _Survey(store, settle)
    chosen = await store.read(ListNamespaces()) if namespace is None else [namespace]
    for name in chosen:
        async for page in read_pages(store, name, RunFilter()):
            async for finding in survey.examine_page(page):
                yield finding
    workers = await Workers.read(store)
    for worker in workers.known.values():
        if worker.damage is not None:
            yield Finding(Check.PAYLOADS, None, worker.damage)
    for finding in survey.unclaimed(workers):
        yield finding
    async for finding in examine_outbox(store, namespace, workers):
        yield finding
    for finding in _find_expired(workers, survey.owned):
        yield finding
    for finding in find_sqlite_bug(sqlite_version, len(workers.live)):
        yield finding


async def read_pages(
    store: Store, namespace: str, where: RunFilter, *, size: int = limits.LIST_PAGE_MAX
) -> AsyncGenerator[list[RunRecord]]:
    """Read all runs of a listing, newest first, page by page; each run once.

    `where.limit` is not looked at.
    """
    while True:
        page = await store.read(
            ListRuns(namespace, msgspec.structs.replace(where, limit=size))
        )
        if page:
            yield page
        if len(page) < size:
            return
        last = page[-1]
        where = msgspec.structs.replace(where, after=(last.started_at, last.run_id))


class _Survey:
    """Goes through the runs, and remembers what concerns more than one of them."""

    def __init__(self, store: Store, settle: float) -> None:
        self._store = store
        self._settle = settle
        self._batch = 50
        self._open: dict[tuple[str, str], str] = {}
        self._requests: dict[tuple[str, str], str] = {}
        self._unclaimed: Counter[tuple[str, str, str]] = Counter()
        self._relations = Relations(store)
        self.owned: Counter[str] = Counter()

    async def examine_page(self, page: list[RunRecord]) -> AsyncGenerator[Finding]:
        run_ids = [record.run_id for record in page]
        while run_ids:
            batch, run_ids = run_ids[: self._batch], run_ids[self._batch :]
            loaded = await self._store.read(LoadRuns(batch))
            rows = sum(len(run.rows) for run in loaded)
            fitting = _ROWS_PER_READ * len(batch) // max(rows, 1)
            self._batch = max(1, min(fitting, limits.LOAD_RUNS_MAX))
            workers = await Workers.read(self._store)
            for run in loaded:
                self._note(run, workers)
            for finding in await self._confirmed(loaded, workers):
                yield finding
            for run in loaded:
                for finding in self._check_unique(run.record):
                    yield finding

    async def _confirmed(
        self, loaded: Sequence[LoadedRun], workers: Workers
    ) -> list[Finding]:
        """Check runs; what is wrong must be so after a moment, too."""
        suspected = {
            run.record.run_id: {finding.check for finding in found}
            for run in loaded
            if (found := await self._check(run, workers))
        }
        if not suspected:
            return []
        await asyncio.sleep(self._settle)
        again = await self._store.read(LoadRuns(list(suspected)))
        workers = await Workers.read(self._store)
        return [
            finding
            for run in again
            for finding in await self._check(run, workers)
            if finding.check in suspected[run.record.run_id]
        ]

    async def _check(self, run: LoadedRun, workers: Workers) -> list[Finding]:
        """Check a run by itself, and against those that it has to do with."""
        try:
            whole = await with_whole_history(self._store, run)
            examined = examine_run(whole, workers)
            if run.record.damage is not None:
                return examined.findings
            related = await self._relations.check(whole, examined.state)
        except CorruptHistoryError as error:  # of a run that it has to do with
            return [Finding(Check.FAMILY, key_of(run.record), error.message)]
        except Exception as error:  # noqa: BLE001 - one row must not end the examination
            what = f"it cannot be examined: {type(error).__name__}"
            return [Finding(Check.PAYLOADS, key_of(run.record), what)]
        return [*examined.findings, *related]

    # --- more than one run ------------------------------------------------------------

    def _note(self, run: LoadedRun, workers: Workers) -> None:
        """Count whom a run belongs to, or that nobody takes it."""
        record = run.record
        if record.status is not RunStatus.RUNNING or record.damage is not None:
            return
        if record.owner is not None:
            self.owned[record.owner] += 1
            return
        if record.stuck is not None:
            return
        # At rest a run is nobody's; it is the due one that somebody should have taken.
        wake_at = record.wake_at
        if wake_at is not None and due_since(wake_at) + PATIENCE <= workers.now:
            self._unclaimed[
                record.namespace, record.task_queue, record.workflow_type
            ] += 1

    def unclaimed(self, workers: Workers) -> Iterator[Finding]:
        """Say which runs wait for a worker that knows them."""
        for (namespace, queue, workflow), count in sorted(self._unclaimed.items()):
            runs = "1 run" if count == 1 else f"{count} runs"
            within = "" if namespace == "default" else f" of namespace {namespace!r}"
            if workers.serve(namespace, queue):
                why = "no worker on it knows that workflow"
            else:
                why = "no worker serves it"
            yield Finding(
                Check.NO_WORKER,
                None,
                f"{runs} of {workflow!r} on task queue {queue!r}{within}: {why}",
            )

    def _check_unique(self, record: RunRecord) -> Iterator[Finding]:
        key = key_of(record)
        if record.status is RunStatus.RUNNING:
            other = self._open.setdefault(
                (record.namespace, record.workflow_id), record.run_id
            )
            if other != record.run_id:
                yield Finding(Check.UNIQUE, key, f"run {other} of its id is open, too")
        if record.request_id != record.run_id:
            other = self._requests.setdefault(
                (record.namespace, record.request_id), record.run_id
            )
            if other != record.run_id:
                yield Finding(
                    Check.UNIQUE,
                    key,
                    f"run {other} was started by request {record.request_id!r}, too",
                )


def _find_expired(workers: Workers, owned: Counter[str]) -> Iterator[Finding]:
    for worker_id, worker in sorted(workers.known.items()):
        if worker_id in workers.live:
            continue
        late = workers.now - worker.lease_expires_at
        count = owned[worker_id]
        held = "1 open run" if count == 1 else f"{count} open runs"
        ended = (
            f"the lease of worker {worker_id!r} (process {worker.pid}), which has"
            f" {held}, ended {late / 1_000_000:.0f} s ago"
        )
        if workers.live and late > PATIENCE:
            why = f"{ended}, and no living worker has taken over"
            yield Finding(Check.LEASES, None, why)
        else:
            why = f"{ended}; the next worker takes over"
            yield Finding(Check.EXPIRED_LEASE, None, why)


def find_sqlite_bug(version: tuple[int, ...] | None, workers: int) -> Iterator[Finding]:
    """Warn of SQLite's WAL-reset bug, which needs several connections that write."""
    first, mended = limits.SQLITE_WAL_FAULT
    if version is not None and workers > 1 and first <= version < mended:
        yield Finding(
            Check.SQLITE_VERSION,
            None,
            f"{workers} workers share this database under SQLite"
            f" {'.'.join(map(str, version))}, which may corrupt it if another program"
            " checkpoints it meanwhile; SQLite 3.51.3 and later do not",
        )


def find_package_clash() -> Iterator[Finding]:
    """Warn of packages that install other modules under this library's name."""
    for message in find_namesakes():
        yield Finding(Check.PACKAGE_CLASH, None, message)
