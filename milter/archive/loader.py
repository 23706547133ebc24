"""One batch of records into SQL, in the transaction of the caller.

A compiled helper makes the rows as tables take them, or packs them for SQLite (`inserting` says
more); `by_python` is its twin, which runs where the helper is missing, and for each record that the
helper leaves to it.

Promises: each record arrives whole or not at all, and once however often it is loaded: a record
whose id is there already, or twice in the batch, is passed over, and where another line had brought
it that is written down in `repeated`.  A batch is a handful of statements, however many records it
has.

Raises: what the database raises; the caller rolls back and calls `Dictionary.forget`.

Does not: read the spool, keep progress, or end transactions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from sqlalchemy import (
    Connection,
    LargeBinary,
    bindparam,
    literal_column,
    select,
    type_coerce,
)

from carbonseal.milter.archive import (
    delivery_loading,
    inserting,
    packed,
    partitions,
    postings,
    role_sets,
    schema,
    usual_rows,
)
from carbonseal.milter.archive.as_given import KEYS, AsGiven
from carbonseal.milter.archive.delivery_loading import EventArrival
from carbonseal.milter.archive.dictionary import Dictionary, chunks, insert_missing
from carbonseal.milter.archive.packed import Recipient, Signature
from carbonseal.milter.archive.parts import Circumstance, Columns, Retention, Route, SigningForm
from carbonseal.milter.archive.rows import Rows
from carbonseal.milter.archive.usual_lines import Run
from carbonseal.milter.archive.usual_rows import Values
from carbonseal.milter.archive.verdicts import Verdict


class Arrival(NamedTuple):
    """A record and where in the spool it came from."""

    segment_id: int
    position: int  # among the lines of that segment
    rows: Rows


KeyedRun = tuple[list[bytes], Run]  # with the keys of its records


class Ids(NamedTuple):
    """Ids by what they stand for."""

    address: dict[str | None, int]
    domain: dict[str, int]
    circumstance: dict[Circumstance, int]
    verdict: dict[Verdict, int]
    route: dict[Route | None, int]
    form: dict[SigningForm, int]


def load(
    arrivals: Sequence[Arrival],
    connection: Connection,
    dictionary: Dictionary,
    events: Sequence[EventArrival] = (),
) -> int:
    """Insert what is not there yet; returns how many records that were."""
    return load_counting(arrivals, connection, dictionary, events).total()


def load_counting(
    arrivals: Sequence[Arrival],
    connection: Connection,
    dictionary: Dictionary,
    events: Sequence[EventArrival] = (),
    runs: Sequence[Run] = (),
) -> Counter[int]:
    """Insert what is not there yet; returns how many records that were, by segment id."""
    dictionary.refresh(connection)
    keyed_runs = _new_runs(arrivals, runs, connection)
    if keyed_runs is None:
        arrivals, keyed_runs = _one_by_one(arrivals, runs), []
    fresh = _load_records(arrivals, keyed_runs, connection, dictionary)
    counts = Counter(one.segment_id for one in fresh)
    for _, run in keyed_runs:
        counts[run.segment_id] += len(run.rows)
    # Asked for only where something waits for one of them.
    queue_ids = chain(
        (one.rows.message["queue_id"] for one in fresh),
        chain.from_iterable(run.queue_ids() for _, run in keyed_runs),
    )
    delivery_loading.load(events, queue_ids, connection, dictionary)
    return counts


def _new_runs(
    arrivals: Sequence[Arrival], runs: Sequence[Run], connection: Connection
) -> list[KeyedRun] | None:
    """The runs with the keys of their records; None where one has to be looked at by itself.

    That is where a record is there already, or came twice, or the helper is missing.
    """
    if not runs:
        return []
    if _packer is None or _KEYS is None or not inserting.takes_packs(connection):
        return None
    keyed = []
    all_keys = _keys(arrivals, connection)
    for run in runs:
        keys = _KEYS(run.rows)
        if keys is None:
            return None
        keyed.append((keys, run))
        all_keys += keys
    if len(set(all_keys)) < len(all_keys):
        return None
    for chunk in chunks(_perhaps_known(all_keys, connection)):
        if _KNOWN.rows(chunk, connection, is_repeated=False):
            return None
    return keyed


def _one_by_one(arrivals: Sequence[Arrival], runs: Sequence[Run]) -> list[Arrival]:
    """Those of runs as well, segment by segment in the order in which they came."""
    found = [*arrivals]
    for run in runs:
        found += (Arrival(run.segment_id, at, made) for at, made in run.made())
    order = {one: place for place, one in enumerate(dict.fromkeys(one[0] for one in found))}
    return sorted(found, key=lambda one: (order[one.segment_id], one.position))


def _load_records(
    arrivals: Sequence[Arrival],
    runs: Sequence[KeyedRun],
    connection: Connection,
    dictionary: Dictionary,
) -> list[Arrival]:
    """Insert these; returns those of `arrivals` that were not there."""
    # Before anything else is locked: making a partition waits for those who read.
    partitions.make({one.rows.record_id for one in arrivals}, connection, dictionary)
    keyed = _unknown(arrivals, connection)
    if not (keyed or runs):
        return []
    fresh = [one for _, one in keyed]
    ids = _ids([one.rows for one in fresh], [run for _, run in runs], connection, dictionary)
    has_arrays = connection.dialect.name == "postgresql"
    keyed = _gather(keyed, runs, ids, connection)
    batch = Made()
    for key, one in keyed:
        add(batch, one, key, ids, with_index=not has_arrays)
        if has_arrays:
            _add_terms(batch, one.rows, key, ids)
    if has_arrays:
        dictionary.ids("role_set", batch.role_sets, connection)
    inserting.insert(schema.message, batch.messages, connection, with_terms=has_arrays)
    inserting.insert(schema.header_section, batch.sections, connection, with_terms=has_arrays)
    if not has_arrays:
        for table, made in (
            (schema.participant, batch.participants),
            (schema.participant_domain, batch.domains),
            (schema.header_term, batch.header_terms),
        ):
            made.sort(key=_FIRST)  # each page of the tree is then found, and changed, once
            inserting.insert(table, made, connection)
    return fresh


def _gather(
    keyed: list[tuple[Any, Arrival]], runs: Sequence[KeyedRun], ids: Ids, connection: Connection
) -> list[tuple[Any, Arrival]]:
    """Insert as packs what can be packed; returns the others."""
    if _packer is None or GATHERING is None or not inserting.takes_packs(connection):
        return keyed
    gathering, add_one = GATHERING(), _packer.add
    others = [(key, one) for key, one in keyed if not add_one(one, key, ids, gathering)]
    for keys, run in runs:
        lists, place = (run.rows, run.sections, keys), (run.segment_id, run.position)
        left = _packer.add_run(lists, place, ids, gathering)
        others += (
            (keys[at], Arrival(run.segment_id, run.position + at, run.made_of(at))) for at in left
        )
    for table, packs in zip(_PACKED, gathering.packs(), strict=True):
        inserting.insert_packs(table, packs, connection)
    return others


# In the order in which a gathering gives their packs.
_PACKED = (
    schema.message,
    schema.header_section,
    schema.participant,
    schema.participant_domain,
    schema.header_term,
)


@dataclass(slots=True)
class Made:
    """Rows by table, each in the order of its columns."""

    messages: list[tuple[Any, ...]] = field(default_factory=list)
    sections: list[tuple[Any, ...]] = field(default_factory=list)
    participants: list[tuple[Any, ...]] = field(default_factory=list)
    domains: list[tuple[Any, ...]] = field(default_factory=list)
    header_terms: list[tuple[Any, ...]] = field(default_factory=list)
    role_sets: set[tuple[int, int]] = field(default_factory=set)

    def index(self, *, wanted: bool) -> tuple[list[tuple[Any, ...]] | None, ...]:
        """Those three that are indexes, or nothing in their places."""
        if not wanted:
            return None, None, None
        return self.participants, self.domains, self.header_terms


_MESSAGE_KEY = schema.message.c.record_id
_KNOWN = AsGiven(
    select(_MESSAGE_KEY, schema.message.c.segment_id, schema.message.c.position).where(
        _MESSAGE_KEY.op("IN")(literal_column(f"({KEYS})"))
    )
)


_LAST = (
    select(type_coerce(_MESSAGE_KEY, LargeBinary))
    .where(type_coerce(_MESSAGE_KEY, LargeBinary) <= bindparam("most", type_=LargeBinary))
    .order_by(_MESSAGE_KEY.desc())
    .limit(1)
)


def _unknown(arrivals: Sequence[Arrival], connection: Connection) -> list[tuple[Any, Arrival]]:
    """Those whose record is not there, with its key; of the others, write down the lines."""
    keys = _keys(arrivals, connection)
    perhaps_known = _perhaps_known(keys, connection)
    if not perhaps_known and len(set(keys)) == len(keys):
        return list(zip(keys, arrivals, strict=True))
    known: dict[Any, tuple[int, int]] = {}
    for chunk in chunks(perhaps_known):
        for key, segment_id, position in _KNOWN.rows(chunk, connection, is_repeated=False):
            known[key] = (segment_id, position)
    fresh, repeated = [], []
    for key, one in zip(keys, arrivals, strict=True):
        line = (one.segment_id, one.position)
        first = known.setdefault(key, line)
        if first is line:
            fresh.append((key, one))
        elif first != line:
            repeated.append(
                {
                    "segment_id": one.segment_id,
                    "position": one.position,
                    "record_id": one.rows.record_id,
                }
            )
    if repeated:
        connection.execute(insert_missing(schema.repeated, connection), repeated)
    return fresh


def _keys(arrivals: Sequence[Arrival], connection: Connection) -> list[Any]:
    """The keys of their records, as the driver takes them."""
    kind, dialect = schema.RecordId(), connection.dialect
    keys = None if _KEYS is None or dialect.name == "postgresql" else _KEYS(arrivals)
    if keys is not None:
        return keys
    return [kind.process_bind_param(one.rows.record_id, dialect) for one in arrivals]


def _perhaps_known(keys: list[Any], connection: Connection) -> list[Any]:
    """Those that may be there: keys grow with time, and most are above all that are there.

    To ask that is one look into the index.  PostgreSQL would look into that of each month.
    """
    if connection.dialect.name != "sqlite" or not keys:
        return keys
    last = connection.execute(_LAST, {"most": max(keys)}).scalar()
    if last is None or last < min(keys):
        return []
    return [key for key in keys if key <= last]


def _ids(batch: list[Rows], runs: list[Run], connection: Connection, dictionary: Dictionary) -> Ids:
    addresses: set[str | None] = set()
    domains: set[str] = set()
    circumstances, verdicts, retentions, forms = set(), set(), set(), set()
    routes: set[Route | None] = set()
    for rows in batch:  # once, since it is more than the processor's cache can hold
        message = rows.message
        addresses.update(rows.participants)
        addresses.add(message["reverse_path"])
        addresses.add(message["author"])
        domains.update(rows.domains)
        circumstances.add(message["circumstance"])
        verdicts.add(message["verdict"])
        retentions.add(message["retention"])
        for recipient in rows.recipients:
            addresses.add(recipient["address"])
            routes.add(recipient["route"])
        for signature in rows.signatures:
            forms.add(signature["form"])
    for run in runs:
        assert _packer is not None  # else they would have come one by one
        _packer.values(
            run.rows, (addresses, domains, circumstances, verdicts, routes, forms, retentions)
        )
    for some in (addresses, retentions, routes):
        some.discard(None)
    dictionary.ids(Retention.__name__, retentions, connection)  # circumstances have its key
    return Ids(
        dictionary.ids("address", addresses, connection),
        dictionary.ids("domain", domains, connection),
        dictionary.ids(Circumstance.__name__, circumstances, connection),
        dictionary.ids(Verdict.__name__, verdicts, connection),
        dictionary.ids(Route.__name__, routes, connection),
        dictionary.ids(SigningForm.__name__, forms, connection),
    )


_FIRST = itemgetter(0)
# Values of a row in the order of the table's columns, without those that come first.
_MESSAGE = itemgetter(*list(schema.message.c.keys())[1:])
_SECTION = itemgetter(*list(schema.header_section.c.keys())[1:])


class _Compiled(Protocol):
    def add(
        self,
        arrival: Arrival,
        key: object,
        ids: tuple[dict[Any, int], ...],
        lists: tuple[list[tuple[Any, ...]] | None, ...] | _Gathering,
        /,
    ) -> bool: ...
    def add_run(
        self,
        run: tuple[list[Values], list[bytes], list[bytes]],
        place: tuple[int, int],
        ids: tuple[dict[Any, int], ...],
        to: _Gathering,
        /,
    ) -> list[int]: ...
    def values(self, rows: list[Values], sets: tuple[set[Any], ...], /) -> None: ...


class _Gathering(Protocol):
    def packs(self) -> tuple[list[bytes], ...]: ...


class _MakeCompiled(Protocol):
    def __call__(
        self,
        message: Sequence[str],
        section: Sequence[str],
        given: tuple[tuple[str, ...], tuple[str, ...]],
    ) -> _Compiled: ...


COMPILED: _MakeCompiled | None = None  # None where it could not be built
GATHERING: Callable[[], _Gathering] | None = None
_KEYS: Callable[[Any], list[bytes] | None] | None = None
try:
    from carbonseal.milter.archive import _loading
except ImportError:
    pass
else:
    COMPILED, GATHERING, _KEYS = _loading.Packer, _loading.Gathering, _loading.keys
_packer = (
    None
    if COMPILED is None
    else COMPILED(
        list(schema.message.c.keys())[1:],
        list(schema.header_section.c.keys())[1:],
        (usual_rows.MESSAGE, usual_rows.SECTION),
    )
)


def add(batch: Made, arrival: Arrival, key: object, ids: Ids, *, with_index: bool) -> None:
    """Add the rows of a record; `with_index`: those of the tables by which it is found as well."""
    if _packer is not None:
        lists = (batch.messages, batch.sections, *batch.index(wanted=with_index))
        if _packer.add(arrival, key, ids, lists):
            return
    by_python(batch, arrival, key, ids, with_index=with_index)


def by_python(batch: Made, arrival: Arrival, key: object, ids: Ids, *, with_index: bool) -> None:
    """The same without the helper."""
    _add_facts(batch, arrival, key, ids)
    if with_index:
        _add_index(batch, arrival.rows, key, ids)


def _add_facts(batch: Made, arrival: Arrival, key: object, ids: Ids) -> None:
    rows = arrival.rows
    columns = rows.message
    columns["segment_id"], columns["position"] = arrival.segment_id, arrival.position
    columns["circumstance_id"] = ids.circumstance[columns["circumstance"]]
    columns["verdict_id"] = ids.verdict[columns["verdict"]]
    columns["reverse_path_id"] = ids.address.get(columns["reverse_path"])
    columns["author_id"] = ids.address.get(columns["author"])
    columns["recipients"] = packed.pack_recipients(
        [_recipient(one, ids) for one in rows.recipients]
    )
    columns["signatures"] = packed.pack_signatures(
        [
            Signature(ids.form[one["form"]], one["auid"], one["signed_at"], one["expires_at"])
            for one in rows.signatures
        ],
        columns["recorded_at"] // 1_000_000,
    )
    batch.messages.append((key, *_MESSAGE(columns)))
    section = rows.header_section
    batch.sections.append((key, *_SECTION(section)))


def _add_index(batch: Made, rows: Rows, key: object, ids: Ids) -> None:
    """What the record is found by, as rows of their own."""
    batch.participants += [
        (one, key, roles) for one, roles in _by_id(rows.participants, ids.address).items()
    ]
    batch.domains += [(one, key, roles) for one, roles in _by_id(rows.domains, ids.domain).items()]
    batch.header_terms += [(term_id, key) for term_id in rows.header_terms]


def _add_terms(batch: Made, rows: Rows, _key: object, ids: Ids) -> None:
    """What the record is found by, at the end of the rows that were added last."""
    columns = rows.message
    participants = _by_id(rows.participants, ids.address)
    domains = _by_id(rows.domains, ids.domain)
    batch.role_sets.update(role_sets.of_record(participants, domains))
    found = postings.of_message(
        participants=participants,
        domains=domains,
        login=columns["login_hash"],
        crossing=columns["crossing"],
        is_signed=columns["is_signed"],
    )
    batch.messages[-1] += (found,)
    batch.sections[-1] += (postings.of_header_section(rows.header_terms),)


def _recipient(one: Columns, ids: Ids) -> Recipient:
    return Recipient(
        one["kind"],
        ids.address.get(one["address"]),
        one["spelling"],
        one["raw"],
        one["resolved"],
        one["esmtp"],
        ids.route.get(one["route"]),
        one["about"],
    )


def _by_id(held: dict[str, int], ids: dict[Any, int]) -> dict[int, int]:
    roles: dict[int, int] = {}
    for value, some in held.items():  # two texts can be the same octets, and so the same id
        identifier = ids[value]
        roles[identifier] = roles.get(identifier, 0) | some
    return roles
