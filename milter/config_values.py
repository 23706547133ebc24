"""The values that the rooms work with, made from the sections of the configuration.

Promises: a section that was accepted makes its value; only the maps to compare with are read from
files of their own.

Raises: `bcc_map_files.UnusableMap` from `bcc_maps_of`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from carbonseal.keys.publication.settings import DnsSettings, PublishRule, ServerAddress
from carbonseal.milter import bcc_map_files, config_types
from carbonseal.milter.config_sections import (
    ArchiveRuleSection,
    ArchiveSection,
    BccMapsSection,
    DnsSection,
    FileModel,
    OursSection,
    PublishSection,
    RotationSection,
    SigningSection,
)
from carbonseal.policies import address, archiving, domains, origin, rotation, signing
from carbonseal.policies.bcc_maps import BccMaps
from carbonseal.policies.boundary import CrossingKind

_Form = Literal["relaxed", "simple"]


def ours(section: OursSection) -> origin.Ours:
    """Who is ours."""
    return origin.Ours(
        domains=domains.DomainSet(section.domains),
        networks=tuple(map(config_types.network, section.networks)),
        listeners=frozenset(section.listeners),
        authenticated=section.authenticated,
        local_submission=section.local_submission,
        peers=tuple(map(config_types.network, section.peers)),
    )


def signing_policy(section: SigningSection) -> signing.SigningPolicy:
    """Who signs what."""
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


def archive_policy(section: ArchiveSection) -> archiving.ArchivePolicy:
    """Who gets copies."""
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


def _archive_rule(section: ArchiveRuleSection) -> archiving.ArchiveRule:
    named = section.recipients
    return archiving.ArchiveRule(
        crossing=None if section.crossing is None else CrossingKind(section.crossing),
        domains=None if section.domains is None else domains.DomainSet(section.domains),
        recipients=None if named is None else tuple(map(address.parse_address, named)),
        when=None if section.when is None else archiving.When(section.when),
    )


def dns_settings(section: DnsSection) -> DnsSettings:
    """Whom to ask, and who publishes."""
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


def rotation_rules(section: RotationSection) -> rotation.Rules:
    """When keys follow one another."""
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
