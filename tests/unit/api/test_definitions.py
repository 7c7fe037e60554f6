"""Definitions as values: copied, pickled, wrapped, and imported more than once."""

import asyncio
import copy
import functools
import importlib
import pickle
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from durable import (
    Engine,
    RetryPolicy,
    activity,
    run,
    signal,
    sleep,
    update,
    wait_condition,
    workflow,
)
from durable.api.registry import REGISTRY
from durable.converter.failures import exception_of, failure_of
from durable.errors import DefinitionError


@activity(name="definitions.plain")
def plain(a: int, b: int = 2) -> int:
    return a + b


@workflow(name="definitions.flow")
async def flow(a: int, *, b: str = "x") -> str:
    return b * a


# --- copies ---------------------------------------------------------------------------

COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda value: pickle.loads(pickle.dumps(value)),  # noqa: S301 - our own bytes
]


@pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])
def test_copies_keep_the_options_of_a_call(copied: Callable[[Any], Any]) -> None:
    once = plain.options(
        effect="once",
        retry=RetryPolicy(max_attempts=7, non_retryable=(KeyError,)),
        start_to_close_timeout="5m",
        summary="x",
    )
    found = copied({"held": [once]})["held"][0]
    assert found._options == once._options
    assert found._target.settings == once._target.settings
    assert found._target.settings.at_most_once
    child = flow.options(id="child", memo={"a": 1}, run_timeout="5m")
    found = copied([child])[0]
    assert found.child_options == child.child_options
    assert found.child_target.settings == child.child_target.settings
    call = copied(child(2, b="y"))
    assert call.child_options == child.child_options
    assert call.input == child(2, b="y").input
    assert call.definition.name == flow.name
    assert copied(flow) is flow
    assert copied(plain) is plain


def in_new_process(code: str, input: bytes, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=input,
        capture_output=True,
        cwd=folder,
        check=False,
        timeout=60,
    )
    return (done.stdout + done.stderr).decode()


READ = "import pickle, sys; found = pickle.load(sys.stdin.buffer); print(found)\n"


def test_new_process_reads_a_pickle_by_importing_its_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pickled_app.py").write_text(
        "import durable\n"
        "@durable.activity\n"
        "async def pickled_step(x: int) -> int: return x\n"
        "@durable.workflow\n"
        "async def pickled_flow(x: int) -> int: return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app = importlib.import_module("pickled_app")
    step, run = app.pickled_step, app.pickled_flow
    asked = READ + "print(found._target.settings.at_most_once)"
    once = pickle.dumps(step.options(effect="once"))
    assert in_new_process(asked, once, tmp_path).split("\n")[:2] == [
        "<activity 'pickled_step'>",
        "True",
    ]
    asked = READ + "print(found.child_options)"
    child = pickle.dumps(run.options(id="c"))
    assert in_new_process(asked, child, tmp_path).split("\n")[:2] == [
        "<workflow 'pickled_flow'>",
        "{'id': 'c'}",
    ]
    call = pickle.dumps(run(5))
    assert "<call of workflow 'pickled_flow'>" in in_new_process(READ, call, tmp_path)
    (tmp_path / "pickled_app.py").unlink()
    said = in_new_process(READ, pickle.dumps(step), tmp_path)
    assert "NotRegisteredError: No activity named 'pickled_step'" in said
    assert "its module 'pickled_app' cannot be imported" in said


# --- wrappers, and files with two names -----------------------------------------------


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    return wrapper


def passing_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def unnamed(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


SHARED = """
import durable
@durable.{kind}
@decorate
async def shared_{kind}() -> str: return __name__
"""


def executed(path: Path, name: str, source: str, **names: Any) -> types.ModuleType:
    """The module of a file, run under a name, as an import would."""
    module = types.ModuleType(name)
    module.__file__ = str(path)
    vars(module).update(names)
    sys.modules[name] = module
    exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - our own text
    return module


@pytest.fixture
def _own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(sys.modules)
    yield
    for name in [name for name in sys.modules if name not in before]:
        del sys.modules[name]


@pytest.mark.usefixtures("_own_modules")
@pytest.mark.parametrize(
    ("kind", "decorate"),
    [
        ("activity", logged),
        ("activity", passing_on),
        ("activity", lambda function: function),
        ("workflow", logged),
        ("workflow", lambda function: function),
    ],
    ids=range(5),
)
def test_two_modules_functions_of_one_name_clash_whatever_wraps_them(
    tmp_path: Path, kind: str, decorate: Any
) -> None:
    source = SHARED.format(kind=kind)
    first = executed(tmp_path / "a.py", "wrapped_a", source, decorate=decorate)
    with pytest.raises(DefinitionError) as caught:
        executed(tmp_path / "b.py", "wrapped_b", source, decorate=decorate)
    assert f"wrapped_a.shared_{kind} (line 3)" in str(caught.value)
    assert f"wrapped_b.shared_{kind} (line 3)" in str(caught.value)
    known = REGISTRY.activities if kind == "activity" else REGISTRY.workflows
    kept: Any = known[f"shared_{kind}"]
    assert kept is vars(first)[f"shared_{kind}"]
    del known[f"shared_{kind}"]


@pytest.mark.usefixtures("_own_modules")
@pytest.mark.parametrize("decorate", [logged, passing_on, lambda function: function])
def test_file_imported_under_a_second_name_leaves_its_first_copy(
    tmp_path: Path, decorate: Any, caplog: pytest.LogCaptureFixture
) -> None:
    source = SHARED.format(kind="activity") * 2
    path = tmp_path / f"{decorate.__name__}.py"
    first = executed(path, f"main_{decorate.__name__}", source, decorate=decorate)
    kept = first.shared_activity
    executed(path, f"app.main_{decorate.__name__}", source, decorate=decorate)
    assert REGISTRY.get_activity("shared_activity") is kept
    (record,) = caplog.records
    assert "is imported twice" in record.getMessage()
    assert str(path) in record.getMessage()
    again = executed(path, first.__name__, source, decorate=decorate)
    assert REGISTRY.get_activity("shared_activity") is again.shared_activity
    del sys.modules[first.__name__]
    other = executed(path, "other_name", source, decorate=decorate)
    assert REGISTRY.get_activity("shared_activity") is other.shared_activity
    del REGISTRY.activities["shared_activity"]
    assert len(caplog.records) == 1


async def alpha() -> str:
    return "alpha"


async def beta() -> str:
    return "beta"


def test_two_functions_that_a_decorator_gives_one_name_are_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for function in (alpha, alpha):
        activity(unnamed(function))
    assert not caplog.records
    activity(unnamed(beta))
    (record,) = caplog.records
    assert "registered as activity 'wrapper'" in record.getMessage()


def test_exceptions_of_the_module_that_a_decorator_wraps_are_known(
    tmp_path: Path,
) -> None:
    source = (
        "import durable\n"
        "class OfWrapped(Exception): pass\n"
        "@durable.activity\n"
        "@decorate\n"
        "async def raising() -> None: raise OfWrapped('x')\n"
    )
    found = executed(tmp_path / "r.py", "wrapped_raising", source, decorate=logged)
    failure = failure_of(found.OfWrapped("x"))
    assert isinstance(exception_of(failure), found.OfWrapped)


def test_program_run_as_a_module_keeps_the_definitions_of_main(tmp_path: Path) -> None:
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "__init__.py").write_text("")
    (tmp_path / "twice" / "late.py").write_text("import twice.main\n")
    (tmp_path / "twice" / "main.py").write_text(
        "import asyncio, importlib, logging, durable\n"
        "logging.basicConfig(format='%(levelname)s %(name)s')\n"
        "state = []\n"
        "@durable.activity\n"
        "async def where() -> str: return f'{__name__} {state}'\n"
        "@durable.workflow\n"
        "async def flow() -> list[str]:\n"
        "    first = await where()\n"
        "    importlib.import_module('twice.late')\n"
        "    return [first, await where()]\n"
        "async def main() -> None:\n"
        "    state.append('ready')\n"
        "    async with durable.Engine('memory://') as engine:\n"
        "        print(await engine.execute(flow()))\n"
        "        print(await engine.execute(flow()))\n"
        "if __name__ == '__main__': asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "twice.main"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
        timeout=60,
    )
    here = "__main__ ['ready']"
    assert done.stdout == f"{[here, here]}\n" * 2
    assert done.stderr == "WARNING durable.definitions\n"


@pytest.mark.parametrize("wrap", [passing_on, unnamed])
def test_plain_wrapper_of_an_async_function_is_an_activity(wrap: Any) -> None:
    ran: list[object] = []

    async def add(x: int) -> int:
        ran.append(asyncio.get_running_loop())
        return x + 1

    add.__qualname__ = add.__name__
    step = activity(name=f"definitions.{wrap.__name__}", retry=None)(wrap(add))

    @workflow(name=f"definitions.of_{wrap.__name__}")
    async def calling() -> int:
        return cast("int", await step(1))

    async def main() -> None:
        async with Engine("memory://") as engine:
            assert await engine.execute(calling()) == 2
        assert await step(2) == 3
        assert ran == [asyncio.get_running_loop()] * 2

    asyncio.run(main())


async def test_plain_wrapper_of_an_async_handler_is_awaited() -> None:
    @workflow(name="definitions.Wrapped")
    class Wrapped:
        def __init__(self) -> None:
            self.seen: list[str] = []

        @run
        async def go(self) -> list[str]:
            await wait_condition(lambda: len(self.seen) > 1)
            return self.seen

        @signal
        @passing_on
        async def told(self, text: str) -> None:
            await sleep(0)
            self.seen.append(text)

        @update
        @passing_on
        async def asked(self, text: str) -> str:
            await sleep(0)
            self.seen.append(text)
            return text

    async with Engine("memory://") as engine:
        handle: Any = await engine.start(Wrapped.go(), id="w")
        await handle.signal("told", "a")
        assert await handle.update("asked", "b") == "b"
        assert await handle.result() == ["a", "b"]
