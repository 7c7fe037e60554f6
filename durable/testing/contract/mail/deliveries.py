"""What the store's contract says of messages that commits and starts send along."""

# ruff: noqa: S101 - these assertions are for pytest

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from durable.errors import (
    HistoryTakenError,
    LeaseLostError,
    WorkflowClosedError,
    WorkflowNotFoundError,
)
from durable.options import TERMINATE_EXISTING, USE_EXISTING, IdReusePolicy
from durable.store.queries import FindMailedRuns, FindRun, LoadRuns, ReadMessages
from durable.store.records import Committed, MailArrived, RunStatus, Started, Terminated
from durable.testing.contract.rows import (
    NAMESPACE,
    START,
    make_closing,
    make_commit,
    make_message,
    make_owned,
    make_rows,
    make_start,
    make_termination,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable.store.records import PutMessage, TerminateRun
    from durable.testing.contract.rows import Harness, Opened

    MakeRequest = Callable[..., PutMessage | TerminateRun]


class DeliveryContract:
    """Chains, requests consumed by name, messages sent along."""

    # --- chains -----------------------------------------------------------------------

    @pytest.mark.parametrize("make", [make_message, make_termination])
    async def test_request_for_a_chain_reaches_its_open_run(
        self, store: Opened, make: MakeRequest
    ) -> None:
        await store.together(
            make_owned("r1", workflow_id="wf"),
            make_closing("r1", status=RunStatus.CONTINUED_AS_NEW),
            make_owned("r2", workflow_id="wf", first_run_id="r1"),
        )

        result = await store.perform(make("r2", workflow_id="wf", first_run_id="r1"))

        assert result in ("r2", Terminated(run_id="r2", committed=Committed()))

    @pytest.mark.parametrize("make", [make_message, make_termination])
    async def test_request_for_a_chain_that_has_closed_is_refused(
        self, store: Opened, make: MakeRequest
    ) -> None:
        await store.together(
            make_owned("r1", workflow_id="wf"),
            make_closing("r1", status=RunStatus.CONTINUED_AS_NEW),
            make_owned("r2", workflow_id="wf", first_run_id="r1", started_at=START + 1),
            make_closing("r2"),
        )
        request = make("r1", workflow_id="wf", first_run_id="r1")

        with pytest.raises(WorkflowClosedError, match=r"'r2'.* completed"):
            await store.perform(request)
        # Another chain's open run is not meant.
        await store.perform(make_owned("r3", workflow_id="wf"))
        with pytest.raises(WorkflowClosedError, match=r"'r2'.* completed"):
            await store.perform(request)
        assert await store.waiting("r3") == []

    @pytest.mark.parametrize("make", [make_message, make_termination])
    async def test_request_for_no_chain_is_refused(
        self, store: Opened, make: MakeRequest
    ) -> None:
        await store.together(make_owned("r1"), make_owned("r2"), make_closing("r2"))

        for request in (
            make("r1", first_run_id="r2"),
            make("r1", first_run_id="r0"),
            make("r2", first_run_id="r1"),
            make("r1", run_id="r1", first_run_id="r2"),
        ):
            with pytest.raises(WorkflowNotFoundError, match=request.first_run_id):
                await store.perform(request)
        assert await store.waiting("r1") == []

    # --- consuming --------------------------------------------------------------------

    async def test_commit_consumes_requests_by_name(self, store: Opened) -> None:
        await store.together(
            make_owned("r1"),
            make_owned("r2"),
            *(make_message("r1", name) for name in ("a", "b", "c")),
            make_message("r2", "a"),
        )

        result = await store.perform(
            make_commit("r1", consumed_requests=("c", "a", "unknown"))
        )

        assert result is None
        assert await store.waiting("r1") == ["b"]
        assert await store.waiting("r2") == ["a"]

    async def test_commit_consumes_messages_of_its_own_group(
        self, store: Opened
    ) -> None:
        *_, put, consumed, again = await store.together(
            make_owned("r1"),
            make_message("r1", "a"),
            make_commit("r1", consumed_requests=("a",)),
            make_message("r1", "a"),
        )

        assert (put, consumed, again) == ("r1", None, "r1")
        assert await store.waiting("r1") == ["a"]

    async def test_commit_consumes_more_requests_than_one_statement_takes(
        self, store: Opened
    ) -> None:
        names = [f"q{number}" for number in range(2_500)]
        await store.perform(make_owned("r1"))

        results = await store.together(*(make_message("r1", n) for n in names))

        assert results == ["r1"] * 2_500
        assert await store.waiting("r1") == names
        consumed = tuple(names[1:])
        await store.perform(make_commit("r1", consumed_requests=consumed))
        assert await store.waiting("r1") == ["q0"]

    async def test_closing_sees_the_messages_it_consumes_by_name(
        self, store: Opened
    ) -> None:
        await store.together(
            make_owned("r1"), make_message("r1", "a"), make_message("r1", "b")
        )

        refused = await store.perform(make_closing("r1", consumed_requests=("a",)))

        messages = await store.read(ReadMessages("r1"))
        assert refused == MailArrived(messages=messages[1:])
        assert [message.request_id for message in messages] == ["a", "b"]
        closing = make_closing("r1", consumed_requests=("a", "b"))
        assert await store.perform(closing) is None
        assert await store.waiting("r1") == []

    async def test_queries_never_keep_a_run_open(self, store: Opened) -> None:
        *_, refused, closed = await store.together(
            make_owned("r1"),
            make_owned("r2"),
            make_message("r1", "ask", kind="query"),
            make_message("r1", "a", kind="signal"),
            make_message("r2", "ask", kind="query"),
            make_closing("r1"),
            make_closing("r2"),
        )

        assert [message.request_id for message in refused.messages] == ["a"]
        assert closed is None
        assert await store.waiting("r2") == []
        assert await store.waiting("r1") == ["ask", "a"]

    # --- messages of commits ----------------------------------------------------------

    @pytest.mark.parametrize("is_closing", [False, True])
    async def test_commit_puts_messages_each_with_an_outcome(
        self, harness: Harness, store: Opened, is_closing: bool
    ) -> None:
        await store.together(
            *(make_owned(name) for name in ("r1", "r2", "r3", "done")),
            make_closing("done"),
            make_message("r3", "x"),
        )
        harness.clock.advance(1)
        make: Any = make_closing if is_closing else make_commit

        result = await store.perform(
            make(
                "r1",
                messages=(
                    make_message("r2", "a", kind="child", data='{"a": 1}'),
                    make_message("done", "a"),
                    make_message("r9", "a"),
                    make_message("r3", "x", data='"other"'),
                    make_message("r2", "b", run_id="r2"),
                ),
            )
        )

        assert isinstance(result, Committed)
        assert result == Committed(deliveries=result.deliveries)
        first, closed, missing, again, last = result.deliveries
        assert (first, again, last) == ("r2", "r3", "r2")
        assert isinstance(closed, WorkflowClosedError)
        assert isinstance(missing, WorkflowNotFoundError)
        messages = await store.read(ReadMessages("r2"))
        assert [(m.request_id, m.kind, m.data) for m in messages] == [
            ("a", "child", '{"a": 1}'),
            ("b", "cancel", '{"reason": "enough"}'),
        ]
        assert {m.created_at for m in messages} == {START + 1_000_000}
        (kept,) = await store.read(ReadMessages("r3"))
        assert kept.data == '{"reason": "enough"}'
        loaded = await store.load("r1")
        assert loaded.rows == make_rows("r1", 1, 3)
        assert (loaded.record.status is RunStatus.RUNNING) is not is_closing

    async def test_messages_of_many_commits_keep_their_order(
        self, store: Opened
    ) -> None:
        names = [f"r{number}" for number in range(150)]
        await store.together(make_owned("p"), *(make_owned(name) for name in names))

        results = await store.together(
            *(
                make_closing(name, messages=(make_message("p", name, run_id="p"),))
                for name in names
            ),
            make_commit("p", consumed_requests=tuple(names[:-2])),
        )

        assert results[:-1] == [Committed(deliveries=("p",))] * 150
        assert results[-1] is None
        assert await store.waiting("p") == names[-2:]

    async def test_message_follows_what_its_group_does_to_the_run(
        self, store: Opened
    ) -> None:
        message = make_message("a", "m", workflow_id="wf")

        *outcomes, last = await store.together(
            message,
            make_owned("a", workflow_id="wf"),
            message,
            make_closing("a", consumed_requests=("m",)),
            message,
            make_owned("b", workflow_id="wf"),
            message,
            make_termination("b", workflow_id="wf"),
            message,
            make_owned("c", workflow_id="wf"),
            make_owned("x"),
            make_commit("x", messages=(message,)),
        )

        puts = [outcomes[place] for place in (0, 2, 4, 6, 8)]
        assert isinstance(puts[0], WorkflowNotFoundError)
        assert puts[1] == "a"
        assert isinstance(puts[2], WorkflowClosedError)
        assert puts[3] == "b"
        assert isinstance(puts[4], WorkflowClosedError)
        assert "'b'" in str(puts[4])
        assert last == Committed(deliveries=("c",))
        assert await store.waiting("c") == ["m"]

    async def test_message_follows_what_was_undone_in_its_group(
        self, store: Opened
    ) -> None:
        await store.together(make_owned("r1"), make_owned("r2"))

        before, undone, after = await store.together(
            make_message("r1", "a"),
            make_start(
                "r2",  # which is taken, but r1 is terminated before that shows
                workflow_id="wf-r1",
                request_id="again",
                conflict_policy=TERMINATE_EXISTING,
                terminated_data="{}",
            ),
            make_message("r1", "b"),
        )

        assert (before, after) == ("r1", "r1")
        assert isinstance(undone, HistoryTakenError)
        assert await store.waiting("r1") == ["a", "b"]

    async def test_refused_commit_puts_nothing(self, store: Opened) -> None:
        message = make_message("p", "m")
        await store.together(
            make_owned("p"),
            make_owned("taken"),
            make_owned("mailed"),
            make_start("unowned"),
            make_message("mailed", "x"),
        )

        taken, mailed, unowned = await store.together(
            make_commit("taken", 2, 3, messages=(message,)),
            make_closing("mailed", messages=(message,)),
            make_commit("unowned", messages=(message,), epoch=7),
        )

        assert isinstance(taken, HistoryTakenError)
        assert isinstance(mailed, MailArrived)
        assert isinstance(unowned, HistoryTakenError)
        assert await store.waiting("p") == []

    async def test_commit_without_the_lease_puts_nothing(self, store: Opened) -> None:
        await store.together(make_owned("p"), make_owned("r1"))
        await store.release_worker()

        with pytest.raises(LeaseLostError):
            await store.perform(make_commit("r1", messages=(make_message("p", "m"),)))
        assert await store.waiting("p") == []

    async def test_message_to_the_run_itself_reaches_it_if_it_stays_open(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))
        to_itself = make_message("r1", "m")

        stayed = await store.perform(make_commit("r1", messages=(to_itself,)))

        assert stayed == Committed(deliveries=("r1",))
        assert await store.waiting("r1") == ["m"]
        closed = await store.perform(
            make_closing("r1", 4, 4, consumed_requests=("m",), messages=(to_itself,))
        )
        (refusal,) = closed.deliveries
        assert isinstance(refusal, WorkflowClosedError)
        assert await store.waiting("r1") == []

    # --- messages of starts -----------------------------------------------------------

    @pytest.mark.parametrize("count", [1, 2])
    async def test_start_puts_messages_if_it_creates_the_run(
        self, store: Opened, count: int
    ) -> None:
        await store.perform(make_owned("p"))
        closed: Any = {"status": RunStatus.COMPLETED, "closed_at": START + 1}

        def start(run_id: str, name: str) -> Any:
            messages = (make_message("p", f"{run_id}-{name}"), make_message("none"))
            return make_start(run_id, messages=messages, **closed)

        names = [f"r{number}" for number in range(count)]
        results = await store.together(*(start(name, "new") for name in names))

        for result, name in zip(results, names, strict=True):
            assert (result.run_id, result.created) == (name, True)
            assert result.committed.deliveries[0] == "p"
            assert isinstance(result.committed.deliveries[1], WorkflowNotFoundError)
        again = await store.together(*(start(name, "again") for name in names))
        assert again == [Started(run_id=name, created=False) for name in names]
        assert await store.waiting("p") == [f"{name}-new" for name in names]

    @pytest.mark.parametrize("count", [1, 2])
    async def test_start_may_put_a_message_to_the_open_run_it_meets(
        self, store: Opened, count: int
    ) -> None:
        names = [f"r{number}" for number in range(count)]
        await store.together(*(make_owned(name) for name in names))

        results = await store.together(
            *(
                make_start(
                    f"new-{name}",
                    workflow_id=f"wf-{name}",
                    conflict_policy=USE_EXISTING,
                    # Its own address does not matter.
                    message_if_open=make_message("nobody", "m", kind="signal"),
                )
                for name in names
            )
        )

        assert results == [
            Started(run_id=name, created=False, committed=Committed(deliveries=(name,)))
            for name in names
        ]
        for name in names:
            (message,) = await store.read(ReadMessages(name))
            assert (message.kind, message.request_id) == ("signal", "m")
        assert await store.read(LoadRuns([f"new-{name}" for name in names])) == []

    async def test_messages_of_starts_keep_their_order_among_others(
        self, store: Opened
    ) -> None:
        names = ["a", "b", "c", "d"]
        await store.together(
            *(make_owned(name) for name in names),
            make_owned("failed"),
            make_closing("failed", status=RunStatus.FAILED),
        )

        # Both must be looked at by themselves, and yet send something.
        await store.together(
            make_start(
                "meets-a",
                workflow_id="wf-a",
                conflict_policy=USE_EXISTING,
                message_if_open=make_message("a"),
            ),
            make_message("b"),
        )
        await store.together(
            make_start(
                "after-failed",
                workflow_id="wf-failed",
                reuse_policy=IdReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                messages=(make_message("c"),),
            ),
            make_message("d"),
        )

        assert await store.read(FindMailedRuns(9)) == names

    async def test_start_repeated_puts_its_message_while_the_run_is_open(
        self, store: Opened
    ) -> None:
        start = make_owned("r1", message_if_open=make_message("r1", "m"))

        created = await store.perform(start)

        assert created == Started(run_id="r1", created=True)
        assert await store.waiting("r1") == []
        reminded = Started(
            run_id="r1", created=False, committed=Committed(deliveries=("r1",))
        )
        assert await store.perform(start) == reminded
        assert await store.perform(start) == reminded
        assert await store.waiting("r1") == ["m"]
        await store.perform(make_closing("r1", consumed_requests=("m",)))
        assert await store.perform(start) == Started(run_id="r1", created=False)
        assert await store.waiting("r1") == []

    async def test_run_that_begins_closed_needs_its_id_to_be_free(
        self, store: Opened
    ) -> None:
        await store.perform(make_owned("r1"))
        closed = make_start(
            "r2",
            workflow_id="wf-r1",
            status=RunStatus.COMPLETED,
            closed_at=START,
            conflict_policy=USE_EXISTING,
        )

        assert await store.perform(closed) == Started(run_id="r1", created=False)
        assert await store.read(FindRun(NAMESPACE, "wf-r1", "r2")) is None
