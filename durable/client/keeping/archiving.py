"""Runs whose time is over, put into an archive before they are deleted.

Each page of a sweep is a file of its own, as an export writes it. It is on the disk
under its name before one of its runs is deleted, so whoever is killed in between leaves
runs in two files at worst: the next sweep archives what is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from durable.client.keeping.archive import PAGE, end_of, head_of, line_of, writing
from durable.clock import to_datetime
from durable.errors import ArchiveError, CorruptHistoryError
from durable.store.records import Deleted, DeleteRuns, RunRecord
from durable.store.store import Store

UNREADABLE: Final = "unreadable"
"""Why a run is kept that cannot be exported."""
_NAME_CHARS: Final = 100
"""Of a namespace in the name of a file; most systems take 255 in all."""
_log: Final = logging.getLogger("durable.client")


async def archive(
    store: Store, namespace: str, runs: Sequence[RunRecord], folder: Path
) -> tuple[list[str], Counter[str]]:
    """Write closed runs to a new file of a folder, unless they have to stay.

    When this returns, the file is durable. What stays is in no file, or each sweep
    would write it again. Where nothing is to go there is no file.

    Returns:
        Which runs are in the file; and how many stay, by why.

    Raises:
        ArchiveError: the folder or the file cannot be written.
    """
    kept = Counter[str]()
    left: list[RunRecord] = [*runs]
    while left:
        asked = DeleteRuns(run_ids=tuple(run.run_id for run in left), is_dry=True)
        free: Deleted = await store.perform(asked)
        kept.update(need.value for need in free.kept.values())
        wanted = frozenset(free.run_ids)
        left = [run for run in left if run.run_id in wanted]
        try:
            if left:
                await _write(store, namespace, left, folder)
            break
        except _LeftOut as left_out:
            # They may keep others, so what is to be written is not known yet.
            kept.update([UNREADABLE] * left_out.unreadable)
            left = [run for run in left if run.run_id not in left_out.run_ids]
    return [run.run_id for run in left], kept


class _LeftOut(Exception):
    """Some runs are gone, and so many cannot be read."""

    def __init__(self, run_ids: set[str], unreadable: int) -> None:
        super().__init__()
        self.run_ids, self.unreadable = run_ids, unreadable


async def _write(
    store: Store, namespace: str, runs: Sequence[RunRecord], folder: Path
) -> None:
    """Write all of them to a file.

    Raises:
        _LeftOut: some are not in it; there is no file then.
        ArchiveError: as `archive`.
    """
    left_out: dict[str, bytes | None] = {}
    path = await asyncio.to_thread(_new_file, folder, namespace, store.now())
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(writing(path))
        await asyncio.to_thread(file.write, head_of(namespace, store.now()))
        for at in range(0, len(runs), PAGE):
            some = runs[at : at + PAGE]
            lines = await asyncio.gather(*[_line(store, run) for run in some])
            whole = [line for line in lines if line]
            if len(whole) == len(lines):
                await asyncio.to_thread(file.write, b"".join(whole))
            pairs = zip(some, lines, strict=True)
            left_out |= {run.run_id: line for run, line in pairs if not line}
        if left_out:
            raise _LeftOut({*left_out}, [*left_out.values()].count(None))
        await asyncio.to_thread(file.write, end_of(len(runs)))
        await asyncio.to_thread(stack.close)


def _new_file(folder: Path, namespace: str, now: int) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"{str(folder)!r} cannot be made: {error}.") from error
    at = to_datetime(now).strftime("%Y%m%dT%H%M%SZ")
    name = quote(namespace, safe="")[:_NAME_CHARS]
    return folder / f"{name}-{at}-{secrets.token_hex(6)}.jsonl.gz"


async def _line(store: Store, run: RunRecord) -> bytes | None:
    """A run as a line; nothing if it is gone, None if it cannot be one."""
    try:
        return await line_of(store, run)
    except (ArchiveError, CorruptHistoryError) as error:
        _log.warning("A closed run is kept though its time is over. %s", error)
        return None
