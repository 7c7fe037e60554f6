"""F1: whatever is given to the public face is taken, or refused by an error of ours."""

import asyncio
import contextlib
import enum
import inspect
import itertools
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable import (
    Attribute,
    Engine,
    Handle,
    RetryBudget,
    RetryPolicy,
    Signal,
    activity,
    workflow,
)
from durable.api.definitions import ACTIVITIES, WORKFLOWS
from durable.api.workflows.child_options import ChildOptions
from durable.api.workflows.versioning import VERSIONS, WorkflowOptions
from durable.client.start_options import StartOptions
from durable.errors import DurableError
from durable.options import ActivityOptions
from durable.schedules.schedules import CreateOptions
from tests.sizes import examples

SECONDS_MAX = 10.0
"""No call of these waits for anything that long."""


class Choice(enum.Enum):
    ONE = 1


def plain() -> None:
    """A function that is no activity."""


STRANGE: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, 10**400, -(10**400)),
    *(0.0, -0.5, 1e308, math.nan, math.inf, -math.inf, 1e-320, 1j),
    *("", " ", "x", "1s", "-1s", "9" * 400 + "s", "1e5s", "\0", "\ud800", "a\nb"),
    *("ä" * 300, "x" * 3_000, "@daily", "2.0", "CloseTime < 5", "{}", "../x"),
    *(b"", b"x", bytearray(b"x"), timedelta(-1), timedelta.max, timedelta(0)),
    *(
        datetime.max.replace(tzinfo=UTC),
        datetime.now(UTC),
        date(2030, 1, 1),
        Decimal("1.5"),
    ),
    *([], [1], ["x"], [str], {}, {"a": 1}, {1: 2}, {"\ud800": 1}, (), (1,), ("x",)),
    *(set(), {1}, Decimal("NaN"), Decimal("1.5"), int, ValueError, Choice.ONE, plain),
    *(..., asyncio.Event, range(3), iter([1])),
]
leaves = st.one_of(
    *(st.integers(), st.floats(), st.text(), st.binary(), st.none(), st.timedeltas()),
    *(st.datetimes(), st.decimals(), st.characters(categories=["Cs", "Cc", "Cf"])),
)
values = st.sampled_from(STRANGE) | st.recursive(
    leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
Given = Callable[..., object]


@activity(name="any_input.double")
async def double(number: int = 0) -> int:
    return 2 * number


@workflow(name="any_input.doubled")
async def doubled(number: int = 0) -> int:
    return await double(number)


@workflow(name="any_input.waits")
async def waits() -> None:
    await Signal("any_input.go", int).receive()


async def free(number: int = 0) -> int:
    return number


def options_of(kind: object) -> Iterable[str]:
    return get_type_hints(kind)


def parameters_of(function: Any) -> Iterable[str]:
    signature = inspect.signature(function)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [each.name for each in signature.parameters.values() if each.kind is kind]


# --- what needs no engine -------------------------------------------------------------


def decorated(decorate: Any, option: str) -> Given:
    def decorate_with(value: object) -> None:
        before = [{**known} for known in KNOWN]
        try:
            decorate(**{"name": "any_input.free", option: value})(free)
        finally:
            for known, was in zip(KNOWN, before, strict=True):
                known.clear()
                known.update(was)

    return decorate_with


KNOWN: list[dict[Any, Any]] = [ACTIVITIES, WORKFLOWS, VERSIONS]
KINDS = {"verify", "retry_budget", "dynamic", "compensate", "run_in", "name"}
ALONE: dict[str, Given] = {
    **{
        f"RetryPolicy({name})": lambda value, name=name: RetryPolicy(**{name: value})
        for name in parameters_of(RetryPolicy)
    },
    **{
        f"RetryBudget({name})": lambda value, name=name: RetryBudget(**{name: value})
        for name in parameters_of(RetryBudget)
    },
    **{
        f"activity({name})": decorated(activity, name)
        for name in sorted({*options_of(ActivityOptions)} | KINDS)
    },
    **{
        f"workflow({name})": decorated(workflow, name)
        for name in sorted({*options_of(WorkflowOptions), "name"})
    },
    **{
        f"child.options({name})": lambda value, name=name: doubled.options(
            **{name: value}
        )
        for name in options_of(ChildOptions)
    },
    "Signal(name)": lambda value: Signal(value, int),
    "Attribute(name)": lambda value: Attribute(value, int),
    "Attribute(type)": lambda value: Attribute("kind", value),
    "Engine(definitions)": lambda value: Engine("memory://", definitions=value),
    **{
        f"Engine({name})": lambda value, name=name: Engine("memory://", **{name: value})
        for name in parameters_of(Engine)
        if name != "definitions"
    },
}


@pytest.mark.parametrize("target", ALONE)
def test_what_is_wrong_is_refused_where_it_is_written(target: str) -> None:
    given = ALONE[target]
    for value in STRANGE:
        with contextlib.suppress(DurableError):
            given(value)


# --- what an engine is asked for ------------------------------------------------------


class Asked:
    """An engine with an open run and one that is closed."""

    def __init__(self, engine: Engine, opened: Handle[Any], closed: Handle[Any]):
        self.engine, self.open, self.closed = engine, opened, closed


Ask = Callable[[Asked, Any], object]


def start_with(option: str) -> Ask:
    return lambda of, value: of.engine.start(doubled(1), **{option: value})


def start_activity_with(option: str) -> Ask:
    return lambda of, value: of.engine.start_activity(
        double.options(**{option: value})(1)
    )


def schedule_with(option: str) -> Ask:
    return lambda of, value: of.engine.schedules.create(
        "any", doubled(1), "@daily", **{option: value}
    )


ASKED: dict[str, Ask] = {
    **{f"start({name})": start_with(name) for name in options_of(StartOptions)},
    **{
        f"start_activity(.options({name}))": start_activity_with(name)
        for name in options_of(ActivityOptions)
    },
    **{
        f"schedules.create({name})": schedule_with(name)
        for name in options_of(CreateOptions)
    },
    "start()": lambda of, value: of.engine.start(value),
    "start(name, ...)": lambda of, value: of.engine.start("any_input.doubled", value),
    "get()": lambda of, value: of.engine.get(value),
    "call()": lambda of, value: of.engine.call(value),
    "list(where)": lambda of, value: of.engine.list(where=value),
    "list(limit)": lambda of, value: of.engine.list(limit=value),
    "list(order_by)": lambda of, value: of.engine.list(order_by=value),
    "count(where)": lambda of, value: of.engine.count(where=value),
    "count(group_by)": lambda of, value: of.engine.count(group_by=value),
    "start_activity()": lambda of, value: of.engine.start_activity(value),
    "start_activity(id)": lambda of, value: of.engine.start_activity(
        double(1), id=value
    ),
    "list_activities()": lambda of, value: of.engine.list_activities(where=value),
    "get_batch()": lambda of, value: of.engine.get_batch(value).describe(),
    "within()": lambda of, value: of.engine.within(value),
    "import_runs()": lambda of, value: of.engine.import_runs(value),
    "namespaces.create()": lambda of, value: of.engine.namespaces.create(value),
    "namespaces.describe()": lambda of, value: of.engine.namespaces.describe(value),
    "queues.configure()": lambda of, value: of.engine.queues.configure(value),
    "activities.complete()": lambda of, value: of.engine.activities.complete(value, 1),
    "activities.fail()": lambda of, value: of.engine.activities.fail(value, "no"),
    "schedules.create(id)": lambda of, value: of.engine.schedules.create(
        value, doubled(1), "@daily"
    ),
    "schedules.create(spec)": lambda of, value: of.engine.schedules.create(
        "any", doubled(1), value
    ),
    "schedules.create(call)": lambda of, value: of.engine.schedules.create(
        "any", value, "@daily"
    ),
    "result(timeout)": lambda of, value: of.closed.result(timeout=value),
    "signal()": lambda of, value: of.open.signal(value),
    "signal(name, ...)": lambda of, value: of.open.signal("any", value),
    "query()": lambda of, value: of.closed.query(value),
    "query(timeout)": lambda of, value: of.closed.query("none", timeout=value),
    "start_update(update_id)": lambda of, value: of.closed.start_update(
        "none", update_id=value
    ),
    "cancel()": lambda of, value: of.closed.cancel(value),
    "terminate()": lambda of, value: of.closed.terminate(value),
    "events(after)": lambda of, value: of.closed.events(after=value),
    "reset(to)": lambda of, value: of.closed.reset(to=value),
    "fork(call)": lambda of, value: of.closed.fork(call=value),
    "fork(id)": lambda of, value: of.closed.fork(id=value),
    "retry_activity()": lambda of, value: of.open.retry_activity(value),
    "complete_activity()": lambda of, value: of.open.complete_activity(value, 1),
}


async def ask(of: Asked, target: str, value: object) -> None:
    with contextlib.suppress(DurableError):
        async with asyncio.timeout(SECONDS_MAX):
            asked = ASKED[target](of, value)
            if isinstance(asked, AsyncIterator):
                async for _ in asked:
                    pass
            elif isinstance(asked, Awaitable):
                await asked


async def ask_all(
    targets: Iterable[str], given: Iterable[object], url: str = "memory://"
) -> None:
    definitions = [doubled, waits, double]
    async with Engine(url, definitions=definitions) as engine:
        opened = await engine.start(waits(), id="open")
        closed = await engine.start(doubled(1), id="closed")
        await closed.result()
        for target, value in itertools.product(targets, given):
            await ask(Asked(engine, opened, closed), target, value)


@pytest.mark.parametrize("target", ASKED)
async def test_what_is_wrong_is_refused_by_type(target: str) -> None:
    await ask_all([target], STRANGE)


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite", "postgres_url", "mariadb_url"])
async def test_so_is_what_a_database_is_asked_to_keep(
    url: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    is_file = url == "sqlite"
    found = f"sqlite:///{tmp_path}/x.db" if is_file else request.getfixturevalue(url)
    kept = [value for value in STRANGE if isinstance(value, str | int | float | bytes)]
    await ask_all(ASKED, kept, found)


@settings(max_examples=examples(150))
@given(st.sampled_from(sorted(ASKED)), st.lists(values, min_size=5, max_size=20))
def test_so_is_whatever_else(target: str, given: list[object]) -> None:
    asyncio.run(ask_all([target], given))
