"""Asks runs: queries and stacks, answered on what was acknowledged before the call.

A run that is live here is asked between two turns. Any other is replayed from its
history if this process knows its code, closed or not. Without the code its owner is
asked by mail.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from durable.client.chain import Chain
from durable.client.descriptions.description import (
    decode_stuck,
    paused_error,
    stuck_error,
    waits_for_turn,
)
from durable.converter.failures import exception_of, show_remote
from durable.core.history.codec import at_version, decode_rows
from durable.core.history.payload import Failure, Payload, Payloads, is_paused
from durable.core.loop.stacks import STACK_QUERY, TaskStack
from durable.core.messages import (
    QueryRequest,
    decode_message,
    decode_query_reply,
    encode_message,
)
from durable.core.replay.catching_up import catch_up
from durable.core.replay.replayer import Replayer
from durable.core.workflow_task import WorkflowTask
from durable.errors import (
    InboxFullError,
    NoAnswerError,
    QueryFailedError,
    StoreError,
    WorkflowClosedError,
    WorkflowNotFoundError,
    WorkflowPausedError,
    WorkflowStuckError,
)
from durable.store.queries import LoadRuns, ReadMessages, ReadNews, ReadReply
from durable.store.records import (
    DropReplies,
    LoadedRun,
    MessageKind,
    RunRecord,
    RunStatus,
)

T = TypeVar("T")


async def query(
    chain: Chain,
    name: str,
    input: Payloads,
    timeout: float,
    headers: dict[str, str] | None = None,
) -> Payload:
    """The answer to a query.

    Raises:
        QueryFailedError: the code has no such query, or its handler raised.
        WorkflowStuckError: the code must be mended first.
        WorkflowPausedError: somebody has paused it.
        NoAnswerError: the run's owner has not answered within `timeout` seconds.
        WorkflowNotFoundError: there is no such run.
    """
    is_stack = name == STACK_QUERY
    try:
        answer = await _look(
            chain,
            lambda replayer: replayer.query(name, input, headers),
            is_stack=is_stack,
        )
        if answer is None:
            request = QueryRequest(name, input, headers or msgspec.UNSET)
            return await _by_mail(chain, request, timeout)
        return answer[0]
    except _PASSED_ON:
        raise
    except Exception as error:
        raise QueryFailedError(
            f"Query {name!r} of run {chain.workflow_id!r} failed:"
            f" {type(error).__name__}: {error}"
        ) from error


_PASSED_ON: Final = (
    InboxFullError,
    NoAnswerError,
    QueryFailedError,
    StoreError,
    WorkflowClosedError,
    WorkflowNotFoundError,
    WorkflowPausedError,
    WorkflowStuckError,
)


async def stack(chain: Chain, timeout: float) -> list[TaskStack]:
    """Where each task of a run waits; see `query` for what it raises."""
    payload = await query(chain, STACK_QUERY, (), timeout)
    return msgspec.json.decode(payload.json, type=list[TaskStack])


async def _look(
    chain: Chain, ask: Callable[[Replayer], T], *, is_stack: bool
) -> tuple[T] | None:
    """Ask a run's code where this process has it; None if it has not."""
    connection = chain.connection
    worker = connection.worker
    if worker is not None and worker.is_live(chain.current):
        # Other processes may have put messages that the run has not seen, or gone on
        # with it while it was at rest.
        messages, news = await asyncio.gather(
            connection.store.read(ReadMessages(chain.current)),
            connection.store.read(ReadNews([chain.current])),
        )
        worker.take_found(chain.current, messages, news)
        asked = worker.ask(chain.current, ask)
        answer = None if asked is None else await asked
        if answer is not None:
            return answer
    record = await chain.record()
    if is_paused(record.stuck) and not is_stack:
        raise paused_error(record)
    if record.stuck is not None and not is_stack:
        raise stuck_error(record, decode_stuck(record.stuck) or Failure())
    if not connection.registry.find_workflow(record.workflow_type, record.version):
        if waits_for_turn(record):
            raise QueryFailedError(
                f"Run {chain.workflow_id!r} waits for its turn in queue"
                f" {record.task_queue!r}: no code of it has run that could answer.",
                hint="Import its workflow here, and it is asked at its first line.",
            )
        return None
    return (await _by_replay(chain, record, ask, is_stack=is_stack),)


async def _by_replay(
    chain: Chain,
    record: RunRecord,
    ask: Callable[[Replayer], T],
    *,
    is_stack: bool,
) -> T:
    """Ask the code where its run is, acknowledged messages included.

    What they lead to is looked at and never recorded: the run's owner does that.
    """
    connection = chain.connection
    loaded = (await connection.store.read(LoadRuns([record.run_id])))[0]
    history = at_version(decode_rows(loaded.rows), record.version)
    now = connection.store.now()
    is_open = loaded.record.status is RunStatus.RUNNING
    with catch_up(connection.registry.code_of, history, now) as (replayer, problem):
        if problem is None and is_open and not is_stack:
            inputs = tuple(acknowledged(loaded, replayer))
            if inputs or replayer.unprocessed:
                problem = replayer.process(WorkflowTask(now, inputs)).failure
        if problem is not None:
            raise stuck_error(loaded.record, problem.failure)
        return ask(replayer)


_EVENTS: Final = (MessageKind.SIGNAL.value, MessageKind.CANCEL.value)


def acknowledged(loaded: LoadedRun, replayer: Replayer) -> list[Any]:
    """The events of messages that wait in a run's inbox; updates are none yet."""
    return [
        decode_message(message.kind, message.data)
        for message in loaded.messages
        if message.kind in _EVENTS and not replayer.knows_request(message.request_id)
    ]


async def _by_mail(chain: Chain, request: QueryRequest, timeout: float) -> Payload:
    connection = chain.connection
    request_id = secrets.token_hex(16)
    data = encode_message(request)
    record = await chain.record()
    if record.status is not RunStatus.RUNNING:
        raise QueryFailedError(
            f"Run {chain.workflow_id!r} has closed, and this process does not have"
            f" the code of workflow {record.workflow_type!r} to replay it.",
            hint="Import the module that defines it.",
        )
    run_id = await chain.put(MessageKind.QUERY, request_id, data)
    outcome = connection.outcomes.of(run_id)
    try:
        async with asyncio.timeout(timeout):
            while True:
                changed = outcome.changed()
                try:
                    reply = await connection.store.read(ReadReply(run_id, request_id))
                    if reply is not None:
                        break
                    await changed
                finally:
                    outcome.forget(changed)
    except TimeoutError:
        raise NoAnswerError(
            f"No worker has answered query {request.name!r} of run"
            f" {chain.workflow_id!r} within {timeout:g} s.",
            hint="Is a worker with its code running? Or import that code here.",
        ) from None
    await connection.store.perform(DropReplies(keys=((run_id, request_id),)))
    answer = decode_query_reply(reply)
    if answer.failure is not None:
        raise show_remote(exception_of(answer.failure))
    return answer.result or Payload()
