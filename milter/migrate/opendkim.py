"""OpenDKIM's configuration as a plan.

opendkim.conf(5) of release 2.11.  Keys and signing tables are read by `keys.takeover`; here is what
decides besides: who counts as internal, what is exempt, how signatures look.

Promises: every parameter ends in the plan or in a note with what to do.  The defaults of OpenDKIM
that matter (InternalHosts, Canonicalization) are noted, too.

Raises: `errors.DataError` with file and line for what cannot be read at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from carbonseal.keys.takeover import dataset, found, signer_conf
from carbonseal.keys.takeover import opendkim as tables
from carbonseal.keys.takeover.dataset import Entry
from carbonseal.keys.takeover.found import Findings, Rule
from carbonseal.keys.takeover.signer_conf import Conf, Value
from carbonseal.milter.migrate import clients, field_lists, opendkim_parameters
from carbonseal.milter.migrate.field_lists import FieldLists
from carbonseal.milter.migrate.plan import Clients, Fate, Note, Plan
from carbonseal.policies import domains, errors, quantity

_MAX_AGE: Final = 100 * 365 * 86400  # seconds; as in our configuration
_FORMS = frozenset(("relaxed", "simple"))
# Macros that say what we know by another name, whatever their value.
_LOGIN_MACROS = frozenset(("auth_type", "auth_authen", "auth_author"))
_ANSWERS = {"a": "accept", "r": "reject", "t": "tempfail"}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between OpenDKIM and dkimpy-milter, which reads the same kind of file."""

    signer: str = "OpenDKIM"
    default_form: str = "simple/simple"
    default_body: str = "simple"  # where only the header's is given
    trusts_logins: bool = True  # a SASL login is reason enough to sign
    macros_by_bar: bool = False  # MacroList is name|value, not name=value
    strict_networks: bool = True  # a network with bits behind its mask matches nobody
    ignored: frozenset[str] = frozenset()  # parameters that the manual has, but not the program


def read(path: Path, *, trust_loopback: bool) -> Plan:
    """The plan for an opendkim.conf."""
    conf = signer_conf.read(path)
    return plan(conf, _findings(conf), Dialect(), trust_loopback=trust_loopback)


def _findings(conf: Conf) -> Findings:
    has_keys = any(conf.value(name) for name in ("KeyTable", "KeyFile", "Domain"))
    if not has_keys:  # it verifies only, whatever Mode says
        return Findings()
    try:
        return tables.of_conf(conf)
    except errors.DataError as error:
        return found.refused(conf.path, error.sentence)


def plan(conf: Conf, findings: Findings, dialect: Dialect, *, trust_loopback: bool) -> Plan:
    """The plan for a file of this kind, whose keys and tables are `findings`."""
    signs, mode_notes = _mode(conf, findings)
    internal = _internal(conf, dialect, trust_loopback=trust_loopback)
    peers = _peers(conf, dialect)
    listeners, logins, macro_notes = _listeners(conf, dialect)
    exempt, exempt_notes = _exempt(entries(conf, "ExemptDomains", dialect))
    form, form_notes = _canonicalization(conf, dialect)
    lists = _field_lists(conf, dialect)
    expires, expiry_notes = _expiry(conf, dialect)
    failure, failure_notes = _failure(conf, dialect)
    return Plan(
        signer=dialect.signer,
        source=conf.path,
        findings=findings,
        signs=signs,
        canonicalization=form,
        clients=replace(internal, notes=()),
        listeners=listeners,
        authenticated=dialect.trusts_logins or logins,
        peers=peers.networks,
        exempt=exempt,
        oversign=lists.oversign,
        oversign_absent=lists.oversign_absent,
        not_signed=lists.not_signed,
        expires_after=expires,
        failure=failure,
        notes=(
            *mode_notes,
            *internal.notes,
            *peers.notes,
            *macro_notes,
            *exempt_notes,
            *form_notes,
            *lists.notes,
            *expiry_notes,
            *failure_notes,
            *_sender(entries(conf, "SenderHeaders", dialect)),
            *_ignored_hosts(conf, dialect),
            *_the_rest(conf, dialect),
        ),
    )


def entries(conf: Conf, name: str, dialect: Dialect) -> tuple[Entry, ...]:
    """The data set of a parameter, nothing if it is not set or not read by the program."""
    value = _value(conf, name, dialect)
    if value is None or not value.text:
        return ()
    return dataset.read(value.text, value.source, conf.base).entries


def _value(conf: Conf, name: str, dialect: Dialect) -> Value | None:
    return None if name.lower() in dialect.ignored else conf.value(name)


def _mode(conf: Conf, findings: Findings) -> tuple[bool, list[Note]]:
    value = conf.value("Mode")
    source = str(conf.path) if value is None else value.source
    text = "sv" if value is None else value.text.lower()
    notes = []
    if "v" in text:
        sentence = (
            "verifying has no equal: no Authentication-Results field is added; keep the old milter"
            " with Mode v, or another verifier, for incoming mail"
        )
        notes.append(Note(source, "Mode v", Fate.NO_EQUAL, sentence))
    if "s" in text and (findings.found or findings.refusals):
        return True, notes
    return False, notes


# --- Clients --------------------------------------------------------------------------------------


def _internal(conf: Conf, dialect: Dialect, *, trust_loopback: bool) -> Clients:
    listed = entries(conf, "InternalHosts", dialect)
    if conf.value("InternalHosts") is None:
        listed = (Entry(str(conf.path), "127.0.0.1", ""),)
    known = clients.read(
        listed,
        "InternalHosts",
        trust_loopback=trust_loopback,
        is_strict=dialect.strict_networks,
    )
    if not known.networks:
        return known
    source = listed[0].source.rpartition(":")[0] or listed[0].source
    networks = quantity.of(len(known.networks), "network")
    sentence = f"{networks} may speak for us (ours.networks)"
    taken = Note(source, "InternalHosts", Fate.TAKEN, sentence)
    return replace(known, notes=(taken, *known.notes))


def _peers(conf: Conf, dialect: Dialect) -> Clients:
    listed = entries(conf, "PeerList", dialect)
    if not listed:
        return Clients()
    known = clients.read(listed, "PeerList", trust_loopback=True)
    sentence = (
        "as ours.peers their mail is neither signed nor copied to the archive, but recorded; take"
        " those out that do not send the archive copy themselves, once copies are wanted"
    )
    note = Note(listed[0].source, "PeerList", Fate.DIFFERENT, sentence)
    return Clients(known.networks, notes=(note, *known.notes))


def _ignored_hosts(conf: Conf, dialect: Dialect) -> Iterator[Note]:
    value = _value(conf, "ExternalIgnoreList", dialect)
    if value is not None:
        sentence = (
            "it only silences a warning of the log there, and changes nothing in who is signed"
        )
        yield Note(value.source, "ExternalIgnoreList", Fate.NOT_NEEDED, sentence)


def _listeners(conf: Conf, dialect: Dialect) -> tuple[tuple[str, ...], bool, list[Note]]:
    """Listeners, whether a macro stands for a login, and notes."""
    names: dict[str, None] = {}
    logins = False
    notes: list[Note] = []
    for entry in entries(conf, "MTA", dialect):
        names.setdefault(entry.name)
        sentence = f"the listener {entry.name} proves local origin (ours.listeners)"
        notes.append(Note(entry.source, "MTA", Fate.TAKEN, sentence))
    for entry in entries(conf, "MacroList", dialect):
        macro, *values = _macro(entry, dialect)
        bare = macro.strip("{}").lower()
        if bare == "daemon_name" and values:
            names.update(dict.fromkeys(values))
            sentence = f"the listeners {', '.join(values)} prove local origin (ours.listeners)"
            notes.append(Note(entry.source, "MacroList", Fate.TAKEN, sentence))
        elif bare in _LOGIN_MACROS and not values:
            logins = True
            sentence = "a SASL login proves local origin (ours.authenticated)"
            notes.append(Note(entry.source, "MacroList", Fate.TAKEN, sentence))
        else:
            sentence = (
                f"the macro {bare[:40]} proves nothing here; name the smtpd service in"
                " ours.listeners, the client in ours.networks, or let the client log in"
            )
            notes.append(Note(entry.source, "MacroList", Fate.NO_EQUAL, sentence))
    return tuple(names), logins, notes


def _macro(entry: Entry, dialect: Dialect) -> list[str]:
    """The name of a macro, and its values if it must have one of some."""
    if dialect.macros_by_bar:
        return entry.name.split("|")
    return [entry.name, *(value.strip() for value in entry.value.split("|") if value.strip())]


# --- Authors --------------------------------------------------------------------------------------


def _exempt(listed: Sequence[Entry]) -> tuple[tuple[Rule, ...], list[Note]]:
    rules = []
    notes = []
    for entry in listed:
        below = "." if entry.name.startswith(".") else ""
        domain = domains.a_labels(entry.name.removeprefix(".").removeprefix("*@"))
        if domain is None:
            sentence = "an entry is no domain name; write a rule with sdid: null for who is meant"
            notes.append(Note(entry.source, "ExemptDomains", Fate.NO_EQUAL, sentence))
            continue
        remark = "never signed (ExemptDomains)"
        rules.append(Rule(f"*@{below}{domain}", "", entry.source, (remark,)))
        sentence = (
            f"mail of {below}{domain} is not signed; it is recorded and copied like any other"
        )
        notes.append(Note(entry.source, "ExemptDomains", Fate.DIFFERENT, sentence))
    return tuple(rules), notes


def _sender(listed: Sequence[Entry]) -> Iterator[Note]:
    if listed and [one.name.lower() for one in listed] != ["from"]:
        sentence = (
            "only From says who the author is here; mail that was signed after another field"
            " (Sender, say) is signed after From, or not at all"
        )
        yield Note(listed[0].source, "SenderHeaders", Fate.NO_EQUAL, sentence)


# --- The signature --------------------------------------------------------------------------------


def _canonicalization(conf: Conf, dialect: Dialect) -> tuple[str, list[Note]]:
    value = conf.value("Canonicalization")
    if value is None:
        form = dialect.default_form
        sentence = (
            f"the default of {dialect.signer}, {form}, is kept; relaxed/relaxed survives more"
        )
        return form, [Note(str(conf.path), "Canonicalization", Fate.TAKEN, sentence)]
    header, slash, body = value.text.lower().partition("/")
    body = body if slash else dialect.default_body
    if header not in _FORMS or body not in _FORMS:
        raise errors.DataError(
            f"{value.source}: Canonicalization is none of relaxed and simple, with a slash between"
            " header and body; correct it."
        )
    form = f"{header}/{body}"
    sentence = f"signing.canonicalization is {form}"
    if form != "relaxed/relaxed":
        sentence += "; relaxed/relaxed survives more on the way"
    return form, [Note(value.source, "Canonicalization", Fate.TAKEN, sentence)]


def _field_lists(conf: Conf, dialect: Dialect) -> FieldLists:
    given = {
        name: entries(conf, name, dialect)
        for name in ("SignHeaders", "OmitHeaders", "OversignHeaders")
    }
    return field_lists.translated(
        sign=given["SignHeaders"],
        omit=given["OmitHeaders"],
        oversign=given["OversignHeaders"],
        source=str(conf.path),
    )


def _expiry(conf: Conf, dialect: Dialect) -> tuple[int | None, list[Note]]:
    value = _value(conf, "SignatureTTL", dialect)
    if value is None:
        return None, []
    if not value.text.isascii() or not value.text.isdigit() or len(value.text) > 12:
        raise errors.DataError(f"{value.source}: SignatureTTL is no number of seconds; correct it.")
    seconds = int(value.text)
    if not 0 < seconds <= _MAX_AGE:
        return None, [Note(value.source, "SignatureTTL", Fate.TAKEN, "signatures never expire")]
    sentence = f"signing.expires_after is {seconds}s"
    if seconds < 5 * 86400:
        sentence += ", which is shorter than mail may wait in a queue (5d); write a longer one"
    return seconds, [Note(value.source, "SignatureTTL", Fate.TAKEN, sentence)]


def _failure(conf: Conf, dialect: Dialect) -> tuple[tuple[tuple[str, str], ...], list[Note]]:
    taken: dict[str, str] = {}
    notes: list[Note] = []
    for parameter, name in (
        ("On-Default", "internal_error"),
        ("On-InternalError", "internal_error"),
        ("On-SignatureError", "signature_failed"),
    ):
        value = _value(conf, parameter, dialect)
        if value is not None:
            notes.append(_answer(value, parameter, name, taken))
    return tuple(taken.items()), notes


def _answer(value: Value, parameter: str, name: str, taken: dict[str, str]) -> Note:
    answer = _ANSWERS.get(value.text[:1].lower())
    if answer is None:
        sentence = f"only accept, tempfail and reject exist here; failure.{name} keeps its default"
        return Note(value.source, parameter, Fate.NO_EQUAL, sentence)
    if name == "internal_error" and answer == "accept":
        sentence = (
            "not taken over: mail would pass without a record; failure.internal_error: accept says"
            " so, if it is wanted all the same"
        )
        return Note(value.source, parameter, Fate.DIFFERENT, sentence)
    taken[name] = answer
    sentence = f"failure.{name} is {answer}; the other classes of failure keep their defaults"
    return Note(value.source, parameter, Fate.TAKEN, sentence)


# --- The rest -------------------------------------------------------------------------------------


def _the_rest(conf: Conf, dialect: Dialect) -> Iterator[Note]:
    for name, values in conf.values.items():
        if name in dialect.ignored:
            sentence = f"{dialect.signer} takes no notice of it either"
            yield Note(values[0].source, name, Fate.NOT_NEEDED, sentence)
        elif name not in opendkim_parameters.READ:
            yield from _fate(name, values, dialect)


def _fate(name: str, values: Sequence[Value], dialect: Dialect) -> Iterator[Note]:
    source = values[0].source
    known = opendkim_parameters.FATES.get(name)
    if known is None:
        sentence = f"no parameter of {dialect.signer} that is known here; look up what it did"
        yield Note(source, name[:60], Fate.NO_EQUAL, sentence)
        return
    proper, fate, sentence = known
    is_off = values[0].text[:1] in ("F", "f", "N", "n", "0")
    if name in opendkim_parameters.SWITCHES and is_off:
        return
    yield Note(source, proper, fate, sentence)
