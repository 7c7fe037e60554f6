"""A module may not start the program while a command imports it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from durable import SyncEngine
from durable.api.registry import REGISTRY
from durable.cli.reporting import UsersCodeError
from durable.cli.user_code.loading import load_module

FLOW = """\
import asyncio
from durable import Engine, SyncEngine, workflow
@workflow(name="importing.hello")
async def hello(name: str) -> str:
    return name
async def main():
    async with Engine("sqlite:///never.db") as engine:
        print(await engine.execute(hello("ada")))
"""
LINE = len(FLOW.splitlines()) + 1
IN_A_LOOP = """\
from contextlib import closing
with closing(asyncio.new_event_loop()) as loop:
    assert loop
    loop.{}
"""
LOOP = "runs an event loop"
ENGINE = "opens an engine"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("starting", "guarded", "keeping", "threads"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = dict(REGISTRY.workflows)
    yield tmp_path
    REGISTRY.workflows.clear()
    REGISTRY.workflows.update(before)


@pytest.mark.parametrize(
    ("start", "what", "line"),
    [
        ("asyncio.run(main())", LOOP, 0),
        ("from asyncio import run\nrun(main())", LOOP, 1),
        ("with asyncio.Runner() as runner: runner.run(main())", LOOP, 0),
        (IN_A_LOOP.format("run_until_complete(main())"), LOOP, 3),
        (IN_A_LOOP.format("run_forever()"), LOOP, 3),
        ("import anyio\nanyio.run(main)", LOOP, 1),
        ("def begin():\n    asyncio.run(main())\nbegin()", LOOP, 1),
        ("engine = SyncEngine('sqlite:///never.db').open()", ENGINE, 0),
        ("with SyncEngine('sqlite:///never.db') as engine: pass", ENGINE, 0),
        ("try:\n    asyncio.run(main())\nexcept Exception:\n    pass", LOOP, 1),
        ("try:\n    asyncio.run(main())\nexcept BaseException:\n    pass", LOOP, 1),
    ],
)
def test_starting_is_refused_at_its_line(
    start: str, what: str, line: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "starting.py").write_text(f"{FLOW}{start}\n")

    with pytest.raises(UsersCodeError) as refused:
        load_module("starting.py")

    assert refused.value.message == (
        f"'starting.py' {what} while it is imported (starting.py:{LINE + line});"
        " nothing was started."
    )
    assert 'if __name__ == "__main__":' in str(refused.value)
    assert [path.name for path in folder.iterdir()] == ["starting.py"]
    assert capsys.readouterr().out == ""


def test_a_guarded_program_is_imported(folder: Path) -> None:
    text = f'{FLOW}if __name__ == "__main__":\n    asyncio.run(main())\n'
    (folder / "guarded.py").write_text(text)
    assert load_module("guarded.py").__name__ == "guarded"


def test_what_is_imported_may_run_loops_afterwards(folder: Path) -> None:
    (folder / "keeping.py").write_text(
        f"{FLOW}from asyncio import run\nengine = SyncEngine('memory://')\n"
    )

    module = load_module("keeping.py")

    async def answer() -> int:
        return 42

    assert module.run(answer()) == 42  # kept while it was refused
    assert asyncio.run(answer()) == 42
    with module.engine as engine:
        assert engine.execute(module.hello("ada")) == "ada"
    assert SyncEngine.open.__module__ == "durable.sync"


def test_another_thread_is_left_alone(folder: Path) -> None:
    (folder / "threads.py").write_text(
        f"{FLOW}import threading\n"
        "async def answer(): found.append(42)\n"
        "found = []\n"
        "thread = threading.Thread(target=lambda: asyncio.run(answer()))\n"
        "thread.start(); thread.join()\n"
    )
    assert load_module("threads.py").found == [42]
    assert threading.active_count() < 50
