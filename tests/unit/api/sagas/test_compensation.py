"""`@activity(compensate=...)`: what fits, and with which arguments it is called."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import pytest

from durable import Activity, Saga, activity, workflow
from durable.api.registry import REGISTRY
from durable.errors import DefinitionError
from tests.unit.api.sagas.sagas import Declined, Story, book, release


class Vehicle: ...


class Car(Vehicle): ...


class Named(Protocol):
    name: str


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """Let each test define anew what these names mean."""
    yield
    for name in ("compensation.do", "compensation.undo"):
        REGISTRY.activities.pop(name, None)


def undoing(function: Callable[..., Any]) -> Activity[..., Any]:
    undo: Activity[..., Any] = activity(name="compensation.undo")(function)
    return undo


def undone(
    function: Callable[..., Any], compensate: Activity[..., Any]
) -> Activity[..., Any]:
    decorate: Any = activity(name="compensation.do", compensate=compensate)
    done: Activity[..., Any] = decorate(function)
    return done


# --- with which arguments -------------------------------------------------------------


async def result_first(done: str, a: int, b: int = 2) -> None: ...
async def result_last(a: int, b: int, done: str) -> None: ...
async def result_alone(done: str) -> None: ...
async def arguments_alone(a: int, b: int) -> None: ...
async def one_argument(b: int, *, reason: str = "none") -> None: ...
async def by_name(*, b: int, done: str, a: int) -> None: ...
async def nothing() -> None: ...


async def takes_two(a: int, b: int = 7) -> str:
    return f"{a}{b}"


async def takes_rest(*a: int) -> str:
    return f"{a}"


async def rest_too(done: str, *a: int) -> None: ...


@workflow(name="compensation.failing")
async def failing(args: list[int], kwargs: dict[str, int]) -> None:
    async with Saga():
        await REGISTRY.get_activity("compensation.do")(*args, **kwargs)
        raise Declined


@pytest.mark.parametrize(
    ("undo", "expected"),
    [
        (result_first, "('done', 1, 7)"),
        (result_last, "(1, 7, 'done')"),
        (result_alone, "('done',)"),
        (arguments_alone, "(1, 7)"),
        (one_argument, "(7,)"),
        (by_name, "(7, 'done', 1)"),
        (nothing, "()"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("args", [([1], {}), ([], {"b": 7, "a": 1})])
def test_parameters_are_found_by_their_names(
    undo: Any, expected: str, args: tuple[list[int], dict[str, int]]
) -> None:
    undone(takes_two, undoing(undo))
    story = Story(failing(*args))
    story.start()
    (done,) = story.pending
    story.complete(done, "done")
    assert story.waiting == [f"compensation.undo{expected}"]


def test_the_rest_goes_to_the_rest() -> None:
    undone(takes_rest, undoing(rest_too))
    story = Story(failing([1, 2, 3], {}))
    story.start()
    (done,) = story.pending
    story.complete(done, "done")
    assert story.waiting == ["compensation.undo('done', 1, 2, 3)"]


# --- what fits ------------------------------------------------------------------------


async def makes_car(name: str) -> Car:
    return Car()


async def makes_nothing(name: str) -> None: ...
async def makes_number(count: int) -> int:
    return count


async def makes_any(count):  # type: ignore[no-untyped-def]  # there is no annotation to go by
    return count


async def scrap(car: Vehicle) -> None: ...
async def scrap_union(car: Car | None) -> None: ...
async def scrap_named(car: Named) -> None: ...
async def scrap_float(amount: float, count: float) -> None: ...
async def scrap_any(amount: Any) -> None: ...
async def scrap_later(car: Later) -> None: ...
def scrap_plain(car: Car) -> None: ...


class Later: ...


@pytest.mark.parametrize(
    ("do", "undo"),
    [
        (makes_car, scrap),
        (makes_car, scrap_plain),
        (makes_car, scrap_union),
        (makes_car, scrap_named),
        (makes_car, scrap_any),
        (makes_number, scrap_float),
        (makes_any, scrap),
        (makes_nothing, nothing),
    ],
)
def test_what_may_fit_is_accepted(do: Any, undo: Any) -> None:
    assert undone(do, undoing(undo)).compensate is not None


async def wrong_class(car: Later) -> None: ...
async def wrong_argument(car: Car, name: int) -> None: ...
async def wants_more(car: Car, name: str, colour: str) -> None: ...
async def misspelt(nome: str) -> None: ...


@pytest.mark.parametrize(
    ("do", "undo", "why"),
    [
        (makes_car, wrong_class, "its 'car' is Later, and gets Car"),
        (makes_car, wrong_argument, "its 'name' is int, and gets str"),
        (makes_car, wants_more, "it also wants 'car' and 'colour'"),
        (makes_nothing, misspelt, "it also wants 'nome', but there is no result"),
    ],
)
def test_what_cannot_fit_is_refused_when_decorated(
    do: Any, undo: Any, why: str
) -> None:
    with pytest.raises(DefinitionError, match=why) as caught:
        undone(do, undoing(undo))
    assert "cannot undo compensation.do(" in caught.value.message


@pytest.mark.parametrize("wrong", [scrap, "undo", 5])
def test_only_an_activity_can_undo(wrong: Any) -> None:
    with pytest.raises(DefinitionError, match=r"which is no activity. Put @activity"):
        undone(makes_car, wrong)


def test_names_that_come_later_are_not_checked_and_do_not_fail() -> None:
    scope: dict[str, Any] = {}
    exec(  # noqa: S102 - a module whose annotations name what comes later
        "from __future__ import annotations\n"
        "async def early(car: NotYet) -> None: ...\n",
        scope,
    )
    assert undone(makes_car, undoing(scope["early"])).compensate is not None


# --- definitions ----------------------------------------------------------------------


def test_options_and_pickles_keep_it() -> None:
    assert book.compensate is release
    assert book.options(retry=None).compensate is release
    assert pickle.loads(pickle.dumps(book)) is book  # noqa: S301 - made on this line
    assert release.compensate is None


def test_a_limited_registry_knows_what_undoes_its_activities() -> None:
    limited = REGISTRY.limited_to([book, failing])
    assert limited.activities == {"saga.book": book, "saga.release": release}
