"""Values of old code meet new code, and the other way round."""

import dataclasses
from typing import Any, Final

import pytest

from durable import RunStatus, Signal, WorkflowStuckError, activity, workflow
from durable.api.definitions import ACTIVITIES, WORKFLOWS
from durable.testing.environment import TestEnvironment

_PLAIN: Final[list[Any]] = [("id", str), ("cents", int)]
_FIELDS: Final[dict[str, list[Any]]] = {
    "plain": _PLAIN,
    "field added": [*_PLAIN, ("note", str)],
    "field with a default added": [
        *_PLAIN,
        ("note", str, dataclasses.field(default="none")),
    ],
    "field removed": [("id", str)],
    "field renamed": [("id", str), ("amount", int)],
    "field of another type": [("id", str), ("cents", list[str])],
}
SHAPES: Final[dict[str, Any]] = {
    name: dataclasses.make_dataclass("Order", fields)
    for name, fields in _FIELDS.items()
}
VALUES: Final[dict[str, Any]] = {"id": "o", "cents": 5, "note": "n", "amount": 5}
PAIRS: Final = [
    pair
    for name in SHAPES
    if name != "plain"
    for pair in (("plain", name), (name, "plain"))
]
go = Signal("shapes.go", str)
UNDECODABLE: Final = "UndecodableError"


def deploy(shape: str) -> tuple[Any, list[Any]]:
    """Define the same program with another class, as the next deploy has it."""
    kind = SHAPES[shape]
    ACTIVITIES.pop("shapes.charge", None)
    WORKFLOWS.pop("shapes.order", None)
    changed = Signal("shapes.changed", kind)

    async def charge(order: Any) -> Any:
        return order

    async def order(order: Any, hears: bool) -> str:
        found = await charging(order)
        await go.receive()
        if hears:
            found = await changed.receive()
        return ", ".join(field.name for field in dataclasses.fields(found))

    charge.__annotations__ = {"order": kind, "return": kind}
    order.__annotations__ = {"order": kind, "hears": bool, "return": str}
    charging: Any = activity(name="shapes.charge")(charge)
    return workflow(name="shapes.order")(order), [charging, changed]


def make(shape: str) -> Any:
    kind = SHAPES[shape]
    fields = dataclasses.fields(kind)
    values = {
        field.name: ["5"] if field.type == list[str] else VALUES[field.name]
        for field in fields
    }
    return kind(**values)


def fits(writer: str, reader: str) -> bool:
    written = {f.name: f.type for f in dataclasses.fields(SHAPES[writer])}
    return all(
        written.get(field.name) == field.type
        or (field.name not in written and field.default != dataclasses.MISSING)
        for field in dataclasses.fields(SHAPES[reader])
    )


def names(shape: str) -> str:
    return ", ".join(field.name for field in dataclasses.fields(SHAPES[shape]))


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(("writer", "reader"), PAIRS)
async def test_recorded_value_is_read_or_parks_its_run_and_never_fails_it(
    writer: str, reader: str
) -> None:
    """Users met runs that old workers failed, as new ones had begun them."""
    url = f"memory://shapes {writer} {reader}"
    code, (charging, _) = deploy(writer)
    async with TestEnvironment(url, definitions=[code, charging]) as env:
        await env.start(code(make(writer), False), id="run")
        await env.settle()
        clock = env.clock
    code, (charging, _) = deploy(reader)
    async with TestEnvironment(url, clock=clock, definitions=[code, charging]) as env:
        run = await env.get("run")
        await run.signal(go("on"))
        if fits(writer, reader):
            assert await run.result() == names(reader)
            return
        with pytest.raises(WorkflowStuckError, match="does not fit"):
            await run.result()
        found = await run.describe()
        assert found.status is RunStatus.RUNNING
        assert found.stuck is not None
        assert found.stuck.type == UNDECODABLE
    code, (charging, _) = deploy(writer)  # who can read it goes on with it
    async with TestEnvironment(url, clock=clock, definitions=[code, charging]) as env:
        assert await (await env.get("run")).result() == names(writer)


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(("writer", "reader"), PAIRS)
async def test_message_of_other_code_is_taken_or_set_aside_and_the_next_one_is_heard(
    writer: str, reader: str
) -> None:
    _, (_, theirs) = deploy(writer)
    code, (charging, ours) = deploy(reader)
    async with TestEnvironment(definitions=[code, charging]) as env:
        run = await env.start(code(make(reader), True), id="run")
        await run.signal(go("on"))
        await run.signal(theirs(make(writer)))
        await env.settle()
        closed = (await run.describe()).closed_at is not None
        assert closed is fits(writer, reader)
        if not closed:
            assert (await run.describe()).stuck is None
            await run.signal(ours(make(reader)))
        assert await run.result() == names(reader)
