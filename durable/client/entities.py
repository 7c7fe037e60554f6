"""Calls entities: finds the run of a key, or starts it with the call.

Exclusive methods are updates, shared ones queries. Workflows call by an activity that
the library brings along; each further attempt of it is the same update.
"""

from __future__ import annotations

import asyncio
import enum
import secrets
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, Final

import msgspec

from durable.api.activities.activity_context import (
    ActivityInfo,
    activity_info,
    in_activity,
)
from durable.api.entities.entity_call import (
    CALL_ENTITY,
    CONTROL_COUNT,
    HOLD,
    IS_RUN_OPEN,
    LET_GO,
    EntityCall,
    EntityTarget,
)
from durable.api.entities.entity_caller import Caller, with_caller
from durable.api.entities.entity_definition import EntityWorkflow, is_busy
from durable.api.messages.messages import UpdateCall
from durable.api.workflows.workflow_definition import (
    Workflow,
    WorkflowCall,
    find_workflow,
)
from durable.client import questions
from durable.client.chain import Chain
from durable.client.client import Client
from durable.client.start_options import start_settings
from durable.client.updates import UpdateHandle, start_update
from durable.converter import failures, json
from durable.core.history.codec import decode_rows
from durable.core.history.events import WorkflowExecutionUpdateAccepted
from durable.core.history.payload import NULL, Payload, Payloads, innermost
from durable.core.workflow_task import UpdateRequest
from durable.errors import (
    ApplicationError,
    DurableError,
    EntityDeadlockError,
    InternalError,
    InvalidCallError,
    NoAnswerError,
    NotRegisteredError,
    QueryFailedError,
    UpdateFailedError,
    UpdateRejectedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import (
    Duration,
    IdConflictPolicy,
    IdReusePolicy,
    check_id,
    to_seconds,
)
from durable.store.queries import FindRun, ReadHistory
from durable.store.records import RunStatus

_ASK_SECONDS: Final = 10.0
_BUSY_SECONDS_FIRST: Final = 0.02
_BUSY_SECONDS_LAST: Final = 1.0


class EntityRequest(msgspec.Struct, frozen=True):
    """One call of an entity, with its arguments as they will be recorded."""

    target: EntityTarget
    method: str
    input: Payloads
    is_exclusive: bool


class Age(enum.Enum):
    """Whether an update of an id may have been sent before."""

    NEW = enum.auto()
    UNKNOWN = enum.auto()
    REPEATED = enum.auto()


class Sending(msgspec.Struct, frozen=True):
    """Under which id an update is sent."""

    update_id: str
    age: Age


def _sending(update_id: str | None) -> Sending:
    if update_id is None:
        # Short, as a checkpoint keeps many of them.
        return Sending(secrets.token_urlsafe(12), Age.NEW)
    return Sending(update_id, Age.UNKNOWN)


async def call_entity(
    client: Client,
    call: EntityCall[Any],
    *,
    update_id: str | None,
    timeout: Duration | None,
) -> Any:
    """Carry out a call; see `Engine.call`."""
    if not isinstance(call, EntityCall):
        raise InvalidCallError(
            f"{call!r} is no call of an entity.",
            hint='Give a call such as Cart["alice"].add("apple").',
        )
    if update_id is not None:
        check_id(update_id, "the update id")
        if not call.is_exclusive:
            raise InvalidCallError(
                f"An update id was given for {call!r}, which changes nothing."
            )
    limit = to_seconds(timeout, "the timeout of call()")
    request = EntityRequest(call.target, call.method, call.input, call.is_exclusive)
    if call.is_exclusive and in_activity():
        _refuse_own_key(request, activity_info())
    if not call.is_exclusive:
        seconds = _ASK_SECONDS if limit is None else limit
        return call.decode_result(await _ask(client, request, seconds))
    try:
        async with asyncio.timeout(limit):
            payload = await _update(client, request, _sending(update_id))
    except TimeoutError as error:
        if limit is None or isinstance(error, DurableError):
            raise
        raise NoAnswerError(
            f"{call.target}.{call.method}(...) was not answered within {limit:g} s; it"
            " may still be carried out.",
            hint="Is a worker with its code running? Is its key held? Ask again under"
            " the same update id.",
        ) from None
    return call.decode_result(payload)


def _refuse_own_key(request: EntityRequest, info: ActivityInfo) -> None:
    """Refuse a call by an activity of the very entity, which waits for it."""
    if info.workflow_id == request.target.workflow_id:
        raise EntityDeadlockError(
            f"Activity {info.activity_type!r} of {request.target} calls"
            f" {request.target}.{request.method}(...), which could only run after it.",
            hint="Return what the method needs to know; let the method change the"
            " state.",
        )


# --- shared methods -------------------------------------------------------------------


async def _ask(client: Client, request: EntityRequest, seconds: float) -> Payload:
    target = request.target
    found = await _find_open(client, target)
    if found is not None:
        return await questions.query(found[0], request.method, request.input, seconds)
    definition = target.definition
    assert isinstance(definition, EntityWorkflow)  # noqa: S101 - only those make calls
    method = definition.methods[request.method]
    try:
        return definition.answer(
            target.key, definition.new_state(), method, request.input
        )
    except Exception as error:
        raise QueryFailedError(
            f"{target}.{request.method}(...) failed: {type(error).__name__}: {error}"
        ) from error


# --- exclusive methods ----------------------------------------------------------------


async def _update(client: Client, request: EntityRequest, sending: Sending) -> Payload:
    """Send an update, to a new run if there is none, and wait for its answer."""
    for wait in _growing_waits():
        try:
            found = await _find_open(client, request.target)
            if found is not None:
                sent = await _send(client, *found, request, sending)
            elif request.method == LET_GO:
                return NULL
            else:
                sent = await _start_with(client, request, sending)
            return await sent.result()
        except (WorkflowClosedError, WorkflowNotFoundError):
            pass  # it ended without taking the call: the next run does
        except UpdateRejectedError as error:
            if not is_busy(error.__cause__):
                raise
            await asyncio.sleep(wait)
    raise InternalError("A call was given up.")


def _growing_waits() -> Iterator[float]:
    wait = _BUSY_SECONDS_FIRST
    while True:
        yield wait
        wait = min(2 * wait, _BUSY_SECONDS_LAST)


async def _find_open(client: Client, target: EntityTarget) -> tuple[Chain, int] | None:
    """The open run of a key, and the newest event that cannot speak of a new call."""
    record = await client.store.read(FindRun(client.namespace, target.workflow_id))
    if record is None or record.status is not RunStatus.RUNNING:
        return None
    chain = Chain(
        client, target.workflow_id, record.run_id, record.first_run_id, is_pinned=False
    )
    return chain, record.checkpoint_event_id


async def _start_with(
    client: Client, request: EntityRequest, sending: Sending
) -> UpdateHandle[Payload]:
    how = start_settings(
        {
            "id": request.target.workflow_id,
            "on_conflict": IdConflictPolicy.USE_EXISTING,
            "id_reuse": IdReusePolicy.ALLOW_DUPLICATE,
        }
    )
    update = UpdateCall(request.method, request.input, _as_it_is)
    start: WorkflowCall[Any] = WorkflowCall(request.target.definition, ())
    _, sent = await client.update_with_start(update, sending.update_id, start, (), how)
    return sent


async def _send(
    client: Client,
    chain: Chain,
    checkpoint_event_id: int,
    request: EntityRequest,
    sending: Sending,
) -> UpdateHandle[Payload]:
    again = UpdateRequest(
        sending.update_id, request.method, request.input, client.identity
    )
    if sending.age is Age.REPEATED and await _has(client, chain, sending.update_id):
        known = UpdateHandle(chain, sending.update_id, chain.current, _as_it_is)
        known.request = again
        return known
    after = checkpoint_event_id if sending.age is Age.NEW else 0
    return await start_update(chain, again, _as_it_is, None, after)


async def _has(client: Client, chain: Chain, update_id: str) -> bool:
    """Whether the run's history holds an update.

    A run with a checkpoint knows the ids of the newest messages only.
    """
    rows = await client.store.read(ReadHistory(chain.current))
    return any(
        isinstance(event.attributes, WorkflowExecutionUpdateAccepted)
        and event.attributes.update_id == update_id
        for event in decode_rows(rows)
    )


def _as_it_is(payload: Payload) -> Payload:
    return payload


# --- for workflows --------------------------------------------------------------------


def entity_activities(
    client: Client,
) -> dict[str, Callable[[Payloads, ActivityInfo], Awaitable[Payload]]]:
    """The activities by which workflows call entities, and entities know of holders."""
    return {
        CALL_ENTITY: partial(_perform_call, client),
        IS_RUN_OPEN: partial(_perform_look, client),
    }


async def _perform_call(client: Client, input: Payloads, info: ActivityInfo) -> Payload:
    """Call an entity for a workflow; raise what its method raises, for good."""
    control, rest = input[:CONTROL_COUNT], input[CONTROL_COUNT:]
    name, key, method = (json.decode(p, str, "a call") for p in control[:3])
    caller = json.decode(control[3], Caller, "the caller")
    definition = _find_entity(name)
    known = definition.methods.get(method)
    request = EntityRequest(
        EntityTarget(definition, key),
        method,
        with_caller(caller, rest),
        is_exclusive=method in (HOLD, LET_GO) or known is None or known.is_exclusive,
    )
    try:
        if not request.is_exclusive:
            return await _ask(client, request, _ASK_SECONDS)
        age = Age.NEW if info.attempt == 1 else Age.REPEATED
        return await _update(client, request, Sending(info.idempotency_key, age))
    except (UpdateFailedError, QueryFailedError) as error:
        raise _for_good(error.__cause__ or error) from None


def _find_entity(name: str) -> EntityWorkflow:
    found: Workflow[Any, Any] = find_workflow(name)
    if not isinstance(found, EntityWorkflow):
        raise NotRegisteredError(f"The workflow {name!r} is no entity here.")
    return found


def _for_good(error: BaseException) -> BaseException:
    """The same exception, not to be tried again."""
    if not isinstance(error, Exception):
        return ApplicationError(
            f"The method ended with {type(error).__name__}.", non_retryable=True
        )
    # How an activity or child within the method failed is what the method raised.
    failure = innermost(failures.failure_of(error))
    if failure.kind != "application":
        failure = failures.failure_of(_unrecorded(error))
    return failures.exception_of(msgspec.structs.replace(failure, non_retryable=True))


def _unrecorded(error: Exception) -> Exception:
    """The same exception, as if it had been raised here: say, a timeout of ours."""
    fresh = type(error).__new__(type(error), *error.args)
    fresh.args, fresh.__cause__ = error.args, error.__cause__
    vars(fresh).update({k: v for k, v in vars(error).items() if k[:2] != "__"})
    return fresh


async def _perform_look(client: Client, input: Payloads, _: ActivityInfo) -> Payload:
    """Say whether a run is open."""
    workflow_id, run_id = (json.decode(p, str, "an id") for p in input)
    record = await client.store.read(FindRun(client.namespace, workflow_id, run_id))
    is_open = record is not None and record.status is RunStatus.RUNNING
    return json.encode(is_open, bool, "whether a run is open")
