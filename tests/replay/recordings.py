"""How the golden histories were recorded: which workflow met which outside world."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from durable import ApplicationError
from durable.testing.driver import Driver
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
    "failing": _failing,
    **message_recordings.RECORDINGS,
}
