"""The proxy that stands before a server and fails at a chosen byte."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.proxy import Proxy

pytestmark = pytest.mark.sweep(6, of_class=True)


TALK_SECONDS_MAX = 10


class Echo:
    """A server that keeps what it hears, and answers each piece with itself."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}/x"
        self.heard = b""
        self.ends = threading.Semaphore(0)
        """Released for each connection that has ended."""
        threading.Thread(target=self._serve, daemon=True).start()

    def hears(self, text: bytes) -> bool:
        deadline = time.monotonic() + TALK_SECONDS_MAX
        while self.heard != text and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.heard == text

    def stop(self) -> None:
        with suppress(OSError):  # it is stopped
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=[connection], daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            while piece := connection.recv(65536):
                self.heard += piece
                connection.sendall(piece)
        self.ends.release()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.stop()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.url) as proxy:
        yield proxy


@pytest.fixture
def client(proxy: Proxy) -> Iterator[socket.socket]:
    with connect(proxy) as client:
        yield client


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), TALK_SECONDS_MAX)


def hear(client: socket.socket, count: int) -> bytes:
    """So many bytes, or fewer where the connection ends."""
    heard = b""
    while len(heard) < count and (piece := client.recv(count - len(heard))):
        heard += piece
    return heard


def hear_all(client: socket.socket) -> bytes:
    """All up to the end, in whichever way it comes."""
    heard = b""
    try:
        while piece := client.recv(65536):
            heard += piece
    except ConnectionError:
        pass
    return heard


def test_what_passes_is_unchanged_and_counted_each_way(
    proxy: Proxy, client: socket.socket
) -> None:
    text = bytes(range(256)) * 4_000
    threading.Thread(target=client.sendall, args=[text], daemon=True).start()

    assert hear(client, len(text)) == text
    assert proxy.passed == {"to_server": len(text), "to_client": len(text)}
    assert not proxy.struck.is_set()


@pytest.mark.parametrize("count", [0, 1, 4, 9, 10])
def test_cut_on_the_way_to_the_server_lets_exactly_so_many_bytes_pass(
    echo: Echo, proxy: Proxy, client: socket.socket, count: int
) -> None:
    proxy.cut_after(count)

    client.sendall(b"0123456789")

    hear_all(client)
    assert echo.ends.acquire(timeout=TALK_SECONDS_MAX)
    assert echo.heard == b"0123456789"[:count]
    assert proxy.struck.is_set()
    with connect(proxy) as another:  # one cut strikes one connection
        another.sendall(b"x")
        assert hear(another, 1) == b"x"


@pytest.mark.parametrize("count", [0, 1, 4, 9, 10])
def test_cut_on_the_way_to_the_client_lets_exactly_so_many_bytes_pass(
    echo: Echo, proxy: Proxy, client: socket.socket, count: int
) -> None:
    proxy.cut_after(count, "to_client")

    client.sendall(b"0123456789")

    assert hear_all(client) == b"0123456789"[:count]
    assert echo.ends.acquire(timeout=TALK_SECONDS_MAX)
    assert echo.heard == b"0123456789"


def test_swallowing_keeps_connections_open_until_reset(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.swallow_after(4)
    client.sendall(b"0123456789")
    assert hear(client, 4) == b"0123"
    assert proxy.struck.wait(TALK_SECONDS_MAX)
    with connect(proxy) as another:
        another.sendall(b"lost")
        another.settimeout(0.2)
        with pytest.raises(TimeoutError):
            another.recv(1)
    assert not echo.ends.acquire(timeout=0.2), "the server was told that a client left"
    assert echo.heard == b"0123"

    proxy.reset()

    assert hear_all(client) == b""
    assert all(echo.ends.acquire(timeout=TALK_SECONDS_MAX) for _ in range(2))
    with connect(proxy) as another:
        another.sendall(b"x")
        assert hear(another, 1) == b"x"
    assert echo.heard == b"0123x"


def test_swallowing_answers_lets_the_server_go_on(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.swallow_after(2, "to_client")
    client.sendall(b"0123")
    assert hear(client, 2) == b"01"
    client.sendall(b"45")
    client.settimeout(0.2)

    with pytest.raises(TimeoutError):
        client.recv(1)

    assert echo.hears(b"012345")


@pytest.mark.parametrize("pieces", [[b"abCOMMITd"], [b"ab", b"COM", b"MITd"]])
def test_cut_before_a_pattern_keeps_it_from_the_server(
    echo: Echo, proxy: Proxy, client: socket.socket, pieces: list[bytes]
) -> None:
    proxy.cut_before(b"COMMIT")

    for piece in pieces[:-1]:
        client.sendall(piece)
        assert hear(client, len(piece)) == piece
    client.sendall(pieces[-1])

    hear_all(client)
    assert echo.ends.acquire(timeout=TALK_SECONDS_MAX)
    assert b"abCOMMIT".startswith(echo.heard)
    assert b"COMMIT" not in echo.heard
    assert echo.heard.startswith(b"ab")


def test_cut_before_a_pattern_keeps_it_from_the_client(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    proxy.cut_before(b"COMMIT", "to_client")

    client.sendall(b"abCOMMITd")

    assert b"abCOMMIT".startswith(hear_all(client))
    assert proxy.struck.is_set()
    assert echo.ends.acquire(timeout=TALK_SECONDS_MAX)
    assert echo.heard == b"abCOMMITd"


@pytest.mark.parametrize("pieces", [[b"abCOMMITd"], [b"ab", b"COM", b"MITd"]])
def test_answer_to_a_pattern_is_dropped_though_the_server_has_it(
    echo: Echo, proxy: Proxy, client: socket.socket, pieces: list[bytes]
) -> None:
    proxy.drop_answer_to(b"COMMIT")

    for piece in pieces[:-1]:
        client.sendall(piece)
        assert hear(client, len(piece)) == piece
    client.sendall(pieces[-1])

    assert hear_all(client) == b""
    assert proxy.struck.is_set()
    assert echo.ends.acquire(timeout=TALK_SECONDS_MAX)
    assert echo.heard == b"abCOMMITd"


def test_pieces_of_a_pattern_from_before_it_was_armed_are_not_meant(
    proxy: Proxy, client: socket.socket
) -> None:
    proxy.cut_before(b"COMMIT")
    client.sendall(b"COM")
    assert hear(client, 3) == b"COM"
    proxy.reset()

    proxy.cut_before(b"COMMIT")
    client.sendall(b"MIT")

    assert hear(client, 3) == b"MIT"


def test_refused_clients_may_come_again_after_a_reset(
    proxy: Proxy, client: socket.socket
) -> None:
    client.sendall(b"x")
    assert hear(client, 1) == b"x"
    proxy.refuse()

    with pytest.raises(ConnectionRefusedError):
        connect(proxy)

    client.sendall(b"y")  # the open one goes on
    assert hear(client, 1) == b"y"
    proxy.reset()
    with connect(proxy) as another:
        another.sendall(b"z")
        assert hear(another, 1) == b"z"


def test_delay_holds_back_until_a_reset(proxy: Proxy, client: socket.socket) -> None:
    proxy.delay(0.2)
    client.settimeout(0.1)
    client.sendall(b"x")
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(TALK_SECONDS_MAX)
    assert hear(client, 1) == b"x"

    proxy.delay(3 * TALK_SECONDS_MAX)
    proxy.reset()

    client.sendall(b"y")
    assert hear(client, 1) == b"y"


def test_cut_ends_all_connections_and_welcomes_new_ones(
    echo: Echo, proxy: Proxy, client: socket.socket
) -> None:
    with connect(proxy) as other:
        for each in (client, other):
            each.sendall(b"x")
            assert hear(each, 1) == b"x"

        proxy.cut()

        assert hear_all(client) == hear_all(other) == b""
    with connect(proxy) as another:
        another.sendall(b"y")
        assert hear(another, 1) == b"y"


def test_client_of_a_server_that_is_down_is_turned_away(
    echo: Echo, proxy: Proxy
) -> None:
    echo.stop()
    with connect(proxy) as client:
        assert hear_all(client) == b""
