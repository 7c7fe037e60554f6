"""Workflows that are built in steps: in the right order they work, in no other."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from durable import WorkflowBuilder, activity, fail, need, seq
from durable.api.definitions import WORKFLOWS
from durable.api.registry import REGISTRY
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from durable.testing import Driver


@activity(name="builder.price")
async def price(sku: str) -> int:
    return len(sku)


async def doubled(cents: int) -> int:
    return 2 * cents


def built(name: str, code: Any = price) -> Any:
    return WorkflowBuilder(name).configure(takes=str, gives=int).run(code).build()


def test_built_workflow_runs_its_flow_and_is_registered() -> None:
    worth = built("builder.worth", seq(price, doubled))
    driver = Driver(worth("tea"))
    driver.start()
    (charged,) = driver.pending
    driver.complete(charged, 7)
    assert driver.result() == 14
    assert WORKFLOWS["builder.worth"] is worth
    assert worth.origin.__module__ == __name__


def test_options_and_types_are_those_that_were_given() -> None:
    made = (
        WorkflowBuilder("builder.configured")
        .configure(takes=str, gives=int, version="1.2.0", run_timeout="1h")
        .run(price)
        .build()
    )
    assert (made.own_version, made.run_timeout) == ("1.2.0", 3_600 * 10**6)
    driver = Driver(made("tea"))
    driver.start()
    (charged,) = driver.pending
    assert charged.activity_type == "builder.price"
    wrong: Any = made
    with pytest.raises(InvalidCallError):
        wrong()


def test_every_step_leaves_the_builder_before_as_it_was() -> None:
    configured = WorkflowBuilder("builder.twice").configure(takes=int, gives=int)
    once, twice = configured.run(doubled), configured.run(seq(doubled, doubled))
    for ready, result in ((once, 2), (twice, 4)):
        driver = Driver(ready.build()(1))
        driver.start()
        assert driver.result() == result


STEPS = {
    "configure": lambda builder: builder.configure(takes=str, gives=int),
    "run": lambda builder: builder.run(price),
    "build": lambda builder: builder.build(),
}


@pytest.mark.parametrize(
    ("before", "step"),
    [
        ((), "run"),
        ((), "build"),
        (("configure",), "configure"),
        (("configure",), "build"),
        (("configure", "run"), "configure"),
        (("configure", "run"), "run"),
    ],
)
def test_step_in_a_wrong_order_is_refused(before: tuple[str, ...], step: str) -> None:
    builder: Any = WorkflowBuilder("builder.refused")
    for name in before:
        builder = STEPS[name](builder)
    with pytest.raises(InvalidCallError, match=rf"^{step}\(\) was called on") as caught:
        STEPS[step](builder)
    assert "configure(...).run(...).build()" in (caught.value.hint or "")
    assert "builder.refused" not in WORKFLOWS


def test_flow_that_cannot_work_is_refused_when_it_is_given() -> None:
    with pytest.raises(DefinitionError, match="can never run"):
        built("builder.broken", seq(price, fail(ValueError), doubled))
    with pytest.raises(DefinitionError, match="need"):
        built("builder.waiting", seq(price, need("never")))
    with pytest.raises(InvalidCallError, match="cannot be called"):
        built("builder.nothing", 5)


def test_wrong_names_options_and_annotations_are_refused() -> None:
    with pytest.raises(DefinitionError):
        WorkflowBuilder("")
    wrong: Any = {"verzion": "1.0.0"}
    with pytest.raises(InvalidOptionError, match="verzion"):
        WorkflowBuilder("builder.option").configure(takes=str, gives=int, **wrong)
    event: Any = str | threading.Event
    made = WorkflowBuilder("builder.lock").configure(takes=event, gives=int).run(price)
    with pytest.raises(DefinitionError, match="'value'"):
        REGISTRY.limited_to([made.build()]).check_annotations()
    del WORKFLOWS["builder.lock"]
