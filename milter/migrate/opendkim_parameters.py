"""The parameters of opendkim.conf(5) that have no line of code of their own: what becomes of each.

Release 2.11 as Debian ships it.  A parameter that is neither here nor read by `opendkim` is none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from carbonseal.milter.migrate.plan import Fate

# --- read by `opendkim` itself
READ: Final = frozenset(
    "canonicalization domain exemptdomains externalignorelist include internalhosts keyfile"
    " keytable macrolist mode mta omitheaders on-default on-internalerror on-signatureerror"
    " oversignheaders peerlist selector senderheaders signaturettl signheaders signingtable"
    " subdomains basedirectory"
    # dkimpy-milter's own
    " keytableed25519 keyfileed25519 selectored25519".split()
)

_VERIFYING = (
    "it is about verifying, which carbonseal does not do; keep the old milter with Mode v, or"
    " another verifier, for incoming mail"
)
_PROCESS = "it is about the process; the systemd unit and the section milter say it here"
_LOG = "one line for each message goes to the journal, with every reason; see the section log"
_LUA = "no script decides here; write signing.rules, and check them with carbonseal policy explain"
_TABLES = "it is about a database of tables; the tables are copied into signing.rules and the keys"

_SETS: Final = (
    (
        Fate.NO_EQUAL,
        _VERIFYING,
        "AllowSHA1Only AlwaysAddARHeader AuthservID AuthservIDWithJobID BogusKey"
        " DiagnosticDirectory DomainKeysCompat IgnoreMalformedMail KeepAuthResults LocalADSP"
        " MaximumSignaturesToVerify Minimum MinimumKeyBits MustBeSigned NoHeaderB On-BadSignature"
        " On-DNSError On-KeyNotFound On-NoSignature On-PolicyError On-Security Quarantine"
        " RedirectFailuresTo RemoveARAll RemoveARFrom ReportAddress ReportBccAddress"
        " SendReports SingleAuthResult TrustAnchorFile TrustSignaturesFrom UnprotectedKey"
        " UnprotectedPolicy VBR-Certifiers VBR-PurgeFields VBR-TrustedCertifiers"
        " VBR-TrustedCertifiersOnly VBR-Type CaptureUnknownErrors ClockDrift QueryCache"
        " DNSConnect DNSTimeout Nameservers ResolverConfiguration ResolverTracing TestDNSData"
        " TestPublicKeys LogResults ADSPAction ADSPNoSuchDomain DNSOverride MTACommand SMTPURI",
    ),
    (
        Fate.NOT_NEEDED,
        _PROCESS,
        "AutoRestart AutoRestartCount AutoRestartRate Background ChangeRootDirectory"
        " DisableCryptoInit EnableCoredumps KeepTemporaryFiles MilterDebug PidFile SoftStart"
        " StrictTestMode TemporaryDirectory UserID",
    ),
    (
        Fate.NOT_NEEDED,
        _LOG,
        "LogWhy Statistics StatisticsName StatisticsPolicyScript StatisticsPrefix"
        " AnonymousStatistics Syslog SyslogFacility SyslogName SyslogSuccess",
    ),
    (Fate.NO_EQUAL, _LUA, "FinalPolicyScript ScreenPolicyScript SetupPolicyScript"),
    (
        Fate.NOT_NEEDED,
        _TABLES,
        "LDAPAuthMechanism LDAPAuthName LDAPAuthRealm LDAPAuthUser LDAPBindPassword LDAPBindUser"
        " LDAPDisableCache LDAPKeepaliveIdle LDAPKeepaliveInterval LDAPKeepaliveProbes LDAPTimeout"
        " LDAPUseTLS",
    ),
)

_SINGLE: Final = {
    "BodyLengthDB": (
        Fate.NO_EQUAL,
        "no signature has l= here, because text could be added to such mail; nothing to do",
    ),
    "Diagnostics": (Fate.NO_EQUAL, "no signature has z= here; nothing to do"),
    "DontSignMailTo": (
        Fate.NO_EQUAL,
        "mail is signed here whoever it goes to; keep such mail away from the milter, or accept"
        " the signature",
    ),
    "FixCRLF": (
        Fate.DIFFERENT,
        "mail whose body holds a CR or LF alone is left unsigned here, because verifiers read it"
        " differently; see failure.transformation",
    ),
    "IdentityHeader": (Fate.NO_EQUAL, "i= is always @ and the signing domain here"),
    "IdentityHeaderRemove": (Fate.NO_EQUAL, "no header field is removed here"),
    "MacroListVerify": (
        Fate.NO_EQUAL,
        "no macro forbids a signature here: leave such a listener or client out of section ours",
    ),
    "MaximumHeaders": (
        Fate.DIFFERENT,
        "the bound is 20,000 fields or 8 MiB here; failure.header_too_large says what happens",
    ),
    "MaximumSignedBytes": (
        Fate.NO_EQUAL,
        "the whole body is signed here, without l=; nothing to do",
    ),
    "MultipleSignatures": (
        Fate.NO_EQUAL,
        "one domain signs a message here, that of the first rule that matches (with up to"
        " signing.max_signatures keys); see that the first line for an author is the right one",
    ),
    "POPDBFile": (Fate.NO_EQUAL, "POP before SMTP proves nothing here; use SASL logins"),
    "RemoveOldSignatures": (
        Fate.NO_EQUAL,
        "signatures that are there stay; remove them with header_checks of Postfix if they must go",
    ),
    "ReplaceHeaders": (Fate.NO_EQUAL, "fields are signed as the milter sees them"),
    "ReplaceRules": (
        Fate.NO_EQUAL,
        "fields are signed as the milter sees them; rewrite before the milter, or not at all",
    ),
    "RequestReports": (Fate.NO_EQUAL, "no signature has r= here; nothing to do"),
    "RequiredHeaders": (
        Fate.DIFFERENT,
        "mail is not refused for its header section; without one From it is left unsigned"
        " (failure.unusable_author)",
    ),
    "RequireSafeKeys": (
        Fate.DIFFERENT,
        "keys are copied, and a key that others can read or write is never used",
    ),
    "ResignAll": (Fate.NO_EQUAL, "a signature needs a proven origin here; nothing is re-signed"),
    "ResignMailTo": (
        Fate.NO_EQUAL,
        "a signature needs a proven origin here; let the list software submit with a login or from"
        " a listed network",
    ),
    "SelectCanonicalizationHeader": (
        Fate.NO_EQUAL,
        "no header field chooses the canonicalization here; signing.canonicalization does",
    ),
    "SenderMacro": (Fate.NO_EQUAL, "only the author (From) decides who signs"),
    "SignatureAlgorithm": (
        Fate.DIFFERENT,
        "the key decides: rsa-sha256 or ed25519-sha256; rsa-sha1 is never used (RFC 8301)",
    ),
    "Socket": (
        Fate.DIFFERENT,
        "our own socket is used, so that both can run side by side; `carbonseal postfix snippet`"
        " prints the line for Postfix",
    ),
    "SoftwareHeader": (Fate.NO_EQUAL, "no DKIM-Filter field is added here; nothing to do"),
    "StrictHeaders": (
        Fate.DIFFERENT,
        "mail is not refused for its header section; without one From it is left unsigned"
        " (failure.unusable_author)",
    ),
    "UMask": (
        Fate.DIFFERENT,
        "milter.socket_mode and milter.socket_group say who may use the socket",
    ),
    "WeakSyntaxChecks": (
        Fate.DIFFERENT,
        "mail whose From cannot be read is left unsigned (failure.unusable_author)",
    ),
}


def _all() -> Iterator[tuple[str, tuple[str, Fate, str]]]:
    for fate, sentence, names in _SETS:
        for name in names.split():
            yield name.lower(), (name, fate, sentence)
    for name, (fate, sentence) in _SINGLE.items():
        yield name.lower(), (name, fate, sentence)


# Lower-case name: the name as the manual writes it, what becomes of it, and why or what to do.
FATES: Final[Mapping[str, tuple[str, Fate, str]]] = dict(_all())
# Switches whose `no` is what happens here anyway.
SWITCHES: Final = frozenset(
    "diagnostics fixcrlf multiplesignatures removeoldsignatures requestreports requiredheaders"
    " resignall softwareheader strictheaders weaksyntaxchecks quarantine sendreports"
    " keepauthresults removearall singleauthresult identityheaderremove allowsha1only"
    " alwaysaddarheader".split()
)
