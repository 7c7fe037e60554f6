"""Modules by name and path, workflows in them, arguments as JSON."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from durable import workflow
from durable.api.registry import REGISTRY
from durable.api.workflows.workflow import Workflow
from durable.cli.reporting import UsersCodeError
from durable.cli.user_code.loading import (
    find_workflow,
    load_module,
    load_modules,
    make_call,
    plain_values,
    read_arguments,
)
from durable.errors import DefinitionError, InvalidCallError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = dict(REGISTRY.workflows)
    yield tmp_path
    REGISTRY.workflows.clear()
    REGISTRY.workflows.update(before)


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def flow(name: str) -> str:
    return (
        "from durable import workflow\n"
        f"@workflow(name={name!r})\nasync def named(x: int = 1) -> int: return x\n"
    )


# --- modules --------------------------------------------------------------------------


def test_module_is_found_by_name_from_the_current_folder(folder: Path) -> None:
    write(folder, "loaded_pkg/__init__.py", "")
    write(folder, "loaded_pkg/flows.py", flow("by_name"))

    found = find_workflow("loaded_pkg.flows:named")

    assert isinstance(found, Workflow)
    assert found.name == "by_name"


def test_module_is_found_by_path_and_sees_its_neighbours(folder: Path) -> None:
    write(folder, "deep/neighbour.py", "NAME = 'by_path'\n")
    write(
        folder,
        "deep/flows_by_path.py",
        "import neighbour\nassert neighbour.NAME\n" + flow("by_path"),
    )

    found = find_workflow("deep/flows_by_path.py:by_path")

    assert found.name == "by_path"
    # The name that an import would give it, so that exceptions are recognised.
    assert found.function.__module__ == "flows_by_path"
    assert load_module("deep/flows_by_path.py") is sys.modules["flows_by_path"]


def test_file_named_like_a_loaded_module_does_not_replace_it(folder: Path) -> None:
    write(folder, "json.py", flow("not_json"))
    before = sys.modules["json"]

    found = find_workflow("./json.py:named")

    assert found.function.__module__ == f"{folder.name}_json"
    assert sys.modules["json"] is before


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("no_such_module:x", "There is no module 'no_such_module'"),
        ("no_such_pkg.module:x", "There is no module 'no_such_pkg.module'"),
        ("no_such_file.py:x", "There is no file"),
        ("holder:missing", "has no workflow 'missing'; it has: held"),
        ("holder:NUMBER", "has no workflow 'NUMBER'"),
    ],
)
def test_what_is_not_there_is_wrong_usage(
    target: str, complaint: str, folder: Path
) -> None:
    write(folder, "holder.py", "NUMBER = 3\n" + flow("held"))

    with pytest.raises(click.UsageError) as raised:
        find_workflow(target)

    assert complaint in raised.value.format_message()


def test_definition_where_a_module_is_wanted_is_wrong_usage(folder: Path) -> None:
    write(folder, "holder.py", flow("held"))

    with pytest.raises(click.UsageError, match="give 'holder', without 'held'"):
        load_modules(("holder:held",))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n1 / 0\n", r"ZeroDivisionError: division by zero \(broken\.py:2\)"),
        ("import no_such_dependency\n", "No module named 'no_such_dependency'"),
        ("def f(:\n", "SyntaxError"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(broken\.py:2\)"),
    ],
    ids=["raises", "lacks a dependency", "does not parse", "exits"],
)
@pytest.mark.parametrize("name", ["broken", "broken.py"])
def test_module_that_cannot_be_imported_is_named_with_the_line(
    name: str, text: str, complaint: str, folder: Path
) -> None:
    write(folder, "broken.py", text)

    with pytest.raises(UsersCodeError, match=complaint):
        load_module(name)

    assert "broken" not in sys.modules


def test_decorator_that_refuses_speaks_for_itself(folder: Path) -> None:
    write(folder, "refused.py", "from durable import workflow\nworkflow(lambda: 1)\n")

    with pytest.raises(DefinitionError, match="lambda"):
        load_module("refused")


# --- input ----------------------------------------------------------------------------


@dataclass
class Order:
    id: int
    items: tuple[str, ...]


@workflow(name="loading_order")
async def place(order: Order, gift: bool = False, *, note: str = "") -> None: ...


@pytest.mark.parametrize(
    "text",
    [
        '[{"id": 1, "items": ["a"]}, true, "x"]',
        '{"order": {"id": 1, "items": ["a"]}, "gift": true, "note": "x"}',
    ],
)
def test_arguments_are_read_by_the_annotations(text: str) -> None:
    if text.startswith("["):
        with pytest.raises(InvalidCallError):  # `note` has no position
            make_call(place, read_arguments((), text))
        text = text.replace(', "x"]', "]")
    call = make_call(place, read_arguments((), text))

    order, gift, *_ = place.call_signature.decode(call.input)
    assert (order, gift) == (Order(1, ("a",)), True)


def test_defaults_between_given_arguments_are_filled_in() -> None:
    text = '{"order": {"id": 1, "items": []}, "note": "x"}'

    call = make_call(place, read_arguments((), text))

    assert place.call_signature.decode(call.input) == [Order(1, ()), False, "x"]


def test_value_of_another_type_is_wrong_usage_and_says_where() -> None:
    with pytest.raises(click.UsageError) as raised:
        make_call(place, read_arguments((), '[{"id": "one", "items": []}]'))

    message = raised.value.format_message()
    assert "argument 'order'" in message
    assert "$.id" in message
    assert "recorded" not in message


@pytest.mark.parametrize("text", ["{}", "[]", '{"ordr": 1}', "[1, 2, 3, 4]"])
def test_arguments_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(InvalidCallError, match="called wrongly"):
        make_call(place, read_arguments((), text))


@pytest.mark.parametrize("text", ["", "3", '"text"', "null", "[", "[NaN]", "@none"])
def test_input_that_is_neither_array_nor_object_is_wrong_usage(text: str) -> None:
    with pytest.raises(click.UsageError, match="--input"):
        read_arguments((), text)


def test_input_may_stand_in_a_file(folder: Path) -> None:
    (folder / "input.json").write_text("[1, 2]")

    assert plain_values(read_arguments((), "@input.json"), "") == [1, 2]
    assert plain_values(read_arguments((), None), "") == []


def test_arguments_may_stand_one_by_one(folder: Path) -> None:
    (folder / "order.json").write_text('{"id": 1, "items": ["a"]}')

    call = make_call(place, read_arguments(("@order.json", "true"), None))

    order, gift, *_ = place.call_signature.decode(call.input)
    assert (order, gift) == (Order(1, ("a",)), True)
    assert plain_values(read_arguments(("-5", '"tea"'), None), "") == [-5, "tea"]


@pytest.mark.parametrize(
    ("values", "text", "message"),
    [
        (("tea",), None, "Argument 1 is 'tea', which is no JSON"),
        (("1", "@none"), None, "argument 2 names the file 'none'"),
        (("--qty", "5"), None, "--qty"),
        (("5",), "[5]", "Argument 1 is '5', but there is --input, too"),
    ],
)
def test_wrong_arguments_one_by_one_are_wrong_usage(
    folder: Path, values: tuple[str, ...], text: str | None, message: str
) -> None:
    with pytest.raises(click.UsageError) as raised:
        read_arguments(values, text)

    assert message in raised.value.format_message()


def test_keywords_without_code_are_wrong_usage() -> None:
    with pytest.raises(click.UsageError, match="keyword arguments need"):
        plain_values(read_arguments((), '{"a": 1}'), "")
