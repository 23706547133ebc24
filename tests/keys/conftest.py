"""Keys made once for all tests of the room, and three independent judges of signatures."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import dns_record, generate, key_record, keyring, store
from carbonseal.policies import signing_request
from carbonseal.policies.signing_request import KeyFacts

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
_PERL = Path(__file__).with_name("mail_dkim.pl")


@pytest.fixture(scope="session")
def rsa_private() -> rsa.RSAPrivateKey:
    """An RSA-2048 key."""
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="session")
def rsa_other() -> rsa.RSAPrivateKey:
    """Another RSA-2048 key."""
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="session")
def ed25519_private() -> ed25519.Ed25519PrivateKey:
    """An Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def signing_keys(
    rsa_private: rsa.RSAPrivateKey, ed25519_private: ed25519.Ed25519PrivateKey
) -> Mapping[str, keyring.SigningKey]:
    """The two keys of example.com by algorithm; their selectors are `r` and `e`."""
    return {
        signing_request.RSA: keyring.SigningKey(
            KeyFacts("example.com", "r", signing_request.RSA),
            rsa_private,
            pem=generate.private_pem(rsa_private),
        ),
        signing_request.ED25519: keyring.SigningKey(
            KeyFacts("example.com", "e", signing_request.ED25519), ed25519_private
        ),
    }


@pytest.fixture(scope="session")
def dns(
    rsa_private: rsa.RSAPrivateKey, ed25519_private: ed25519.Ed25519PrivateKey
) -> Mapping[str, str]:
    """What DNS says about them: name to TXT value."""
    return {
        "r._domainkey.example.com": dns_record.value(keyring.public_octets(rsa_private)),
        "e._domainkey.example.com": dns_record.value(keyring.public_octets(ed25519_private)),
    }


@dataclass(frozen=True)
class Judges:
    """Verifiers that share no code with us, and take the bytes exactly as they are."""

    dns: Mapping[str, str]
    folder: Path

    def verdicts(self, messages: Sequence[bytes]) -> dict[str, list[bool]]:
        """For each judge, whether it accepts each message."""
        return {
            "dkimpy": [self.dkimpy(message) for message in messages],
            "opendkim": [self.opendkim(message) for message in messages],
            "mail-dkim": self.mail_dkim(messages),
        }

    def dkimpy(self, message: bytes) -> bool:
        """dkimpy's verifier."""
        return bool(
            dkim.verify(
                message,
                dnsfunc=lambda name, timeout=5: self.dns[name.decode().rstrip(".")].encode(),
            )
        )

    def opendkim(self, message: bytes) -> bool:
        """libopendkim through ctypes.

        The program's test mode (`opendkim -t`) is no judge of simple header canonicalization: it
        puts one space after each colon whatever was there.
        """
        library = _libopendkim()
        handle = library.dkim_init(None, None)
        by_file = ctypes.c_int(1)  # DKIM_QUERY_FILE
        path = ctypes.create_string_buffer(str(self.folder / "opendkim-keys").encode())
        assert library.dkim_options(handle, 1, 6, ctypes.byref(by_file), 4) == 0
        assert library.dkim_options(handle, 1, 7, path, len(path)) == 0
        status = ctypes.c_int()
        verifier = library.dkim_verify(handle, b"test", None, ctypes.byref(status))
        try:
            library.dkim_chunk(verifier, message, len(message))
            library.dkim_chunk(verifier, None, 0)
            return bool(library.dkim_eom(verifier, None) == 0)
        finally:
            library.dkim_free(verifier)
            library.dkim_close(handle)

    def mail_dkim(self, messages: Sequence[bytes]) -> list[bool]:
        """Perl's Mail::DKIM; one process for all messages."""
        paths = []
        for number, message in enumerate(messages):
            paths.append(self.folder / f"{number}.eml")
            paths[-1].write_bytes(message)
        command = ["perl", str(_PERL), str(self.folder / "perl-keys"), *map(str, paths)]
        done = subprocess.run(command, capture_output=True, check=True, text=True)
        return [line == "pass" for line in done.stdout.split()]


def _libopendkim() -> ctypes.CDLL:
    library = ctypes.CDLL("libopendkim.so.11")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.dkim_init.restype = library.dkim_verify.restype = pointer
    library.dkim_options.argtypes = [pointer, ctypes.c_int, ctypes.c_int, pointer, size]
    library.dkim_verify.argtypes = [pointer, ctypes.c_char_p, pointer, pointer]
    library.dkim_chunk.argtypes = [pointer, ctypes.c_char_p, size]
    library.dkim_eom.argtypes = [pointer, pointer]
    library.dkim_free.argtypes = library.dkim_close.argtypes = [pointer]
    return library


@pytest.fixture
def judges(dns: Mapping[str, str], tmp_path: Path) -> Judges:
    """The judges, with the public keys of example.com."""
    (tmp_path / "opendkim-keys").write_text("".join(f"{n} {v}\n" for n, v in dns.items()))
    (tmp_path / "perl-keys").write_text("".join(f"{n}\t{v}\n" for n, v in dns.items()))
    return Judges(dns, tmp_path)


Keep = Callable[..., key_record.KeyRecord]


@pytest.fixture
def shelf(tmp_path: Path) -> store.Store:
    """An empty store in a private directory."""
    return store.Store(tmp_path / "keys")


@pytest.fixture
def keep(shelf: store.Store) -> Keep:
    """Keep a key in the store, activated or not."""

    def one(
        private: keyring.PrivateKey,
        selector: str,
        *,
        sdid: str = "example.com",
        active: bool = True,
        at: datetime = NOW,
    ) -> key_record.KeyRecord:
        record = generate.new_record(
            private, sdid, selector, origin=key_record.Origin.GENERATED, at=at, why="test"
        )
        with shelf.writing(sdid) as writer:
            writer.add(record, generate.private_pem(private))
            return writer.activate(record, at=at, why="test", assumed=True) if active else record

    return one
