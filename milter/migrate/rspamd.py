"""rspamd's dkim_signing as a plan: modules.d, local.d and override.d merged as rspamd does.

Of `options.inc` only `local_addrs` is read, which says who is local.  Values are those of release
3.4; what its module decides by (networks, logins, domains of envelope and header) has an equal or
is noted.

Promises: nothing that rspamd would refuse to sign is signed here without a note that says so.

Raises: `errors.DataError` with file and line for what cannot be read at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from carbonseal.keys.takeover import lines, ucl
from carbonseal.keys.takeover import rspamd as tables
from carbonseal.keys.takeover.dataset import Entry
from carbonseal.keys.takeover.rspamd import Conf
from carbonseal.milter.migrate import clients, field_lists
from carbonseal.milter.migrate.plan import Clients, Fate, Note, Plan
from carbonseal.policies import errors

_FILE: Final = "dkim_signing.conf"
# Where nothing else is said; see options.inc of the package.
_LOCAL: Final = (
    "192.168.0.0/16",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "fd00::/8",
    "169.254.0.0/16",
    "fe80::/10",
)
_READ = frozenset(
    "selector path domain selector_map path_map signing_table key_table try_fallback use_esld"
    " use_domain sign_local sign_authenticated sign_networks sign_headers enabled use_redis"
    " use_vault use_http_headers sign_condition key_prefix symbol allow_envfrom_empty"
    " allow_hdrfrom_mismatch allow_username_mismatch allow_hdrfrom_mismatch_local"
    " allow_hdrfrom_mismatch_sign_networks".split()
)
_NO_EQUAL = {
    "sign_inbound": "mail from outside is never signed here: a signature needs a proven origin",
    "use_domain_sign_networks": "the author's domain and signing.rules decide who signs",
    "use_domain_sign_local": "the author's domain and signing.rules decide who signs",
    "use_domain_sign_inbound": "mail from outside is never signed here",
    "use_domain_custom": "no script decides here; write signing.rules",
    "allow_hdrfrom_multiple": "mail with several authors is left unsigned here",
    "skip_spam_sign": "no spam score is known here; filter spam before the milter",
    "check_violation": "signatures that are there are not verified here",
    "sign_on_reject_header": "no header of a request is read here",
}
_DIFFERENT = {
    "check_pubkey": "`carbonseal keys check` and the rotation look at every name server instead",
    "allow_pubkey_mismatch": "a key signs only after every name server shows its record",
    "use_milter_headers": "the milter inserts its own field",
    "allowed_ids": "no settings id is known here; use ours.listeners, ours.networks or logins",
    "forbidden_ids": "no settings id is known here; use ours.listeners, ours.networks or logins",
}


def read(path: Path, *, trust_loopback: bool) -> Plan:
    """The plan for a dkim_signing.conf, or for rspamd's configuration directory."""
    try:
        conf = _conf(path)
        return _plan(conf, _configuration(path), trust_loopback=trust_loopback)
    except ucl.NotRead as error:
        raise errors.DataError(f"{path}:{error.line}: {error.sentence}") from None


def _configuration(path: Path) -> Path:
    """The directory with local.d and override.d in it."""
    folder = path if os.path.isdir(path) else path.parent
    return folder.parent if folder.name in ("local.d", "override.d", "modules.d") else folder


def _conf(path: Path) -> Conf:
    if not os.path.isdir(path):  # where a name that is too long is no error
        return tables.conf_of(path)
    there = [one for name in ("local.d", "override.d") if (one := path / name / _FILE).is_file()]
    if not there and (path / _FILE).is_file():
        there = [path / _FILE]
    if not there:
        raise lines.unusable(path, f"there is no local.d/{_FILE} in it; give rspamd's directory")
    whole = tables.conf_of(there[0])
    for more in there[1:]:
        whole = tables.merged(whole, tables.conf_of(more))
    return whole


def _plan(conf: Conf, folder: Path, *, trust_loopback: bool) -> Plan:
    findings = tables.of_conf(conf)
    networks = _networks(conf, folder, trust_loopback=trust_loopback)
    header_lists = field_lists.translated(
        sign=list(_sign_headers(conf)), omit=(), oversign=(), source=str(conf.path)
    )
    authenticated = conf.says("sign_authenticated", default=True)
    is_on = conf.says("enabled", default=True)
    return Plan(
        signer="rspamd",
        source=conf.path,
        findings=findings,
        signs=is_on,
        canonicalization="relaxed/relaxed",
        clients=replace(networks, notes=()),
        authenticated=authenticated,
        oversign=header_lists.oversign,
        oversign_absent=header_lists.oversign_absent,
        notes=(
            *networks.notes,
            *header_lists.notes,
            *_logins(conf, authenticated=authenticated),
            *_envelopes(conf),
            *_subdomains(conf),
            *_others(conf),
            *_beside(folder),
        ),
    )


def _networks(conf: Conf, folder: Path, *, trust_loopback: bool) -> Clients:
    entries: list[Entry] = []
    notes: list[Note] = []
    if conf.says("sign_local", default=True):
        local = list(_local_addresses(folder))
        entries += local
        entries.append(Entry(str(conf.path), "127.0.0.1", ""))
        sentence = (
            "sign_local: rspamd's local addresses (local_addrs) may speak for us; see that all of"
            " ours.networks are yours"
        )
        notes.append(Note(local[0].source, "local_addrs", Fate.TAKEN, sentence))
    if conf.section.one("sign_networks") is not None:
        entries += _sign_networks(conf)
    known = clients.read(
        entries, "sign_local/sign_networks", trust_loopback=trust_loopback, is_strict=False
    )
    return replace(known, notes=(*notes, *known.notes))


def _sign_networks(conf: Conf) -> list[Entry]:
    value = conf.section.one("sign_networks")
    if isinstance(value, ucl.Items) or (
        isinstance(value, ucl.Text) and clients.is_network(value.text)
    ):
        items = value.values if isinstance(value, ucl.Items) else (value,)
        return [Entry(conf.at(one), one.text, "") for one in items if isinstance(one, ucl.Text)]
    return list(tables.table(conf, "sign_networks").entries)


def _local_addresses(folder: Path) -> Iterator[Entry]:
    for name in ("override.d/options.inc", "local.d/options.inc", "options.inc"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            values = ucl.parse(lines.text(path).replace("\r\n", "\n")).all("local_addrs")
        except ucl.NotRead as error:
            raise errors.DataError(f"{path}:{error.line}: {error.sentence}") from None
        if values:
            for one in values:
                if isinstance(one, ucl.Text):
                    yield Entry(f"{path}:{one.line}", one.text, "")
            return
    for text in _LOCAL:
        yield Entry(str(folder), text, "")


def _sign_headers(conf: Conf) -> Iterator[Entry]:
    """Names between colons; (o) before one says oversigned, (x) oversigned even where absent."""
    value = conf.section.text("sign_headers")
    if value is None:
        return
    for name in value.text.split(":"):
        yield Entry(conf.at(value), name.strip().removeprefix("(o)").removeprefix("(x)"), "")


def _logins(conf: Conf, *, authenticated: bool) -> Iterator[Note]:
    if not authenticated:
        sentence = "a SASL login proves nothing (ours.authenticated is false)"
        yield Note(str(conf.path), "sign_authenticated", Fate.TAKEN, sentence)
    elif not conf.says("allow_username_mismatch", default=False):
        value = conf.section.one("allow_username_mismatch")
        sentence = (
            "there, a login name must end in the signing domain; here a login may use any author"
            " until signing.logins says which"
        )
        yield Note(conf.at(value), "allow_username_mismatch", Fate.DIFFERENT, sentence)


def _envelopes(conf: Conf) -> Iterator[Note]:
    if not conf.says("allow_hdrfrom_mismatch", default=False):
        value = conf.section.one("allow_hdrfrom_mismatch")
        sentence = (
            "there, mail whose reverse-path has another domain than From is not signed; here the"
            " author (From) decides alone"
        )
        yield Note(conf.at(value), "allow_hdrfrom_mismatch", Fate.DIFFERENT, sentence)
    if not conf.says("allow_envfrom_empty", default=True):
        value = conf.section.one("allow_envfrom_empty")
        sentence = "mail with a null reverse-path is signed here if its origin is proven"
        yield Note(conf.at(value), "allow_envfrom_empty", Fate.DIFFERENT, sentence)


def _subdomains(conf: Conf) -> Iterator[Note]:
    if conf.says("use_esld", default=True):
        value = conf.section.one("use_esld")
        sentence = (
            "each domain with a key signs for its subdomains, too; the list of public suffixes is"
            " not asked"
        )
        yield Note(conf.at(value), "use_esld", Fate.TAKEN, sentence)


def _others(conf: Conf) -> Iterator[Note]:
    for name, value in conf.section.pairs:
        if name in _READ or name == "domain":
            continue
        if name in _DIFFERENT:
            yield Note(conf.at(value), name, Fate.DIFFERENT, _DIFFERENT[name])
        else:
            sentence = _NO_EQUAL.get(name, "nothing like it is known here; look up what it did")
            yield Note(conf.at(value), name[:60], Fate.NO_EQUAL, sentence)


def _beside(folder: Path) -> Iterator[Note]:
    for name in ("local.d/arc.conf", "override.d/arc.conf"):
        if (folder / name).is_file():
            sentence = "no ARC set is made here; leave ARC to rspamd"
            yield Note(str(folder / name), "ARC", Fate.NO_EQUAL, sentence)
    sentence = "spam, virus and DKIM checks stay with rspamd; switch off dkim_signing only"
    yield Note(str(folder), "rspamd", Fate.NO_EQUAL, sentence)
