"""The doctor: finds each planted fault and nothing else, and nothing in health."""

import asyncio
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import pytest

from durable import Engine
from durable.doctor.doctor import (
    examine,
    find_sqlite_bug,
)
from durable.doctor.findings import Check, Finding
from durable.store.connect import connect
from durable.store.queries import CheckIntegrity, LoadRuns, Query
from durable.store.records import RunStatus
from durable.store.store import Store
from tests.integration.doctors_patient import (
    HOUR,
    Patient,
    add,
    adding,
    buggy,
    forever,
    retrying,
    run_all_kinds,
    sleeping,
    tries,
    wait_until,
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doctor") / "template.db"
    tries.clear()
    asyncio.run(run_all_kinds(f"sqlite:///{path}"))
    return path


@pytest.fixture
def patient(template: Path, tmp_path: Path) -> Patient:
    copy = tmp_path / "patient.db"
    shutil.copyfile(template, copy)
    return Patient(copy)


# --- health ---------------------------------------------------------------------------


async def test_database_after_real_runs_has_no_findings(patient: Patient) -> None:
    assert await patient.examine() == []


@pytest.mark.slow
async def test_runs_in_full_swing_give_no_findings(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'busy.db'}"
    found: list[Finding] = []
    async with Engine(url) as engine:
        store = connect(url, migrate=False)
        await store.open()

        async def look() -> None:
            while True:
                found.extend([one async for one in examine(store, settle=0.05)])

        looking = asyncio.create_task(look())
        calls = [adding(5) for _ in range(150)]
        calls += [retrying(f"swing-{index}") for index in range(150)]
        await asyncio.gather(*(engine.execute(call) for call in calls))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        found += [one async for one in examine(store, settle=0.05)]
        await store.close()
    assert found == []


# --- planted faults -------------------------------------------------------------------

MARKER = '{"marker_name": "planted", "details": {}}'
Planting = Callable[[Patient], None]
FAULTS: list[tuple[str, Check, str, Planting]] = []


def fault(check: Check, workflow_id: str = "added") -> Callable[[Planting], Planting]:
    """Enter a fault, and the one finding that it must cause."""

    def enter(planting: Planting) -> Planting:
        FAULTS.append((planting.__name__, check, workflow_id, planting))
        return planting

    return enter


@fault(Check.POSITIONS)
def gap_in_positions(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET event_id = event_id + 1"
        " WHERE run_id = :run AND event_id = :last",
        "added",
    )


@fault(Check.ENDS)
def event_after_the_terminal_one(patient: Patient) -> None:
    patient.append("added", "MarkerRecorded", MARKER)


@fault(Check.STATUS)
def status_of_another_ending(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET status = 'failed' WHERE run_id = :run", "added"
    )


@fault(Check.STATUS)
def closed_without_an_instant(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET closed_at = NULL WHERE run_id = :run", "added"
    )


@fault(Check.OUTCOMES, "sleeping")
def second_outcome_of_an_activity(patient: Patient) -> None:
    patient.plant(
        "INSERT INTO durable_history SELECT run_id, 5, 3, type, time, data, flags"
        " FROM durable_history WHERE run_id = :run AND type = 'ActivityTaskCompleted'",
        "sleeping",
    )


@fault(Check.ATTEMPTS, "retried")
def missing_attempt(patient: Patient) -> None:
    patient.plant(
        "DELETE FROM durable_attempts WHERE run_id = :run AND attempt = 2", "retried"
    )


@fault(Check.ATTEMPTS, "retried")
def more_attempts_than_the_policy_allows(patient: Patient) -> None:
    patient.plant(
        "INSERT INTO durable_attempts SELECT run_id, scheduled_event_id, 4,"
        " activity_type,"
        " state, due_at, started_at, closed_at, failure, worker_id, NULL, NULL"
        " FROM durable_attempts"
        " WHERE run_id = :run AND attempt = 3",
        "retried",
    )


@fault(Check.ATTEMPTS, "retried")
def open_attempt_before_the_last(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_attempts SET state = 'started' WHERE run_id = :run AND attempt"
        " = 1",
        "retried",
    )


@fault(Check.TIMES)
def time_that_falls(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET time = 5 WHERE run_id = :run AND event_id = :last",
        "added",
    )


@fault(Check.MESSAGES, "cancelled")
def cancelled_though_nobody_asked(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET type = 'MarkerRecorded', data = :a WHERE run_id ="
        " :run"
        " AND type = 'WorkflowExecutionCancelRequested'",
        "cancelled",
        MARKER,
    )


@fault(Check.MESSAGES, "cancelled")
def message_that_was_delivered_already(patient: Patient) -> None:
    patient.plant(
        "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
        " SELECT run_id, 'cancel', data ->> 'request_id', data, time"
        " FROM durable_history"
        " WHERE run_id = :run AND type = 'WorkflowExecutionCancelRequested'",
        "cancelled",
    )


@fault(Check.PAYLOADS)
def data_of_a_wrong_shape(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET data = '{}' WHERE run_id = :run AND event_id = 2",
        "added",
    )


@fault(Check.PAYLOADS)
def type_that_nobody_knows(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET type = 'Sabotaged' WHERE run_id = :run"
        " AND event_id = 2",
        "added",
    )


@fault(Check.PAYLOADS)
def encoding_that_is_not_allowed(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history"
        ' SET data = \'{"result": {"encoding": "pickle", "data": ""}}\''
        " WHERE run_id = :run AND event_id = :last",
        "added",
    )


@fault(Check.PAYLOADS)
def value_beyond_the_limit(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET data = :a WHERE run_id = :run AND event_id = :last",
        "added",
        '{"result": {"json": "%s"}}' % ("x" * 2**21),
    )


@fault(Check.PAYLOADS, "retried")
def failure_that_cannot_be_read(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_attempts SET failure = 'lost' WHERE run_id = :run AND attempt"
        " = 1",
        "retried",
    )


@fault(Check.ROWS)
def row_of_another_workflow(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET workflow_type = 'x' WHERE run_id = :run", "added"
    )


@fault(Check.ROWS)
def row_that_started_at_another_time(patient: Patient) -> None:
    patient.plant("UPDATE durable_runs SET started_at = 5 WHERE run_id = :run", "added")


@fault(Check.ROWS)
def attempt_of_no_activity(patient: Patient) -> None:
    patient.plant(
        "INSERT INTO durable_attempts VALUES (:run, 1, 1, 'x', 'failed', 1, 1, 1,"
        " NULL, NULL, NULL, NULL)",
        "added",
    )


@fault(Check.ROWS, "retried")
def attempt_open_after_the_outcome(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_attempts SET state = 'started' WHERE run_id = :run AND attempt"
        " = 3",
        "retried",
    )


@fault(Check.ROWS)
def message_for_a_closed_run(patient: Patient) -> None:
    patient.mail("added", "r1", created_at=1)


@fault(Check.WAITING, "hanging")
def activity_that_nobody_looks_after(patient: Patient) -> None:
    patient.plant("DELETE FROM durable_attempts WHERE run_id = :run", "hanging")
    patient.plant(
        "UPDATE durable_runs SET owner = NULL, wake_at = NULL WHERE run_id = :run",
        "hanging",
    )


@fault(Check.LOST_WAKE_UP, "sleeping")
def timer_without_a_wake_up(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET wake_at = NULL WHERE run_id = :run", "sleeping"
    )


@fault(Check.LOST_WAKE_UP, "sleeping")
def wake_up_after_the_timer(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET wake_at = wake_at + 1 WHERE run_id = :run", "sleeping"
    )


def leave_an_outcome(patient: Patient, *, wake_at: int | None) -> None:
    """Record an outcome that no task has taken, and when its run is looked at."""
    patient.append(
        "hanging",
        "ActivityTaskCompleted",
        '{"scheduled_event_id": 2, "result": {}, "attempt": 1, "started_at": 1}',
        task=0,
    )
    patient.plant("DELETE FROM durable_attempts WHERE run_id = :run", "hanging")
    patient.plant(
        "UPDATE durable_runs SET owner = NULL, wake_at = :a WHERE run_id = :run",
        "hanging",
        wake_at,
    )


@fault(Check.LOST_WAKE_UP, "hanging")
def outcome_that_no_task_takes(patient: Patient) -> None:
    leave_an_outcome(patient, wake_at=None)


@fault(Check.LOST_WAKE_UP, "hanging")
def outcome_that_waits_for_another_clock(patient: Patient) -> None:
    leave_an_outcome(patient, wake_at=patient.now() + HOUR)


@fault(Check.LOST_WAKE_UP, "sleeping")
def mail_that_its_worker_ignores(patient: Patient) -> None:
    patient.own("sleeping", "w1")
    patient.mail("sleeping", "r1", created_at=patient.now() - HOUR)


@fault(Check.LEASES)
def closed_run_with_an_owner(patient: Patient) -> None:
    patient.plant("UPDATE durable_runs SET owner = 'w1' WHERE run_id = :run", "added")


@fault(Check.LEASES)
def closed_run_with_a_wake_up(patient: Patient) -> None:
    patient.plant("UPDATE durable_runs SET wake_at = 1 WHERE run_id = :run", "added")


@fault(Check.LEASES, "sleeping")
def owner_without_a_row(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET owner = 'w1' WHERE run_id = :run", "sleeping"
    )


@pytest.mark.parametrize(
    ("check", "workflow_id", "planting"),
    [fault[1:] for fault in FAULTS],
    ids=[fault[0] for fault in FAULTS],
)
async def test_planted_fault_is_the_only_finding(
    check: Check, workflow_id: str, planting: Planting, patient: Patient
) -> None:
    planting(patient)

    (finding,) = await patient.examine()

    assert finding.check is check
    assert finding.run is not None
    assert finding.run.workflow_id == workflow_id
    assert finding.run.run_id == patient.run_id(workflow_id)
    assert finding.message


async def test_what_another_process_begins_in_a_moment_is_no_fault(
    patient: Patient,
) -> None:
    leave_an_outcome(patient, wake_at=patient.now() + 1)

    assert await patient.examine() == []


async def test_overdue_run_of_a_living_worker_has_lost_its_wake_up(
    patient: Patient,
) -> None:
    patient.own("sleeping", "w1")
    patient.own("hanging", "w2")
    patient.plant(
        "UPDATE durable_runs SET wake_at = NULL WHERE run_id = :run", "hanging"
    )

    (finding,) = await patient.examine(hours_ahead=2)

    assert finding.check is Check.LOST_WAKE_UP
    assert re.search(r"36\d\d s ago", finding.message)


async def test_dead_worker_beside_living_ones_is_a_fault(patient: Patient) -> None:
    patient.own("sleeping", "dead", lease_hours=-1)
    patient.own("hanging", "alive")

    (finding,) = await patient.examine()

    assert (finding.check, finding.run) == (Check.LEASES, None)
    assert "'dead'" in finding.message
    assert "1 open run" in finding.message


async def test_dead_worker_alone_is_no_fault_of_the_database(patient: Patient) -> None:
    patient.own("sleeping", "dead", lease_hours=-1)
    patient.own("hanging", "dead too", lease_hours=-1)

    findings = await patient.examine()

    assert [finding.check for finding in findings] == [Check.EXPIRED_LEASE] * 2


async def test_two_open_runs_of_one_id_are_found(patient: Patient) -> None:
    # The unique key forbids it, so it takes a row that the key does not see.
    patient.plant(
        "UPDATE durable_runs SET open_key = NULL WHERE run_id = :run", "sleeping"
    )
    async with Engine(patient.url, definitions=[add, sleeping]) as engine:
        await engine.start(sleeping(), id="sleeping", id_reuse="new_run")
        await wait_until(engine, "sleeping", "TimerStarted")

    found = await patient.examine()
    assert any("no key of an open run" in finding.message for finding in found)
    (finding,) = [one for one in found if one.check is Check.UNIQUE]

    assert finding.check is Check.UNIQUE


async def test_two_runs_of_one_request_are_found(patient: Patient) -> None:
    # The table is made anew without its unique keys.
    for statement in (
        "CREATE TABLE unkeyed AS SELECT * FROM durable_runs",
        "DROP TABLE durable_runs",
        "ALTER TABLE unkeyed RENAME TO durable_runs",
        "UPDATE durable_runs SET request_id = 'r1' WHERE workflow_id IN ('added',"
        " 'failed')",
        "UPDATE durable_history SET data = json_set(data, '$.request_id', 'r1')"
        " WHERE event_id = 1",
        "UPDATE durable_history SET data = json_set(data, '$.request_id', run_id)"
        " WHERE event_id = 1 AND run_id NOT IN"
        " (SELECT run_id FROM durable_runs WHERE request_id = 'r1')",
    ):
        patient.execute(statement)

    (finding,) = await patient.examine()

    assert finding.check is Check.UNIQUE
    assert "'r1'" in finding.message


# --- what is no fault of the database -------------------------------------------------


async def test_stuck_run_is_named_with_its_reason(patient: Patient) -> None:
    async with Engine(patient.url, definitions=[buggy]) as engine:
        handle = await engine.start(buggy(), id="stuck")
        with pytest.raises(Exception, match="stuck"):
            await handle.result()

    (finding,) = await patient.examine()

    assert finding.check is Check.STUCK
    assert finding.run is not None
    assert finding.run.workflow_id == "stuck"
    assert "IndexError: list index out of range" in finding.message


async def test_run_that_waits_for_nothing_but_a_message_is_sound(
    tmp_path: Path,
) -> None:
    # Whether its code waits for a signal, only its code knows.
    patient = Patient(tmp_path / "forever.db")
    async with Engine(patient.url, definitions=[forever]) as engine:
        await engine.start(forever(), id="forever")

        assert await patient.examine() == []


async def test_due_runs_without_any_worker_are_counted(patient: Patient) -> None:
    findings = await patient.examine(hours_ahead=2)

    assert [(finding.check, finding.run) for finding in findings] == [
        (Check.NO_WORKER, None),
        (Check.NO_WORKER, None),
    ]
    assert "1 run of 'doctor_hanging'" in findings[0].message
    assert all("no worker serves it" in finding.message for finding in findings)


async def test_runs_that_no_worker_of_their_queue_knows_are_counted(
    patient: Patient,
) -> None:
    patient.add_worker("w1", lease_hours=9)

    findings = await patient.examine(hours_ahead=0.1)

    # Of the two runs that are open one only is due.
    (finding,) = findings
    assert finding.check is Check.NO_WORKER
    assert "1 run of 'doctor_hanging'" in finding.message
    assert "knows that workflow" in finding.message


def test_sqlite_of_the_wal_reset_bug_matters_to_several_workers_only() -> None:
    assert list(find_sqlite_bug((3, 40, 1), 1)) == []
    assert list(find_sqlite_bug((3, 51, 3), 2)) == []
    assert list(find_sqlite_bug(None, 2)) == []
    (finding,) = find_sqlite_bug((3, 40, 1), 2)
    assert finding.check is Check.SQLITE_VERSION
    assert finding.check.is_notice
    assert "3.40.1" in finding.message


T = TypeVar("T")


class Checked:
    """A store that can also examine its file."""

    def __init__(self, store: Store, answer: list[str]) -> None:
        self._store = store
        self._answer = answer

    async def read(self, query: Query[T]) -> T:
        if isinstance(query, CheckIntegrity):
            return cast("T", self._answer)
        return await self._store.read(query)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_what_the_database_finds_wrong_with_itself_is_passed_on() -> None:
    inner = connect("memory://")
    await inner.open()
    store = Checked(inner, ["row 3 missing from index durable_runs_due"])
    as_store: Any = store

    findings = [finding async for finding in examine(as_store)]
    await inner.close()

    assert [finding.check for finding in findings] == [Check.INTEGRITY]


class Moving:
    """A store whose runs look stuck at the first look only."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.looks = 0

    async def read(self, query: Query[T]) -> T:
        answer: Any = await self._store.read(query)
        if isinstance(query, LoadRuns):
            self.looks += 1
            if self.looks == 1:
                replace = msgspec.structs.replace
                answer = [
                    replace(run, record=replace(run.record, status=RunStatus.RUNNING))
                    for run in answer
                ]
        return cast("T", answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_what_is_wrong_for_a_moment_only_is_not_reported(
    patient: Patient,
) -> None:
    inner = connect(patient.url, migrate=False)
    await inner.open()
    store = Moving(inner)
    as_store: Any = store

    findings = [finding async for finding in examine(as_store, settle=0)]
    await inner.close()

    assert findings == []
    assert store.looks == 2
