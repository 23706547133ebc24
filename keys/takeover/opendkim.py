"""What OpenDKIM signs with: opendkim.conf, or a KeyTable and perhaps its SigningTable.

opendkim.conf(5): with a KeyTable, the SigningTable says who is signed; without one, mail of each
Domain is signed with KeyFile under Selector, and that of subdomains too with SubDomains.

Promises: everything that names a key is a finding, and no bad file is more than a refusal.
"""

from __future__ import annotations

from pathlib import Path

from carbonseal.keys.takeover import (
    dataset,
    found,
    key_and_signing_table,
    lines,
    private,
    signer_conf,
)
from carbonseal.keys.takeover.found import Findings, Found, Rule, Signs
from carbonseal.keys.takeover.signer_conf import Conf, Value
from carbonseal.keys.takeover.signing_table import Dialect
from carbonseal.policies import errors


def read(place: str, signing_table: str | None = None) -> Findings:
    """The findings of an opendkim.conf, or of a KeyTable named as OpenDKIM names data sets.

    `signing_table` is named in the same way; it takes the place of what the configuration says.
    """
    try:
        if not _is_table(place) and signer_conf.is_conf(Path(place)):
            return of_conf(signer_conf.read(Path(place)), signing_table)
        keys = given(place)
        signing = None if signing_table is None else given(signing_table)
        return key_and_signing_table.combine(
            keys,
            signing,
            Dialect.OPENDKIM,
            is_sure=signing_table is None or dataset.is_specification(signing_table),
        )
    except errors.DataError as error:
        return found.refused(dataset.shown(place), error.sentence)


def _is_table(text: str) -> bool:
    return dataset.is_specification(text) or text.endswith(".db")


def given(text: str) -> dataset.Dataset:
    """A data set from the command line, where a path needs no slash in front."""
    if _is_table(text):
        return dataset.read(text, dataset.shown(text))
    return dataset.read(f"file:{text}", text)


def of_conf(conf: Conf, signing_table: str | None = None) -> Findings:
    """The findings of a configuration that was read."""
    key_table = conf.value("KeyTable")
    if key_table is None:
        return simple(conf, "Selector", "KeyFile")
    keys = dataset.read(key_table.text, key_table.source, conf.base)
    signing = conf.value("SigningTable")
    if signing_table is not None:
        table = given(signing_table)
    elif signing is not None:
        table = dataset.read(signing.text, signing.source, conf.base)
    else:
        return found.refused(
            key_table.source,
            "there is a KeyTable but no SigningTable; give one with --signing-table.",
        )
    return key_and_signing_table.combine(
        keys,
        table,
        Dialect.OPENDKIM,
        base=conf.base,
        is_sure=signing_table is None or dataset.is_specification(signing_table),
    )


def simple(conf: Conf, selector_name: str, file_name: str, algorithm: str = "") -> Findings:
    """One key for all domains of the parameter Domain."""
    wanted = {name: conf.value(name) for name in ("Domain", selector_name, file_name)}
    missing = [name for name, value in wanted.items() if value is None or not value.text]
    if missing:
        return found.refused(
            conf.path, f"it does not say {' or '.join(missing)}, so it names no key; complete it."
        )
    domain, selector, file = (value for value in wanted.values() if value is not None)
    parts = []
    for entry in dataset.read(domain.text, domain.source, conf.base).entries:
        try:
            parts.append(_signs(conf, entry, selector, file, algorithm))
        except errors.DataError as error:
            parts.append(found.refused(entry.source, error.sentence))
    return found.joined(parts)


def _signs(
    conf: Conf, entry: dataset.Entry, selector: Value, file: Value, algorithm: str
) -> Findings:
    sdid, name = found.names(entry.name, selector.text)
    if "\0" in file.text or (private.looks_inline(file.text) and file.text.startswith("/")):
        raise lines.unusable(file.source, "it names no file; write the path of the private key")
    path = (conf.base or conf.path.parent) / file.text
    rules = [Rule(f"*@{sdid}", sdid, entry.source)]
    if conf.says("SubDomains"):
        rules.append(Rule(f"*@.{sdid}", sdid, entry.source))
    key = Found(sdid, name, file.source, path=path, algorithm=algorithm, signs=Signs.YES)
    return Findings(found=(key,), rules=tuple(rules), is_closed=True)
