"""Runs workers and clients, strikes them with faults, and brings all to rest."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from tests.chaos import branches, ledger
from tests.chaos.database import Database
from tests.chaos.faults import FAULTS, LEASE_SECONDS

ROOT: Final = Path(__file__).resolve().parent.parent.parent
DRAIN_SECONDS: Final = 10.0
# Nothing in the ledger and nothing in the history for so long: it does not go on.
_STANDSTILL_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Plan:
    """What a run of chaos is to be; spans in seconds."""

    kind: str
    seconds: float
    patience: float
    seed: int
    workers: int
    clients: int
    inflight: int
    every: float
    need: int
    weights: dict[str, float]
    wanted: tuple[str, ...]
    sabotage: str


@dataclass(eq=False)
class Process:
    name: str
    role: Literal["worker", "client"]
    index: int
    popen: subprocess.Popen[bytes]
    is_stopped: bool = False
    leaves_at: float | None = None
    """When it was asked to drain."""


@dataclass
class World:
    """The processes of a run, its database, and the ledger of what is done to them."""

    plan: Plan
    folder: Path
    database: Database
    random: random.Random = field(init=False)
    ledger: ledger.Ledger = field(init=False)
    struck: Counter[str] = field(default_factory=Counter)
    processes: list[Process] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _later: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.random = random.Random(self.plan.seed)
        self.ledger = ledger.Ledger(self.folder, "driver")

    # --- processes --------------------------------------------------------------------

    def choose_worker(self) -> Process | None:
        """One that works, if it is not the only one."""
        working = self._working()
        return self.random.choice(working) if len(working) > 1 else None

    def choose_client(self) -> Process | None:
        clients = [p for p in self.processes if p.role == "client"]
        return self.random.choice(clients) if clients else None

    def kill(self, process: Process) -> None:
        since = time.monotonic()
        process.popen.kill()
        process.popen.wait()
        self.ledger.fault(f"{process.role} killed", since, process.name)
        self._left(process)

    def stop(self, worker: Process, leases: float) -> bool:
        """Stop a worker for so many leases; False if enough are stopped."""
        if any(p.is_stopped for p in self.processes):
            return False
        since = time.monotonic()
        worker.is_stopped = True
        worker.popen.send_signal(signal.SIGSTOP)

        def go_on() -> None:
            worker.is_stopped = False
            worker.popen.send_signal(signal.SIGCONT)
            self.ledger.fault("worker stopped", since, worker.name)

        self._do_later(since + leases * LEASE_SECONDS, go_on)
        return True

    def drain(self, worker: Process) -> None:
        worker.leaves_at = time.monotonic()
        worker.popen.terminate()

    def _working(self) -> list[Process]:
        return [
            p
            for p in self.processes
            if p.role == "worker" and not p.is_stopped and p.leaves_at is None
        ]

    def _spawn(self, role: Literal["worker", "client"], index: int = 0) -> None:
        name = f"{role}-{next(self._numbers)}"
        plan, url = self.plan, self.database.url
        words = {
            "worker": (
                *("-m", "durable", "--database", url, "--log-level", "info"),
                *("worker", "tests.chaos.load"),
                *("--drain-timeout", f"{DRAIN_SECONDS:g}s"),
            ),
            "client": (
                *("-m", "tests.chaos.clients", url, str(plan.seed), str(index)),
                *(str(plan.clients), str(plan.inflight)),
            ),
        }[role]
        with (self.folder / f"{name}.log").open("wb") as log:
            popen = subprocess.Popen(
                [sys.executable, *words],
                cwd=ROOT,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(Process(name, role, index, popen))

    def _environment(self, name: str) -> dict[str, str]:
        ours = {k: v for k, v in os.environ.items() if not k.startswith("DURABLE_")}
        return {
            **ours,
            ledger.NAME_VARIABLE: name,
            ledger.FOLDER_VARIABLE: str(self.folder),
            ledger.SABOTAGE_VARIABLE: self.plan.sabotage,
        }

    def _left(self, process: Process) -> None:
        self.processes.remove(process)
        if process.role == "client":
            self._spawn("client", process.index)

    def _look_after(self) -> None:
        """See who has ended, and keep as many workers at work as there shall be."""
        for process in [*self.processes]:
            code = process.popen.poll()
            if process.leaves_at is not None:
                self._see_off(process, code)
            elif code == 0 and process.role == "client" and self._is_quiet():
                self.processes.remove(process)
            elif code is not None:
                self._died(process, code)
                self._left(process)
        while len(self._working()) < self.plan.workers:
            self._spawn("worker")

    def _died(self, process: Process, code: int | None) -> None:
        self.ledger.write("died", of=process.name, code=code)

    def _see_off(self, worker: Process, code: int | None) -> None:
        """A worker that drains must end; one that has no time may take longer."""
        since = worker.leaves_at
        assert since is not None
        if code is None and time.monotonic() < since + _STANDSTILL_SECONDS:
            return
        if code is None:
            worker.popen.kill()
            worker.popen.wait()
        # Within its time all of its attempts could have ended.
        is_late = time.monotonic() > since + DRAIN_SECONDS
        # One that has not begun yet does not know that it may drain; one that cannot
        # write ends itself when its time is over.
        is_early = code == -signal.SIGTERM and not self._has_begun(worker)
        is_forced = code == 128 + signal.SIGTERM and is_late
        if code != 0 and not (is_early or is_forced):
            self._died(worker, code)
        if is_late:
            self.ledger.fault("drained too long", since, worker.name)
        self.processes.remove(worker)

    def _has_begun(self, worker: Process) -> bool:
        return any(x["by"] == worker.name for x in ledger.read(self.folder))

    # --- the course of a run ----------------------------------------------------------

    def run(self) -> None:
        """Let it run with faults, then without, until everything has ended."""
        threading.Thread(target=self._feel_pulse, daemon=True).start()
        try:
            for index in range(self.plan.clients):
                self._spawn("client", index)
            self._look_after()
            self._storm()
            self._settle()
        finally:
            self._is_over.set()
            for process in self.processes:
                process.popen.kill()
                process.popen.wait()

    def _storm(self) -> None:
        self._wait_for_work()
        began = time.monotonic()
        while self._goes_on(time.monotonic() - began):
            self._turn(self.random.uniform(0.3, 1.7) * self.plan.every)
            name = self._choose_fault(time.monotonic() - began)
            since = time.monotonic()
            if name is not None and FAULTS[name].strike(self):
                self.struck[name] += 1
                if (of := FAULTS[name].of) is not None:
                    self.ledger.fault(name, since, of)
        # Whoever is stopped goes on before it gets quiet.
        while self._later:
            self._turn(0.1)

    def _wait_for_work(self) -> None:
        """A process that is struck before it is there shows nothing."""
        began = time.monotonic()
        first = self.plan.clients * self.plan.inflight
        while time.monotonic() < began + _STANDSTILL_SECONDS:
            self._turn(0.1)
            seen = Counter(line["what"] for line in ledger.read(self.folder))
            if seen["begun"] >= first and seen["end"]:
                return

    def _goes_on(self, passed: float) -> bool:
        if passed < self.plan.seconds:
            return True
        if passed > self.plan.seconds + self.plan.patience or self.plan.sabotage:
            return False
        return bool(self._rare() or self._unseen())

    def _rare(self) -> list[str]:
        weights, need = self.plan.weights, self.plan.need
        return [name for name in weights if self.struck[name] < need]

    def _unseen(self) -> set[str]:
        seen = branches.count(ledger.read(self.folder))
        return {name for name in self.plan.wanted if not seen[name]}

    def _choose_fault(self, passed: float) -> str | None:
        """By weight, but what was too seldom comes in time."""
        weights, rare = self.plan.weights, self._rare()
        if not rare and passed > self.plan.seconds:
            leading = [branches.COME_OF.get(name) for name in self._unseen()]
            rare = [name for name in weights if name in leading]
        if rare and (passed > self.plan.seconds / 2 or self.plan.need == 1):
            weights = {name: weights[name] for name in rare}
        if not weights:
            return None
        if not self.struck["worker stopped"] and "worker stopped" in weights:
            return "worker stopped"  # it takes the longest, beside the others
        return self.random.choices([*weights], [*weights.values()])[0]

    def _settle(self) -> None:
        (self.folder / ledger.QUIET).touch()
        if self.database.proxy is not None:
            self.database.proxy.reset()
        self._wait_until(lambda: not any(p.role == "client" for p in self.processes))
        self._wait_until(lambda: not self.database.read("open")["open"])
        for worker in self._working():
            self.drain(worker)
        while self.processes:
            for process in [*self.processes]:
                self._see_off(process, process.popen.poll())
            time.sleep(0.05)

    def _wait_until(self, is_so: Callable[[], bool]) -> None:
        """Wait for as long as anything goes on; else it is written down."""
        seen, since = (0, 0), time.monotonic()
        while not is_so():
            self._turn(0.3)
            size = (self.folder / ledger.FILE).stat().st_size
            now = (size, self.database.read("events")["events"][0]["count"])
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() > since + _STANDSTILL_SECONDS:
                self.ledger.write("standstill", runs=self.database.read("open")["open"])
                return

    def _turn(self, seconds: float) -> None:
        """Let time pass, and look after the processes meanwhile."""
        until = time.monotonic() + seconds
        while True:
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()
            self._look_after()
            if time.monotonic() >= until:
                return
            time.sleep(0.05)

    def _do_later(self, at: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (at, next(self._numbers), what))

    def _is_quiet(self) -> bool:
        return (self.folder / ledger.QUIET).exists()

    def _feel_pulse(self) -> None:
        """Note when nobody could write, for whatever reason."""
        while not self._is_over.wait(0.3):
            began = time.monotonic()
            while not self._is_over.is_set():
                with contextlib.suppress(Exception):
                    self.database.touch()
                    break
                time.sleep(0.05)
            if time.monotonic() > began + branches.STALL_SECONDS:
                self.ledger.fault("database away", began)


def run_tool(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the library upon what is left, past the proxy."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("DURABLE_")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "durable"),
            *("--database", world.database.direct_url, *words),
        ],
        cwd=ROOT,
        env=ours,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1_800,
    )
