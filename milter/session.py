"""The milter protocol: one session per MTA connection, one transaction per message.  No policy.

Promises: callbacks answer as they negotiated (nothing but end of message is waited for), every
callback is guarded, and a fault in any of them ends in the failure policy's answer at end of
message, never in an untrapped exception; a fault in counting changes no answer.  State is reset by
protocol events (MAIL, abort, end of message), never by our own answers: Postfix sends ABORT after
every transaction and again at QUIT.

Does not: decide (`seal` does), or use pymilter's base class: its wrappers cost a call per header
field, and its @symlist breaks the negotiation.

Callbacks of one connection run one at a time; with libmilter on different OS threads (its pool).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, Final

import milter as libmilter

from carbonseal.milter import describe, edits, header_section, log, macros, seal
from carbonseal.milter.archive.spool import Steps, taken
from carbonseal.milter.describe import Verdict
from carbonseal.milter.edits import Deeds, Edit, InsertField
from carbonseal.milter.header_section import HeaderSection
from carbonseal.milter.status.counters import Counted
from carbonseal.milter.transaction import USUAL, Connection, TooManyRecipients, Transaction
from carbonseal.policies.disposition import Answer, Disposition, FailureClass
from carbonseal.policies.envelope import Client

_HOST_NAME = socket.gethostname()  # the kernel's answer: name servers may be down, mail may not
_ACCEPT: Final = Answer.ACCEPT
_clock: Final = time.perf_counter
_CONTINUE: int = libmilter.CONTINUE
_NOREPLY: int = libmilter.NOREPLY
_REJECT: int = libmilter.REJECT
_TEMPFAIL: int = libmilter.TEMPFAIL
_NR_FIELD: int = libmilter.P_NR_HDR
_ACTIONS = libmilter.ADDHDRS | libmilter.ADDRCPT | libmilter.ADDRCPT_PAR | libmilter.SETSYMLIST
_NEEDED = libmilter.ADDHDRS | libmilter.ADDRCPT | libmilter.ADDRCPT_PAR
_TOO_MANY = "too many recipients"  # no defect, but what the message brought with it
_MISCOUNTED: set[str] = set()  # what went wrong in counting and was said in this process
# Asked of the MTA: no reply is waited for, nothing is sent that nobody reads, and header values
# come with their leading space, without which `simple` header canonicalization cannot be right.
_PROTOCOL = (
    libmilter.P_NR_CONN
    | libmilter.P_NR_HELO
    | libmilter.P_NR_MAIL
    | libmilter.P_NR_RCPT
    | libmilter.P_NR_HDR
    | libmilter.P_NR_BODY
    | libmilter.P_NODATA
    | libmilter.P_NOUNKNOWN
    | libmilter.P_NOEOH
    | libmilter.P_HDR_LEADSPC
)


# What is counted of a verdict, see `Tally.cells` and `counters.Measures`.
_about = attrgetter(
    "decisions.crossing.crossing",
    "done.answer",
    "decisions.signing.sdid",
    "unsigned",
    "is_recorded",
)
_sdid = attrgetter("request.sdid")
_measures = attrgetter("size", "transaction.envelope_at", "transaction.body_at", "laps")

# What is answered with an acceptance, or None; what else to answer, to log and to count.
_Farewell = tuple[Any, Disposition, bytes | dict[str, object] | None, Counted | None]


class Session:
    """One connection of the MTA to us."""

    __slots__ = (
        "_fault",
        "_packed",
        "_services",
        "_tally",
        "body_canonicalization",
        "connection",
        "field_answer",
        "granted",
        "header",
        "transaction",
    )

    usual = USUAL  # how `usual_message` gathers the transactions

    def __init__(
        self,
        services: seal.Services,
        protocol: int,
        packed: Callable[[Deeds], Any] = edits.packed,
    ) -> None:
        """`packed` makes of what is done with a message what the context is to answer."""
        self._services = services
        self._tally = services.tally
        self._packed = packed
        self.body_canonicalization = services.configuration.signing.body_canonicalization
        self.granted = protocol  # the SMFIP_* the MTA agreed to
        # For the callback of header fields, see `header_section`.
        self.field_answer = _NOREPLY if protocol & _NR_FIELD else _CONTINUE
        self.header: HeaderSection | None = None  # of the transaction
        self.connection = Connection(Client("", 0, "", ""), "", "")
        self.transaction: Transaction | None = None
        self._fault: str | None = None  # what went wrong in this transaction before its end

    def connect(self, context: Any, name: str, family: int, peer: Any) -> None:
        """A client connected to the MTA (or XCLIENT made it another one)."""
        address, port = peer[:2] if isinstance(peer, tuple) else ("", 0)
        # TLS stays as it was: XCLIENT changes who the client is, and comes over the same one.
        self.connection = Connection(
            Client(address, port, name, ""),
            _macro(context, macros.LISTENER) or "",
            _macro(context, macros.RELAY) or _HOST_NAME,
            self.connection.tls,
        )
        self.transaction = self.header = None

    def hello(self, context: Any, name: str) -> None:
        """HELO or EHLO; comes again after STARTTLS."""
        client = self.connection.client
        client = Client(client.address, client.port, client.name, name)
        version = _macro(context, macros.TLS_VERSION)
        tls = {"version": version} if version else None
        if tls is not None:
            tls["cipher"] = _macro(context, macros.TLS_CIPHER) or ""
            tls["bits"] = _macro(context, macros.TLS_BITS) or ""
        self.connection = self.connection._replace(client=client, tls=tls)

    def reverse_path(self, context: Any, *arguments: bytes) -> None:
        """MAIL FROM: a new message begins, whatever went before."""
        self._fault = None
        resolved, login, login_method = _macros(context, macros.OF_MAIL)
        # By position: keywords of a class take a dict.
        transaction = Transaction(self.connection, arguments, resolved, self.body_canonicalization)
        if login:
            transaction.login = login
        if login_method:
            transaction.login_method = login_method
        self.begin(transaction)

    def begin(self, transaction: Transaction) -> None:
        """This message begins, whatever went before; its MAIL was taken."""
        self._fault = None
        self.transaction = transaction
        self.header = transaction.header

    def recipient(self, context: Any, *arguments: bytes) -> None:
        """RCPT TO that the MTA accepted."""
        transaction = self.transaction
        if transaction is not None:
            resolved, mailer, host = _macros(context, macros.OF_RECIPIENT)
            transaction.add_recipient(arguments, resolved, mailer, host)
            transaction.envelope_at = time.perf_counter()

    def body(self, _context: Any, chunk: bytes) -> None:
        """A piece of the body, at most 65,535 octets, not aligned to lines."""
        transaction = self.transaction
        if transaction is not None:
            if not transaction.body_at:
                transaction.body_at = time.perf_counter()
            transaction.body.update(chunk)

    def end_of_message(self, context: Any) -> Steps[None]:
        """Seal, and leave in `context` what is answered: SMFIS_*, or edits and acceptance."""
        transaction = self.transaction
        self.transaction = self.header = None
        try:
            refusal = None if self._fault is None else self._refusal(transaction)
            if transaction is None:
                raise RuntimeError("end of message without MAIL")
            if not transaction.queue_id:
                transaction.queue_id = _macro(context, macros.QUEUE_ID) or ""
            ended = _clock()
            accepted, disposition, said, counted = yield from seal.seal(
                transaction, self._services, time.time(), refusal, prepared=self._prepared
            )
            answered = _clock()
            if accepted is None:
                _refuse(context, disposition)
            else:
                context.answer = accepted
            log.message(said, answered - ended)
        except Exception as fault:
            self._give_up(context, transaction, fault)
            return
        try:
            if counted is not None:
                self._tally.message(counted, ended, answered)
        except Exception as fault:
            _miscounted(fault)

    def _prepared(self, verdict: Verdict) -> _Farewell:
        """What is said and counted when the record is durable; nothing was said before."""
        done = verdict.done
        accepted = self._packed(done) if done.answer is _ACCEPT else None
        said = log.prepared(describe.log_form(verdict), verdict)
        try:
            kind = _about(verdict), tuple(map(_sdid, done.signatures))
            counted = self._tally.cells[kind], _measures(verdict)
        except Exception as fault:
            _miscounted(fault)
            counted = None
        return accepted, verdict.disposition, said, counted

    def abort(self, _context: Any) -> None:
        """RSET, a refused message, or the end of any transaction."""
        self.transaction = self.header = None
        self._fault = None

    def fail(self, callback: str, fault: BaseException) -> None:
        """Remember a fault until end of message, where it can be answered."""
        if isinstance(fault, TooManyRecipients):
            self._fault = self._fault or _TOO_MANY
            return
        log.internal_error(callback, fault)
        self._fault = f"{callback} failed: {type(fault).__name__}"

    def _refusal(self, transaction: Transaction | None) -> seal.Signing:
        """Why this message cannot be sealed.  Raises: RuntimeError where that is a defect."""
        if transaction is None or self._fault != _TOO_MANY:
            raise RuntimeError(self._fault)
        return seal.too_many_recipients(transaction)

    def _give_up(self, context: Any, transaction: Transaction | None, fault: Exception) -> None:
        queue_id = transaction.queue_id if transaction is not None else ""
        log.internal_error("end_of_message", fault, queue_id=queue_id)
        configuration, tally = self._services.configuration, self._tally
        if self._services.is_dry_run:
            _counted(tally.failed, Answer.ACCEPT)
            context.finish(_CONTINUE)
            return
        disposition = configuration.failure.dispose(FailureClass.INTERNAL_ERROR)
        _counted(tally.failed, disposition.answer)
        _refuse(context, disposition)


def _counted(count: Callable[..., None], *facts: Any) -> None:
    """Count, if that can be done; what is answered does not hang on it."""
    try:
        count(*facts)
    except Exception as fault:
        _miscounted(fault)


def _miscounted(fault: Exception) -> None:
    kind = type(fault).__name__
    if kind not in _MISCOUNTED:  # else each message would say the same
        _MISCOUNTED.add(kind)
        log.internal_error("count", fault)


def _macro(context: Any, name: str) -> str | None:
    """The macro's value, None when the MTA gave none.

    pymilter decodes strictly; octets that are no UTF-8 make the value unusable, and without it the
    raw argument decides, in the safe direction.
    """
    try:
        value: str | None = context.getsymval(name)
    except UnicodeDecodeError:
        return None
    return value


def _macros(context: Any, names: tuple[str, ...]) -> list[str | None]:
    """The values of several."""
    try:
        return [*map(context.getsymval, names)]
    except UnicodeDecodeError:
        return [_macro(context, name) for name in names]


def _refuse(context: Any, disposition: Disposition) -> None:
    if disposition.answer is Answer.ACCEPT:
        context.finish(_CONTINUE)
        return
    context.setreply(disposition.code, disposition.enhanced, disposition.text)
    context.finish(_REJECT if disposition.answer is Answer.REJECT else _TEMPFAIL)


class Libmilter:
    """pymilter's context at the end of a message."""

    __slots__ = ("_answer", "_context", "getsymval", "setreply")

    def __init__(self, context: Any) -> None:
        self._context = context
        self._answer = _CONTINUE
        self.getsymval = context.getsymval
        self.setreply = context.setreply

    @property
    def answer(self) -> int:
        """SMFIS_*."""
        return self._answer

    @answer.setter
    def answer(self, prepared: tuple[Edit, ...]) -> None:
        # At once, so that a fault in it ends in the failure policy.
        for edit in prepared:
            if isinstance(edit, InsertField):
                self._context.addheader(*edit, 0)
            else:
                address, parameters = edit
                self._context.addrcpt(f"<{address}>", parameters)
        self._answer = _CONTINUE

    def finish(self, code: int) -> None:
        """At the end of a message that is not changed: SMFIS_*."""
        self._answer = code


class Sessions:
    """All sessions of this process: libmilter's callbacks."""

    def __init__(self, services: seal.Services) -> None:
        self._services = services
        self._is_dry_run = services.is_dry_run
        self._packed: Callable[[Deeds], Any] = edits.packed
        # What is not asked for in the negotiation cannot be done by mistake either.
        self._actions = libmilter.SETSYMLIST if self._is_dry_run else _ACTIONS

    def register(self, name: str, put: Callable[[bytes], None]) -> None:
        """Install every callback in libmilter; `put` makes a record durable (`Spool.put`)."""
        self._packed = edits.asked
        libmilter.set_flags(self._actions)
        libmilter.set_connect_callback(
            self._guarded("connect", Session.connect, libmilter.P_NR_CONN)
        )
        libmilter.set_helo_callback(self._guarded("hello", Session.hello, libmilter.P_NR_HELO))
        libmilter.set_envfrom_callback(
            self._guarded("reverse_path", Session.reverse_path, libmilter.P_NR_MAIL)
        )
        libmilter.set_envrcpt_callback(
            self._guarded("recipient", Session.recipient, libmilter.P_NR_RCPT)
        )
        libmilter.set_header_callback(header_section.field)
        libmilter.set_body_callback(self._guarded("body", Session.body, libmilter.P_NR_BODY))
        libmilter.set_eom_callback(partial(_ended, put))
        libmilter.set_abort_callback(self._guarded("abort", Session.abort, 0))
        libmilter.set_close_callback(self.close)
        libmilter.register(name, negotiate=self.negotiate)
        # Reached only when a callback cannot even be called (an argument that is no UTF-8).
        libmilter.set_exception_policy(_CONTINUE if self._is_dry_run else _TEMPFAIL)

    def _guarded(
        self, name: str, callback: Callable[..., None], no_reply: int
    ) -> Callable[..., int]:
        def guarded(context: Any, *arguments: Any) -> int:
            session: Session = context.getpriv()
            try:
                callback(session, context, *arguments)
            except Exception as fault:
                session.fail(name, fault)
            return _NOREPLY if session.granted & no_reply else _CONTINUE

        return guarded

    def negotiate(self, context: Any, options: list[int]) -> int:
        """A connection begins: keep its session, and say in `options` what is asked of the MTA."""
        actions, protocol = options[0], options[1]
        granted = protocol & _PROTOCOL
        session = Session(self._services, granted, self._packed)
        context.setpriv(session)
        _counted(self._services.tally.opened)
        options[0] = actions & self._actions
        options[1] = granted
        options[2] = options[3] = 0
        if actions & _NEEDED != _NEEDED or not granted & libmilter.P_HDR_LEADSPC:
            log.unfit_mta(actions, protocol)
            if not self._is_dry_run:
                return _REJECT
        if actions & libmilter.SETSYMLIST:
            for stage, names in macros.WANTED.items():
                context.setsymlist(stage, names)
        return _CONTINUE

    def establish(self) -> None:
        """Verify what signatures were left to be verified, while there is time."""
        proofs = self._services.proofs
        if proofs is not None:
            proofs.establish()

    def close(self, context: Any) -> int:
        """A connection ends."""
        if context.getpriv() is not None:  # else it ended before it was negotiated
            _counted(self._services.tally.closed)
        context.setpriv(None)
        return _CONTINUE


def _ended(put: Callable[[bytes], None], context: Any) -> int:
    said = Libmilter(context)
    taken(context.getpriv().end_of_message(said), put)
    return said.answer
