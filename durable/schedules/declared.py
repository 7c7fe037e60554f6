"""`@schedule`: schedules that stand beside the workflow that they start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

import msgspec
from typing_extensions import Unpack

from durable.api.registry import Registry
from durable.api.workflows.workflow_definition import workflow_of
from durable.errors import (
    DefinitionError,
    InvalidInputError,
    NoAnswerError,
    ScheduleExistsError,
)
from durable.schedules.cron import When
from durable.schedules.definition import ScheduleDefinition
from durable.schedules.schedules import ScheduleOptions, Schedules, define

T = TypeVar("T")

_log: Final = logging.getLogger("durable.schedules")


class _Declared(msgspec.Struct, frozen=True):
    workflow_type: str
    definition: ScheduleDefinition


DECLARED: Final[dict[str, _Declared]] = {}
"""Every schedule that a decorator of this program declares, by its id."""


def schedule(
    *when: When | Iterable[When],
    id: str | None = None,
    arguments: tuple[Any, ...] = (),
    **options: Unpack[ScheduleOptions],
) -> Callable[[T], T]:
    """Declare that a workflow runs at certain times.

        @schedule("0 9 * * MON-FRI", timezone="Europe/Berlin")
        @workflow
        async def send_reports() -> None: ...

    Whenever an engine with that workflow opens as a worker, it creates the schedule, or
    changes it to what is declared now if that is new: times that are past are not acted
    for. Pause, note and the remaining actions stay as they were. A schedule whose
    decorator was taken away goes on until somebody deletes it, as by
    `durable schedules delete`: other programs may still have the code.

    Args:
        *when: as for `engine.schedules.create`.
        id: the schedule's id; the workflow's name by default.
        arguments: what the workflow is called with.
        **options: see `ScheduleOptions`.

    Raises:
        DefinitionError: it is on no workflow, or the id is declared twice.
        InvalidScheduleError: the spec or a policy means nothing.
        InvalidInputError: the arguments do not fit the workflow.
    """

    def declare(decorated: T) -> T:
        workflow = workflow_of(decorated)
        if workflow is None:
            raise DefinitionError(
                f"@schedule was put on {decorated!r}, which is no workflow.",
                hint="Put it above @workflow.",
            )
        schedule_id = workflow.name if id is None else id
        try:
            call = workflow(*arguments)
        except InvalidInputError as error:
            raise DefinitionError(
                f"@schedule cannot call {workflow.name!r}: {error.message}",
                hint="Give it what to call it with: @schedule(..., arguments=(...)).",
            ) from None
        definition = define(schedule_id, call, *when, **options)
        known = DECLARED.get(schedule_id)
        if known is not None and known.workflow_type != workflow.name:
            raise DefinitionError(
                f"The schedule {schedule_id!r} is declared of {known.workflow_type!r}"
                f" and of {workflow.name!r}.",
                hint="Give one of them another id: @schedule(..., id='...').",
            )
        DECLARED[schedule_id] = _Declared(workflow.name, definition)
        return decorated

    return declare


async def declare_all(schedules: Schedules, registry: Registry) -> None:
    """Create or change the schedules whose workflows an engine has."""
    for schedule_id, declared in list(DECLARED.items()):
        if declared.workflow_type not in registry.workflows:
            continue
        try:
            await schedules.declare(schedule_id, declared.definition)
        except (NoAnswerError, ScheduleExistsError, InvalidInputError) as error:
            # Of one schedule: the engine has others to work for.
            _log.warning("Schedule %r is not as declared: %s", schedule_id, error)
