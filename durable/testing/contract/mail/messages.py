"""What the store's contract says of messages and terminations."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from durable import limits
from durable.errors import (
    HistoryTakenError,
    InboxFullError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.store.queries import FindMailedRuns, FindRun, ReadHistory
from durable.store.records import (
    CommitTask,
    Committed,
    MailArrived,
    ReleaseRuns,
    RunStatus,
    Terminated,
)
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_attempt,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_rows,
    make_run,
    make_start,
    make_termination,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable.store.records import PutMessage, TerminateRun
    from durable.testing.contract.rows import Harness, Opened

    MakeRequest = Callable[..., PutMessage | TerminateRun]


class MessageContract:
    """Messages and terminations."""

    async def test_message_reaches_the_inbox_of_the_open_run(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))
        harness.clock.advance(1)

        assert await store.perform(make_message("r1")) == "r1"

        (message,) = (await store.load("r1")).messages
        assert message.sequence > 0
        assert message.run_id == "r1"
        assert message.kind == "cancel"
        assert message.request_id == "cancel-1"
        assert message.data == '{"reason": "enough"}'
        assert message.created_at == START + 1_000_000
        assert await store.read(FindMailedRuns(10)) == ["r1"]

    async def test_message_with_the_same_request_changes_nothing(
        self, store: Opened
    ) -> None:
        _, _, first, again, other, elsewhere = await store.together(
            make_owned("r1"),
            make_owned("r2"),
            make_message("r1"),
            make_message("r1", data="{}"),
            make_message("r1", "cancel-2"),
            make_message("r2"),
        )

        assert [first, again, other, elsewhere] == ["r1", "r1", "r1", "r2"]
        messages = (await store.load("r1")).messages
        assert [message.request_id for message in messages] == ["cancel-1", "cancel-2"]
        assert messages[0].data == '{"reason": "enough"}'
        assert messages[0].sequence < messages[1].sequence

    @pytest.mark.parametrize("together", [False, True])
    async def test_inbox_has_a_bound_that_spares_what_must_arrive(
        self, store: Opened, monkeypatch: pytest.MonkeyPatch, *, together: bool
    ) -> None:
        monkeypatch.setattr(limits, "INBOX_MESSAGES_MAX", 3)
        await store.together(*(make_owned(n) for n in ("r1", "r2")))
        signals = [make_message("r1", f"s{n}", kind="signal") for n in range(5)]
        others = [
            make_message("r1", "s0", kind="signal"),  # it waits already
            make_message("r1", "u", kind="update"),
            make_message("r1", "q", kind="query"),
            make_message("r1", "c", kind="cancel"),
            make_message("r1", "k", kind="child"),
            make_message("r2", "s0", kind="signal"),
        ]
        operations = [*signals, *others]

        done: list[object] = []
        for group in [operations] if together else [[one] for one in operations]:
            sent = map(store.perform, group)
            done += await asyncio.gather(*sent, return_exceptions=True)

        refused = [isinstance(one, InboxFullError) for one in done]
        assert refused[:3] == [False] * 3
        assert refused[3:5] == [True, True]
        assert refused[6:] == [True, True, False, False, False]
        assert refused[5] is False
        waiting = [m.request_id for m in (await store.load("r1")).messages]
        assert waiting == ["s0", "s1", "s2", "c", "k"]
        read = tuple(m.sequence for m in (await store.load("r1")).messages[:3])
        await store.perform(CommitTask(run_id="r1", rows=[], consumed=read))
        assert await store.perform(signals[4]) == "r1"

    @pytest.mark.parametrize("make", [make_message, make_termination])
    async def test_request_for_no_run_is_refused(
        self, store: Opened, make: MakeRequest
    ) -> None:
        await store.perform(make_owned("r1"))

        for operation in (
            make("r2"),
            make("r1", run_id="r2"),
            make("r2", run_id="r1"),
            make("r1", namespace="other"),
        ):
            with pytest.raises(WorkflowNotFoundError, match=operation.workflow_id):
                await store.perform(operation)

    @pytest.mark.parametrize("make", [make_message, make_termination])
    @pytest.mark.parametrize("run_id", [None, "r1"])
    async def test_request_for_a_closed_run_is_refused(
        self, store: Opened, make: MakeRequest, run_id: str | None
    ) -> None:
        await store.perform(make_owned("r1"))
        await store.perform(make_closing("r1"))

        with pytest.raises(WorkflowClosedError, match="completed"):
            await store.perform(make("r1", run_id=run_id))

    async def test_request_without_run_id_means_the_open_run(
        self, store: Opened
    ) -> None:
        await store.perform(
            make_owned("old", workflow_id="wf-r1", started_at=START + 9)
        )
        await store.perform(make_closing("old"))
        await store.perform(make_owned("r1"))

        assert await store.perform(make_message("r1")) == "r1"
        terminated = await store.perform(make_termination("r1", run_id="r1"))
        assert terminated == Terminated(run_id="r1", committed=Committed())

    async def test_closing_is_refused_while_messages_wait(self, store: Opened) -> None:
        _, _, refused = await store.together(
            make_owned("r1"),
            make_message("r1"),
            make_closing("r1", 3, 4, attempts=(make_attempt("r1", 1),)),
        )

        loaded = await store.load("r1")
        assert refused == MailArrived(messages=loaded.messages)
        assert len(loaded.messages) == 1
        assert loaded.record.status is RunStatus.RUNNING
        assert loaded.rows == make_rows("r1", 1, 2)
        assert loaded.attempts == []

    async def test_closing_is_refused_for_the_messages_it_did_not_consume(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("r1"), make_message("r1"), make_message("r1", "cancel-2")
        )
        first, second = (await store.load("r1")).messages

        refused = await store.perform(make_closing("r1", consumed=(first.sequence,)))

        assert refused == MailArrived(messages=[second])
        assert (await store.load("r1")).messages == [first, second]
        consumed = (first.sequence, second.sequence)
        assert await store.perform(make_closing("r1", consumed=consumed)) is None
        loaded = await store.load("r1")
        assert (loaded.record.status, loaded.messages) == (RunStatus.COMPLETED, [])

    async def test_open_commit_consumes_only_what_it_names(self, store: Opened) -> None:
        await store.together(
            make_owned("r1"), make_message("r1"), make_message("r1", "cancel-2")
        )
        first, second = (await store.load("r1")).messages

        await store.perform(make_commit("r1", consumed=(first.sequence,)))

        assert (await store.load("r1")).messages == [second]

    async def test_message_of_one_run_lets_another_close(self, store: Opened) -> None:
        *_, mailed, other = await store.together(
            make_owned("r1"),
            make_owned("r2"),
            make_message("r1"),
            make_closing("r1"),
            make_closing("r2"),
        )

        assert isinstance(mailed, MailArrived)
        assert other is None

    async def test_closing_of_a_run_that_is_not_owned_is_refused_before_mail(
        self, store: Opened
    ) -> None:
        *_, outcome = await store.together(
            make_owned("r1"),
            make_message("r1"),
            ReleaseRuns(run_ids=("r1",)),
            make_closing("r1"),
        )

        assert isinstance(outcome, HistoryTakenError)

    async def test_sequence_is_never_used_again(self, store: Opened) -> None:
        await store.together(make_owned("r1"), make_message("r1"))
        (first,) = (await store.load("r1")).messages
        await store.perform(make_commit("r1", consumed=(first.sequence,)))

        await store.perform(make_message("r1", "cancel-2"))

        (second,) = (await store.load("r1")).messages
        assert second.sequence > first.sequence

    async def test_termination_closes_the_run_whoever_owns_it(
        self, harness: Harness, store: Opened
    ) -> None:
        await store.together(make_owned("r1", wake_at=START), make_message("r1"))
        harness.clock.advance(2)

        terminated = await store.perform(make_termination("r1"))

        assert terminated == Terminated(run_id="r1", committed=Committed())
        loaded = await store.load("r1")
        ended_at = START + 2_000_000
        assert loaded.record == make_run(
            "r1", status=RunStatus.TERMINATED, closed_at=ended_at
        )
        assert loaded.rows[2:] == [
            (
                "r1",
                3,
                3,
                "WorkflowExecutionTerminated",
                ended_at,
                '{"reason": "enough"}',
                0,
            )
        ]
        assert loaded.messages == []

    async def test_termination_is_not_older_than_the_last_event(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))
        late = ("r1", 3, 2, "TimerFired", START + 60_000_000, "{}", 0)
        commit = make_commit("r1", 3, 2)
        commit.rows.append(late)
        await store.perform(commit)

        await store.perform(make_termination("r1"))

        times = [row[4] for row in await store.read(ReadHistory("r1"))]
        assert times == sorted(times)

    async def test_termination_needs_no_lease(self, harness: Harness) -> None:
        store = await harness.open()
        await store.perform(make_start("r1"))

        await store.perform(make_termination("r1"))

        record = await store.read(FindRun(NAMESPACE, "wf-r1"))
        assert record is not None
        assert record.status is RunStatus.TERMINATED
