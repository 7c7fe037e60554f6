"""Watch workflows survive: the shop is killed with kill -9, again and again.

Runs the shop in a child process, kills it three times in the middle of its work, starts
it again each time, and shows what each process did, what was not done again, and the
timeline of every run. The database stays, to be opened with the `durable` command.
"""

from __future__ import annotations

import collections
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DATABASE = Path("demo-orders.db")
LEDGER = Path("demo-ledger.jsonl")
# Kill one process after the other as soon as it is in the midst of this activity.
KILL_DURING = ("charge", "pack", "ship")
DEADLINE_SECONDS = 60.0

Line = dict[str, Any]


def read_ledger() -> list[Line]:
    """Everything that activities have written so far."""
    if not LEDGER.exists():
        return []
    return [json.loads(line) for line in LEDGER.read_text().splitlines()]


def start_shop() -> subprocess.Popen[str]:
    """Start the shop in a child process."""
    return subprocess.Popen(
        [
            sys.executable,
            str(HERE / "shop.py"),
            f"sqlite:///{DATABASE}",
            str(HERE / "orders.json"),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "DEMO_LEDGER": str(LEDGER)},
    )


def in_progress(pid: int) -> list[Line]:
    """The activities that a process has begun and not ended."""
    open_ones: dict[tuple[str, str], Line] = {}
    for line in read_ledger():
        if line["pid"] == pid:
            key = (line["order"], line["what"])
            if line["phase"] == "begin":
                open_ones[key] = line
            else:
                open_ones.pop(key, None)
    return list(open_ones.values())


def kill_in_the_middle(shop: subprocess.Popen[str], of: str) -> list[Line]:
    """Wait until the shop is in the midst of an activity, then kill it."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < deadline:
        busy = in_progress(shop.pid)
        if any(line["what"] == of for line in busy):
            os.kill(shop.pid, signal.SIGKILL)
            shop.wait()
            return busy
        if shop.poll() is not None:
            raise SystemExit(f"The shop ended by itself with {shop.returncode}.")
        time.sleep(0.005)
    raise SystemExit("The shop did nothing for a minute.")


def main() -> None:
    """Kill, resume, and show."""
    for leftover in (*Path().glob(f"{DATABASE}*"), LEDGER):
        leftover.unlink(missing_ok=True)
    names: dict[int, str] = {}
    print("Three orders. The shop will be killed three times, in mid-work.\n")
    for number, activity in enumerate(KILL_DURING, start=1):
        shop = start_shop()
        names[shop.pid] = f"process {number}"
        busy = kill_in_the_middle(shop, activity)
        print(f"process {number}  (pid {shop.pid})  killed with kill -9 in mid-work:")
        for line in busy:
            print(f"    {line['order']}  {line['what']}, attempt {line['attempt']}")
    shop = start_shop()
    last = len(KILL_DURING) + 1
    names[shop.pid] = f"process {last}"
    output, _ = shop.communicate(timeout=DEADLINE_SECONDS)
    if shop.returncode != 0:
        raise SystemExit(f"The last process failed with {shop.returncode}.")
    print(f"process {last}  (pid {shop.pid})  resumed and finished:\n")
    for row in output.splitlines():
        order, cents, tracking = row.split()
        print(f"    {order}  paid {int(cents) / 100:8.2f}  shipped as {tracking}")
    show_work(names)
    show_timelines(output)


def show_work(names: dict[int, str]) -> None:
    """Which process did what, straight from the outside world."""
    runs: dict[tuple[str, str], list[Line]] = collections.defaultdict(list)
    for line in read_ledger():
        runs[line["order"], line["what"]].append(line)
    print("\nWhat really ran, by the activities' own ledger:\n")
    once = 0
    for (order, what), lines in runs.items():
        tries = [line for line in lines if line["phase"] == "begin"]
        ended = {line["attempt"] for line in lines if line["phase"] == "end"}
        story = [
            f"{names[line['pid']]}"
            + ("" if line["attempt"] in ended else " (cut short)")
            for line in tries
        ]
        if len(tries) == 1:
            once += 1
        else:
            print(f"    {order}  {what:26} {' -> '.join(story)}")
    print(f"    ... and {once} more ran exactly once, and were not run again by any")
    print("    later process: their recorded results were replayed.")


def show_timelines(output: str) -> None:
    """The history of each run, as the command line shows it."""
    command = [sys.executable, "-m", "durable", "--database", f"sqlite:///{DATABASE}"]
    for row in output.splitlines():
        order = row.split()[0]
        print(f"\n$ durable show {order}\n", flush=True)
        subprocess.run([*command, "show", order], check=True)
    print(f"\nThe database is {DATABASE}. Look around in it:\n")
    print(f"    durable --database sqlite:///{DATABASE} list")
    print(f"    durable --database sqlite:///{DATABASE} doctor")
    query = "select event_id, type, data from durable_history"
    print(f"    sqlite3 {DATABASE} '{query}'")


if __name__ == "__main__":
    main()
