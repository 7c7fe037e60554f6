"""The server that answers probes, to clients of every kind."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress

import pytest

from durable import limits
from durable.cli.health.report import Health, ProcessHealth, Status
from durable.cli.health.server import HealthPortError, serve_health

SECONDS_MAX = 20


def make(status: Status) -> Health:
    return Health(status=status, processes=[ProcessHealth(pid=1, status=status)])


@asynccontextmanager
async def serving(
    caplog: pytest.LogCaptureFixture, status: Status = "ready", host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    async def look() -> Health:
        return make(status)

    caplog.set_level(logging.INFO, "durable.cli")
    async with asyncio.timeout(SECONDS_MAX), serve_health(host, 0, look):
        found = re.search(r"health: http://\S+:(\d+)/health", caplog.text)
        assert found is not None
        yield int(found[1])


async def say(port: int, sent: bytes, host: str = "127.0.0.1") -> bytes:
    """Send something, and return all that is answered until the server hangs up."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent)
        return await reader.read()
    finally:
        writer.close()


async def ask(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    """The status, the head and the body of an answer."""
    request = f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    head, _, body = (await say(port, request)).decode().partition("\r\n\r\n")
    return int(head.split()[1]), head, body


async def expect_end(reader: asyncio.StreamReader) -> None:
    """Wait until the server has hung up without a word."""
    with suppress(ConnectionError):
        async with asyncio.timeout(SECONDS_MAX):
            assert await reader.read() == b""


@pytest.mark.parametrize(
    ("status", "live", "ready"),
    [
        ("starting", 200, 503),
        ("ready", 200, 200),
        ("draining", 200, 503),
        ("silent", 503, 503),
    ],
)
async def test_probes_are_answered_by_status(
    caplog: pytest.LogCaptureFixture, status: Status, live: int, ready: int
) -> None:
    async with serving(caplog, status) as port:
        assert (await ask(port, "/live"))[::2] == (live, f"{status}\n")
        assert (await ask(port, "/ready?verbose=1"))[::2] == (ready, f"{status}\n")
        code, head, body = await ask(port, "/health")
        assert (code, f'"status": "{status}"' in body) == (200, True)
        assert "Content-Type: application/json" in head
        code, head, body = await ask(port, "/metrics")
        assert (code, f"durable_ready {int(ready == 200)}\n" in body) == (200, True)
        assert "Content-Type: text/plain; version=0.0.4; charset=utf-8" in head


async def test_head_is_told_what_get_would_be_but_for_the_body(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(caplog) as port:
        for path in ("/live", "/health", "/metrics", "/nothing"):
            code, head, body = await ask(port, path)
            assert await ask(port, path, "HEAD") == (code, head, "")
            assert f"Content-Length: {len(body)}" in head


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /live/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /live HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /health HTTP/1.1\r\n\r\n", 405),
        (b"GET /live HTTP/1.0\r\n\r\n", 200),
        (b"GET /live\r\n\r\n", 400),
        (b"GET  /live HTTP/1.1\r\n\r\n", 400),
        (b"get /live HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /live HTTP/2\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nX: " + b"x" * 100_000, 431),
        (b"x" * 200_000 + b"\r\n\r\n", 431),
    ],
)
async def test_what_is_no_such_request_is_refused(
    caplog: pytest.LogCaptureFixture, sent: bytes, code: int
) -> None:
    async with serving(caplog) as port:
        answer = await say(port, sent)

        assert answer.startswith(f"HTTP/1.1 {code} ".encode())
        assert (b"\r\nAllow: GET, HEAD\r\n" in answer) is (code == 405)
        assert (await ask(port, "/live"))[0] == 200


async def test_client_that_says_half_of_it_and_leaves_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(caplog) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /live HT")
        writer.write_eof()

        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        for _ in range(3):  # one that says nothing at all is no matter
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
        assert (await ask(port, "/live"))[0] == 200


async def test_slow_client_is_not_waited_for(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEALTH_SECONDS_MAX", 0.05)
    async with serving(caplog) as port:
        assert (await say(port, b"GET /li")).startswith(b"HTTP/1.1 408 ")

        # One that never hangs up is hung up on, though it was answered.
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /live HTTP/1.1\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.001)


async def test_clients_that_crowd_it_keep_no_probe_from_its_answer(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEALTH_CONNECTIONS_MAX", 4)
    async with serving(caplog) as port:
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]

        assert (await ask(port, "/live"))[0] == 200

        # Who came first has gone first.
        for reader, _ in crowd[:17]:
            await expect_end(reader)
        for _, writer in crowd:
            writer.close()


async def test_open_connections_do_not_keep_it_from_ending(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(caplog) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        # It is accepted before the next one, which is answered.
        assert (await ask(port, "/live"))[0] == 200
    await expect_end(reader)
    writer.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


def has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
async def test_address_of_ipv6_is_listened_on(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(caplog, host="::1") as port:
        assert f"http://[::1]:{port}/health" in caplog.text
        answer = await say(port, b"GET /live HTTP/1.1\r\n\r\n", "::1")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_port_that_is_taken_is_a_typed_error() -> None:
    async def look() -> Health:
        return make("ready")

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(HealthPortError, match=f"port {port} of '127.0.0.1'"):
            async with serve_health("127.0.0.1", port, look):
                pass
    with pytest.raises(HealthPortError, match=r"'nowhere\.invalid'"):
        async with serve_health("nowhere.invalid", 0, look):
            pass


async def test_without_a_port_nothing_is_listened_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def look() -> Health:
        raise AssertionError

    caplog.set_level(logging.INFO, "durable.cli")
    async with serve_health("nowhere.invalid", None, look):
        assert caplog.text == ""
