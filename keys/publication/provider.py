"""Publish through the HTTP interface of a DNS provider, by dns-lexicon (the extra `providers`).

Promises: nothing is written before the provider has listed what stands at the exact name; a record
is added only where it lists no TXT and no CNAME, and taken away only if its whole text is the
expected one and no other TXT stands beside it.  What a provider answers to a change is not trusted
(some say yes to what they did not do): it is asked for its list again, and only the authoritative
name servers count in the end.  Such interfaces know no compare-and-swap, so somebody who changes
the same name in the same second is not noticed until then.  Each call ends within `timeout`.

Raises: `errors.ConfigurationError` when the extra is missing, the provider unknown or its
credentials unusable; no option's value appears in an error.

Does not: import dns-lexicon, or what it brings, before it is used; ask DNS for the name itself.
"""

from __future__ import annotations

import functools
import logging
import queue
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import dns.exception
import dns.name
import dns.nameserver
import dns.resolver
import yaml

from carbonseal.keys.publication import outcome, secret_file, update
from carbonseal.keys.publication.outcome import Outcome
from carbonseal.keys.publication.settings import ServerAddress
from carbonseal.policies import errors

TIMEOUT: Final = 60.0  # seconds for one call; some providers take many requests for it
_OPTION = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
# Lexicon guesses the zone from a list of public suffixes that it fetches from the Internet, but not
# for an address.  The zone is ours to say, so it gets an address first and the zone afterwards.
_NO_GUESS: Final = "[::1]"
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class ProviderPublisher:
    """Publishes through one provider of dns-lexicon."""

    provider: str  # its name in dns-lexicon
    options: Mapping[str, str | int | bool] = field(repr=False)
    zone: str | None = None  # None: asked of the resolvers, without naming the selector
    resolvers: tuple[ServerAddress, ...] = ()  # empty: the system's
    timeout: float = TIMEOUT

    @property
    def is_manual(self) -> bool:
        """The provider does it."""
        return False

    def explain(self) -> str:
        """How, in one phrase."""
        return f"by the provider {self.provider}"

    def add(self, name: str, text: str, ttl: int) -> Outcome:
        """Add a TXT record where nothing stands."""

        def act(session: _Session) -> Outcome:
            if session.texts(name) or session.aliases(name):
                return outcome.conflict(
                    f"{self.provider} lists a record at {name} already, so nothing was added; look"
                    " there and take away what is not wanted."
                )
            return session.create(name, text)

        return self._within(name, ttl, act)

    def change(self, name: str, old_text: str, new_text: str, ttl: int) -> Outcome:
        """Put another text in the place of the expected one; for a moment there is none."""

        def act(session: _Session) -> Outcome:
            return session.delete(name, old_text) or session.create(name, new_text)

        return self._within(name, ttl, act)

    def delete(self, name: str, old_text: str) -> Outcome:
        """Take the expected record away, and only that."""

        def act(session: _Session) -> Outcome:
            gone = outcome.sent(f"{self.provider} took away the TXT record at {name}.")
            return session.delete(name, old_text) or gone

        return self._within(name, 0, act)

    # --- inside

    def _within(self, name: str, ttl: int, act: Callable[[_Session], Outcome]) -> Outcome:
        """Carry out `act` in a session; whatever lexicon or a provider's code raises ends here."""
        update.absolute(name)
        try:
            zone = self.zone or _zone_of(name, self.resolvers, min(self.timeout, 15.0))
        except (dns.exception.DNSException, OSError) as error:
            return outcome.unreachable(
                f"the zone of {name} cannot be found ({type(error).__name__}), so nothing was"
                " changed; set `zone` in the rule of dns.publish."
            )
        if name != zone and not name.endswith(f".{zone}"):
            return outcome.refused(
                f"{name} is not in the zone {zone}; correct `zone` in the rule of dns.publish."
            )
        caller = _Caller(self.timeout)
        try:
            # In the thread that will use it: lexicon keeps its session there.
            client = caller.call(lambda: _client(self.provider, self.options, zone, ttl))
            operations = caller.call(client.__enter__)
            done = act(_Session(self.provider, zone, operations, caller))
            caller.call(functools.partial(client.__exit__, None, None, None))
        except errors.CarbonsealError:
            raise
        except Exception as error:  # third parties' code: any class may come
            return _failed(self.provider, name, error)
        finally:
            caller.close()
        return done


@dataclass(frozen=True, slots=True)
class _Session:
    """One provider, logged in."""

    provider: str
    zone: str
    operations: Any  # lexicon's
    caller: _Caller

    def texts(self, name: str) -> list[dict[str, Any]]:
        """The TXT records at exactly this name."""
        return self._records("TXT", name)

    def aliases(self, name: str) -> list[dict[str, Any]]:
        """The CNAMEs at exactly this name."""
        return self._records("CNAME", name)

    def create(self, name: str, text: str) -> Outcome:
        """Add a record and see it listed."""
        self.caller.call(lambda: self.operations.create_record("TXT", name, text))
        listed = [_text(one) for one in self.texts(name)]
        if listed == [text]:
            return outcome.sent(f"{self.provider} took the TXT record at {name}.")
        return outcome.unreachable(
            f"{self.provider} was given the TXT record at {name} but lists"
            f" {'none' if not listed else 'something else'} there; look at its own pages, then run"
            " this again."
        )

    def delete(self, name: str, old_text: str) -> Outcome | None:
        """Take away the one record with this text; an outcome if that is not so."""
        if not _is_only(self.texts(name), old_text):
            return outcome.conflict(
                f"{self.provider} does not list exactly the expected TXT record at {name}, so"
                " nothing was changed; look there."
            )
        # Some providers make identifiers that they cannot read themselves (PowerDNS's ends at the
        # first slash of a key) and say yes without doing anything: then by its content.
        for by_identifier in (True, False):
            found = self.texts(name)
            if _is_only(found, old_text):
                self.caller.call(functools.partial(self._delete, name, found[0], by_identifier))
        if self.texts(name):
            return outcome.refused(
                f"{self.provider} still lists the TXT record at {name} after it was told to take it"
                " away; do that by hand there."
            )
        return None

    def _delete(self, name: str, record: dict[str, Any], by_identifier: bool) -> None:
        if by_identifier:
            self.operations.delete_record(record["id"], "TXT", name, record["content"])
        else:
            self.operations.delete_record(None, "TXT", name, record["content"])

    def _records(self, kind: str, name: str) -> list[dict[str, Any]]:
        """What is listed, filtered again here: a provider's filter may take parts of names."""
        spellings = {name.lower(), name.lower().removesuffix(self.zone).rstrip(".")}
        listed = self.caller.call(lambda: self.operations.list_records(kind, name))
        return [
            record
            for record in listed
            if record["type"] == kind and record["name"].rstrip(".").lower() in spellings
        ]


class _Caller:
    """Runs calls one after the other in a thread that can be given up.

    Providers' code sets no time limits.  A call that is given up may still be carried out, but
    nothing is begun after it.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True, name="dns-provider").start()

    def call(self, function: Callable[[], _Result]) -> _Result:
        """The function's result or exception; TimeoutError when it takes too long."""
        ended: queue.SimpleQueue[tuple[_Result | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                ended.put((function(), None))
            except BaseException as error:  # handed to the caller
                ended.put((None, error))

        self._calls.put(run)
        try:
            result, error = ended.get(timeout=self._timeout)
        except queue.Empty:
            raise TimeoutError from None
        if error is not None:
            raise error
        return result  # type: ignore[return-value]

    def close(self) -> None:
        """Let the thread end after what it does now."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def read_credentials(path: Path) -> Mapping[str, str | int | bool]:
    """The options of a provider: a YAML mapping of names to plain values."""
    try:
        options = yaml.safe_load(secret_file.read(path).decode())
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark is not None else f"{path}"
        # The error's own text quotes the line, and with it perhaps a token.
        raise errors.ConfigurationError(
            f"{where}: it is no YAML; write lines such as `auth_token: ...`."
        ) from None
    if not isinstance(options, dict) or not options:
        raise errors.ConfigurationError(
            f"{path}: it holds no options; write lines such as `auth_token: ...`."
        )
    for key, value in options.items():
        if not isinstance(key, str) or not _OPTION.match(key):
            raise errors.ConfigurationError(
                f"{path}: an option's name is not plain; write it as dns-lexicon's manual does,"
                " with underscores, such as auth_token."
            )
        if not isinstance(value, str | int | bool):
            raise errors.ConfigurationError(f"{path}: {key} is no plain value; write a text.")
    return options


def _client(provider: str, options: Mapping[str, str | int | bool], zone: str, ttl: int) -> Any:
    """Lexicon's client for a zone, not yet logged in."""
    try:
        from lexicon.client import Client  # noqa: PLC0415  an extra: imported when it is used
        from lexicon.config import ConfigResolver, DictConfigSource  # noqa: PLC0415
        from lexicon.exceptions import ProviderNotAvailableError  # noqa: PLC0415
    except ImportError:
        raise errors.ConfigurationError(
            "`method: provider` needs dns-lexicon; install it with: pip install"
            " 'carbonseal[providers]'."
        ) from None
    # At DEBUG it logs requests and answers whole.
    logging.getLogger("lexicon").setLevel(logging.INFO)
    settings: dict[str, Any] = {
        "provider_name": provider,
        "domain": _NO_GUESS,
        provider: dict(options),
    }
    if ttl:
        settings["ttl"] = ttl
    try:
        client = Client(ConfigResolver().with_dict(settings))  # type: ignore[no-untyped-call]
    except ProviderNotAvailableError:
        raise errors.ConfigurationError(
            f"dns-lexicon has no provider {provider!r}, or lacks what it needs; see `lexicon"
            f" --help` for the names, or install dns-lexicon[{provider}]."
        ) from None
    client.config.add_config_source(DictConfigSource({"domain": zone}), 0)
    return client


def _zone_of(name: str, resolvers: tuple[ServerAddress, ...], timeout: float) -> str:
    """The zone by asking resolvers, for what is above the selector.

    Never for the selector's own name: a cache would keep that it is not there.
    """
    _, key, above = name.partition("._domainkey.")
    start = above if key else name.partition(".")[2]
    resolver = dns.resolver.Resolver(configure=not resolvers)
    if resolvers:
        resolver.nameservers = [
            dns.nameserver.Do53Nameserver(one.host, one.port) for one in resolvers
        ]
    found = dns.resolver.zone_for_name(start, resolver=resolver, lifetime=timeout)
    return found.to_text(omit_final_dot=True).lower()


def _is_only(records: list[dict[str, Any]], text: str) -> bool:
    return [_text(record) for record in records] == [text]


def _text(record: dict[str, Any]) -> str:
    """The bare value: providers list it bare, quoted, in quoted strings, or half unquoted.

    No DKIM value holds quotation marks or backslashes, so nothing else can become equal to one.
    """
    content = re.sub(r'"\s+"', "", str(record["content"]).strip()).strip('"')
    return content.replace("\\;", ";")


def _failed(provider: str, name: str, error: Exception) -> Outcome:
    """An error of lexicon, of requests or of a provider's code; its text may hold a token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int) and 400 <= status < 500:
        return outcome.refused(
            f"{provider} answered {status} about {name}; see that the credentials are right, may"
            " change this zone, and that the zone is there."
        )
    if isinstance(error, TimeoutError):
        what = "did not answer in time"
    elif status is not None:
        what = f"answered {status}"
    elif type(error).__name__ == "AuthenticationError":
        return outcome.refused(
            f"{provider} did not let us in; correct the credentials, and see that it has the zone"
            f" of {name}."
        )
    else:
        what = f"failed ({type(error).__name__})"
    return outcome.unreachable(
        f"{provider} {what}; whether {name} was changed is not known: run this again, which looks"
        " first."
    )
