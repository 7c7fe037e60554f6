"""Rules of style that no linter knows, and proof that each rule can fail."""

import ast
import importlib
import inspect
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent

SIZED_FOLDERS = {"durable", "tests", "examples", "migrations"}
FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
# The reason of an oversized file stands near its top, where a reader meets it first.
SIZE_REASON_LINES = 15
SIZE_REASON = re.compile(r"#\s*size:\s*\S")

VAGUE_NAMES = {"base", "common", "helpers", "manager", "utils"}
TIME_OF_DAY = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "datetime.utcnow",
    "datetime.datetime.now",
    "datetime.datetime.utcnow",
}
UNFINISHED_WORK = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
MACHINE_PATH = re.compile(r"(^|[^\w.-])/(work|root|home/\w+)/")
INDEX_ADDRESS = re.compile(r"https?://\S*(pypi|pythonhosted|npmjs|/simple\b)", re.I)

IGNORE = re.compile(
    r"#\s*(?:type|pyright|mypy|ruff):\s*(?:ignore|disable)|#\s*(?:ruff:\s*)?noqa", re.I
)
# As in `ignore[its-rule]  # its reason` and `noqa: X123 - its reason`.
REASONED_IGNORE = re.compile(
    r"#\s*(?:type|pyright|ruff):\s*(?:ignore|disable)\[[\w, -]+\]\s+#\s*\w"
    r"|#\s*(?:ruff:\s*)?noqa:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*\s+-\s+\w"
)


@dataclass(frozen=True)
class SourceFile:
    path: PurePosixPath
    text: str

    @property
    def is_python(self) -> bool:
        return self.path.suffix == ".py"

    @property
    def folder(self) -> str:
        return self.path.parts[0]

    @cached_property
    def syntax(self) -> ast.Module:
        return ast.parse(self.text, self.path.name)

    def numbered_lines(self) -> Iterator[tuple[int, str]]:
        return enumerate(self.text.splitlines(), start=1)

    def comments(self) -> Iterator[tuple[int, str]]:
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def list_paths(root: Path) -> list[Path]:
    """List what git tracks or would track; without a checkout, all but dot files."""
    if not (root / ".git").exists():
        return [
            path
            for path in root.rglob("*")
            if not any(
                part.startswith(".") or part == "__pycache__"
                for part in path.relative_to(root).parts
            )
        ]
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return [root / name for name in listing.split("\0") if name]


def read_tree(root: Path) -> Iterator[SourceFile]:
    for path in sorted(list_paths(root)):
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        yield SourceFile(PurePosixPath(path.relative_to(root).as_posix()), text)


def find_oversized(source: SourceFile) -> Iterator[str]:
    if not source.is_python or source.folder not in SIZED_FOLDERS:
        return
    lines = source.text.splitlines()
    if any(SIZE_REASON.search(line) for line in lines[:SIZE_REASON_LINES]):
        return
    if len(lines) > FILE_LINES_MAX:
        yield f"{source.path}: {len(lines)} lines, at most {FILE_LINES_MAX}"
    if len(lines) <= FUNCTION_LINES_MAX:
        return
    for node in ast.walk(source.syntax):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                yield (
                    f"{source.path}:{node.lineno}: {node.name} has {length} lines, "
                    f"at most {FUNCTION_LINES_MAX}"
                )


def find_vague_names(source: SourceFile) -> Iterator[str]:
    if source.is_python:
        for part in source.path.with_suffix("").parts:
            if part.strip("_") in VAGUE_NAMES:
                yield f"{source.path}: the name {part!r} does not show its job"


def find_silent_modules(source: SourceFile) -> Iterator[str]:
    if not source.is_python or source.folder != "durable":
        return
    if not ast.get_docstring(source.syntax):
        yield f"{source.path}: no module docstring"


def find_clock_readings(source: SourceFile) -> Iterator[str]:
    if not source.is_python or source.folder != "durable":
        return
    if source.path == PurePosixPath("durable/clock.py"):
        return
    if not any(name.split(".")[-1] in source.text for name in TIME_OF_DAY):
        return
    for node in ast.walk(source.syntax):
        if isinstance(node, ast.Attribute):
            names = {ast.unparse(node)}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        for name in names & TIME_OF_DAY:
            yield (
                f"{source.path}:{node.lineno}: {name} reads the time of day; "
                "take a Clock from durable.clock"
            )


def find_unreasoned_ignores(source: SourceFile) -> Iterator[str]:
    if not source.is_python or not IGNORE.search(source.text):
        return
    for number, comment in source.comments():
        if len(IGNORE.findall(comment)) > len(REASONED_IGNORE.findall(comment)):
            yield f"{source.path}:{number}: no rule or no reason: {comment}"


def find_unfinished_work(source: SourceFile) -> Iterator[str]:
    for number, line in source.numbered_lines():
        if UNFINISHED_WORK.search(line):
            yield f"{source.path}:{number}: unfinished work: {line.strip()}"


def find_machine_paths(source: SourceFile) -> Iterator[str]:
    for number, line in source.numbered_lines():
        if MACHINE_PATH.search(line):
            yield f"{source.path}:{number}: path of one machine: {line.strip()}"


def find_index_addresses(source: SourceFile) -> Iterator[str]:
    for number, line in source.numbered_lines():
        if INDEX_ADDRESS.search(line):
            yield f"{source.path}:{number}: address of an index: {line.strip()}"


Rule = Callable[[SourceFile], Iterator[str]]
RULES: list[Rule] = [
    find_oversized,
    find_vague_names,
    find_silent_modules,
    find_clock_readings,
    find_unreasoned_ignores,
    find_unfinished_work,
    find_machine_paths,
    find_index_addresses,
]
# This file has to spell what these rules forbid.
SPELT_HERE = {find_unfinished_work, find_machine_paths, find_index_addresses}


def find_undocumented(module: ModuleType) -> Iterator[str]:
    """Yield the public names of a module, and their methods, without a docstring."""
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if inspect.isfunction(value) and not inspect.getdoc(value):
            yield name
        if not inspect.isclass(value):
            continue
        # A dataclass without a docstring gets its signature for one.
        if not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("):
            yield name
        for attribute, member in vars(value).items():
            is_documentable = inspect.isroutine(member) or isinstance(
                member, property | classmethod | staticmethod
            )
            if attribute.startswith("_") or not is_documentable:
                continue
            # An override may take the docstring of what it overrides.
            if not inspect.getdoc(getattr(value, attribute)):
                yield f"{name}.{attribute}"


def test_tree_keeps_the_rules() -> None:
    this_file = PurePosixPath("tests/test_tidy.py")
    offences = [
        f"{rule.__name__}: {offence}"
        for source in read_tree(ROOT)  # once: reading and parsing takes the longest
        for rule in RULES
        if not (rule in SPELT_HERE and source.path == this_file)
        for offence in rule(source)
    ]
    assert not offences, "\n".join(["", *offences])


def test_public_names_have_docstrings() -> None:
    undocumented = list(find_undocumented(importlib.import_module("durable")))
    assert not undocumented, f"no docstring: {', '.join(undocumented)}"


LONG_FUNCTION = "def f() -> None:\n" + "    print()\n" * FUNCTION_LINES_MAX
LONG_FILE = "x = 1\n" * (FILE_LINES_MAX + 1)

FAULTS: list[tuple[Rule, str, str]] = [
    (find_oversized, "durable/x.py", LONG_FILE),
    (find_oversized, "tests/unit/test_x.py", LONG_FUNCTION),
    (find_oversized, "migrations/env.py", f"async {LONG_FUNCTION}"),
    (find_oversized, "examples/x.py", f"# size:\n{LONG_FUNCTION}"),
    (
        find_oversized,
        "durable/x.py",
        "\n" * SIZE_REASON_LINES + f"# size: a\n{LONG_FILE}",
    ),
    (find_vague_names, "durable/utils.py", ""),
    (find_vague_names, "durable/core/_base.py", ""),
    (find_vague_names, "tests/common/test_x.py", ""),
    (find_silent_modules, "durable/__init__.py", ""),
    (find_silent_modules, "durable/core/x.py", "x = 1\n"),
    (find_clock_readings, "durable/x.py", "import time\ntime.time()\n"),
    (find_clock_readings, "durable/x.py", "from time import time\n"),
    (find_clock_readings, "durable/x.py", "clock = datetime.utcnow\n"),
    (find_clock_readings, "durable/core/clock.py", "datetime.datetime.now(tz)\n"),
    (find_unreasoned_ignores, "durable/x.py", "x = 1  # type: ignore\n"),
    (find_unreasoned_ignores, "durable/x.py", "x = 1  # type: ignore[misc]\n"),
    (find_unreasoned_ignores, "durable/x.py", "x = 1  # type: ignore  # because\n"),
    (find_unreasoned_ignores, "tests/x.py", "x = 1  # pyright: ignore[reportX]\n"),
    (find_unreasoned_ignores, "tests/x.py", "# mypy: ignore-errors\n"),
    (find_unreasoned_ignores, "examples/x.py", "x = 1  # noqa\n"),
    (find_unreasoned_ignores, "examples/x.py", "x = 1  # noqa: E501\n"),
    (find_unreasoned_ignores, "examples/x.py", "# ruff: noqa\n"),
    (find_unreasoned_ignores, "examples/x.py", "x = 1  # ruff: ignore[E501]\n"),
    (
        find_unreasoned_ignores,
        "durable/x.py",
        "x = 1  # type: ignore[misc]  # noqa: E501 - the reason of one of the two\n",
    ),
    (find_unfinished_work, "durable/x.py", "# TODO: more\n"),
    (find_unfinished_work, "docs/index.md", "This is a HACK.\n"),
    (find_machine_paths, "Makefile", "run:\n\tcd /home/someone/checkout\n"),
    (find_machine_paths, "docs/index.md", "/work/main/\n"),
    (find_index_addresses, "setup.cfg", "index = https://index.example/simple/\n"),
    (find_index_addresses, "docs/index.md", "See http://pypi.example/durable.\n"),
]

CLEAN_FILES = {
    "durable/clock.py": '"""Reads the time."""\nimport time\nnow = time.time()\n',
    "durable/x.py": '"""Says time.time() and # noqa in text only."""\nloop.time()\n',
    "durable/y.py": f'"""Long."""\n# size: a table of events\n{LONG_FILE}',
    "durable/z.py": '"""Ignores."""\n'
    "x = 1  # type: ignore[misc, no-any-return]  # the library is untyped\n"
    "x = 1  # pyright: ignore[reportAny]  # the library is untyped\n"
    "x = 1  # noqa: E501, S608 - the table's name is a constant\n",
    "docs/index.md": "See https://example.com/simplest, .../work/ and network/root/.\n",
    "docs/long.md": LONG_FILE,
}


def plant(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def offences_in(root: Path, rule: Rule) -> list[str]:
    return [offence for source in read_tree(root) for offence in rule(source)]


@pytest.mark.parametrize(("rule", "path", "text"), FAULTS, ids=range(len(FAULTS)))
def test_rule_reports_a_planted_fault(
    rule: Rule, path: str, text: str, tmp_path: Path
) -> None:
    plant(tmp_path, path, text)

    (offence,) = offences_in(tmp_path, rule)

    assert offence.startswith(path)


@pytest.mark.parametrize("rule", RULES)
def test_rule_is_proven_and_accepts_clean_files(rule: Rule, tmp_path: Path) -> None:
    for path, text in CLEAN_FILES.items():
        plant(tmp_path, path, text)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\xff")

    assert offences_in(tmp_path, rule) == []
    assert any(rule is faulty_rule for faulty_rule, _, _ in FAULTS)


def test_tree_of_a_checkout_leaves_out_what_git_ignores(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    for path in (".gitignore", "kept.md", "ignored/x.py"):
        plant(tmp_path, path, "/ignored/\n")

    assert [str(source.path) for source in read_tree(tmp_path)] == [
        ".gitignore",
        "kept.md",
    ]


def test_undocumented_names_are_found() -> None:
    module = ModuleType("planted")
    text = '''
from dataclasses import dataclass
from functools import cached_property
__all__ = ["Bare", "Silent", "Told", "silent", "told", "CONSTANT"]
CONSTANT = 3
def silent(): ...
def told():
    """Tell."""
@dataclass
class Bare:
    x: int
class Silent: ...
class Told:
    """Tell."""
    def __init__(self): ...
    def _private(self): ...
    def told(self):
        """Tell."""
    def silent(self): ...
    @property
    def quiet(self): ...
    @classmethod
    def mute(cls): ...
class Unlisted: ...
'''
    exec(text, module.__dict__)  # noqa: S102 - the text is the one above

    assert sorted(find_undocumented(module)) == [
        "Bare",
        "Silent",
        "Told.mute",
        "Told.quiet",
        "Told.silent",
        "silent",
    ]
