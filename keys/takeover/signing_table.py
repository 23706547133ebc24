"""A SigningTable: which authors are signed with which key, as patterns of our own.

A flat file is looked up by user@host, host, user@.domain, .domain, user@*, * in this order,
whatever the order of its lines; a refile holds wildcard patterns of the whole address, first match
first (opendkim.conf(5), SigningTable).  The value is the name of a key, `%` for the author's
domain, and perhaps an identity (i=).

Promises: each line becomes a `SignerLine` or a refusal; their order is that in which they count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from carbonseal.keys.takeover import dataset
from carbonseal.keys.takeover.dataset import Kind
from carbonseal.keys.takeover.found import Refusal
from carbonseal.policies import domains, errors

ANYBODY = "*"
_LOCAL = re.compile(r"[^?\[\]\s\x00-\x1f\x7f-\x9f\ud800-\udfff@\"\\]{1,64}\Z")


class Dialect(StrEnum):
    """Whose table it is."""

    OPENDKIM = "opendkim"
    DKIMPY_MILTER = "dkimpy-milter"  # '*' works in every file, '%' is everybody, key name last
    RSPAMD = "rspamd"


@dataclass(frozen=True, slots=True)
class SignerLine:
    """Authors and the name of the key they are signed with."""

    author: str  # as signing.AuthorPattern reads it
    key_name: str  # '%': the author's domain is the name
    source: str
    has_identity: bool  # a second field chooses i=, which a rule cannot

    @property
    def domain(self) -> str:
        """The authors' domain: exact, '.example.com' for its subdomains, '' for any."""
        return self.author.rpartition("@")[2] if "@" in self.author else ""

    @property
    def breadth(self) -> int:
        """How many authors it speaks about: one, a domain, many domains."""
        if not self.author.startswith("*"):
            return 0
        return 1 if self.domain and not self.domain.startswith(".") else 2


def parse(
    table: dataset.Dataset, dialect: Dialect, *, is_sure: bool = True
) -> tuple[list[SignerLine], list[Refusal]]:
    """The lines in the order in which they count, and what is wrong with the others.

    Without `is_sure` nobody said which kind of file it is, and wildcards decide.
    """
    patterns = _has_patterns(table, dialect, is_sure=is_sure)
    ranked: list[tuple[tuple[int, int], SignerLine]] = []
    refusals: list[Refusal] = []
    for entry in table.entries:
        try:
            line = _parse(entry, dialect, patterns=patterns)
            ranked.append(((0, 0) if patterns else _rank(entry.name), line))
        except errors.DataError as error:
            refusals.append(Refusal(entry.source, error.sentence))
    ranked.sort(key=lambda pair: pair[0])
    return [line for _, line in ranked], refusals


def _has_patterns(table: dataset.Dataset, dialect: Dialect, *, is_sure: bool) -> bool:
    if dialect is not Dialect.OPENDKIM or table.kind is Kind.PATTERNS:
        return True
    return not is_sure and any(
        "*" in entry.name.rstrip("*") or "*@" in entry.name for entry in table.entries
    )


def _parse(entry: dataset.Entry, dialect: Dialect, *, patterns: bool) -> SignerLine:
    fields = [field.strip() for field in entry.value.split(":")]
    if not fields[0] or len(fields) > 2:
        raise errors.DataError(
            "it names no key; write it as `author-pattern key-name`, the name as in the KeyTable."
        )
    translate = _from_pattern if patterns else _from_flat
    everybody = dialect is Dialect.DKIMPY_MILTER and entry.name == "%"
    return SignerLine(
        author=ANYBODY if everybody else translate(entry.name),
        key_name=fields[-1] if dialect is Dialect.DKIMPY_MILTER else fields[0],
        source=entry.source,
        has_identity=len(fields) == 2,
    )


def _from_pattern(name: str) -> str:
    """A wildcard pattern of the whole address."""
    if name in ("*", "*@*"):
        return ANYBODY
    local, at, domain = name.rpartition("@")
    if not at and name.startswith("*."):
        local, domain = "*", name[1:]
    elif not at:
        raise errors.DataError(
            "it has no @, so as a pattern it matches no address, or parts of domain names; write"
            " *@example.com, or *@*.example.com for all subdomains."
        )
    elif domain.startswith("*."):
        domain = domain[1:]
    elif domain.startswith("."):
        raise errors.DataError(
            "in a file of patterns it matches no address; write *@*.example.com for all subdomains."
        )
    return _author(local, domain)


def _from_flat(name: str) -> str:
    """A name that is looked up as a whole."""
    if name == "*":
        return ANYBODY
    local, at, domain = name.rpartition("@")
    if at and "*" in local:
        raise errors.DataError(
            "in a flat file OpenDKIM compares the * as a letter, so it matches nobody; write"
            " `refile:` before the name of the table if patterns are meant."
        )
    return _author(local if at else "*", domain)


def _author(local: str, domain: str) -> str:
    if "*" in domain:
        raise errors.DataError(
            "its pattern leaves a part of the domain open, which a rule cannot; write one rule for"
            " each domain (*@example.com, or *@.example.com for all subdomains)."
        )
    if not _LOCAL.match(local):
        raise errors.DataError(
            "its local part has characters that a rule cannot have; write the rule by hand."
        )
    dot = "." if domain.startswith(".") else ""
    normal = domains.a_labels(domain.removeprefix("."))
    if normal is None:
        raise errors.DataError("its domain is no domain name; correct the entry.")
    return f"{local.lower()}@{dot}{normal}"


def _rank(name: str) -> tuple[int, int]:
    """Place in the order of look-ups, longer domains first."""
    local, at, domain = name.rpartition("@")
    below = domain.startswith(".")
    if domain == "*":
        return (5 if at else 6), 0
    return (3 if below else 1) + (0 if at and local else 1), -len(domain)
