"""Tells the ledger when a process comes to where it seldom is.

What the library logs, it says itself; the rest is seen by looking at what the writer
of a store answers.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Final

from durable.errors import CommitUnknownError, HistoryTakenError, LeaseLostError
from durable.store.records import MailArrived
from durable.store.threads.groups import GroupExecutor
from tests.chaos.ledger import Ledger, Line

TAKEN_OVER: Final = "dead worker taken over from"
LEASE_LOST: Final = "lease lost"
REFUSED: Final = "write without a lease refused"
MAIL: Final = "MailArrived"
RETRIED: Final = "activity retried"
BEGUN_AGAIN: Final = "attempt begun again after one was lost"
CHANGED_HANDS: Final = "run that changed hands"
REJOINED: Final = "worker rejoined after a lost lease"
FOUND: Final = "commit found to be there"
NOT_FOUND: Final = "commit found to be lost"
IN_DOUBT: Final = "commit in doubt"
SAID: Final = {
    "Took over from dead workers": TAKEN_OVER,
    "Worker %s has lost its lease": LEASE_LOST,
    "%s Nothing is recorded until": "outage told",
    "%s is back after": "outage over",
}
ANSWERED: Final[dict[type, str]] = {
    MailArrived: MAIL,
    LeaseLostError: REFUSED,
    HistoryTakenError: "stale write refused",
    CommitUnknownError: "operation in doubt",
}
FATES: Final = {True: FOUND, False: NOT_FOUND, None: IN_DOUBT}
COME_OF: Final = {
    **dict.fromkeys((TAKEN_OVER, BEGUN_AGAIN, CHANGED_HANDS), "worker killed"),
    **dict.fromkeys((LEASE_LOST, REFUSED, REJOINED), "worker stopped"),
    **dict.fromkeys((FOUND, IN_DOUBT), "cut after COMMIT"),
    NOT_FOUND: "cut before COMMIT",
}
"""The fault that leads to a branch."""
STALL_SECONDS: Final = 2.0


def watch(ledger: Ledger) -> None:
    """Tell of rare branches, and of the whole process being given no time."""
    handler = _Listener(ledger)
    logging.getLogger("durable").addHandler(handler)
    _after("execute", lambda answer: _told(ledger, answer))
    _after("_find_fate", lambda fate: ledger.write("branch", branch=FATES[fate]))
    threading.Thread(target=_feel_pulse, args=(ledger,), daemon=True).start()


class _Listener(logging.Handler):
    def __init__(self, ledger: Ledger) -> None:
        super().__init__(logging.INFO)
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        for beginning, branch in SAID.items():
            if str(record.msg).startswith(beginning):
                self._ledger.write("branch", branch=branch)


def _after(method: str, look: Callable[[Any], None]) -> None:
    original = getattr(GroupExecutor, method)

    @functools.wraps(original)
    def watched(*arguments: Any) -> Any:
        answer = original(*arguments)
        look(answer)
        return answer

    setattr(GroupExecutor, method, watched)


def _told(ledger: Ledger, answer: Any) -> None:
    for result, error in answer[0]:
        branch = ANSWERED.get(type(result if error is None else error))
        if branch is not None:
            ledger.write("branch", branch=branch)


def _feel_pulse(ledger: Ledger) -> None:
    while True:
        began = time.monotonic()
        time.sleep(0.5)
        if time.monotonic() > began + STALL_SECONDS:
            ledger.fault("stalled", began, ledger.by)


def count(lines: list[Line]) -> Counter[str]:
    """How often each branch was come to, as far as the ledger shows it."""
    found = Counter(x["branch"] for x in lines if x["what"] == "branch")
    without_lease: set[str] = set()
    holders: defaultdict[str, set[str]] = defaultdict(set)
    begun: set[tuple[str, str]] = set()
    for line in lines:
        if line.get("branch") == LEASE_LOST:
            without_lease.add(line["by"])
        elif line["what"] == "unanswered":
            found["call repeated by a client"] += 1
        elif line["what"] == "fail":
            found[RETRIED] += 1
            begun.discard((line["run"], line["activity"]))
        elif line["what"] == "begin":
            found[REJOINED] += line["by"] in without_lease
            without_lease.discard(line["by"])
            key = line["run"], line["activity"]
            found[BEGUN_AGAIN] += key in begun
            begun.add(key)
            holders[line["run"]].add(line["by"])
    found[CHANGED_HANDS] = sum(len(each) > 1 for each in holders.values())
    return found


def believe_all_others_dead(is_over: Callable[[], bool]) -> None:
    """Break the library: others take every worker for dead, until that is over.

    What is robbed again and again would never end.
    """
    from durable.worker import lookout, process

    judge = process.is_dead

    def believe(pid: int, started: str) -> bool:
        return not is_over() or judge(pid, started)

    setattr(lookout, "is_dead", believe)  # noqa: B010 - it is no variable
