"""A transfer that fails half-way, and a process that dies while it is being undone.

The bank is a file. Money leaves one account, cannot arrive in the other, and is put
back. The program runs itself in a child process, which kills itself (as `kill -9`
would) in the middle of putting it back; the next process goes on undoing.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from durable import (
    Engine,
    RetryPolicy,
    Saga,
    WorkflowFailedError,
    activity,
    activity_info,
    workflow,
)

BANK = Path("bank.json")


class AccountClosed(Exception):
    """The receiving bank says no."""


def book(key: str, account: str, cents: int) -> None:
    """Book an amount once, however often it is tried: the key says which it is."""
    entries = json.loads(BANK.read_text())
    entries.setdefault(key, [account, cents])
    scratch = BANK.with_suffix(".new")
    scratch.write_text(json.dumps(entries))
    scratch.replace(BANK)


def balance(account: str) -> int:
    """What all entries of an account come to."""
    entries = json.loads(BANK.read_text()).values()
    return sum(cents for owner, cents in entries if owner == account)


@activity(retry=RetryPolicy(max_attempts=5, initial_interval="10ms"))
async def put_back(entry: str, account: str, cents: int) -> None:
    """Undo a withdrawal. The first process dies in here, before it has booked."""
    print(f"    put_back, attempt {activity_info().attempt}, in process {os.getpid()}")
    if "die" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
    book(f"undo {entry}", account, cents)


@activity(compensate=put_back)
async def withdraw(account: str, cents: int) -> str:
    """Take money; the result names the entry."""
    entry = f"{account} {activity_info().workflow_id}"
    book(entry, account, -cents)
    return entry


@activity
async def notify(account: str, text: str) -> None:
    """Nothing to undo here."""
    print(f"    {account}: {text}")


@activity(retry=None)
async def deposit(account: str, cents: int) -> None:
    """Fail for good."""
    raise AccountClosed(f"{account} takes no {cents} cents")


@workflow
async def transfer(source: str, target: str, cents: int) -> None:
    """Both, or neither."""
    async with Saga():
        await withdraw(source, cents)
        await notify(source, f"{cents} cents are on their way")
        await deposit(target, cents)


async def work() -> None:
    """Start the transfer, or find it half undone, and wait for its end."""
    async with Engine("sqlite:///transfers.db") as engine:
        run = await engine.start(transfer("ada", "grace", 500), id="transfer-1")
        try:
            await run.result()
        except WorkflowFailedError as error:
            print(f"    the transfer failed: {error.__cause__!r}")


def main() -> None:
    """Run the child twice: the first one dies."""
    for leftover in Path().glob("transfers.db*"):
        leftover.unlink()
    BANK.write_text(json.dumps({"opening": ["ada", 2_000]}))
    for words in (["work", "die"], ["work"]):
        print(f"A process begins; ada has {balance('ada')} cents.", flush=True)
        child = subprocess.run([sys.executable, __file__, *words])
        killed = child.returncode == -signal.SIGKILL
        print(f"It was {'killed' if killed else 'done'}.\n")
        assert killed == ("die" in words)
    print(f"In the end ada has {balance('ada')} cents, and grace {balance('grace')}.")
    assert balance("ada") == 2_000


if __name__ == "__main__":
    if "work" in sys.argv:
        asyncio.run(work())
    else:
        main()
