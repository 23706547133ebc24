"""Run the demonstration; exit status 0 only when every letter fared as it must.

Starts a private Postfix on loopback high ports, a sink behind it and the milter in front of it, all
in one temporary directory; sends the letters; judges the delivered bytes by other people's
verifiers; leaves nothing running.

Does not: touch the machine's own Postfix.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from support import verifiers
from support.relay import Relay, copy_parameters, relay
from support.sink import Delivery

from demo.letters import LETTERS, Letter, message

console = Console(width=None if sys.stdout.isatty() else 130)


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one letter."""

    letter: Letter
    record: dict[str, Any]
    deliveries: list[Delivery]
    copies: list[Delivery]
    judgements: list[verifiers.Judgement]

    def complaints(self) -> Iterator[str]:
        """Everything that is not as it must be."""
        letter, record = self.letter, self.record
        if record["crossing"] != letter.crossing:
            yield f"crossing is {record['crossing']}, not {letter.crossing}"
        if bool(record["signatures"]) != letter.is_signed:
            yield f"signed is {bool(record['signatures'])}"
        if not any(reason.startswith(letter.reason) for reason in record["reasons"]):
            yield f"the reason {letter.reason} is missing"
        if letter.is_signed and not self.judgements:
            yield "nobody judged the signature"
        for judgement in self.judgements:
            if judgement.result != "pass":
                yield f"{judgement.judge}: {judgement.result} {judgement.detail}"
        if len(self.copies) != int(letter.is_copied):
            yield f"{len(self.copies)} archive copies"
        for copy in self.copies:
            asked = copy_parameters(copy)
            if not any("NOTIFY=NEVER" in parameters for parameters in asked):
                yield f"the copy was not sent with NOTIFY=NEVER: {asked}"
        if len(self.deliveries) < 1:
            yield "nothing was delivered"


def send(relay: Relay, letter: Letter, number: int) -> str:
    """Hand one letter to Postfix; returns its queue id."""
    content = message(letter, number)
    sending = relay.send(letter.client, letter.reverse_path, list(letter.recipients), content)
    return sending.queue_id


def fates(relay: Relay) -> Iterator[Fate]:
    """Send everything, wait until it is delivered and recorded, and judge."""
    queue_ids = [send(relay, letter, number) for number, letter in enumerate(LETTERS)]
    relay.mta.wait_until_empty()
    records = {one["queue_id"]: one for one in relay.service.wait_for_records(len(LETTERS))}
    keys = relay.service.dns_records()
    for number, (letter, queue_id) in enumerate(zip(LETTERS, queue_ids, strict=True)):
        mark = f"<demo-{number}@".encode()
        delivered = relay.delivered(mark)
        judgements = [
            judgement
            for judge in verifiers.JUDGES
            for one in (delivered[:1] if letter.is_signed else [])
            for judgement in verifiers.verify(judge, one.content, keys)
        ]
        yield Fate(letter, records[queue_id], delivered, relay.copies(mark), judgements)


def show(found: list[Fate]) -> bool:
    """Print what a user wants to see; True when all is as it must be."""
    table = Table(title="What became of each letter", title_justify="left")
    for column in ("letter", "crossing", "signature, verified on the delivered bytes by", "copy"):
        table.add_column(column)
    table.add_column("why (reasons of the record)", overflow="fold")
    table.add_column("")
    all_right = True
    for fate in found:
        complaints = list(fate.complaints())
        all_right = all_right and not complaints
        judges = ", ".join(f"{one.judge} {one.result}" for one in fate.judgements)
        table.add_row(
            fate.letter.title,
            fate.record["crossing"],
            judges or "unsigned",
            "yes" if fate.copies else "no",
            " ".join(fate.record["reasons"]),
            "[red]" + "; ".join(complaints) if complaints else "[green]ok",
        )
    console.print(table)
    return all_right


def main() -> int:
    """Run everything; returns the exit status."""
    if os.geteuid() != 0:
        console.print("make demo starts a private Postfix, which needs root: sudo make demo")
        return 77
    with relay() as running:
        service = running.service
        console.print("The milter and a private Postfix are up; sending the letters.\n")
        all_right = show(list(fates(running)))
        console.print("\n[bold]$ carbonseal archive search[/bold]")
        console.print(service.command("archive", "search").stdout, highlight=False, markup=False)
        console.print(
            "[bold]$ carbonseal archive search --recipient hidden@elsewhere.example[/bold]"
        )
        found = service.command("archive", "search", "--recipient", "hidden@elsewhere.example")
        console.print(found.stdout, highlight=False, markup=False)
        all_right = (
            all_right and len(service.search("--recipient", "hidden@elsewhere.example")) == 1
        )
    console.print(
        "[green]Everything came out right; nothing is left running.[/green]"
        if all_right
        else "[red]Something is not as it must be: see above.[/red]"
    )
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
