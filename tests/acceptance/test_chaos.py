"""Chaos in its short form holds on every database, and its judge sees what is wrong."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import ledger, tales
from tests.chaos.checker import Judge
from tests.chaos.database import SERVERS
from tests.server_fixtures import require

ROOT = Path(__file__).resolve().parent.parent.parent
SEED = 14
"""Of its first six programs at least one has each kind of step."""
SECONDS_MAX = 400
"""Three times as long as it takes where there is nothing else to do, and more: it goes
on until it has seen what it must see."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS_MAX + 20)]


def run_chaos(*words: str) -> tuple[int, str]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.chaos", "--seed", str(SEED)),
            *("--workers", "3", "--inflight", "3", *words),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
    )
    return done.returncode, done.stdout


@pytest.mark.sweep(1)
@pytest.mark.parametrize("database", ["postgresql", "sqlite", "mariadb"])
def test_nothing_is_lost_wrong_or_done_twice(database: str) -> None:
    if database in SERVERS:
        require(SERVERS[database])

    code, said = run_chaos("--database", database, "--seconds", "15")

    assert code == 0, said
    assert said.endswith("\nHOLDS\n")


def test_broken_library_is_seen(tmp_path: Path) -> None:
    """Each worker takes all others for dead, and looks for such every five seconds."""
    code, said = run_chaos(
        *("--seconds", "8", "--no-faults", "--sabotage", "rob"),
        *("--folder", str(tmp_path)),
    )

    assert code == 1, said
    assert "\nVIOLATED\n" in said
    assert "it was robbed" in (tmp_path / "violations.txt").read_text()


def test_what_never_happened_voids_the_run(tmp_path: Path) -> None:
    only = "worker stopped=0,worker killed=0,worker drained=0,client killed=0"
    code, said = run_chaos(
        *("--seconds", "1", "--patience", "0", "--need", "1000"),
        *("--weights", only, "--folder", str(tmp_path)),
    )

    assert code == 3, said
    assert "VOID" in said
    assert "lock held by a stranger" in said


# --- what a judge must see ------------------------------------------------------------

Lines = list[ledger.Line]
Tables = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lines, Tables]:
    """What is left of a run without faults."""
    folder = tmp_path_factory.mktemp("chaos")
    # So many begin at once that a tale of each kind is among them.
    every = ("--inflight", "4")
    code, said = run_chaos(
        *("--seconds", "3", "--no-faults", "--folder", str(folder)), *every
    )
    assert code == 0, said
    lines = [line for line in ledger.read(folder) if line["what"] != "fault"]
    return lines, json.loads((folder / "tables.json").read_text())


def first(rows: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return next(row for row in rows if fields.items() <= row.items())


def double(rows: list[dict[str, Any]], **fields: Any) -> None:
    row = first(rows, **fields)
    rows.insert(rows.index(row), dict(row))


def begin(lines: Lines) -> ledger.Line:
    """The first attempt of an activity that ended."""
    end = first(lines, what="end")
    key = {name: end[name] for name in ("place", "attempt")}
    return first(lines, what="begin", **key)


def lose_a_start(lines: Lines, tables: Tables) -> None:
    lost = first(tables["runs"], workflow_type="chaos.walk")["workflow_id"]
    gone = {row["run_id"] for row in tables["runs"] if row["workflow_id"] == lost}
    for rows in tables.values():
        rows[:] = [row for row in rows if row["run_id"] not in gone]


def double_a_start(lines: Lines, tables: Tables) -> None:
    run = first(tables["runs"], workflow_type="chaos.walk", status="completed")
    tables["runs"].append({**run, "first_run_id": "another"})


def leave_a_run_open(lines: Lines, tables: Tables) -> None:
    run = first(tables["runs"], status="completed")
    run.update(status="running", open_key=run["workflow_id"])


def spoil_a_result(lines: Lines, tables: Tables) -> None:
    walks = {r["run_id"] for r in tables["runs"] if r["workflow_type"] == "chaos.walk"}
    end = next(
        row
        for row in tables["history"]
        if row["type"] == "WorkflowExecutionCompleted" and row["run_id"] in walks
    )
    data = json.loads(end["data"])
    data["result"]["json"]["values"].append(7)
    end["data"] = json.dumps(data)


def spoil_a_recorded_value(lines: Lines, tables: Tables) -> None:
    end = first(tables["history"], type="ActivityTaskCompleted")
    data = json.loads(end["data"])
    data["result"]["json"] = 7
    end["data"] = json.dumps(data)


def lose_an_event(lines: Lines, tables: Tables) -> None:
    tables["history"].remove(first(tables["history"], event_id=2))


def double_a_signal(lines: Lines, tables: Tables) -> None:
    double(tables["history"], type="WorkflowExecutionSignaled")


def lose_a_signal(lines: Lines, tables: Tables) -> None:
    signal = first(tables["history"], type="WorkflowExecutionSignaled")
    signal["type"] = "MarkerRecorded"


def double_an_update(lines: Lines, tables: Tables) -> None:
    double(tables["history"], type="WorkflowExecutionUpdateAccepted")


def fire_a_timer_early(lines: Lines, tables: Tables) -> None:
    fired = first(tables["history"], type="TimerFired")
    number = json.loads(fired["data"])["started_event_id"]
    timer = first(tables["history"], run_id=fired["run_id"], event_id=number)
    data = json.loads(timer["data"])
    timer["data"] = json.dumps({**data, "start_to_fire_timeout": 10**12})


def end_a_child_otherwise(lines: Lines, tables: Tables) -> None:
    first(tables["runs"], workflow_type="chaos.sleeper")["status"] = "completed"


def begin_once_more(lines: Lines, tables: Tables) -> None:
    lines.append({**begin(lines), "attempt": 99})


def begin_an_attempt_twice(lines: Lines, tables: Tables) -> None:
    lines.append(dict(begin(lines)))


def rob_a_healthy_worker(lines: Lines, tables: Tables) -> None:
    of = begin(lines)
    lines.append({**of, "attempt": of["attempt"] - 1, "by": "another"})


def begin_late(lines: Lines, tables: Tables) -> None:
    of = begin(lines)
    late = {"attempt": of["attempt"] - 1, "at": of["at"] + 100, "by": "another"}
    lines.append({**of, **late})


def lose_an_effect(lines: Lines, tables: Tables) -> None:
    # Of a saga: what may begin once need not end.
    saga = next(x for x in lines if x["what"] == "end" and x["place"].endswith("~"))
    lines.remove(saga)


def do_what_nobody_asked_for(lines: Lines, tables: Tables) -> None:
    lines.append({**begin(lines), "place": "nowhere", "run": "none"})


def undo_in_the_wrong_order(lines: Lines, tables: Tables) -> None:
    begun = {x["place"]: x for x in lines if x["what"] == "begin"}
    second = next(place for place in begun if place.endswith(".1~"))
    begun[second.replace(".1~", ".0~")]["at"] = 0.0


def die(lines: Lines, tables: Tables) -> None:
    # No fault is a reason to.
    at = lines[0]["at"]
    fault = {"what": "fault", "fault": "server killed", "since": at, "of": ledger.ALL}
    lines.append({**lines[0], **fault})
    lines.append({**lines[0], "what": "died", "of": "worker-2", "code": 1})


def tell_a_client_something_else(lines: Lines, tables: Tables) -> None:
    answered = (x for x in lines if x["what"] == "answered")
    told = next(x for x in answered if isinstance(x.get("value"), dict))
    told["value"] = {**told["value"], "values": [7]}


# --- of tales


def ids_of(kind: str) -> list[str]:
    return [
        workflow_id
        for tale in (tales.draw(SEED, number) for number in range(8))
        if tale.kind == kind
        for workflow_id in tale.workflow_ids
    ]


def runs_of(tables: Tables, kind: str) -> list[dict[str, Any]]:
    """The runs of the tale of a kind, oldest first."""
    ids = ids_of(kind)
    return [row for row in tables["runs"] if row["workflow_id"] in ids]


def begin_of(lines: Lines, kind: str) -> ledger.Line:
    (place, *_) = ids_of(kind)
    begun = [x for x in lines if x["what"] == "begin" and place in x["place"]]
    return begun[0]


def lose_a_reset(lines: Lines, tables: Tables) -> None:
    tables["runs"].remove(runs_of(tables, "reset")[-1])


def reset_twice(lines: Lines, tables: Tables) -> None:
    last = runs_of(tables, "reset")[-1]
    tables["runs"].append({**last, "run_id": "another"})


def leave_what_was_reset(lines: Lines, tables: Tables) -> None:
    runs_of(tables, "reset while open")[0]["status"] = "completed"


def redo_what_a_retry_keeps(lines: Lines, tables: Tables) -> None:
    retry = runs_of(tables, "retried")[-1]
    lines.append({**begin_of(lines, "retried"), "run": retry["run_id"]})


def skip_what_a_reset_undoes(lines: Lines, tables: Tables) -> None:
    run_id = runs_of(tables, "reset")[-1]["run_id"]
    lines[:] = [x for x in lines if x.get("run") != run_id]


def begin_while_paused(lines: Lines, tables: Tables) -> None:
    paused = first(lines, what="paused")
    of = begin_of(lines, "paused")
    lines.append({**of, "attempt": of["attempt"] + 1, "at": paused["at"] + 0.01})


def end_a_cancelled_run_otherwise(lines: Lines, tables: Tables) -> None:
    runs_of(tables, "cancelled")[-1]["status"] = "completed"


def miss_a_run_of_a_batch(lines: Lines, tables: Tables) -> None:
    run_id = runs_of(tables, "signalled")[-1]["run_id"]
    kind = "WorkflowExecutionSignaled"
    first(tables["history"], run_id=run_id, type=kind)["type"] = "MarkerRecorded"


def signal_twice_by_a_batch(lines: Lines, tables: Tables) -> None:
    run_id = runs_of(tables, "signalled")[0]["run_id"]
    double(tables["history"], run_id=run_id, type="WorkflowExecutionSignaled")


def leave_a_deleted_run(lines: Lines, tables: Tables) -> None:
    tables["runs"].append({**tables["runs"][0], "workflow_id": ids_of("deleted")[0]})


def leave_rows_of_a_deleted_run(lines: Lines, tables: Tables) -> None:
    run_id = begin_of(lines, "deleted")["run"]
    tables["history"].append({**tables["history"][0], "run_id": run_id})


def leave_an_expired_run(lines: Lines, tables: Tables) -> None:
    tables["runs"].append({**tables["runs"][0], "workflow_id": ids_of("expired")[0]})


def spoil_the_result_of_a_reset(lines: Lines, tables: Tables) -> None:
    run_id = runs_of(tables, "reset")[-1]["run_id"]
    end = [row for row in tables["history"] if row["run_id"] == run_id][-1]
    data = json.loads(end["data"])
    data["result"]["json"].append(7)
    end["data"] = json.dumps(data)


TAMPERINGS: dict[Callable[[Lines, Tables], None], str] = {
    lose_a_start: "it is nowhere",
    double_a_start: "was started 2 times",
    leave_a_run_open: "is open",
    spoil_a_result: "values must be",
    spoil_a_recorded_value: "returned was",
    lose_an_event: "its events are numbered",
    double_a_signal: "is recorded 2 times",
    lose_a_signal: "signals of",
    double_an_update: "updates that were accepted",
    fire_a_timer_early: "early",
    end_a_child_otherwise: "must be",
    begin_once_more: "is recorded, and then began",
    begin_an_attempt_twice: "began 2 times",
    rob_a_healthy_worker: "it was robbed",
    begin_late: "had ended",
    lose_an_effect: "was not",
    do_what_nobody_asked_for: "no program asks for it",
    undo_in_the_wrong_order: "not undone in order",
    die: "ended by itself",
    tell_a_client_something_else: "a client was told",
    lose_a_reset: "reset: it must have ended as",
    reset_twice: "reset: it must have ended as",
    leave_what_was_reset: "reset while open: it must have ended as",
    redo_what_a_retry_keeps: "was kept, and done again",
    skip_what_a_reset_undoes: "must have been done again",
    begin_while_paused: "began while it was paused",
    end_a_cancelled_run_otherwise: "cancelled: it must have ended as",
    miss_a_run_of_a_batch: "signals of the operator are lost",
    signal_twice_by_a_batch: "signal to go is recorded 2 times",
    leave_a_deleted_run: "is there though it was deleted",
    leave_rows_of_a_deleted_run: "rows of a run that is gone",
    leave_an_expired_run: "is there though it was expired",
    spoil_the_result_of_a_reset: "its result is not",
}


@pytest.mark.sweep(4)
@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda t: t.__name__)
def test_judge_sees(
    healthy: tuple[Lines, Tables], tamper: Callable[[Lines, Tables], None]
) -> None:
    lines, tables = copy.deepcopy(healthy)
    tamper(lines, tables)
    judge = Judge(lines, tables, SEED)

    judge.judge()

    assert [text for text in judge.violations if TAMPERINGS[tamper] in text]
