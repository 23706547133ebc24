"""What Postfix does to the copy and to signed mail once the milter has answered.

Promises: a BCC table is read as far as its results can be told, else the finding says that it is
unknown.  That two copies arise is said only where they do, with the case.

Does not: know next hops, or what a content filter changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from carbonseal.milter import postfix_settings
from carbonseal.milter.config import Configuration
from carbonseal.milter.postfix_finding import Finding
from carbonseal.milter.postfix_settings import Settings
from carbonseal.policies import domains, errors, lookup_table
from carbonseal.policies.disposition import DEFAULTS, Answer
from carbonseal.policies.lookup_table import PatternTable, Reference, StaticTable

_REWRITING = (
    "smtp_generic_maps",
    "smtp_header_checks",
    "smtp_mime_header_checks",
    "smtp_nested_header_checks",
    "smtp_body_checks",
)
_ENVELOPE = {  # parameter: the one that says where it works
    "canonical_maps": "canonical_classes",
    "sender_canonical_maps": "sender_canonical_classes",
    "recipient_canonical_maps": "recipient_canonical_classes",
    "masquerade_domains": "masquerade_classes",
}
_CHECKS = ("header_checks", "mime_header_checks", "nested_header_checks", "body_checks")
_ACTING = frozenset(("REDIRECT", "BCC", "DISCARD", "FILTER"))
_CHANGING = frozenset(("REPLACE", "PREPEND", "IGNORE", "STRIP"))
_ACTION = re.compile(r"!?\s*([^\w\s\\])(?:\\.|(?!\1).)*\1\w*\s+([A-Za-z]+)")


def check(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    """Every finding about copies and about mail after the milter."""
    yield from _copies(settings, configuration)
    yield from _compared(settings, configuration)
    yield from _visible(settings, configuration)
    yield from _parameters(settings, configuration)
    yield from _rewritten_after(settings)
    yield from _envelope(settings)
    yield from _checks(settings)
    yield from failures(configuration)


# --- The copy -------------------------------------------------------------------------------------


def _copies(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    ours = {str(mailbox).lower() for mailbox in configuration.archive.all_recipients()}
    section = configuration.file.archive.bcc_maps
    replaced = {one.lower() for one in section.replaced} if section else set()
    for parameter in ("sender_bcc_maps", "recipient_bcc_maps", "always_bcc"):
        for value in _values(settings, parameter, "cleanup"):
            results: dict[str, None] = {value.strip(): None}
            problems: list[str] = []
            if parameter != "always_bcc":
                results, problems = _results(settings, value)
            for problem in problems:
                yield Finding(
                    "copy-unknown",
                    parameter,
                    f"whom it adds is unknown here: {problem}; see that it does not add our archive"
                    " recipient or another archive's",
                )
            for result in results:
                yield _copy(settings, parameter, result, is_ours=result.lower() in ours | replaced)


def _copy(settings: Settings, parameter: str, result: str, *, is_ours: bool) -> Finding:
    if not is_ours:
        return Finding(
            "copy-elsewhere",
            parameter,
            f"it sends a copy to {result}, which is no recipient in archive.recipients, so a"
            " message is copied twice, to two mailboxes; empty it if that one is the old archive",
        )
    cases = [f"its sender has addressed {result} already"]
    if any(
        "no_address_mappings" not in settings.value("receive_override_options", one)
        and one.name.startswith(("127.", "[::1]", "localhost:"))
        for one in settings.running("smtpd")
    ):
        cases.append("a content filter hands it back to a service without no_address_mappings")
    return Finding(
        "copy-doubled",
        parameter,
        f"it adds {result}, as we do: Postfix makes one copy of the two, since both carry"
        f" NOTIFY=NEVER, but two where {' or '.join(cases)}; empty it when the comparison"
        " (archive.compare) shows that it is not needed any more",
    )


def _values(settings: Settings, parameter: str, program: str) -> Iterator[str]:
    """The effective values of `parameter`, each once, empty ones left out."""
    values = [settings.value(parameter)]
    values += [settings.value(parameter, one) for one in settings.running(program)]
    return (value for value in dict.fromkeys(values) if value.strip())


def _results(settings: Settings, value: str) -> tuple[dict[str, None], list[str]]:
    """What a list of tables can answer, and what could not be read."""
    results: dict[str, None] = {}
    problems: list[str] = []
    try:
        tables = lookup_table.references(value)
    except errors.CarbonsealError as fault:
        return {}, [fault.sentence]
    for about in tables:
        try:
            results |= dict.fromkeys(_of_table(settings, about))
        except errors.CarbonsealError as fault:
            problems.append(fault.sentence.rstrip("."))
    return results, problems


def _of_table(settings: Settings, about: Reference) -> list[str]:
    if about.type in lookup_table.PATTERN_TYPES or about.type == "static":
        is_file = about.type != "static" and not about.is_inline
        table = lookup_table.parse(about, postfix_settings.text_of(about.name) if is_file else None)
        if isinstance(table, StaticTable):
            return [table.result]
        assert isinstance(table, PatternTable)
        return [
            "".join(part if isinstance(part, str) else f"${part}" for part in rule.result)
            for rule in table.rules
            if rule.result is not None
        ]
    form = f"{about.type}:{{{about.name}}}" if about.is_inline else f"{about.type}:{about.name}"
    found = postfix_settings.listing(settings, form)
    if found.problems or found.patterns:
        raise errors.TryLater(found.problems[0] if found.problems else f"{about} cannot be listed")
    return list(found.results.values())


def _compared(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    section = configuration.file.archive.bcc_maps
    if configuration.compare is None:
        return
    ours = {
        "sender_bcc_maps": section.sender if section else "",
        "recipient_bcc_maps": section.recipient if section else "",
        "always_bcc": (section.always or "") if section else "",
        "recipient_delimiter": section.delimiter if section else "",
    }
    for parameter, value in ours.items():
        if " ".join(value.split()) != " ".join(settings.value(parameter).split()):
            yield Finding(
                "compare-differs",
                parameter,
                "it is not what archive.bcc_maps has, so the comparison is with something else;"
                " paste what carbonseal postfix bcc-maps prints",
            )


def _visible(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    transports = postfix_settings.listing(settings, settings.value("transport_maps"))
    if transports.problems or transports.patterns:
        return
    routed = {name.lower() for name in transports.names}
    own = {
        domains.a_labels(name)
        for parameter in ("mydestination", "virtual_mailbox_domains")
        for name in postfix_settings.listing(settings, settings.value(parameter)).names
    }
    for mailbox in sorted(configuration.archive.all_recipients(), key=str):
        if mailbox.domain in own or {mailbox.domain, str(mailbox).lower()} & routed:
            continue
        yield Finding(
            "copy-visible",
            "transport_maps",
            f"it has no entry for {mailbox.domain}: where a recipient has the same next hop, both"
            " travel in one transaction, and that host sees the archive's address; give it a"
            " transport of its own",
        )


# --- Signed mail ----------------------------------------------------------------------------------


def _parameters(settings: Settings, configuration: Configuration) -> Iterator[Finding]:
    for value in _values(settings, "smtp_discard_ehlo_keywords", "smtp"):
        if "dsn" in value.lower().replace(",", " ").split():
            yield Finding(
                "dsn-discarded",
                "smtp_discard_ehlo_keywords",
                "it holds dsn, so NOTIFY=NEVER is not passed on, and when the archive refuses the"
                " copy its bounce goes to the author; take dsn out, at least for the archive's"
                " transport",
            )
    if not settings.is_on("enable_original_recipient"):
        yield Finding(
            "original-recipient",
            "enable_original_recipient",
            "it is no, so the log lacks orig_to= and nobody can tell which alias led a message"
            " outside; set it to yes",
        )
    if not (
        settings.is_on("disable_mime_output_conversion")
        or settings.is_on("force_mime_input_conversion")
    ):
        yield Finding(
            "seven-bit",
            "disable_mime_output_conversion",
            "it is no, so 8-bit mail is re-encoded for next hops without 8BITMIME, which breaks its"
            " signature; set it to yes, or from Postfix 3.9 force_mime_input_conversion",
        )
    if not settings.is_on("always_add_missing_headers"):
        absent = sorted(configuration.signing.oversign_absent & {"date", "message-id"})
        what = (
            f"signing.oversign_absent signs the absence of {' and '.join(absent)}, so that the"
            " next hop breaks the signature by adding it"
            if absent
            else "they are added behind the milter or not at all, and no signature covers them"
        )
        yield Finding(
            "missing-headers",
            "always_add_missing_headers",
            f"it is no: where Date, Message-ID or From are missing, {what}; set it to yes",
        )
    if not settings.is_on("smtputf8_enable") and any(
        "xn--" in entry for entry in configuration.ours.domains
    ):
        yield Finding(
            "smtputf8-off",
            "smtputf8_enable",
            "it is no, so mail that writes our international domains in Unicode is refused; set it"
            " to yes",
        )


def _rewritten_after(settings: Settings) -> Iterator[Finding]:
    for parameter in _REWRITING:
        places = [(parameter, settings.value(parameter))] if settings.value(parameter) else []
        places += [
            (one.place, one.overrides[parameter])
            for one in settings.services
            if one.overrides.get(parameter) and one.program in ("smtp", "lmtp")
        ]
        for place, _ in places:
            yield Finding(
                "rewrites-after",
                place,
                f"{parameter} changes mail while it is sent, after it was signed, so signatures"
                " over what it changes do not verify; rewrite on the way in (canonical_maps,"
                " header_checks)",
            )
    if settings.value("milter_header_checks"):
        yield Finding(
            "milter-header-checks",
            "milter_header_checks",
            "it judges the DKIM-Signature that we add, and may change or drop it; see that it lets"
            " that field pass",
        )
    filters = [("content_filter", settings.value("content_filter"))]
    filters += [
        (one.place, one.overrides.get("content_filter", "")) for one in settings.running("smtpd")
    ]
    for place, value in filters:
        if value:
            yield Finding(
                "content-filter",
                place,
                f"{value} gets mail after it was signed: what it changes breaks the signature; let"
                " it change nothing, or put the milter on the service that it hands mail back to",
            )


def _envelope(settings: Settings) -> Iterator[Finding]:
    for parameter, classes in _ENVELOPE.items():
        if settings.value(parameter) and "envelope" in settings.value(classes):
            yield Finding(
                "envelope-rewritten",
                parameter,
                "it rewrites envelope addresses after the milter has seen them, so the rule and the"
                " record go by the address before that; list both domains in ours.domains where it"
                f" changes them, or take the envelope out of {classes}",
            )


def _checks(settings: Settings) -> Iterator[Finding]:
    seen: set[str] = set()
    for parameter in _CHECKS:
        for value in _values(settings, parameter, "cleanup"):
            for word in lookup_table.words(value):
                if word in seen:
                    continue  # by default the checks of MIME headers are those of headers
                seen.add(word)
                yield from _actions(parameter, word)


def _actions(parameter: str, word: str) -> Iterator[Finding]:
    try:
        about = lookup_table.reference(word)
        is_pattern = about.type in lookup_table.PATTERN_TYPES
        text = about.name if about.is_inline else postfix_settings.text_of(about.name)
    except errors.CarbonsealError:
        return
    if not is_pattern:
        return
    lines = lookup_table.words(text) if about.is_inline else lookup_table.logical_lines(text)
    found = {match[2].upper() for line in lines if (match := _ACTION.match(line.strip("{} \t")))}
    if acting := sorted(found & _ACTING):
        yield Finding(
            "checks-act",
            parameter,
            f"it can {', '.join(acting)}: such mail goes elsewhere than its envelope says, and rule"
            " and record go by the envelope; do without, or leave out mail that is archived",
        )
    if changing := sorted(found & _CHANGING):
        yield Finding(
            "checks-rewrite",
            parameter,
            f"it can {', '.join(changing)} before the milter, so what is recorded and signed is the"
            " changed form; nothing is to be done if that is meant",
        )


# --- Our own configuration ------------------------------------------------------------------------


def failures(configuration: Configuration) -> Iterator[Finding]:
    """Answers that give up a promise; `config check` says these, too."""
    for failure, answer in configuration.failure.overrides.items():
        if answer is Answer.ACCEPT and DEFAULTS[failure] is not Answer.ACCEPT:
            yield Finding(
                "failure-accept",
                f"failure.{failure}",
                f"it is accept, so such mail passes as if nothing were wrong; {DEFAULTS[failure]}"
                " keeps the promise",
            )
