"""The stage of races: two processes, a database, and whoever sends messages.

`home` is an engine whose worker runs puppets behind a gated store; it can be crashed,
restarted and robbed of its cache. `away` is an engine without a worker that shares the
database: what it does is committed at once. Whatever a rule begins is remembered, with
what came of it, for `race_checks`.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import msgspec

from durable import DurableError, Engine, Handle
from durable.limits import LEASE_SECONDS
from durable.store.memory.memory import MemoryStore
from durable.store.records import ReapWorkers, RunRecord
from durable.testing.clock import VirtualClock
from tests.properties.gated_store import MOVES, GatedStore
from tests.properties.puppets import STAGE, Letter, Past, Puppet, Stage, letters, notes
from tests.properties.stepped_loop import SteppedLoop

CACHED_RUNS: Final = 1
MOVES_MAX: Final = 2_000


class Deed(msgspec.Struct, gc=False):
    """Something that somebody asked for.

    Attributes:
        what: signal, note, push, heave, update, cancel, terminate or start.
        target: the workflow id.
        number: the letter's, or the update's.
        key: its request id or update id.
        is_home: it was asked at home, and so is forgotten by a crash.
        begun: when, as a tick; likewise `ended`, 0 while it is not.
        answer: what came of it: a value, or an error.
    """

    what: str
    target: str
    number: int
    key: str
    is_home: bool
    begun: int
    ended: int = 0
    answer: Any = None
    run_id: str = ""
    is_forgotten: bool = False

    @property
    def is_acknowledged(self) -> bool:
        """It returned, and without an error."""
        return self.ended > 0 and not isinstance(self.answer, BaseException)


class World:
    """The stage of one race."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.loop = SteppedLoop(self.clock)
        self.stage = STAGE[0] = Stage()
        self.deeds: list[Deed] = []
        self.ticks = 0
        self.numbers = 0
        self.is_home_open = False
        self._engines = 0
        self._held: list[asyncio.Task[Any]] = []  # or they would be collected
        self._elsewhere: set[asyncio.Task[Any]] = set()
        self.gate = GatedStore(self.clock)
        shared = MemoryStore(clock=self.clock)
        shared._database = self.gate.database
        self.away = Engine(shared, worker=False, clock=self.clock)
        self.home: Engine
        self.handles: dict[tuple[bool, str], Handle[Past]] = {}
        self.loop.spawn(self.away.open())
        self.loop.settle()
        self._sow(self.away)
        self.open_home()

    def _sow(self, engine: Engine) -> None:
        """Make the ids of runs the same in each repetition of a race."""
        self._engines += 1
        for part in (engine._client, engine._worker):
            if part is not None:
                part._entropy = random.Random(f"{type(part)} {self._engines}")

    # --- time and gates ---------------------------------------------------------------

    def settle(self) -> None:
        """Let everything happen that the gates do not hold back."""
        self.loop.settle()

    def move(self, gate: str) -> None:
        """Let through what waits at one gate."""
        asyncio.set_event_loop(self.loop)
        self.gate.move(gate)
        self.settle()

    def let_reads_through(self) -> None:
        """Open the gates of reads, and no other."""
        for _ in range(10):
            self.move("read")
            self.move("hand")

    def flow(self) -> None:
        """Open all gates until nothing waits."""
        self.settle()
        for _ in range(MOVES_MAX):
            if not self.gate.is_busy:
                return
            for gate in MOVES:
                self.move(gate)
        raise AssertionError("The store is never left alone.")

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        self.settle()

    # --- processes --------------------------------------------------------------------

    def open_home(self) -> None:
        """Start the process that works."""
        if self.gate.is_dead or self.is_home_open:
            old, self.gate = self.gate, GatedStore(self.clock)
            self.gate.share(old.database)
        self.home = Engine(
            self.gate,
            clock=self.clock,
            max_cached_runs=CACHED_RUNS,
            blocked_after=None,
            drain_timeout=0.5,
        )
        opening = self.loop.spawn(self.home.open())
        self.flow()
        opening.result()
        self._sow(self.home)
        self.is_home_open = True
        self._forget_handles()

    def crash(self) -> None:
        """Kill the process that works, and start another once its lease is over."""
        self.gate.kill()
        self._forget_deeds()
        self.gate.mend()
        for task in asyncio.all_tasks(self.loop) - self._elsewhere:
            task.cancel()
        self.stage.waiting.clear()
        self.advance(LEASE_SECONDS * 2)
        self.open_home()

    def restart(self) -> None:
        """Close the process that works as one should, and start another."""
        self.gate.mend()
        closing = self.loop.spawn(self.home.close())
        for _ in range(5):
            self.flow()
            if closing.done():
                break
            self.advance(0.5)
        closing.result()
        self._forget_deeds()
        self.gate.is_dead = True
        self.open_home()

    def lose_lease(self) -> None:
        """Another process takes the runs; the one that works has not heard of it."""
        worker = self.home._worker
        assert worker is not None
        reaping = ReapWorkers(presumed_dead=(worker.worker_id,))
        taking = self.loop.spawn(self.away._store.perform(reaping))
        self.settle()
        taking.result()

    def _forget_deeds(self) -> None:
        for deed in self.deeds:
            if deed.is_home and not deed.ended:
                deed.is_forgotten = True

    def _forget_handles(self) -> None:
        self.handles = {key: h for key, h in self.handles.items() if not key[0]}

    # --- deeds ------------------------------------------------------------------------

    def tick(self) -> int:
        """The next moment."""
        self.ticks += 1
        return self.ticks

    def next_number(self) -> int:
        """A number that nobody else has."""
        self.numbers += 1
        return self.numbers

    def do(
        self,
        what: str,
        target: str,
        number: int,
        key: str,
        *,
        is_home: bool,
        work: Callable[[Handle[Past], Deed], Awaitable[Any]],
    ) -> Deed:
        """Begin something; what comes of it is noted."""
        deed = Deed(what, target, number, key, is_home, self.tick())
        self.deeds.append(deed)
        handle = self.handles.get((is_home, target))

        async def doing() -> None:
            try:
                run = handle or await self._find(target, is_home=is_home)
                deed.answer = await work(run, deed)
            except DurableError as error:
                deed.answer = error
            deed.ended = self.tick()

        self._begin(doing(), is_home=is_home)
        return deed

    def _begin(self, work: Coroutine[Any, Any, None], *, is_home: bool) -> None:
        task = self.loop.spawn(work)
        self._held.append(task)
        if not is_home:
            self._elsewhere.add(task)
        self.settle()

    async def _find(self, target: str, *, is_home: bool) -> Handle[Past]:
        engine = self.home if is_home else self.away
        found = await engine.get(target, workflow=Puppet.run)
        return self.handles.setdefault((is_home, target), found)

    def start(
        self,
        target: str,
        *,
        is_home: bool,
        is_stubborn: bool = False,
        is_hasty: bool = False,
        run_timeout: int | None = None,
    ) -> Deed:
        """Start a puppet."""
        engine = self.home if is_home else self.away

        async def starting() -> None:
            try:
                run = await engine.start(
                    Puppet.run(Past(is_stubborn=is_stubborn, is_hasty=is_hasty)),
                    id=target,
                    request_id=deed.key,
                    run_timeout=run_timeout,
                )
                deed.run_id = run.run_id
            except DurableError as error:
                deed.answer = error
            deed.ended = self.tick()

        key = f"start-{self.next_number()}"
        deed = Deed("start", target, 0, key, is_home, self.tick())
        self.deeds.append(deed)
        self._begin(starting(), is_home=is_home)
        return deed

    def send(
        self,
        target: str,
        *,
        is_home: bool,
        do: str = "",
        to: str = "",
        how: int = 0,
        number: int = 0,
        key: str = "",
    ) -> Deed:
        """Send a letter; with the number and key of an earlier one, that one again."""
        number = number or self.next_number()
        key = key or f"letter-{number}"
        letter = Letter(number, do, to, how)
        return self.do(
            "letter",
            target,
            number,
            key,
            is_home=is_home,
            work=lambda run, deed: run.signal(letters(letter), request_id=deed.key),
        )

    def signal(self, what: str, target: str, *, is_home: bool) -> Deed:
        """Send a note, or a signal with a handler."""
        number = self.next_number()
        call = notes(number)
        if what != "note":
            call = (Puppet.push if what == "push" else Puppet.heave)(number)
        return self.do(
            what,
            target,
            number,
            f"{what}-{number}",
            is_home=is_home,
            work=lambda run, deed: run.signal(call, request_id=deed.key),
        )

    def update(self, what: str, target: str, *, is_home: bool, number: int = 0) -> Deed:
        """Send an update; with the number of an earlier one, that one again."""
        number = number or self.next_number()
        call = getattr(Puppet, what)(number)

        async def work(run: Handle[Past], deed: Deed) -> Any:
            sent = await run.start_update(call, update_id=deed.key, timeout=None)
            deed.run_id = sent.run_id
            return await sent.result()

        return self.do(
            what, target, number, f"{what}-{number}", is_home=is_home, work=work
        )

    def stop(self, what: str, target: str, *, is_home: bool, key: str = "") -> Deed:
        """Ask a run to stop, or make it."""

        async def work(run: Handle[Past], deed: Deed) -> None:
            if what == "cancel":
                await run.cancel("enough", request_id=deed.key)
            else:
                await run.terminate("enough")

        key = key or f"{what}-{self.next_number()}"
        return self.do(what, target, 0, key, is_home=is_home, work=work)

    # --- the end ----------------------------------------------------------------------

    def open_runs(self) -> list[RunRecord]:
        """The runs that are open."""
        return list(self.gate.database.open_runs())

    def end_runs(self) -> None:
        """Tell every open run to come to its end."""
        for record in self.open_runs():
            target, run_id = record.workflow_id, record.run_id
            finding = self.loop.spawn(self.home.get(target, run_id=run_id))
            self.flow()
            self.handles[True, target] = finding.result()
            self.send(target, is_home=True, do="settle")

    def calm(self) -> None:
        """Bring everything to rest: gates open, activities ended, timers fired."""
        if self.gate.is_dead:
            self.open_home()
        self.stage.is_open = True
        self.gate.mend()
        for _ in range(30):
            self.flow()
            while self.stage.finish(0):
                self.flow()
            self.advance(2)
        self.flow()

    def close(self) -> None:
        """End everything."""
        try:
            closing = self.loop.spawn(self.home.close())
            for _ in range(10):
                self.flow()
                self.advance(1)
            closing.result()
            closing = self.loop.spawn(self.away.close())
            self.settle()
            closing.result()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Drop everything."""
        self.gate.kill()
        self.loop.end()
        # Errors hold on to frames, and these to everything: races would add up.
        for deed in self.deeds:
            if isinstance(deed.answer, BaseException):
                deed.answer.__traceback__ = None
        vars(self).clear()
