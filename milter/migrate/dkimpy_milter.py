"""dkimpy-milter's configuration as a plan.

It reads a file like OpenDKIM's; what it does with it differs (release 1.2.3): a login proves
nothing unless MacroList says so, and the canonicalization is relaxed/simple by default.

Promises and raises as `migrate.opendkim`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from carbonseal.keys.takeover import dkimpy_milter as tables
from carbonseal.keys.takeover import signer_conf
from carbonseal.milter.migrate import opendkim
from carbonseal.milter.migrate.plan import Fate, Note, Plan

DIALECT: Final = opendkim.Dialect(
    signer="dkimpy-milter",
    default_form="relaxed/simple",
    trusts_logins=False,
    strict_networks=False,
    macros_by_bar=True,
    # Parameters of OpenDKIM that its manual has "for reference only", or that it does not read.
    ignored=frozenset(
        "peerlist omitheaders oversignheaders exemptdomains externalignorelist mta senderheaders"
        " signaturettl on-default on-internalerror on-signatureerror".split()
    ),
)


def read(path: Path, *, trust_loopback: bool) -> Plan:
    """The plan for a dkimpy-milter.conf."""
    conf = signer_conf.read(path)
    made = opendkim.plan(conf, tables.read(str(path)), DIALECT, trust_loopback=trust_loopback)
    notes = list(made.notes)
    if not made.authenticated:
        sentence = (
            "a SASL login alone is no reason to sign there, so ours.authenticated is false; set it"
            " to true if logins may speak for your domains"
        )
        notes.append(Note(str(path), "logins", Fate.TAKEN, sentence))
    return replace(made, notes=tuple(notes))
