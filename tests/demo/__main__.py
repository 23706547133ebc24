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

from carbonseal.policies.reason import Reason
from demo.letters import LETTERS, Letter, message

console = Console(width=None if sys.stdout.isatty() else 140)


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


def signature_in_words(fate: Fate) -> str:
    """Who found it good on the delivered bytes, or why there is none."""
    if fate.record["signatures"]:
        judges = ", ".join(one.judge for one in fate.judgements if one.result == "pass")
        signer = fate.record["signatures"][0]["sdid"]
        return f"{signer}, verified on the delivered bytes by {judges}"
    refusals = [one for one in fate.record["reasons"] if one.startswith("no-origin-proof")]
    return f"none: {' '.join(refusals)}"


def deciding_reason(fate: Fate) -> str:
    """The reason that tells the story, as a sentence."""
    for text in fate.record["reasons"]:
        code, _, about = text.partition("(")
        if code == fate.letter.reason:
            return Reason(code, about.removesuffix(")")).sentence
    return "missing"


def show(found: list[Fate]) -> bool:
    """Print what a user wants to see; True when all is as it must be."""
    table = Table(title="What became of each letter", title_justify="left", show_lines=True)
    for column in ("letter", "crossing", "signature", "archive copy", "the deciding reason", ""):
        table.add_column(column, overflow="fold")
    all_right = True
    for fate in found:
        complaints = list(fate.complaints())
        all_right = all_right and not complaints
        table.add_row(
            fate.letter.title,
            fate.record["crossing"],
            signature_in_words(fate),
            "1, NOTIFY=NEVER" if fate.copies else "none",
            deciding_reason(fate),
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
        for arguments in (
            ("archive", "search"),
            ("archive", "search", "--recipient", "hidden@elsewhere.example"),
            ("archive", "stats", "--by", "crossing"),
        ):
            console.print(f"\n[bold]$ carbonseal {' '.join(arguments)}[/bold]")
            print(service.command(*arguments, columns=console.width).stdout, end="", flush=True)
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
