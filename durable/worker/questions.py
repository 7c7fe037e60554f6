"""Answers who wants to look at a run: of this process, or by its inbox."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from durable.converter.failures import failure_of
from durable.core.messages import QueryReply, decode_message, encode_message
from durable.core.replay.replayer import Replayer
from durable.runs.live_run import LiveRun
from durable.store.records import CommitTask, MessageRecord, ReplyRecord


class Question(msgspec.Struct, eq=False):
    """Stands for somebody in this process who wants to look at a run."""

    ask: Callable[[Replayer], Any]
    answer: asyncio.Future[Any]


def look(run: LiveRun, question: Question) -> None:
    """Let somebody of this process look at a run."""
    answer = question.answer
    if answer.done():
        return
    try:
        answer.set_result((question.ask(run.replayer),))
    except asyncio.CancelledError:
        answer.cancel()
    except BaseException as error:  # noqa: BLE001 - it belongs to the asker
        answer.set_exception(error)


def reply_to(run: LiveRun, message: MessageRecord, epoch: int, now: int) -> CommitTask:
    """What answers a query of another process."""
    try:
        query = decode_message(message.kind, message.data)
        said = QueryReply(
            run.replayer.query(query.name, query.input, query.headers or None)
        )
    except Exception as error:  # noqa: BLE001 - it belongs to the asker
        said = QueryReply(failure=failure_of(error))
    reply = ReplyRecord(
        run_id=run.run_id,
        request_id=message.request_id,
        data=encode_message(said),
        created_at=now,
    )
    return CommitTask(
        run_id=run.run_id,
        rows=[],
        epoch=epoch,
        consumed=(message.sequence,),
        replies=(reply,),
    )
