"""`engine.start_activity(...)`: activities without a workflow, a durable job queue."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, cast

import msgspec
from typing_extensions import TypedDict

from durable.api.activities.activity import DEFAULTS, Activity
from durable.api.activities.settings import settings_of
from durable.api.activities.step import Step
from durable.api.definitions import drop_call
from durable.api.registry import Registry
from durable.client.client import Client
from durable.client.descriptions.activities import ActivityDescription
from durable.client.descriptions.description import RunDescription, failure_as_dict
from durable.client.descriptions.searching import Listing
from durable.client.handle import Handle
from durable.client.start_options import StartOptions, start_settings
from durable.converter import json
from durable.core.history.payload import Payload, Payloads
from durable.errors import (
    ActivityNotFoundError,
    InvalidCallError,
    WorkflowFailedError,
    WorkflowNotFoundError,
)
from durable.options import (
    Duration,
    IdReuse,
    OnConflict,
    check_id,
    check_option_names,
    to_label,
)
from durable.search.conditions import Attribute
from durable.search.run_fields import Run
from durable.standalone.activity_workflow import (
    HOW,
    STANDALONE,
    How,
    standalone,
    without_how,
)
from durable.store.records import RunStatus

R = TypeVar("R")
_CODE_OF_CALLS: Final = cast("Any", Activity)._run.__code__
ACTIVITY_TYPE: Final = Attribute("durable_activity", str)
"""The attribute by which such runs are found by the name of their activity."""
_WHAT: Final = "option of a start of an activity"
_OF_ACTIVITIES: Final = {
    name: f"It is of the activity: charge.options({name}=...)(order)."
    for name in DEFAULTS
}


class ActivityStartOptions(TypedDict, total=False):
    """Options of a start of an activity; each is as for `Engine.start`.

    Keys:
        id: yours; a new one by default.
        task_queue: of the workers that run it; if the activity has a queue of its own,
            of those that see to it.
    """

    id: str | None
    on_conflict: OnConflict | None
    id_reuse: IdReuse | None
    request_id: str | None
    task_queue: str | None
    memo: dict[str, Any] | None
    delay: Duration | None
    attributes: Mapping[Attribute[Any], Any] | None


class StandaloneActivityDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What the store says about a standalone activity.

    Attributes:
        id: chosen by whoever started it.
        run_id: ours.
        status: running until it has its outcome, also while it waits.
        stuck: why it cannot go on until somebody mends it, or None.
        cursor: where it stands in a listing: `after=` goes on behind it.
        pending: how its attempt stands, if it is running; not in listings.
        attributes, memo: what was said of it at its start.
    """

    id: str
    run_id: str
    activity_type: str
    status: RunStatus
    started_at: datetime
    closed_at: datetime | None
    stuck: str | None
    attributes: dict[str, Any]
    memo: dict[str, Any]
    cursor: str
    pending: ActivityDescription | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, without the values of an error."""
        found = {**msgspec.structs.asdict(self), "pending": None}
        if self.pending is not None:
            failure = self.pending.last_failure
            found["pending"] = {
                **msgspec.structs.asdict(self.pending),
                "last_failure": None if failure is None else failure_as_dict(failure),
            }
        plain: dict[str, Any] = msgspec.to_builtins(found)
        return plain


class ActivityHandle(Generic[R]):
    """One standalone activity: wait for it, look at it, stop it.

    Attributes:
        id: chosen by whoever started it.
        run: its run, for all else: history, attempts, deletion.
        is_new: it was started by the call that gave this handle; False if that found
            it.
    """

    def __init__(self, run: Handle[R]) -> None:
        self.id = run.workflow_id
        self.run = run
        self.is_new = run.is_new

    def __repr__(self) -> str:
        return f"<standalone activity {self.id!r}>"

    async def result(self, *, timeout: Duration | None = None) -> R:
        """Wait for its result, or raise what it raised, as in a workflow.

        Args:
            timeout: how long to wait; `timedelta`, seconds, or text like "30s".

        Raises:
            ActivityError, ActivityTimeoutError, OutcomeUnknown: it failed with what is
                no class of this program, timed out, or nobody knows what it did.
            WorkflowCancelledError, WorkflowTerminatedError: it was stopped.
            ResultTimeoutError: `timeout` passed; it goes on.
            WorkflowNotFoundError: it was deleted.
        """
        try:
            return await self.run.result(timeout=timeout)
        except WorkflowFailedError as failed:
            cause = failed.__cause__
            if type(failed) is not WorkflowFailedError or cause is None:
                raise
            raise cause from cause.__cause__

    async def cancel(self, reason: str = "") -> None:
        """Ask it to stop; one that has not begun does not begin.

        Raises: as `Handle.cancel`.
        """
        await self.run.cancel(reason)

    async def describe(self) -> StandaloneActivityDescription:
        """Read how it stands.

        Raises:
            WorkflowNotFoundError: it was deleted.
        """
        described = describe(await self.run.describe())
        if described.status is not RunStatus.RUNNING:
            return described
        pending = await self.run.activities()
        return msgspec.structs.replace(described, pending=next(iter(pending), None))


def describe(run: RunDescription) -> StandaloneActivityDescription:
    """What is to be said of a run of the workflow."""
    attributes = dict(run.attributes)
    return StandaloneActivityDescription(
        id=run.workflow_id,
        run_id=run.run_id,
        activity_type=attributes.pop(ACTIVITY_TYPE.name, ""),
        status=run.status,
        started_at=run.started_at,
        closed_at=run.closed_at,
        stuck=None if run.stuck is None else run.stuck.message,
        attributes=attributes,
        memo=without_how(run.memo),
        cursor=run.cursor,
    )


async def start_activity(
    client: Client, call: object, args: tuple[Any, ...], options: ActivityStartOptions
) -> ActivityHandle[Any]:
    """Start an activity; see `Engine.start_activity`."""
    # First, or a call would warn that nobody awaited it.
    activity, name, input = _what_to_start(client.registry, call, args)
    known = ActivityStartOptions.__annotations__
    check_option_names(options, known, _WHAT, _OF_ACTIVITIES)
    memo = {**(options.get("memo") or {}), HOW: _how(name, activity)}
    attributes = {**(options.get("attributes") or {}), ACTIVITY_TYPE: name}
    given = {**options, "memo": memo, "attributes": attributes}
    said = start_settings(cast("StartOptions", given))
    run = await client.start_recorded(STANDALONE, (_text(name), *input), said)
    return _handle(client, run, activity)


async def get_activity(
    client: Client, id: str, activity: Activity[..., Any] | None
) -> ActivityHandle[Any]:
    """Find one; see `Engine.get_activity`."""
    unknown = ActivityNotFoundError(
        f"There is no standalone activity {id!r} in namespace {client.namespace!r}."
    )
    try:
        run = await client.find(check_id(id, "the activity's id"), None, None)
    except WorkflowNotFoundError:
        raise unknown from None
    described = await run.describe()
    if described.workflow_type != STANDALONE:
        raise ActivityNotFoundError(
            f"{id!r} is the id of a run of workflow {described.workflow_type!r}, and"
            " of no standalone activity.",
            hint="Find it by engine.get().",
        )
    name = described.attributes.get(ACTIVITY_TYPE.name, "")
    return _handle(client, run, activity or client.registry.find_activity(name))


async def list_activities(
    client: Client, asked: Listing, activity_type: str | None
) -> list[StandaloneActivityDescription]:
    """A page of them; see `Engine.list_activities`."""
    parts = (*asked.parts, Run.type.compare("=", STANDALONE))
    if activity_type is not None:
        name = check_id(activity_type, "the activity's name")
        parts = (*parts, ACTIVITY_TYPE.compare("=", name))
    listed = await client.list(msgspec.structs.replace(asked, parts=parts))
    return [*map(describe, listed)]


@functools.lru_cache(maxsize=1_024)  # most are started often
def _how(name: str, activity: Activity[..., Any] | None) -> str:
    given = DEFAULTS if activity is None else activity.given_options
    summary = to_label(given.get("summary"), f"summary of activity {name!r}")
    return How(settings_of(name, given), summary).to_text()


def _handle(
    client: Client, run: Handle[Any], activity: Activity[..., Any] | None
) -> ActivityHandle[Any]:
    definition = None if activity is None else standalone.of(activity)
    return ActivityHandle(
        Handle(client, run.workflow_id, run.run_id, definition, is_new=run.is_new)
    )


def _what_to_start(
    registry: Registry, call: Any, args: tuple[Any, ...]
) -> tuple[Activity[..., Any] | None, str, Payloads]:
    if isinstance(call, str):
        name = check_id(call, "the activity's name")
        plain = [
            json.encode(value, Any, f"argument {number} of {name!r}")
            for number, value in enumerate(args, 1)
        ]
        return registry.find_activity(name), name, tuple(plain)
    if args:
        drop_call(call)
        raise InvalidCallError(
            "Arguments were given beside a call of an activity.",
            hint="Put them into the call.",
        )
    activity, args, kwargs = _take_apart(call)
    signature = activity.call_signature
    return activity, activity.name, signature.encode(signature.bind(args, kwargs))


def _take_apart(
    call: Coroutine[Any, Any, Any],
) -> tuple[Activity[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The activity and the arguments of a call that has not begun, and never will."""
    frame = getattr(call, "cr_frame", None)
    if (
        frame is None
        or frame.f_code is not _CODE_OF_CALLS
        or inspect.getcoroutinestate(call) != inspect.CORO_CREATED
    ):
        drop_call(call)
        raise InvalidCallError(
            f"{call!r} is no call of an activity.",
            hint="Give one such as charge(order), or the name of an activity.",
        )
    found: dict[str, Any] = frame.f_locals
    activity, args, kwargs = found["self"], found["args"], found["kwargs"]
    call.close()
    if isinstance(activity, Step):
        raise InvalidCallError(
            f"{activity!r} is a closure, which no worker has: only the workflow that"
            " asks for it runs it.",
            hint="Make it an @activity of a module.",
        )
    return activity, args, kwargs


def _text(text: str) -> Payload:
    return json.encode(text, str, "the name of an activity")
