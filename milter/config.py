"""The configuration: what may be written in carbonseal.yaml, and the values the rooms work with.

Promises: `load` either constructs everything or raises; after it nothing can be misconfigured.
Unknown keys, wrong types and impossible values name file, line, key and the nearest valid name.
Relative paths are relative to the file.

Raises: ConfigurationError, whose `problems` lists every complaint.

Does not: open sockets, keys or databases; `config check` asks for those separately.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from carbonseal.keys import generate
from carbonseal.keys.publication.settings import DnsSettings, PublishRule, ServerAddress
from carbonseal.milter import bcc_map_files, config_file, socket_address
from carbonseal.milter.archive.evidence import settings
from carbonseal.policies import (
    address,
    archiving,
    disposition,
    domains,
    origin,
    retention,
    rotation,
    signing,
)
from carbonseal.policies.bcc_maps import BccMaps
from carbonseal.policies.boundary import CrossingKind
from carbonseal.policies.errors import CarbonsealError, ConfigurationError

DEFAULT_PATH = Path("/etc/carbonseal/carbonseal.yaml")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PERIODS = {"d": 86400, "w": 604800, "y": retention.YEAR}
_Form = Literal["relaxed", "simple"]
_LONGEST = 100 * 365 * 86400  # seconds
_MOST_INDEXED = 16  # header fields that are indexed
_SIZES = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}


class InvalidConfiguration(ConfigurationError):
    """The file is readable but wrong."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        more = len(problems) - 1
        tail = f" (and {more} more: carbonseal config check)" if more else ""
        super().__init__(problems[0] + tail)


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


def _network(text: str) -> origin.Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as fault:
        raise ConfigurationError(
            f"{fault}; write an address or a network such as 192.0.2.0/24"
        ) from None


def _line(text: str) -> None:
    if not text or not text.isprintable():
        raise ConfigurationError("write one line of text, without control characters")


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


Duration = Annotated[int, BeforeValidator(_seconds), Field(ge=0, le=_LONGEST)]
# Less than a day would let a slip of the pen empty the archive.
Period = Annotated[int, BeforeValidator(_period), Field(ge=retention.DAY, le=1000 * retention.YEAR)]
Size = Annotated[int, BeforeValidator(_octets), Field(ge=0)]
Line = Annotated[str, BeforeValidator(_checked(_line))]
Directory = Annotated[Path, BeforeValidator(_checked(_line)), Field(strict=False)]
DatabaseUrl = Annotated[str, BeforeValidator(_database)]
DomainEntry = Annotated[str, BeforeValidator(_checked(_domain_entry))]
NetworkText = Annotated[str, BeforeValidator(_checked(_network))]
Mailbox = Annotated[str, BeforeValidator(_checked(address.parse_address))]
Pattern = Annotated[str, BeforeValidator(_checked(signing.AuthorPattern.parse))]
DomainName = Annotated[str, BeforeValidator(_checked(domains.normalize))]
SocketText = Annotated[str, BeforeValidator(_checked(socket_address.parse))]
ServerText = Annotated[str, BeforeValidator(_checked(ServerAddress.parse))]
FieldName = Annotated[str, Field(pattern=r"^[!-9;-~]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MilterSection(_Section):
    """The process and its socket."""

    socket: SocketText = "unix:/run/carbonseal/milter.sock"
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0660"
    socket_group: Line | None = None
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] = "auto"
    drain: Duration = 30
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


def _loopback(text: str) -> None:
    where = socket_address.parse(text)
    if where.host is None:
        raise ConfigurationError("write an address such as inet:25@127.0.0.1")


class AlarmSection(_Section):
    """Who is told that archive copies do not arrive."""

    command: list[Line] = []
    mail: Mailbox | None = None
    smtp: Annotated[str, BeforeValidator(_checked(_loopback))] = "inet:25@127.0.0.1"
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
    next_hop: SocketText | None = None
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
    index_headers: Annotated[list[FieldName], BeforeValidator(_few)] = ["List-Id"]
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
    delegate: Annotated[str, BeforeValidator(_checked(_delegate))] | None = None


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
    selector: Annotated[str, BeforeValidator(_checked(generate.check_template))] = (
        generate.SELECTOR_TEMPLATE
    )
    bits: Literal[2048, 3072, 4096] = generate.DEFAULT_BITS
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
            _retention(self)
        except ConfigurationError as fault:
            raise ValueError(fault.sentence) from None
        return self


# Here already, because the default of the section below is checked with it.
def _retention(section: RetentionSection) -> retention.RetentionPolicy:
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


@dataclass(frozen=True, slots=True)
class Configuration:
    """A checked configuration and the policy values made from it."""

    path: Path
    file: FileModel
    version: str  # 12 hex digits over the effective content; stands in every record
    ours: origin.Ours
    signing: signing.SigningPolicy
    archive: archiving.ArchivePolicy
    compare: BccMaps | None  # what the archive copy is compared with; None: nothing
    failure: disposition.FailurePolicy
    dns: DnsSettings
    rotation: rotation.Rules
    retention: retention.RetentionPolicy

    @property
    def keys_directory(self) -> Path:
        """Where the key store lives."""
        return self.file.signing.keys

    @property
    def index_headers(self) -> frozenset[str]:
        """Names in lower case of header fields whose values can be searched by an index."""
        return frozenset(name.lower() for name in self.file.record.index_headers)

    @property
    def spool_directory(self) -> Path:
        """Where records wait for the writer."""
        return self.file.record.spool

    @property
    def evidence(self) -> settings.Settings:
        """Where the writer keeps what proves the archive."""
        section = self.file.record
        stamped = section.timestamp
        return settings.Settings(
            directory=section.evidence or settings.beside(section.spool).directory,
            authority=None
            if stamped is None
            else settings.Authority(stamped.url, stamped.every, stamped.certificate),
        )

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the archive."""
        return self.file.record.database


def load(path: Path) -> Configuration:
    """Read, check and assemble the configuration in `path`."""
    return assemble(config_file.read(path))


def assemble(document: config_file.Document) -> Configuration:
    """The configuration in `document`."""
    try:
        # A section whose every line is commented out is an empty one.
        sections = {
            name: {} if section is None and name in FileModel.model_fields else section
            for name, section in document.content.items()
        }
        model = FileModel.model_validate(sections)
    except pydantic.ValidationError as fault:
        # A misspelt key is often the reason why another one is missing: it is named first.
        errors = sorted(fault.errors(), key=lambda error: error["type"] != "extra_forbidden")
        written = {part for key_path in document.lines for part in key_path}
        written |= FileModel.model_fields.keys()
        raise InvalidConfiguration(list(_sentences(document, errors, written))) from None
    model = _with_absolute_paths(model, document.path.resolve().parent)
    digest = hashlib.sha256(model.model_dump_json().encode()).hexdigest()
    return Configuration(
        path=document.path,
        file=model,
        version=digest[:12],
        ours=_ours(model.ours),
        signing=_signing(model.signing),
        archive=_archive(model.archive),
        compare=_compare(document, model),
        dns=_dns(model.dns),
        rotation=_rotation(model.rotation),
        retention=_retention(model.retention),
        failure=disposition.FailurePolicy(
            {
                disposition.FailureClass(name): disposition.Answer(answer)
                for name, answer in model.failure.model_dump().items()
            }
        ),
    )


def _with_absolute_paths(model: FileModel, base: Path) -> FileModel:
    keys = base / model.signing.keys
    spool = base / model.record.spool
    evidence = model.record.evidence
    timestamp = model.record.timestamp
    if timestamp is not None and timestamp.certificate is not None:
        certificate = base / timestamp.certificate
        timestamp = timestamp.model_copy(update={"certificate": certificate})
    followed = model.follow.log
    if followed.partition(":")[0] != "journal":
        followed = str(base / followed)
    database = model.record.database
    if database.startswith("sqlite:///") and not database.startswith("sqlite:////"):
        database = f"sqlite:///{base / database.removeprefix('sqlite:///')}"
    published = [
        rule.model_copy(
            update={
                name: base / path
                for name in ("key_file", "credentials")
                if (path := getattr(rule, name)) is not None
            }
        )
        for rule in model.dns.publish
    ]
    return model.model_copy(
        update={
            "signing": model.signing.model_copy(update={"keys": keys}),
            "dns": model.dns.model_copy(update={"publish": published}),
            "follow": model.follow.model_copy(update={"log": followed}),
            "record": model.record.model_copy(
                update={
                    "spool": spool,
                    "database": database,
                    "evidence": None if evidence is None else base / evidence,
                    "timestamp": timestamp,
                }
            ),
        }
    )


def _ours(section: OursSection) -> origin.Ours:
    return origin.Ours(
        domains=domains.DomainSet(section.domains),
        networks=tuple(map(_network, section.networks)),
        listeners=frozenset(section.listeners),
        authenticated=section.authenticated,
        local_submission=section.local_submission,
        peers=tuple(map(_network, section.peers)),
    )


def _signing(section: SigningSection) -> signing.SigningPolicy:
    header, _, body = section.canonicalization.partition("/")
    oversigned = tuple(dict.fromkeys(name.lower() for name in ["from", *section.oversign]))
    return signing.SigningPolicy(
        rules=tuple(
            signing.SigningRule(
                signing.AuthorPattern.parse(rule.author),
                None if rule.sdid is None else domains.normalize(rule.sdid),
            )
            for rule in section.rules
        ),
        logins={
            login: tuple(map(signing.AuthorPattern.parse, patterns))
            for login, patterns in section.logins.items()
        },
        header_canonicalization=cast(_Form, header),
        body_canonicalization=cast(_Form, body),
        oversigned=oversigned,
        oversign_absent=frozenset(name.lower() for name in section.oversign_absent),
        expires_after=section.expires_after,
        max_signatures=section.max_signatures,
    )


def _archive(section: ArchiveSection) -> archiving.ArchivePolicy:
    return archiving.ArchivePolicy(
        recipients=tuple(map(address.parse_address, section.recipients)),
        when=archiving.When(section.when),
        rules=tuple(map(_archive_rule, section.rules)),
        alternates=tuple(map(address.parse_address, section.alternate)),
    )


def bcc_maps_of(model: FileModel, base: Path) -> BccMaps:
    """The maps of archive.bcc_maps; `base` is the directory of the file.  Raises: UnusableMap."""
    section = model.archive.bcc_maps or BccMapsSection()
    exact = [name for name in model.ours.domains if not name.startswith(".")]
    return bcc_map_files.read(
        bcc_map_files.Sources(
            sender=section.sender,
            recipient=section.recipient,
            always=section.always or "",
            origin=section.origin or (exact[0] if exact else ""),
            dot_domain=section.append_domain or "",
            delimiter=section.delimiter,
            local=section.local,
            replaced=section.replaced,
            base=base,
        )
    )


def _compare(document: config_file.Document, model: FileModel) -> BccMaps | None:
    if model.archive.compare is None:
        return None
    if model.archive.bcc_maps is None:
        raise InvalidConfiguration(
            [
                f"{document.place(('archive', 'compare'))}: archive.compare: archive.bcc_maps is "
                "missing, so nothing can be compared; carbonseal postfix bcc-maps prints it"
            ]
        )
    try:
        return bcc_maps_of(model, document.path.resolve().parent)
    except bcc_map_files.UnusableMap as fault:
        key_path = ("archive", "bcc_maps", fault.key)
        place = f"{document.place(key_path)}: {'.'.join(key_path)}"
        raise InvalidConfiguration([f"{place}: {fault.sentence}"]) from None


def _archive_rule(section: ArchiveRuleSection) -> archiving.ArchiveRule:
    named = section.recipients
    return archiving.ArchiveRule(
        crossing=None if section.crossing is None else CrossingKind(section.crossing),
        domains=None if section.domains is None else domains.DomainSet(section.domains),
        recipients=None if named is None else tuple(map(address.parse_address, named)),
        when=None if section.when is None else archiving.When(section.when),
    )


def _dns(section: DnsSection) -> DnsSettings:
    return DnsSettings(
        servers={
            domains.normalize(zone): tuple(map(ServerAddress.parse, addresses))
            for zone, addresses in section.servers.items()
        },
        resolvers=tuple(map(ServerAddress.parse, section.resolvers)),
        timeout=float(section.timeout),
        tries=section.tries,
        ttl=section.ttl,
        publish=tuple(map(_publish_rule, section.publish)),
    )


def _publish_rule(section: PublishSection) -> PublishRule:
    return PublishRule(
        domains=None if section.domains is None else domains.DomainSet(section.domains),
        method=section.method,
        server=None if section.server is None else ServerAddress.parse(section.server),
        zone=None if section.zone is None else domains.normalize(section.zone),
        key_file=section.key_file,
        provider=section.provider,
        credentials=section.credentials,
        delegate=section.delegate,
    )


def _rotation(section: RotationSection) -> rotation.Rules:
    return rotation.Rules(
        lifetime=section.lifetime,
        lead=section.lead,
        standby=section.standby,
        safety=section.safety,
        downstream_queue=section.downstream_queue,
        verifier_slack=section.verifier_slack,
        queue_lifetime=section.queue_lifetime,
        revoke=section.revoke,
        keep_revoked=section.keep_revoked,
    )


# What pydantic found, in words for the person who wrote the file.
_PLAIN = {
    "bool_type": "write true or false",
    "dict_type": "write names with values below it",
    "float_type": "write a number",
    "greater_than_equal": "write a number from {ge} up",
    "int_type": "write a whole number",
    "less_than_equal": "write a number up to {le}",
    "list_type": "write a list, such as [one, two]",
    "literal_error": "write {expected}",
    "model_type": "write a section, with its keys below it",
    "path_type": "write a path",
    "string_type": "write text, in quotes if it looks like a number",
    "too_short": "write at least {min_length} of them",
}
_PATTERNS = {
    "socket_mode": "write an octal mode in quotes, such as '0660'",
    "canonicalization": "write relaxed/relaxed, relaxed/simple, simple/relaxed or simple/simple",
    "provider": "write the name of a provider in small letters, such as route53",
    "url": "write an address that begins with http:// or https://",
}


def _sentences(
    document: config_file.Document, errors: list[Any], written: set[Any]
) -> Iterator[str]:
    """One for each key; where a value may be of several kinds, pydantic complains of each."""
    by_key: dict[tuple[Any, ...], list[Any]] = {}
    for error in errors:
        # pydantic names the branches of a union in the location; the operator never wrote those.
        key_path = tuple(part for part in error["loc"] if part in written)
        by_key.setdefault(
            (key_path, error["loc"] if error["type"] == "missing" else ()), []
        ).append(error)
    for (key_path, _), about in by_key.items():
        yield _sentence(document, key_path, about)


def _sentence(document: config_file.Document, key_path: tuple[Any, ...], about: list[Any]) -> str:
    error = about[0]
    dotted = ".".join(map(str, key_path)) or "the file"
    place = document.place(key_path)
    if error["type"] == "extra_forbidden":
        known = _known_names(key_path[:-1])
        near = difflib.get_close_matches(str(key_path[-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        return f"{place}: {dotted} is not a key; {hint}"
    if error["type"] == "missing":
        return f"{place}: {'.'.join(map(str, error['loc']))} is missing; it has no default"
    words = " or ".join(dict.fromkeys(_in_words(one, key_path) for one in about))
    words = words.replace(" or write ", " or ")
    is_shown = dotted not in ("record.database", "retention")
    found = f" (found {_found(error['input'])})" if is_shown else ""
    return f"{place}: {dotted}: {words}{found}"


def _in_words(error: Any, key_path: tuple[Any, ...]) -> str:
    if error["type"] == "string_pattern_mismatch":
        return _PATTERNS.get(str(key_path[-1]), "write the name of a header field, without a colon")
    words = _PLAIN.get(error["type"])
    if words is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return words.format(**error.get("ctx", {}))


def _found(value: Any) -> str:
    """What was written, in YAML's words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return f"{value!r:.80}" if isinstance(value, str) else f"{value!s:.80}"


def _known_names(key_path: tuple[Any, ...]) -> list[str]:
    model: Any = FileModel
    is_named = False  # the next part is a name that the operator chose
    for part in key_path:
        if isinstance(part, int) or is_named:
            is_named = False
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        models = [one for one in candidates if hasattr(one, "model_fields")]
        if not models:
            return []
        model = models[0]
        is_named = getattr(annotation, "__origin__", None) is dict
    return list(model.model_fields)
