"""A TCP proxy before a database server that fails as networks do, at a chosen byte.

    with Proxy(postgres_url) as proxy:
        connection = psycopg.connect(proxy.url)
        proxy.drop_answer_to(b"COMMIT")

One fault is armed at a time. A cut strikes one connection, once; what swallows,
refuses or delays does so until `reset`.
"""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Literal, Self
from urllib.parse import urlsplit

from tests.servers import free_port

Way = Literal["to_server", "to_client"]
HOST = "127.0.0.1"


class Kind(Enum):
    CUT = auto()
    SWALLOW = auto()
    CUT_BEFORE = auto()
    DROP_ANSWER = auto()


@dataclass(frozen=True)
class Fault:
    kind: Kind
    way: Way = "to_server"
    count: int = 0
    pattern: bytes = b""


@dataclass(eq=False)
class Link:
    """A connection of a client and the one to the server that belongs to it."""

    client: socket.socket
    server: socket.socket
    pumps: int = 2
    """So many of its two ways are still open."""
    drops_answer: bool = False
    seen: bytes = b""
    """The last bytes to the server, for a pattern in several pieces."""
    swallowed: set[Way] = field(default_factory=set)

    def cut(self) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):  # the other side was faster
                end.shutdown(socket.SHUT_RDWR)

    def find(self, pattern: bytes, chunk: bytes) -> int | None:
        """Tell how much of the chunk may pass before the pattern is complete."""
        bytes_known = len(self.seen)
        self.seen += chunk
        found = self.seen.find(pattern)
        self.seen = self.seen[max(0, len(self.seen) - len(pattern) + 1) :]
        return None if found < 0 else max(0, found - bytes_known)


class Proxy:
    """Passes on what comes for the server of a URL, from threads of its own.

    `url` leads through it. `passed` counts the bytes that it has passed on since the
    last reset, each way, over all connections; `struck` is set when an armed cut or
    swallowing has come to pass.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.port is not None, url
        self._server = (HOST, parts.port)
        self.port = free_port()
        self.url = url.replace(f":{parts.port}", f":{self.port}", 1)
        self.passed: Counter[Way] = Counter()
        self.struck = threading.Event()
        self._delay_seconds = 0.0
        self._fault: Fault | None = None
        self._links: set[Link] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None
        self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def cut_after(self, count: int, way: Way = "to_server") -> None:
        """Cut the connection that brings `passed[way]` to so many bytes, both ways."""
        self._arm(Fault(Kind.CUT, way, count))

    def swallow_after(self, count: int, way: Way = "to_server") -> None:
        """Pass on so many bytes and none that follow; all connections stay open.

        Neither is the end of a connection passed on, as when a cable is pulled.
        """
        self._arm(Fault(Kind.SWALLOW, way, count))

    def cut_before(self, pattern: bytes, way: Way = "to_server") -> None:
        """Cut the connection that is to bring the pattern, which never arrives."""
        self._arm(Fault(Kind.CUT_BEFORE, way, pattern=pattern))

    def drop_answer_to(self, pattern: bytes) -> None:
        """Pass the pattern on to the server, and cut when it answers, without that."""
        self._arm(Fault(Kind.DROP_ANSWER, pattern=pattern))

    def cut(self) -> None:
        """Cut all connections at once. New ones are welcome."""
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()

    def refuse(self) -> None:
        """Refuse new connections until `reset`; open ones go on."""
        if self._listener is None:
            return
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
        self._acceptor.join(15)
        self._listener.close()
        self._listener = None

    def delay(self, seconds: float) -> None:
        """Hold back whatever comes for so long, each way, until `reset`."""
        self._delay_seconds = seconds

    def reset(self) -> None:
        """Forget faults and counts, and cut what has lost bytes: it is past use."""
        with self._lock:
            self._fault = None
            self._delay_seconds = 0.0
            self.passed.clear()
            self.struck.clear()
            lost = [link for link in self._links if link.swallowed]
        for link in lost:
            link.cut()
        if self._listener is None:
            self._listen()

    def heal(self) -> None:
        """Pass on all that comes from now on; nobody is told of what was swallowed."""
        with self._lock:
            self._fault = None

    def close(self) -> None:
        self.refuse()
        self.cut()
        for thread in self._threads:
            thread.join(10)

    def _arm(self, fault: Fault) -> None:
        with self._lock:
            self.struck.clear()
            self._fault = fault
            for link in self._links:
                link.seen = b""

    def _listen(self) -> None:
        listener = socket.create_server((HOST, self.port), backlog=128)
        self._listener = listener
        self._acceptor = self._spawn(self._accept, listener)

    def _spawn(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # it refuses from now on
                return
            try:
                server = socket.create_connection(self._server, 10)
            except OSError:
                client.close()
                continue
            for end in (client, server):
                end.settimeout(None)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link = Link(client, server)
            with self._lock:
                self._links.add(link)
            self._spawn(self._pump, link, "to_server", client, server)
            self._spawn(self._pump, link, "to_client", server, client)

    def _pump(
        self, link: Link, way: Way, source: socket.socket, target: socket.socket
    ) -> None:
        with suppress(OSError):  # either side may go at any moment
            while chunk := source.recv(65536):
                time.sleep(self._delay_seconds)
                passing, is_last = self._judge(link, way, chunk)
                target.sendall(passing)
                if is_last:
                    break
        if way not in link.swallowed:
            link.cut()
        with self._lock:
            link.pumps -= 1
            if not link.pumps:  # nobody else holds the sockets' numbers
                self._links.remove(link)
                link.client.close()
                link.server.close()

    def _judge(self, link: Link, way: Way, chunk: bytes) -> tuple[bytes, bool]:
        """Tell what to pass on of a chunk, and whether to cut then."""
        with self._lock:
            count, is_last = self._strike(link, way, chunk)
            if count is not None:
                self.struck.set()
                chunk = chunk[:count]
            self.passed[way] += len(chunk)
            return chunk, is_last

    def _strike(self, link: Link, way: Way, chunk: bytes) -> tuple[int | None, bool]:
        fault = self._fault
        if way == "to_client" and link.drops_answer:
            return 0, True
        if fault is None or fault.way != way:
            return None, False
        if fault.pattern:
            count = link.find(fault.pattern, chunk)
        else:
            left = fault.count - self.passed[way]
            count = max(0, left) if left <= len(chunk) else None
        if count is None:
            return None, False
        if fault.kind is Kind.SWALLOW:
            link.swallowed.add(way)
            return count, False
        self._fault = None
        if fault.kind is Kind.DROP_ANSWER:
            link.drops_answer = True
            return None, False
        return count, True
