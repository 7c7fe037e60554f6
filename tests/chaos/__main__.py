"""`make chaos`: is anything lost, wrong or done twice under faults?

Workers and clients run programs whose results are known, faults strike them, and a
judge compares the ledger, which is outside of the database, with what is in it. It
ends with `HOLDS` (0), `VIOLATED` (1), or `VOID` (3): something never happened.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from tests.chaos import branches, ledger
from tests.chaos.checker import Judge
from tests.chaos.database import KINDS, SERVERS, make
from tests.chaos.driver import Plan, World, run_tool
from tests.chaos.faults import FAULTS

_WANTED: Final = (
    branches.TAKEN_OVER,
    branches.LEASE_LOST,
    branches.REFUSED,
    branches.REJOINED,
    branches.MAIL,
    branches.RETRIED,
    branches.BEGUN_AGAIN,
    branches.CHANGED_HANDS,
)
_FATES: Final = (branches.FOUND, branches.NOT_FOUND)
_SHOWN_MAX: Final = 30


def main() -> int:
    options = _parse()
    if options.database in SERVERS:
        lack = SERVERS[options.database].find_lack()
        if lack is not None:
            sys.exit(f"{lack}, so there is nothing to run chaos on.")
    plan = _plan(options)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="durable-chaos-"))
    folder.mkdir(exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"--folder {folder} is not empty: name one that is new.")
    print(f"Chaos on {plan.kind}, seed {plan.seed}, in {folder}", flush=True)
    began = time.monotonic()
    database = make(plan.kind, folder, os.getpid())
    world = World(plan, folder, database)
    try:
        world.run()
        violations = _ask_tools(world)
        tables = database.read("runs", "history", "attempts")
        (folder / "tables.json").write_text(json.dumps(tables), encoding="utf-8")
    finally:
        database.close()
    judge = Judge(ledger.read(folder), tables, plan.seed)
    judge.judge()
    violations += judge.violations
    missing = _missing(plan, world.struck, judge.branches)
    print(f"It took {time.monotonic() - began:.0f} s.")
    _show("faults", world.struck)
    _show("branches", judge.branches)
    _show("load", judge.figures)
    verdict = _tell_verdict(folder, violations, missing)
    if verdict == 0 and options.folder is None:
        shutil.rmtree(folder)
    return verdict


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--database", choices=KINDS, default="sqlite")
    parser.add_argument("--seconds", type=float, default=60, help="at least")
    parser.add_argument(
        "--patience", type=float, default=120, help="s more for what was not seen yet"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--inflight", type=int, default=6, help="of each client")
    parser.add_argument("--every", type=float, default=1.0, help="s between faults")
    parser.add_argument("--need", type=int, default=1, help="of each fault, or void")
    parser.add_argument(
        "--weights",
        default="",
        metavar="NAME=N,...",
        help="of faults, 0 for none: " + ", ".join(FAULTS),
    )
    parser.add_argument("--folder", type=Path, help="an empty one, which is kept")
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument(
        "--sabotage",
        choices=("", "lose", "rerun", "rob"),
        default="",
        help="break something: the verdict must be VIOLATED",
    )
    return parser.parse_args()


def _plan(options: argparse.Namespace) -> Plan:
    kind = options.database
    weights = {n: f.weight for n, f in FAULTS.items() if kind in f.kinds}
    for word in filter(None, options.weights.split(",")):
        name, _, weight = word.partition("=")
        if name not in weights or not weight.replace(".", "", 1).isdigit():
            sys.exit(f"--weights has {word!r}: expected NAME=N of {[*weights]}.")
        weights[name] = float(weight)
    if options.no_faults:
        weights = {}
    weights = {name: weight for name, weight in weights.items() if weight}
    stops = {"worker stopped", "worker killed"} <= weights.keys()
    cuts = {"cut before COMMIT", "cut after COMMIT"} <= weights.keys()
    wanted = (*(_WANTED if stops else ()), *(_FATES if cuts else ()))
    return Plan(
        kind=kind,
        seconds=options.seconds,
        patience=options.patience,
        seed=options.seed,
        workers=options.workers,
        clients=options.clients,
        inflight=options.inflight,
        every=options.every,
        need=options.need,
        weights=weights,
        wanted=wanted,
        sabotage=options.sabotage,
    )


def _ask_tools(world: World) -> list[str]:
    """Let the library's own checker look, and replay all that was recorded."""
    violations: list[str] = []
    for words in (("doctor",), ("replay", "tests.chaos.load", "--all")):
        done = run_tool(world, *words)
        (world.folder / f"{words[0]}.txt").write_text(done.stdout, encoding="utf-8")
        if done.returncode:
            said = "; ".join(done.stdout.splitlines()[-5:])
            violations.append(f"{words[0]} ended with {done.returncode}: {said}")
    return violations


def _missing(plan: Plan, struck: Counter[str], seen: Counter[str]) -> list[str]:
    seldom = [
        f"{name} {struck[name]} times, of {plan.need}"
        for name in plan.weights
        if struck[name] < plan.need
    ]
    return seldom + [name for name in plan.wanted if not seen[name]]


def _show(title: str, counts: dict[str, int]) -> None:
    print(f"\n{title}")
    for name, count in sorted(counts.items()):
        print(f"  {count:8,}  {name}")


def _tell_verdict(folder: Path, violations: list[str], missing: list[str]) -> int:
    if violations:
        every = "".join(f"{violation}\n" for violation in violations)
        (folder / "violations.txt").write_text(every, encoding="utf-8")
        shown = violations[:_SHOWN_MAX]
        print("\nVIOLATED", *shown, sep="\n  ")
        print(f"{len(violations)} in all. They and what led to them are in {folder}")
        return 1
    if missing:
        print("\nVOID, for these never happened:", *missing, sep="\n  ")
        print(f"What there is of it is kept in {folder}")
        return 3
    print("\nHOLDS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
