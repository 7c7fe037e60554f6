"""How the golden histories were recorded: which workflow met which outside world."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import msgspec

from durable import ApplicationError
from durable.core.history.events import (
    WorkflowExecutionPaused,
    WorkflowExecutionReset,
    WorkflowExecutionUnpaused,
)
from durable.core.machines.retry import OUTCOME_UNKNOWN
from durable.core.resetting import cut_at, history_of
from durable.runs.activity_tasks.endings import unknown_outcome
from durable.testing.driver import RUN_ID, Driver
from tests.replay import message_recordings
from tests.replay import workflows as w

ORDER: Final = w.Order(
    "order-42", 1_999, ("book", "pen"), datetime(2026, 1, 2, tzinfo=UTC)
)


def _finish(driver: Driver) -> None:
    """Answer everything in order: activities by their argument, then timers."""
    while not driver.is_closed:
        pending = driver.pending
        if not pending:
            driver.fire_next_timer()
            continue
        driver.clock.advance(0.25)
        activity = pending[-1] if len(pending) % 2 else pending[0]
        value: object = f"done {activity.activity_id}"
        if activity.activity_type in ("golden.refund", "golden.notify"):
            value = None
        driver.complete(activity, value)


def _order() -> Driver:
    driver = Driver(w.order(ORDER), workflow_id="order-42")
    driver.start()
    _finish(driver)
    return driver


def _saga() -> Driver:
    driver = Driver(w.saga(ORDER))
    driver.start()
    driver.complete(driver.pending[0], "receipt")
    driver.fail(driver.pending[0], w.CardDeclined("no funds"))
    _finish(driver)
    return driver


def _cancelled() -> Driver:
    driver = Driver(w.cancelled())
    driver.start()
    driver.cancel("a storm")
    driver.complete(driver.pending[1], None)
    driver.cancel("again")
    driver.complete(driver.pending[0], b"house")
    return driver


def _deadlines() -> Driver:
    driver = Driver(w.deadlines())
    driver.start()
    driver.complete(driver.pending[0], "met")
    driver.complete(driver.pending[0], "in time")
    driver.fire_next_timer()
    driver.turn(driver.cancelled(driver.pending[0]))
    driver.fire_next_timer()
    driver.complete(driver.pending[0], "too late")
    while not driver.is_closed:
        driver.fire_next_timer()
    return driver


def _racing() -> Driver:
    driver = Driver(w.racing())
    driver.start()
    pending = driver.pending
    driver.turn(*(driver.completed(one, "x") for one in (pending[4], pending[1])))
    _finish(driver)
    return driver


def _draining() -> Driver:
    """Inputs that were recorded before any task, and a restart in between."""
    driver = Driver(w.producing())
    driver.record(driver.started())
    driver.turn()
    driver.record(driver.completed(driver.pending[0], "part"))
    driver.turn()
    _finish(driver)
    return driver


def _failing() -> Driver:
    driver = Driver(w.failing())
    driver.start()
    driver.fail(driver.pending[0], ApplicationError("no", {"code": 7}, type="Broken"))
    return driver


def _resetting() -> Driver:
    """A run that goes on from what another has drawn, and is held up for a while."""
    old = Driver(w.drawing())
    old.start()
    _finish(old)
    run_id = f"{RUN_ID[:-1]}1"
    started = msgspec.structs.replace(
        old.started(), run_id=run_id, original_run_id=RUN_ID
    )
    reset = WorkflowExecutionReset(
        run_id=run_id, base_run_id=RUN_ID, reset_at=old.clock.now(), reason="why"
    )
    driver = Driver(w.drawing(), run_id=run_id, clock=old.clock)
    driver.history = history_of(cut_at(old.history, 4), started, reset)
    driver.record(WorkflowExecutionPaused("later", "pause-1"))
    driver.record(WorkflowExecutionUnpaused(request_id="resume-1"))
    driver.turn()
    _finish(driver)
    return driver


def _queueing() -> Driver:
    driver = Driver(w.queueing())
    driver.start()
    _finish(driver)
    return driver


def _doubting() -> Driver:
    driver = Driver(w.doubting())
    driver.start()
    driver.complete(driver.pending[0], 5)
    driver.complete(driver.pending[0], 7)
    sand, stone = driver.pending
    doubt = unknown_outcome("attempt 1 was under way when its worker died")
    failed = driver.failed(stone, ValueError())
    replace = msgspec.structs.replace
    driver.turn(replace(failed, failure=doubt, retry_state=OUTCOME_UNKNOWN))
    driver.complete(sand, "sand was found")
    return driver


def _lined_up() -> Driver:
    driver = Driver(w.queueing())
    started = msgspec.structs.replace(
        driver.started(), priority=1, fairness_key="ann", fairness_weight=2
    )
    driver.turn(started)
    _finish(driver)
    return driver


# --- messages -------------------------------------------------------------------------


def _desk() -> Driver:
    driver = Driver(w.Desk.run("desk", most=6))
    driver.turn(
        driver.started(),
        driver.signalled(w.Desk.write("early", times=2)),
        driver.signalled("golden.unknown", 1, "two"),
    )
    driver.clock.advance(1)
    driver.turn(
        driver.signalled(w.Desk.send("box")),
        driver.requested(w.Desk.charge(ORDER), update_id="declined"),
        driver.signalled("write", {"no": "text"}, "no number"),
        driver.requested(w.Desk.strike(9), update_id="refused"),
        driver.requested(w.Desk.strike(1), update_id="struck"),
    )
    driver.crash()
    driver.clock.advance(1)
    driver.complete(driver.pending[1], "receipt")
    driver.record(driver.signalled(w.Desk.write("while nobody worked")))
    driver.update(w.Desk.charge(ORDER), update_id="charged")
    driver.clock.advance(1)
    driver.complete(driver.pending[1], "receipt")
    driver.signal(w.Desk.write("last", times=3))
    driver.clock.advance(1)
    driver.complete(driver.pending[0], "box")
    return driver


def _receiving() -> Driver:
    driver = Driver(w.receiving())
    driver.turn(driver.started(), driver.signalled(w.numbers(1)))
    driver.signal(w.parcels(ORDER))
    driver.turn(driver.signalled(w.parcels(ORDER)), driver.signalled(w.numbers(2)))
    driver.signal("golden.numbers", "rubbish")
    driver.turn(driver.signalled(w.parcels(ORDER)), driver.signalled(w.parcels(ORDER)))
    driver.fire_next_timer()
    driver.turn(driver.signalled(w.numbers(7)), driver.requested("golden.add", 8))
    return driver


# --- other runs -----------------------------------------------------------------------


def _kinship() -> Driver:
    driver = Driver(w.kinship())
    driver.start()
    while not driver.is_closed:
        kid = driver.children[-1] if len(driver.children) % 2 else driver.children[0]
        driver.clock.advance(0.5)
        if kid.workflow_id == "taken":
            driver.turn(kid.refused())
        elif kid.run_id is None:
            driver.turn(kid.started())
        elif kid.workflow_id == "failing":
            driver.turn(kid.failed(w.CardDeclined("no funds")))
        elif kid.workflow_id == "late":
            driver.turn(kid.timed_out())
        elif kid.workflow_id == "terminated":
            driver.turn(kid.terminated("by hand"))
        else:
            driver.turn(kid.completed(f"done {kid.workflow_id[:8]}"))
    return driver


def _felling() -> Driver:
    driver = Driver(w.felling())
    driver.start()
    while not driver.is_closed:
        driver.turn(driver.children[-1].started())
        driver.signal(w.numbers(1))
        driver.crash()
        for delivery in driver.deliveries:
            driver.turn(delivery.delivered())
        kid = driver.children[-1]
        if kid.is_cancel_requested and not driver.is_closed:
            driver.turn(kid.cancelled())
    return driver


def _telling() -> Driver:
    driver = Driver(w.telling())
    driver.start()
    for index, is_closed in enumerate((None, True, False, None)):
        (delivery,) = driver.deliveries
        driver.clock.advance(index)
        if is_closed is None:
            driver.turn(delivery.delivered())
        else:
            driver.turn(delivery.refused(is_closed=is_closed))
    return driver


# --- bounded histories ----------------------------------------------------------------


def _relaying() -> Driver:
    driver = Driver(w.relaying(ORDER))
    driver.start()
    driver.turn(driver.signalled(w.numbers(1)), driver.signalled(w.numbers(2)))
    driver.complete(driver.pending[0], "shipped")
    return driver


def _carrying() -> Driver:
    driver = Driver(w.carrying())
    driver.start()
    for number in range(2):
        driver.turn(
            driver.signalled(w.numbers(number)), driver.signalled("golden.unread", 1)
        )
        driver.fire_next_timer()
    driver.signal(w.numbers(7))
    driver.complete(driver.pending[0], "shipped")
    return driver


def _stepping() -> Driver:
    driver = Driver(w.stepping(ORDER))
    driver.start()
    driver.complete(driver.pending[0], 3)
    printed, label = driver.pending
    driver.complete(label, "a label")
    driver.complete(printed, {"text": "printed"})
    return driver


def _plain(call: Callable[[], Driver]) -> Callable[[], Driver]:
    def record() -> Driver:
        driver = call()
        driver.start()
        _finish(driver)
        return driver

    return record


RECORDINGS: Final[dict[str, Callable[[], Driver]]] = {
    "order": _order,
    "saga": _saga,
    "cancelled": _cancelled,
    "deadlines": _deadlines,
    "racing": _racing,
    "drawing": _plain(lambda: Driver(w.drawing())),
    "patching": _plain(lambda: Driver(w.patching())),
    "producing": _plain(lambda: Driver(w.producing())),
    "draining": _draining,
    "resetting": _resetting,
    "failing": _failing,
    "finding": _plain(lambda: Driver(w.finding(ORDER))),
    "queueing": _queueing,
    "doubting": _doubting,
    "lined_up": _lined_up,
    "desk": _desk,
    "receiving": _receiving,
    "kinship": _kinship,
    "felling": _felling,
    "telling": _telling,
    "relaying": _relaying,
    "carrying": _carrying,
    "stepping": _stepping,
    "local": _plain(lambda: Driver(w.local(ORDER))),
    **message_recordings.RECORDINGS,
}
