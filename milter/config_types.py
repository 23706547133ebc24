"""Kinds of values in the configuration: times, sizes, addresses, names, each as a person writes it.

Promises: a value keeps the form that was written where it is text, and has passed the parser of the
room that uses it; times become seconds and sizes octets.

Raises: ValueError inside pydantic, with a sentence that says what to write.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from carbonseal.keys import selector_names
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.milter import socket_address
from carbonseal.policies import address, domains, origin, retention, signing
from carbonseal.policies.errors import CarbonsealError, ConfigurationError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PERIODS = {"d": 86400, "w": 604800, "y": retention.YEAR}
_LONGEST = 100 * 365 * 86400  # seconds
_MOST_INDEXED = 16  # header fields that are indexed
_SIZES = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


def _checked(parse: Callable[[str], object]) -> Callable[[Any], Any]:
    """A pydantic check that keeps the text and turns our sentences into pydantic's errors."""

    def check(value: Any) -> Any:
        if isinstance(value, str):
            try:
                parse(value)
            except CarbonsealError as fault:
                raise ValueError(str(fault)) from None
        return value

    return check


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        found = re.fullmatch(r"(\d{1,9})\s*([smhdw])", value)
        if not found:
            raise ValueError("write a duration such as 30s, 15m, 12h, 7d or 2w")
        return int(found[1]) * _UNITS[found[2]]
    return value


def _period(value: Any) -> Any:
    # Months are left out: m is minutes everywhere else, and months are of several lengths.
    if isinstance(value, str):
        found = re.fullmatch(r"(\d{1,5})\s*([dwy])", value)
        if not found:
            raise ValueError("write a time to keep such as 90d, 26w or 7y, where 1y is 366 days")
        return int(found[1]) * _PERIODS[found[2]]
    return value


def _octets(value: Any) -> Any:
    if isinstance(value, str):
        found = re.fullmatch(r"(\d{1,15})\s*(|KiB|MiB|GiB|TiB)", value)
        if not found:
            raise ValueError("write a size such as 512MiB or 4GiB")
        return int(found[1]) * _SIZES[found[2]]
    return value


def _domain_entry(text: str) -> None:
    domains.DomainSet([text])


def network(text: str) -> origin.Network:
    """An address or network.  Raises: ConfigurationError."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as fault:
        raise ConfigurationError(
            f"{fault}; write an address or a network such as 192.0.2.0/24"
        ) from None


def _line(text: str) -> None:
    if not text or not text.isprintable():
        raise ConfigurationError("write one line of text, without control characters")


def _database(value: Any) -> Any:
    # The value is not shown: it may hold a password.
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError("write a database URL such as sqlite:////var/lib/carbonseal/archive.db")
    host = value.partition("://")[2].partition("/")[0].rpartition("@")[2]
    port = re.search(r":([^]:]*)$", host)
    if port and not re.fullmatch(r"[0-9]{0,5}", port[1]):
        raise ValueError("write the port, after host and colon, as a number")
    return value


def _few(names: Any) -> Any:
    # Every one of them is looked for in every message, and kept a second time where it is found.
    if isinstance(names, list) and len(names) > _MOST_INDEXED:
        raise ValueError(f"name at most {_MOST_INDEXED} header fields; others are found by reading")
    return names


def _delegate(text: str) -> None:
    try:
        name = text.format(selector="s", sdid="example.com")
    except (KeyError, ValueError, IndexError, AttributeError):
        name = ""
    if "{selector}" not in text or not domains.a_labels(name.rstrip(".").replace("_", "x")):
        raise ConfigurationError(
            "write a domain name with {selector} and {sdid} in it, such as"
            " '{selector}.{sdid}.dkim.example.net'"
        )


def _smtp_address(text: str) -> None:
    try:
        if socket_address.parse(text).host is not None:
            return
    except ConfigurationError:
        pass  # whose advice is for who looks for a milter's socket
    found = re.fullmatch(r"(?:smtp:|inet:)?\[?([0-9a-fA-F.:]{2,45}?)\]?(?::(\d{1,5}))?", text)
    try:
        host, port = (str(ipaddress.ip_address(found[1])), found[2] or "25") if found else ("", "")
    except ValueError:
        host = ""
    meant = f"inet:{port}@{host}" if host else "the IP address and port, such as inet:25@192.0.2.50"
    raise ConfigurationError(f"next hop {text!r}: write {meant}")


Duration = Annotated[int, BeforeValidator(_seconds), Field(ge=0, le=_LONGEST)]
# Less than a day would let a slip of the pen empty the archive.
Period = Annotated[int, BeforeValidator(_period), Field(ge=retention.DAY, le=1000 * retention.YEAR)]
Size = Annotated[int, BeforeValidator(_octets), Field(ge=0)]
Line = Annotated[str, BeforeValidator(_checked(_line))]
Directory = Annotated[Path, BeforeValidator(_checked(_line)), Field(strict=False)]
DatabaseUrl = Annotated[str, BeforeValidator(_database)]
DomainEntry = Annotated[str, BeforeValidator(_checked(_domain_entry))]
NetworkText = Annotated[str, BeforeValidator(_checked(network))]
Mailbox = Annotated[str, BeforeValidator(_checked(address.parse_address))]
Pattern = Annotated[str, BeforeValidator(_checked(signing.AuthorPattern.parse))]
DomainName = Annotated[str, BeforeValidator(_checked(domains.normalize))]
SocketText = Annotated[str, BeforeValidator(_checked(socket_address.parse))]
ServerText = Annotated[str, BeforeValidator(_checked(ServerAddress.parse))]
FieldName = Annotated[str, Field(pattern=r"^[!-9;-~]+$")]
SmtpAddress = Annotated[str, BeforeValidator(_checked(_smtp_address))]
DelegateTemplate = Annotated[str, BeforeValidator(_checked(_delegate))]
KeyTemplate = Annotated[str, BeforeValidator(_checked(selector_names.check_template))]
FewFields = Annotated[list[FieldName], BeforeValidator(_few)]
