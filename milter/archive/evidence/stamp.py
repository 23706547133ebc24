"""Time stamps of a chain's head by an authority that is not ours (RFC 3161).

What is stamped is an entry with its signature, so the imprint is the digest by which everybody
knows the entry; `openssl ts -verify -digest HASH -in RESPONSE -CAfile CERTIFICATE` checks it as
well.  Who holds a stamp need not believe the relay's clock, nor that its key was never stolen.

Promises: an answer is kept only if it stamps what was asked for (imprint and nonce), and, where the
authority's certificate is configured, if that signed it.

Raises: `StampFailed` (a sentence).

Does not: keep stamps (`stamping`), or load its library before it is needed: it is optional.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from carbonseal.milter.archive.evidence.seal import Sealed
from carbonseal.milter.archive.evidence.settings import Authority
from carbonseal.policies.errors import TryLater

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

_TIMEOUT = 10.0  # seconds
_MOST = 1024 * 1024  # octets of an answer
_DISORDER = "InvalidSetOrdering"
_SHA256 = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")


class StampFailed(TryLater):
    """There is no stamp; sealing goes on without it."""


def ask(authority: Authority, sealed: Sealed) -> bytes:
    """The authority's answer (TimeStampResp, DER) for an entry.  Raises: StampFailed."""
    answer, problem = _asked(authority, sealed, with_certificate=True)
    if problem is not None and _DISORDER in problem:
        # OpenSSL's authorities do not sort the certificates that they send along, as DER wants
        # it; without them, the signer's has to be in record.timestamp.certificate.
        answer, problem = _asked(authority, sealed, with_certificate=False)
    if problem is not None:
        raise StampFailed(f"{authority.url}: {problem}; check record.timestamp")
    return answer


def _asked(
    authority: Authority, sealed: Sealed, *, with_certificate: bool
) -> tuple[bytes, str | None]:
    """An answer, and what is wrong with it."""
    library = _library()
    builder = library.TimestampRequestBuilder().hash_algorithm(library.HashAlgorithm.SHA256)
    asked = builder.data(_message(sealed)).cert_request(cert_request=with_certificate).build()
    answer = _posted(authority.url, asked.as_bytes())
    return answer, check(answer, sealed, authority.certificate, nonce=asked.nonce)


def check(
    answer: bytes, sealed: Sealed, certificate: Path | None, *, nonce: int | None = None
) -> str | None:
    """Why an answer is no stamp of that entry; None when it is.

    Without certificate the authority's signature is not looked at.
    """
    library = _library()
    try:
        response = library.decode_timestamp_response(answer)
        if response.status != 0:
            return f"the authority refused ({'; '.join(response.status_string) or response.status})"
        imprint = response.tst_info.message_imprint
        if imprint.hash_algorithm != _SHA256 or imprint.message != sealed.digest:
            return "it stamps something else"
        if nonce is not None and response.tst_info.nonce != nonce:
            return "it is an answer to another question"
    except ValueError as fault:
        return f"it is no time stamp ({fault})"
    return (
        None if certificate is None else _signature_problem(library, response, sealed, certificate)
    )


def stamped_at(answer: bytes) -> datetime | None:
    """When the authority says that it was; None for what is no stamp."""
    try:
        found: datetime = _library().decode_timestamp_response(answer).tst_info.gen_time
    except ValueError:
        return None
    return found


def _signature_problem(
    library: Any, response: TimeStampResponse, sealed: Sealed, certificate: Path
) -> str | None:
    builder = library.VerifierBuilder()
    chain = _certificates(certificate)
    roots = [one for one in chain if one.subject == one.issuer] or chain[-1:]
    for one in chain:
        if one in roots:
            builder = builder.add_root_certificate(one)
        elif _is_signer(one) and not response.signed_data.certificates:
            builder = builder.tsa_certificate(one)
        else:
            builder = builder.add_intermediate_certificate(one)
    try:
        builder.build().verify(response, sealed.digest)
    except library.VerificationError as fault:
        return f"the authority in {certificate} has not signed it ({fault})"
    return None


def _is_signer(certificate: x509.Certificate) -> bool:
    try:
        found = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    return x509.oid.ExtendedKeyUsageOID.TIME_STAMPING in found.value


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as fault:
        raise StampFailed(
            f"{path}: the certificate cannot be read ({fault.strerror}); check "
            "record.timestamp.certificate"
        ) from None
    except ValueError:
        raise StampFailed(
            f"{path}: this is no PEM certificate; check record.timestamp.certificate"
        ) from None


def _message(sealed: Sealed) -> bytes:
    return sealed.entry.encode("ascii") + sealed.signature


def _posted(url: str, content: bytes) -> bytes:
    request = urllib.request.Request(  # noqa: S310 (the configuration takes http and https only)
        url, content, {"Content-Type": "application/timestamp-query"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return bytes(answer.read(_MOST))
    except (urllib.error.URLError, OSError, ValueError) as fault:
        reason = getattr(fault, "reason", None) or fault
        raise StampFailed(
            f"{url}: the time stamp authority does not answer ({reason}); it is asked again later"
        ) from None


def _library() -> Any:
    try:
        import rfc3161_client  # noqa: PLC0415
    except ImportError:
        raise StampFailed(
            "record.timestamp: time stamps need the library rfc3161-client; install "
            "carbonseal[timestamp]"
        ) from None
    return rfc3161_client
