"""`signal`, `query`, `update` and `stack`, and what `show` and `list` tell of them."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from durable import Engine, SyncEngine
from durable.client.handle import Handle
from tests.unit.cli import messages_app as app
from tests.unit.cli.invoking import invoke, lines_of

APP = str(Path(app.__file__))
DEFINITIONS = [app.Cart, app.member, app.club, app.relay]


async def until(handle: Handle[Any], event: str, count: int = 1) -> None:
    async with asyncio.timeout(10):
        while True:
            kinds = [type(e.attributes).__name__ for e in await handle.history()]
            if kinds.count(event) >= count:
                return
            await asyncio.sleep(0.005)


async def fill(url: str) -> None:
    async with Engine(url, definitions=DEFINITIONS) as engine:
        closed = await engine.start(app.Cart.shop("bob"), id="closed")
        await closed.signal(app.Cart.put("tea"))
        await closed.update(app.Cart.pay(5))
        await closed.result()
        opened = await engine.start(app.Cart.shop("ada"), id="open")
        await opened.signal(app.Cart.put("tea", n=2))
        club = await engine.start(app.club("eve", "joe"), id="club")
        await until(club, "ChildWorkflowExecutionStarted", 2)
        relay = await engine.start(app.relay(24), id="relay")
        first = await engine.get("relay", run_id=relay.run_id)
        await until(first, "WorkflowExecutionContinuedAsNew")
        second = await engine.get("relay")
        for count in range(1, 4):
            await until(second, "StateTransitioned", count)
            await relay.signal(app.approved(True))
        await until(second, "StateTransitioned", 4)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "messages.db"
    asyncio.run(fill(f"sqlite:///{path}"))
    return path


# --- signals --------------------------------------------------------------------------


def test_signal_is_durable_when_the_command_ends(folder: Path) -> None:
    text = invoke("signal", "open", "put", '"milk"', "-3", "--request-id", "r1")
    again = lines_of(
        invoke("signal", "open", "put", '"milk"', "-3", "--request-id", "r1", "--json")
    )

    assert text.exit_code == 0
    assert text.stdout.startswith("open (run ")
    assert text.stdout.endswith(") was sent signal put\n")
    assert again[0]["done"] == "signaled"
    assert (again[0]["signal"], again[0]["request_id"]) == ("put", "r1")
    shown = invoke("show", "open").stdout.split("pending now")[1]
    assert shown.count("signal put  not seen by the code yet") == 1
    done = invoke("query", "open", "count", "--input", '["milk"]', "-m", APP)
    assert done.stdout == "-3\n"


def test_arguments_may_come_from_files_and_stdin(folder: Path) -> None:
    Path("item.json").write_text('"milk"')

    done = invoke("signal", "open", "put", "@item.json", "-", input="7")

    assert done.exit_code == 0
    assert lines_of(invoke("query", "open", "count", '"milk"', "-m", APP)) == [7]


# --- questions ------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "count"), [("open", 2), ("closed", 1)])
def test_query_is_answered_by_replay_of_open_and_closed_runs(
    run: str, count: int, folder: Path
) -> None:
    text = invoke("query", run, "count", '"tea"', "-m", APP)
    data = invoke("query", run, "count", '"tea"', "--module", APP, "--json")

    assert lines_of(text) == [count]
    assert "the query prints" in text.stderr
    ((found,)) = lines_of(data)
    assert (found["query"], found["result"]) == ("count", count)
    assert set(found) == {"workflow_id", "run_id", "query", "result"}


def test_stack_names_the_lines_where_each_task_waits(folder: Path) -> None:
    text = invoke("stack", "relay", "-m", APP)
    (data,) = lines_of(invoke("stack", "relay", "-m", APP, "--json"))

    first, place, code = text.stdout.splitlines()
    assert text.exit_code == 0
    assert first.endswith(" waits for signal 'approved'")
    assert re.fullmatch(rf"  {re.escape(app.__file__)}:\d+ in relay", place)
    assert code == "    await approved.receive()"
    assert set(data) == {"workflow_id", "run_id", "tasks"}
    (task,) = data["tasks"]
    assert task["waits_for"] == "signal 'approved'"
    assert set(task["frames"][0]) == {"file", "line", "function", "code"}


def test_stack_of_a_closed_run_is_empty(folder: Path) -> None:
    text = invoke("stack", "closed", "-m", APP)

    assert (text.exit_code, text.stdout) == (0, "")
    assert "no task of it waits: it has closed" in text.stderr
    assert lines_of(invoke("stack", "closed", "-m", APP, "--json"))[0]["tasks"] == []


# --- updates --------------------------------------------------------------------------


@pytest.fixture
def worker(folder: Path) -> Iterator[SyncEngine]:
    """A worker in another thread, with a connection of its own."""
    with SyncEngine("sqlite:///orders.db", definitions=DEFINITIONS) as engine:
        yield engine


def test_update_prints_its_answer(worker: SyncEngine) -> None:
    text = invoke("update", "open", "pay", "40", "--update-id", "u1", "--timeout", "9s")
    data = invoke("update", "open", "pay", "99", "--update-id", "u1", "--json")

    assert lines_of(text) == ["paid 40"]
    # The same id is the same update, whatever else it says.
    ((found,)) = lines_of(data)
    assert (found["update"], found["update_id"]) == ("pay", "u1")
    assert found["result"] == "paid 40"
    assert set(found) == {"workflow_id", "run_id", "update", "update_id", "result"}
    assert "update pay completed" in invoke("show", "open").stdout


@pytest.mark.parametrize(
    ("amount", "code", "message"),
    [
        ("0", "update_rejected", "pay something"),
        ("101", "update_failed", r"declined\x1b[2J at 101"),
    ],
)
def test_update_that_is_refused_or_fails_says_why(
    amount: str, code: str, message: str, worker: SyncEngine
) -> None:
    done = invoke("update", "open", "pay", amount)

    assert (done.exit_code, done.stdout) == (5, "")
    assert message in done.stderr
    assert f"code: {code}" in done.stderr


@pytest.mark.parametrize("is_json", [False, True], ids=["text", "json"])
def test_update_without_a_worker_ends_in_time_and_names_its_id(
    is_json: bool, folder: Path
) -> None:
    begun = time.monotonic()
    form = ["--json"] if is_json else []

    done = invoke("update", "open", "pay", "1", "--timeout", "50ms", *form)

    assert time.monotonic() - begun < 5
    assert (done.exit_code, done.stdout) == (6, "")
    assert "no_answer" in done.stderr
    assert "--update-id " in done.stderr
    assert len(done.stderr.splitlines()) == (1 if is_json else 3)


# --- errors ---------------------------------------------------------------------------

OUTCOMES: list[tuple[tuple[str, ...], int, str]] = [
    (("signal", "nobody", "go"), 3, "workflow_not_found"),
    (("query", "nobody", "go"), 3, "workflow_not_found"),
    (("update", "nobody", "go"), 3, "workflow_not_found"),
    (("stack", "nobody"), 3, "workflow_not_found"),
    (("signal", "open", "put", "--run-id", "x"), 3, "workflow_not_found"),
    (("signal", "closed", "put", "1"), 4, "workflow_closed"),
    (("update", "closed", "pay", "1"), 4, "workflow_closed"),
    (("query", "open", "bogus", "-m", APP), 2, "invalid_call"),
    (("query", "open", "count", '"milk"', "-m", APP), 5, "query_failed"),
    (("query", "open", "count", "[1]", "-m", APP), 2, "usage"),
    (("signal", "open", ""), 2, "invalid_id"),
    (("signal", "open", "a\nb"), 2, "invalid_id"),
    (("signal", "open", "put", "--request-id", ""), 2, "invalid_id"),
    (("update", "open", "pay", "1", "--update-id", " u"), 2, "invalid_id"),
    (("update", "open", "pay", "1", "--timeout", "soon"), 2, "invalid_duration"),
    (("query", "open", "count", "--timeout", "soon"), 2, "invalid_duration"),
    (("signal", "open", "put", "milk"), 2, "usage"),
    (("signal", "open", "put", "--bogus"), 2, "usage"),
    (("signal", "open", "put", "@no.json"), 2, "usage"),
    (("signal", "open"), 2, "usage"),
    (("query", "open"), 2, "usage"),
    (("stack", "open", "-m", "no_such_module"), 2, "usage"),
]


@pytest.mark.parametrize(
    ("args", "exit_code", "error"),
    OUTCOMES,
    ids=lambda value: repr(" ".join(value)) if isinstance(value, tuple) else None,
)
def test_each_outcome_of_a_message_has_its_exit_code_and_error_code(
    args: tuple[str, ...], exit_code: int, error: str, folder: Path
) -> None:
    text, data = invoke(*args), invoke(*args, "--json")

    assert (text.exit_code, text.stdout) == (exit_code, "")
    assert "error: " in text.stderr
    assert (data.exit_code, data.stdout) == (exit_code, "")
    assert json.loads(data.stderr.splitlines()[-1])["error"]["code"] == error


# --- what is shown of it --------------------------------------------------------------


def test_list_shows_runs_that_continued_as_new(folder: Path) -> None:
    runs = lines_of(invoke("list", "--id", "relay", "--json"))
    narrowed = lines_of(invoke("list", "--status", "continued_as_new", "--json"))

    assert [run["status"] for run in runs] == ["running", "continued_as_new"]
    assert narrowed == runs[1:]
    assert runs[0]["continued_from_run_id"] == runs[1]["run_id"]
    assert runs[0]["first_run_id"] == runs[1]["first_run_id"] == runs[1]["run_id"]
    assert (
        invoke("list", "--id", "relay")
        .stdout.splitlines()[2]
        .startswith("continued_as_new")
    )


def test_show_of_a_chain_links_its_runs(folder: Path) -> None:
    new, old = lines_of(invoke("list", "--id", "relay", "--json"))

    before = invoke("show", "relay", "--run-id", old["run_id"])
    after = invoke("show", "relay")

    assert "relay  cli_relay  continued as new after " in before.stdout
    assert f"  goes on  as run {new['run_id']}" in before.stdout
    assert re.search(f"continued as new +run {new['run_id']}", before.stdout)
    assert f"  continues  run {old['run_id']}" in after.stdout
    assert "checkpoint: the code began anew" in after.stdout
    # All of the history, though replay begins at the checkpoint.
    (data,) = lines_of(invoke("show", "relay", "--json"))
    assert [moment["event_id"] for moment in data["timeline"]] == list(
        range(1, data["event_count"] + 1)
    )
    assert 1 < data["checkpoint_event_id"] <= data["event_count"]
    assert data["signals"] == {"approved": 3}
    (shown,) = lines_of(invoke("show", "relay", "--json", "--run-id", old["run_id"]))
    assert shown["continued_as_run_id"] == new["run_id"]


def test_followed_chain_is_told_of_from_the_run_that_was_asked_for(
    folder: Path,
) -> None:
    first = lines_of(invoke("list", "--id", "relay", "--json"))[1]["run_id"]
    invoke("terminate", "relay", "--reason", "enough")

    text, data = (
        invoke("show", "relay", "--run-id", first, "--follow", *form)
        for form in ([], ["--json"])
    )

    assert text.exit_code == data.exit_code == 5
    assert "error: Run 'relay' was terminated: enough." in text.stderr
    assert "hint: " in text.stderr
    headers = [line for line in text.stdout.splitlines() if line.startswith("relay ")]
    assert [line.split()[2] for line in headers] == ["continued", "terminated"]
    moments = [json.loads(line) for line in data.stdout.splitlines()]
    told: dict[str, list[str]] = {}
    for moment in moments:
        told.setdefault(moment["run_id"], []).append(moment["text"])
    old, new = told
    assert old == first
    assert told[old][-1] == "continued as new"
    assert told[new][0] == "cli_relay started"
    assert told[new][-1] == "terminated: enough"


def test_followed_run_may_begin_with_its_last_lines(folder: Path) -> None:
    done = invoke("show", "closed", "-f", "--last", "1")

    assert done.exit_code == 0
    assert done.stdout.splitlines()[-1].split()[2] == "completed"
    assert " lines above)" in done.stdout
    assert len(lines_of(invoke("show", "closed", "-f", "--json", "--last", "2"))) == 2


def test_show_tells_of_children_and_of_the_parent(folder: Path) -> None:
    (parent,) = lines_of(invoke("show", "club", "--json"))
    child = invoke("show", "member-eve")

    children = parent["pending"]["children"]
    assert [one["workflow_id"] for one in children] == ["member-eve", "member-joe"]
    assert all(one["run_id"] for one in children)
    pending = invoke("show", "club").stdout.split("pending now")[1]
    assert f"id member-eve, run {children[0]['run_id']}, under way" in pending
    assert f"  parent   club (run {parent['run_id']})" in child.stdout


def test_published_state_is_shown_on_request_only(folder: Path) -> None:
    hidden, shown = (
        invoke("show", "open", "--json", *form) for form in ([], ["--payloads"])
    )

    assert lines_of(hidden)[0]["state"] == {
        "hidden": True,
        "encoding": "json/plain",
        "size": 15,
    }
    assert lines_of(shown)[0]["state"] == {"owner": "ada"}
    assert "  state    15 bytes" in invoke("show", "open").stdout
    for command in ("show", "history"):
        for form in ([], ["--json"]):
            assert '"ada"' not in invoke(command, "open", *form).stdout


def test_signal_that_cannot_be_read_shows_as_a_dead_letter(
    worker: SyncEngine, wait: Callable[[Callable[[], bool]], None]
) -> None:
    invoke("signal", "open", "put", "[1]")

    wait(lambda: bool(lines_of(invoke("show", "open", "--json"))[0]["dead_letters"]))

    (data,) = lines_of(invoke("show", "open", "--json"))
    (letter,) = data["dead_letters"]
    assert (letter["number"], letter["signal_name"]) == (2, "put")
    assert letter["error"]["type"] == "UndecodableError"
    told = invoke("show", "open").stdout
    assert "signal put arrived, could not be read" in told
    assert "dead letters: 1 signal that the code could not read" in told


@pytest.fixture
def wait() -> Callable[[Callable[[], bool]], None]:
    def until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline

    return until


def test_run_of_a_class_workflow_can_be_started_by_its_class(folder: Path) -> None:
    done = invoke("start", f"{APP}:Cart", "--input", '["zoe"]', "--id", "zoe")

    assert (done.exit_code, done.stdout) == (0, "zoe\n")


def test_histories_with_messages_replay_and_are_healthy(folder: Path) -> None:
    copy = invoke("history", "relay", "--json", "--payloads").stdout
    Path("h.json").write_text(copy)

    verdicts = [
        run["verdict"] for run in lines_of(invoke("replay", APP, "--all", "--json"))
    ]
    assert set(verdicts) == {"ok"}
    assert invoke("replay", APP, "--file", "h.json").exit_code == 0
    assert invoke("doctor").stdout == ""


def test_replay_begins_at_the_newest_checkpoint_as_in_a_worker(folder: Path) -> None:
    lines = invoke("history", "relay", "--json", "--payloads").stdout.splitlines()
    (at,) = (index for index, line in enumerate(lines) if "CheckpointRecorded" in line)
    # Signals before the checkpoint that today's code would never receive.
    past = [line.replace('"approved"', '"other"') for line in lines[:at]]
    assert past != lines[:at]
    Path("h.json").write_text("\n".join([*past, *lines[at:]]))
    Path("cut.json").write_text("\n".join(past))

    assert invoke("replay", APP, "--file", "h.json").exit_code == 0
    assert invoke("replay", APP, "--file", "cut.json").exit_code == 8
