"""The shops in `examples/`, served by real servers, killed, and started again.

Each is copied out of the repository first. The book of the payment provider is the
outside world: whatever the server and its histories say, it tells who was charged.
"""

import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"
SECONDS_MAX = 60
POLL_SECONDS = 0.05
KILLS = 2
ORDERS_A_ROUND = 4
# A client loads certificates unless it is given a context, and there is one each time.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

# Which servers there are is a sweep of its own; each test knows one at least.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.sweep(1),
    pytest.mark.timeout(SECONDS_MAX * 3),
]

UVICORN = "uvicorn fastapi_shop.app:app --host 127.0.0.1 --port {port}"
GUNICORN = (
    "gunicorn --config flask_shop/gunicorn.conf.py --bind 127.0.0.1:{port}"
    " --no-control-socket"
)
SERVERS = {
    "uvicorn": UVICORN,
    "uvicorn with 2 processes": f"{UVICORN} --workers 2",
    "flask": "flask --app flask_shop.app run --port {port}",
    "gunicorn with 2 processes": GUNICORN,
    "gunicorn with 2 forks of a loaded application": f"{GUNICORN} --preload",
}
SEVERAL = [name for name in SERVERS if "2" in name]
BOTH = ["uvicorn with 2 processes", "gunicorn with 2 processes"]


def reserve_port() -> socket.socket:
    """A port that is a server's also between its lives.

    Nobody who takes any free port gets it while this is open; a server, which names it
    and reuses addresses, does.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


class Server:
    """One server, its processes and its files; started as often as need be."""

    def __init__(self, command: str, folder: Path) -> None:
        self.reserved = reserve_port()
        self.port: int = self.reserved.getsockname()[1]
        self.processes = 2 if "gunicorn" in command or "workers 2" in command else 1
        self.words = ["-m", *command.format(port=self.port).split()]
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log.txt"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.words],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": "", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert self.ask("GET", "/orders/nobody").status_code == 404

    def stop(self, number: int) -> None:
        """Send a signal to all its processes, as a terminal does; wait for the end."""
        if self.process is not None:
            os.killpg(self.process.pid, number)
            self.process.wait(SECONDS_MAX)
            self.process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        self.reserved.close()

    def ask(self, method: str, path: str, json: Any = None) -> httpx.Response:
        """As clients do: ask again while nobody answers."""
        deadline = time.monotonic() + SECONDS_MAX
        url = f"http://127.0.0.1:{self.port}{path}"
        while True:
            try:
                return httpx.request(
                    method,
                    url,
                    json=json,
                    trust_env=False,
                    timeout=SECONDS_MAX,
                    verify=NO_CERTIFICATES,
                )
            except httpx.TransportError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(self.log.read_text()) from error
                time.sleep(POLL_SECONDS)

    def workers(self) -> set[str]:
        """The engines that its processes have opened."""
        path = self.folder / "shop.db"
        with closing(sqlite3.connect(path)) as connection:
            query = "SELECT worker_id FROM durable_workers"
            return {worker_id for (worker_id,) in connection.execute(query)}

    def is_complete(self) -> bool:
        """Whether all its processes have opened their engines."""
        return len(self.workers()) >= self.processes

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS_MAX
        while not is_so():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(POLL_SECONDS)

    def place(self, order_id: str, cents: int) -> httpx.Response:
        order = {"id": order_id, "customer": "ada", "cents": cents}
        return self.ask("POST", "/orders", order)

    def see(self, order_id: str) -> Any:
        return self.ask("GET", f"/orders/{order_id}").json()

    def receipt(self, order_id: str) -> Any:
        found = self.ask("GET", f"/orders/{order_id}/receipt?wait=20")
        assert found.status_code == 200, f"{found.text}\n{self.log.read_text()}"
        return found.json()

    def owner(self, order_id: str) -> int:
        """Which of its processes has something of the order under way."""
        found: list[str] = []

        def has_owner() -> bool:
            found[:] = [self.see(order_id)["run"]["owner"]]
            return found != [None]

        self.wait_until(has_owner)
        return int(found[0].split("-")[0])

    def charges(self) -> list[tuple[str, int]]:
        if not (self.folder / "payments.db").exists():
            return []
        with closing(sqlite3.connect(self.folder / "payments.db", timeout=30)) as book:
            query = "SELECT order_id, cents FROM charges ORDER BY order_id"
            return book.execute(query).fetchall()

    def has_begun_to_charge(self) -> bool:
        try:
            return bool(self.charges())
        except sqlite3.OperationalError:  # the book has no page for charges yet
            return False


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    for name in ("fastapi_shop", "flask_shop"):
        shutil.copytree(EXAMPLES / name, tmp_path / name)
    made = Server(SERVERS.get(request.param, request.param), tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_orders_of_a_server_that_is_killed_are_charged_once(server: Server) -> None:
    moments = random.Random(5)
    placed: dict[str, int] = {}
    with ThreadPoolExecutor(ORDERS_A_ROUND) as clients:
        for number in range(KILLS):
            orders = {
                f"o-{number}-{index}": 100 + index for index in range(ORDERS_A_ROUND)
            }
            answers = [clients.submit(server.place, *order) for order in orders.items()]
            assert server.process is not None
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(moments.random() * 0.3)
            server.kill()
            server.start()
            assert {answer.result().status_code for answer in answers} <= {200, 201}
            placed.update(orders)
    for order_id in placed:
        assert server.receipt(order_id) == {
            "order_id": order_id,
            "status": "shipped",
            "receipt": f"receipt-{order_id}",
            "parcel": f"parcel-{order_id}",
        }

    assert server.charges() == sorted(placed.items())
    page = server.ask("GET", "/orders?status=completed").json()
    assert sorted(run["workflow_id"] for run in page["runs"]) == sorted(placed)
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize("server", SEVERAL, indirect=True)
def test_order_of_a_process_that_is_killed_goes_on_in_another(server: Server) -> None:
    server.place("dear", 200_000)  # waits, and is nobody's
    book = sqlite3.connect(server.folder / "payments.db", timeout=SECONDS_MAX)
    with closing(book):
        book.execute("BEGIN IMMEDIATE")  # nobody is charged meanwhile
        server.place("o", 100)
        os.kill(server.owner("o"), signal.SIGKILL)

    answer = server.ask("POST", "/orders/dear/approval", {"approved": True})

    assert answer.status_code == 202
    assert server.receipt("o")["status"] == "shipped"
    assert server.receipt("dear")["status"] == "shipped"
    assert server.charges() == [("dear", 200_000), ("o", 100)]


@pytest.mark.parametrize(
    ("server", "number"),
    [
        *((name, signal.SIGINT) for name in SERVERS),
        *((name, signal.SIGTERM) for name in BOTH),
    ],
    indirect=["server"],
)
def test_server_that_is_stopped_ends_and_its_order_goes_on(
    server: Server, number: int
) -> None:
    server.place("o", 100)
    server.place("dear", 200_000)
    server.wait_until(server.has_begun_to_charge)
    server.wait_until(server.is_complete)

    server.stop(number)

    assert "Traceback" not in server.log.read_text()
    assert "there still ran" not in server.log.read_text()
    server.start()
    server.ask("POST", "/orders/dear/approval", {"approved": True})
    assert server.receipt("o")["status"] == "shipped"
    assert server.receipt("dear")["status"] == "shipped"
    assert server.charges() == [("dear", 200_000), ("o", 100)]


@pytest.mark.parametrize("server", BOTH, indirect=True)
def test_answers_over_http(server: Server) -> None:
    first = server.place("o", 100)
    again = server.place("o", 100)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = server.place("o", 101)
    assert (other.status_code, other.json()["code"]) == (409, WORDS[409])
    assert "'order'" in other.json()["detail"]
    assert "101" not in other.json()["detail"]

    assert server.place("dear", 200_000).status_code == 201
    slow = server.ask("GET", "/orders/dear/receipt?wait=0")
    assert (slow.status_code, slow.json()["code"]) == (504, WORDS[504])
    server.wait_until(lambda: server.see("dear")["state"] == "waits for approval")
    seen = server.see("dear")["run"]
    assert (seen["workflow_id"], seen["status"]) == ("dear", "running")
    answer = {"approved": False}
    said = server.ask("POST", "/orders/dear/approval", answer)
    assert said.status_code == 202
    assert server.receipt("dear")["status"] == "declined"
    late = server.ask("POST", "/orders/dear/approval", answer)
    assert (late.status_code, late.json()["code"]) == (409, "workflow_closed")

    for path in ("", "/receipt"):
        unknown = server.ask("GET", f"/orders/nobody{path}")
        assert (unknown.status_code, unknown.json()["code"]) == (404, WORDS[404])
    nobody = server.ask("POST", "/orders/nobody/approval", answer)
    assert nobody.status_code == 404
    for wrong in (
        server.place("", 100),
        server.place("o-2", -1),
        server.ask("POST", "/orders", {"id": "o-3"}),
        server.ask("POST", "/orders/o/approval", {"approved": "perhaps"}),
        server.ask("GET", "/orders?status=nope"),
        server.ask("GET", "/orders?after=nope"),
        server.ask("GET", "/orders/%20o"),
    ):
        assert wrong.status_code == 422, wrong.text

    assert server.receipt("o")["status"] == "shipped"
    assert server.ask("GET", "/health").json() == {"status": "ok"}
    page = server.ask("GET", "/orders").json()
    assert [run["workflow_id"] for run in page["runs"]] == ["dear", "o"]
    assert server.charges() == [("o", 100)]


WORDS = {
    404: "workflow_not_found",
    409: "workflow_already_started",
    504: "result_timeout",
}


@pytest.mark.parametrize(
    ("server", "orders"),
    [
        (f"{UVICORN} --reload", "fastapi_shop/orders.py"),
        (f"{SERVERS['flask']} --debug", "flask_shop/orders.py"),
    ],
    indirect=["server"],
    ids=["uvicorn", "flask"],
)
def test_order_goes_on_with_the_code_that_was_saved(
    server: Server, orders: str
) -> None:
    server.place("dear", 200_000)
    before = server.workers()
    source = server.folder / orders
    source.write_text(source.read_text().replace('f"parcel-', 'f"new-parcel-'))

    def has_only_new_code() -> bool:
        """Whether no process that has the old code is left with a share in the work."""
        server.see("dear")  # Flask's process opens its engine when it is asked
        return bool(server.workers()) and not server.workers() & before

    server.wait_until(has_only_new_code)

    server.ask("POST", "/orders/dear/approval", {"approved": True})

    assert server.receipt("dear")["parcel"] == "new-parcel-dear"
    assert server.charges() == [("dear", 200_000)]


LIVES = """
import asyncio
from pathlib import Path
import httpx
from fastapi_shop.app import create_app

app = create_app(Path("shop.db"))

async def live(method, path, json=None):
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as http:
            answer = await http.request(method, path, json=json)
            print(answer.status_code, answer.json().get("status"))

order = {"id": "o", "customer": "ada", "cents": 100}
asyncio.run(live("POST", "/orders", order))
asyncio.run(live("POST", "/orders", order))
asyncio.run(live("GET", "/orders/o/receipt"))
"""


def test_application_lives_more_than_once_in_a_process(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "fastapi_shop", tmp_path / "fastapi_shop")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIVES],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert (done.stdout, done.stderr) == ("201 None\n200 None\n200 shipped\n", "")


def test_suite_of_the_tested_shop_passes(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "tested_shop", tmp_path / "tested_shop")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tested_shop"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS_MAX * 2,  # ten tests, which start processes of their own
    )
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


# --- the programs of the pages --------------------------------------------------------

WSGI = """
from django.core.wsgi import get_wsgi_application

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    MIDDLEWARE=[f"{__name__}.durable_errors"],
)
application = get_wsgi_application()
"""
# The page, and where its blocks go, in order.
PAGES = {
    "serve-with-fastapi": (
        ["shop.py"],
        "uvicorn shop:create_app --factory --port {port}",
    ),
    "serve-with-flask": (
        ["shop.py", "gunicorn.conf.py"],
        "gunicorn --bind 127.0.0.1:{port} --no-control-socket",
    ),
    "serve-with-django-and-gunicorn": (
        ["mysite/shop.py", "mysite/wsgi.py", "gunicorn.conf.py"],
        "gunicorn --bind 127.0.0.1:{port} --no-control-socket --preload",
    ),
}


@pytest.mark.parametrize("page", PAGES)
def test_program_of_a_page_is_killed_and_goes_on(page: str, tmp_path: Path) -> None:
    files, command = PAGES[page]
    text = (EXAMPLES.parent / "docs" / "how-to" / f"{page}.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    for name, block in zip(files, blocks, strict=False):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        if name.endswith("wsgi.py"):
            block = f"from .shop import *\n{block}{WSGI}"
        file.write_text(block)
    server = Server(command, tmp_path)
    try:
        server.start()
        for number in range(KILLS):
            assert server.place(f"o-{number}", 500).status_code == 201
            server.kill()
            server.start()
        for number in range(KILLS):
            assert server.place(f"o-{number}", 500).status_code == 200
            assert server.place(f"o-{number}", 501).status_code == 409
            receipt = server.ask("GET", f"/orders/o-{number}/receipt").json()
            text = receipt if isinstance(receipt, str) else receipt["receipt"]
            assert text == f"receipt for o-{number}"
            assert server.ask("GET", f"/orders/o-{number}").status_code == 200
    finally:
        server.close()
    log = server.log.read_text()
    assert "Traceback" not in log
    # What the provider was told: one key for each order, however often. Two threads may
    # print on one line: what ends it is a write of its own.
    told = set(re.findall(r"charge 500 ([0-9a-f-]+/\d+)", log))
    assert len(told) == (0 if "django" in page else KILLS)
