"""A time stamp authority of one's own: `openssl ts` behind a small HTTP server on loopback."""

from __future__ import annotations

import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

_CONFIGURATION = """
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[leaf]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = here
[here]
serial = {directory}/serial
signer_cert = {directory}/leaf.pem
{certs}
signer_key = {directory}/leaf.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
accuracy = secs:1
ess_cert_id_chain = no
ess_cert_id_alg = sha256
"""


class Authority:
    """Answers requests for as long as it is open; `answer` replaces what it says."""

    def __init__(self, directory: Path, *, sends_all: bool = False) -> None:
        """`sends_all`: the root goes along with the signer, in no order, as OpenSSL does it."""
        self.directory = directory
        self.certificate = directory / "root.pem"
        self.asked = 0
        self.answer: bytes | None = None
        directory.mkdir()
        _make_certificates(directory, sends_all=sends_all)
        authority = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                query = self.rfile.read(int(self.headers["Content-Length"]))
                content = authority.answer or authority.stamped(query)
                authority.asked += 1
                self.send_response(200)
                self.send_header("Content-Type", "application/timestamp-reply")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/tsr"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stamped(self, query: bytes) -> bytes:
        """The reply to a request."""
        (self.directory / "query").write_bytes(query)
        reply = self.directory / "reply"
        _openssl(
            self.directory, "ts", "-reply", "-config", "openssl.cnf", "-section", "here",
            "-queryfile", "query", "-out", str(reply),
        )  # fmt: skip
        return reply.read_bytes()

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _make_certificates(directory: Path, *, sends_all: bool) -> None:
    certs = f"certs = {directory}/root.pem" if sends_all else ""
    content = _CONFIGURATION.format(directory=directory, certs=certs)
    (directory / "openssl.cnf").write_text(content)
    (directory / "serial").write_text("01\n")
    for name in ("root", "leaf"):
        _openssl(
            directory, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN=Test {name}",
            "-config", "openssl.cnf",
        )  # fmt: skip
    _openssl(
        directory, "x509", "-req", "-in", "root.csr", "-signkey", "root.key", "-out", "root.pem",
        "-days", "30", "-extfile", "openssl.cnf", "-extensions", "root",
    )  # fmt: skip
    _openssl(
        directory, "x509", "-req", "-in", "leaf.csr", "-CA", "root.pem", "-CAkey", "root.key",
        "-CAcreateserial", "-out", "leaf.pem", "-days", "30", "-extfile", "openssl.cnf",
        "-extensions", "leaf",
    )  # fmt: skip


def _openssl(directory: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)
