"""What follows on an attempt of which nobody knows what it has done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from durable import (
    Activity,
    ActivityError,
    ActivityNotFoundError,
    ActivityState,
    ApplicationError,
    DefinitionError,
    Done,
    ExecuteActivityInput,
    Handle,
    Interceptor,
    Next,
    NotDone,
    RetryPolicy,
    WorkflowFailedError,
    activity,
    activity_info,
    activity_method,
    resource,
    workflow,
)
from durable.api.definitions import ACTIVITIES
from durable.api.registry import REGISTRY
from durable.doctor.doctor import examine
from durable.errors import InvalidCallError, InvalidOptionError
from durable.testing import TestEnvironment
from tests.unit.cli.invoking import invoke

TWICE = RetryPolicy(max_attempts=2, initial_interval="1s", max_interval="1s")
CALLED: list[str] = []
VERDICTS: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_yet() -> None:
    CALLED[:], VERDICTS[:] = [], []


async def hang(n: int) -> str:
    """Take too long at the first attempt."""
    CALLED.append(f"ran {activity_info().attempt}")
    if activity_info().attempt == 1:
        await asyncio.sleep(50)
    return f"{n} by attempt {activity_info().attempt}"


async def verify(n: int) -> object:
    CALLED.append(f"verified by {activity_info().attempt}")
    verdict = VERDICTS.pop(0)
    if isinstance(verdict, BaseException):
        raise verdict
    if verdict == "hangs":
        await asyncio.sleep(50)
    return verdict


def verify_plainly(n: int) -> object:
    CALLED.append(f"verified {activity_info().idempotency_key[-2:]}")
    return Done(f"{n} was done")


def define(name: str, **options: Any) -> Activity[[int], str]:
    options = {"start_to_close_timeout": 1, "retry": TWICE, **options}
    made: Activity[[int], str] = activity(name=f"effects.{name}", **options)(hang)
    return made


waits = define("waits", effect="once", in_doubt="wait")
raises = define("raises", effect="once")
repeats = define("repeats")
asks = define("asks", effect="once", verify=verify)
asks_plainly = define("asks_plainly", effect="once", verify=verify_plainly)
asks_then_waits = define(
    "asks_then_waits", effect="once", verify=verify, in_doubt="wait"
)
ALL = {
    one.name.rpartition(".")[2]: one
    for one in (waits, raises, repeats, asks, asks_plainly, asks_then_waits)
}


@workflow(name="effects.run")
async def run(name: str, queue: str = "default", whole: float | None = None) -> str:
    chosen = ALL[name].options(task_queue=queue, schedule_to_close_timeout=whole)
    try:
        return await chosen(7)
    except ActivityError as error:
        return f"{type(error).__name__} of attempt {error.attempt}: {error.__cause__}"


def home(database: str = "memory://", **options: Any) -> TestEnvironment:
    return TestEnvironment(
        database,
        definitions=[run, *ALL.values()],
        activity_queues={"gpu": 4},
        **options,
    )


QUEUES = pytest.mark.parametrize("queue", ["default", "gpu"])


async def in_doubt(env: TestEnvironment, name: str, queue: str) -> Handle[str]:
    handle = await env.start(run(name, queue), id="w")
    await env.sleep(20)
    (found,) = await handle.activities()
    assert found.state is ActivityState.IN_DOUBT
    assert found.last_failure is not None
    assert "nobody knows" in found.last_failure.message
    return handle


# --- whose time is up -----------------------------------------------------------------


@QUEUES
async def test_once_is_not_repeated_after_its_timeout(queue: str) -> None:
    async with home() as env:
        said = await env.execute(run("raises", queue))
        assert said.startswith("OutcomeUnknown of attempt 1")
        assert await env.execute(run("repeats", queue)) == "7 by attempt 2"
    assert CALLED == ["ran 1", "ran 1", "ran 2"]


@QUEUES
@pytest.mark.parametrize(
    ("verdicts", "said", "called"),
    [
        ([Done("found")], "found", ["verified by 2"]),
        ([NotDone()], "7 by attempt 2", ["verified by 2", "ran 2"]),
        (
            [ConnectionError("away"), Done("late")],
            "late",
            ["verified by 2", "verified by 3"],
        ),
        (
            [ConnectionError("away"), NotDone()],
            "7 by attempt 3",
            ["verified by 2", "verified by 3", "ran 3"],
        ),
        (["hangs", Done("late")], "late", ["verified by 2", "verified by 3"]),
        (
            ["hangs", NotDone()],
            "7 by attempt 3",
            ["verified by 2", "verified by 3", "ran 3"],
        ),
    ],
)
async def test_what_verify_says_counts(
    queue: str, verdicts: list[Any], said: str, called: list[str]
) -> None:
    VERDICTS.extend(verdicts)
    policy = RetryPolicy(max_attempts=3, initial_interval=1)

    @workflow(name="effects.verified")
    async def verified() -> str:
        return await asks.options(task_queue=queue, retry=policy)(7)

    known = [verified, asks]
    async with TestEnvironment(definitions=known, activity_queues={"gpu": 1}) as env:
        assert await env.execute(verified()) == said
    assert ["ran 1", *called] == CALLED


@pytest.mark.parametrize(
    ("verdict", "why"),
    [
        (ConnectionError("away"), "(ConnectionError: away)"),
        ("a text", "has returned 'a text'"),
        (SystemExit(3), "(SystemExit: 3)"),
        (asyncio.CancelledError("by nobody"), "(CancelledError: by nobody)"),
        ("hangs", "(TimeoutError: it has not answered when its start_to_close_timeout"),
    ],
    ids=["raises", "says nothing", "exits", "is cancelled", "hangs"],
)
async def test_a_verify_that_never_knows_leaves_it_in_doubt(
    verdict: object, why: str
) -> None:
    VERDICTS.extend([verdict] * 8)
    async with home() as env:
        said = await env.execute(run("asks"))
        assert said.startswith("OutcomeUnknown of attempt 2")
        assert "could not tell what it did (" in said
        assert why in said
        await in_doubt(env, "asks_then_waits", "gpu")
    assert CALLED.count("ran 1") == 2
    assert {"ran 2", "ran 3"}.isdisjoint(CALLED)


class Moody(Interceptor):
    """Fails before the verdict."""

    async def execute_activity(
        self, input: ExecuteActivityInput, next: Next[ExecuteActivityInput]
    ) -> Any:
        if input.info.attempt == 2:
            raise ConnectionError("no context")
        return await next(input)


@QUEUES
async def test_what_fails_around_verify_leaves_it_in_doubt(queue: str) -> None:
    VERDICTS.append(Done("found"))
    policy = RetryPolicy(max_attempts=3, initial_interval=1)
    asked = asks.options(task_queue=queue, retry=policy)

    @workflow(name="effects.surrounded")
    async def surrounded() -> str:
        return await asked(7)

    async with TestEnvironment(
        definitions=[surrounded, asks],
        activity_queues={"gpu": 1},
        interceptors=[Moody()],
    ) as env:
        assert await env.execute(surrounded()) == "found"
    assert CALLED == ["ran 1", "verified by 3"]


@QUEUES
async def test_code_that_has_lost_its_verify_does_not_run_instead(
    tmp_path: Any, queue: str
) -> None:
    @workflow(name="effects.mended")
    async def mended() -> str:
        return await asks.options(task_queue=queue)(7)

    url = f"sqlite:///{tmp_path / 'runs.db'}"
    options: Any = {"activity_queues": {"gpu": 1}, "drain_timeout": "1ms"}
    async with TestEnvironment(url, definitions=[mended, asks], **options) as env:
        await env.start(mended(), id="w")
        await env.sleep(0.5)
    without: Activity[[int], str] = Activity(hang, asks.name, asks.given_options)
    later = TestEnvironment(
        url, definitions=[mended, without], clock=env.clock, **options
    )
    async with later as env:
        with pytest.raises(WorkflowFailedError, match="has no verify in the code"):
            await (await env.get("w")).result()
    assert CALLED == ["ran 1"]


class Post:
    """An object whose methods are activities, and verify."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def find(self, n: int, *, book: str = resource("book")) -> Done[str]:
        return Done(f"{n} was in {book} of {self.name}")

    @activity_method(name="effects.look")
    async def look(self, n: int) -> Done[str]:
        return Done(f"{n} was seen by {self.name}")

    @activity_method(
        name="effects.send", effect="once", verify=find, start_to_close_timeout=1
    )
    async def send(self, n: int) -> str:
        return await hang(n)

    @activity_method(
        name="effects.resend", effect="once", verify=look, start_to_close_timeout=1
    )
    async def resend(self, n: int) -> str:
        return await hang(n)


# An engine of another test would lack their resources.
for _name in ("effects.look", "effects.send", "effects.resend"):
    del REGISTRY.activities[_name]


async def test_methods_are_verified_by_methods_which_have_their_resources() -> None:
    @workflow(name="effects.posted")
    async def posted() -> list[str]:
        return [await Post.send(1), await Post.resend(2)]

    given: dict[Any, object] = {Post: Post("ann"), "book": "a book"}
    async with TestEnvironment(
        definitions=[posted, Post.send, Post.resend], resources=given
    ) as env:
        assert await env.execute(posted()) == [
            "1 was in a book of ann",
            "2 was seen by ann",
        ]
    assert CALLED == ["ran 1", "ran 1"]


async def test_a_plain_verify_has_the_key() -> None:
    async with home() as env:
        assert await env.execute(run("asks_plainly")) == "7 was done"
    assert CALLED == ["ran 1", "verified /1"]


# --- operators ------------------------------------------------------------------------


@QUEUES
@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        (Done("by hand"), "by hand"),
        (NotDone(), "7 by attempt 2"),
    ],
)
async def test_what_an_operator_says_counts_once(
    queue: str, verdict: Done[str] | NotDone, said: str
) -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", queue)
        (found,) = await env.activities.list()
        assert found.in_doubt
        resolve = env.activities.resolve
        await resolve(verdict, workflow_id="w", activity_id="1")
        assert await handle.result() == said
        with pytest.raises(ActivityNotFoundError):
            await resolve(verdict, workflow_id="w", activity_id="1")


async def test_an_operator_lets_it_fail_for_good() -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", "default")
        with pytest.raises(InvalidCallError, match="says nothing"):
            await env.activities.resolve(
                "done",  # type: ignore[arg-type]  # that is the point
                workflow_id="w",
                activity_id="1",
            )
        await handle.fail_activity("1", ApplicationError("refunded", type="Refunded"))
        with pytest.raises(Exception, match="refunded"):
            await handle.result()
    assert CALLED == ["ran 1"]


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda of: of.complete_activity("1", "given"), "given"),
        (lambda of: of.retry_activity("1"), "7 by attempt 2"),
    ],
)
async def test_handles_resolve_doubts_as_they_do_results(
    act: Callable[[Handle[str]], Any], said: str
) -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", "default")
        await act(handle)
        assert await handle.result() == said


async def test_what_is_not_in_doubt_is_not_resolved() -> None:
    async with home(worker=False) as env:
        await env.start(run("waits", "gpu"), id="w")
        with pytest.raises(ActivityNotFoundError):
            await env.activities.resolve(NotDone(), workflow_id="w", activity_id="1")
    async with home(worker=True) as env:
        await env.start(run("waits", "elsewhere"), id="w")
        await env.settle()
        with pytest.raises(InvalidCallError, match="not in doubt: it is waiting"):
            await env.activities.resolve(NotDone(), workflow_id="w", activity_id="1")


@QUEUES
async def test_one_in_doubt_ends_with_its_run_and_its_time(queue: str) -> None:
    async with home() as env:
        handle = await in_doubt(env, "waits", queue)
        await handle.cancel()
        with pytest.raises(Exception, match="cancel"):
            await handle.result()
        assert await env.activities.list() == []
        said = await env.execute(run("waits", queue, 30))
        assert said.startswith("ActivityTimeoutError")
    assert CALLED == ["ran 1", "ran 1"]


# --- a worker that stops --------------------------------------------------------------


@QUEUES
async def test_a_doubt_waits_for_an_operator_over_restarts_and_is_told_everywhere(
    tmp_path: Any, queue: str
) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    patient = waits.options(task_queue=queue, start_to_close_timeout=60)

    @workflow(name="effects.patient")
    async def wait() -> str:
        return await patient(7)

    known = [wait, waits]
    options: Any = {"definitions": known, "activity_queues": {"gpu": 1}}
    async with TestEnvironment(url, drain_timeout="1ms", **options) as env:
        await env.start(wait(), id="w")
        await env.sleep(1)
    for _ in range(2):
        async with TestEnvironment(url, clock=env.clock, **options) as env:
            await env.settle()
            (found,) = await (await env.get("w")).activities()
            assert found.state is ActivityState.IN_DOUBT
            findings = [f async for f in examine(env._store, settle=0)]
            assert "in_doubt" in [f.check.value for f in findings]
    assert CALLED == ["ran 1"]
    where = ("--database", url)
    shown = await asyncio.to_thread(invoke, *where, "show", "w")
    typed = "durable resolve w 1 --result JSON"
    assert "in doubt" in shown.output
    assert typed in shown.output
    listed = await asyncio.to_thread(invoke, *where, "activity", "list", "--in-doubt")
    assert "in doubt" in listed.output
    assert typed in listed.stderr
    for said in (["--stuck"], ["--status", "stuck"]):
        stuck = await asyncio.to_thread(invoke, *where, "list", *said)
        assert "1 in doubt" in stuck.stderr
    assert "in doubt" not in (await asyncio.to_thread(invoke, *where, "list")).stderr
    wrong = await asyncio.to_thread(
        invoke, *where, "resolve", "w", "1", "--not-done", "--fail", "no"
    )
    assert wrong.exit_code == 2
    done = await asyncio.to_thread(
        invoke, *where, "resolve", "w", "1", "--result", '"by hand"'
    )
    assert done.exit_code == 0, done.output
    none = await asyncio.to_thread(invoke, *where, "activity", "list", "--in-doubt")
    assert "no activity is in doubt" in none.stderr
    async with TestEnvironment(url, clock=env.clock, **options) as env:
        assert await (await env.get("w")).result() == "by hand"


# --- definitions ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"effect": "twice"}, InvalidOptionError, "give 'read', 'idempotent', 'once'"),
        ({"effect": "once", "in_doubt": "ask"}, InvalidOptionError, "'raise', 'wait'"),
        ({"in_doubt": "wait"}, InvalidOptionError, "never in question"),
        ({"verify": verify}, InvalidOptionError, "ever verified"),
        ({"effect": "once", "verify": 3}, DefinitionError, "cannot be called"),
        ({"effect": "once", "verify": lambda: Done("")}, DefinitionError, "too many"),
        ({"effect": "once", "verify": Post.find}, DefinitionError, "missing .* 'n'"),
    ],
)
def test_what_means_nothing_is_refused(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        activity(name="effects.no", **options)(hang)
    ACTIVITIES.pop("effects.no", None)
