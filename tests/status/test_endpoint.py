"""HTTP for those who watch: what is answered, and that nobody who is slow or rude can hurt."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ports
from support.carbonseal import Carbonseal
from support.waiting import wait_until

from carbonseal.milter import config, socket_address
from carbonseal.milter.socket_address import SocketAddress
from carbonseal.milter.status import endpoint, inquiry, state_files
from carbonseal.milter.status.board import Board
from carbonseal.milter.status.endpoint import Endpoint
from carbonseal.milter.status.page import Looker, Page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A relay that never ran."""
    made = Carbonseal(tmp_path_factory.mktemp("relay") / "seal")
    made.make_key("example.com")
    made.spool.mkdir()
    return Looker(config.load(made.file), Board(1)).look()


@pytest.fixture(scope="module")
def served(page: Page) -> Iterator[tuple[Endpoint, int]]:
    """An endpoint that shows this page, in a thread of its own; and its port."""
    serving, port = Endpoint(lambda: page), ports.free_port()
    loop = asyncio.new_event_loop()
    address = SocketAddress(host="127.0.0.1", port=port)
    server = loop.run_until_complete(serving.serve(address))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield serving, port
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def ask(port: int, request: bytes) -> bytes:
    """All that is answered until the connection ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(request)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(
    ("request_", "status", "word"),
    [
        (b"GET /health/live HTTP/1.1\r\n\r\n", b"200", b'"live": true'),
        (b"GET /health/ready?x=1 HTTP/1.0\r\n\r\n", b"503", b'"ready": false'),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200", b"carbonseal_ready 0.0"),
        (b"GET /status HTTP/1.1\r\n\r\n", b"200", b'"checks"'),
        (b"GET / HTTP/1.1\r\n\r\n", b"404", b"Not Found"),
        (b"GET /metrics/../etc/passwd HTTP/1.1\r\n\r\n", b"404", b"Not Found"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"405", b"Allow: GET, HEAD"),
        (b"nonsense\r\n\r\n", b"400", b""),
        (b"GET /metrics\r\n\r\n", b"400", b""),
        (b"\x16\x03\x01\x02\r\n\r\n", b"400", b""),
        (b"GET /" + b"x" * 20_000, b"431", b""),
    ],
    ids="live ready metrics status root path post nonsense http-0.9 tls too-long".split(),
)
def test_what_is_answered(
    request_: bytes, status: bytes, word: bytes, served: tuple[Endpoint, int]
) -> None:
    """Four pages to GET, and a plain refusal for everything else."""
    answer = ask(served[1], request_)
    assert answer.split(b" ")[1] == status
    assert word in answer
    assert b"Connection: close" in answer


def test_head_gets_no_body(served: tuple[Endpoint, int]) -> None:
    """But its length, as for GET."""
    asking = http.client.HTTPConnection("127.0.0.1", served[1])
    asking.request("HEAD", "/metrics")
    answer = asking.getresponse()
    assert answer.status == 200
    assert int(answer.headers["Content-Length"]) > 1000
    assert answer.read() == b""


def test_before_anything_was_seen_nobody_is_told_that_all_is_well() -> None:
    """Live, but neither ready nor measured."""
    serving = Endpoint(lambda: None)
    for path, status in (("/health/live", 200), ("/health/ready", 503), ("/metrics", 503)):
        answer, _ = serving.answer(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        assert answer.status == status


def test_an_old_page_is_not_ready(page: Page) -> None:
    """The looking thread hangs on a disk that does not answer: the endpoint says so."""
    found = page.checks(60.0)
    assert not found[0].is_ok
    assert "60 s" in found[0].why


def test_silent_clients_keep_nobody_out(served: tuple[Endpoint, int]) -> None:
    """More of them than are served at one time; whoever comes later is answered all the same."""
    silent = [
        socket.create_connection(("127.0.0.1", served[1]))
        for _ in range(endpoint.MOST_CLIENTS + 10)
    ]
    for one in silent:
        one.sendall(b"GET /metr")
    assert b"carbonseal_ready" in ask(served[1], b"GET /metrics HTTP/1.1\r\n\r\n")
    assert len(served[0]._clients) <= endpoint.MOST_CLIENTS
    silent[0].settimeout(endpoint.PATIENCE / 5)
    assert silent[0].recv(10) == b""  # long before its time is over: it made room
    for one in silent:
        one.close()


def test_a_silent_client_is_let_go(
    served: tuple[Endpoint, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time is bounded, however slowly it goes on speaking."""
    monkeypatch.setattr(endpoint, "PATIENCE", 0.2)
    with socket.create_connection(("127.0.0.1", served[1]), timeout=20) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert client.recv(10) == b""


def test_a_client_that_does_not_read_is_let_go(
    served: tuple[Endpoint, int], page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does not take is not kept for it."""
    monkeypatch.setattr(endpoint, "PATIENCE", 0.3)
    serving, port = served
    large = endpoint.Answer(endpoint.HTTPStatus.OK, "text/plain", bytes(64 * 1024 * 1024))
    monkeypatch.setattr(serving, "_get", lambda _path: large)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        wait_until(lambda: bool(serving._clients), "the client to be met")
        wait_until(lambda: not serving._clients, "the slow reader to be let go")
        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while octets := client.recv(1 << 20):
                taken += len(octets)
    assert taken < len(large.body)


def test_a_unix_socket_serves_and_replaces_what_a_predecessor_left(
    page: Page, tmp_path: Path
) -> None:
    """And nothing else: a file of somebody's is not replaced."""
    place = tmp_path / "status.sock"
    address = socket_address.parse(f"unix:{place}")

    async def serve_and_ask() -> dict[str, object]:
        serving = Endpoint(lambda: page)
        left = await serving.serve(address)
        server = await serving.serve(address)
        found = await asyncio.to_thread(inquiry.newest, tmp_path, address)
        left.close()
        server.close()
        return found

    assert asyncio.run(serve_and_ask())["checks"]
    assert place.stat().st_mode & 0o777 == 0o660
    place.unlink()
    place.write_text("precious")
    with pytest.raises(OSError, match="no socket"):
        asyncio.run(Endpoint(lambda: page).serve(address))
    assert place.read_text() == "precious"


def test_the_page_names_no_person_and_no_mailbox(tmp_path: Path) -> None:
    """Whoever can connect may read it, and metrics are kept for years by others."""
    made = Carbonseal(tmp_path / "seal")
    made.spool.mkdir()
    mailbox = "archive@archive.example.net"
    copies = {"recipients": {mailbox: {"state": "failing", "failures": 3, "since": time.time()}}}
    state_files.write(made.spool, "copies", copies)
    example = "alice@example.com wrote"
    state_files.write(made.spool, "follow", {"unread_example": example, "problem": None})
    state_files.write(made.spool, "completeness", {"holes": 1, "missing": [mailbox]})
    (made.directory / "keys").mkdir()
    serving = Endpoint(lambda: shown)
    shown = Looker(config.load(made.file), Board(1)).look()
    for path in ("/metrics", "/status", "/health/ready"):
        body = serving.answer(f"GET {path} HTTP/1.1\r\n\r\n".encode())[0].body
        assert b"@" not in body
    assert b'carbonseal_archive_mailboxes{state="failing"} 1.0' in serving._metrics[1].body  # type: ignore[index]


def test_whoever_looks_in_vain_is_told_where(tmp_path: Path) -> None:
    """Exit status 75: nobody can be asked."""
    made = Carbonseal(tmp_path / "seal")
    done = made.command("status", check=False)
    assert done.returncode == 75
    assert "state/status.json" in done.stderr
    assert os.fspath(made.spool) in done.stderr
    made.spool.mkdir()
    state_files.write(made.spool, "status", {"no": "page"})
    assert made.command("status", "--json", check=False).returncode == 75


def test_an_old_file_is_no_good_news(page: Page, tmp_path: Path) -> None:
    """The service was killed an hour ago, with everything well."""
    made = Carbonseal(tmp_path / "seal")
    made.spool.mkdir()
    about = page.as_json() | {"ready": True, "at": time.time() - 3600}
    state_files.write(made.spool, "status", about)
    done = made.command("status", check=False)
    assert done.returncode == 1
    assert "nobody has looked for 36" in done.stdout
    assert json.loads(made.command("status", "--json", check=False).stdout)["ready"] is False


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, "no figures"),
        ({"holes": 0, "messages": 1, "exit_status": 0}, "no holes in 1 message"),
        (
            {"holes": 2, "pending": 1, "messages": 9, "since": "A", "until": "B"},
            "2 holes, 1 pending in 9 messages from A to B; "
            "carbonseal archive completeness lists them",
        ),
    ],
)
def test_completeness_is_told_in_words(
    page: Page, tmp_path: Path, figures: dict[str, object], said: str
) -> None:
    """Whoever looks at the screen wants to know whether anything is missing, and what to do."""
    made = Carbonseal(tmp_path / "seal")
    made.spool.mkdir()
    now = time.time()
    about = page.as_json() | {"at": now, "completeness": {"at": now, **figures}}
    state_files.write(made.spool, "status", about)
    [line] = [
        one
        for one in made.command("status", check=False).stdout.splitlines()
        if one.startswith("completeness")
    ]
    assert re.sub(r"looked at \d+ s ago", "looked", line).split(None, 1)[1].strip() == (
        f"looked: {said}"
    )
