"""Interceptors: what they surround, in which order, and what they may break."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from durable import (
    ApplicationError,
    Engine,
    ExecuteActivityInput,
    ExecuteWorkflowInput,
    HandleQueryInput,
    HandleSignalInput,
    HandleUpdateInput,
    Interceptor,
    Next,
    NextPlain,
    NondeterminismError,
    RetryPolicy,
    Signal,
    StartActivityInput,
    WorkflowFailedError,
    WorkflowStuckError,
    activity,
    continue_as_new,
    external,
    query,
    run,
    signal,
    update,
    wait_condition,
    workflow,
)
from durable.api.interceptors.chains import NO_INTERCEPTORS
from durable.converter import json
from durable.core.history.events import ActivityTaskScheduled
from durable.errors import InvalidCallError, InvalidOptionError
from durable.testing import (
    Driver,
    TestEnvironment,
    dump_history,
    replay,
    replay_at_every_prefix,
)

RAN: list[str] = []
DONE = Signal("done", bool)


@pytest.fixture(autouse=True)
def _fresh() -> None:
    RAN.clear()


@activity(name="within.double", retry=RetryPolicy(initial_interval=0.01))
async def double(n: int) -> int:
    RAN.append("double")
    return 2 * n


@activity(name="within.double_plain")
def double_plain(n: int) -> int:
    return 2 * n


@activity(name="within.double_process", run_in="process")
def double_process(n: int) -> int:
    return 2 * n


@workflow(name="within.kid")
async def kid(n: int) -> int:
    return await double(n)


@workflow(name="within.single")
async def single(n: int) -> int:
    return await double(n)


@workflow(name="within.Talk")
class Talk:
    def __init__(self) -> None:
        self.seen: list[str] = []

    @signal
    def hear(self, word: str) -> None:
        self.seen.append(word)

    @query
    def heard(self) -> list[str]:
        return self.seen

    @update
    async def ask(self, word: str) -> str:
        self.seen.append(word)
        return word.upper()

    @run
    async def run(self, rounds: int) -> list[str]:
        if rounds:
            self.seen.append(str(await kid(rounds)))
            await external("friend").signal(DONE(True))
            continue_as_new(rounds - 1)
        await wait_condition(lambda: "end" in self.seen)
        return self.seen


@workflow(name="within.friend")
async def friend() -> bool:
    return await DONE.receive()


def _noting(name: str) -> Callable[..., Any]:
    plain = name in ("handle_query", "start_child_workflow", "continue_as_new")

    def note(self: Any, input: Any, next: Callable[[Any], Any]) -> Any:
        self.log.append(f"{self.name} {name}")
        return next(input)

    async def note_async(self: Any, input: Any, next: Callable[[Any], Any]) -> Any:
        self.log.append(f"{self.name} {name}")
        return await next(input)

    return note if plain else note_async


class _Noting(Interceptor):
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log


METHODS = [name for name in vars(Interceptor) if not name.startswith("_")]
for _name in METHODS:
    setattr(_Noting, _name, _noting(_name))


async def test_first_is_the_outermost_and_each_call_passes_all_of_them(
    database: str,
) -> None:
    log: list[str] = []
    both = [_Noting("outer", log), _Noting("inner", log)]
    async with Engine(database, interceptors=both) as engine:
        other = await engine.start(friend(), id="friend")
        talk = await engine.start(Talk.run(1), id="talk")
        assert await other.result() is True
        await talk.signal(Talk.hear("a"))
        assert await talk.update(Talk.ask("b")) == "B"
        assert await talk.query(Talk.heard()) == ["a", "b"]
        await talk.signal(Talk.hear("end"))
        assert await talk.result() == ["a", "b", "end"]
        doomed = await engine.start(Talk.run(0))
        await doomed.cancel()
        late = await engine.start(Talk.run(0))
        await late.terminate()
    assert set(log) == {
        f"{who} {what}" for who in ("outer", "inner") for what in METHODS
    }
    for at in range(0, len(log), 2):
        outer, inner = (one.split() for one in log[at : at + 2])
        if outer[1] == inner[1]:
            assert (outer[0], inner[0]) == ("outer", "inner")
    # Those of workflow code pass again when a run is replayed, for a query perhaps.
    assert log.count("inner handle_signal") >= 2
    assert log.count("inner execute_workflow") >= 6  # with that of the next run
    assert log.count("inner start_workflow") == 4
    assert log.count("inner execute_activity") == 1


class Hears(Interceptor):
    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, str]]] = []

    async def handle_signal(
        self, input: HandleSignalInput, next: Next[HandleSignalInput]
    ) -> None:
        self.heard.append((input.signal_name, input.headers))
        await next(input)

    def handle_query(
        self, input: HandleQueryInput, next: NextPlain[HandleQueryInput]
    ) -> Any:
        self.heard.append((input.query_name, input.headers))
        return next(input)

    async def handle_update(
        self, input: HandleUpdateInput, next: Next[HandleUpdateInput]
    ) -> Any:
        self.heard.append((input.update_name, input.headers))
        return await next(input)


class Forgets(Interceptor):
    async def start_workflow(self, input: Any, next: Next[Any]) -> Any: ...


# --- what they change, and what they break --------------------------------------------


class Plus(Interceptor):
    """Changes arguments and results."""

    async def execute_activity(
        self, input: ExecuteActivityInput, next: Next[ExecuteActivityInput]
    ) -> Any:
        input.args[0] += 1
        return await next(input) + 100

    async def execute_workflow(
        self, input: ExecuteWorkflowInput, next: Next[ExecuteWorkflowInput]
    ) -> Any:
        input.args[0] += 10
        return await next(input) + 1_000


@workflow(name="within.all_kinds")
async def all_kinds(n: int) -> int:
    return await double(n) + await double_plain(n) + await double_process(n)


async def test_values_are_seen_and_changed_in_activities_of_all_kinds(
    database: str,
) -> None:
    async with Engine(database, interceptors=[Plus()]) as engine:
        assert await engine.execute(all_kinds(1)) == 3 * (2 * (11 + 1) + 100) + 1_000


class Raises(Interceptor):
    def __init__(self, method: str, error: BaseException, times: int = 99) -> None:
        self.method, self.error, self.times = method, error, times

    async def _raise(self, method: str, input: Any, next: Next[Any]) -> Any:
        if method == self.method and self.times:
            self.times -= 1
            raise self.error
        return await next(input)

    async def start_workflow(self, input: Any, next: Next[Any]) -> Any:
        return await self._raise("start_workflow", input, next)

    async def execute_workflow(self, input: Any, next: Next[Any]) -> Any:
        return await self._raise("execute_workflow", input, next)

    async def start_activity(self, input: Any, next: Next[Any]) -> Any:
        return await self._raise("start_activity", input, next)

    async def execute_activity(self, input: Any, next: Next[Any]) -> Any:
        return await self._raise("execute_activity", input, next)


def _raising(method: str, error: BaseException, times: int = 99) -> Engine:
    within = [Raises(method, error, times)]
    return Engine("memory://", interceptors=within, workflow_task_attempts=1)


async def test_what_a_clients_interceptor_raises_reaches_its_caller() -> None:
    async with _raising("start_workflow", PermissionError("not you")) as engine:
        with pytest.raises(PermissionError, match="not you"):
            await engine.start(single(1))
        assert await engine.list() == []


@pytest.mark.parametrize("method", ["execute_workflow", "start_activity"])
async def test_bug_of_an_interceptor_parks_the_run_and_its_error_fails_it(
    method: str,
) -> None:
    async with _raising(method, KeyError("a bug")) as engine:
        with pytest.raises(WorkflowStuckError, match="a bug"):
            await engine.execute(single(1))
    async with _raising(method, ApplicationError("refused")) as engine:
        with pytest.raises(WorkflowFailedError) as raised:
            await engine.execute(single(1))
        assert str(raised.value.__cause__) == "refused"
    assert RAN == []


async def test_what_an_activitys_interceptor_raises_is_that_attempts_failure() -> None:
    async with _raising("execute_activity", KeyError("once"), times=1) as engine:
        handle = await engine.start(single(1))
        assert await handle.result() == 2
        failed = (await handle.attempts())[0]
        assert failed.failure is not None
        assert "KeyError" in failed.failure
    assert RAN == ["double"]


class Translates(Interceptor):
    async def execute_activity(self, input: Any, next: Next[Any]) -> Any:
        try:
            return await next(input)
        except Exception as error:
            raise ApplicationError("translated") from error


@activity(name="within.unfit", retry=None)
async def unfit() -> int:
    return "no number"  # type: ignore[return-value]  # the test


@activity(name="within.fails", retry=None)
async def fails() -> int:
    raise KeyError("its own")


@workflow(name="within.call_unfit")
async def call_unfit(is_bug: bool) -> int:
    return await (unfit() if is_bug else fails())


async def test_translated_failures_are_those_of_the_function_and_bugs_stay_bugs() -> (
    None
):
    options: Any = {"interceptors": [Translates()], "workflow_task_attempts": 1}
    async with Engine("memory://", **options) as engine:
        with pytest.raises(WorkflowFailedError) as raised:
            await engine.execute(call_unfit(False))
        assert "translated" in str(raised.value.__cause__)
        with pytest.raises(WorkflowStuckError, match=r"no number|int"):
            await engine.execute(call_unfit(True))


class Silent(Interceptor):
    def __init__(self, method: str) -> None:
        self.method = method

    async def start_activity(self, input: Any, next: Next[Any]) -> Any:
        result = await next(input)
        return None if self.method == "start_activity" else result

    def start_child_workflow(self, input: Any, next: NextPlain[Any]) -> Any:
        child = next(input)
        return None if self.method == "start_child_workflow" else child

    def continue_as_new(self, input: Any, next: NextPlain[Any]) -> Any:
        return None if self.method == "continue_as_new" else next(input)


@pytest.mark.parametrize(
    "method", ["start_activity", "start_child_workflow", "continue_as_new"]
)
async def test_interceptor_that_gives_nothing_on_is_told_so(method: str) -> None:
    within = [Silent(method)]
    async with Engine(
        "memory://", interceptors=within, workflow_task_attempts=1
    ) as engine:
        await engine.start(friend(), id="friend")
        call: Any = single(1) if method == "start_activity" else Talk.run(1)
        with pytest.raises(WorkflowStuckError, match=rf"interceptor's {method}\(\)"):
            await engine.execute(call)


async def test_a_start_without_its_handle_is_told_so() -> None:
    async with Engine("memory://", interceptors=[Forgets()]) as engine:
        with pytest.raises(InvalidCallError, match=r"start_workflow\(\) returned None"):
            await engine.start(single(1))


@pytest.mark.parametrize("wrong", [[object()], Plus(), [Plus], 5])
def test_what_is_no_interceptor_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOptionError, match="interceptors has"):
        Engine("memory://", interceptors=wrong)


def test_without_interceptors_there_is_nothing_to_pass() -> None:
    assert NO_INTERCEPTORS.around("start_workflow", print) is print
    assert not NO_INTERCEPTORS.of_workflows


# --- replay ---------------------------------------------------------------------------


class Marks(Interceptor):
    """Sends another header each time, and perhaps another argument."""

    def __init__(self, mark: str, more: int = 0) -> None:
        self.mark, self.more = mark, more

    async def start_activity(
        self, input: StartActivityInput, next: Next[StartActivityInput]
    ) -> Any:
        input.headers["mark"] = self.mark
        if self.more:
            value = input.args[0] + self.more
            input.input = (json.encode(value, int, "an argument"),)
        return await next(input)


async def test_replay_does_not_compare_headers_and_does_compare_arguments() -> None:
    async with Engine("memory://", interceptors=[Marks("old")]) as engine:
        handle = await engine.start(single(1))
        await handle.result()
        history = dump_history(await handle.history())
        scheduled = (await handle.history())[1].attributes
    assert isinstance(scheduled, ActivityTaskScheduled)
    assert scheduled.headers == {"mark": "old"}
    for others in ([], [Marks("new")]):
        replay_at_every_prefix(history, [single], interceptors=others)
    with pytest.raises(NondeterminismError, match="argument"):
        replay(history, [single], interceptors=[Marks("new", more=1)])


async def test_run_that_left_memory_goes_on_within_its_interceptors(
    database: str,
) -> None:
    hears = Hears()
    async with Engine(
        database, interceptors=[Plus(), hears], max_cached_runs=1
    ) as engine:
        waiting = [await engine.start(Half.run(n)) for n in range(4)]
        for handle in waiting:
            await handle.signal(Half.go())
        assert [await handle.result() for handle in waiting] == [
            2 * (n + 10 + 1) + 100 + 1_000 for n in range(4)
        ]
    assert len(hears.heard) >= 4


@workflow(name="within.Half")
class Half:
    def __init__(self) -> None:
        self.may_go = False

    @signal
    async def go(self) -> None:
        self.may_go = True

    @run
    async def run(self, n: int) -> int:
        result = await double(n)
        await wait_condition(lambda: self.may_go)
        return result


async def test_virtual_time_has_them_too() -> None:
    async with TestEnvironment(
        interceptors=[Plus()], mocks={double: lambda n: -n}
    ) as env:
        assert await env.execute(single(1)) == -12 + 100 + 1_000


def test_a_test_that_drives_a_run_by_hand_has_them_too() -> None:
    driver = Driver(single(1), interceptors=[Marks("by hand")])
    driver.start()
    scheduled = driver.history[-1].attributes
    assert isinstance(scheduled, ActivityTaskScheduled)
    assert scheduled.headers == {"mark": "by hand"}
    driver.crash()
    driver.complete(driver.pending[0], 2)
    assert driver.result() == 2
