"""Closed runs as files: exported before they are deleted, imported to be read.

JSON Lines, compressed if the file's name ends in `.gz`. The first line says what the
file is, the last how many runs it has, so that one that was cut off is noticed. Each
line between is a run: its row, its history and its attempts, as the database has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import IO, Final, TypeVar

import msgspec

from durable.client.descriptions.searching import Listing, check_where, to_search
from durable.client.keeping.retention import STEP
from durable.core.history.codec import decode_rows
from durable.errors import ArchiveError, CorruptHistoryError, RunExistsError
from durable.search.conditions import Condition
from durable.search.orders import Order
from durable.search.run_fields import Run
from durable.store.queries import ReadAttempts, ReadHistory, SearchRuns
from durable.store.records import (
    AttemptRecord,
    Deleted,
    DeleteRuns,
    HistoryRow,
    ImportRun,
    RunRecord,
    RunStatus,
)
from durable.store.store import Store

VERSION: Final = 1
PAGE: Final = 100
"""Runs that are read, or written, at once."""
_CLOSED: Final = ~Run.closed.is_null()
T = TypeVar("T")


class _Head(msgspec.Struct, frozen=True):
    durable_export: int
    namespace: str
    exported_at: int


class _Event(msgspec.Struct, frozen=True):
    event_id: int
    task_number: int
    type: str
    time: int
    flags: int
    data: msgspec.Raw


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run; or the end, and how many runs there are."""

    run: RunRecord | None = None
    history: list[_Event] = []
    attempts: tuple[AttemptRecord, ...] = ()
    end: int | None = None


class Exported(msgspec.Struct, frozen=True):
    """What an export did.

    Attributes:
        runs: so many are in the file.
        deleted: so many of them were deleted then.
        kept: so many were to be and stay, by why: see `RunNeededError`.
    """

    runs: int
    deleted: int = 0
    kept: dict[str, int] = {}


class Imported(msgspec.Struct, frozen=True):
    """What an import did.

    Attributes:
        runs: so many were created.
        skipped: so many were there already.
    """

    runs: int
    skipped: int = 0


_encode: Final = msgspec.json.Encoder().encode


# --- export ---------------------------------------------------------------------------


async def export_runs(
    store: Store, namespace: str, asked: Listing, path: Path, *, deletes: bool
) -> Exported:
    """Write closed runs to a file; delete them once that is durable, if it is wanted.

    Raises:
        ArchiveError: the file exists, or cannot be written.
        CorruptHistoryError: a row of a run cannot be read; there is no file then.
        InvalidInputError, QueryTooBroadError: as for a listing.
    """
    run_ids: list[str] = []
    query = await to_search(store, namespace, asked)
    with _writing(path) as file:
        file.write(_encode(_Head(VERSION, namespace, store.now())) + b"\n")
        async for page in _pages(store, query):
            lines = await asyncio.gather(*[_line_of(store, run) for run in page])
            await asyncio.to_thread(file.write, b"".join(lines))
            run_ids += [run.run_id for run in page]
        file.write(_encode(_Line(end=len(run_ids))) + b"\n")
    gone: list[str] = []
    kept = Counter[str]()
    for at in range(0, len(run_ids) if deletes else 0, STEP):
        some = tuple(run_ids[at : at + STEP])
        deleted: Deleted = await store.perform(DeleteRuns(run_ids=some))
        gone += deleted.run_ids
        kept.update(need.value for need in deleted.kept.values())
    return Exported(len(run_ids), len(gone), dict(sorted(kept.items())))


async def _pages(store: Store, query: SearchRuns) -> AsyncIterator[list[RunRecord]]:
    query = msgspec.structs.replace(query, limit=PAGE)
    while True:
        page = await store.read(query)
        yield page
        if len(page) < PAGE:
            return
        instant = query.order.instant_of(page[-1]) or 0
        query = msgspec.structs.replace(query, after=(instant, page[-1].run_id))


async def _line_of(store: Store, run: RunRecord) -> bytes:
    if run.damage is not None:
        raise CorruptHistoryError(f"Run {run.run_id!r} is not exported: {run.damage}")
    rows, attempts = await asyncio.gather(
        store.read(ReadHistory(run.run_id)), store.read(ReadAttempts(run.run_id))
    )
    decode_rows(rows)  # what nobody could read again is no copy
    history = [
        _Event(event_id, number, kind, time, flags, msgspec.Raw(data.encode()))
        for _, event_id, number, kind, time, data, flags in rows
    ]
    line = _encode(_Line(run, history, tuple(attempts)))
    # JSON may be written over several lines by other hands than ours.
    return line.replace(b"\n", b" ") + b"\n"


@contextlib.contextmanager
def _writing(path: Path) -> Generator[IO[bytes] | gzip.GzipFile]:
    """Open a new file that appears under its name once it is whole."""
    if path.exists():
        raise ArchiveError(
            f"{str(path)!r} exists already; an export replaces nothing.",
            hint="Give another name.",
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        # What runs were given may be nobody else's business.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                    yield packed
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        os.rename(partial, path)
    except OSError as error:
        raise ArchiveError(f"{str(path)!r} cannot be written: {error}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def closed_runs(where: Condition | str | None, workflow_id: str | None) -> Listing:
    """Which runs an export takes, oldest first."""
    parts: list[Condition] = [_CLOSED]
    if workflow_id is not None:
        parts.append(Run.id == workflow_id)
    order = Order("CloseTime", is_descending=False)
    return Listing(where=check_where(where), parts=tuple(parts), order_by=order)


# --- import ---------------------------------------------------------------------------


async def import_runs(
    store: Store, namespace: str, path: Path, *, skips_existing: bool
) -> Imported:
    """Create the runs of a file, once it was read to its end.

    Raises:
        ArchiveError: it cannot be read, or is of another namespace.
        RunExistsError: a run is there, and is not to be skipped; nothing was written.
        AttributeTypeError: an attribute of the namespace has another type.
    """
    known: set[str] = set()
    async for page in _imports(path, namespace):
        run_ids = [one.record.run_id for one in page]
        query = SearchRuns(namespace, Run.run_id.in_(run_ids), limit=PAGE)
        found = await store.read(query)
        if found and not skips_existing:
            raise _exists(found[0])
        known.update(run.run_id for run in found)
    created = 0
    async for page in _imports(path, namespace):
        new = [one for one in page if one.record.run_id not in known]
        await asyncio.gather(*map(store.perform, new))
        created += len(new)
    return Imported(created, len(known))


def _exists(run: RunRecord) -> RunExistsError:
    return RunExistsError(
        f"Run {run.run_id!r} of workflow {run.workflow_id!r} is there already; nothing"
        " was imported.",
        hint="Import into another database, or leave out what is there"
        " (--skip-existing).",
        workflow_id=run.workflow_id,
        run_id=run.run_id,
    )


async def _imports(path: Path, namespace: str) -> AsyncIterator[list[ImportRun]]:
    with contextlib.closing(_read_pages(path, namespace)) as pages:
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page


def _read_pages(path: Path, namespace: str) -> Generator[list[ImportRun]]:
    page: list[ImportRun] = []
    for one in _read_runs(path, namespace):
        page.append(one)
        if len(page) == PAGE:
            yield page
            page = []
    yield page


def _read_runs(path: Path, namespace: str) -> Iterator[ImportRun]:
    number = runs = 0
    is_whole = False
    # To the end of the file: what was compressed has its checksum behind the last line.
    for number, line in _read_lines(path):
        if is_whole:
            raise _broken(path, number, "it comes after the end")
        if number == 1:
            _check_head(path, _decode(path, 1, line, _Head), namespace)
            continue
        found = _decode(path, number, line, _Line)
        if found.end is None:
            yield _to_import(path, number, found, namespace)
            runs += 1
        elif found.end != runs:
            raise _broken(path, number, f"it says {found.end} runs, not {runs}")
        else:
            is_whole = True
    if not is_whole:
        raise _broken(path, number, "the file is cut off after it")


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if is_packed else raw as file:
                yield from enumerate(file, start=1)
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{str(path)!r} cannot be read: {error}.") from error


def _decode(path: Path, number: int, line: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, ValueError) as error:
        raise _broken(path, number, str(error)) from None


def _check_head(path: Path, head: _Head, namespace: str) -> None:
    if head.durable_export > VERSION:
        raise ArchiveError(
            f"{str(path)!r} is an export of version {head.durable_export}, and this"
            f" release reads {VERSION}.",
            hint="Use the release that wrote it, or a newer one.",
        )
    if head.namespace != namespace:
        raise ArchiveError(
            f"{str(path)!r} holds runs of namespace {head.namespace!r}, not of"
            f" {namespace!r}.",
            hint=f"Import them into theirs, of any database (--namespace"
            f" {head.namespace}).",
        )


def _to_import(path: Path, number: int, line: _Line, namespace: str) -> ImportRun:
    record = line.run
    if record is None:
        raise _broken(path, number, "it is neither a run nor the end")
    is_closed = record.status is not RunStatus.RUNNING and record.closed_at is not None
    is_at_rest = (record.owner, record.wake_at, record.stuck) == (None, None, None)
    if not (is_closed and is_at_rest) or record.namespace != namespace:
        raise _broken(path, number, "it is no closed run of the file's namespace")
    rows: list[HistoryRow] = [
        (
            record.run_id,
            event.event_id,
            event.task_number,
            event.type,
            event.time,
            bytes(event.data).decode(),
            event.flags,
        )
        for event in line.history
    ]
    try:
        decode_rows(rows)
    except CorruptHistoryError as error:
        raise _broken(path, number, error.message) from error
    is_own = all(attempt.run_id == record.run_id for attempt in line.attempts)
    if [row[1] for row in rows] != [*range(1, len(rows) + 1)] or not (rows and is_own):
        raise _broken(path, number, "its history or attempts are not whole")
    return ImportRun(record=record, rows=rows, attempts=line.attempts)


def _broken(path: Path, number: int, why: str) -> ArchiveError:
    return ArchiveError(
        f"Line {number} of {str(path)!r} is not what an export holds: {why}.",
        hint="Nothing was imported.",
        line=number,
    )
