"""Kills a saga at every SQL statement, while it acts and while it undoes; resumes it.

A program of its own, run by `test_crash_sweep.py`; see `crash_sweep.py`, whose tools it
uses. The outside world is a file of bookings: whatever the moment of the kill, in the
end everything is undone, last booking first, and nothing that was recorded ran again.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from pathlib import Path

from durable import (
    CompensationFailed,
    Engine,
    IdConflictPolicy,
    RetryPolicy,
    Saga,
    WorkflowFailedError,
    activity,
    sleep,
    workflow,
)
from tests.integration import crash_sweep
from tests.integration.crash_sweep import (
    Point,
    check_database,
    in_child,
    note,
    recorded,
    warm_up,
    watch_statements,
)

PLACES = ("rome", "oslo", "lima")


class Declined(Exception):
    """The bank says no."""


POLICY = RetryPolicy(
    max_attempts=20,
    initial_interval="1ms",
    max_interval="1ms",
    non_retryable=(Declined,),
)


@activity(name="saga_kill.release", retry=POLICY)
async def release(booking: str) -> None:
    """Give a booking back; one cannot be given back."""
    note(f"saga_kill.release {json.dumps(booking)}")
    if booking == "seat in oslo":
        raise Declined("no returns")


@activity(name="saga_kill.book", compensate=release, retry=POLICY)
async def book(place: str) -> str:
    """Book a place."""
    note(f"saga_kill.book {json.dumps(place)}")
    return f"seat in {place}"


@activity(name="saga_kill.pay", retry=POLICY)
async def pay(cents: int) -> None:
    """Be declined."""
    note(f"saga_kill.pay {json.dumps(cents)}")
    raise Declined("no money")


@workflow(name="saga_kill.travel")
async def travel() -> None:
    """Book three places, one of which cannot be undone, and fail to pay."""
    async with Saga() as saga:
        await book(PLACES[0])
        await asyncio.gather(*(book(place) for place in PLACES[1:]))
        saga.add_compensation(sleep, "1ms")
        await pay(500)


def run_engine(database: Path, answer: Path, at: int) -> None:
    """Run or resume the saga; write how it ended and the number of moments."""
    point = Point(at)
    watch_statements(point)

    async def main() -> list[str]:
        async with Engine(f"sqlite:///{database}", blocked_after=None) as engine:
            run = await engine.start(
                travel(),
                id="travel",
                request_id="travel",
                on_conflict=IdConflictPolicy.USE_EXISTING,
            )
            try:
                await run.result(timeout="50s")
            except WorkflowFailedError as error:
                failed = error.__cause__
                if isinstance(failed, CompensationFailed):
                    return [repr(failed.__cause__), *map(repr, failed.errors)]
                raise
            return ["it went well"]

    ended = asyncio.run(main())
    answer.write_text(json.dumps({"ended": ended, "moments": point.count}))


ENDED = ["Declined('no money')", "Declined('no returns')"]


def try_point(folder: Path, at: int) -> tuple[bool, bool, int]:
    """Crash at one moment, resume, check.

    Returns whether it crashed, whether it did so while undoing, and moments.
    """
    database, answer = folder / f"{at}.db", folder / f"{at}.json"
    crash_sweep.LEDGER = folder / f"{at}.ledger"
    crash_sweep.LEDGER.touch()
    code = in_child(lambda: run_engine(database, answer, at))
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"point {at}: the first child ended with {code}")
    _, done = recorded(database)
    before = crash_sweep.LEDGER.read_text().splitlines()
    if code != 0:
        resumed = in_child(lambda: run_engine(database, answer, 0))
        if resumed != 0:
            raise SystemExit(f"point {at}: resuming ended with {resumed}")
    outcome = json.loads(answer.read_text())
    if outcome["ended"] != ENDED:
        raise SystemExit(f"point {at}: it ended with {outcome['ended']}")
    ran = crash_sweep.LEDGER.read_text().splitlines()
    if done & set(ran[len(before) :]):
        raise SystemExit(f"point {at}: recorded, and run again: {done & set(ran)}")
    check_undone(at, ran)
    if in_child(lambda: check_database(database)) != 0:
        raise SystemExit(f"point {at}: the checker found something")
    for leftover in folder.glob(f"{at}.*"):
        leftover.unlink()
    undoing = any("release" in line for line in before)
    return code != 0, undoing and code != 0, outcome["moments"]


def check_undone(at: int, ran: list[str]) -> None:
    """Every booking is given back after the payment failed; that of Rome at the end."""
    released = list(dict.fromkeys(line for line in ran if "release" in line))
    expected = {f'saga_kill.release "seat in {place}"' for place in PLACES}
    if set(released) != expected or "rome" not in released[-1]:
        raise SystemExit(f"point {at}: undone were {released}")
    if min(map(ran.index, released)) < ran.index("saga_kill.pay 500"):
        raise SystemExit(f"point {at}: undone too early: {ran}")


def main(first: int, step_size: int) -> None:
    """Visit every `step_size`-th point, beginning with `first`."""
    warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        *_, moments = try_point(folder, 0)
        tried = crashed = undoing = 0
        for at in range(first, moments + 1, step_size):
            has_crashed, has_undone, _ = try_point(folder, at)
            tried += 1
            crashed += has_crashed
            undoing += has_undone
        print(
            f"{moments} moments, {tried} tried, {crashed} crashed,"
            f" {undoing} while undoing, 0 wrong"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
