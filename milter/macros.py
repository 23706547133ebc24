"""Milter macros: each name spelled once, with its meaning and when Postfix knows it.

Source: MILTER_README of Postfix; the remarks were measured on Postfix 3.7.
Does not: fetch anything (`session` does).
"""

from __future__ import annotations

from collections.abc import Mapping

QUEUE_ID = "i"  # not yet known at MAIL and at the first RCPT; certain at end of message
RELAY = "j"  # $myhostname
LISTENER = "{daemon_name}"  # $milter_macro_daemon_name, settable per smtpd service
LOGIN = "{auth_authen}"  # SASL login name
LOGIN_METHOD = "{auth_type}"  # SASL mechanism
REVERSE_PATH = "{mail_addr}"  # resolved, lower-cased; empty for the null reverse-path
RECIPIENT = "{rcpt_addr}"  # resolved, lower-cased, before alias expansion
RECIPIENT_MAILER = "{rcpt_mailer}"  # transport; `error` for an address only an alias delivers
RECIPIENT_HOST = "{rcpt_host}"  # next hop
TLS_VERSION = "{tls_version}"
TLS_CIPHER = "{cipher}"
TLS_BITS = "{cipher_bits}"

# What one event asks for, in one go.
OF_MAIL = (REVERSE_PATH, LOGIN, LOGIN_METHOD)
OF_RECIPIENT = (RECIPIENT, RECIPIENT_MAILER, RECIPIENT_HOST)

# What we ask the MTA for at each stage, so that a trimmed milter_*_macros in main.cf cannot blind
# us.  The stage numbers are those of smfi_setsymlist (mfapi.h).
STAGE_CONNECT, STAGE_HELO, STAGE_MAIL, STAGE_RCPT = 0, 1, 2, 3
WANTED: Mapping[int, str] = {
    STAGE_CONNECT: f"{RELAY} {LISTENER}",
    STAGE_HELO: f"{TLS_VERSION} {TLS_CIPHER} {TLS_BITS}",
    STAGE_MAIL: f"{QUEUE_ID} {LOGIN} {LOGIN_METHOD} {REVERSE_PATH}",
    STAGE_RCPT: f"{QUEUE_ID} {RECIPIENT} {RECIPIENT_MAILER} {RECIPIENT_HOST}",
}
