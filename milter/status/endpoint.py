"""HTTP for those who watch: /metrics, /health/live, /health/ready, /status.

Promises: answers GET and HEAD and nothing else; a request has `MOST_OCTETS` and `PATIENCE` seconds,
and so has whoever reads the answer.  No more than `MOST_CLIENTS` are served at one time: who comes
then takes the place of whoever has waited longest, so that slow ones cannot keep out the others.
Every answer closes its connection.

An address that cannot be bound is tried again for ever, and said once.

Does not: look at anything (it shows the last page), or know who asks: bind it to where only those
who watch can connect.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from carbonseal.milter import log
from carbonseal.milter.socket_address import SocketAddress
from carbonseal.milter.status import exposition
from carbonseal.milter.status.page import Page, spoken
from carbonseal.policies import readiness

MOST_CLIENTS: Final = 32
MOST_OCTETS: Final = 8192
PATIENCE: Final = 5.0
_BIND_EVERY: Final = 0.5
_COMPLAIN_AT: Final = 4  # failures to bind
_JSON: Final = "application/json"
_PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back."""

    status: HTTPStatus
    kind: str
    body: bytes


class Endpoint:
    """Serves the newest page."""

    def __init__(self, newest: Callable[[], Page | None]) -> None:
        self._newest = newest
        self._clients: dict[asyncio.Task[None], None] = {}  # the oldest first
        self._metrics: tuple[Page, Answer] | None = None

    async def serve(self, address: SocketAddress) -> asyncio.Server:
        """Listen there.  Raises: OSError."""
        listener = _listener(address)
        try:
            return await asyncio.start_server(self._meet, sock=listener, limit=MOST_OCTETS)
        except OSError:
            listener.close()
            raise

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= MOST_CLIENTS:
            oldest = next(iter(self._clients))
            del self._clients[oldest]  # now: the next one may come before it has ended
            oldest.cancel()
        self._clients[task] = None
        try:
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(PATIENCE):
                    await self._answer(reader, writer)
        finally:
            self._clients.pop(task, None)
            # At once: what a slow reader has not taken by now is not kept for it.
            writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        except asyncio.LimitOverrunError:
            answer, is_body_wanted = _plain(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), True
        else:
            answer, is_body_wanted = self.answer(head)
        writer.write(_head(answer))
        if is_body_wanted:
            writer.write(answer.body)
        # Until all is with the kernel; it sends on what it has when the socket is closed.
        writer.transport.set_write_buffer_limits(high=0)
        await writer.drain()

    def answer(self, head: bytes) -> tuple[Answer, bool]:
        """What a request gets, and whether its body is wanted."""
        parts = head.partition(b"\r\n")[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return _plain(HTTPStatus.BAD_REQUEST), True
        method, target, _ = parts
        if method not in (b"GET", b"HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED), True
        return self._get(target.partition(b"?")[0]), method == b"GET"

    def _get(self, path: bytes) -> Answer:
        page = self._newest()
        if path == b"/health/live":
            return _json(HTTPStatus.OK, {"live": True})
        if path not in (b"/metrics", b"/health/ready", b"/status"):
            return _plain(HTTPStatus.NOT_FOUND)
        if page is None:
            return _plain(HTTPStatus.SERVICE_UNAVAILABLE)
        if path == b"/metrics":
            return self._metrics_of(page)
        age = max(0.0, time.time() - page.at)
        if path == b"/status":
            return _json(HTTPStatus.OK, page.as_json(age))
        found = page.checks(age)
        is_ready = readiness.is_ready(found)
        status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
        return _json(status, {"ready": is_ready, "checks": [spoken(check) for check in found]})

    def _metrics_of(self, page: Page) -> Answer:
        """The same for all who ask for one page, unless it grows old."""
        if self._metrics is None or self._metrics[0] is not page or time.time() - page.at > 5:
            made = exposition.text(page)
            self._metrics = (page, Answer(HTTPStatus.OK, exposition.CONTENT_TYPE, made))
        return self._metrics[1]


def serve(
    address: SocketAddress, control: socket.socket, newest: Callable[[], Page | None]
) -> None:
    """Serve until the other end of `control` sends anything or closes."""
    asyncio.run(_serve(address, control, Endpoint(newest)))


async def _serve(address: SocketAddress, control: socket.socket, endpoint: Endpoint) -> None:
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_reader(control.fileno(), leaving.set)
    server = await _bound(address, leaving, endpoint)
    await leaving.wait()
    # A UNIX socket stays where it is: by now it may be that of our successor.
    if server is not None:
        server.close()


async def _bound(
    address: SocketAddress, leaving: asyncio.Event, endpoint: Endpoint
) -> asyncio.Server | None:
    failures = 0
    while not leaving.is_set():
        try:
            return await endpoint.serve(address)
        except OSError as fault:
            # On a reload the predecessor may still be leaving: that is no reason to complain.
            failures += 1
            if failures == _COMPLAIN_AT:
                log.warning(
                    "status-endpoint-failed",
                    listen=address.postfix_form,
                    problem=fault.strerror or str(fault),
                    remedy="change status.listen, or end what has that address",
                )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(leaving.wait(), _BIND_EVERY)
    return None


def _listener(address: SocketAddress) -> socket.socket:
    if address.path is not None:
        return _unix_listener(address.path)
    family = socket.AF_INET6 if ":" in (address.host or "") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
    except OSError:
        listener.close()
        raise
    return listener


def _unix_listener(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    fresh = f"{path}.{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise FileExistsError(17, "there is something that is no socket", path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh)
        listener.bind(fresh)
        os.chmod(fresh, 0o660)
        os.rename(fresh, path)  # over what a predecessor left
    except OSError:
        listener.close()
        raise
    return listener


def _head(answer: Answer) -> bytes:
    lines = (
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Type: {answer.kind}",
        f"Content-Length: {len(answer.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(("Allow: GET, HEAD",) if answer.status is HTTPStatus.METHOD_NOT_ALLOWED else ()),
    )
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _json(status: HTTPStatus, content: dict[str, Any]) -> Answer:
    return Answer(status, _JSON, json.dumps(content).encode("ascii") + b"\n")


def _plain(status: HTTPStatus) -> Answer:
    return Answer(status, _PLAIN, status.phrase.encode("ascii") + b"\n")
