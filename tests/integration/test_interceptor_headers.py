"""Headers that interceptors set: where they come to, and which are refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from durable import (
    Engine,
    Interceptor,
    Next,
    NextPlain,
    SignalWorkflowInput,
    StartActivityInput,
    StartWorkflowInput,
    activity,
    activity_info,
    continue_as_new,
    info,
    run,
    wait_condition,
    workflow,
)
from durable.errors import InvalidCallError
from tests.integration.test_interceptors import DONE, Forgets, Hears, Talk, kid


class Sends(Interceptor):
    """Sends what it was given with all that a client does."""

    def __init__(self, **headers: str) -> None:
        self.headers = headers

    async def start_workflow(
        self, input: StartWorkflowInput, next: Next[StartWorkflowInput]
    ) -> Any:
        input.headers |= self.headers
        return await next(input)

    async def signal_workflow(
        self, input: SignalWorkflowInput, next: Next[SignalWorkflowInput]
    ) -> None:
        input.headers |= self.headers
        await next(input)

    async def query_workflow(self, input: Any, next: Next[Any]) -> Any:
        input.headers |= self.headers
        return await next(input)

    async def start_update(self, input: Any, next: Next[Any]) -> Any:
        input.headers |= self.headers
        return await next(input)


@activity(name="within.told")
async def told() -> dict[str, str]:
    return activity_info().headers


@activity(name="within.told_plain")
def told_plain() -> dict[str, str]:
    return activity_info().headers


@activity(name="within.told_process", run_in="process")
def told_process() -> dict[str, str]:
    return activity_info().headers


@activity(name="within.told_elsewhere", task_queue="elsewhere")
async def told_elsewhere() -> dict[str, str]:
    return activity_info().headers


@workflow(name="within.told_child")
async def told_child() -> dict[str, str]:
    return info().headers


@workflow(name="within.tell_all")
async def tell_all(rounds: int) -> list[dict[str, str]]:
    if rounds:
        continue_as_new(rounds - 1)
    return [
        info().headers,
        await told(),
        await told_plain(),
        await told_process(),
        await told_elsewhere(),
        await told_child(),
    ]


async def test_headers_of_a_start_reach_all_that_the_run_begins(database: str) -> None:
    client = Engine(database, worker=False, interceptors=[Sends(tenant="acme")])
    queues = {"elsewhere": 1}
    async with Engine(database, activity_queues=queues), client:
        told_of = await client.execute(tell_all(1))
        assert told_of == [{"tenant": "acme"}] * 6


class Adds(Interceptor):
    """Changes headers on their way out of workflow code."""

    async def start_activity(
        self, input: StartActivityInput, next: Next[StartActivityInput]
    ) -> Any:
        input.headers |= {"tenant": "", "for": input.activity_type}
        return await next(input)

    def start_child_workflow(self, input: Any, next: NextPlain[Any]) -> Any:
        input.headers |= {"tenant": "", "for": input.workflow_type}
        return next(input)


async def test_workflow_code_adds_headers_and_takes_away_those_of_the_run(
    database: str,
) -> None:
    within = [Sends(tenant="acme"), Adds()]
    queues = {"elsewhere": 1}
    async with Engine(database, activity_queues=queues, interceptors=within) as engine:
        own, *others = await engine.execute(tell_all(0))
        assert own == {"tenant": "acme"}
        names = ["told", "told_plain", "told_process", "told_elsewhere", "told_child"]
        assert others == [{"for": f"within.{name}"} for name in names]


async def test_headers_of_messages_reach_their_handlers_in_another_process(
    tmp_path: Path,
) -> None:
    url, sends, hears = f"sqlite:///{tmp_path}/a.db", Sends(by="ann"), Hears()
    client = Engine(url, worker=False, definitions=[kid], interceptors=[sends])
    async with Engine(url, interceptors=[hears]), client:
        talk = await client.start("within.Talk", 0)
        await talk.signal("hear", "a")
        assert await talk.update("ask", "b") == "B"
        assert await talk.query("heard") == ["a", "b"]
        await talk.signal("hear", "end")
        await talk.result()
    expected = ["hear", "ask", "heard", "hear"]
    assert hears.heard == [(name, {"by": "ann"}) for name in expected]


@workflow(name="within.deaf")
class Deaf:
    @run
    async def run(self, rounds: int) -> str:
        if rounds:
            await DONE.receive()
            continue_as_new(rounds - 1)
        from durable import set_signal_handler

        heard: list[str] = []
        set_signal_handler("word", heard.append)
        await wait_condition(lambda: bool(heard))
        return heard[0]


async def test_headers_of_a_signal_wait_with_it_for_the_run_that_handles_it(
    database: str,
) -> None:
    hears = Hears()
    async with Engine(database, interceptors=[Sends(by="ann"), hears]) as engine:
        deaf = await engine.start(Deaf.run(1))
        await deaf.signal("word", "yes")
        await deaf.signal(DONE(True))
        assert await deaf.result() == "yes"
    assert hears.heard == [("word", {"by": "ann"})]


async def test_a_message_that_comes_with_a_start_has_its_headers() -> None:
    hears = Hears()
    async with Engine("memory://", interceptors=[Sends(by="ann"), hears]) as engine:
        first = await engine.start(Talk.run(0), with_signal=Talk.hear("end"))
        await first.result()
        _, sent = await engine.update_with_start(
            Talk.ask("x"), Talk.run(0), id="second"
        )
        assert await sent.result() == "X"
    assert hears.heard == [("hear", {"by": "ann"}), ("ask", {"by": "ann"})]


async def test_starts_and_signals_in_a_callers_transaction_have_headers(
    tmp_path: Path,
) -> None:
    url, hears = f"sqlite:///{tmp_path}/a.db", Hears()
    within = [Sends(by="ann"), hears]
    database = sa.create_engine(url)
    async with Engine(url, interceptors=within) as engine:
        with database.begin() as connection:
            inside = engine.within(connection)
            started = inside.start(tell_run(), id="told")
            inside.start(Talk.run(0), id="talk")
            inside.signal("talk", Talk.hear("a"))
            inside.update("talk", Talk.ask("b"))
            inside.signal("talk", Talk.hear("end"))
        run_of = await started.started(timeout=20)
        assert await run_of.result() == {"by": "ann"}
        talk = await engine.get("talk")
        await talk.result(timeout=20)
    database.dispose()
    assert (
        sorted(hears.heard) == [("ask", {"by": "ann"})] + [("hear", {"by": "ann"})] * 2
    )


@workflow(name="within.tell_run")
async def tell_run() -> dict[str, str]:
    return info().headers


class Waits(Interceptor):
    async def start_workflow(self, input: Any, next: Next[Any]) -> Any:
        await asyncio.sleep(0)
        return await next(input)


@pytest.mark.parametrize(
    ("wrong", "said"), [(Waits(), "waits in"), (Forgets(), "does not call next")]
)
async def test_interceptor_that_cannot_be_within_a_transaction_is_refused_by_type(
    wrong: Interceptor, said: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    database = sa.create_engine(url)
    async with Engine(url, interceptors=[wrong]) as engine:
        with (
            database.begin() as connection,
            pytest.raises(InvalidCallError, match=said),
        ):
            engine.within(connection).start(tell_run())
    database.dispose()


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"n": 1}, "1\\], which is no text"),
        ({1: "n"}, "1\\], which is no text"),
        ({"n": "\ud800"}, "which is no text"),
        ({"n": "x" * 70_000}, "70,001 bytes, more than 65,536"),
        (["n"], "which is no dict"),
    ],
)
async def test_headers_that_cannot_be_kept_are_refused_before_anything_is_written(
    headers: Any, said: str
) -> None:
    class Wrong(Interceptor):
        async def start_workflow(self, input: Any, next: Next[Any]) -> Any:
            input.headers = headers
            return await next(input)

    async with Engine("memory://", interceptors=[Wrong()]) as engine:
        with pytest.raises(InvalidCallError, match=said):
            await engine.start(tell_run())
        assert await engine.list() == []
