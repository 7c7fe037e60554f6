"""The code of workflows is looked through for what cannot be replayed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import hashlib
import importlib
import inspect
import os
import platform
import random
import re
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from random import choice as pick
from time import time as clock
from typing import Any
from uuid import uuid4

import pytest

import durable
from durable import (
    Engine,
    StateMachine,
    Workflow,
    activity,
    exclusive,
    shared,
    workflow,
)
from durable import allow as harmless
from durable.worker.guards.code_check import _Code, _Reading, find_sites

DRAWN = random.Random(7)


def stamp() -> float:
    return time.monotonic()


def stamp_in_passing() -> float:
    return time.monotonic()


@functools.lru_cache
def region() -> str | None:
    return os.getenv("REGION")


@dataclasses.dataclass
class Order:
    number: str = dataclasses.field(default_factory=lambda: str(uuid4()))


@dataclasses.dataclass
class Dated:
    at: datetime = dataclasses.field(default_factory=datetime.now)


class Prices:
    def of(self, item: str) -> float:
        return len(item) * random.random()


PRICES = Prices()


@activity
async def code_check_clock() -> float:
    return time.time()


def seen(function: Callable[..., Any]) -> list[tuple[int, str]]:
    """What is found in a workflow: in which of its lines (0: elsewhere), and what."""
    definition: Workflow[..., Any] = workflow(
        name=f"code_check.{function.__qualname__}"
    )(function)
    lines, first = inspect.getsourcelines(function)
    return [
        (
            site.line - first if first <= site.line < first + len(lines) else 0,
            site.what.name,
        )
        for site in find_sites(definition)
    ]


def test_names_are_resolved_whatever_they_are_called() -> None:
    async def named() -> None:
        time.time()
        clock()
        pick([1])
        dt.datetime.now(dt.UTC)
        datetime.utcnow()  # noqa: DTZ003 - it must be found
        date.today()  # noqa: DTZ011 - it must be found
        random.choice([1])
        uuid4()
        uuid.uuid1()
        secrets.token_hex()
        os.environ["HOME"]
        os.environ.get("HOME")
        os.getpid()
        socket.gethostname()
        platform.node()
        DRAWN.random()
        os.path.exists("x")  # noqa: ASYNC240 - it must be found
        Path.cwd()
        threading.Thread()
        hash("text")

    assert seen(named) == [
        (1, "time.time"),
        (2, "time.time"),
        (3, "random.choice"),
        (4, "datetime.now"),
        (5, "datetime.utcnow"),
        (6, "date.today"),
        (7, "random.choice"),
        (8, "uuid.uuid4"),
        (9, "uuid.uuid1"),
        (10, "secrets.token_hex"),
        (11, "os.environ"),
        (12, "os.environ"),
        (13, "os.getpid"),
        (14, "socket.gethostname"),
        (15, "platform.node"),
        (16, "random.Random"),
        (17, "os.path.exists"),
        (18, "Path.cwd"),
        (19, "threading.Thread"),
        (20, "hash"),
    ]


def test_names_that_are_imported_within_are_resolved() -> None:
    async def importing() -> None:
        import random as dice
        from time import perf_counter as tick

        tick()
        dice.shuffle([])
        tock = tick
        tock()

    found = seen(importing)
    assert (4, "time.perf_counter") in found
    assert (5, "random.shuffle") in found


def test_functions_within_are_read() -> None:
    async def nesting() -> None:
        def inner() -> float:
            return time.time()

        [random.random() for _ in range(2)]
        sorted([1], key=lambda _: random.random())
        inner()

    assert seen(nesting) == [
        (2, "time.time"),
        (4, "random.random"),
        (5, "random.random"),
    ]


def test_the_users_functions_are_followed() -> None:
    async def following() -> None:
        stamp()
        region()
        PRICES.of("tea")

    names = {name for _, name in seen(following)}
    assert names == {"time.monotonic", "os.getenv", "random.random"}


def test_what_makes_defaults_of_a_class_is_followed() -> None:
    async def making() -> None:
        Order()
        Dated()

    assert seen(making) == [(0, "uuid.uuid4"), (2, "datetime.now")]


async def innocent(order: Order, started: datetime) -> None:
    await code_check_clock()
    durable.now()
    durable.random().choice([1])
    durable.uuid4()
    random.Random(7).choice([1])
    time.gmtime(0)
    datetime(2026, 1, 1, tzinfo=dt.UTC).isoformat()
    datetime.fromtimestamp(0, dt.UTC)
    isinstance(started, datetime | date)
    isinstance(order, random.Random)
    uuid.UUID(int=1)
    uuid.uuid5(uuid.NAMESPACE_DNS, "x")
    secrets.compare_digest("a", "b")
    os.path.join("a", "b")
    Path("a").joinpath("b").name.lower()
    hashlib.sha256(b"x").hexdigest()
    time.strftime("%Y", (2026, 1, 1, 0, 0, 0, 0, 1, 0))
    dataclasses.replace(order, number="1")


def test_what_can_be_replayed_is_not_warned_of() -> None:
    assert seen(innocent) == []


def test_allow_silences_its_block_and_what_is_called_in_it() -> None:
    async def allowed() -> None:
        with durable.allow("a metric"):
            began = time.perf_counter()
            stamp_in_passing()
            sorted([1], key=lambda _: random.random())
        with harmless("a metric"):
            print(time.perf_counter() - began)
        time.time()

    assert seen(allowed) == [(7, "time.time")]


def test_classes_are_read_with_their_handlers() -> None:
    @workflow(name="code_check.Cart")
    class Cart:
        def __init__(self) -> None:
            self.opened = time.time()

        @durable.run
        async def run(self) -> float:
            return self.total

        @durable.signal
        def put(self, item: str) -> None:
            self.item = (item, uuid4())

        @property
        def total(self) -> float:
            return random.random()

    definition = vars(Cart)["__durable_workflow__"]
    names = [site.what.name for site in find_sites(definition)]
    assert names == ["time.time", "uuid.uuid4", "random.random"]


def test_entities_are_read() -> None:
    @durable.entity(name="code_check.Stock")
    @dataclasses.dataclass
    class Stock:
        count: float = 0

        @exclusive
        async def add(self) -> None:
            self.count = time.time()

        @shared
        def look(self) -> float:
            return random.random()

    definition = vars(Stock)["__durable_workflow__"]
    names = [site.what.name for site in find_sites(definition)]
    assert names == ["time.time", "random.random"]


async def enter(order: Order) -> None:
    time.time()


async def number_anew(order: Order) -> None:
    order.number = str(uuid4())


def test_machines_are_read() -> None:
    machine = StateMachine(
        "code_check.machine", data=Order, initial="new", final={"paid", "left"}
    )
    machine.add_state("held", on_enter=enter)
    machine.add_transition("new", "paid", on="pay", action=number_anew)
    machine.add_transition("new", "left", on="go", guard=lambda order: clock() > 1)

    names = [site.what.name for site in find_sites(machine)]
    assert names == ["time.time", "uuid.uuid4", "time.time"]


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return random.random(), await function(*args)

    return wrapper


def test_what_the_users_decorators_add_is_read() -> None:
    @logged
    async def decorated() -> float:
        return time.time()

    assert {name for _, name in seen(decorated)} == {"random.random", "time.time"}


async def test_an_engine_warns_once_with_line_and_replacement(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow(name="code_check.late")
    async def late() -> str:
        return str(datetime.now(dt.UTC))

    for _ in range(2):
        async with Engine("memory://", definitions=[late]):
            pass
    line = late.function.__code__.co_firstlineno + 2
    (warning,) = [text for text in caplog.messages if "code_check.late" in text]
    assert warning == (
        f"{__file__}:{line}: workflow 'code_check.late' uses datetime.now, which cannot"
        " be replayed: write durable.now(). If nothing depends on it, put it into"
        ' `with durable.allow("why"):`.'
    )


async def test_a_mere_client_warns_of_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @workflow(name="code_check.elsewhere")
    async def elsewhere() -> float:
        return time.time()

    async with Engine("memory://", definitions=[elsewhere], worker=False):
        pass
    assert "code_check.elsewhere" not in caplog.text


# --- the page -------------------------------------------------------------------------

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "determinism.md"
ROWS = [
    (call, instead)
    for row in re.findall(r"^\| (`.*) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    for call in re.findall(r"`([^`]+)`", row[0])
    for instead in [row[1]]
]
REFUSED_AS_IT_RUNS = ("asyncio.to_thread(print)",)
NO_HARM = ("logging.getLogger()",)


@pytest.mark.parametrize(("call", "instead"), ROWS, ids=[call for call, _ in ROWS])
def test_the_table_of_replacements_is_what_is_said(call: str, instead: str) -> None:
    modules = sorted(
        set(re.findall(r"\b([a-z0-9]+)\.", call)) - {"datetime", "date", "path"}
    )
    source = (
        "from datetime import date, datetime\n"
        + "".join(f"import {module}\n" for module in modules)
        + f"async def flow():\n    await {call}\n"
    )
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(source, f"<page {call}>", "exec"), names)  # noqa: S102 - from our own page
    found = find_sites(workflow(name=f"code_check.page.{call}")(names["flow"]))
    if call in REFUSED_AS_IT_RUNS or call in NO_HARM:
        assert not found
        return
    (site,) = found
    words = re.findall(r"durable\.\w+|activity|signal|recorded", instead)
    assert any(word in site.what.advice for word in words), site.what.advice


# --- any code can be looked through ---------------------------------------------------


def test_code_that_stores_into_containers_is_looked_through() -> None:
    @workflow(name="code_check.fills")
    async def fills(count: int) -> dict[int, float]:
        found: dict[int, float] = {}
        for number in range(count):
            found[number] = time.time()
        del found[0]
        return found

    assert [site.what.name for site in find_sites(fills)] == ["time.time"]


MODULES = [
    "argparse",
    "asyncio.tasks",
    "asyncio.taskgroups",
    "ast",
    "collections",
    "configparser",
    "dataclasses",
    "difflib",
    "email.message",
    "enum",
    "inspect",
    "json.decoder",
    "logging",
    "pathlib",
    "pickle",
    "random",
    "shutil",
    "statistics",
    "tarfile",
    "tempfile",
    "textwrap",
    "typing",
    "unittest.mock",
    "urllib.request",
    "zipfile",
]


@pytest.mark.parametrize("name", MODULES)
def test_any_code_can_be_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Code, "_leads_on", lambda *_: True)
    module = importlib.import_module(name)
    classes = [value for value in vars(module).values() if inspect.isclass(value)]
    members = [value for owner in (module, *classes) for value in vars(owner).values()]
    functions = [member for member in members if inspect.isfunction(member)]
    reading = _Reading()
    for function in functions:
        reading.enter(function.__code__, function.__globals__, {}, range(0))
    reading.finish()
    assert functions


async def test_an_engine_opens_though_the_look_at_its_code_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> list[Any]:
        raise RuntimeError("an opcode that nobody knows")

    monkeypatch.setattr("durable.worker.guards.code_check.find_sites", fail)
    caplog.set_level("DEBUG")
    async with Engine("memory://"):
        assert "could not be looked through" in caplog.text
