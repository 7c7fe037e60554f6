"""Tells the ledger when a process comes to where it seldom is.

What the library logs, it says itself; the rest is seen by looking at what the writer
of a store answers.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from durable.errors import CommitUnknownError, HistoryTakenError, LeaseLostError
from durable.store.records import MailArrived
from durable.store.threads.groups import GroupExecutor
from tests.chaos.ledger import Ledger

SAID: Final = {
    "Took over from dead workers": "dead worker taken over from",
    "Worker %s has lost its lease": "lease lost",
    "%s Nothing is recorded until": "outage told",
    "%s is back after": "outage over",
}
ANSWERED: Final[dict[type, str]] = {
    MailArrived: "MailArrived",
    LeaseLostError: "write without a lease refused",
    HistoryTakenError: "stale write refused",
    CommitUnknownError: "commit in doubt",
}
FATES: Final = {
    True: "commit found to be there",
    False: "commit found to be lost",
    None: "commit in doubt",
}
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


def believe_all_others_dead() -> None:
    """Break the library: every worker is taken for dead by the others."""
    from durable.worker import lookout

    setattr(lookout, "is_dead", lambda *_: True)  # noqa: B010 - it is no variable
