"""Listings read page by page: every run once, and an end to it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from durable.doctor.doctor import read_pages
from durable.store.queries import ListRuns
from durable.store.records import RunFilter, RunRecord


class Listing:
    """The listing of a store, with runs at the given instants."""

    def __init__(self, instants: Sequence[int]) -> None:
        self.asked = 0
        self.runs = sorted(
            ((instant, f"run-{number}") for number, instant in enumerate(instants)),
            reverse=True,
        )

    async def read(self, query: ListRuns) -> list[Any]:
        where = query.where
        self.asked += 1
        assert self.asked < 100, "the pages never end"
        after = where.after
        listed = [run for run in self.runs if after is None or run < after]
        return [Started(*run) for run in listed[: where.limit]]


class Started:
    def __init__(self, started_at: int, run_id: str) -> None:
        self.started_at = started_at
        self.run_id = run_id


async def pages_of(store: Any, size: int) -> AsyncIterator[list[RunRecord]]:
    async for page in read_pages(store, "default", RunFilter(), size=size):
        yield page


@pytest.mark.parametrize(
    "instants",
    [
        [],
        [1],
        [1, 2, 3, 4, 5, 6],
        [1, 1, 1, 2, 2, 3],
        [5, 5, 4, 4, 3, 3, 2, 2],
        [7] * 3,
        [1, 9, 9, 9, 9, 9, 9, 9, 9],
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 3, 4, 5])
async def test_pages_hold_each_run_once(instants: list[int], size: int) -> None:
    listing = Listing(instants)

    found = [run.run_id async for page in pages_of(listing, size) for run in page]

    assert found == [run_id for _, run_id in listing.runs]
