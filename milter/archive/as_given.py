"""Statements that are asked again and again, past SQLAlchemy: rows as the driver gives them.

Promises: a statement is built once, and its parameters are bound as ever.  Values come as the
driver gives them (record ids as UUIDs or octets), so this is for those who know what they ask for.
What is asked `under_way` is sent to PostgreSQL at once and waited for when its rows are wanted: the
server works while we do.  Elsewhere it is asked and answered at once.  A failure is one of
SQLAlchemy's, and a connection that was lost is given up, as if SQLAlchemy had asked.

Raises: what the database raises, as sqlalchemy.exc.DBAPIError.

Does not: say what is looked for (`retrieve` and those who search do).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from typing import Any, TypeAlias

from sqlalchemy import CompoundSelect, Connection, Engine, Select, event
from sqlalchemy.exc import DBAPIError

from carbonseal.milter.archive import terms

_SEVERAL = 1  # times of a statement until PostgreSQL is to remember it
# What is known of a connection.
_KEEPS_PLANS, _IS_GENERIC = "carbonseal keeps plans", "carbonseal plans are generic"
_IS_REPEATED, _KEEPING = "carbonseal repeated", "carbonseal keeping"
_HAS_ASKED = "carbonseal has asked"
KEYS = "/* keys */"  # where the keys are to be, between brackets

Rows: TypeAlias = Sequence[tuple[Any, ...]]
Given: TypeAlias = Mapping[str, Any] | Sequence[Any]


def watch(engine: Engine) -> None:
    """Have PostgreSQL plan anew whatever readers send through SQLAlchemy that is not `repeated`."""

    def before(connection: Connection, *_: object) -> None:
        if _KEEPS_PLANS in connection.info and _IS_REPEATED not in connection.info:
            _plan(connection, is_generic=False)

    event.listen(engine, "before_cursor_execute", before)


def keep_plans(connection: Connection) -> None:
    """Let PostgreSQL remember the plans of statements that are `repeated`, and of no others.

    For connections of readers, with plan_cache_mode auto.
    """
    driver: Any = connection.connection.driver_connection
    driver.prepare_threshold = None
    connection.info[_KEEPS_PLANS] = True


@contextmanager
def keeping(connection: Connection) -> Iterator[None]:
    """For a page of results: what is `repeated` in here is planned once for all values.

    Left to itself PostgreSQL plans again and again what it takes for cheaper with values, and does
    not count what that costs.  The first page of a connection it plans as ever: many have no other.
    """
    known = connection.info
    if _KEEPS_PLANS not in known or _HAS_ASKED not in known:
        known[_HAS_ASKED] = True
        yield
        return
    known[_KEEPING] = True
    try:
        yield
    finally:
        known.pop(_KEEPING, None)


@contextmanager
def repeated(connection: Connection) -> Iterator[None]:
    """What is sent in here is the same again and again, and its plan hangs on no value.

    To plan for all months takes PostgreSQL several times as long as to look up a page of records.
    """
    known = connection.info
    if _KEEPS_PLANS not in known or _IS_REPEATED in known:
        yield
        return
    driver: Any = connection.connection.driver_connection
    _plan(connection, is_generic=_KEEPING in known)
    driver.prepare_threshold = _SEVERAL
    known[_IS_REPEATED] = True
    try:
        yield
    finally:
        known.pop(_IS_REPEATED, None)
        driver.prepare_threshold = None


def _plan(connection: Connection, *, is_generic: bool) -> None:
    """How what follows is planned: said only where it was otherwise before, and past SQLAlchemy,
    which would take longer for it than the server.
    """
    known = connection.info
    if known.get(_IS_GENERIC, False) is is_generic:
        return
    driver: Any = connection.connection.driver_connection
    mode = b"force_generic_plan" if is_generic else b"auto"
    with suppress(connection.dialect.loaded_dbapi.Error):  # of a lost one the next statement tells
        driver.pgconn.exec_(b"SET plan_cache_mode = " + mode)
    known[_IS_GENERIC] = is_generic


@contextmanager
def under_way(connection: Connection) -> Iterator[None]:
    """What is `asked` in here is not waited for.  Nothing else is to be sent meanwhile."""
    driver: Any = connection.connection.driver_connection
    # Older libraries know no pipelines, and a writer's transaction would wait for its end.
    if not (_is_postgresql(connection) and driver.autocommit and _has_pipelines(connection)):
        yield
        return
    with repeated(connection), _explained(connection), _pipeline(connection):
        yield


@contextmanager
def _pipeline(connection: Connection) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    with ExitStack() as at_end:
        at_end.enter_context(driver.pipeline())
        try:
            yield
        except BaseException:
            # Of a lost connection it would say in the log that it cannot be ended.
            with suppress(connection.dialect.loaded_dbapi.Error):
                at_end.close()
            raise


def _is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"


def _has_pipelines(connection: Connection) -> bool:
    driver: Any = connection.dialect.loaded_dbapi
    return bool(driver.Pipeline.is_supported())


class AsGiven:
    """A statement as the driver takes it.

    Parameters are bound as ever: where a list of keys is to be stands a mark for each of them.
    """

    def __init__(self, query: Select[Any] | CompoundSelect[Any]) -> None:
        self._query = query
        # By dialect: text, parameters of its own, the order of all where they have no names there.
        self._made: dict[str, tuple[str, dict[str, Any], Sequence[str] | None]] = {}

    def rows(self, given: Given, connection: Connection, *, is_repeated: bool = True) -> Rows:
        """What there is; `given`: parameters by name, or keys.

        `is_repeated`: whether its plan hangs on no value.
        """
        return self.asked(given, connection, is_repeated=is_repeated)()

    def asked(
        self, given: Given, connection: Connection, *, is_repeated: bool = True
    ) -> Callable[[], Rows]:
        """What waits for the rows; to be called once."""
        text, parameters = self._statement(given, connection)
        if not is_repeated and _KEEPS_PLANS in connection.info:
            _plan(connection, is_generic=False)
        with repeated(connection) if is_repeated else nullcontext():
            return sent(text, parameters, connection)

    def _statement(self, given: Given, connection: Connection) -> tuple[str, Given]:
        name = connection.dialect.name
        if name not in self._made:
            compiled: Any = self._query.compile(dialect=connection.dialect)
            self._made[name] = str(compiled), dict(compiled.params), compiled.positiontup
        text, own, order = self._made[name]
        if isinstance(given, Mapping):
            named = {**own, **given}
            return text, named if order is None else tuple([named[one] for one in order])
        mark = "%s"
        if name == "sqlite":
            mark = "?"
            # Few lengths: it remembers statements by their text.
            given = [*given, *[given[-1]] * ((1 << (len(given) - 1).bit_length()) - len(given))]
        return text.replace(KEYS, ",".join([mark] * len(given))), tuple(given)


def sent(text: str, parameters: Given, connection: Connection) -> Callable[[], Rows]:
    """What waits for the rows of a statement of the driver's."""
    if not connection.in_transaction():
        connection.begin()  # SQLAlchemy would have done so
    driver: Any = connection.connection.driver_connection
    # Octets need not become digits and octets again.
    cursor = driver.cursor(binary=True) if _is_postgresql(connection) else driver.cursor()
    with _explained(connection):
        cursor.execute(text, parameters)

    def rows() -> Rows:
        with _explained(connection):
            found: Rows = cursor.fetchall()
        cursor.close()
        return found

    return rows


def array_text(keys: Sequence[Any]) -> str:
    """PostgreSQL's text of an array of record ids, octets or numbers."""
    match keys[0]:
        case str():
            texts = list(map(id_text, keys))
        case bytes():
            texts = [rf'"\\x{one.hex()}"' for one in keys]
        case _:
            texts = list(map(str, keys))
    return f"{{{','.join(texts)}}}"


def id_text(record_id: str) -> str:
    """PostgreSQL's text of a record id.  Raises: ValueError."""
    return terms.pack_record_id(record_id).hex()


@contextmanager
def _explained(connection: Connection) -> Iterator[None]:
    dialect = connection.dialect
    try:
        yield
    except dialect.loaded_dbapi.Error as fault:
        is_lost = dialect.is_disconnect(fault, connection.connection.driver_connection, None)
        if is_lost:
            connection.invalidate(fault)
        raise DBAPIError.instance(
            None, None, fault, dialect.loaded_dbapi.Error, connection_invalidated=is_lost
        ) from fault
