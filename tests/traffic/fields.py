"""Header sections as programs and relays make them.

Promises: 10 to 40 fields in the usual order and shape; what is random in real mail (signatures,
boundaries, identifiers) is random here, for it is that which does not compress.
"""

from __future__ import annotations

import binascii
import functools
import random
import time
import uuid

from traffic.people import Domain, Person

Field = tuple[str, str]
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_TYPES = (
    'multipart/alternative;\n\tboundary="',
    'multipart/mixed;\n\tboundary="',
    'multipart/related;\n\tboundary="',
)
_TESTS = (
    "BAYES_00=-1.9",
    "DKIM_SIGNED=0.1",
    "DKIM_VALID=-0.1",
    "SPF_HELO_NONE=0.001",
    "SPF_PASS=-0.001",
    "HTML_MESSAGE=0.001",
    "DKIM_VALID_AU=-0.1",
    "RCVD_IN_DNSWL_NONE=-0.0001",
)
_SIGNED = (
    "from:to:subject:date:message-id:mime-version:content-type",
    "from:to:cc:subject:date:message-id:reply-to:in-reply-to:references:mime-version:content-type",
    "message-id:date:subject:mime-version:from:to:list-unsubscribe:list-unsubscribe-post",
)


@functools.lru_cache(maxsize=8)
def _minute(minute: int, zone: str) -> tuple[str, str]:
    offset = (int(zone[1:3]) * 60 + int(zone[3:])) * (1 if zone[0] == "+" else -1)
    then = time.gmtime((minute + offset) * 60)
    return (
        f"{_DAYS[then.tm_wday]}, {then.tm_mday:02d} {_MONTHS[then.tm_mon - 1]} {then.tm_year} "
        f"{then.tm_hour:02d}:{then.tm_min:02d}:",
        f" {zone}",
    )


def date(now: float, zone: str = "+0000") -> str:
    """A moment as in Date fields."""
    before, after = _minute(int(now // 60), zone)
    return f"{before}{int(now % 60):02d}{after}"


def base64_of(size: int, rng: random.Random) -> str:
    """So many random octets in base64."""
    return binascii.b2a_base64(rng.randbytes(size), newline=False).decode()


def _lines(text: str, width: int = 72) -> str:
    return "\n\t ".join([text[start : start + width] for start in range(0, len(text), width)])


def dkim_signature(domain: str, selector: str, now: float, rng: random.Random) -> Field:
    """A signature of somebody else, RSA-2048."""
    listed = _SIGNED[int(rng.random() * 3)]
    return (
        "DKIM-Signature",
        f" v=1; a=rsa-sha256; c=relaxed/relaxed; d={domain};\n\ts={selector}; t={int(now)};\n"
        f"\th={listed};\n\tbh={base64_of(32, rng)};\n\tb={_lines(base64_of(256, rng))}",
    )


def received(
    by: str, client: str, address: str, reader: str, now: float, rng: random.Random
) -> Field:
    """A line of the trace."""
    queue_id = binascii.hexlify(rng.randbytes(6)).decode().upper()
    literal = f"IPv6:{address}" if ":" in address else address
    return (
        "Received",
        f" from {client} ({client} [{literal}])\n\t(using TLSv1.3 with cipher "
        "TLS_AES_256_GCM_SHA384 (256/256 bits)\n\t key-exchange X25519 server-signature RSA-PSS "
        f"(2048 bits))\n\t(No client certificate requested)\n\tby {by} (Postfix) with ESMTPS id "
        f"{queue_id}\n\tfor <{reader}>; {date(now)} (UTC)",
    )


def brief_received(by: str, address: str, now: float, rng: random.Random) -> Field:
    """The line of a provider's submission server."""
    return (
        "Received",
        f" by {by} with SMTP id {binascii.hexlify(rng.randbytes(9)).decode()}\n        for "
        f"<{address}>; {date(now, '-0800')} (PST)",
    )


def message_id(person: Person, now: float, rng: random.Random) -> str:
    """A Message-ID as the author's program makes them, without angle brackets."""
    program, domain = person.program, person.domain.name
    if program == "thunderbird":
        digits = binascii.hexlify(rng.randbytes(16)).decode()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}@{domain}"
    if program == "outlook":
        digits = binascii.hexlify(rng.randbytes(10)).decode().upper()
        return f"DB9P{digits[:8]}{digits[8:]}@DB9P{digits[:8]}.eurprd04.{domain}"
    if program == "phone":
        digits = binascii.hexlify(rng.randbytes(16)).decode().upper()
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:]}@{domain}"
    if program == "webmail":
        return f"CA{base64_of(33, rng).replace('/', '-').replace('+', '_')}@mail.{domain}"
    return f"{int(now)}.{int(rng.random() * 1e6)}.{int(rng.random() * 1e10)}@{person.domain.name}"


def mime(person: Person, rng: random.Random) -> tuple[Field, ...]:
    """MIME-Version and the type of the content."""
    what = rng.random()
    if what < 0.3:
        charset = person.language.charset if what < 0.08 else "utf-8"
        return (
            ("MIME-Version", " 1.0"),
            ("Content-Type", f' text/plain; charset="{charset}"'),
            ("Content-Transfer-Encoding", " quoted-printable" if what < 0.2 else " 8bit"),
        )
    kind = _TYPES[0 if what < 0.75 else 1 if what < 0.92 else 2]
    tail = binascii.hexlify(rng.randbytes(12)).decode()
    begin = "_000_DB9P" if person.program == "outlook" else "------------0"
    return (("MIME-Version", " 1.0"), ("Content-Type", f' {kind}{begin}{tail}"'))


def of_program(person: Person, subject: str, now: float, rng: random.Random) -> tuple[Field, ...]:
    """What the author's program adds of its own."""
    program = person.program
    if program == "outlook":
        language = "de-DE" if person.language.code == "de" else "en-US"
        return (
            ("Thread-Topic", f" {subject}"),
            ("Thread-Index", f" Ad{base64_of(20, rng)}"),
            ("Accept-Language", f" {language}, en-US"),
            ("Content-Language", f" {language}"),
            ("X-MS-Has-Attach", " yes" if rng.random() < 0.2 else " "),
            ("X-MS-TNEF-Correlator", " "),
            ("x-originating-ip", f" [{person.client or '10.20.30.40'}]"),
        )
    if program == "thunderbird":
        return (
            ("User-Agent", " Mozilla Thunderbird"),
            ("Content-Language", f" {person.language.code}"),
            ("X-Mozilla-Draft-Info", " internal/draft; vcard=0; receipt=0; DSN=0; uuencode=0"),
            ("X-Identity-Key", f" id{person.number % 4 + 1}"),
        )
    if program == "phone":
        return (
            ("X-Mailer", " Pocket Mail (20F66)"),
            ("X-Universally-Unique-Identifier", f" {uuid.UUID(int=rng.getrandbits(128))}"),
        )
    if program == "groupware":
        return (
            ("X-Mailer", " Open-Xchange Mailer v7.10.6-Rev39"),
            ("X-Priority", " 3"),
            ("Importance", " Normal"),
            ("X-Originating-Client", " open-xchange-appsuite"),
        )
    return (
        ("User-Agent", " Webmail 1.6.6"),
        ("X-Sender", f" {person.address}"),
        ("Organization", f" {person.domain.name.partition('.')[0].title()}"),
    )


def by_provider(domain: Domain, address: str, now: float, rng: random.Random) -> tuple[Field, ...]:
    """What a provider with hosted mailboxes adds: ARC of what it forwards, its filter's notes."""
    results = (
        f" i=1; mx.{domain.name}; spf=pass smtp.mailfrom={address};\n"
        f" dkim=pass header.d={domain.name} header.s=selector1; arc=none"
    )
    return (
        ("ARC-Authentication-Results", results),
        (
            "ARC-Message-Signature",
            f" i=1; a=rsa-sha256; c=relaxed/relaxed; d={domain.name};\n s=arcselector10001; "
            "h=From:Date:Subject:Message-ID:Content-Type:MIME-Version;\n"
            f" bh={base64_of(32, rng)};\n b={base64_of(256, rng)}",
        ),
        (
            "ARC-Seal",
            f" i=1; a=rsa-sha256; t={int(now)}; s=arcselector10001; d={domain.name}; cv=none;\n"
            f" b={base64_of(256, rng)}",
        ),
        ("X-OriginatorOrg", f" {domain.name}"),
        ("X-MS-Exchange-CrossTenant-Id", f" {_tenant(domain.name)}"),
        ("X-MS-Exchange-CrossTenant-AuthAs", " Internal"),
        ("X-MS-Exchange-CrossTenant-MailboxType", " HOSTED"),
        ("X-MS-Exchange-CrossTenant-FromEntityHeader", " Hosted"),
        ("X-MS-Exchange-CrossTenant-Network-Message-Id", f" {uuid.UUID(int=rng.getrandbits(128))}"),
        ("X-MS-PublicTrafficType", " Email"),
        ("X-MS-TrafficTypeDiagnostic", f" AM0PR04MB{int(rng.random() * 10_000)}:EE_"),
        (
            "X-Microsoft-Antispam",
            f" BCL:0;ARA:13230040|366016|{int(rng.random() * 1e6)}|1800799024|38070700018;",
        ),
        (
            "X-Microsoft-Antispam-Message-Info",
            f" {base64_of(150 + int(rng.random() * 450), rng)}",
        ),
    )


@functools.lru_cache(maxsize=4096)
def _tenant(domain: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_DNS, domain))


def of_filter(relay: str, domain: str, score: float) -> tuple[Field, ...]:
    """What our own filters, in front of the milter, say of mail from outside."""
    verdict = "pass" if score < 4 else "none"
    return (
        (
            "Authentication-Results",
            f" {relay};\n\tdkim={verdict} header.d={domain};\n\tspf={verdict} "
            f"smtp.mailfrom={domain};\n\tdmarc={verdict} header.from={domain}",
        ),
        ("X-Virus-Scanned", f" by the content filter at {relay}"),
        ("X-Spam-Flag", " NO"),
        ("X-Spam-Score", f" {score - 2:.3f}"),
        ("X-Spam-Level", f" {'*' * int(score)}"),
        (
            "X-Spam-Status",
            f" No, score={score - 2:.3f} tagged_above=-999 required=6.2\n\ttests=["
            f"{', '.join(_TESTS[: 3 + int(score)])}]\n\tautolearn=ham autolearn_force=no",
        ),
        ("Received-SPF", f" Pass (mailfrom) identity=mailfrom; receiver={relay}; helo={domain}"),
    )


def listed(people: list[Person]) -> str:
    """Mailboxes as in To and Cc."""
    return ",\n\t".join([one.mailbox for one in people])


def of_list(name: str, domain: str) -> tuple[Field, ...]:
    """What list managers add."""
    return (
        ("Precedence", " list"),
        ("List-Id", f" {name.title()} <{name}.{domain}>"),
        ("List-Archive", f" <https://{domain}/archives/list/{name}@{domain}/>"),
        ("List-Help", f" <mailto:{name}-request@{domain}?subject=help>"),
        ("List-Owner", f" <mailto:{name}-owner@{domain}>"),
        ("List-Post", f" <mailto:{name}@{domain}>"),
        ("List-Subscribe", f" <mailto:{name}-join@{domain}>"),
        ("List-Unsubscribe", f" <mailto:{name}-leave@{domain}>"),
    )
