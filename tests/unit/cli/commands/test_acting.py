"""`run`, `start`, `result`, `cancel`, `terminate` and `replay`."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.unit.cli import orders_app as app
from tests.unit.cli.invoking import APP, invoke, lines_of

# --- results, ends --------------------------------------------------------------------


def test_result_is_printed_as_json_either_way(folder: Path) -> None:
    plain, data = invoke("result", "done"), invoke("result", "done", "--json")

    value = {"receipt": f"receipt-42-{app.SECRET}", "gift": "False"}
    assert lines_of(plain) == [value]
    ((found,)) = lines_of(data)
    assert found["result"] == value
    assert set(found) == {"workflow_id", "run_id", "status", "result"}


@pytest.mark.parametrize(
    ("args", "exit_code", "error"),
    [
        (("result", "failed"), 5, "workflow_failed"),
        (("result", "stuck"), 1, "workflow_stuck"),
        (("result", "sleeping", "--timeout", "10ms"), 6, "result_timeout"),
        (("result", "nobody"), 3, "workflow_not_found"),
        (("show", "nobody"), 3, "workflow_not_found"),
        (("history", "nobody"), 3, "workflow_not_found"),
        (("cancel", "nobody"), 3, "workflow_not_found"),
        (("cancel", "done"), 4, "workflow_closed"),
        (("terminate", "done"), 4, "workflow_closed"),
        (("delete", "sleeping"), 4, "run_needed"),
        (("delete", "nobody"), 3, "workflow_not_found"),
        (("start", "cli_sleeping", "--id", "sleeping"), 4, "workflow_already_started"),
        (
            ("start", "cli_sleeping", "--id", "done", "--id-reuse", "reject_duplicate"),
            4,
            "workflow_already_started",
        ),
        (("replay", APP, "--id", "nobody"), 3, "workflow_not_found"),
        (("replay", APP, "--id", "stuck"), 1, "replay_failed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_each_outcome_has_its_exit_code_and_error_code(
    args: tuple[str, ...], exit_code: int, error: str, folder: Path
) -> None:
    text, data = invoke(*args), invoke(*args, "--json")

    assert text.exit_code == data.exit_code == exit_code
    assert f"code: {error}" in text.stderr
    assert json.loads(data.stderr.splitlines()[-1])["error"]["code"] == error


def test_cancel_and_terminate_say_whom(folder: Path) -> None:
    asked = lines_of(invoke("cancel", "sleeping", "--reason", "why", "--json"))
    told = invoke("show", "sleeping").stdout
    ended = invoke("terminate", "sleeping", "--reason", "a\x1bb")

    assert asked[0]["done"] == "cancel_requested"
    assert "cancel request  not seen by the code yet" in told
    assert ended.stdout.startswith("sleeping (run ")
    assert r"terminated: a\x1bb" in invoke("show", "sleeping").stdout
    assert invoke("result", "sleeping").exit_code == 5


def test_delete_takes_all_that_are_named_and_those_before_a_refused_one(
    folder: Path,
) -> None:
    both = lines_of(invoke("delete", "done", "failed", "--json"))
    refused = invoke("delete", "stuck", "sleeping")
    forced = invoke("delete", "stuck", "sleeping", "--terminate")

    assert [(one["workflow_id"], one["runs"]) for one in both] == [
        ("done", 1),
        ("failed", 1),
    ]
    assert refused.exit_code == 4
    assert "was not deleted: it is open" in refused.stderr
    assert forced.stdout == "stuck: 1 run deleted\nsleeping: 1 run deleted\n"
    assert lines_of(invoke("list", "--json")) == []


def test_delete_expired_goes_by_the_days_of_the_namespace(folder: Path) -> None:
    with closing(sqlite3.connect("orders.db")) as connection, connection:
        day = 86_400_000_000
        connection.execute(
            "UPDATE durable_runs SET closed_at = closed_at - ?"
            " WHERE workflow_id = 'done'",
            (3 * day,),
        )
    invoke("namespaces", "create", "default", "--retention-days", "2")

    dry = invoke("delete", "--expired", "--dry-run")
    (done,) = lines_of(invoke("delete", "--expired", "--json"))

    assert dry.stdout == "1 run would be deleted\n"
    assert done == {"done": "deleted", "runs": 1, "kept": {}}
    left = [run["workflow_id"] for run in lines_of(invoke("list", "--json"))]
    assert left == ["sleeping", "stuck", "failed"]


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["done", "--expired"],
        ["done", "--dry-run"],
        ["--expired", "--terminate"],
        ["done", "failed", "--run-id", "x"],
    ],
    ids=" ".join,
)
def test_delete_refuses_what_does_not_go_together(
    args: list[str], folder: Path
) -> None:
    assert invoke("delete", *args).exit_code == 2
    assert len(lines_of(invoke("list", "--json"))) == 4


def test_export_and_import_say_how_many(folder: Path) -> None:
    wrote = invoke("export", "runs.json", "--where", "ExecutionStatus != 'Running'")
    again = invoke("export", "runs.json", "--json")
    refused = invoke("import", "runs.json")
    skipped = invoke("import", "runs.json", "--skip-existing")
    (moved,) = lines_of(
        invoke("export", "b.json", "--id", "done", "--delete", "--json")
    )
    dry = invoke("import", "b.json", "--dry-run")
    back = invoke("import", "b.json")
    missing = invoke("import", "nothing.json")

    assert wrote.stdout == "runs.json: 2 runs exported\n"
    assert dry.stdout == "b.json: 1 run would be imported\n"
    assert (again.exit_code, refused.exit_code, missing.exit_code) == (1, 4, 1)
    assert "code: archive" in missing.stderr
    assert skipped.stdout == "runs.json: 0 runs imported, 2 were there\n"
    assert moved == {"file": "b.json", "runs": 1, "deleted": 1, "kept": {}}
    assert back.stdout == "b.json: 1 run imported\n"
    assert json.loads(invoke("result", "done").stdout) is not None


def test_batch_acts_on_the_runs_of_a_filter(folder: Path) -> None:
    dry = invoke("batch", "cancel", "--type", "cli_sleeping", "--dry-run")
    done = invoke("batch", "terminate", "--status", "running", "--reason", "x")
    (shown,) = lines_of(
        invoke("batch", "delete", "--all", "--batch-id", "b", "--no-rate", "--json")
    )
    again = invoke("batch", "show", "b")
    none = invoke("batch", "signal", "go", "1", "--status", "running")

    assert dry.stdout == "1 run\n"
    assert ": terminate: 2 of 2 done\n" in done.stdout
    assert (shown["action"], shown["done"], shown["status"]) == (
        "delete",
        4,
        "completed",
    )
    assert again.stdout == "batch b: delete: 4 of 4 done\n"
    assert ": signal: 0 of 0 done" in none.stdout
    assert lines_of(invoke("list", "--json")) == []


def test_batch_is_begun_and_left_to_workers(folder: Path) -> None:
    (begun,) = lines_of(
        invoke("batch", "cancel", "--all", "--detach", "--json", "--batch-id", "b")
    )

    assert (begun["status"], begun["total"], begun["done"]) == ("running", None, 0)
    assert invoke("batch", "show", "b").stdout == "batch b: running: 0 done\n"


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [
        (["cancel"], 2),
        (["cancel", "--all", "--status", "running"], 2),
        (["cancel", "--where", "nonsense"], 2),
        (["cancel", "--all", "--rate", "0"], 2),
        (["signal", "go", "no json", "--all"], 2),
        (["show", "nothing"], 3),
    ],
    ids=str,
)
def test_batch_that_cannot_be_is_refused(
    args: list[str], exit_code: int, folder: Path
) -> None:
    assert invoke("batch", *args).exit_code == exit_code
    assert lines_of(invoke("list", "--type", "durable.batch", "--json")) == []


def test_vacuum_says_what_it_has_won(folder: Path) -> None:
    with closing(sqlite3.connect("orders.db")) as connection:
        connection.execute("CREATE TABLE junk AS SELECT randomblob(500000)")
        connection.execute("DROP TABLE junk")
        connection.commit()
    (done,) = lines_of(invoke("db", "vacuum", "--json"))

    assert done["bytes"] == Path("orders.db").stat().st_size
    assert done["bytes"] < done["bytes_before"] - 400_000
    with closing(sqlite3.connect("orders.db")) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        connection.execute(
            "INSERT INTO durable_workers (worker_id, namespace, host, pid,"
            " process_started_at, task_queue, started_at, lease_expires_at)"
            " VALUES ('w', 'default', 'elsewhere', 7, '', 'default', 1,"
            " 5000000000000000)"
        )
        connection.commit()
    refused = invoke("db", "vacuum")
    assert refused.exit_code == 2
    assert "Workers use the database (process 7)" in refused.stderr


# --- starting -------------------------------------------------------------------------


def test_run_prints_the_result_and_nothing_else_on_stdout(folder: Path) -> None:
    done = invoke(
        "run",
        f"{APP}:place_order",
        "--input",
        '{"order": {"id": 7}, "gift": true}',
        "--id",
        "seven",
    )

    assert lines_of(done) == [{"receipt": "receipt-7-", "gift": "True"}]
    assert "the workflow prints" in done.stderr
    assert [
        run["status"] for run in lines_of(invoke("list", "--id", "seven", "--json"))
    ]


def test_run_as_json_names_the_run(folder: Path) -> None:
    done = invoke("run", f"{APP}:place_order", "--input", '[{"id": 7}]', "--json")

    (found,) = lines_of(done)
    assert found["result"]["receipt"] == "receipt-7-"
    assert found["workflow_id"] == found["run_id"]


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [
        (("failing",), 5),
        (("forever", "--timeout", "10ms"), 6),
        (("place_order", "--input", '[{"id": 7}]', "--id", "sleeping"), 4),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_run_ends_with_the_outcome_of_the_workflow(
    args: tuple[str, ...], exit_code: int, folder: Path
) -> None:
    name, *rest = args

    done = invoke("run", f"{APP}:{name}", *rest)

    assert (done.exit_code, done.stdout) == (exit_code, "")


def test_run_works_in_memory(folder: Path) -> None:
    done = invoke(
        "--database",
        "memory://",
        "run",
        f"{APP}:cli_place_order",
        "--input",
        "-",
        input='[{"id": 7}]',
    )

    assert lines_of(done)[0]["receipt"] == "receipt-7-"


def test_start_by_name_needs_no_code(folder: Path) -> None:
    done = invoke("start", "somebody_elses", "--input", "[1]", "--id", "x")

    assert (done.exit_code, done.stdout) == (0, "x\n")
    (run,) = lines_of(invoke("list", "--id", "x", "--json"))
    assert run["workflow_type"] == "somebody_elses"
    assert run["owner"] is None


def test_start_with_code_checks_the_arguments(folder: Path) -> None:
    done = invoke("start", f"{APP}:sleeping", "--input", '[{"id": 7}]', "--json")

    assert set(lines_of(done)[0]) == {"workflow_id", "run_id"}
    assert invoke("start", f"{APP}:sleeping", "--input", "[7]").exit_code == 2


def test_same_request_starts_once(folder: Path) -> None:
    first, second = (
        lines_of(invoke("start", "x", "--request-id", "r1", "--json")) for _ in range(2)
    )

    assert first[0]["run_id"] == second[0]["run_id"]


# --- replay --------------------------------------------------------------------------


def test_replay_of_sound_runs_says_ok(folder: Path) -> None:
    done = invoke("replay", APP, "--id", "done", "--json")

    (found,) = lines_of(done)
    assert (found["verdict"], found["event_count"]) == ("ok", 4)
    assert "1 ok" in invoke("replay", APP, "--id", "sleeping").stderr
    assert "the workflow prints" not in done.stdout


def test_replay_of_all_names_what_is_stuck(folder: Path) -> None:
    done = invoke("replay", APP, "--all", "--json")

    assert done.exit_code == 1
    verdicts = [json.loads(line)["verdict"] for line in done.stdout.splitlines()]
    assert verdicts == ["ok", "stuck", "ok", "ok"]
    opened = invoke("replay", APP, "--open", "--json")
    assert len(opened.stdout.splitlines()) == 2


def test_replay_of_a_file_finds_the_exact_mismatch(folder: Path) -> None:
    recorded = invoke("history", "done", "--json", "--payloads").stdout
    Path("good.json").write_text(recorded)
    Path("array.json").write_text(f"[{','.join(recorded.splitlines())}]")
    Path("bad.json").write_text(recorded.replace('"cli_charge"', '"cli_refund"'))

    assert invoke("replay", APP, "--file", "good.json").exit_code == 0
    assert invoke("replay", APP, "--file", "array.json").exit_code == 0
    assert invoke("replay", APP, "--file", "-", input=recorded).exit_code == 0
    bad = invoke("replay", APP, "--file", "bad.json", "--json")

    assert bad.exit_code == 8
    found = json.loads(bad.stdout)
    assert (found["verdict"], found["event_id"]) == ("mismatch", 2)
    assert "'cli_refund'" in found["recorded"]
    assert "'cli_charge'" in found["found"]
    text = invoke("replay", APP, "--file", "bad.json")
    assert text.stdout.startswith("mismatch  done  cli_place_order  4 events")
    assert "event 2 is ActivityTaskScheduled('cli_refund'" in text.stdout
    assert "code: nondeterminism" in text.stderr


def test_replay_finds_that_the_code_ends_a_run_otherwise(folder: Path) -> None:
    recorded = invoke("history", "done", "--json", "--payloads").stdout
    *events, last = recorded.splitlines()
    ended = json.loads(last)
    ended["data"]["result"]["json"] = "another"
    Path("other.json").write_text("\n".join([*events, json.dumps(ended)]))

    done = invoke("replay", APP, "--file", "other.json", "--json")

    assert done.exit_code == 8
    found = json.loads(done.stdout)
    assert (found["verdict"], found["event_id"]) == ("mismatch", ended["event_id"])
    assert "the result differs" in found["message"]
    assert "another" not in done.stdout


def test_replay_of_a_file_without_values_says_how_to_write_it(folder: Path) -> None:
    Path("h.json").write_text(invoke("history", "done", "--json").stdout)

    done = invoke("replay", APP, "--file", "h.json")

    assert done.exit_code == 2
    assert "--payloads" in done.stderr


@pytest.mark.parametrize(
    ("text", "exit_code"),
    [("", 1), ("{}", 2), ("[3]", 2), ("nonsense", 2), ('{"event_id": 1}', 2)],
)
def test_replay_of_a_file_of_another_kind_is_refused(
    text: str, exit_code: int, folder: Path
) -> None:
    Path("h.json").write_text(text)

    assert invoke("replay", APP, "--file", "h.json").exit_code == exit_code


def test_replay_skips_what_no_module_defines(folder: Path) -> None:
    invoke("start", "somebody_elses", "--id", "x")
    assert invoke("replay", APP, "--id", "x").exit_code == 2

    done = invoke("replay", APP, "--open", "--json")

    assert json.loads(done.stdout.splitlines()[0])["verdict"] == "skipped"
