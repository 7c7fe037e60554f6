"""The workflows of `before.py`, each with one change; `breaks` marks what it breaks."""

# size: one corpus, of which each workflow is as short as its change allows.

import asyncio
from dataclasses import dataclass

from durable import (
    ApplicationError,
    Signal,
    activity,
    continue_as_new,
    deprecate_patch,
    logger,
    patched,
    run,
    signal,
    sleep,
    uuid4,
    wait_condition,
    workflow,
)

go = Signal("go", int)
LIMIT = 4


@dataclass
class Box:
    size: int
    color: str = "brown"


@dataclass
class Parcel:
    size: int
    color: str


@activity(name="gate.reserve")
async def reserve(number: int) -> int:
    return number


@activity(name="gate.charge")
async def charge(number: int) -> str:
    return f"receipt {number}"


@activity(name="gate.weight")
async def weigh(number: int) -> int:
    return number


@activity(name="gate.measure")
async def measure(number: int) -> Box:
    return Box(number)


@activity(name="gate.ship")
async def ship(number: int) -> None:
    """Never completed: whoever calls it is open."""


@workflow(name="gate.child")
async def child(number: int) -> None:
    """Another run; here it is only asked for."""


# --- what breaks a replay -------------------------------------------------------------


@workflow(name="activity_replaced")
async def activity_replaced() -> None:
    await reserve(1)
    await weigh(1)  # breaks
    await ship(1)


@workflow(name="activity_renamed")
async def activity_renamed() -> None:
    await weigh(1)  # breaks
    await ship(1)


@workflow(name="activity_added_first")
async def activity_added_first() -> None:
    await charge(1)  # breaks
    await reserve(1)
    await ship(1)


@workflow(name="activity_added_between")
async def activity_added_between() -> None:
    await reserve(1)
    await charge(1)  # breaks
    await ship(1)


@workflow(name="activity_removed")
async def activity_removed() -> None:
    await reserve(1)
    await ship(1)  # breaks


@workflow(name="last_activity_removed")
async def last_activity_removed() -> int:
    number = await reserve(1)
    return number  # breaks


@workflow(name="activities_swapped")
async def activities_swapped() -> None:
    await charge(1)  # breaks
    await reserve(1)
    await ship(1)


@workflow(name="argument_changed")
async def argument_changed() -> None:
    number = await reserve(1)
    await ship(number + 1)  # breaks


@workflow(name="constant_changed")
async def constant_changed() -> None:
    await reserve(LIMIT)  # breaks
    await ship(1)


@workflow(name="timer_became_activity")
async def timer_became_activity() -> None:
    await reserve(60)  # breaks
    await ship(1)


@workflow(name="timer_added")
async def timer_added() -> None:
    await reserve(1)
    await sleep(60)  # breaks
    await ship(1)


@workflow(name="timer_removed")
async def timer_removed() -> None:
    await reserve(1)
    await ship(1)  # breaks


@workflow(name="timeout_added")
async def timeout_added() -> None:
    await reserve(1)
    async with asyncio.timeout(60):  # breaks
        await ship(1)


@workflow(name="timeout_removed")
async def timeout_removed() -> None:
    await reserve(1)  # breaks
    await ship(1)


@workflow(name="branches_swapped")
async def branches_swapped() -> None:
    await asyncio.gather(charge(1), reserve(1))  # breaks
    await ship(1)


@workflow(name="branch_added")
async def branch_added() -> None:
    await asyncio.gather(reserve(1), charge(1), weigh(1))  # breaks
    await ship(1)


@workflow(name="made_parallel")
async def made_parallel() -> None:
    await asyncio.gather(reserve(1), charge(1))  # breaks
    await ship(1)


@workflow(name="made_sequential")
async def made_sequential() -> None:
    await reserve(1)  # breaks
    await charge(1)
    await ship(1)


@workflow(name="condition_changed")
async def condition_changed() -> None:
    if await reserve(5) > 30:
        await charge(5)
    await ship(1)  # breaks


@workflow(name="loop_shortened")
async def loop_shortened() -> None:
    for number in range(2):
        await reserve(number)
    await ship(1)  # breaks


@workflow(name="loop_lengthened")
async def loop_lengthened() -> None:
    for number in range(3):
        await reserve(number)  # breaks
    await ship(1)


@workflow(name="loop_order_changed")
async def loop_order_changed() -> None:
    for number in (3, 2, 1):
        await reserve(number)  # breaks
    await ship(1)


@workflow(name="early_return")
async def early_return() -> None:
    number = await reserve(1)
    if number > 0:
        return  # breaks
    await ship(1)


@workflow(name="raises_now")
async def raises_now() -> None:
    await reserve(1)
    raise ApplicationError("no")  # breaks


@workflow(name="has_a_bug_now")
async def has_a_bug_now() -> None:
    await reserve(1)
    await ship({"one": 1}["two"])  # breaks


@workflow(name="result_type_changed")
async def result_type_changed() -> None:
    await measure(2)  # breaks
    await ship(1)


@workflow(name="field_added_without_default")  # breaks
async def field_added_without_default(box: Parcel) -> None:
    await reserve(box.size)
    await ship(1)


@workflow(name="child_became_activity")
async def child_became_activity() -> None:
    await asyncio.gather(ship(1), reserve(1))  # breaks


@workflow(name="child_id_changed")
async def child_id_changed() -> None:
    await child.options(id="b")(1)  # breaks


@workflow(name="patch_taken_out")
async def patch_taken_out() -> None:
    await charge(1)  # breaks
    await ship(1)


@workflow(name="patch_renamed")
async def patch_renamed() -> None:
    if patched("taxes"):
        await charge(1)
    await ship(1)  # breaks


@workflow(name="state_removed")
async def state_removed() -> None:
    await reserve(1)  # breaks
    await ship(1)


@workflow(name="external_signal_removed")
async def external_signal_removed() -> None:
    await reserve(1)
    await ship(1)  # breaks


@workflow(name="goes_on_as_new")
async def goes_on_as_new(number: int = 0) -> None:
    await reserve(number)
    if number == 0:
        continue_as_new(number + 1)  # breaks
    await ship(1)


@workflow(name="helper_changed")
async def helper_changed() -> None:
    await help_out()
    await ship(1)


async def help_out() -> None:  # helper_changed
    await charge(1)  # breaks
    await reserve(1)


@workflow(name="handler_does_more")
class HandlerDoesMore:
    @run
    async def run(self) -> None:
        await ship(1)

    @signal
    async def put(self, number: int) -> None:
        await charge(number)  # breaks


@workflow(name="random_draw_moved")
async def random_draw_moved() -> None:
    uuid4()
    await charge(uuid4().int % 1000)  # breaks
    await ship(1)


# --- what does not --------------------------------------------------------------------


@workflow(name="comments_added")
async def comments_added() -> None:
    """Say what it does."""

    # At length.
    await reserve(1)
    await ship(1)


@workflow(name="variable_renamed")
async def variable_renamed() -> None:
    reserved = await reserve(1)
    await ship(reserved)


@workflow(name="log_line_added")
async def log_line_added() -> None:
    await reserve(1)
    logger.info("reserved")
    await ship(1)


@workflow(name="duration_changed")
async def duration_changed() -> None:
    await sleep(90)
    await ship(1)


@workflow(name="retries_changed")
async def retries_changed() -> None:
    await reserve.options(start_to_close_timeout="9s")(1)
    await ship(1)


@workflow(name="code_added_at_the_end")
async def code_added_at_the_end() -> None:
    await reserve(1)
    await ship(1)
    await charge(1)


@workflow(name="helper_extracted")
async def helper_extracted() -> None:
    await begin()
    await ship(1)


async def begin() -> None:
    await reserve(1)
    await charge(1)


@workflow(name="branch_never_taken")
async def branch_never_taken() -> None:
    number = await reserve(1)
    if number > 100:
        await charge(number)
    await ship(number)


@workflow(name="addition_is_patched")
async def addition_is_patched() -> None:
    await reserve(1)
    if patched("charging"):
        await charge(1)
    await ship(1)


@workflow(name="patch_deprecated")
async def patch_deprecated() -> None:
    deprecate_patch("tax")
    await charge(1)
    await ship(1)


@workflow(name="deprecated_patch_taken_out")
async def deprecated_patch_taken_out() -> None:
    await charge(1)
    await ship(1)


@workflow(name="options_changed", run_timeout="90d")
async def options_changed() -> None:
    await reserve(1)
    await ship(1)


@workflow(name="loop_rewritten")
async def loop_rewritten() -> None:
    number = 0
    while number < 3:
        await reserve(number)
        number += 1
    await ship(1)


@workflow(name="function_renamed")
async def has_another_name() -> None:
    await reserve(1)
    await ship(1)


@workflow(name="field_added_with_default")
async def field_added_with_default(box: Box) -> None:
    await reserve(box.size)
    await ship(1)


@workflow(name="parameter_added_with_default")
async def parameter_added_with_default(number: int, gift: bool = False) -> None:
    await reserve(number)
    await ship(1)


@workflow(name="argument_by_name")
async def argument_by_name() -> None:
    await reserve(number=1)
    await ship(1)


@workflow(name="gather_became_task_group")
async def gather_became_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(reserve(1))
        group.create_task(charge(1))
    await ship(1)


@workflow(name="wait_added_that_is_true")
async def wait_added_that_is_true() -> None:
    await reserve(1)
    await wait_condition(lambda: True)
    await ship(1)
