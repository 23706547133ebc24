"""Errors an operator can act on: one sentence with the place and the remedy, and an exit code.

Promises: every error that Carbonseal raises on purpose derives from `CarbonsealError`; its text is
one sentence for a person (where, what is wrong, what to do), and its class owns the exit code.  The
codes are those of sysexits(3), the mail field's own numbers, written out because this room may not
import `os`.

Does not: print, log or exit; `milter.cli.main` alone turns an error into an exit status.
"""

from __future__ import annotations


class CarbonsealError(Exception):
    """Root of all errors with a sentence for the operator."""

    exit_code = 70  # EX_SOFTWARE

    @property
    def sentence(self) -> str:
        """The message, for standard error or a log line."""
        return str(self)


class UsageError(CarbonsealError):
    """The command line asks for something that does not exist or contradicts itself."""

    exit_code = 64  # EX_USAGE


class DataError(CarbonsealError):
    """Input data (an address, a key file, a query, a message file) cannot be used."""

    exit_code = 65  # EX_DATAERR


class NotFound(CarbonsealError):
    """What was asked for by name is not there (a record, a key)."""

    exit_code = 65  # EX_DATAERR


class TryLater(CarbonsealError):
    """A resource is unavailable for now; the same command may work later."""

    exit_code = 75  # EX_TEMPFAIL


class ConfigurationError(CarbonsealError):
    """The configuration file is unreadable or wrong."""

    exit_code = 78  # EX_CONFIG
