"""What dkimpy-milter signs with: dkimpy-milter.conf, two algorithms side by side.

dkimpy-milter.conf(5): Domain with Selector and KeyFile, and with SelectorEd25519 and
KeyFileEd25519; or KeyTable and KeyTableEd25519 with one SigningTable, whose patterns work in every
kind of file and which names the key last.

Promises: as `opendkim`, and each key is checked to be of the algorithm its parameter says.
"""

from __future__ import annotations

from pathlib import Path

from carbonseal.keys.takeover import dataset, found, key_and_signing_table, opendkim, signer_conf
from carbonseal.keys.takeover.found import Findings, Rule
from carbonseal.keys.takeover.signer_conf import Conf, Value
from carbonseal.keys.takeover.signing_table import Dialect
from carbonseal.policies import errors, signing_request

_TABLES = (("KeyTable", signing_request.RSA), ("KeyTableEd25519", signing_request.ED25519))
_FILES = (
    ("Selector", "KeyFile", signing_request.RSA),
    ("SelectorEd25519", "KeyFileEd25519", signing_request.ED25519),
)


def read(place: str, signing_table: str | None = None) -> Findings:
    """The findings of a dkimpy-milter.conf."""
    try:
        conf = signer_conf.read(Path(place))
        parts = [
            _of_table(conf, table, algorithm, signing_table)
            for name, algorithm in _TABLES
            if (table := conf.value(name)) is not None
        ]
        if not parts:
            parts = [
                opendkim.simple(conf, selector, file, algorithm)
                for selector, file, algorithm in _FILES
                if conf.value(selector) is not None or conf.value(file) is not None
            ]
    except errors.DataError as error:
        return found.refused(place, error.sentence)
    if not parts:
        return found.refused(place, "it names no key (KeyFile, KeyTable); give the right file.")
    return _without_repetition(found.joined(parts))


def _of_table(conf: Conf, table: Value, algorithm: str, signing_table: str | None) -> Findings:
    signing = conf.value("SigningTable")
    if signing_table is not None:
        chosen = opendkim.given(signing_table)
    elif signing is not None:
        chosen = dataset.read(signing.text, signing.source, conf.base)
    else:
        return found.refused(
            table.source, "there is a table of keys but no SigningTable; give --signing-table."
        )
    keys = dataset.read(table.text, table.source, conf.base)
    return key_and_signing_table.combine(
        keys, chosen, Dialect.DKIMPY_MILTER, base=conf.base, algorithm=algorithm
    )


def _without_repetition(findings: Findings) -> Findings:
    """Both tables of keys go with the same SigningTable: each of its lines is reported once.

    A name that only one of the two has is used all the same.
    """
    rules: dict[tuple[str, str], Rule] = {}
    for rule in findings.rules:
        rules.setdefault((rule.source, rule.author), rule)
    placed = {rule.source for rule in rules.values()}
    refusals = {
        (refusal.source, refusal.sentence): refusal
        for refusal in findings.refusals
        if refusal.source not in placed
    }
    return Findings(
        findings.found, tuple(refusals.values()), tuple(rules.values()), findings.is_closed
    )
