"""Measures durable against its budgets and beside DBOS: `python -m tests.benchmarks`.

No figure fails anything: machines differ, and what travels between them are ratios.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks.databases import DATABASES, SQLITE, Servers
from tests.benchmarks.machine import describe_machine
from tests.benchmarks.plan import CORE, DBOS, DURABLE, SCALES, WORKLOADS, run_all
from tests.benchmarks.report import budget_table, dbos_table, summarize

_ON_ALL = ("normal", "full")
_REPETITIONS = {"tiny": 1, "quick": 2, "normal": 3, "full": 3}


def main() -> None:
    options = _parse()
    scale = options.scale
    has_dbos = importlib.util.find_spec("dbos") is not None
    subjects = {CORE, DURABLE} | ({DBOS} if has_dbos and options.dbos else set())
    databases = set(options.on or (DATABASES if scale in _ON_ALL else [SQLITE]))
    machine = describe_machine(options.dir or Path(tempfile.gettempdir()))
    print(_headline(machine))
    for database in sorted(databases):
        if lack := Servers.find_lack(database):
            print(f"{lack}, so nothing is measured on {database}.")
            databases.remove(database)
    began = time.perf_counter()
    samples, failed = run_all(
        scale=scale,
        repetitions=options.repetitions or _REPETITIONS[scale],
        subjects=subjects,
        databases=databases,
        only=set(options.only),
        directory=options.dir,
        say=_say if sys.stderr.isatty() or options.verbose else _be_silent,
    )
    rows = summarize(samples)
    print(
        f"\nAgainst the budgets (SQLite: synchronous=FULL; servers: as durable as they"
        f" are by default; ratios of the best)\n\n"
        f"{budget_table(rows)}\n"
    )
    if DBOS in subjects:
        version = machine["packages"]["dbos"]
        print(
            f"Beside DBOS {version}, its defaults, on the same database"
            " (best, then median)\n\n"
            f"{dbos_table(rows)}\n"
        )
    elif not has_dbos:
        print(
            "DBOS is not installed, so there is nothing beside: "
            "pip install 'durable-asyncio[bench]'\n"
        )
    print(f"Measured for {time.perf_counter() - began:.0f} s.")
    if options.json is not None:
        found = {"machine": machine, "scale": scale, "figures": rows}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if failed:
        sys.exit("Some workloads did not come to their end:\n\n" + "\n\n".join(failed))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument(
        "--scale", choices=SCALES, default="normal", help="how large the workloads are"
    )
    for scale, what in (
        ("quick", "less than a minute"),
        ("full", "1,000,000 sleepers, and a run of 100,000 steps without a checkpoint"),
    ):
        parser.add_argument(
            f"--{scale}", dest="scale", action="store_const", const=scale, help=what
        )
    parser.add_argument(
        "--on",
        nargs="+",
        choices=DATABASES,
        help="the databases to measure on; if not given: all, and SQLite if quick",
    )
    parser.add_argument("--repetitions", type=int, help="of each workload")
    parser.add_argument("--dir", type=Path, help="where the databases go, on a disk")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument(
        "--no-dbos", dest="dbos", action="store_false", help="measure durable only"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=[workload.name for workload in WORKLOADS],
        metavar="WORKLOAD",
        help="of: " + ", ".join(workload.name for workload in WORKLOADS),
    )
    parser.add_argument("--verbose", action="store_true", help="say what is running")
    return parser.parse_args()


def _headline(machine: dict[str, object]) -> str:
    return (
        f"Python {machine['python']}, {machine['system']},"
        f" {machine['processors']} processors, SQLite {machine['sqlite']}"
        f" on {machine['filesystem']}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _be_silent(line: str) -> None:
    """Say nothing: nobody looks on."""


if __name__ == "__main__":
    main()
