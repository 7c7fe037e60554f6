"""What the design notes say of the code is so: layers, packages, files and links."""

import ast
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs" / "design").glob("*.md"))
README = (ROOT / "docs" / "design" / "README.md").read_text()
FILES_MAX = 13
PLACE = re.compile(r"`(durable/[\w/]+\.py)(?::([\w.]+))?`")


def names_in(path: Path) -> set[str]:
    """What a module defines, methods with their class before them."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found.update(
                f"{node.name}.{member.name}"
                for member in node.body
                if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef)
            )
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_place_that_a_page_names_is_there(page: Path) -> None:
    missing = [
        f"{file}:{name}"
        for file, name in PLACE.findall(page.read_text())
        if not (ROOT / file).is_file() or (name and name not in names_in(ROOT / file))
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_page_is_in_the_list() -> None:
    listed = re.findall(r"^- \[[^]]+\]\((\w[\w-]*\.md)\)", README, re.M)
    assert sorted(listed) == sorted(p.name for p in PAGES if p.name != "README.md")


def test_the_layers_are_those_that_imports_keep_to() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = [
        each["layers"] for each in contracts if each.get("containers") == ["durable"]
    ]
    block = re.search(r"```text\n(.*?)```", README, re.S)
    assert block is not None
    assert block[1].split("\n")[:-1] == layers


def test_no_folder_is_crowded() -> None:
    files = sorted((ROOT / "durable").rglob("*.py"))
    counts = Counter(
        file.parent.relative_to(ROOT).as_posix()
        for file in files
        if not file.name.startswith("__")
    )
    assert {where: n for where, n in counts.items() if n > FILES_MAX} == {}


def test_every_package_is_told_in_its_own_sentence() -> None:
    told = dict(re.findall(r"^- `([\w/]+)`: ((?:.+\n)(?:  .+\n)*)", README, re.M))
    packages = {}
    for init in sorted((ROOT / "durable").glob("*/**/__init__.py")):
        sentence = ast.get_docstring(ast.parse(init.read_text())) or ""
        name = init.parent.relative_to(ROOT / "durable").as_posix()
        packages[name] = sentence.split("\n\n")[0]
    assert {name: " ".join(text.split()) for name, text in told.items()} == packages
