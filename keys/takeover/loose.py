"""Private key files that lie about, and whose names or companions say what they are.

Looks at a file, or at a directory and those in it.  Taken as they are named:
`<sdid>/<selector>.private` (or .pem, .key), `<selector>._domainkey.<sdid>.pem`,
`<sdid>.<selector>.pem` where the last label can be no top-level domain or the SDID is known here,
and what a companion names: the `.txt` of opendkim-genkey, a zone file line.  The `.dns` of dknewkey
names nothing, but tells which public key is published; so does the `.txt`.

Promises: each private key file ends as a `Found` or a `Refusal`; what could be read in two ways is
refused with the command that says which.  Links are not followed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from carbonseal.keys import dns_record, store
from carbonseal.keys.takeover import found, lines
from carbonseal.keys.takeover.found import Findings, Found
from carbonseal.policies import domains, errors

MAX_FILES: Final = 100_000
_KEYS = frozenset((".pem", ".key", ".private"))
_COMPANIONS = (".txt", ".dns", ".zone")
_MAX_COMPANION = 16 * 1024
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----")
_GENKEY = re.compile(r"----- DKIM key (\S{1,253}) for (\S{1,253})")
_OWNER = re.compile(
    r"^([A-Za-z0-9.-]{1,200})\._domainkey(?:\.([A-Za-z0-9._-]{3,253}?))?\.?\s", re.M
)
_STRING = re.compile(r'"([^"]{0,4096})"')
_DOMAINKEY = "._domainkey."
# Labels people give selectors, which are no top-level domains and not likely to become any.
_SELECTOR_WORDS = frozenset(
    "default dkim domainkey ed ed25519 key mail mx outbound postfix relay rsa selector signer smtp"
    " signing".split()
)
# Directories that would pass for domains.
_NO_DOMAINS = frozenset("backup bak conf dir disabled keys local old orig save tmp".split())
_UNCLEAR = (
    "its name does not say which domain and selector it is for, or can be read in two ways; import"
    " it with `carbonseal keys import SDID SELECTOR --private-key FILE`."
)
_DEFAULT_DOMAIN = "example.com"  # what opendkim-genkey writes if it was told none


@dataclass(frozen=True, slots=True)
class _Companion:
    """What a file beside the private key says; '' and b'' where it does not."""

    selector: str = ""
    domain: str = ""
    public_key: bytes = b""


def read(place: str, signing_table: str | None = None, *, known: Collection[str] = ()) -> Findings:
    """The findings of a file or directory; `known` are the SDIDs that have keys here."""
    path = Path(place)
    if signing_table is not None:
        return found.refused(place, "loose keys go with no signing table; leave it out.")
    try:
        if not os.path.lexists(path):
            raise lines.unusable(path, "there is no such file or directory; check the name")
        if not path.is_dir():
            return _one(path, known, is_named=True)
        return found.joined(_one(file, known) for file in _files(path))
    except errors.DataError as error:
        return found.refused(place, error.sentence)


def _files(folder: Path) -> Iterator[Path]:
    budget = [MAX_FILES]
    for entry in _entries(folder, budget):
        if entry.is_dir(follow_symlinks=False):
            for inner in _entries(Path(entry.path), budget):
                if not inner.is_dir(follow_symlinks=False):
                    yield Path(inner.path)
        else:
            yield Path(entry.path)


def _entries(folder: Path, budget: list[int]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listed:
            entries = []
            for entry in listed:
                entries.append(entry)
                budget[0] -= 1
                if budget[0] < 0:
                    raise lines.unusable(folder, f"more than {MAX_FILES} files; divide them")
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise lines.unusable(
            folder, f"it cannot be listed ({reason}); run the command as root"
        ) from None
    return sorted(entries, key=lambda entry: entry.name)


def _one(path: Path, known: Collection[str], *, is_named: bool = False) -> Findings:
    """One file: a key, a refusal, or nothing if it is no private key."""
    if path.suffix not in _KEYS and not is_named:
        return found.refused(path, _UNCLEAR) if _holds_private(path) else Findings()
    try:
        if path.is_symlink() and not is_named:
            raise errors.DataError(
                "it is a link; name the file it leads to, or import it with"
                " `carbonseal keys import SDID SELECTOR --private-key FILE`."
            )
        companion, notes = _companion(path)
        sdid, selector = _names(path, companion, known)
        if companion.domain == _DEFAULT_DOMAIN == sdid:
            notes = (*notes, f"opendkim-genkey writes {sdid} if it is told no domain")
        return Findings(
            found=(
                Found(
                    sdid,
                    selector,
                    str(path),
                    path=path,
                    public_key=companion.public_key,
                    notes=notes,
                ),
            )
        )
    except errors.DataError as error:
        return found.refused(path, error.sentence)


def _holds_private(path: Path) -> bool:
    """Whether a file with another name is a private key after all; links and devices are not."""
    try:
        if path.is_symlink() or path.suffix in _COMPANIONS:
            return False
        return bool(_PRIVATE.search(lines.octets(path, store.MAX_FILE)))
    except (errors.DataError, OSError):
        return False


def _names(path: Path, companion: _Companion, known: Collection[str]) -> tuple[str, str]:
    """SDID and selector, if all that speaks about them says the same."""
    by_folder = _by_folder(path)
    if by_folder is not None:
        domain, selector = by_folder
        if companion.selector and companion.selector.lower() != selector.lower():
            raise errors.DataError(_UNCLEAR)
        other = "" if companion.domain == _DEFAULT_DOMAIN else companion.domain
        if other and found.sdid_of(other) != found.sdid_of(domain):
            raise errors.DataError(_UNCLEAR)
        return found.names(domain, selector)
    if companion.selector and companion.domain:
        return found.names(companion.domain, companion.selector)
    parted = _by_name(path.stem, companion.selector, known)
    if parted is None:
        raise errors.DataError(_UNCLEAR)
    return found.names(*parted)


def _by_folder(path: Path) -> tuple[str, str] | None:
    folder = path.absolute().parent.name.lower()
    last = folder.rpartition(".")[2]
    if "." not in folder or len(last) < 2 or last.isdigit() or last in _NO_DOMAINS:
        return None
    if domains.a_labels(folder) is None:
        return None
    stem = path.stem
    if _DOMAINKEY in stem:
        selector, _, domain = stem.partition(_DOMAINKEY)
        return domain, selector
    if stem.lower().startswith(folder + "."):
        return folder, stem[len(folder) + 1 :]
    return folder, stem


def _by_name(stem: str, selector: str, known: Collection[str]) -> tuple[str, str] | None:
    if _DOMAINKEY in stem:
        first, _, domain = stem.partition(_DOMAINKEY)
        return domain, first
    if selector:
        if stem.lower().endswith("." + selector.lower()):
            return stem[: -len(selector) - 1], selector
        return None
    of_known = [
        (domain, rest) for domain in known if (rest := _beside(stem.lower(), domain)) is not None
    ]
    if of_known:
        return of_known[0] if len(of_known) == 1 else None
    domain, _, last = stem.rpartition(".")
    if "." not in domain or _may_be_top_level(last.lower()):
        return None
    return domain, last


def _beside(stem: str, domain: str) -> str | None:
    """What is left of a name that begins or ends with the domain."""
    if stem.startswith(domain + "."):
        return stem[len(domain) + 1 :]
    if stem.endswith("." + domain):
        return stem[: -len(domain) - 1]
    return None


def _may_be_top_level(label: str) -> bool:
    """Top-level domains are letters, or begin with xn-- (RFC 3696 section 2)."""
    if label.startswith("xn--"):
        return True
    return len(label) > 1 and label.isalpha() and label not in _SELECTOR_WORDS


def _companion(path: Path) -> tuple[_Companion, tuple[str, ...]]:
    for suffix in _COMPANIONS:
        beside = path.with_suffix(suffix)
        if beside.is_file():
            try:
                content = lines.octets(beside, _MAX_COMPANION).decode("utf-8", "surrogateescape")
                return _parse_companion(content), ()
            except errors.DataError:
                return _Companion(), (f"{beside} could not be read as its record",)
    return _Companion(), ()


def _parse_companion(content: str) -> _Companion:
    genkey, owner = _GENKEY.search(content), _OWNER.search(content)
    selector = domain = ""
    if genkey is not None:
        selector, domain = genkey[1], genkey[2]
    elif owner is not None:
        selector, domain = owner[1], owner[2] or ""
    value = "".join(_STRING.findall(content)) or content.strip()
    return _Companion(selector, domain.rstrip("."), dns_record.parse(value).public_key)
