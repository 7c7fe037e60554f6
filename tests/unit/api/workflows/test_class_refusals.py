"""Class workflows: what is refused, with all the reasons at once."""

from __future__ import annotations

import abc
import re
import textwrap
from typing import Any

import pytest

import durable
from durable import query, run, signal, update, workflow
from durable.api.registry import REGISTRY
from durable.errors import DefinitionError, InvalidCallError, InvalidOptionError
from tests.unit.api.one_run import OneRun

FINE = """
class Fine:
    @durable.run
    async def go(self): ...
"""


def define(text: str) -> type[Any]:
    """The last class of a text: type checkers would find most of these faults."""
    scope: dict[str, Any] = {"abc": abc, "durable": durable}
    # Without this file's own __future__ import.
    code = compile(textwrap.dedent(text), "text", "exec", dont_inherit=True)
    exec(code, scope)  # noqa: S102 - the texts are those below
    found: type[Any] = [v for v in scope.values() if isinstance(v, type)][-1]
    return found


def refusal(text: str) -> str:
    with pytest.raises(DefinitionError) as caught:
        workflow(define(text))
    assert caught.value.hint
    return str(caught.value)


EVERYTHING = """
class Base:
    @durable.signal
    def inherited(self): ...

class Wrong(Base):
    def __init__(self, customer: int): ...
    @durable.run
    async def run(self, customer: str): ...
    @durable.run
    async def again(self): ...
    def inherited(self): ...
    @durable.query
    async def asked(self): ...
    @durable.signal(name="same")
    def one(self): ...
    @durable.signal(name="same")
    def two(self): ...
    @durable.signal(dynamic=True)
    def all_signals(self, name): ...
    @durable.signal(dynamic=True)
    def more_signals(self): ...
    @durable.update
    def changed(self, **options): ...
    @durable.update
    def checked(self, n: int): ...
    @checked.validator
    async def check(self, n: str): ...
    @durable.signal(name="bad\\nname", dynamic=True)
    def bad(self, name):
        yield 1
"""


def test_everything_that_is_wrong_is_said_at_once() -> None:
    said = refusal(EVERYTHING)
    for part in (
        "the class Wrong:",
        "2 @run methods: 'run', 'again'",
        "'inherited' overrides the @signal method of Base and is not decorated",
        "'asked' is async",
        "signal is named 'same': 'one' and 'two'",
        "signal is dynamic: 'all_signals' and 'more_signals'",
        "'more_signals' does not take self and the message's name",
        "takes **options",
        "'check' of update 'checked' is async",
        "(self, n: str), but the update (self, n: int): give it the same parameters",
        "'bad\\nname' is dynamic, and has a name",
        "is a generator",
    ):
        assert part in said
    assert "Wrong" not in REGISTRY.workflows


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("@durable.signal\n    def poke(self): ...", "has no @run method"),
        ("@durable.run\n    def go(self): ...", "'go' is not async"),
        ("@durable.run\n    async def go(self, **k): ...", r"takes \*\*k"),
        ("@durable.run\n    async def go(): ...", "does not take self"),
        ("@durable.run\n    async def go(*args): ...", "does not take self"),
        ("@durable.query\n    def asked(): ...", "'asked' does not take self"),
    ],
)
def test_class_whose_methods_cannot_serve_is_refused(body: str, message: str) -> None:
    assert re.search(message, refusal(f"class Wrong:\n    {body}"))


@pytest.mark.parametrize(
    "parameters", ["customer: int", "customer: str, n: int", "n", "customer: str = 'x'"]
)
def test_constructor_with_other_parameters_is_refused(parameters: str) -> None:
    said = refusal(
        f"""
        class Other:
            def __init__(self, {parameters}): ...
            @durable.run
            async def go(self, customer: str): ...
        """
    )
    shown = parameters.replace("'x'", "...")  # defaults are values
    assert f"__init__ takes (self, {shown})" in said


def test_annotations_are_the_same_if_they_mean_the_same() -> None:
    same = define(
        """
        class Same:
            def __init__(self, customer: 'str'):
                self.customer = customer
            @durable.run
            async def go(self, customer: str) -> str:
                return self.customer
        """
    )
    workflow(name="classes.Same")(same)
    one = OneRun(same.go("x"))
    one.start()
    assert one.result() == "x"


def test_abstract_class_is_refused_and_its_complete_subclass_is_not() -> None:
    text = """
    class Abstract(abc.ABC):
        @durable.run
        async def go(self) -> int:
            return self.value()
        @durable.query
        @abc.abstractmethod
        def value(self) -> int: ...
    """
    assert "is abstract" in refusal(text)
    complete = define(
        text
        + """
    class Complete(Abstract):
        @durable.query
        def value(self) -> int:
            return 5
    """
    )
    workflow(name="classes.Complete")(complete)
    one = OneRun(complete.go())
    one.start()
    assert one.result() == 5


def test_override_of_another_kind_is_refused() -> None:
    said = refusal(
        """
        class Base:
            @durable.signal
            def poke(self): ...
        class Other(Base):
            @durable.run
            async def go(self): ...
            @durable.query
            def poke(self): ...
        """
    )
    assert "overrides the @signal method of Base and is a @query method" in said


@pytest.mark.parametrize("decorate", [run, signal, query, update])
def test_only_methods_are_decorated(decorate: Any) -> None:
    def function(self: Any) -> None: ...

    for thing in (function, 5, str.upper, staticmethod(function)):
        with pytest.raises(DefinitionError, match=f"@{decorate.__name__} was put on"):
            decorate(thing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("@add.validator\n    def add(self): ...", "own name"),
        (
            "@add.validator\n    def one(self): ...\n"
            "    @add.validator\n    def two(self): ...",
            "two validators: 'one' and 'two'",
        ),
        ("@add.validator\n    @staticmethod\n    def one(): ...", "no method"),
        ("@add\n    def other(self): ...", "too many positional"),
    ],
)
def test_validator_that_cannot_serve_is_refused(text: str, message: str) -> None:
    update_of = "class Wrong:\n    @durable.update\n    def add(self): ...\n    "
    with pytest.raises((DefinitionError, InvalidCallError), match=message):
        define(update_of + text)


def test_validator_that_is_gone_is_refused() -> None:
    said = refusal(
        """
        class Wrong:
            @durable.run
            async def go(self): ...
            @durable.update
            def add(self): ...
            @add.validator
            def check(self): ...
            check = None
        """
    )
    assert "'check' of update 'add' is no plain method" in said


@pytest.mark.parametrize("name", ["run", "signal", "query", "update"])
def test_method_that_hides_its_decorator_is_named(name: str) -> None:
    text = f"""
    from durable import {name}
    class Hiding:
        @{name}
        async def {name}(self): ...
        @{name}
        async def other(self): ...
    """
    with pytest.raises(DefinitionError, match=f"hides the decorator @{name}") as caught:
        define(text)
    assert f"@durable.{name}" in str(caught.value)


@pytest.mark.parametrize("unfinished", ["forget", None, 1])
def test_unfinished_has_two_values(unfinished: Any) -> None:
    with pytest.raises(InvalidOptionError, match="unfinished is"):
        define(
            f"""
            class Wrong:
                @durable.signal(unfinished={unfinished!r})
                def poke(self): ...
            """
        )


@pytest.mark.parametrize(
    "options", [{"run_timeout": 0}, {"checkpoint_every": 0}, {"nonsense": 1}], ids=str
)
def test_bad_options_of_a_class_are_refused(options: Any) -> None:
    (name,) = options
    with pytest.raises(InvalidOptionError, match=name):
        workflow(**options)(define(FINE))
