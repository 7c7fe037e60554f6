"""Calls entities: finds the run of a key, or starts it with the call.

Exclusive methods are updates, shared ones queries. Workflows call by an activity that
the library brings along; each further attempt of it is the same update.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec

from durable.api.activity_context import ActivityInfo
from durable.api.entity_call import (
    CALL_ENTITY,
    CONTROL_COUNT,
    HOLD,
    IS_RUN_OPEN,
    LET_GO,
    EntityCall,
    EntityTarget,
)
from durable.api.entity_caller import Caller, with_caller
from durable.api.entity_definition import EntityWorkflow
from durable.api.messages import QueryCall, UpdateCall
from durable.api.workflow_definition import Workflow, WorkflowCall, find_workflow
from durable.client.client import Client, start_options
from durable.client.handle import Handle
from durable.client.updates import UpdateHandle
from durable.converter import failures, json
from durable.core.codec import decode_rows
from durable.core.events import WorkflowExecutionUpdateAccepted
from durable.core.payload import NULL, Payload, Payloads
from durable.core.workflow_task import UpdateRequest
from durable.errors import (
    ApplicationError,
    DurableError,
    InvalidCallError,
    NoAnswerError,
    NotRegisteredError,
    QueryFailedError,
    UpdateFailedError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import (
    Duration,
    IdConflictPolicy,
    IdReusePolicy,
    check_id,
    to_microseconds,
)
from durable.store.records import RunStatus

_ASK_SECONDS: Final = 10.0


class EntityRequest(msgspec.Struct, frozen=True):
    """One call of an entity, with its arguments as they will be recorded."""

    target: EntityTarget
    method: str
    input: Payloads
    is_exclusive: bool


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
    limit = None
    if timeout is not None:
        limit = to_microseconds(timeout, "the timeout of call()") / 1_000_000
    request = EntityRequest(call.target, call.method, call.input, call.is_exclusive)
    if not call.is_exclusive:
        seconds = _ASK_SECONDS if limit is None else limit
        return call.decode_result(await _ask(client, request, seconds))
    try:
        async with asyncio.timeout(limit):
            payload = await _update(client, request, update_id, is_repeat=False)
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


# --- shared methods -------------------------------------------------------------------


async def _ask(client: Client, request: EntityRequest, seconds: float) -> Payload:
    target = request.target
    handle = await _find_open(client, target)
    if handle is not None:
        query = QueryCall(request.method, request.input, _as_it_is)
        return await handle.query(query, timeout=seconds)
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


async def _update(
    client: Client, request: EntityRequest, update_id: str | None, *, is_repeat: bool
) -> Payload:
    """Send an update, to a new run if there is none, and wait for its answer."""
    while True:
        handle = await _find_open(client, request.target)
        try:
            if handle is None:
                if request.method == LET_GO:
                    return NULL
                sent = await _start_with(client, request, update_id)
            else:
                sent = await _send(client, handle, request, update_id, is_repeat)
            return await sent.result()
        except (WorkflowClosedError, WorkflowNotFoundError):
            continue  # it ended without taking the call: the next run does


async def _find_open(client: Client, target: EntityTarget) -> Handle[Any] | None:
    record = await client.store.find_run(client.namespace, target.workflow_id)
    if record is None or record.status is not RunStatus.RUNNING:
        return None
    return Handle(
        client,
        target.workflow_id,
        record.run_id,
        target.definition,
        first_run_id=record.first_run_id,
    )


async def _start_with(
    client: Client, request: EntityRequest, update_id: str | None
) -> UpdateHandle[Payload]:
    how = start_options(
        workflow_id=request.target.workflow_id,
        on_conflict=IdConflictPolicy.USE_EXISTING,
        id_reuse=IdReusePolicy.ALLOW_DUPLICATE,
        request_id=None,
        run_timeout=None,
        execution_timeout=None,
        task_queue=None,
        memo=None,
    )
    update = UpdateCall(request.method, request.input, _as_it_is)
    start: WorkflowCall[Any] = WorkflowCall(request.target.definition, ())
    _, sent = await client.update_with_start(update, update_id, start, (), how)
    return sent


async def _send(
    client: Client,
    handle: Handle[Any],
    request: EntityRequest,
    update_id: str | None,
    is_repeat: bool,
) -> UpdateHandle[Payload]:
    if is_repeat and update_id is not None and await _has(client, handle, update_id):
        again = UpdateRequest(update_id, request.method, request.input)
        return handle.sent_update(again, _as_it_is)
    update = UpdateCall(request.method, request.input, _as_it_is)
    return await handle.start_update(update, update_id=update_id, timeout=None)


async def _has(client: Client, handle: Handle[Any], update_id: str) -> bool:
    """Whether the run's history holds an update.

    A run keeps the ids of the newest messages only, once it has a checkpoint.
    """
    rows = await client.store.read_history(handle.run_id)
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
        return await _update(
            client, request, info.idempotency_key, is_repeat=info.attempt > 1
        )
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
    failure = failures.failure_of(error)
    return failures.exception_of(msgspec.structs.replace(failure, non_retryable=True))


async def _perform_look(client: Client, input: Payloads, _: ActivityInfo) -> Payload:
    """Say whether a run is open."""
    workflow_id, run_id = (json.decode(p, str, "an id") for p in input)
    record = await client.store.find_run(client.namespace, workflow_id, run_id)
    is_open = record is not None and record.status is RunStatus.RUNNING
    return json.encode(is_open, bool, "whether a run is open")
