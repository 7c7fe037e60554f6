"""What the store's contract says of the versions of runs."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from durable.store.queries import (
    CountVersions,
    FindDueVersions,
    FindNextWakeUp,
    FindStuckRuns,
    FindStuckVersions,
    FindUnowned,
)
from durable.store.records import (
    ClaimRuns,
    ParkRun,
    ReleaseRuns,
    RepairRun,
    TerminateRun,
    at_once,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_owned,
    make_run,
    make_start,
)

if TYPE_CHECKING:
    from durable.testing.contract.rows import Opened


class VersionContract:
    """Which worker takes runs of which version."""

    async def test_claim_takes_runs_of_the_versions_that_are_served(
        self, store: Opened
    ) -> None:
        await store.together(
            make_start("none", wake_at=START - 9),
            make_start("old", version="1.0.0", wake_at=START - 8),
            make_start("new", version="2.0.0", wake_at=START - 7),
            make_start(
                "other", workflow_type="trip", version="2.0.0", wake_at=START - 6
            ),
        )
        types, versions = ("order", "trip"), (("order", "1.0.0"),)
        due = FindDueVersions(types, START)
        pairs = [("order", "1.0.0"), ("order", "2.0.0"), ("trip", "2.0.0")]

        assert await store.read(due) == pairs
        assert await store.read(FindDueVersions(types, START - 7)) == pairs[:2]
        assert await store.read(FindDueVersions(("trip",), START)) == pairs[2:]
        claim = ClaimRuns(workflow_types=types, limit=9, versions=versions)
        assert list(await store.perform(claim)) == ["none", "old"]
        assert await store.perform(claim) == {}
        found = await store.read(FindUnowned(NAMESPACE, START, 9))
        assert {(run.run_id, run.version) for run in found} == {
            ("new", "2.0.0"),
            ("other", "2.0.0"),
        }
        await store.perform(ReleaseRuns(run_ids=("none", "old")))
        await store.perform(TerminateRun(**_of("none"), data="{}"))
        await store.perform(TerminateRun(**_of("old"), data="{}"))
        assert await store.read(FindNextWakeUp(types)) is None
        served = (("order", "2.0.0"), ("trip", "1.0.0"))
        assert await store.read(FindNextWakeUp(types, served)) == START - 7
        assert list(
            await store.perform(
                ClaimRuns(workflow_types=types, limit=9, versions=(pairs[2],))
            )
        ) == ["other"]

    async def test_stuck_run_is_tried_by_who_serves_its_version(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("old", version="1.0.0"))
        await store.perform(ParkRun(run_id="old", stuck="{}"))
        served = (("order", "1.0.0"),)

        assert await store.read(FindStuckRuns(["order"], "", 9)) == []
        assert await store.read(FindStuckRuns(["order"], "", 9, served)) == ["old"]
        assert await store.read(FindStuckVersions(["order"])) == list(served)
        assert await store.read(FindStuckVersions(["trip"])) == []
        claim = ClaimRuns(workflow_types=("order",), limit=9, stuck_after="")
        assert await store.perform(claim) == {}
        claim = msgspec.structs.replace(claim, versions=served)
        assert list(await store.perform(claim)) == ["old"]
        assert await store.read(FindStuckVersions(["order"])) == []

    async def test_open_runs_are_counted_by_version(self, store: Opened) -> None:
        await store.together(
            make_start("a"),
            make_start("b", version="1.0.0", started_at=START + 2),
            make_start("c", version="1.0.0", started_at=START + 1),
            make_start("d", version="1.0.0", workflow_type="trip"),
            make_start("e", version="3.0.0"),
            make_start("f", version="1.0.0", namespace="another"),
        )
        await store.perform(TerminateRun(**_of("e"), data="{}"))

        assert await store.read(CountVersions(NAMESPACE)) == [
            ("order", None, 1, START),
            ("order", "1.0.0", 2, START + 1),
            ("trip", "1.0.0", 1, START),
        ]

    async def test_repair_may_move_the_run_to_another_version(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1", version="1.0.0"))
        move = RepairRun(run_id="r1", expected=(1, 2), keep=2, version="2.0.0")

        assert await store.perform(move)

        loaded = await store.load("r1")
        assert loaded.record == make_run(
            "r1", version="2.0.0", wake_at=at_once(START), epoch=1
        )
        assert not await store.perform(
            msgspec.structs.replace(move, expected=(1,), version="3.0.0")
        )
        assert (await store.load("r1")).record.version == "2.0.0"


def _of(run_id: str) -> dict[str, Any]:
    return {"namespace": NAMESPACE, "workflow_id": f"wf-{run_id}", "run_id": run_id}
