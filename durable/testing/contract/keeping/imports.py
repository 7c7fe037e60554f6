"""What the store's contract says of closed runs that come from elsewhere."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from durable.errors import AttributeTypeError, HistoryTakenError, RunExistsError
from durable.search.conditions import Attribute
from durable.store.queries import (
    FindRun,
    ReadAttempts,
    ReadAttributeKinds,
    ReadHistory,
    SearchRuns,
)
from durable.store.records import (
    AttemptState,
    Deleted,
    DeleteRuns,
    ImportRun,
    Need,
    RunStatus,
    Started,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_attempt,
    make_rows,
    make_run,
    make_start,
)
from durable.testing.contract.searching import CUSTOMER, pack_values

if TYPE_CHECKING:
    from durable.testing.contract.rows import Opened

AMOUNT_AS_TEXT = Attribute("amount", str)
AMOUNT = Attribute("amount", int)


def make_import(run_id: str, /, **changes: Any) -> ImportRun:
    """Build the import of a run that has completed."""
    ends = {"status": RunStatus.COMPLETED, "closed_at": START + 7}
    record = msgspec.structs.replace(make_run(run_id), **(ends | changes))
    attempt = make_attempt(run_id, 2, state=AttemptState.COMPLETED)
    return ImportRun(record=record, rows=make_rows(run_id, 1, 4), attempts=(attempt,))


class ImportContract:
    """What was exported is there again as it was, and harms nothing that is there."""

    async def test_imported_run_is_as_it_was(self, store: Opened) -> None:
        one = make_import("r1", attributes=pack_values({CUSTOMER: "ann"}), state="{}")

        assert await store.perform(one) is None

        assert (await store.load("r1")).record == one.record
        assert await store.read(ReadHistory("r1")) == one.rows
        assert await store.read(ReadAttempts("r1")) == [*one.attempts]
        found = await store.read(SearchRuns(NAMESPACE, CUSTOMER == "ann"))
        assert [run.run_id for run in found] == ["r1"]

    async def test_what_is_there_is_not_imported(self, store: Opened) -> None:
        await store.perform(make_start("r1"))
        same_run = make_import("r1", request_id="other")
        same_request = make_import("r2", request_id="start-r1")

        outcomes = await store.together(
            same_run, same_request, make_import("r3"), make_import("r3")
        )

        assert [type(one) for one in outcomes] == [
            RunExistsError,
            RunExistsError,
            type(None),
            RunExistsError,
        ]
        assert await store.statuses() == {"r1": "running", "r3": "completed"}

    async def test_dry_import_is_refused_alike_and_writes_nothing(
        self, store: Opened
    ) -> None:
        await store.perform(make_start("r1", attributes=pack_values({AMOUNT: 3})))
        others = [
            make_import("r1", request_id="other"),
            make_import("r2", request_id="start-r1"),
            make_import("r3", attributes=pack_values({AMOUNT_AS_TEXT: "3"})),
            make_import("r4", attributes=pack_values({CUSTOMER: "ann"})),
        ]

        outcomes = await store.together(
            *[msgspec.structs.replace(one, is_dry=True) for one in others]
        )

        assert [type(one) for one in outcomes] == [
            RunExistsError,
            RunExistsError,
            AttributeTypeError,
            type(None),
        ]
        assert await store.statuses() == {"r1": "running"}
        assert await store.read(ReadAttributeKinds(NAMESPACE)) == {"amount": "Int"}

    async def test_workflow_id_may_be_that_of_another_run(self, store: Opened) -> None:
        started_at = START - 9
        await store.together(
            make_start("r1", workflow_id="wf"),
            make_import("r2", workflow_id="wf", started_at=started_at),
            make_import("r3", workflow_id="wf", started_at=START + 9),
        )

        found = await store.read(FindRun(NAMESPACE, "wf"))

        assert found is not None
        assert found.run_id == "r1"
        again = await store.perform(
            make_start("r4", workflow_id="free", request_id="start-r2")
        )
        assert again == Started("r2", created=False)

    @pytest.mark.parametrize("is_first", [True, False])
    async def test_first_run_that_was_reset_goes_last_here_too(
        self, store: Opened, is_first: bool
    ) -> None:
        chain = {"workflow_id": "wf-r", "first_run_id": "r"}
        ended = RunStatus.TERMINATED
        first = make_import("r", workflow_id="wf-r", status=ended)
        new = make_import("s", **chain, started_at=START + 5)
        alone = make_import("x", status=ended)
        last = msgspec.structs.replace(
            make_import("t", **chain, started_at=START + 6), is_dry=True
        )
        runs = (first, new) if is_first else (new, first)
        outcomes = await store.together(*runs, alone, last)
        assert outcomes == [None] * 4

        kept = Deleted(("x",), {"r": Need.CHAIN})
        assert await store.perform(DeleteRuns(run_ids=("r", "x"))) == kept
        # The same once more, though the first knows of it.
        assert await store.perform(DeleteRuns(run_ids=("s",))) == Deleted(("s",))
        await store.perform(new)
        assert await store.perform(DeleteRuns(run_ids=("r",))) == Deleted(
            kept={"r": Need.CHAIN}
        )
        both = await store.perform(DeleteRuns(run_ids=("r", "s")))
        assert set(both.run_ids) == {"r", "s"}

    @pytest.mark.parametrize("rows", [make_rows("r1", 2, 3), make_rows("r1", 1, 0)])
    async def test_gap_in_a_history_is_refused(
        self, store: Opened, rows: list[Any]
    ) -> None:
        gapped = [*rows, *make_rows("r1", 5, 5)]
        one = msgspec.structs.replace(make_import("r1"), rows=gapped)

        with pytest.raises(HistoryTakenError):
            await store.perform(one)

        assert await store.statuses() == {}

    async def test_attribute_of_another_type_is_refused(self, store: Opened) -> None:
        await store.perform(make_start("r1", attributes=pack_values({AMOUNT: 3})))
        other = make_import("r2", attributes=pack_values({AMOUNT_AS_TEXT: "3"}))

        with pytest.raises(AttributeTypeError):
            await store.perform(other)

        assert await store.statuses() == {"r1": "running"}
