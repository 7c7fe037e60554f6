"""The faults: what strikes processes, the server and the wire, each with its weight."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from tests.chaos import ledger
from tests.servers import Server

if TYPE_CHECKING:
    from tests.chaos.driver import World
    from tests.proxy import Proxy, Way

Strike: TypeAlias = "Callable[[World], bool]"
EVERYWHERE: Final = ("sqlite", "postgresql", "mariadb")
SERVERS: Final = ("postgresql", "mariadb")
LEASE_SECONDS: Final = 10.0
# So long a fault of the wire waits for somebody whom it may strike.
_STRIKE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Fault:
    strike: Strike
    """Answers whether it came to pass."""
    weight: float
    kinds: tuple[str, ...]
    of: str | None
    """Whom it strikes: all, as an outage that may cost healthy workers their leases;
    the wire alone; or None if it says itself whom."""


FAULTS: Final[dict[str, Fault]] = {}


def _fault(
    name: str,
    weight: float,
    kinds: tuple[str, ...] = SERVERS,
    *,
    of: str | None = None,
) -> Callable[[Strike], Strike]:
    def note(strike: Strike) -> Strike:
        FAULTS[name] = Fault(strike, weight, kinds, of)
        return strike

    return note


# --- processes ------------------------------------------------------------------------


@_fault("worker stopped", 1, EVERYWHERE)
def stop_worker(world: World) -> bool:
    """For longer than a lease: when it goes on, others have its runs."""
    worker = world.choose_worker()
    return worker is not None and world.stop(worker, world.random.uniform(1.1, 1.6))


@_fault("worker killed", 5, EVERYWHERE)
def kill_worker(world: World) -> bool:
    worker = world.choose_worker()
    if worker is None:
        return False
    world.kill(worker)
    return True


@_fault("worker drained", 1, EVERYWHERE)
def drain_worker(world: World) -> bool:
    worker = world.choose_worker()
    if worker is None:
        return False
    world.drain(worker)
    return True


@_fault("client killed", 1, EVERYWHERE)
def kill_client(world: World) -> bool:
    client = world.choose_client()
    if client is None:
        return False
    world.kill(client)
    return True


# --- the database ---------------------------------------------------------------------


@_fault("lock held by a stranger", 1, ("sqlite",))
def hold_lock(world: World) -> bool:
    file = world.database.file
    assert file is not None
    with contextlib.closing(
        sqlite3.connect(file, timeout=1, isolation_level=None)
    ) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # a worker that is stopped may hold it
            return False
        time.sleep(world.random.uniform(0.2, 2.5))
        connection.execute("ROLLBACK")
    return True


@_fault("server killed", 1, of=ledger.ALL)
def kill_server(world: World) -> bool:
    server = _server(world)
    server.kill()
    time.sleep(world.random.choice((0.0, 1.5)))
    server.start()
    return True


@_fault("server restarted", 0.5, of=ledger.ALL)
def restart_server(world: World) -> bool:
    _server(world).restart()
    return True


@_fault("server frozen", 0.5, of=ledger.ALL)
def freeze_server(world: World) -> bool:
    server = _server(world)
    server.freeze()
    time.sleep(world.random.choice((0.5, 2.0, 2.0, LEASE_SECONDS * 1.1)))
    server.thaw()
    return True


@_fault("sessions terminated", 1, of=ledger.WIRE)
def terminate_sessions(world: World) -> bool:
    world.database.terminate_sessions()
    return True


# --- the wire -------------------------------------------------------------------------


@_fault("cut at a byte", 2, of=ledger.WIRE)
def cut_at_byte(world: World) -> bool:
    ways: tuple[Way, ...] = ("to_server", "to_client")
    way = world.random.choice(ways)
    count = int(10 ** world.random.uniform(0, 4.5))
    return _on_wire(world, lambda proxy: proxy.cut_after(count, way))


@_fault("cut before COMMIT", 2, of=ledger.WIRE)
def cut_before_commit(world: World) -> bool:
    # Only a new session of PostgreSQL says COMMIT: later it is prepared, and a number.
    def arm(proxy: Proxy) -> None:
        proxy.cut_before(b"COMMIT")
        if world.database.kind == "postgresql":
            proxy.cut()

    return _on_wire(world, arm)


@_fault("cut after COMMIT", 4, of=ledger.WIRE)
def cut_after_commit(world: World) -> bool:
    if world.database.kind == "postgresql":  # its answer has the word, each time
        return _on_wire(world, lambda p: p.cut_before(b"COMMIT", "to_client"))
    return _on_wire(world, lambda p: p.drop_answer_to(b"COMMIT"))


@_fault("answers swallowed", 0.7, of=ledger.ALL)
def swallow_answers(world: World) -> bool:
    count = int(10 ** world.random.uniform(0, 3))
    seconds = world.random.choice((0.5, 2.0))
    return _on_wire(world, lambda p: p.swallow_after(count, "to_client"), seconds)


def _server(world: World) -> Server:
    assert world.database.server is not None
    return world.database.server


def _on_wire(world: World, arm: Callable[[Proxy], Any], seconds: float = 0.0) -> bool:
    proxy = world.database.proxy
    assert proxy is not None
    proxy.reset()
    arm(proxy)
    has_struck = proxy.struck.wait(_STRIKE_SECONDS)
    if has_struck:
        time.sleep(seconds)
    proxy.reset()
    return has_struck
