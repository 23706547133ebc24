"""The configuration of a relay: the file, checked, and the values that the rooms work with.

Promises: `load` either constructs everything or raises; after it nothing can be misconfigured.
What is wrong is named with file, line and key (`config_complaints`).  Relative paths are relative
to the file.

Raises: ConfigurationError, whose `problems` lists every complaint.

Does not: open sockets, keys or databases; `config check` asks for those separately.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pydantic

from carbonseal.keys.publication.settings import DnsSettings
from carbonseal.milter import (
    bcc_map_files,
    config_complaints,
    config_file,
    config_sections,
    config_values,
)
from carbonseal.milter.archive.evidence import settings
from carbonseal.milter.config_sections import FileModel
from carbonseal.policies import archiving, disposition, origin, retention, rotation, signing
from carbonseal.policies.bcc_maps import BccMaps
from carbonseal.policies.errors import ConfigurationError


class InvalidConfiguration(ConfigurationError):
    """The file is readable but wrong."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        more = len(problems) - 1
        tail = f" (and {more} more: carbonseal config check)" if more else ""
        super().__init__(problems[0] + tail)


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
        raise InvalidConfiguration(
            list(config_complaints.sentences(document, errors, written))
        ) from None
    model = _with_absolute_paths(model, document.path.resolve().parent)
    digest = hashlib.sha256(model.model_dump_json().encode()).hexdigest()
    return Configuration(
        path=document.path,
        file=model,
        version=digest[:12],
        ours=config_values.ours(model.ours),
        signing=config_values.signing_policy(model.signing),
        archive=config_values.archive_policy(model.archive),
        compare=_compare(document, model),
        dns=config_values.dns_settings(model.dns),
        rotation=config_values.rotation_rules(model.rotation),
        retention=config_sections.retention_policy(model.retention),
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
        return config_values.bcc_maps_of(model, document.path.resolve().parent)
    except bcc_map_files.UnusableMap as fault:
        key_path = ("archive", "bcc_maps", fault.key)
        place = f"{document.place(key_path)}: {'.'.join(key_path)}"
        raise InvalidConfiguration([f"{place}: {fault.sentence}"]) from None
