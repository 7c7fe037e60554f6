"""What workflow code may call besides activities: time, waiting, randomness, logs."""

from __future__ import annotations

import logging
import random as _random
import sys
import uuid
from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any

import msgspec

from durable.api.activities.activity_context import CURRENT
from durable.clock import to_datetime
from durable.converter import json
from durable.core.runtime import WorkflowInfo, find_runtime, get_runtime, source_line
from durable.options import Duration, to_label, to_microseconds


async def sleep(duration: Duration, *, summary: str | None = None) -> None:
    """Wait for a durable timer, however long and whatever happens to the process.

    Unlike `asyncio.sleep(0)`, a duration of zero is a timer and costs a workflow task.

    Args:
        duration: `timedelta`, seconds, or text like "3d".
        summary: a label for timelines.

    Raises:
        NotInWorkflowError: called outside of a workflow.
        InvalidDurationError: negative, not finite, or no duration.
        InvalidOptionError: the summary is no text.
    """
    runtime = get_runtime("durable.sleep()")
    microseconds = to_microseconds(duration, "the duration of durable.sleep()")
    frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # the cheap way to a caller's line
    code, instruction = frame.f_code, frame.f_lasti
    if summary is not None:
        summary = to_label(summary, "the summary of durable.sleep()")
    await runtime.sleep(microseconds, summary, lambda: source_line(code, instruction))


def now() -> datetime:
    """The workflow's time, aware and in UTC: that of the current workflow task.

    It is the same on every replay and constant within one workflow task.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    return to_datetime(get_runtime("durable.now()").now())


def random() -> _random.Random:
    """The run's own random generator, seeded from its run id.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    return get_runtime("durable.random()").random()


def uuid4() -> uuid.UUID:
    """A UUID drawn from the run's own random generator.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    bits = get_runtime("durable.uuid4()").random().getrandbits(128)
    return uuid.UUID(int=bits, version=4)


async def wait_condition(
    predicate: Callable[[], bool], *, timeout: Duration | None = None
) -> None:
    """Wait until a condition on the workflow's own state holds.

    It is checked at once and whenever the run's code has come to rest. Of several that
    wait, the first whose condition holds goes on until all is at rest again; then the
    next is checked. So one permit lets one of them in.

    Args:
        predicate: a plain function without arguments or effects.
        timeout: `None` waits without a timer; any duration makes one, and 0 only looks.

    Raises:
        TimeoutError: the timeout passed first.
        InvalidCallError: the predicate is async.
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.wait_condition()")
    microseconds = (
        None
        if timeout is None
        else to_microseconds(timeout, "the timeout of durable.wait_condition()")
    )
    await runtime.wait_condition(predicate, microseconds)


def patched(patch_id: str) -> bool:
    """Whether this run takes the new way at a change of the code.

    True for runs that reach it with the new code, recorded for good; False for runs
    whose history went past here without it. The first answer per run is its last.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    return get_runtime("durable.patched()").patched(patch_id, deprecated=False)


def deprecate_patch(patch_id: str) -> None:
    """Keep a patch's marker legal after its old branch is gone.

    Remove this call too once no open run has the marker undeprecated.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    get_runtime("durable.deprecate_patch()").patched(patch_id, deprecated=True)


class UpdateInfo(msgspec.Struct, frozen=True):
    """Which update a handler serves."""

    id: str
    name: str


def current_update() -> UpdateInfo | None:
    """The update whose handler this code belongs to; None outside of such a handler.

    Tasks that a handler starts belong to its update too.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    found = get_runtime("durable.current_update()").update_info()
    return None if found is None else UpdateInfo(*found)


def all_handlers_finished() -> bool:
    """Whether no handler of a signal or update is under way.

    Handlers that have not finished when the run ends are dropped. To let them finish:
    `await wait_condition(all_handlers_finished)`.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    return get_runtime("durable.all_handlers_finished()").all_handlers_finished()


def set_state(state: Any) -> None:
    """Publish what the run shows of itself, such as "waiting for payment".

    The change is recorded, with the state before; the newest state is kept where runs
    are listed. Workflow code never reads it back.

    Args:
        state: plain data, an enum's member, or a dataclass or msgspec Struct.

    Raises:
        PayloadError: it cannot be recorded as it is.
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.set_state()")
    runtime.set_state(json.encode(state, type(state), "the state"))


def has_last_result() -> bool:
    """Whether the run before this one, of its schedule or its chain, gave a result.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    return get_runtime("durable.has_last_result()").carried()[0] is not None


def last_result(type: Any = Any) -> Any:
    """The newest result of the runs before this one.

    Those are the runs of its schedule, one after the other, or the earlier tries of a
    workflow with `retry`. Runs that may overlap (ALLOW_ALL) have none.

    Args:
        type: what to decode it as.

    Returns:
        The result; None if there is none, see `has_last_result`.

    Raises:
        UndecodableError: it is not of that type.
        NotInWorkflowError: called outside of a workflow.
    """
    found = get_runtime("durable.last_result()").carried()[0]
    return None if found is None else json.decode(found, type, "the last result")


def last_failure() -> BaseException | None:
    """How the run before this one has failed, if it has; see `last_result`.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    runtime = get_runtime("durable.last_failure()")
    found = runtime.carried()[1]
    return None if found is None else runtime.code.exception_of(found)


def info() -> WorkflowInfo:
    """What the run knows about itself.

    Raises:
        NotInWorkflowError: called outside of a workflow.
    """
    return get_runtime("durable.info()").info()


def in_workflow() -> bool:
    """Whether workflow code is running in this thread. Safe to call anywhere."""
    return find_runtime() is not None


class ReplaySilentLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that is silent while a workflow is only being caught up, or dropped.

    Inside a workflow it adds `workflow_id`, `run_id` and `workflow_type` to each
    record, in the handler of an update also `update_id` and `update_name`; inside an
    activity `activity_type`, `activity_id` and `attempt`. The caller's own `extra`
    wins.
    """

    def isEnabledFor(self, level: int) -> bool:
        """Say no while replaying, and to cleanup code of a run that leaves memory."""
        runtime = find_runtime()
        if runtime is not None and (runtime.is_replaying or runtime.is_torn_down):
            return False
        return self.logger.isEnabledFor(level)

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        """Add the ids of the run, and of the update or activity."""
        runtime, attempt = find_runtime(), CURRENT.get()
        about: dict[str, Any] = {}
        run: Any = None
        if runtime is not None:
            run, update = runtime.info(), runtime.update_info()
            if update is not None:
                about["update_id"], about["update_name"] = update
        elif attempt is not None:
            run = attempt.info
            about["activity_type"] = run.activity_type
            about["activity_id"] = run.activity_id
            about["attempt"] = run.attempt
        if run is not None:
            about["workflow_id"] = run.workflow_id
            about["run_id"] = run.run_id
            about["workflow_type"] = run.workflow_type
            kwargs["extra"] = {**about, **(kwargs.get("extra") or {})}
        return msg, kwargs


logger = ReplaySilentLogger(logging.getLogger("durable.workflow"), {})
activity_logger = ReplaySilentLogger(logging.getLogger("durable.activity"), {})
"""The same, under a name of its own: for what activities say."""
