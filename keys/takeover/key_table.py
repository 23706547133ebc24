"""A KeyTable: `name domain:selector:key`, as OpenDKIM, dkimpy-milter and rspamd read it.

The domain may be `%`, the author's domain, and so may a part of the path.  The key is a path if it
begins with `/`, `./` or `../`, else the private key itself (opendkim.conf(5), KeyTable).  The last
field keeps its colons.

Promises: each entry becomes a `KeyEntry` or a refusal; of two with one name the first counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from carbonseal.keys.takeover import dataset, found, private
from carbonseal.keys.takeover.found import Found, Refusal, Signs
from carbonseal.policies import errors

AUTHOR_DOMAIN = "%"


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One line of the table."""

    name: str
    domain: str  # as it stands; '%' for the author's
    selector: str
    key: str = field(repr=False)  # a path or a private key
    source: str
    folder: Path | None  # what a relative path is under
    is_guess: bool = False  # the folder is that of the table, for want of a better one

    @property
    def is_inline(self) -> bool:
        """Whether the key itself stands in the table."""
        return private.looks_inline(self.key)

    @property
    def is_template(self) -> bool:
        """Whether the author's domain decides which file is read."""
        return AUTHOR_DOMAIN in self.key and not self.is_inline

    def found(
        self, domain: str, *, algorithm: str, signs: Signs, notes: Sequence[str] = ()
    ) -> Found:
        """The key for one signing domain; `errors.DataError` if the names are wrong."""
        sdid, selector = found.names(domain, self.selector)
        if not self.key:
            raise errors.DataError(
                "it names no key; write the path of the private key file as the third field."
            )
        inline = self.is_inline
        path = None if inline else self._path(sdid)
        if self.is_guess and path is not None and not self.key.startswith("/"):
            notes = (*notes, f"its path is relative; it was looked for under {self.folder}")
        return Found(
            sdid=sdid,
            selector=selector,
            source=self.source,
            path=path,
            inline=self.key if inline else "",
            algorithm=algorithm,
            signs=signs,
            notes=tuple(notes),
        )

    def template(self) -> str:
        """The path with '%' where the author's domain stands."""
        return str(self._path(AUTHOR_DOMAIN))

    def _path(self, domain: str) -> Path:
        text = self.key.replace(AUTHOR_DOMAIN, domain)
        if "\0" in text:
            raise errors.DataError("its path holds a NUL, so there is no such file; correct it.")
        return Path(text) if self.folder is None else self.folder / text


def parse(
    table: dataset.Dataset, base: Path | None = None, default_selector: str = ""
) -> tuple[list[KeyEntry], list[Refusal]]:
    """The entries of a table, and what is wrong with the others.

    With a default selector (rspamd), an entry may be `domain:key`.
    """
    entries: dict[str, KeyEntry] = {}
    refusals: list[Refusal] = []
    for entry in table.entries:
        try:
            parsed = _parse(entry, table, base, default_selector)
            if parsed.name in entries:
                raise errors.DataError(
                    f"it has the same name as {entries[parsed.name].source}, which is the one that"
                    " counts; remove one of them."
                )
            entries[parsed.name] = parsed
        except errors.DataError as error:
            refusals.append(Refusal(entry.source, error.sentence))
    return list(entries.values()), refusals


def _parse(
    entry: dataset.Entry, table: dataset.Dataset, base: Path | None, default_selector: str
) -> KeyEntry:
    parts = entry.value.split(":", 2)
    if len(parts) == 2 and default_selector:
        parts = [parts[0], default_selector, parts[1]]
    if len(parts) != 3:
        raise errors.DataError(
            "it is no entry of a KeyTable; write it as `name domain:selector:/path/of/key`."
        )
    if table.kind is dataset.Kind.PATTERNS and "*" in entry.name:
        raise errors.DataError(
            "its name is a pattern, which no rule can be traced to; give the key a name of its own."
        )
    domain, selector, key = (part.strip() for part in parts)
    return KeyEntry(
        name=entry.name,
        domain=domain,
        selector=selector,
        key=key,
        source=entry.source,
        folder=base or table.folder,
        is_guess=base is None,
    )
