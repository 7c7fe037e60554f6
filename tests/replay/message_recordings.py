"""How the golden histories of messages and families were recorded."""

from collections.abc import Callable
from typing import Any, Final

from msgspec import structs

from durable import ApplicationError, Interceptor, Next, StartActivityInput
from durable.testing.driver import Driver
from tests.replay import message_workflows as w


def _talking() -> Driver:
    driver = Driver(w.Ledger.keep())
    driver.start()
    driver.signal(w.Ledger.add(2))
    driver.signal("add", "no number")
    driver.complete(driver.pending[0], 2)
    driver.update(w.Ledger.double(5))
    driver.update(w.Ledger.double(1))
    driver.clock.advance(0.5)
    driver.complete(driver.pending[0], 2)
    driver.turn(driver.signalled(w.Ledger.add(1)), driver.signalled(w.Ledger.close()))
    driver.complete(driver.pending[0], 1)
    return driver


def _family() -> Driver:
    driver = Driver(w.family())
    driver.start()
    driver.complete(driver.pending[0], 0)
    driver.turn(driver.children[0].started())
    driver.turn(driver.deliveries[0].delivered())
    driver.turn(driver.children[-1].started(), driver.children[-1].completed(2))
    driver.turn(driver.children[-1].failed(ApplicationError("no", type="Broken")))
    driver.turn(driver.children[-1].started(), driver.children[-1].timed_out())
    driver.turn(driver.children[-1].refused())
    driver.turn(driver.deliveries[0].refused())
    driver.turn(driver.deliveries[0].delivered())
    driver.turn(driver.deliveries[0].refused())
    patient = driver.children[-1]
    driver.turn(patient.started(), driver.signalled(w.step(1)))
    driver.turn(driver.deliveries[0].delivered())
    driver.turn(driver.children[-1].cancelled())
    driver.turn(driver.children[0].completed(1))
    return driver


def _terminated_child() -> Driver:
    driver = Driver(w.family())
    driver.start()
    driver.complete(driver.pending[0], 0)
    driver.turn(driver.children[0].started())
    driver.turn(driver.deliveries[0].delivered())
    for _ in range(4):
        driver.turn(driver.children[-1].terminated("by hand"))
    driver.cancel("enough")
    return driver


def _endless() -> Driver:
    driver = Driver(w.endless(0))
    driver.start()
    for number in range(1, 4):
        driver.turn(driver.signalled(w.step(number)))
        driver.complete(driver.pending[0], number)
    return driver


class _Heads(Interceptor):
    async def start_activity(
        self, input: StartActivityInput, next: Next[StartActivityInput]
    ) -> Any:
        input.headers["for"] = input.activity_type
        return await next(input)


def _heading() -> Driver:
    """Headers of a call, and of a signal that a checkpoint carries on."""
    driver = Driver(w.endless(0), interceptors=[_Heads()])
    driver.start()
    sent = [driver.signalled(w.step(number)) for number in (3, 4)]
    driver.turn(*(structs.replace(one, headers={"by": "ann"}) for one in sent))
    driver.complete(driver.pending[0], 3)
    driver.complete(driver.pending[0], 4)
    return driver


def _rolling() -> Driver:
    driver = Driver(w.rolling(3))
    driver.start()
    driver.turn(driver.signalled(w.step(1)), driver.signalled(w.step(2)))
    driver.complete(driver.pending[0], 1)
    return driver


RECORDINGS: Final[dict[str, Callable[[], Driver]]] = {
    "talking": _talking,
    "family": _family,
    "terminated_child": _terminated_child,
    "endless": _endless,
    "rolling": _rolling,
    "heading": _heading,
}
