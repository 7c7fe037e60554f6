"""Reference workflows that talk, spawn and roll over; as `workflows`, never edited."""

import asyncio

from durable import (
    ApplicationError,
    ChildCancellationType,
    Signal,
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    WorkflowTimedOutError,
    activity,
    all_handlers_finished,
    checkpoint,
    continue_as_new,
    external,
    query,
    run,
    set_state,
    signal,
    start_child,
    update,
    wait_condition,
    workflow,
)

step = Signal("golden.step", int)


@activity(name="golden.count", retry=None)
async def count(number: int) -> int:
    return number


@workflow(name="golden.Ledger")
class Ledger:
    def __init__(self) -> None:
        self.total = 0
        self.is_open = True

    @run
    async def keep(self) -> int:
        set_state({"total": self.total})
        await wait_condition(lambda: not self.is_open)
        await wait_condition(all_handlers_finished)
        return self.total

    @signal
    async def add(self, number: int) -> None:
        self.total += await count(number)
        set_state({"total": self.total})

    @signal
    def close(self) -> None:
        self.is_open = False

    @query
    def value(self) -> int:
        return self.total

    @update
    async def double(self, least: int) -> int:
        if self.total < least:
            raise ApplicationError("too little", type="TooLittle")
        self.total += await count(self.total)
        return self.total


@workflow(name="golden.child")
async def child(number: int) -> int:
    return number


@workflow(name="golden.family")
async def family() -> list[str]:
    told = [str(await count(0))]
    first = await start_child(child(1), id="first")
    await first.signal(step(1))
    for number in range(2, 6):
        call = child.options(id=f"child-{number}")(number)
        try:
            told.append(str(await call))
        except (
            ApplicationError,
            WorkflowAlreadyStartedError,
            WorkflowTerminatedError,
            WorkflowTimedOutError,
        ) as error:
            told.append(type(error).__name__)
    other = external("other", run_id="01942000-0000-7000-8000-00000000000f")
    for reason in ("", "enough", "please"):
        try:
            if reason:
                await other.cancel(reason)
            else:
                await other.signal(step(2))
            told.append("delivered")
        except WorkflowNotFoundError:
            told.append("nobody")
    patient = child.options(
        id="patient",
        cancellation_type=ChildCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
    waiting = asyncio.ensure_future(patient(9))
    await step.receive()
    waiting.cancel()
    try:
        await waiting
    except asyncio.CancelledError:
        told.append("cancelled")
    return [*told, str(await first)]


@workflow(name="golden.endless", checkpoint_every=4)
async def endless(total: int) -> int:
    while total < 6:
        total += await count(await step.receive())
        checkpoint(total)
    return total


@workflow(name="golden.rolling")
async def rolling(left: int) -> int:
    await count(await step.receive())
    continue_as_new(rolling(left - 1))
