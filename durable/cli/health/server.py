"""Answers probes by HTTP/1.1: one request a connection, and little patience.

| path | answer |
| --- | --- |
| `/live` | 200 while it works or is on its way to; 503 if only a new process helps |
| `/ready` | 200 while it takes work, else 503 |
| `/health` | 200 and JSON of the details |
| `/metrics` | 200, the same numbers and those of all metrics for Prometheus |
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, NamedTuple, TypeAlias

from durable import limits
from durable.cli.health.report import Health, as_json, as_metrics
from durable.errors import DurableError
from durable.telling.prometheus_text import CONTENT_TYPE

_log: Final = logging.getLogger("durable.cli")
_Look: TypeAlias = Callable[[], Awaitable[Health]]

_METRICS: Final = "/metrics"
_REQUEST: Final = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.[0-9]\r\n")
_TEXT: Final = "text/plain; charset=utf-8"
# Of a request that was refused unread: as much is read, so that the answer arrives.
_UNREAD_BYTES_MAX: Final = 256 * 1024


class HealthPortError(DurableError):
    """The port of `--health-port` cannot be listened on."""

    code = "health_port"


class _Answer(NamedTuple):
    status: HTTPStatus
    body: str
    kind: str = _TEXT


def _refusal(status: HTTPStatus) -> _Answer:
    return _Answer(status, f"{status.phrase}\n")


def _verdict(is_good: bool, health: Health) -> _Answer:
    status = HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE
    return _Answer(status, f"{health.status}\n")


_ANSWERS: Final[dict[str, Callable[[Health], _Answer]]] = {
    "/live": lambda health: _verdict(health.is_live, health),
    "/ready": lambda health: _verdict(health.is_ready, health),
    "/health": lambda h: _Answer(HTTPStatus.OK, as_json(h), "application/json"),
    _METRICS: lambda h: _Answer(HTTPStatus.OK, as_metrics(h), CONTENT_TYPE),
}


@asynccontextmanager
async def serve_health(
    host: str, port: int | None, look: _Look, scrape: _Look | None = None
) -> AsyncGenerator[None]:
    """Answer probes meanwhile; without a port, nobody.

    Args:
        host: a name or an address, of IPv6 as well.
        port: 0 takes one that is free; the log says which.
        look: says how the workers do; must not raise.
        scrape: the same, with what their observers have; for `/metrics`.

    Raises:
        HealthPortError: it cannot be listened on.
    """
    if port is None:
        yield
        return
    server = _HealthServer(look, scrape or look)
    await server.start(host, port)
    try:
        yield
    finally:
        await server.stop()


class _HealthServer:
    def __init__(self, look: _Look, scrape: _Look) -> None:
        self._look = look
        self._scrape = scrape
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[Any], None] = {}

    async def start(self, host: str, port: int) -> None:
        try:
            self._server = await asyncio.start_server(
                self._serve, host, port, limit=limits.HEALTH_REQUEST_BYTES_MAX
            )
        except OSError as error:
            raise HealthPortError(
                f"Nothing can listen on port {port} of {host!r}: {error.strerror}.",
                hint="Give another --health-port, 0 for one that is free, or another"
                " --health-host.",
            ) from error
        for listening in self._server.sockets:
            name, number, *_ = listening.getsockname()
            shown = f"[{name}]" if ":" in name else name
            _log.info("health: http://%s:%d/health", shown, number)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if len(self._open) >= limits.HEALTH_CONNECTIONS_MAX:
            # Who came first has had its time; a probe may be waiting behind it.
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.cancel()
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs
        self._open[task] = None
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._open.pop(task, None)

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        request = await _read_request(reader)
        if request is None:  # it was closed before it asked for anything
            writer.close()
            return
        method, answer = await self._find_answer(request)
        async with asyncio.timeout(limits.HEALTH_SECONDS_MAX):
            writer.write(_encode(answer, has_body=method != b"HEAD"))
            await writer.drain()
            writer.write_eof()
            # Closing over what was not read would tear up the answer on its way.
            left = _UNREAD_BYTES_MAX
            while left > 0 and (chunk := await reader.read(left)):
                left -= len(chunk)
            writer.close()
            await writer.wait_closed()

    async def _find_answer(self, request: bytes | _Answer) -> tuple[bytes, _Answer]:
        if isinstance(request, _Answer):
            return b"", request
        found = _REQUEST.match(request)
        if found is None:
            return b"", _refusal(HTTPStatus.BAD_REQUEST)
        method, target = found.groups()
        path = target.decode("ascii").partition("?")[0]
        if path not in _ANSWERS:
            return method, _refusal(HTTPStatus.NOT_FOUND)
        if method not in (b"GET", b"HEAD"):
            return method, _refusal(HTTPStatus.METHOD_NOT_ALLOWED)
        look = self._scrape if path == _METRICS else self._look
        return method, _ANSWERS[path](await look())


async def _read_request(reader: asyncio.StreamReader) -> bytes | _Answer | None:
    """Read the head of a request; or say what is wrong with it, None for nothing."""
    try:
        async with asyncio.timeout(limits.HEALTH_SECONDS_MAX):
            return await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        return _refusal(HTTPStatus.REQUEST_TIMEOUT)
    except asyncio.LimitOverrunError:
        return _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    except asyncio.IncompleteReadError as error:
        return _refusal(HTTPStatus.BAD_REQUEST) if error.partial else None


def _encode(answer: _Answer, *, has_body: bool) -> bytes:
    status, body = answer.status, answer.body.encode()
    head = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {answer.kind}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        head.append("Allow: GET, HEAD")
    text = "\r\n".join([*head, "", ""]).encode("ascii")
    return text + body if has_body else text
