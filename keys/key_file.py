"""Read a private key somebody else made.

Takes RSA as PKCS#1 or PKCS#8 PEM and Ed25519 as PKCS#8 PEM or as the base64 of its seed (32
octets, dkimpy's form; 64 with the public half, rspamd's), with any line ends, a byte order mark,
indentation and white space around.

Promises: the key is validated as a whole (for RSA the primes too), and no part of the file's
content appears in an error.

Raises: `errors.DataError`, one sentence with the path and the remedy.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from carbonseal.keys import key_size, keyring, permission, store
from carbonseal.policies import errors

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----(.{0,65536}?)-----END \1-----", re.DOTALL)
_SEED = 32
_SEED_AND_PUBLIC = 64
_REMEDIES = {
    b"ENCRYPTED PRIVATE KEY": "it is encrypted; write an unencrypted copy with"
    " `openssl pkey -in FILE -out COPY` and import that",
    b"OPENSSH PRIVATE KEY": "it is in OpenSSH's own form; convert a copy with"
    " `ssh-keygen -p -m PEM -f COPY`",
    b"PUBLIC KEY": "it is the public key; give the private one",
    b"RSA PUBLIC KEY": "it is the public key; give the private one",
    b"CERTIFICATE": "it is a certificate; give the private key",
    b"EC PRIVATE KEY": "it is an elliptic-curve key, which DKIM has no algorithm for;"
    " use RSA or Ed25519",
    b"DSA PRIVATE KEY": "it is a DSA key, which DKIM has no algorithm for; use RSA or Ed25519",
}
_PRIVATE = (b"PRIVATE KEY", b"RSA PRIVATE KEY")


def read(path: Path) -> keyring.PrivateKey:
    """The private key in a file."""
    content = _content(path).removeprefix(b"\xef\xbb\xbf").strip()
    if not content:
        raise _unusable(path, "it is empty; give the file that holds the private key")
    private = _from_pem(path, content) if b"-----BEGIN " in content else _from_seed(path, content)
    if isinstance(private, rsa.RSAPrivateKey):
        _check_size(path, private.key_size)
    return private


def _content(path: Path) -> bytes:
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise _unusable(path, "it is a directory; give the key file in it")
        if not stat.S_ISREG(about.st_mode):
            raise _unusable(path, "it is no regular file; give a key file")
        if about.st_size > store.MAX_FILE:
            raise _unusable(path, "it is larger than 64 KiB, so it is no key; give the key file")
        with path.open("rb") as file:
            return file.read(store.MAX_FILE)
    except (FileNotFoundError, NotADirectoryError):
        raise _unusable(path, "there is no such file; check the name") from None
    except PermissionError as error:
        raise errors.DataError(permission.unreadable(path, error).sentence) from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise _unusable(path, f"it cannot be read ({reason}); check the name") from None


def _from_pem(path: Path, content: bytes) -> keyring.PrivateKey:
    lines = b"\n".join(line.strip() for line in content.splitlines())
    found = [(match[1], match[0]) for match in _BLOCK.finditer(lines)]
    blocks = dict(found)
    private = [block for label, block in found if label in _PRIVATE]
    if len(private) > 1:
        # Any choice could be the key that is not published, whose signatures all fail.
        raise _unusable(path, "it holds several private keys; give a file that holds one")
    if not private:
        for label, remedy in _REMEDIES.items():
            if label in blocks:
                raise _unusable(path, remedy)
        raise _unusable(path, "it holds no complete private key; restore the file")
    if b"Proc-Type: 4,ENCRYPTED" in private[0]:
        raise _unusable(path, _REMEDIES[b"ENCRYPTED PRIVATE KEY"])
    try:
        key = serialization.load_pem_private_key(private[0] + b"\n", None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _unusable(path, "its private key is damaged; restore the file") from None
    if not isinstance(key, (rsa.RSAPrivateKey, ed25519.Ed25519PrivateKey)):
        raise _unusable(path, "DKIM has no algorithm for its kind of key; use RSA or Ed25519")
    return key


def _from_seed(path: Path, content: bytes) -> ed25519.Ed25519PrivateKey:
    try:
        octets = base64.b64decode(b"".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        octets = b""
    if len(octets) not in (_SEED, _SEED_AND_PUBLIC):
        raise _unusable(
            path, "it is neither PEM nor the base64 of an Ed25519 seed; give the private key file"
        )
    private = ed25519.Ed25519PrivateKey.from_private_bytes(octets[:_SEED])
    if octets[_SEED:] not in (b"", private.public_key().public_bytes_raw()):
        raise _unusable(path, "the two halves of its Ed25519 key do not belong together")
    return private


def _check_size(path: Path, bits: int) -> None:
    if not key_size.MIN_BITS <= bits <= key_size.MAX_BITS:
        raise _unusable(
            path,
            f"its RSA key has {bits} bits, and receivers verify {key_size.MIN_BITS} to"
            f" {key_size.MAX_BITS}; make a new key with `carbonseal keys generate`",
        )


def _unusable(path: Path, what: str) -> errors.DataError:
    return errors.DataError(f"{path}: {what}.")
