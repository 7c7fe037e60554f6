"""Functions and classes that travel to another process by value."""

from __future__ import annotations

import sys
import types
from typing import Any, ClassVar

import cloudpickle  # type: ignore[import-untyped]  # it has no types
import msgspec
import pytest

from durable import activity
from durable.worker.activities.processes import carrying


def travelled(value: Any) -> Any:
    """What arrives of something."""
    return cloudpickle.loads(carrying._dumps(value))


def test_struct_class_arrives_with_fields_defaults_methods_and_configuration() -> None:
    class Base(msgspec.Struct, frozen=True, kw_only=True):
        number: int

    class Shape(Base, frozen=True, kw_only=True, tag="shape", rename="camel"):
        corner_count: int = 3
        names: list[str] = []  # noqa: RUF012 - each object has its own
        label: str = msgspec.field(default="x", name="lbl")
        limit: ClassVar[int] = 5

        def __post_init__(self) -> None:
            if self.corner_count > self.limit:
                raise ValueError("too many corners")

        @property
        def twice(self) -> Shape:
            return Shape(number=2 * self.number)

        @classmethod
        def one(cls) -> Shape:
            return cls(number=1)

    arrived = travelled(Shape)
    assert arrived is not Shape
    shape = arrived(number=4)
    assert msgspec.json.encode(shape) == msgspec.json.encode(Shape(number=4))
    assert (shape.twice.number, arrived.one().number, arrived.limit) == (8, 1, 5)
    assert type(shape.twice) is arrived
    assert shape.names is not arrived(number=4).names
    with pytest.raises(ValueError, match="too many corners"):
        arrived(number=1, corner_count=6)
    with pytest.raises(TypeError):
        arrived(4)
    with pytest.raises(AttributeError):
        shape.number = 5


def test_class_that_travels_twice_is_one_class() -> None:
    class Shape(msgspec.Struct):
        number: int

    assert travelled(Shape) is travelled((1, Shape))[1]


def test_code_names_the_file_that_it_is_from() -> None:
    bound = 3

    def add(number: int) -> int:
        return number + bound

    arrived: types.FunctionType = travelled(add)
    assert arrived(1) == 4
    assert arrived.__code__.co_filename == add.__code__.co_filename


def test_activity_is_imported_if_it_can_be_and_comes_by_value_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What it brings along enters the `__main__` of the process that it comes to.
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))

    @activity(run_in="process")
    def local(number: int) -> int:
        return number

    assert carrying.home_of(local) is None
    again = carrying.load("local", None, carrying.pack_function(local))
    assert again is not local
    assert again.function(3) == 3
    assert again.call_signature.hints() == (int,)


def test_activity_that_calls_itself_travels() -> None:
    @activity
    def count(number: int) -> Any:
        return [count.name, number]

    arrived = travelled(count)
    assert arrived.function(2) == ["count", 2]
