"""`locked`: critical sections over several entities.

Keys are taken in one order, that of their ids, by every section of every run; so of two
sections that want the same keys, one has all of them first.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Final

from durable.api.cancellation import outlast
from durable.api.entities.entity import EntityRef, is_entity_ref
from durable.api.entities.entity_call import HOLD, LET_GO, EntityCall
from durable.api.entities.entity_caller import Caller, current_caller, set_caller
from durable.api.entities.entity_turns import Section
from durable.converter import json
from durable.core.history.payload import Payload
from durable.core.loop.teardown import RunTornDown
from durable.core.runtime import WorkflowRuntime, get_runtime
from durable.errors import EntityDeadlockError, InvalidCallError, WorkflowTaskError

_OUT_OF_MEMORY: Final = (RunTornDown, GeneratorExit)
"""What leaves a block whose run does not go on here."""


def locked(*entities: type[Any]) -> CriticalSection:
    """Hold several entities for a while, so that nobody else changes them meanwhile.

        async with locked(Account["a"], Account["b"]):
            await Account["a"].withdraw(10)
            await Account["b"].deposit(10)

    For workflows. While a key is held, exclusive calls of others wait, those made in
    the block pass, and shared methods answer everybody. Every key is let go when the
    block is left, however that happens.

    Keys are taken one after the other in the order of their ids, so that no two blocks
    can wait for each other. For the same reason nothing else may be called exclusively
    in the block, not even by the methods that it calls, and a block within it may only
    take keys that come after those that are held.

    If the run ends without leaving the block, because it is terminated or times out,
    the key passes to those who wait for it a minute after they began to wait, at the
    earliest; if they have waited for long, up to an hour after the end.

    Args:
        *entities: references such as `Account["a"]`, in any order.

    Raises:
        InvalidCallError: something is no reference, or nothing was given.

    Raises (when the block is entered):
        EntityDeadlockError: it is in a method of an entity, or within a block that
            holds a key which comes after one of these.
        NotInWorkflowError: no workflow is running here.
    """
    given: list[object] = [*entities]
    references: list[EntityRef] = []
    for item in given:
        if not is_entity_ref(item):
            raise InvalidCallError(
                f"locked() got {item!r}, which is no entity.",
                hint='Give references: locked(Account["a"], Account["b"]).',
            )
        references.append(item)
    if not references:
        raise InvalidCallError("locked() got nothing to hold.")
    return CriticalSection(references)


class CriticalSection:
    """A block that holds entities; see `locked`."""

    def __init__(self, entities: list[EntityRef]) -> None:
        self._entities = {e.durable_target.workflow_id: e for e in entities}
        self._outside: Caller | None = None
        self._section: Section | None = None
        self._asked: list[EntityRef] = []

    async def __aenter__(self) -> None:
        """Take each key, one after the other.

        Raises:
            EntityDeadlockError: see `locked`.
            NotInWorkflowError: no workflow is running here.
            WorkflowTaskError: this block was entered before.
        """
        runtime = get_runtime("durable.locked()")
        if self._section is not None:
            raise WorkflowTaskError(
                "A critical section was entered a second time.",
                hint="Make a new one: locked(...).",
            )
        caller = self._outside = current_caller()
        wanted = sorted(self._entities.keys() - caller.sections.keys())
        self._refuse_disorder(caller, wanted)
        run = runtime.info()
        section = self._section = Section(
            f"{run.run_id}/{runtime.random().getrandbits(64):016x}",
            run.workflow_id,
            run.run_id,
        )
        for workflow_id in wanted:
            await self._take(runtime, section, self._entities[workflow_id])
        held = dict.fromkeys(wanted, section.id)
        set_caller(Caller(caller.chain, {**caller.sections, **held}))

    def _refuse_disorder(self, caller: Caller, wanted: list[str]) -> None:
        if caller.chain:
            raise EntityDeadlockError(
                f"locked() was entered in a method of {caller.chain[-1]!r}, which"
                " others may hold or wait for.",
                hint="Hold several entities from a workflow.",
            )
        if caller.sections and wanted and wanted[0] < max(caller.sections):
            raise EntityDeadlockError(
                f"locked() wants {wanted[0]!r} in a block that holds"
                f" {max(caller.sections)!r}, which comes after it.",
                hint="Name all of them in the outer locked(...).",
            )

    async def _take(
        self, runtime: WorkflowRuntime, section: Section, entity: EntityRef
    ) -> None:
        self._asked.append(entity)
        payload = json.encode(section, Section, "the section")
        call = _control(entity, HOLD, payload)
        asking = asyncio.get_running_loop().create_task(
            call.schedule(runtime, Caller())
        )
        cancels = await outlast(asking, stop=True)
        if cancels or asking.cancelled() or asking.exception() is not None:
            cancels += await self._let_go(runtime, section)
        if cancels:
            raise cancels[0]
        asking.result()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, _OUT_OF_MEMORY):
            return
        runtime = get_runtime("durable.locked()")
        if self._section is None or self._outside is None:
            raise WorkflowTaskError(
                "A critical section was left that was never entered."
            )
        set_caller(self._outside)
        cancels = await self._let_go(runtime, self._section)
        if cancels:
            raise cancels[0]

    async def _let_go(
        self, runtime: WorkflowRuntime, section: Section
    ) -> list[asyncio.CancelledError]:
        """Let go of all that was asked for, through any cancellation."""
        payload = json.encode(section.id, str, "the section")

        async def let_all_go() -> None:
            await asyncio.gather(
                *(
                    _control(entity, LET_GO, payload).schedule(runtime, Caller())
                    for entity in self._asked
                )
            )

        leaving = asyncio.get_running_loop().create_task(let_all_go())
        cancels = await outlast(leaving)
        leaving.result()
        return cancels


def _control(entity: EntityRef, method: str, payload: Payload) -> EntityCall[None]:
    """A message to an entity that is none of its methods."""
    return EntityCall(
        entity.durable_target,
        method,
        (payload,),
        is_exclusive=True,
        decode_result=lambda _: None,
        differing_input=lambda recorded, found: (
            None if recorded == found else "the arguments"
        ),
    )
