"""The DNS record of a key as it is to be changed next, for the person who publishes it."""

from __future__ import annotations

import click

from carbonseal.keys import dns_record
from carbonseal.keys.command_line import Settings, say
from carbonseal.keys.key_record import KeyRecord
from carbonseal.keys.publication import forms
from carbonseal.policies.key_life import Stage


def print_record(settings: Settings, record: KeyRecord, form: forms.Form) -> None:
    """Print what is to be published next: the key, its empty p=, or its removal."""
    rule = settings.dns.rule_for(record.sdid)
    # Where it stands already, even if the configuration names another place by now.
    target = record.publication.name or rule.target(record.sdid, record.selector)
    change: forms.Change = "add"
    text = old_text = dns_record.value(record.public_key)
    if record.stage in (Stage.RETIRING, Stage.REVOKING):
        change, text = "revoke", dns_record.revocation(record.public_key)
        old_text = record.publication.text or old_text
    elif record.stage in (Stage.REVOKED, Stage.REMOVING):
        change = "remove"
        text = old_text = record.publication.text or old_text
    zone = rule.zone or record.sdid
    click.echo(
        forms.render(
            form, target, text, settings.dns.ttl, zone=zone, change=change, old_text=old_text
        )
    )
    if target != record.dns_name and change == "add":
        say(f"and, in the zone of {record.sdid}, once:")
        click.echo(forms.alias(record.dns_name, target, settings.dns.ttl))
