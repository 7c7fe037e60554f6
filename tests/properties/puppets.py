"""Workflows that do what letters tell them, and remember everything they saw.

What a puppet remembers goes with it through checkpoints and to the next run of its
chain, so at the end it tells which letters its code has received, in which order.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

import durable
from durable import (
    ActivityCancellationType,
    ApplicationError,
    ChildCancellationType,
    DurableError,
    ParentClosePolicy,
    RetryPolicy,
    Signal,
    activity,
    checkpoint,
    continue_as_new,
    external,
    query,
    set_state,
    signal,
    start_child,
    update,
    wait_condition,
    workflow,
)


@dataclass
class Letter:
    """A number that nobody else has, and what to do about it."""

    number: int
    do: str = ""
    to: str = ""
    how: int = 0


letters: Final = Signal("letters", Letter)
notes: Final = Signal("notes", int)


@dataclass
class Past:
    """What a puppet remembers.

    Attributes:
        seen: letters that its code received.
        noted: likewise notes.
        pushed: numbers that its signal handlers took.
        answered: numbers that its update handlers took.
        acted: how its activities ended.
        sent: letters that it sent on, once that was acknowledged.
        born: children that have started.
        outcomes: how its children ended.
        cancels: how often it saw a cancel.
        is_stubborn: it goes on after a cancel.
        is_hasty: its first turn continues as new.
    """

    seen: list[int] = field(default_factory=list)
    noted: list[int] = field(default_factory=list)
    pushed: list[int] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    acted: list[str] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    born: list[str] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    cancels: int = 0
    is_stubborn: bool = False
    is_hasty: bool = False


class Stage:
    """Where activities wait until a test lets them end."""

    def __init__(self) -> None:
        self.waiting: dict[asyncio.Future[None], str] = {}
        self.is_open = False

    async def act(self, what: str) -> None:
        """Wait for the test."""
        if self.is_open:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting[future] = what
        try:
            await future
        finally:
            self.waiting.pop(future, None)

    def finish(self, which: int, *, fails: bool = False) -> bool:
        """Let an activity end."""
        waiting = [future for future in self.waiting if not future.done()]
        if not waiting:
            return False
        future = waiting[which % len(waiting)]
        if fails:
            future.set_exception(ApplicationError("the test says no"))
        else:
            future.set_result(None)
        return True


STAGE: Final = [Stage()]
"""The stage of the test that runs now."""


@activity(name="races.act", retry=None)
async def act(number: int) -> int:
    await STAGE[0].act(f"act {number}")
    return number


@activity(
    name="races.try_on",
    retry=RetryPolicy(max_attempts=3, initial_interval=1.0),
)
async def try_on(number: int) -> int:
    await STAGE[0].act(f"try on {number}")
    return number


@activity(
    name="races.act_on",
    retry=None,
    cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
)
async def act_on(number: int) -> int:
    await STAGE[0].act(f"act on {number}")
    return number


@workflow(name="races.Puppet", checkpoint_every=1)
class Puppet:
    """Receives letters for ever, and obeys."""

    def __init__(self, past: Past) -> None:
        self.past = past
        self.helpers: list[asyncio.Task[None]] = []

    @durable.run
    async def run(self, past: Past) -> Past:
        """Receive letters until one says that it is over."""
        if past.is_hasty:
            past.is_hasty = False
            continue_as_new(Puppet.run(past))
        while True:
            try:
                letter = await letters.receive()
                self.past.seen.append(letter.number)
                set_state(len(self.past.seen))
                if await self.obey(letter):
                    return self.past
            except asyncio.CancelledError:
                self.past.cancels += 1
                if not self.past.is_stubborn:
                    raise

    async def obey(self, letter: Letter) -> bool:
        """Do what a letter says; True if the run is over."""
        match letter.do:
            case "finish":
                return True
            case "settle":
                await wait_condition(
                    lambda: (
                        all(helper.done() for helper in self.helpers)
                        and durable.all_handlers_finished()
                    )
                )
                return True
            case "fail":
                raise ApplicationError("as the letter says", type="Told")
            case "continue":
                continue_as_new(Puppet.run(self.past))
            case "checkpoint":
                checkpoint(Puppet.run(self.past))
            case "act":
                await self.act(act(letter.number))
            case "try_on":
                await self.act(try_on(letter.number))
            case "act_on":
                await self.act(act_on(letter.number))
            case "try_beside":
                self.help(self.act(try_on(letter.number)))
            case "nap":
                await asyncio.sleep(2)
            case "within":
                await self.receive_within()
            case "both":
                await self.receive_both()
            case "child":
                self.help(self.raise_child(letter))
            case "await":
                await self.raise_child(letter)
            case "tell":
                await self.tell(letter)
            case "stop":
                await self.stop(letter)
            case _:
                pass
        return False

    def help(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the main code."""
        self.helpers.append(asyncio.ensure_future(work))

    async def act(self, call: Coroutine[Any, Any, int]) -> None:
        """Note how an activity ends."""
        try:
            self.past.acted.append(f"{await call}")
        except ApplicationError:
            self.past.acted.append("failed")

    async def receive_within(self) -> None:
        """Receive a letter, but not for long."""
        try:
            async with asyncio.timeout(1):
                letter = await letters.receive()
        except TimeoutError:
            return
        self.past.seen.append(letter.number)

    async def receive_both(self) -> None:
        """Receive from whichever of two channels is first; give up the other."""
        tasks = [
            asyncio.ensure_future(self.receive_one(letters, self.past.seen)),
            asyncio.ensure_future(self.receive_one(notes, self.past.noted)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    async def receive_one(self, channel: Signal[Any], seen: list[int]) -> None:
        """Receive one value and remember it."""
        value = await channel.receive()
        seen.append(getattr(value, "number", value))

    # --- other runs -------------------------------------------------------------------

    async def raise_child(self, letter: Letter) -> None:
        """Start a child and note how it ends."""
        policies = list(ParentClosePolicy)
        kinds = list(ChildCancellationType)
        call = Puppet.run.options(
            id=letter.to,
            parent_close_policy=policies[letter.how % len(policies)],
            cancellation_type=kinds[letter.how // len(policies) % len(kinds)],
        )(Past(is_stubborn=letter.how % 2 == 1))
        try:
            child = await start_child(call)
            self.past.born.append(f"{letter.number}")
            await child
            outcome = "completed"
        except asyncio.CancelledError:
            self.past.outcomes.append(f"{letter.number} cancelled")
            raise
        except (ApplicationError, DurableError) as error:
            outcome = type(error).__name__
        self.past.outcomes.append(f"{letter.number} {outcome}")

    async def tell(self, letter: Letter) -> None:
        """Send a letter on; its number is that of this letter, negated."""
        try:
            await external(letter.to).signal(letters(Letter(-letter.number)))
        except DurableError:
            return
        self.past.sent.append(-letter.number)

    async def stop(self, letter: Letter) -> None:
        """Ask another run to stop."""
        try:
            await external(letter.to).cancel("a letter says so")
        except DurableError:
            return

    # --- handlers ---------------------------------------------------------------------

    @signal
    def push(self, number: int) -> None:
        """Take a number."""
        self.past.pushed.append(number)

    @signal(unfinished="abandon")
    async def heave(self, number: int) -> None:
        """Take a number, slowly."""
        await act_on(number)
        self.past.pushed.append(number)

    @query
    def memory(self) -> Past:
        """What it remembers."""
        return self.past

    @update
    def ask(self, number: int) -> int:
        """Take a number and give it back."""
        self.past.answered.append(number)
        return number

    @ask.validator
    def check(self, number: int) -> None:
        if number % 4 == 3:
            raise ValueError("no such number is taken")

    @update(unfinished="abandon")
    async def work(self, number: int) -> int:
        """The same, slowly."""
        self.past.answered.append(number)
        return await act_on(number)

    @update
    def leave(self, number: int) -> int:
        """Continue as new from a handler."""
        self.past.answered.append(number)
        continue_as_new(Puppet.run(self.past))
