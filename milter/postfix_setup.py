"""What belongs into Postfix's configuration so that it uses this milter.

Promises: text to paste, made from our own configuration, with the reason for every line.
Does not: read or change Postfix's files.
"""

from __future__ import annotations

from carbonseal.milter import socket_address
from carbonseal.milter.config import Configuration


def snippet(configuration: Configuration) -> str:
    """Lines for main.cf and master.cf."""
    address = socket_address.parse(configuration.file.milter.socket)
    milter = address.postfix_form
    is_dry_run = configuration.file.milter.dry_run
    entry = f"OLD_SIGNER, {{ {milter}, default_action=accept }}" if is_dry_run else milter
    beside = (
        "# DRY RUN (milter.dry_run): beside the old signer, whose entry comes first, so that the\n"
        "# record has its signature; put the address that stands there now for OLD_SIGNER.\n"
        if is_dry_run
        else ""
    )
    listeners = ", ".join(sorted(configuration.ours.listeners)) or "none"
    chroot = (
        f"# Debian runs smtpd in a chroot: there {milter} means\n"
        f"# $queue_directory{address.path}; put the socket there, or set chroot to n for\n"
        f"# smtpd and cleanup in master.cf.\n"
        if address.path
        else ""
    )
    return f"""\
# --- main.cf ---
{chroot}{beside}smtpd_milters = {entry}
# Mail of sendmail(1) on the relay: without this line it is neither signed, copied nor recorded.
non_smtpd_milters = $smtpd_milters
milter_protocol = 6
# No record, no acceptance: when the milter cannot be asked, the client has to come again.
milter_default_action = tempfail
# Missing Date, Message-ID and From are added before the milter, so that signatures cover them.
always_add_missing_headers = yes
# Queue ids that never repeat.
enable_long_queue_ids = yes

# --- master.cf: name the services whose clients may speak for us ---
# Listeners that prove local origin (ours.listeners): {listeners}
submission inet n - y - - smtpd
  -o milter_macro_daemon_name=submission
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
# A content filter hands mail back here: it was sealed on its way in, or is sealed only here.
127.0.0.1:10025 inet n - n - - smtpd
  -o receive_override_options=no_milters,no_address_mappings
  -o milter_macro_daemon_name=reinjection
"""
