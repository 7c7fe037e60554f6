"""The code blocks of README.md and docs/ do what they say.

Each document runs in a process of its own, as its reader would run it: all its
`python` blocks in one namespace, its `ipython` blocks as the cells of a notebook, which
may await, and the `$ durable` lines of its `console` blocks, in a temporary directory.
A block below `<!-- not executed: reason -->` is left out.
"""

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer
from sybil.region import Lexeme
from sybil.typing import Evaluator

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = [
    path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if path.exists()
]
WITH_BLOCKS = [path for path in DOCUMENTS if "```" in path.read_text()]
SECONDS_MAX = 180  # some pages start dozens of processes, one after the other

NOT_EXECUTED = re.compile(r"<!-- not executed:(?P<reason>[^>]*)-->\s*\Z")
COMMAND = re.compile(r"^\$ (durable\b(?:.*\\\n)*.*)", re.MULTILINE)


def run_commands(example: Example) -> str | None:
    for command in COMMAND.findall(example.parsed):
        # The reader's shell splits and quotes, so a shell does here.
        done = subprocess.run(
            command, shell=True, capture_output=True, text=True, timeout=SECONDS_MAX
        )
        if done.returncode:
            output = f"{done.stdout}{done.stderr}"
            return f"{command!r} exited with {done.returncode}:\n{output}"
    return None


# Makes its loop at the first cell; as in a notebook, it is the loop of them all.
KERNEL = asyncio.Runner()


def run_cell(example: Example) -> None:
    code = compile(
        "\n" * (example.line + example.parsed.line_offset) + example.parsed,
        example.path,
        "exec",
        flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
        dont_inherit=True,
    )

    async def run() -> None:
        awaited = eval(code, example.namespace)  # noqa: S307 - a page of ours
        if inspect.isawaitable(awaited):
            await awaited

    KERNEL.run(run())


EVALUATORS: dict[str, Evaluator] = {
    "python": PythonEvaluator(),
    "ipython": run_cell,
    "console": run_commands,
}
# Pages name servers by such URLs, which stand for servers of the tests.
SERVERS = {"postgres_url": "postgresql://app:secret@db.example/app"}
# A block in another spelling of `python` would never run and nobody would notice.
FENCES = FencedCodeBlockLexer(r"[^\n]*?(?:py|console)[^\n]*")


def find_executed_blocks(document: Document) -> Iterator[Region]:
    for block in FENCES(document):
        place = document.line_column(block.start)
        comment = NOT_EXECUTED.search(document.text, 0, block.start)
        if comment:
            if not comment["reason"].strip():
                raise ValueError(f"{place}: no reason for leaving the block out")
            continue
        language = block.lexemes["language"]
        if language not in EVALUATORS:
            raise ValueError(
                f"{place}: spell {language!r} as python, ipython or console"
            )
        source = block.lexemes["source"]
        text = str(source)
        for name, url in SERVERS.items():
            text = text.replace(url, os.environ.get(name, url))
        block.parsed = Lexeme(text, source.offset, source.line_offset)
        block.evaluator = EVALUATORS[language]
        yield block


def run_document(path: str) -> None:
    document = Document.parse(path, find_executed_blocks)
    # Blocks define what a script would, so the module that they fill has its name;
    # pickling and type hints look names up there.
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.path.insert(0, "")  # a page may import what it wrote to its folder
    document.namespace = module.__dict__
    try:
        for example in document.examples():
            example.evaluate()
    finally:
        KERNEL.close()


def run_in_own_process(
    document: Path, directory: Path, **urls: str
) -> subprocess.CompletedProcess[str]:
    scripts = str(Path(sys.executable).parent)
    return subprocess.run(
        [sys.executable, "-W", "error", __file__, str(document)],
        cwd=directory,
        env={
            **os.environ,
            **urls,
            "PATH": os.pathsep.join([scripts, os.environ["PATH"]]),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX,
    )


@pytest.mark.slow
@pytest.mark.sweep(6)
@pytest.mark.timeout(SECONDS_MAX + 10)
@pytest.mark.parametrize(
    "document", WITH_BLOCKS, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_code_blocks_run(
    document: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    text = document.read_text()
    needed = [name for name, url in SERVERS.items() if url in text]
    urls = {name: str(request.getfixturevalue(name)) for name in needed}
    done = run_in_own_process(document, tmp_path, **urls)
    assert done.returncode == 0, done.stdout


def starts_unguarded(tree: ast.Module) -> Iterator[int]:
    """The lines that run an event loop or open an engine whenever they are imported."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.If)
    for statement in tree.body:
        if isinstance(statement, definitions):
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in STARTS:
                yield node.lineno


STARTS = ("asyncio.run", "asyncio.Runner", "SyncEngine", "durable.SyncEngine")


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_programs_can_be_imported_by_a_worker(document: Path) -> None:
    text = document.read_text()
    for block in FENCES(Document(text, str(document))):
        if block.lexemes["language"] == "python":
            source = block.lexemes["source"]
            lines = list(starts_unguarded(ast.parse(source)))
            assert not lines, f"put it under the guard, lines {lines} of:\n{source}"


SOUND = """
```python
from pathlib import Path
from typing import get_type_hints
class Order:
    before: "Order"
Path("order.txt").write_text("42")
```
```ipython
import asyncio
await asyncio.sleep(0)
event = asyncio.Event()
```
```ipython
asyncio.get_running_loop().call_soon(event.set)
await event.wait()
```
- ```python
  assert get_type_hints(Order) == {"before": Order}
  assert Path("order.txt").read_text() == "42"
  ```

<!-- not executed: it would never end -->

```python
while True: ...
```
```console
$ cat nothing
$ durable --help
an output that differs is no fault
```
```toml
python = true
```
"""


@pytest.mark.slow
def test_sound_document_runs(tmp_path: Path) -> None:
    (tmp_path / "sound.md").write_text(SOUND)

    done = run_in_own_process(tmp_path / "sound.md", tmp_path)

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("\n\n```python\nx = 1\nassert x == 2\n```\n", "line 5"),
        ("```py\nx = 1\n```\n", "spell 'py' as python"),
        ("```python title\nx = 1\n```\n", "spell 'python title' as python"),
        ("```ipython\nx = 1\nassert x == 2\n```\n", "AssertionError"),
        ("<!-- not executed: -->\n```python\nx = 1\n```\n", "no reason"),
        ("```console\n$ durable \\\n  --no-such-option\n```\n", "exited with 2"),
        ("```python\nimport warnings\nwarnings.warn('old')\n```\n", "UserWarning: old"),
    ],
)
def test_faulty_document_fails(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "faulty.md").write_text(text)

    done = run_in_own_process(tmp_path / "faulty.md", tmp_path)

    assert done.returncode == 1
    assert re.search(complaint, done.stdout), done.stdout


if __name__ == "__main__":
    run_document(sys.argv[1])
