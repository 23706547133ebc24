"""What may be written in carbonseal.yaml: the sections, their keys, and each key's default.

Promises: unknown keys, wrong types and values out of range are refused; so are values that
contradict one another within a section.

Does not: read files, or know what the values are for (`config_values`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from carbonseal.keys import key_size, selector_names
from carbonseal.milter.config_types import (
    DatabaseUrl,
    DelegateTemplate,
    Directory,
    DomainEntry,
    DomainName,
    Duration,
    FewFields,
    FieldName,
    KeyTemplate,
    Line,
    Mailbox,
    NetworkText,
    Pattern,
    Period,
    ServerText,
    Size,
    SmtpAddress,
    SocketText,
)
from carbonseal.policies import address, domains, retention, signing
from carbonseal.policies.boundary import CrossingKind
from carbonseal.policies.errors import ConfigurationError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MilterSection(_Section):
    """The process and its socket."""

    socket: SocketText = "unix:/run/carbonseal/milter.sock"
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0660"
    socket_group: Line | None = None
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    cpu_affinity: Literal["auto", "none"] = "auto"
    drain: Duration = 30
    protocol: Literal["own", "libmilter"] = "own"
    dry_run: bool = False


class OursSection(_Section):
    """The boundary: which domains and clients are ours."""

    domains: Annotated[list[DomainEntry], Field(min_length=1)]
    networks: list[NetworkText] = []
    listeners: list[Line] = []
    authenticated: bool = True
    local_submission: bool = False
    peers: list[NetworkText] = []


class RuleSection(_Section):
    """One signing rule."""

    author: Pattern
    sdid: DomainName | None


class SigningSection(_Section):
    """Which signatures are made."""

    keys: Directory = Path("/var/lib/carbonseal/keys")
    canonicalization: Annotated[str, Field(pattern=r"^(relaxed|simple)/(relaxed|simple)$")] = (
        "relaxed/relaxed"
    )
    rules: list[RuleSection] = []
    logins: dict[str, list[Pattern]] = {}
    oversign: list[FieldName] = list(signing.OVERSIGNED)
    oversign_absent: list[FieldName] = [
        name for name in signing.OVERSIGNED if name not in signing.LATE_ADDITIONS
    ]
    expires_after: Duration | None = None
    max_signatures: Annotated[int, Field(ge=1, le=8)] = 2


class ArchiveRuleSection(_Section):
    """One exception to the general archive rule."""

    crossing: Literal["internal", "outbound", "inbound", "transit"] | None = None
    domains: list[DomainEntry] | None = None
    recipients: list[Mailbox] | None = None
    when: Literal["crossing", "always", "never"] | None = None


class BccMapsSection(_Section):
    """Postfix's own BCC maps, to compare our decision with theirs; see `bcc_map_files`."""

    sender: str = ""
    recipient: str = ""
    always: Mailbox | None = None
    origin: Line | None = None
    append_domain: Line | None = None
    delimiter: str = ""
    local: list[Line] = []
    replaced: list[Mailbox] = []


class AlarmSection(_Section):
    """Who is told that archive copies do not arrive."""

    command: list[Line] = []
    mail: Mailbox | None = None
    smtp: SmtpAddress = "inet:25@127.0.0.1"
    repeat: Annotated[Duration, Field(ge=60)] = 3600


class ArchiveSection(_Section):
    """The archive copy."""

    recipients: list[Mailbox] = []
    when: Literal["crossing", "always", "never"] = "crossing"
    rules: list[ArchiveRuleSection] = []
    alternate: list[Mailbox] = []
    alternate_after: Annotated[int, Field(ge=1, le=1000)] = 3
    retry: Annotated[Duration, Field(ge=1)] = 300
    alarm: AlarmSection | None = None
    next_hop: SmtpAddress | None = None
    compare: Literal["bcc_maps"] | None = None
    bcc_maps: BccMapsSection | None = None

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> ArchiveSection:
        named = {str(address.parse_address(one)).lower() for one in self.recipients}
        both = [one for one in self.alternate if str(address.parse_address(one)).lower() in named]
        if both:
            raise ValueError(
                f"alternate: {both[0]} is one of archive.recipients; name a mailbox on another host"
            )
        told = None if self.alarm is None else self.alarm.mail
        watched = {*named, *(str(address.parse_address(one)).lower() for one in self.alternate)}
        if told is not None and str(address.parse_address(told)).lower() in watched:
            raise ValueError(
                f"alarm.mail: {told} is an archive mailbox, which may be the one that fails; name a"
                " person's"
            )
        return self


class TimestampSection(_Section):
    """A time stamp authority (RFC 3161)."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/]+(/\S*)?$", max_length=2000)]
    every: Annotated[Duration, Field(ge=60)] = 3600
    certificate: Directory | None = None


class RecordSection(_Section):
    """The record and its way into SQL."""

    spool: Directory = Path("/var/spool/carbonseal")
    spool_limit: Size = 4 * 1024**3
    keep_loaded: Duration | None = 7 * 86400
    database: DatabaseUrl = "sqlite:////var/lib/carbonseal/archive/archive.db"
    headers: Literal["all"] | list[FieldName] = "all"
    index_headers: FewFields = ["List-Id"]
    relay: Line | None = None
    evidence: Directory | None = None
    timestamp: TimestampSection | None = None


class StatusSection(_Section):
    """Who may ask how the relay is."""

    listen: SocketText | None = None


class FollowSection(_Section):
    """Postfix's log, from which it is known what became of each message."""

    log: Line = "journal"
    syslog_name: Line = "postfix"


class AuditSection(_Section):
    """What whoever asks the archive must say."""

    require_reason: bool = False


class FailureSection(_Section):
    """Overrides of the failure policy."""

    no_usable_key: Literal["accept", "tempfail", "reject"] = "accept"
    unreadable_key: Literal["accept", "tempfail", "reject"] = "tempfail"
    key_not_published: Literal["accept", "tempfail", "reject"] = "accept"
    unusable_author: Literal["accept", "tempfail", "reject"] = "accept"
    transformation: Literal["accept", "tempfail", "reject"] = "accept"
    header_too_large: Literal["accept", "tempfail", "reject"] = "reject"
    # Not accept: without all recipients nobody can say whether the archive gets a copy.
    too_many_recipients: Literal["tempfail", "reject"] = "reject"
    signature_failed: Literal["accept", "tempfail", "reject"] = "accept"
    record_not_writable: Literal["accept", "tempfail", "reject"] = "tempfail"
    internal_error: Literal["accept", "tempfail", "reject"] = "tempfail"


class PublishSection(_Section):
    """Who publishes the key records of some domains."""

    domains: list[DomainEntry] | None = None
    method: Literal["manual", "rfc2136", "provider"] = "manual"
    server: ServerText | None = None
    zone: DomainName | None = None
    key_file: Directory | None = None
    provider: Annotated[str, Field(pattern=r"^[a-z0-9_]*$")] = ""
    credentials: Directory | None = None
    delegate: DelegateTemplate | None = None


class DnsSection(_Section):
    """Whom to ask about published keys, and who publishes them."""

    servers: dict[DomainName, Annotated[list[ServerText], Field(min_length=1)]] = {}
    resolvers: list[ServerText] = []
    timeout: Annotated[Duration, Field(ge=1, le=60)] = 3
    tries: Annotated[int, Field(ge=1, le=10)] = 2
    ttl: Annotated[Duration, Field(ge=1, le=604800)] = 3600
    publish: list[PublishSection] = []


class RotationSection(_Section):
    """When keys follow one another, and how long an old one's record stays."""

    lifetime: Duration = 180 * 86400
    lead: Duration = 14 * 86400
    selector: KeyTemplate = selector_names.SELECTOR_TEMPLATE
    bits: Literal[2048, 3072, 4096] = key_size.DEFAULT_BITS
    standby: bool = False
    safety: Duration = 600
    downstream_queue: Duration = 5 * 86400
    verifier_slack: Duration = 4 * 86400
    queue_lifetime: Duration = 5 * 86400
    revoke: Literal["empty", "remove", "keep"] = "empty"
    keep_revoked: Duration = 30 * 86400
    postfix: Directory | None = None
    relays: dict[Line, Annotated[list[Line], Field(min_length=1)]] = {}


class TermsSection(_Section):
    """Times to keep: of the record, its header section, its subject."""

    keep: Period | None = None
    headers: Period | None = None
    subject: Period | None = None


class RetentionRuleSection(_Section):
    """Messages that belong to a retention class."""

    use: Line
    crossing: Literal["internal", "outbound", "inbound", "transit"] | None = None
    domains: list[DomainEntry] | None = None
    author: Pattern | None = None
    logins: list[Line] | None = None


class RetentionSection(_Section):
    """How long records are kept."""

    classes: dict[Line, TermsSection] = {}
    rules: list[RetentionRuleSection] = []
    default: Line | None = None
    floor: TermsSection | None = None
    ceiling: TermsSection | None = None

    @pydantic.model_validator(mode="after")
    def _agrees(self) -> RetentionSection:
        try:
            retention_policy(self)
        except ConfigurationError as fault:
            raise ValueError(fault.sentence) from None
        return self


def retention_policy(section: RetentionSection) -> retention.RetentionPolicy:
    """The policy; here, because the section is checked with it.  Raises: ConfigurationError."""
    return retention.RetentionPolicy(
        classes={name: _terms(terms) for name, terms in section.classes.items()},
        rules=tuple(map(_retention_rule, section.rules)),
        default=section.default,
        floor=_terms(section.floor),
        ceiling=_terms(section.ceiling),
    )


def _terms(section: TermsSection | None) -> retention.Terms:
    if section is None:
        return retention.Terms()
    return retention.Terms(section.keep, section.headers, section.subject)


def _retention_rule(section: RetentionRuleSection) -> retention.RetentionRule:
    return retention.RetentionRule(
        name=section.use,
        crossing=None if section.crossing is None else CrossingKind(section.crossing),
        domains=None if section.domains is None else domains.DomainSet(section.domains),
        author=None if section.author is None else signing.AuthorPattern.parse(section.author),
        logins=None if section.logins is None else frozenset(map(str.casefold, section.logins)),
    )


class LogSection(_Section):
    """What is logged, and how."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class FileModel(_Section):
    """The whole file."""

    milter: MilterSection = MilterSection()
    ours: OursSection
    signing: SigningSection = SigningSection()
    archive: ArchiveSection = ArchiveSection()
    record: RecordSection = RecordSection()
    follow: FollowSection = FollowSection()
    status: StatusSection = StatusSection()
    audit: AuditSection = AuditSection()
    dns: DnsSection = DnsSection()
    rotation: RotationSection = RotationSection()
    retention: RetentionSection = RetentionSection()
    failure: FailureSection = FailureSection()
    log: LogSection = LogSection()
