"""What an error of the database means, and what to do about it, on all three engines.

Promises: `kind` tells five things apart that ask for different acts.  `COLLISION`: another
transaction was first, or held what this one needed for too long; the same batch is done again.
`READ_ONLY`: this server takes no writes (a standby, a demoted primary); another one, or the same
one later, does.  `POISON`: the values are refused; one of the records is to blame, and waiting does
not help.  `LOST`: the connection is gone, and whether a commit was done is not known.  `TROUBLE`:
all the rest; it waits for people.  What is not known counts as trouble, which loses nothing.

`remedy` says in one clause what a person can do.

Does not: look at the database again.
"""

from __future__ import annotations

import re
from enum import StrEnum

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, StatementError

from carbonseal.policies.errors import CarbonsealError

_ERRNO = re.compile(r"\[Errno \d+\] ?", re.ASCII)


class Kind(StrEnum):
    """What an error asks for."""

    COLLISION = "collision"
    READ_ONLY = "read-only"
    POISON = "poison"
    LOST = "lost"
    TROUBLE = "trouble"


# PostgreSQL: SQLSTATE, or its class of two characters.
# 40001 serialization failure, 40P01 deadlock, 55P03 lock timeout
_COLLISION_STATES = {"40001", "40P01", "55P03"}
_READ_ONLY_STATES = {"25006"}
# 22 data exceptions, 23 integrity, 54 limits of the program such as the size of an index entry
_POISON_CLASSES = {"22", "23", "54"}
# 57P shutdown, crash, idle session; 08 connection; 25P03 idle in transaction for too long
_LOST_STATES = {"57P01", "57P02", "57P03", "57P05", "25P03"}

_FORBIDDEN_STATES = {"42501"}

# MariaDB: error numbers.
# 1044 this database, 1142 this table, 1143 this column, 1227 this act, 1370 this function
_FORBIDDEN_NUMBERS = {1044, 1142, 1143, 1227, 1370}
# 1020 changed since it was read, 1205 lock wait timeout, 1213 deadlock, which on Galera is also
# how a commit is told that another node was first
_COLLISION_NUMBERS = {1020, 1205, 1213}
# 1290 --read-only, 1792 read-only transaction, 1836 read-only mode
_READ_ONLY_NUMBERS = {1290, 1792, 1836}
# 1118 row too large, 1153 packet too large, 1406 data too long
_POISON_NUMBERS = {1118, 1153, 1406}
# 1047 this Galera node is not part of the cluster now, 1180 it left in the middle of a commit,
# 1053 shutdown, 1927 killed, 20xx connection
_LOST_NUMBERS = {1047, 1053, 1180, 1927, 2002, 2003, 2006, 2013, 2014, 2055}


def is_forbidden(fault: Exception) -> bool:
    """Whether the login lacks a right for what was asked."""
    if not isinstance(fault, DBAPIError):
        return False
    return _state(fault) in _FORBIDDEN_STATES or _number(fault) in _FORBIDDEN_NUMBERS


def kind(fault: Exception) -> Kind:
    """What `fault` asks for; raised by SQLAlchemy, by us, or by a defect in a record's rows."""
    if not isinstance(fault, DBAPIError):
        cause = fault.orig if isinstance(fault, StatementError) else fault
        from_outside = isinstance(cause, (OSError, SQLAlchemyError, CarbonsealError))
        return Kind.TROUBLE if from_outside else Kind.POISON
    state, number = _state(fault), _number(fault)
    if state in _READ_ONLY_STATES or number in _READ_ONLY_NUMBERS:
        return Kind.READ_ONLY
    if fault.connection_invalidated or state in _LOST_STATES or number in _LOST_NUMBERS:
        return Kind.LOST
    if state in _COLLISION_STATES or number in _COLLISION_NUMBERS:
        return Kind.COLLISION
    if state[:2] in _POISON_CLASSES or number in _POISON_NUMBERS:
        return Kind.POISON
    return Kind.POISON if isinstance(fault, (DataError, IntegrityError)) else Kind.TROUBLE


def plain(fault: Exception) -> str:
    """What the database said, on one line, without the statement and its values."""
    cause = fault.orig if isinstance(fault, StatementError) and fault.orig else fault
    if isinstance(cause, CarbonsealError):
        return cause.sentence
    # PyMySQL's is a pair of number and text, in which Python's own numbers may stand.
    text = str(cause.args[-1]) if _number(fault) else str(cause)
    return " ".join(_ERRNO.sub("", text).split())


def _state(fault: DBAPIError) -> str:
    return getattr(fault.orig, "sqlstate", None) or ""


def _number(fault: Exception) -> int:
    match getattr(getattr(fault, "orig", None), "args", ()):
        case (int(number), _):
            return number
    return 0


# PostgreSQL's states, MariaDB's numbers, and words of messages that come without either, since
# libpq gives no state for a connection that was refused.
_REMEDIES: tuple[tuple[tuple[str | int, ...], str], ...] = (
    (
        ("25006", 1290, 1792, 1836, "session is read-only"),
        "it is a standby or was made read-only; promote it, or name all servers in record.database",
    ),
    (
        ("28P01", "28000", 1045, 1698, "password authentication failed", "no password supplied"),
        "check the user and the password file that record.database names",
    ),
    (("3D000", 1049, "fatal: database"), "create the database and its roles (packaging/)"),
    (
        ("42501", 1044, 1142, 1143, 1370, "permission denied"),
        "log in with the role for it (holds, retention and erasure: carbonseal_keeper), or grant "
        "the rights of the roles again, as after each upgrade (packaging/)",
    ),
    (("42P01", 1146), "run carbonseal archive upgrade as the owner of the archive"),
    (("53100", 1021, 1114, 3), "free space on the server's file system"),
    (("53300", 1040, 1203), "let the server take more connections, or stop some of its clients"),
    (("57014", 1969, 3024), "the server is overloaded or waits for something; look at its log"),
    ((1047, 1180), "this node has left its Galera cluster; start the others, or name them all"),
    (("40001", "40P01", "55P03", 1205, 1213), "find who holds it for so long; it is tried again"),
    (
        ("name or service not known", "name resolution", "could not translate host"),
        "check the host name in record.database, and the resolver",
    ),
)


def remedy(fault: Exception) -> str:
    """What to do about it, for a database server."""
    state = _state(fault) if isinstance(fault, DBAPIError) else ""
    signs: tuple[str | int, ...] = (state, _number(fault))
    text = plain(fault).lower()
    for marks, advice in _REMEDIES:
        for mark in marks:
            is_phrase = isinstance(mark, str) and " " in mark
            if mark in text if is_phrase else mark in signs:  # type: ignore[operator]
                return advice
    return "check that the server runs and that record.database is right"
