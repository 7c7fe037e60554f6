"""The doctor on runs that belong together: each planted fault is its only finding."""

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from durable import Engine
from durable.doctor.doctor import examine
from durable.doctor.findings import Check, Finding
from durable.store.connect import connect
from tests.integration import doctors_family as app
from tests.integration.doctors_patient import Patient

MARKER = '{"marker_name": "planted", "details": {}}'
Planting = Callable[[Patient], None]
FAULTS: list[tuple[str, Check, str, Planting]] = []


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("doctor") / "families.db"
    asyncio.run(app.run_families(f"sqlite:///{path}"))
    return path


@pytest.fixture
def patient(template: Path, tmp_path: Path) -> Patient:
    copy = tmp_path / "patient.db"
    shutil.copyfile(template, copy)
    return Patient(copy)


def fault(check: Check, workflow_id: str) -> Callable[[Planting], Planting]:
    """Enter a fault, and the one finding that it must cause."""

    def enter(planting: Planting) -> Planting:
        FAULTS.append((planting.__name__, check, workflow_id, planting))
        return planting

    return enter


def read(patient: Patient, question: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(patient.path)) as connection:
        return connection.execute(question, values).fetchall()


def chain_of(patient: Patient) -> list[str]:
    """The runs of the chain, from the first."""
    question = (
        "SELECT run_id FROM durable_runs WHERE workflow_id = 'chain'"
        " ORDER BY started_at"
    )
    return [run_id for (run_id,) in read(patient, question)]


def replace_start(patient: Patient, workflow_id: str, field: str, value: Any) -> None:
    """Write something into a run's row, and into its first event."""
    change = f"UPDATE durable_runs SET {field} = :a WHERE run_id = :run"  # noqa: S608 - a name of ours
    patient.plant(change, workflow_id, value)
    patient.plant(
        "UPDATE durable_history SET data = json_set(data, :a, :b)"
        " WHERE run_id = :run AND event_id = 1",
        workflow_id,
        f"$.{field}",
        value,
    )


def put(patient: Patient, workflow_id: str, kind: str, data: str, at: int = 1) -> None:
    patient.plant(
        "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
        " VALUES (:run, :a, 'planted', :b, :c)",
        workflow_id,
        kind,
        data,
        at,
    )


def close(patient: Patient, workflow_id: str) -> None:
    """Terminate a run as if it had been alone in the world."""
    patient.append(workflow_id, "WorkflowExecutionTerminated", '{"reason": ""}')
    patient.plant(
        "UPDATE durable_runs SET status = 'terminated', closed_at = 1, open_key = NULL,"
        " owner = NULL, wake_at = NULL WHERE run_id = :run",
        workflow_id,
    )


def child_event(patient: Patient, parent: str, child: str) -> int:
    (number,) = read(
        patient,
        "SELECT event_id FROM durable_history WHERE run_id = ?"
        " AND type = 'StartChildWorkflowExecutionInitiated'"
        " AND data ->> 'workflow_id' = ?",
        patient.run_id(parent),
        child,
    )[0]
    return int(number)


def news(patient: Patient, parent: str, child: str, number: int) -> str:
    return (
        '{"type": "ChildWorkflowExecutionTerminated", "event": {"initiated_event_id":'
        f' {number}, "workflow_id": "{child}", "run_id": "{patient.run_id(child)}",'
        ' "workflow_type": "doctor_kid"}}'
    )


# --- health ---------------------------------------------------------------------------


async def test_database_of_families_has_no_findings(patient: Patient) -> None:
    assert await patient.examine() == []


@pytest.mark.slow
async def test_families_in_full_swing_give_no_findings(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'busy.db'}"
    found: list[Finding] = []
    async with Engine(url, definitions=app.DEFINITIONS) as engine:
        store = connect(url, migrate=False)
        await store.open()

        async def look() -> None:
            while True:
                found.extend([one async for one in examine(store, settle=0.05)])

        async def trade(number: int) -> None:
            shop = await engine.start(app.Shop.trade(), id=f"shop-{number}")
            for _ in range(4):
                await shop.signal(app.Shop.sell(3))
            await shop.result()

        async def link(number: int) -> None:
            links = await engine.start(app.chain(3), id=f"chain-{number}")
            for _ in range(9):
                await links.signal(app.go(1))
            await links.result()

        async def raise_children(number: int) -> None:
            names = [f"kid-{number}-{index}" for index in range(3)]
            await engine.execute(app.brood(*names), id=f"brood-{number}")

        looking = asyncio.create_task(look())
        for work in (trade, link, raise_children):
            await asyncio.gather(*(work(number) for number in range(40)))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        found += [one async for one in examine(store, settle=0.05)]
        await store.close()
    assert found == []


# --- chains ---------------------------------------------------------------------------


@fault(Check.SUCCESSION, "chain")
def successor_that_does_not_exist(patient: Patient) -> None:
    *_, middle, last = chain_of(patient)
    patient.plant_in(last, "DELETE FROM durable_runs WHERE run_id = :run")
    assert patient.run_id("chain") == middle


@fault(Check.SUCCESSION, "chain")
def successor_of_another_chain(patient: Patient) -> None:
    replace_start(patient, "chain", "first_run_id", "x")


@fault(Check.SUCCESSION, "chain")
def two_successors_of_one_run(patient: Patient) -> None:
    first, *_ = chain_of(patient)
    # It started later, so it is seen first, and the true one comes as the second.
    replace_start(patient, "shop", "continued_from_run_id", first)


@fault(Check.SUCCESSION, "estate")
def successor_of_a_run_that_has_completed(patient: Patient) -> None:
    run_id = patient.run_id("estate")
    replace_start(patient, "shop", "continued_from_run_id", run_id)


# --- parents and children -------------------------------------------------------------


@fault(Check.FAMILY, "heir")
def child_that_should_have_been_terminated(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET parent_close_policy = 'terminate' WHERE run_id = :run",
        "heir",
    )


@fault(Check.FAMILY, "ward")
def child_that_should_have_been_asked_to_stop(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET type = 'MarkerRecorded', data = :a WHERE run_id ="
        " :run"
        " AND type = 'WorkflowExecutionCancelRequested'",
        "ward",
        MARKER,
    )


@fault(Check.FAMILY, "family")
def child_that_closed_and_told_nobody(patient: Patient) -> None:
    close(patient, "kid-1")


@fault(Check.FAMILY, "family")
def chain_of_a_child_that_closed_and_told_nobody(patient: Patient) -> None:
    close(patient, "kid-2")


@fault(Check.FAMILY, "family")
def started_child_without_a_row(patient: Patient) -> None:
    patient.plant("DELETE FROM durable_runs WHERE run_id = :run", "kid-1")


@fault(Check.FAMILY, "family")
def child_of_another_event(patient: Patient) -> None:
    replace_start(patient, "kid-1", "parent_initiated_event_id", 99)


# --- messages -------------------------------------------------------------------------


@fault(Check.MESSAGES, "family")
def news_of_no_child(patient: Patient) -> None:
    put(patient, "family", "child", news(patient, "family", "kid-1", 1))


@fault(Check.MESSAGES, "shop")
def signal_that_is_in_the_history(patient: Patient) -> None:
    patient.plant(
        "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
        " SELECT run_id, 'signal', data ->> 'request_id', data, time"
        " FROM durable_history"
        " WHERE run_id = :run AND type = 'WorkflowExecutionSignaled' LIMIT 1",
        "shop",
    )


@fault(Check.MESSAGES, "shop")
def update_that_is_in_the_history(patient: Patient) -> None:
    patient.plant(
        "INSERT INTO durable_inbox (run_id, kind, request_id, data, created_at)"
        " SELECT run_id, 'update', 'update:u1', data, time FROM durable_history"
        " WHERE run_id = :run AND type = 'WorkflowExecutionUpdateAccepted'",
        "shop",
    )


@fault(Check.MESSAGES, "shop")
def signal_that_is_recorded_twice(patient: Patient) -> None:
    (data,) = read(
        patient,
        "SELECT data FROM durable_history WHERE run_id = ? AND"
        " type = 'WorkflowExecutionSignaled' LIMIT 1",
        patient.run_id("shop"),
    )[0]
    patient.append("shop", "WorkflowExecutionSignaled", data)


@fault(Check.MESSAGES, "shop")
def dead_letter_that_never_came(patient: Patient) -> None:
    patient.append(
        "shop",
        "MarkerRecorded",
        '{"marker_name": "dead_letter", "details": {"letter": {"json":'
        ' {"number": 9, "signal_name": "sell", "error": {}}}}}',
    )


@fault(Check.OUTCOMES, "shop")
def second_answer_to_an_update(patient: Patient) -> None:
    patient.append(
        "shop", "WorkflowExecutionUpdateCompleted", '{"update_id": "u1", "result": {}}'
    )


@fault(Check.PAYLOADS, "shop")
def message_that_cannot_be_read(patient: Patient) -> None:
    put(patient, "shop", "signal", "{}")


@fault(Check.PAYLOADS, "shop")
def message_of_a_kind_that_nobody_knows(patient: Patient) -> None:
    put(patient, "shop", "carrier_pigeon", "{}")


# --- rows and checkpoints -------------------------------------------------------------


@fault(Check.PAYLOADS, "shop")
def published_state_that_cannot_be_read(patient: Patient) -> None:
    patient.plant("UPDATE durable_runs SET state = 'lost' WHERE run_id = :run", "shop")


@fault(Check.ROWS, "shop")
def published_state_of_another_time(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET state = '{\"json\": 7}' WHERE run_id = :run", "shop"
    )


@fault(Check.ROWS, "shop")
def published_state_that_the_row_lacks(patient: Patient) -> None:
    patient.plant("UPDATE durable_runs SET state = NULL WHERE run_id = :run", "shop")


@fault(Check.ROWS, "heir")
def row_of_a_child_of_another_event(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET parent_initiated_event_id = 99 WHERE run_id = :run",
        "heir",
    )


@fault(Check.ROWS, "chain")
def checkpoint_that_the_row_lacks(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET checkpoint_event_id = 0 WHERE run_id = :run", "chain"
    )


@fault(Check.ROWS, "chain")
def checkpoint_beyond_the_end(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET checkpoint_event_id = 999 WHERE run_id = :run", "chain"
    )


@fault(Check.ROWS, "chain")
def checkpoint_where_none_is(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_runs SET checkpoint_event_id = 2 WHERE run_id = :run", "chain"
    )


@fault(Check.POSITIONS, "chain")
def gap_before_the_checkpoint(patient: Patient) -> None:
    patient.plant(
        "DELETE FROM durable_history WHERE run_id = :run AND event_id = (SELECT"
        " min(event_id)"
        " FROM durable_history WHERE run_id = :run AND type = 'StateTransitioned')",
        "chain",
    )


@fault(Check.CHECKPOINTS, "chain")
def checkpoint_that_forgets_a_signal(patient: Patient) -> None:
    patient.plant(
        "UPDATE durable_history SET data = json_set(data, '$.counts.signals', 0)"
        " WHERE run_id = :run AND type = 'CheckpointRecorded'",
        "chain",
    )


# --- what would be lost with a worker -------------------------------------------------


@fault(Check.WAITING, "shop")
def child_that_nobody_would_start(patient: Patient) -> None:
    (data,) = read(
        patient,
        "SELECT data FROM durable_history WHERE run_id = ? AND"
        " type = 'StartChildWorkflowExecutionInitiated' LIMIT 1",
        patient.run_id("family"),
    )[0]
    patient.append("shop", "StartChildWorkflowExecutionInitiated", data)


@fault(Check.WAITING, "shop")
def message_that_nobody_would_send_again(patient: Patient) -> None:
    patient.append(
        "shop",
        "SignalExternalWorkflowExecutionInitiated",
        '{"workflow_id": "x", "run_id": null, "signal_name": "go", "input": [],'
        ' "headers": {}}',
    )


@pytest.mark.parametrize(
    ("check", "workflow_id", "planting"),
    [fault[1:] for fault in FAULTS],
    ids=[fault[0] for fault in FAULTS],
)
async def test_fault_between_runs_is_the_only_finding(
    check: Check, workflow_id: str, planting: Planting, patient: Patient
) -> None:
    planting(patient)

    found = await patient.examine()
    # That rows are of no run is about no single run; it goes without saying here.
    (finding,) = [one for one in found if one.check is not Check.INTEGRITY]

    assert finding.check is check, finding
    assert finding.run is not None
    assert finding.run.workflow_id == workflow_id
    assert finding.message


# --- what is no fault -----------------------------------------------------------------


async def test_child_that_closed_and_whose_news_wait_is_sound(
    patient: Patient,
) -> None:
    close(patient, "kid-1")
    number = child_event(patient, "family", "kid-1")
    put(patient, "family", "child", news(patient, "family", "kid-1", number))

    assert await patient.examine() == []


async def test_child_that_is_asked_to_stop_by_a_message_that_waits_is_sound(
    patient: Patient,
) -> None:
    child_that_should_have_been_asked_to_stop(patient)
    put(patient, "ward", "cancel", '{"reason": "Its parent closed."}')

    assert await patient.examine() == []


async def test_request_that_is_sent_again_may_wait_beside_its_record(
    patient: Patient,
) -> None:
    signal_that_is_in_the_history(patient)
    patient.plant(
        "UPDATE durable_inbox SET created_at = created_at + 1 WHERE run_id = :run",
        "shop",
    )

    assert await patient.examine() == []
