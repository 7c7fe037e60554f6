"""What workflow code may not call is refused where it is the user's doing, for good."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import importlib.metadata
import inspect
import logging
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
import zoneinfo
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import durable
from durable import QueryFailedError, activity, workflow
from durable.core.history import flags
from durable.core.history.events import HistoryEvent
from durable.core.history.flags import Flag
from durable.core.loop import user_code
from durable.errors import ForbiddenInWorkflowError, InvalidOptionError
from durable.testing import replay, replay_at_every_prefix
from durable.testing.driver import Driver
from durable.worker.guards import guards

HERE = __file__


def read_a_file() -> object:
    with open(HERE) as file:
        return file.read()


def set_a_variable() -> None:
    os.environ["DURABLE_TEST_GUARDS"] = "1"


FORBIDDEN: dict[str, Callable[[], object]] = {
    "open": read_a_file,
    "read_text": lambda: pathlib.Path(HERE).read_text(),
    "write_text": lambda: pathlib.Path(HERE + ".never").write_text(""),
    "mkdir": lambda: pathlib.Path(HERE + ".never").mkdir(),
    "iterdir": lambda: list(pathlib.Path(HERE).parent.iterdir()),
    "listdir": lambda: os.listdir("."),
    "remove": lambda: os.remove(HERE + ".never"),
    "rename": lambda: os.rename(HERE + ".never", HERE + ".neither"),
    "glob": lambda: glob.glob("*"),
    "copy": lambda: shutil.copy(HERE, HERE + ".never"),
    "mkdtemp": tempfile.mkdtemp,
    "temporary file": tempfile.TemporaryFile,
    "sqlite3": lambda: sqlite3.connect(":memory:"),
    "input": input,
    "gethostname": socket.gethostname,
    "environ": set_a_variable,
    "chdir": lambda: os.chdir("."),
    "kill": lambda: os.kill(os.getpid(), 0),
    "request": lambda: urllib.request.urlopen("http://127.0.0.1:9", timeout=1),
    "sleep": lambda: time.sleep(60),
    "thread": lambda: threading.Thread(target=print).start(),
    "subprocess": lambda: subprocess.run([sys.executable, "-c", ""], check=False),
    "executor": lambda: asyncio.get_running_loop().run_in_executor(None, print),
}


def line_of(function: Callable[..., object], offset: int = 0) -> str:
    code = getattr(function, "__code__", None)
    if code is None:  # a function of the standard library: where it is called
        return f"{HERE}:"
    return f"{HERE}:{code.co_firstlineno + offset}"


@workflow(name="guards.calling")
async def calling(what: str) -> str:
    FORBIDDEN[what]()
    return "not refused"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_refusal_names_the_users_line(what: str) -> None:
    with pytest.raises(ForbiddenInWorkflowError) as refused:
        Driver(calling(what)).start()
    assert "which cannot be replayed" in refused.value.message
    assert line_of(FORBIDDEN[what])[: len(HERE) + 1] in refused.value.message
    assert "/durable/" not in refused.value.message.replace(HERE, "")
    assert refused.value.hint


@workflow(name="guards.swallowing")
async def swallowing(what: str) -> str:
    with contextlib.suppress(BaseException):
        FORBIDDEN[what]()
    return "went on"


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_refusal_that_code_swallows_fails_the_turn(what: str) -> None:
    with pytest.raises(ForbiddenInWorkflowError, match="cannot be replayed"):
        Driver(swallowing(what)).start()


def test_a_refusal_in_a_task_that_nobody_awaits_fails_the_turn() -> None:
    @workflow(name="guards.leaving")
    async def leaving() -> None:
        async def work() -> None:
            read_a_file()

        tasks = [asyncio.create_task(work())]
        await asyncio.wait(tasks)

    with pytest.raises(ForbiddenInWorkflowError, match=r"open\(\)"):
        Driver(leaving()).start()


def test_a_refusal_that_a_query_swallows_fails_the_query_alone() -> None:
    @workflow(name="guards.asked")
    async def asked() -> str:
        def look() -> str:
            with contextlib.suppress(Exception):
                read_a_file()
            return "seen"

        durable.set_query_handler("look", look)
        await durable.sleep("1h")
        return "done"

    driver = Driver(asked())
    driver.start()
    with pytest.raises((ForbiddenInWorkflowError, QueryFailedError), match="open"):
        driver.query("look")
    driver.fire_next_timer()
    assert driver.result() == "done"


def test_a_line_is_named_where_a_task_is_none_of_the_users() -> None:
    @workflow(name="guards.threading")
    async def threaded() -> None:
        await asyncio.gather(asyncio.to_thread(print))

    with pytest.raises(ForbiddenInWorkflowError, match=r"test_guards\.py:\d+, which"):
        Driver(threaded()).start()


# --- what is no doing of the user's code ----------------------------------------------


class FileKeeper(logging.Handler):
    """A handler of the user's own that opens a file for each line."""

    def emit(self, record: logging.LogRecord) -> None:
        with open(os.devnull, "a") as file:
            file.write(self.format(record))


def log_to_files() -> object:
    log = logging.getLogger("guards.files")
    log.propagate = False
    log.handlers = [logging.FileHandler(os.devnull, delay=True), FileKeeper()]
    log.error("a line")
    for handler in log.handlers:
        handler.close()
    log.handlers = []
    return "logged"


def show_a_traceback() -> object:
    try:
        raise ValueError
    except ValueError:
        return traceback.format_exc()


def import_for_the_first_time() -> object:
    sys.modules.pop("wave", None)
    import wave

    return wave


HARMLESS: dict[str, Callable[[], object]] = {
    "log": log_to_files,
    "traceback": show_a_traceback,
    "source": lambda: inspect.getsource(log_to_files),
    "import": import_for_the_first_time,
    "time zone": lambda: zoneinfo.ZoneInfo.no_cache("Europe/Berlin"),
    "version": lambda: importlib.metadata.version("click"),
    "paths": lambda: pathlib.Path(HERE).resolve() / os.path.join("a", "b"),
    "print": lambda: print("harmless"),
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_the_standard_library_reads_for_itself_is_no_matter(what: str) -> None:
    @workflow(name="guards.harmless")
    async def harmless() -> str:
        HARMLESS[what]()
        return "went on"

    driver = Driver(harmless())
    driver.start()
    assert driver.result() == "went on"


def test_a_module_of_the_users_may_read_files_while_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "guards_settings.py").write_text(
        "from pathlib import Path\nTEXT = Path(__file__).read_text()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    @workflow(name="guards.importing")
    async def importing() -> int:
        import guards_settings  # type: ignore[import-not-found]  # made by this test

        return len(guards_settings.TEXT)

    driver = Driver(importing())
    driver.start()
    assert driver.result() > 0
    sys.modules.pop("guards_settings")


def test_allow_lets_code_do_it_and_nothing_else() -> None:
    @workflow(name="guards.allowed")
    async def allowed(beyond: bool) -> str:
        with durable.allow("the test wants to see that"):
            text = str(read_a_file())
            with contextlib.suppress(NotImplementedError):
                asyncio.get_running_loop().call_soon_threadsafe(print)
        if beyond:
            read_a_file()
        return text[:3]

    driver = Driver(allowed(False))
    driver.start()
    assert driver.result() == '"""'
    with pytest.raises(ForbiddenInWorkflowError):
        Driver(allowed(True)).start()


def test_a_run_that_ends_within_allow_is_torn_down_quietly() -> None:
    @workflow(name="guards.torn")
    async def torn() -> None:
        with durable.allow("the test wants to see that"):
            await durable.sleep("1h")

    driver = Driver(torn())
    driver.start()
    driver.crash()
    driver.fire_next_timer()
    assert driver.is_closed


@pytest.mark.parametrize("why", ["", " ", None])
def test_allow_wants_a_reason(why: Any) -> None:
    with pytest.raises(InvalidOptionError, match="no reason"), durable.allow(why):
        pass


# --- runs of earlier releases ---------------------------------------------------------


@activity(name="guards.step")
async def step() -> int:
    return 1


@workflow(name="guards.reading")
async def reading(what: str) -> str:
    with contextlib.suppress(ForbiddenInWorkflowError):
        FORBIDDEN[what]()
    await step()
    with contextlib.suppress(ForbiddenInWorkflowError):
        FORBIDDEN[what]()
    return "done"


def older(history: list[HistoryEvent]) -> list[HistoryEvent]:
    bits = flags.CURRENT & ~Flag.GUARDED
    return [
        HistoryEvent(e.event_id, e.task_number, e.time, e.attributes, bits)
        for e in history
    ]


def recorded_by_an_earlier_release(what: str) -> Driver:
    driver = Driver(reading(what))
    driver._live().flags = flags.CURRENT & ~Flag.GUARDED
    driver.start()
    return driver


@pytest.mark.parametrize("what", ["open", "sleep"])
def test_a_run_that_began_earlier_goes_on_and_keeps_its_bits(
    what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guards, "_warned", set())
    driver = recorded_by_an_earlier_release(what)
    driver.crash()
    driver.complete(driver.pending[0], 1)
    assert driver.result() == "done"
    assert {event.flags & Flag.GUARDED for event in driver.history} == {0}
    assert replay(driver.history).result == "done"
    assert replay_at_every_prefix(driver.history).result == "done"
    if what == "open":  # was not refused then: one warning, with the line
        (warning,) = [text for text in caplog.messages if "in a new run" in text]
        assert line_of(read_a_file, 1) in warning


def test_a_new_run_is_recorded_as_one() -> None:
    driver = Driver(reading("none"))
    FORBIDDEN["none"] = lambda: None
    try:
        driver.start()
        driver.crash()
        driver.complete(driver.pending[0], 1)
    finally:
        del FORBIDDEN["none"]
    assert {event.flags for event in driver.history} == {flags.CURRENT}


def test_a_replay_of_a_new_run_is_as_strict_as_the_run() -> None:
    driver = recorded_by_an_earlier_release("open")
    driver.complete(driver.pending[0], 1)
    newer = [
        HistoryEvent(e.event_id, e.task_number, e.time, e.attributes, flags.CURRENT)
        for e in driver.history
    ]
    with pytest.raises(ForbiddenInWorkflowError):
        replay(newer)


# --- whose code it is -----------------------------------------------------------------


def test_an_installed_package_that_defines_workflows_is_the_users(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(user_code, "_adopted", [])
    monkeypatch.setattr(user_code, "_owners", {})
    folder = os.sep.join(["", "venv", "site-packages", ""])
    shop = f"{folder}shop{os.sep}flows{os.sep}orders.py"
    other = f"{folder}attrs{os.sep}made.py"
    assert user_code.owner_of(shop) is user_code.Owner.INSTALLED

    user_code.adopt(compile("", shop, "exec"), "shop.flows.orders")

    assert user_code.owner_of(shop) is user_code.Owner.USER
    prices = f"{folder}shop{os.sep}prices.py"
    assert user_code.owner_of(prices) is user_code.Owner.USER
    assert user_code.owner_of(other) is user_code.Owner.INSTALLED


@pytest.mark.parametrize(
    ("file", "owner"),
    [
        (HERE, user_code.Owner.USER),
        ("<stdin>", user_code.Owner.USER),
        (durable.__file__, user_code.Owner.DURABLE),
        (asyncio.__file__, user_code.Owner.STDLIB),
        (pytest.__file__, user_code.Owner.INSTALLED),
        ("<frozen importlib._bootstrap>", user_code.Owner.STDLIB),
    ],
)
def test_code_belongs_to_somebody_by_its_file(
    file: str, owner: user_code.Owner
) -> None:
    assert user_code.owner_of(file) is owner


def test_a_driver_is_guarded_though_no_worker_was_made(tmp_path: Path) -> None:
    program = tmp_path / "unguarded.py"
    program.write_text(
        "import time\n"
        "from durable import workflow\n"
        "from durable.testing import Driver\n"
        "@workflow\n"
        "async def napping() -> None: time.sleep(0)\n"
        "try: Driver(napping()).start()\n"
        "except NotImplementedError as error: print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    assert done.stdout == (
        f"Workflow code called time.sleep(0) at {program}:5, which cannot be"
        " replayed.\n"
    )
