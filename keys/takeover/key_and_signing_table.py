"""Put a KeyTable and a SigningTable together: which keys there are, and who is signed with which.

Promises: `%`, the author's domain, is replaced only by domains that the SigningTable names, or
whose key files are there under the path of the entry; where neither says it, the entry is refused.
Of several keys of one domain, the one with the broadest line signs here, and the lines of the
others say so: Carbonseal signs all mail of an SDID with its active keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from carbonseal.keys.takeover import dataset, found, key_table, path_template, signing_table
from carbonseal.keys.takeover.found import Findings, Found, Refusal, Rule, Signs
from carbonseal.keys.takeover.key_table import AUTHOR_DOMAIN, KeyEntry
from carbonseal.keys.takeover.signing_table import Dialect, SignerLine
from carbonseal.policies import domains, errors


@dataclass(frozen=True, slots=True)
class _Use:
    """A line of the SigningTable, with the key and the signing domain it comes to."""

    line: SignerLine
    entry: KeyEntry
    author: str
    sdid: str


def combine(
    keys: dataset.Dataset,
    signing: dataset.Dataset | None,
    dialect: Dialect,
    *,
    base: Path | None = None,
    algorithm: str = "",
    default_selector: str = "",
    is_sure: bool = True,
) -> Findings:
    """The findings of a KeyTable; without a SigningTable nobody knows which of its keys sign."""
    entries, refusals = key_table.parse(keys, base, default_selector)
    if signing is None:
        parts = [_alone(entry, algorithm) for entry in entries]
        return found.joined([Findings(refusals=tuple(refusals)), *parts])
    signer_lines, complaints = signing_table.parse(signing, dialect, is_sure=is_sure)
    uses, unused = _uses(entries, signer_lines)
    found_keys, unresolved = _keys(entries, uses, algorithm)
    return Findings(
        found=tuple(found_keys),
        refusals=(*refusals, *unresolved, *complaints, *unused),
        rules=tuple(_rules(uses)),
        is_closed=True,
    )


def _alone(entry: KeyEntry, algorithm: str) -> Findings:
    try:
        if entry.domain != AUTHOR_DOMAIN and not entry.is_template:
            one = entry.found(entry.domain, algorithm=algorithm, signs=Signs.UNKNOWN)
            return Findings(found=(one,))
        several = [
            entry.found(domain, algorithm=algorithm, signs=Signs.UNKNOWN)
            for domain in _domains_on_disk(entry)
        ]
    except errors.DataError as error:
        return found.refused(entry.source, error.sentence)
    if not several:
        return found.refused(entry.source, _UNRESOLVED)
    return Findings(found=tuple(several))


_UNRESOLVED = (
    "its domain is that of the author (%), and no line of a SigningTable names one with this key;"
    " give the table with --signing-table, or import the key with"
    " `carbonseal keys import SDID SELECTOR --private-key FILE`."
)


def _domains_on_disk(entry: KeyEntry) -> list[str]:
    """The domains for which the entry's file is there."""
    if not entry.is_template:
        return []
    listed = path_template.domains_at(entry.template(), AUTHOR_DOMAIN)
    if entry.domain == AUTHOR_DOMAIN:
        return [domain for domain, _ in listed]
    # Then the file varies while domain and selector do not: at most one can be published.
    return []


def _uses(
    entries: Sequence[KeyEntry], signer_lines: Sequence[SignerLine]
) -> tuple[list[_Use], list[Refusal]]:
    by_name = {entry.name: entry for entry in entries}
    by_domain = {
        domain: entry for entry in entries if (domain := _as_domain(entry.name)) is not None
    }
    uses: list[_Use] = []
    refusals: list[Refusal] = []
    for line in signer_lines:
        try:
            came = list(_uses_of(line, by_name, by_domain))
        except errors.DataError as error:
            refusals.append(Refusal(line.source, error.sentence))
            continue
        uses += came
        if not came:
            refusals.append(
                Refusal(line.source, "the KeyTable has no key that it could name; correct it.")
            )
    return uses, refusals


def _uses_of(
    line: SignerLine, by_name: dict[str, KeyEntry], by_domain: dict[str, KeyEntry]
) -> Iterator[_Use]:
    if line.key_name == AUTHOR_DOMAIN:
        for domain, entry in by_domain.items():
            if _covers(line.domain, domain):
                author = line.author if line.domain == domain else f"*@{domain}"
                yield _use(line, entry, author)
        return
    entry_named = by_name.get(line.key_name)
    if entry_named is None:
        raise errors.DataError(
            "it names a key that the KeyTable does not have or that was refused; correct the name."
        )
    if entry_named.domain == AUTHOR_DOMAIN and (not line.domain or line.domain.startswith(".")):
        for domain in _domains_on_disk(entry_named):
            if _covers(line.domain, domain):
                yield _Use(line, entry_named, f"*@{domain}", domain)
        return
    yield _use(line, entry_named, line.author)


def _use(line: SignerLine, entry: KeyEntry, author: str) -> _Use:
    domain = author.rpartition("@")[2] if entry.domain == AUTHOR_DOMAIN else entry.domain
    return _Use(line, entry, author, found.sdid_of(domain))


def _covers(pattern: str, domain: str) -> bool:
    if pattern.startswith("."):
        return domain.endswith(pattern)
    return pattern in ("", domain)


def _as_domain(name: str) -> str | None:
    return domains.a_labels(name) if "." in name else None


def _keys(
    entries: Sequence[KeyEntry], uses: Sequence[_Use], algorithm: str
) -> tuple[list[Found], list[Refusal]]:
    chosen = _broadest(uses)
    used: dict[str, dict[str, None]] = {}
    authors: dict[str, set[str]] = {}
    for use in uses:
        used.setdefault(use.entry.name, {})[use.sdid] = None
        authors.setdefault(use.entry.name, set()).add(use.author.rpartition("@")[2])
    keys: list[Found] = []
    refusals: list[Refusal] = []
    for entry in entries:
        try:
            _refuse_template(entry, authors.get(entry.name, set()))
            sdids = list(used.get(entry.name, ())) or [_own_domain(entry)]
            keys += [_one(entry, sdid, chosen, used, algorithm) for sdid in sdids]
        except errors.DataError as error:
            refusals.append(Refusal(entry.source, error.sentence))
    return keys, refusals


def _refuse_template(entry: KeyEntry, authors: set[str]) -> None:
    if entry.is_template and entry.domain != AUTHOR_DOMAIN and authors != {entry.domain}:
        raise errors.DataError(
            "the author's domain decides which of several key files is read for one domain and"
            " selector; import the one that is published with"
            " `carbonseal keys import SDID SELECTOR --private-key FILE`."
        )


def _own_domain(entry: KeyEntry) -> str:
    if entry.domain == AUTHOR_DOMAIN:
        raise errors.DataError(_UNRESOLVED)
    return entry.domain


def _one(
    entry: KeyEntry,
    sdid: str,
    chosen: dict[str, _Use],
    used: dict[str, dict[str, None]],
    algorithm: str,
) -> Found:
    if entry.name not in used:
        note = "no line of the SigningTable names it, so it signs nothing there"
        return entry.found(sdid, algorithm=algorithm, signs=Signs.NO, notes=(note,))
    if chosen[sdid].entry.name == entry.name:
        return entry.found(sdid, algorithm=algorithm, signs=Signs.YES)
    note = f"it signs for some authors only; most are signed with {chosen[sdid].entry.selector}"
    return entry.found(sdid, algorithm=algorithm, signs=Signs.NO, notes=(note,))


def _broadest(uses: Iterable[_Use]) -> dict[str, _Use]:
    """For each SDID the use that speaks about most authors; of equals the first, as it counts."""
    chosen: dict[str, _Use] = {}
    for use in uses:
        other = chosen.get(use.sdid)
        if other is None or _weight(use) > _weight(other):
            chosen[use.sdid] = use
    return chosen


def _weight(use: _Use) -> tuple[bool, int]:
    return use.author == f"*@{use.sdid}", use.line.breadth


def _rules(uses: Sequence[_Use]) -> Iterator[Rule]:
    chosen = _broadest(uses)
    for use in uses:
        notes = []
        signer = chosen[use.sdid].entry
        if signer.name != use.entry.name:
            notes.append(
                f"these authors were signed with the selector {use.entry.selector.lower()}; here"
                f" all mail of {use.sdid} is signed with its active key"
            )
        if use.line.has_identity:
            notes.append(f"the identity (i=) cannot be chosen; it will be @{use.sdid}")
        yield Rule(use.author, use.sdid, use.line.source, tuple(notes))
