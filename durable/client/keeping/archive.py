"""Closed runs as files: exported before they are deleted, imported to be read.

JSON Lines, compressed if the file's name ends in `.gz`. The first line says what the
file is, the last how many runs it has, so that one that was cut off is noticed. Each
line between is a run: its row, its history and its attempts, as the database has them.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import importlib
import os
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import IO, Any, Final, cast

import msgspec

from durable import limits
from durable.client.descriptions.searching import Listing, check_where, to_search
from durable.core.history.codec import decode_rows
from durable.errors import ArchiveError, CorruptHistoryError, InvalidOptionError
from durable.search.conditions import Condition
from durable.search.orders import Order
from durable.search.run_fields import Run
from durable.store.queries import ReadAttempts, ReadHistory, SearchRuns
from durable.store.records import (
    AttemptRecord,
    Deleted,
    DeleteRuns,
    Instant,
    Position,
    RunRecord,
)
from durable.store.store import Store

_locks: Any = None
with contextlib.suppress(ImportError):  # Windows has none
    _locks = importlib.import_module("fcntl")

VERSION: Final = 1
PAGE: Final = 100
"""Runs that are read at once."""
STEP: Final = 500
"""Runs that are deleted at once, at most."""
_PARTIAL: Final = ".durable-partial"
_CLOSED: Final = ~Run.closed.is_null()


class Head(msgspec.Struct, frozen=True):
    """The first line of a file."""

    durable_export: int
    namespace: str
    exported_at: int


class Event(msgspec.Struct, frozen=True):
    """An event; its run is that of the line."""

    event_id: Position
    task_number: Position
    type: str
    time: Instant
    flags: int
    data: msgspec.Raw


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run; or the end, and how many runs there are."""

    run: RunRecord | None = None
    history: list[Event] = []
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
        runs: so many were created; in a dry run, would be.
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
    with writing(path) as file:
        file.write(head_of(namespace, store.now()))
        async for page in _pages(store, query):
            lines = await asyncio.gather(*[line_of(store, run) for run in page])
            await asyncio.to_thread(file.write, b"".join(lines))
            run_ids += [
                run.run_id for run, line in zip(page, lines, strict=True) if line
            ]
        file.write(end_of(len(run_ids)))
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


def to_path(value: object, name: str) -> Path:
    """Return the path of a file.

    Args:
        value: what should be one.
        name: what errors call it.

    Raises:
        InvalidOptionError: it is no path, or one that no file can have.
    """
    with contextlib.suppress(TypeError, UnicodeEncodeError):
        path = Path(cast("str", value))
        if b"\0" not in os.fsencode(path):
            return path
    raise InvalidOptionError(f"{name} is {value!r}: give the path of a file.")


def head_of(namespace: str, now: int) -> bytes:
    """The first line of a file."""
    return _encode(Head(VERSION, namespace, now)) + b"\n"


def end_of(runs: int) -> bytes:
    """The last line of a file."""
    return _encode(Line(end=runs)) + b"\n"


async def line_of(store: Store, run: RunRecord) -> bytes:
    """A run as a line of a file; nothing if somebody has deleted it.

    Raises:
        CorruptHistoryError: it cannot be read.
        ArchiveError: it is too large.
    """
    if run.damage is not None:
        raise CorruptHistoryError(f"Run {run.run_id!r} is not exported: {run.damage}")
    rows, attempts = await asyncio.gather(
        store.read(ReadHistory(run.run_id)), store.read(ReadAttempts(run.run_id))
    )
    if not rows:
        return b""
    decode_rows(rows)  # what nobody could read again is no copy
    history = [
        Event(event_id, number, kind, time, flags, msgspec.Raw(data.encode()))
        for _, event_id, number, kind, time, data, flags in rows
    ]
    line = _encode(Line(run, history, tuple(attempts)))
    # JSON may be written over several lines by other hands than ours.
    line = line.replace(b"\n", b" ") + b"\n"
    if len(line) > limits.EXPORTED_RUN_BYTES_MAX:
        raise ArchiveError(
            f"Run {run.run_id!r} of workflow {run.workflow_id!r} takes"
            f" {len(line):,} bytes, and at most {limits.EXPORTED_RUN_BYTES_MAX:,} of a"
            " run are exported.",
            hint="Leave it out (--where), and copy the database instead (durable db"
            " copy).",
        )
    return line


@contextlib.contextmanager
def writing(path: Path) -> Generator[IO[bytes] | gzip.GzipFile]:
    """Open a new file that appears under its name once it is whole."""
    if os.path.lexists(path):  # which refuses no name, however long
        raise ArchiveError(
            f"{str(path)!r} exists already; an export replaces nothing.",
            hint="Give another name.",
        )
    _remove_left(path.parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}")
    try:
        with os.fdopen(_open_locked(partial), "wb") as raw:
            if path.suffix == ".gz":
                with gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
                    yield packed
            else:
                yield raw
            raw.flush()
            os.fsync(raw.fileno())
        os.rename(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ArchiveError(f"{str(path)!r} cannot be written: {error}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _sync_folder(folder: Path) -> None:
    """Have a file's name survive what the file does; where folders can be opened."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open_locked(partial: Path) -> int:
    """Create a file, and hold its lock for as long as it is open."""
    while True:
        # What runs were given may be nobody else's business.
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        if _locks is None:
            return descriptor
        with contextlib.suppress(OSError):  # a file system without locks
            _locks.flock(descriptor, _locks.LOCK_EX)
        if partial.exists():
            return descriptor
        os.close(descriptor)  # before it was locked, somebody took it for left


def _remove_left(folder: Path) -> None:
    """Remove what killed exports have left, whatever they were to write.

    Nobody holds its lock; and where there are no locks, an open file cannot be removed.
    """
    for left in folder.glob(f".*{_PARTIAL}"):
        with contextlib.suppress(OSError), left.open("rb") as file:
            if _locks is None:
                file.close()
            else:
                _locks.flock(file, _locks.LOCK_EX | _locks.LOCK_NB)
            left.unlink()


def closed_runs(where: Condition | str | None, workflow_id: str | None) -> Listing:
    """Which runs an export takes, oldest first."""
    parts: list[Condition] = [_CLOSED]
    if workflow_id is not None:
        parts.append(Run.id == workflow_id)
    order = Order("CloseTime", is_descending=False)
    return Listing(where=check_where(where), parts=tuple(parts), order_by=order)
