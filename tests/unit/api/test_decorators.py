"""What the decorators accept, what they refuse at import, and what they make."""

import asyncio
import functools
import pickle
import threading
import traceback
import types
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, make_dataclass
from typing import Any

import pytest

import durable
from durable import Activity, Engine, RetryPolicy, Workflow, activity, workflow
from durable.api.registry import REGISTRY, Registry
from durable.core.history.payload import NULL
from durable.errors import (
    DefinitionError,
    InvalidCallError,
    InvalidDurationError,
    InvalidOptionError,
    NotRegisteredError,
    UndecodableError,
)
from durable.options import ActivityCancellationType, ActivityOptions


@activity(name="decorators.plain")
def plain(a: int, b: int = 2) -> int:
    """Add."""
    return a + b


@activity(name="decorators.asynchronous", retry=None)
async def asynchronous(a: int) -> int:
    return a


@workflow(name="decorators.flow", version="1.0.0", run_timeout="1h")
async def flow(a: int, *, b: str = "x") -> str:
    """Repeat."""
    return b * a


# --- refusals (F5) --------------------------------------------------------------------


class Holder:
    def method(self) -> None: ...

    async def async_method(self) -> None: ...

    @staticmethod
    def static() -> None: ...

    def __call__(self) -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


async def fine() -> None: ...


WRONG: list[tuple[str, Any, str]] = [
    ("decorated activity", asynchronous, "decorated already"),
    ("decorated workflow", flow, "decorated already"),
    ("lambda", lambda: None, "a lambda"),
    ("partial", functools.partial(fine), "no function"),
    ("method", Holder.method, "the method Holder.method"),
    ("async method", Holder.async_method, "the method Holder.async_method"),
    ("static method object", vars(Holder)["static"], "static or class method"),
    ("bound method", Holder().async_method, "no function"),
    ("class", Holder, "the class Holder"),
    ("callable object", Holder(), "no function"),
    ("generator", generator, "the generator generator"),
    ("async generator", async_generator, "the generator async_generator"),
    ("builtin", len, "no function"),
    ("number", 5, "no function"),
    ("none by name", "text", "no function"),
]


@pytest.mark.parametrize("decorate", [activity, workflow])
@pytest.mark.parametrize(
    ("thing", "message"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG]
)
def test_what_cannot_be_served_is_refused_with_the_fix(
    decorate: Any, thing: Any, message: str
) -> None:
    with pytest.raises(DefinitionError, match=message) as caught:
        decorate(thing)
    assert caught.value.hint
    with pytest.raises(DefinitionError, match=message):
        decorate(name="other")(thing)


def test_plain_function_is_no_workflow() -> None:
    def plain_function() -> None: ...

    with pytest.raises(DefinitionError, match="is not async"):
        workflow(plain_function)  # type: ignore[arg-type]  # the fault under test


def test_two_functions_of_one_name_clash_and_both_places_are_named() -> None:
    with pytest.raises(DefinitionError) as caught:
        activity(name="decorators.plain")(fine)
    assert "test_decorators.plain" in str(caught.value)
    assert "test_decorators.fine" in str(caught.value)
    assert "line" in str(caught.value)
    assert REGISTRY.get_activity("decorators.plain") is plain


def test_one_name_may_serve_a_workflow_and_an_activity() -> None:
    workflow(name="decorators.plain")(fine)
    assert REGISTRY.get_activity("decorators.plain") is plain


def test_decorating_the_same_function_again_replaces_it() -> None:
    again = activity(name="decorators.asynchronous")(asynchronous.function)
    assert REGISTRY.get_activity("decorators.asynchronous") is again
    activity(name="decorators.asynchronous", retry=None)(asynchronous.function)


def test_local_functions_replace_each_other() -> None:
    def make() -> Activity[[], int]:
        @activity(name="decorators.local")
        async def local() -> int:
            return 1

        return local

    first, second = make(), make()
    assert first is not second
    assert REGISTRY.get_activity("decorators.local") is second


@pytest.mark.parametrize("name", ["", " x", "a\nb", "x" * 256, "\ud800", 5, b"x"])
@pytest.mark.parametrize("decorate", [activity, workflow])
def test_bad_name_is_refused(decorate: Any, name: Any) -> None:
    async def local() -> None: ...

    with pytest.raises(DefinitionError, match="name"):
        decorate(name=name)(local)


@pytest.mark.parametrize("decorate", [activity, workflow])
def test_signature_that_cannot_be_recorded_is_refused(decorate: Any) -> None:
    async def keywords(**options: int) -> None: ...

    async def both(*rest: int, flag: bool) -> None: ...

    with pytest.raises(DefinitionError, match=r"takes \*\*options"):
        decorate(keywords)
    with pytest.raises(DefinitionError, match=r"both \*args and keyword-only"):
        decorate(both)


def test_annotations_are_resolved_at_the_first_call() -> None:
    async def later(value: int) -> None: ...

    later.__annotations__["value"] = "Later"
    made = activity(later)
    del REGISTRY.activities["later"]  # or no engine of other tests would open
    with pytest.raises(DefinitionError, match=r"annotations of 'later'.*Later"):
        made.call_signature.hints()


@dataclass
class Paid:
    receipt: str


class Lock:
    """It is no data."""


def _rest(*values: Paid | Lock) -> None: ...


Incomplete = make_dataclass("Incomplete", [("later", "Nowhere")])


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ("Nowhere", r"annotations of 'decorators\.odd'.*Nowhere"),
        (Paid | Lock, r"result of 'decorators\.odd'.*test_decorators\.py:\d+"),
    ],
)
@pytest.mark.parametrize("decorate", [activity, workflow])
async def test_annotations_are_checked_when_an_engine_opens(
    annotation: Any, message: str, decorate: Any
) -> None:
    async def odd() -> Any: ...

    odd.__annotations__["return"] = annotation
    made = decorate(name="decorators.odd")(odd)
    REGISTRY.activities.pop("decorators.odd", None)
    REGISTRY.workflows.pop("decorators.odd", None)
    with pytest.raises(DefinitionError, match=message):
        await Engine("memory://", definitions=[made]).open()
    async with Engine("memory://", definitions=[made], worker=False):
        pass  # it runs nothing of it


def odd_workflow() -> type[Any]:
    class Odd:
        @durable.run
        async def run(self) -> None: ...

        @durable.signal
        def told(self, news: int) -> None: ...

        @durable.query
        def asked(self, question: int) -> int:
            return question

        @durable.update
        def changed(self, change: int) -> int:
            return change

        @changed.validator
        def check_changed(self, change: int) -> None: ...

    return Odd


def odd_entity() -> type[Any]:
    class Odd:
        total: int = 0

        @durable.exclusive
        def add(self, n: int) -> int:
            return n

        @durable.shared
        def read(self, n: int) -> int:
            return n

    return Odd


MISTAKEN: list[tuple[Any, str, str]] = [
    (odd_workflow, "told", "news"),
    (odd_workflow, "asked", "question"),
    (odd_workflow, "asked", "return"),
    (odd_workflow, "changed", "return"),
    (odd_entity, "add", "n"),
    (odd_entity, "add", "return"),
    (odd_entity, "read", "n"),
    (odd_entity, "read", "return"),
]


@pytest.mark.parametrize("annotation", ["Nowhere", Paid | Lock, Incomplete])
@pytest.mark.parametrize(
    ("make", "method", "parameter"),
    MISTAKEN,
    ids=[f"{method}-{parameter}" for _, method, parameter in MISTAKEN],
)
async def test_annotations_of_methods_are_checked_when_an_engine_opens(
    annotation: Any, make: Any, method: str, parameter: str
) -> None:
    cls = make()
    vars(cls)[method].__annotations__[parameter] = annotation
    text = await refusal_of(cls)
    assert f"{method!r} of" in text
    assert "decorators.odd" in text
    assert ("the result" if parameter == "return" else repr(parameter)) in text
    assert f"{__file__}:" in text


@pytest.mark.parametrize("annotation", ["Nowhere", Paid | Lock])
async def test_annotations_of_validators_are_checked_when_an_engine_opens(
    annotation: Any,
) -> None:
    cls = odd_workflow()
    for name in ("changed", "check_changed"):
        vars(cls)[name].__annotations__["change"] = annotation
    assert "'changed' of workflow 'decorators.odd'" in await refusal_of(cls)
    cls = odd_workflow()
    vars(cls)["check_changed"].__annotations__["return"] = annotation
    if annotation != "Nowhere":
        with pytest.raises(pytest.fail.Exception):
            await refusal_of(cls)  # nothing that it returns is recorded
    else:
        text = await refusal_of(cls)
        assert "validator of update 'changed' of workflow 'decorators.odd'" in text


async def test_annotations_of_a_state_are_checked_when_an_engine_opens() -> None:
    cls = odd_entity()
    cls.__annotations__["total"] = Paid | Lock
    text = await refusal_of(cls)
    assert "The state of 'entity:decorators.odd'" in text
    assert f"{__file__}:" in text


async def refusal_of(cls: type[Any]) -> str:
    """What an engine says that shall run the class."""
    decorate: Any = durable.entity if hasattr(cls, "add") else durable.workflow
    made = decorate(name="decorators.odd")(cls)
    for name in ("decorators.odd", "entity:decorators.odd"):
        REGISTRY.workflows.pop(name, None)
    async with Engine("memory://", definitions=[made], worker=False):
        pass  # it runs nothing of it
    with pytest.raises(DefinitionError) as caught:
        await Engine("memory://", definitions=[made]).open()
    return str(caught.value)


async def test_annotations_of_the_rest_are_checked_when_an_engine_opens() -> None:
    made = activity(name="decorators.rest")(_rest)
    del REGISTRY.activities["decorators.rest"]
    with pytest.raises(DefinitionError, match=r"1 of 'decorators\.rest'.*defined at"):
        await Engine("memory://", definitions=[made]).open()


# --- options --------------------------------------------------------------------------

BAD_OPTIONS: list[dict[str, Any]] = [
    {"start_to_close_timeout": 0},
    {"start_to_close_timeout": -1},
    {"start_to_close_timeout": float("nan")},
    {"start_to_close_timeout": "soon"},
    {"schedule_to_close_timeout": 0},
    {"schedule_to_start_timeout": 0},
    {"start_to_close_timeout": None},
    {"retry": 3},
    {"retry": "always"},
    {"cancellation_type": "try_cancel"},
    {"effect": 1},
    {"at_most_once": 1},
    {"match_arguments": None},
    {"summary": 5},
    {"no_such_option": 1},
]


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_bad_activity_option_is_refused_by_name(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises((InvalidOptionError, InvalidDurationError), match=name):
        activity(**options)(fine)
    with pytest.raises((InvalidOptionError, InvalidDurationError), match=name):
        plain.options(**options)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"verify": fine}, r"@activity\(verify=\.\.\.\)"),
        ({"run_in": "process"}, r"@activity\(run_in=\.\.\.\)"),
    ],
)
def test_what_is_no_option_of_a_call_is_named_with_its_place(
    options: Any, hint: str
) -> None:
    with pytest.raises(InvalidOptionError, match=hint):
        plain.options(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"run_timeout": 0},
        {"execution_timeout": -1},
        {"task_queue": ""},
        {"fail_on": ValueError},
        {"park_on": ("ValueError",)},
        {"no_such_option": 1},
    ],
    ids=str,
)
def test_bad_workflow_option_is_refused_by_name(options: Any) -> None:
    (name,) = options
    with pytest.raises(
        (InvalidOptionError, InvalidDurationError, ValueError), match=name
    ):
        workflow(**options)(fine)


def test_options_of_one_call_leave_the_activity_as_it_was() -> None:
    once = plain.options(retry=None, start_to_close_timeout="5m", summary="x")
    assert once.name == plain.name
    assert once is not plain
    assert REGISTRY.get_activity(plain.name) is plain
    assert "5" not in repr(plain)


def test_options_take_every_known_key() -> None:
    activity(
        name="decorators.all",
        retry=RetryPolicy(max_attempts=2),
        start_to_close_timeout=1,
        schedule_to_close_timeout="1h",
        schedule_to_start_timeout=5,
        cancellation_type=ActivityCancellationType.ABANDON,
        effect="once",
        match_arguments=False,
        summary="label",
    )(fine)


@pytest.mark.parametrize(
    ("options", "effect"),
    [
        ([{"at_most_once": True}], "once"),
        ([{"at_most_once": True, "effect": "once"}], "once"),
        ([{"at_most_once": True}, {"at_most_once": False}], "idempotent"),
        ([{"at_most_once": True}, {"effect": "read"}], "read"),
        ([{"effect": "read"}, {"at_most_once": False}], "read"),
        ([{"effect": "once"}, {"summary": "s"}], "once"),
    ],
)
def test_at_most_once_is_the_effect_once(
    options: list[ActivityOptions], effect: str
) -> None:
    given = plain
    for one in options:
        given = given.options(**one)
    found = pickle.loads(pickle.dumps(given)).given_options  # noqa: S301 - our own bytes
    assert found["effect"] == effect
    assert found["at_most_once"] is (effect == "once")


def test_at_most_once_does_not_contradict_the_effect() -> None:
    with pytest.raises(InvalidOptionError, match="give one of them"):
        plain.options(at_most_once=True, effect="read")


# --- what they make -------------------------------------------------------------------


def test_activity_outside_of_a_workflow_just_runs() -> None:
    async def main() -> list[int]:
        return [await plain(1), await plain(1, b=5), await asynchronous(7)]

    assert asyncio.run(main()) == [3, 6, 7]


def test_plain_activity_runs_in_a_thread() -> None:
    names: list[str] = []

    def where() -> None:
        names.append(threading.current_thread().name)

    asyncio.run(activity(name="decorators.where")(where)())
    assert names[0] != threading.main_thread().name


def test_wrong_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(InvalidCallError, match=r"decorators.flow.*missing"):
        flow()  # type: ignore[call-arg]  # the fault under test
    with pytest.raises(InvalidCallError, match="unexpected keyword"):
        flow(1, c=2)  # type: ignore[call-arg]  # the fault under test
    with pytest.raises(InvalidCallError, match=r"decorators.plain"):
        asyncio.run(plain(1, 2, 3))  # type: ignore[call-arg]  # the fault under test


def test_call_of_a_workflow_is_a_value_that_cannot_be_awaited() -> None:
    call = flow(2)
    assert "decorators.flow" in repr(call)

    async def main() -> None:
        await call

    with pytest.raises(InvalidCallError, match="awaited") as caught:
        asyncio.run(main())
    assert "engine" in str(caught.value)
    call.close()


def test_default_of_a_parameter_is_in_no_error() -> None:
    @workflow(name="decorators.secret")
    async def secret(a: int, word: str = "hunter2") -> None: ...

    call: Any = secret
    for args, names in (((), {}), ((1, "x", 3), {}), ((), {"b": 1})):
        with pytest.raises(InvalidCallError, match=r"word: str = \.\.\.") as caught:
            call(*args, **names)
        assert "hunter2" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(UndecodableError) as undecodable:
        secret.call_signature.decode((NULL,) * 3)
    assert "hunter2" not in str(undecodable.value)


@pytest.mark.parametrize("definition", [plain, flow])
def test_definition_pickles_by_its_name(definition: Any) -> None:
    assert pickle.loads(pickle.dumps(definition)) is definition  # noqa: S301 - our own bytes


def test_definition_keeps_its_name_and_docstring() -> None:
    assert plain.__doc__ == "Add."
    assert flow.__doc__ == "Repeat."
    for definition in (plain, flow):
        assert definition.name in repr(definition)
    assert isinstance(flow, Workflow)
    assert (flow.own_version, flow.run_timeout) == ("1.0.0", 3_600_000_000)


# --- registries -----------------------------------------------------------------------


def test_limited_registry_knows_what_it_was_given() -> None:
    limited = REGISTRY.limited_to([plain, flow])
    assert list(limited.activities) == ["decorators.plain"]
    assert list(limited.workflows) == ["decorators.flow"]
    with pytest.raises(NotRegisteredError, match=r"known are: 'decorators.plain'"):
        limited.get_activity("decorators.asynchronous")


def test_limited_registry_takes_modules() -> None:
    module = types.ModuleType("module")
    vars(module).update(flow=flow, other=5)
    assert list(REGISTRY.limited_to([module]).workflows) == ["decorators.flow"]


@pytest.mark.parametrize("thing", [fine, 5, "decorators.flow", types.ModuleType("m")])
def test_limited_registry_refuses_what_is_no_definition(thing: Any) -> None:
    with pytest.raises(DefinitionError, match="neither a workflow"):
        REGISTRY.limited_to([thing])


def test_unknown_name_says_what_is_known_and_how_to_keep_an_old_one() -> None:
    with pytest.raises(NotRegisteredError) as caught:
        Registry().get_workflow("gone")
    assert "'gone'" in str(caught.value)
    assert "@workflow(name='gone')" in str(caught.value)
