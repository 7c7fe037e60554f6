"""A client: starts programs, speaks with them, and keeps a ledger of the answers.

One that follows a killed one reads what that was doing, and goes on under its keys.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from durable import DurableError, Engine, Handle, WorkflowClosedError
from durable.errors import NoAnswerError, ResultTimeoutError, StoreError
from tests.chaos import ledger, load
from tests.chaos.programs import Program, Seen

T = TypeVar("T")
# After any of these nobody knows whether it was done, and it may be asked for again.
_PASSING: Final = (StoreError, NoAnswerError, ResultTimeoutError)


class Client:
    def __init__(self, engine: Engine, lines: list[ledger.Line]) -> None:
        assert load.LEDGER is not None, "the environment names no ledger"
        self._ledger = load.LEDGER
        self.engine = engine
        self._answered = {x["key"] for x in lines if x["what"] == "answered"}
        self._asked = {x["key"] for x in lines if x["what"] == "asked"}

    async def see_through(self, program: Program) -> None:
        """Start a program, send it its messages, and read its result."""
        start = f"start {program.workflow_id}"
        if load.SABOTAGE == "lose" and program.workflow_id.endswith("1"):
            self._ledger.write("asked", key=start)
            self._ledger.write("answered", key=start)
            return
        handle = await self.insist(start, lambda: self._start(program))
        if handle is None:
            handle = await self.insist(f"find {start}", lambda: self._start(program))
        assert handle is not None
        senders = [self._tell(handle, who, n) for who, n in program.signals.items()]
        await asyncio.gather(*senders, self._update(handle, program.updates))
        result = f"result {program.workflow_id}"
        await self.insist(result, lambda: handle.result(timeout="20s"))

    def was_asked(self, key: str) -> bool:
        """Whether an earlier process has asked for it."""
        return key in self._asked

    def note(self, what: str, **fields: object) -> None:
        """Write something into the ledger."""
        self._ledger.write(what, **fields)

    async def _start(self, program: Program) -> Handle[Seen]:
        return await self.engine.start(
            load.Walk.go(program, 0, Seen(values=[], signals={}, updates=[], once={})),
            id=program.workflow_id,
            request_id=f"start-{program.workflow_id}",
        )

    async def _tell(self, handle: Handle[Seen], sender: str, count: int) -> None:
        for number in range(count):
            key = f"{handle.workflow_id}:{sender}:{number}"
            await self.insist(
                f"signal {key}",
                lambda n=number, k=key: handle.signal(  # type: ignore[misc]  # defaults bind the loop's names
                    load.told((sender, n)), request_id=k
                ),
            )

    async def _update(self, handle: Handle[Seen], count: int) -> None:
        for number in range(count):
            key = f"{handle.workflow_id}:{number}"
            call = load.Walk.add(number)
            answer = await self.insist(
                f"update {key}",
                lambda c=call, k=key: handle.update(c, update_id=k, timeout="20s"),  # type: ignore[misc]  # likewise
            )
            if answer not in (None, -number):
                self._ledger.write("wrong", key=key, text=f"the answer is {answer}")

    async def insist(self, key: str, ask: Callable[[], Awaitable[T]]) -> T | None:
        """Ask until there is an answer; None if there was one before, or must be."""
        was_asked = key in self._asked
        if key in self._answered and not key.startswith("find"):
            return None
        self._ledger.write("asked", key=key)
        while True:
            answer: T | None = None
            try:
                answer = await ask()
            except _PASSING as error:
                self._ledger.write("unanswered", key=key, why=type(error).__name__)
                was_asked = True
                await asyncio.sleep(random.uniform(0.05, 0.3))
                continue
            except WorkflowClosedError:
                # The run ends once it has all, so this was taken, or it is wrong.
                if not was_asked:
                    self._ledger.write("wrong", key=key, text="the run is closed")
            except DurableError as error:
                text = f"{type(error).__name__}: {error}"
                self._ledger.write("wrong", key=key, text=text)
            is_result = isinstance(answer, Seen | list)
            value = msgspec.to_builtins(answer) if is_result else None
            self._ledger.write("answered", key=key, value=value)
            return answer
