"""A chain of seals signed anew by somebody who has the database but not the relay's key."""

from __future__ import annotations

from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, select, update

from carbonseal.milter.archive import schema
from carbonseal.milter.archive.evidence import seal
from carbonseal.milter.archive.evidence.seal import Sealed


def forge(connection: Connection) -> None:
    """Sign every seal with a key of one's own, each following from the one before."""
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    columns = schema.seal.c
    previous = seal.BEGINNING
    query = select(columns.relay, columns.number, columns.entry).order_by(columns.number)
    for relay, number, entry in connection.execute(query).all():
        facts = replace(seal.read(entry), key=public, previous=previous)
        sealed = Sealed(facts.text(), private.sign(facts.text().encode("ascii")))
        connection.execute(
            update(schema.seal)
            .where(columns.relay == relay, columns.number == number)
            .values(entry=sealed.entry, signature=sealed.signature)
        )
        previous = sealed.digest
