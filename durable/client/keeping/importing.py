"""Closed runs of a file, brought back to be read.

A file is read twice: first to see whether all of it can be written, which nothing is
until then, and then to write it.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import zlib
from collections.abc import AsyncIterator, Generator, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from durable import limits
from durable.client.keeping.archive import VERSION, Head, Imported, Line
from durable.core.history.codec import UNREADABLE, decode_rows
from durable.errors import (
    ArchiveError,
    AttributeTypeError,
    CorruptHistoryError,
    DurableError,
    RunExistsError,
)
from durable.search.kinds import kept_in, kinds_in
from durable.store.records import (
    AttemptRecord,
    HistoryRow,
    ImportRun,
    RunRecord,
    RunStatus,
)
from durable.store.store import Store

PAGE: Final = 100
"""Runs that are checked, or written, at once."""
PAGE_BYTES: Final = 16 * 1024 * 1024
"""No more are read for one page once they take so many bytes of the file."""
_JSON_FIELDS: Final = frozenset({"state", "memo", "attributes", "failure"})
T = TypeVar("T")


class _Read(NamedTuple):
    """A run of a file, and where it is there."""

    number: int
    run: ImportRun


async def import_runs(
    store: Store, namespace: str, path: Path, *, skips_existing: bool, is_dry: bool
) -> Imported:
    """Create the runs of a file, once all of it was read and nothing is in its way.

    In a dry run all is checked, and nothing is created.

    Raises:
        ArchiveError: it cannot be read, or is of another namespace.
        RunExistsError: a run is there, and is not to be skipped.
        AttributeTypeError: an attribute of the namespace has another type.
    """
    found, known = await _check(store, namespace, path, skips_existing=skips_existing)
    if is_dry:
        return Imported(found - len(known), len(known))
    created, skipped = 0, len(known)
    try:
        async for page in _pages(path, namespace):
            new = [run for _, run in page if run.record.run_id not in known]
            outcomes = await _perform_all(store, new)
            created += outcomes.count(None)
            # Whoever has brought it in since the file was checked.
            there = [isinstance(one, RunExistsError) for one in outcomes]
            skipped += sum(there) if skips_existing else 0
            for error, is_there in zip(outcomes, there, strict=True):
                if error is not None and not (is_there and skips_existing):
                    raise error
    except DurableError as error:
        _say_how_far(error, created)
        raise
    return Imported(created, skipped)


async def _check(
    store: Store, namespace: str, path: Path, *, skips_existing: bool
) -> tuple[int, set[str]]:
    """Return how many runs a file has, and the ids of those that are there already.

    Raises: as `import_runs`; nothing was written then.
    """
    found, known = 0, set[str]()
    once = _Once(path)
    async for page in _pages(path, namespace):
        found += len(page)
        for number, run in page:
            once.check(number, run.record)
        asked = [msgspec.structs.replace(run, is_dry=True) for _, run in page]
        outcomes = await _perform_all(store, asked)
        for run, error in zip(asked, outcomes, strict=True):
            if isinstance(error, RunExistsError) and skips_existing:
                known.add(run.record.run_id)
            elif isinstance(error, RunExistsError | AttributeTypeError):
                raise _because(error, f"{error.message} Nothing was imported.")
            elif error is not None:
                raise error
    return found, known


async def _perform_all(
    store: Store, operations: Iterable[ImportRun]
) -> list[DurableError | None]:
    """Return what each has come to, once that is known of all of them."""
    outcomes: list[DurableError | None] = []
    for outcome in await asyncio.gather(
        *map(store.perform, operations), return_exceptions=True
    ):
        if isinstance(outcome, BaseException) and not isinstance(outcome, DurableError):
            raise outcome
        outcomes.append(outcome)
    return outcomes


def _say_how_far(error: DurableError, created: int) -> None:
    """Let an error say what was written before it."""
    count = "1 run was" if created == 1 else f"{created:,} runs were"
    hint = (
        "Import it again with skip_existing=True (--skip-existing): the rest follows."
    )
    _because(error, f"{error.message} The import has stopped; {count} imported.", hint)


def _because(
    error: DurableError, message: str, hint: str | None = None
) -> DurableError:
    """The same error in other words."""
    error.message = message
    error.hint = error.hint if hint is None else hint
    error.args = (message if error.hint is None else f"{message} {error.hint}",)
    return error


class _Once:
    """What one file may not have twice, or in two ways."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Of a million runs the ids themselves would take a good part of the memory.
        self._ids: set[int] = set()
        self._kinds: dict[str, str] = {}

    def check(self, number: int, record: RunRecord) -> None:
        """Take note of a run.

        Raises:
            ArchiveError: it does not go with those before it.
        """
        for what in ("run_id", "request_id"):
            value: str = getattr(record, what)
            key = hash((what, value))
            if key in self._ids:
                words = what.replace("_", " ")
                raise broken(self._path, number, f"the {words} {value!r} comes twice")
            self._ids.add(key)
        for name, kind in kinds_in(record.attributes or "{}").items():
            if self._kinds.setdefault(name, kind) != kind:
                raise broken(
                    self._path, number, f"its attribute {name!r} has another type"
                )


# --- reading --------------------------------------------------------------------------


async def _pages(path: Path, namespace: str) -> AsyncIterator[list[_Read]]:
    with contextlib.closing(_read_pages(path, namespace)) as pages:
        while (page := await asyncio.to_thread(next, pages, None)) is not None:
            yield page


def _read_pages(path: Path, namespace: str) -> Generator[list[_Read]]:
    page: list[_Read] = []
    size = 0
    for number, length, run in _read_runs(path, namespace):
        page.append(_Read(number, run))
        size += length
        if len(page) == PAGE or size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    yield page


def _read_runs(path: Path, namespace: str) -> Iterator[tuple[int, int, ImportRun]]:
    number = runs = 0
    is_whole = False
    # To the end of the file: what was compressed has its checksum behind the last line.
    for number, line in _read_lines(path):
        if is_whole:
            raise broken(path, number, "it comes after the end")
        if number == 1:
            _check_head(path, _decode(path, 1, line, Head), namespace)
            continue
        found = _decode(path, number, line, Line)
        if found.end is None:
            yield number, len(line), _to_import(path, number, found, namespace)
            runs += 1
        elif found.end != runs:
            raise broken(path, number, f"it says {found.end} runs, not {runs}")
        else:
            is_whole = True
    if not is_whole:
        raise broken(path, number, "the file is cut off after it")


def _read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    most = limits.EXPORTED_RUN_BYTES_MAX
    number = 0
    try:
        with path.open("rb") as raw:
            is_packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) if is_packed else raw as file:
                while line := file.readline(most + 1):
                    number += 1
                    if len(line) > most:
                        raise broken(path, number, f"it is longer than {most:,} bytes")
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise ArchiveError(f"{str(path)!r} cannot be read: {error}.") from error


def _decode(path: Path, number: int, line: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(line, type=kind)
    except UNREADABLE as error:
        raise broken(path, number, str(error)) from None


def _check_head(path: Path, head: Head, namespace: str) -> None:
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


def _to_import(path: Path, number: int, line: Line, namespace: str) -> ImportRun:
    record = line.run
    if record is None:
        raise broken(path, number, "it is neither a run nor the end")
    is_closed = record.status is not RunStatus.RUNNING and record.closed_at is not None
    is_at_rest = (record.owner, record.wake_at, record.stuck) == (None, None, None)
    if not (is_closed and is_at_rest) or record.namespace != namespace:
        raise broken(path, number, "it is no closed run of the file's namespace")
    rows: list[HistoryRow] = [
        (
            record.run_id,
            event.event_id,
            event.task_number,
            event.type,
            event.time,
            bytes(event.data).decode(errors="replace"),
            event.flags,
        )
        for event in line.history
    ]
    try:
        decode_rows(rows)
        kept_in(record.attributes)
    except CorruptHistoryError as error:
        raise broken(path, number, error.message) from error
    except UNREADABLE as error:
        raise broken(path, number, f"its attributes: {error}") from error
    is_own = all(attempt.run_id == record.run_id for attempt in line.attempts)
    if [row[1] for row in rows] != [*range(1, len(rows) + 1)] or not (rows and is_own):
        raise broken(path, number, "its history or attempts are not whole")
    kept: list[RunRecord | AttemptRecord] = [record, *line.attempts]
    for row in kept:
        _check_texts(path, number, row)
    return ImportRun(record=record, rows=rows, attempts=line.attempts)


def _check_texts(path: Path, number: int, row: RunRecord | AttemptRecord) -> None:
    """Return if every database keeps the texts of a row as they are."""
    for name, value in msgspec.structs.asdict(row).items():
        if isinstance(value, str):
            most = None if name in _JSON_FIELDS else limits.ID_BYTES_MAX
            is_long = most is not None and len(value.encode()) > most
            if is_long or "\0" in value:
                raise broken(path, number, f"its {name} is {value[:40]!r}")


def broken(path: Path, number: int, why: str) -> ArchiveError:
    return ArchiveError(
        f"Line {number} of {str(path)!r} is not what an export holds: {why}.",
        hint="Nothing was imported.",
        line=number,
    )
