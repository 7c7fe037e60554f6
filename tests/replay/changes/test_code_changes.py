"""`durable check` names the line of each change that breaks a replay, and no other."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from durable.api.workflows.workflow_definition import Workflow, workflow_of
from durable.cli.main import cli
from durable.clock import to_datetime
from durable.core.history.codec import encode_event
from durable.testing.driver import Driver
from tests.replay.changes import before

AFTER = Path(__file__).with_name("after.py")
INPUTS: dict[str, tuple[Any, ...]] = {
    "field_added_without_default": (before.Parcel(1),),
    "field_added_with_default": (before.Box(1),),
    "parameter_added_with_default": (1,),
}
RESULTS = {"gate.charge": "receipt", "gate.reserve": 5}


def parts() -> dict[str, str]:
    """The source of each changed workflow, by its name, with its line numbers."""
    found: dict[str, str] = {}
    name = ""
    for number, line in enumerate(AFTER.read_text().splitlines(), 1):
        named = re.search(r'^@workflow\(name="([a-z_]+)"|# (helper_changed)$', line)
        if named:
            name = named[1] or named[2]
        if name and line.endswith("# breaks"):
            found[name] = f"{AFTER}:{number}"
        elif name:
            found.setdefault(name, "")
    return found


PLACES = parts()
BREAKING = sorted(name for name, place in PLACES.items() if place)
HARMLESS = sorted(name for name, place in PLACES.items() if not place)


def workflows() -> dict[str, Workflow[Any, Any]]:
    members = (workflow_of(member) for member in vars(before).values())
    return {w.name: w for w in members if w is not None and w.name in PLACES}


def record(name: str, folder: Path) -> Path:
    """Drive a run until only its shipping is pending, and keep its history."""
    call = workflows()[name](*INPUTS.get(name, ()))
    driver = Driver(call, workflow_id=name)
    driver.start()
    if name == "handler_does_more":
        driver.signal("put", 1)
    while True:
        waiting = [a for a in driver.pending if a.activity_type != "gate.ship"]
        if waiting:
            kind = waiting[0].activity_type
            driver.complete(waiting[0], RESULTS.get(kind, 1))
        elif driver.next_timer_at is not None:
            driver.fire_next_timer()
        else:
            break
    path = folder / f"{name}.jsonl"
    with path.open("wb") as file:
        for event in driver.history:
            _, event_id, task, kind, time, data, flags = encode_event("", event)
            line = {
                "event_id": event_id,
                "task_number": task,
                "type": kind,
                "time": to_datetime(time),
                "flags": flags,
                "data": msgspec.Raw(data.encode()),
            }
            file.write(msgspec.json.encode(line) + b"\n")
    return path


@pytest.fixture(scope="module")
def causes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one check of all runs says, by workflow."""
    folder = tmp_path_factory.mktemp("gate")
    files = [str(record(name, folder)) for name in workflows()]
    args = [arg for file in files for arg in ("--file", file)]
    done = CliRunner().invoke(
        cli, ["check", str(AFTER), "--json", "--processes", "1", *args]
    )
    assert done.exit_code == 8, done.output
    told = json.loads(done.stdout)
    assert told["histories"] == len(PLACES)
    assert told["broken"] == len(BREAKING)
    return {c["first"]["workflow_type"]: c for c in told["causes"]}


def test_corpus_holds_enough_of_both() -> None:
    assert sorted(workflows()) == sorted(PLACES)
    assert len(BREAKING) >= 24
    assert len(HARMLESS) >= 12


@pytest.mark.parametrize("name", BREAKING)
def test_change_that_breaks_a_replay_is_named_at_its_line(
    name: str, causes: dict[str, Any]
) -> None:
    assert causes[name]["first"]["code_at"] == PLACES[name], causes[name]
    assert causes[name]["runs"] == 1


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_change_is_not_flagged(name: str, causes: dict[str, Any]) -> None:
    assert name not in causes, causes[name]


NEW_ONLY = 'if patched("{0}"):\n    {1}  # breaks'
OLD_ONLY = 'if not patched("{0}"):\n    {1}'
BOTH = NEW_ONLY + "\nelse:\n    {2}"
PATCHES = {
    "activity_added_between": NEW_ONLY.format(
        "activity_added_between-gate-charge", "await charge(1)"
    ),
    "activity_removed": OLD_ONLY.format(
        "activity_removed-gate-ship", "await charge(...)"
    ),
    "activity_replaced": BOTH.format(
        "activity_replaced-gate-weight", "await weigh(1)", "await charge(...)"
    ),
    "activities_swapped": BOTH.format(
        "activities_swapped-gate-charge", "await charge(1)", "await reserve(...)"
    ),
    "timer_removed": OLD_ONLY.format("timer_removed-gate-ship", "await sleep(60)"),
    "branch_added": BOTH.format(
        "branch_added-gate-weight",
        "await asyncio.gather(reserve(1), charge(1), weigh(1))",
        "...  # as it was",
    ),
    "patch_taken_out": 'if patched("tax"):  # or deprecate_patch("tax")\n'
    "    ...  # what it guarded",
    "has_a_bug_now": None,
}


@pytest.mark.parametrize("name", PATCHES)
def test_patch_to_write_keeps_old_runs_on_their_path(
    name: str, causes: dict[str, Any]
) -> None:
    patch = causes[name]["first"]["patch"]
    told = None if patch is None else re.sub("  # as at .*", "", patch)
    assert told == PATCHES[name]
