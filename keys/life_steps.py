"""Take one step in the life of a key, as `policies.rotation` named it.

Promises: the intent is on disk before DNS is asked to change anything.  A name is changed only if
Carbonseal made it, and only from the value it expects there (`publication.publisher`).  Whatever a
publisher answers, only what the authoritative servers show moves a key.

Raises: `errors.CarbonsealError`.

Does not: decide which step (`policies.rotation`), or go on to the next one (`lifecycle`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from carbonseal.keys import dns_record, standby, store
from carbonseal.keys.key_record import KeyRecord, Publication
from carbonseal.keys.life_looking import Looking, put
from carbonseal.keys.life_world import World
from carbonseal.keys.observed import Observed
from carbonseal.keys.publication.publisher import Outcome, OutcomeKind
from carbonseal.policies.key_life import DnsView, ServerState, Stage
from carbonseal.policies.rotation import Action, Due, Standing

_PATIENCE: Final = 600  # seconds in which a hidden primary's secondaries surely follow
_SHOWN_AFTER = {
    Stage.PUBLISHING: ServerState.SHOWN,
    Stage.REVOKING: ServerState.REVOKED,
    Stage.REMOVING: ServerState.ABSENT,
}
_STANDINGS = {
    OutcomeKind.REFUSED: Standing.HELD,
    OutcomeKind.UNREACHABLE: Standing.UNREACHABLE,
}


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of the keys of one SDID, under its lock."""

    looking: Looking
    writer: store.Writer
    why: str  # what the pass was ordered for; empty: nobody said

    @property
    def _world(self) -> World:
        return self.looking.world

    def take(self, record: KeyRecord, due: Due, seen: Observed) -> tuple[KeyRecord, Due | None]:
        """One step; the record after it, and what hinders the next one."""
        now, because = self._world.clock(), self._because(due)
        match due.action:
            case Action.PUBLISH:
                return self._publish(record, seen, because)
            case Action.REVOKE:
                return self._revoke(record, because)
            case Action.REMOVE:
                return self._remove(record, seen, because)
            case Action.ACTIVATE:
                return self._activate(record, because), None
            case Action.CONFIRM_PUBLISHED:
                fresh = record.moved(Stage.PUBLISHED, at=now, why=because)
                fresh = dataclasses.replace(fresh, published_at=now, assumed_published=False)
            case Action.FALL_BACK:
                fresh = record.moved(Stage.PUBLISHING, at=now, why=because)
                fresh = dataclasses.replace(fresh, published_at=None)
            case Action.MAKE_READY:
                standby.demand_usable(self._world.shelf, record)
                fresh = record.moved(Stage.READY, at=now, why=because)
            case Action.REFUSE:
                fresh = record.noted("refused", at=now, why=because)
                fresh = dataclasses.replace(fresh, refused=because)
            case Action.ALLOW:
                fresh = record.noted("allowed", at=now, why=because)
                fresh = dataclasses.replace(fresh, refused="")
            case Action.CONFIRM_STOPPED:
                stopped = max((one.at for one in self.looking.relays), default=now)
                fresh = record.noted("stopped", at=now, why=because)
                fresh = dataclasses.replace(fresh, stopped_at=max(stopped, record.since))
            case Action.DENY_STOPPED:
                fresh = record.noted("not stopped", at=now, why=because)
                fresh = dataclasses.replace(fresh, stopped_at=None)
            case Action.CONFIRM_REVOKED:
                text = dns_record.revocation(record.public_key)
                fresh = record.moved(Stage.REVOKED, at=now, why=because)
                fresh = dataclasses.replace(
                    fresh,
                    revoked_at=now,
                    publication=dataclasses.replace(record.publication, text=text),
                )
            case Action.CONFIRM_REMOVED:
                fresh = record.moved(Stage.REMOVED, at=now, why=because)
                put(self.writer, fresh)
                self.writer.destroy(fresh)
                return fresh, None
            case _:
                fresh = record.noted("held", at=now, why=because)
                fresh = dataclasses.replace(fresh, held=because)
        return put(self.writer, fresh), None

    def _because(self, due: Due) -> str:
        return "; ".join(due.why) + (f" ({self.why})" if self.why else "")

    def _publish(
        self, record: KeyRecord, seen: Observed, because: str
    ) -> tuple[KeyRecord, Due | None]:
        if record.stage is Stage.GENERATED and seen.dns is not None:
            found = [one.text for one in seen.dns.servers if one.state is ServerState.SHOWN]
            if found:  # before we ever sent it: somebody else made it, and it is not ours
                record = record.moved(Stage.PUBLISHING, at=self._world.clock(), why=because)
                place = Publication(seen.dns.target or record.dns_name, found[0], is_ours=False)
                return put(self.writer, dataclasses.replace(record, publication=place)), None
        publisher, now = self._world.publisher_for(record.sdid), self._world.clock()
        text = dns_record.value(record.public_key)
        target = self._world.target_for(record.sdid, record.selector)
        if record.stage is not Stage.PUBLISHING:
            record = record.moved(Stage.PUBLISHING, at=now, why=because)
        record = dataclasses.replace(
            record,
            sent_at=now,
            publication=Publication(target, text, is_ours=not publisher.is_manual),
        )
        put(self.writer, record)
        return record, self._trouble(record, publisher.add(target, text, self._world.ttl))

    def _revoke(self, record: KeyRecord, because: str) -> tuple[KeyRecord, Due | None]:
        now = self._world.clock()
        if record.stage is not Stage.REVOKING:
            record = record.moved(Stage.REVOKING, at=now, why=because)
        record = put(self.writer, dataclasses.replace(record, sent_at=now))
        if not record.publication.is_ours:
            return record, self._by_hand(record, "make its p= empty")
        publisher = self._world.publisher_for(record.sdid)
        place, text = record.publication, dns_record.revocation(record.public_key)
        # The key came back after it was revoked, as with a zone that was restored from a backup.
        old = dns_record.value(record.public_key) if place.text == text else place.text
        return record, self._trouble(
            record, publisher.change(place.name, old, text, self._world.ttl)
        )

    def _remove(
        self, record: KeyRecord, seen: Observed, because: str
    ) -> tuple[KeyRecord, Due | None]:
        now = self._world.clock()
        if record.stage is not Stage.REMOVING:
            record = record.moved(Stage.REMOVING, at=now, why=because)
        record = put(self.writer, dataclasses.replace(record, sent_at=now))
        if not record.publication.is_ours:
            if seen.dns is not None and seen.dns.is_everywhere(ServerState.ABSENT):
                return record, None  # nothing to take away
            return record, self._by_hand(record, "take it away")
        # Sent even if no server shows it: a hidden primary may have it, and give it to them later.
        text = record.publication.text
        if seen.dns is not None and ServerState.REVOKED in seen.dns.states:
            text = dns_record.revocation(record.public_key)
        publisher = self._world.publisher_for(record.sdid)
        return record, self._trouble(record, publisher.delete(record.publication.name, text))

    def _trouble(self, record: KeyRecord, outcome: Outcome) -> Due | None:
        """What a publisher's answer means; whether a sent change arrived, only a look can tell."""
        standing = _STANDINGS.get(outcome.kind)
        if outcome.kind is OutcomeKind.CONFLICT:
            # The update server holds another value than we expect.  It may be a hidden primary that
            # did the change when it was asked the first time: then the others will follow.
            seen = self.looking.observe(record).dns
            wanted = _SHOWN_AFTER[record.stage]
            if seen is not None and wanted in seen.states:
                return None
            patience = timedelta(seconds=max(_PATIENCE, seen.refresh if seen else 0))
            late = self._world.clock() > record.since + patience
            standing = Standing.HELD if late else Standing.NOT_YET
            return Due(Action.WAIT, standing, _conflict(record, outcome.sentence, seen))
        return None if standing is None else Due(Action.WAIT, standing, (outcome.sentence,))

    def _by_hand(self, record: KeyRecord, what: str) -> Due | None:
        name = record.publication.name or record.dns_name
        if self._world.is_by_hand(record.sdid):
            why = f"the record at {name}: {what} by hand; `keys publish` prints it"
        else:
            why = (
                f"the record at {name} was not made by Carbonseal, so it is not touched: {what} by"
                " hand, or let it be taken over with `keys publish --adopt`"
            )
        return Due(Action.WAIT, Standing.NOT_YET, (why,))

    def _activate(self, record: KeyRecord, because: str) -> KeyRecord:
        standby.demand_usable(self._world.shelf, record)
        return self.writer.activate(
            record, at=self._world.clock(), why=because, assumed=record.assumed_published
        )


def _conflict(record: KeyRecord, sentence: str, seen: DnsView | None) -> tuple[str, ...]:
    """Why the update server holds something else than we expect, and what may be done."""
    place = record.publication.name
    if seen is not None and place not in (record.dns_name, seen.target):
        # The record may stand there rightly; nobody must be told to take it away.
        why = f"{record.dns_name} must be a CNAME for {place}: have that made in its zone"
        return (why, *seen.complaints)
    if seen is not None and ServerState.SHOWN in seen.states:
        name = f"{record.sdid} {record.selector}"
        adopt = f"if it is right as it is, `carbonseal keys publish {name} --adopt` takes it over"
        return (f"{sentence.rstrip('.')}; {adopt}",)
    return (sentence,)
