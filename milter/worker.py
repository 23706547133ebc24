"""One worker process: serves the shared socket until the supervisor says drain.

Promises: says ready when it accepts connections; on drain it takes no new connection, finishes the
sessions it has (up to the configured time) and closes its spool segment.  When the supervisor dies
it drains as well and lets go of the socket, so that a successor can bind it.  TERM to the worker
alone is a drain, too; the supervisor hears of it at once and starts another.

The main thread looks after the keys while other threads carry the mail, ours (`reception`,
`rounds`) or, with `milter.protocol: libmilter`, those of the library: a change is taken up within
`LOOK_EVERY`, and what may be signed with is acknowledged before it is (`acknowledgement`).  It
shows that the worker lives, and says once when its mail is held up, by the disk or by a defect, and
where in the code.  It ends nothing for that: with a new worker a disk is no quicker.

Does not: handle signals (the supervisor speaks through a socket pair: libmilter's own thread takes
HUP, TERM and INT, and Python handlers do not run while it does; it ends the process at TERM, and
sessions with it), or open the database.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import milter as libmilter

from carbonseal.keys.keyring import EMPTY, LOOK_EVERY, Keyring, Watch
from carbonseal.keys.proofs import Proofs
from carbonseal.keys.relays.acknowledgement import Acknowledgement
from carbonseal.milter import log, readable
from carbonseal.milter.archive.spool import Spool
from carbonseal.milter.config import Configuration
from carbonseal.milter.copies.outages import Outages
from carbonseal.milter.reception import Reception
from carbonseal.milter.rounds import Rounds
from carbonseal.milter.seal import NoOutages, Services
from carbonseal.milter.session import Sessions
from carbonseal.milter.status import board as boards
from carbonseal.milter.status.board import Board

READY = b"R"
DRAIN = b"D"
LEAVING = b"L"
UNSUPPORTED = 69  # EX_UNAVAILABLE: this libmilter does not take fd:N
_TEND_EVERY = 1.0  # seconds between the spool's housekeeping
_M_ARENA_MAX = -8  # glibc's number, malloc.h


def run(
    configuration: Configuration,
    listener: socket.socket,
    control: socket.socket,
    *,
    known: Keyring = EMPTY,
    board: Board | None = None,
    place: int | None = None,
) -> int:
    """Serve until told to drain; returns the exit status of the process.

    `known` are keys that were read before the fork; a thousand of them take seconds to read.
    `place` is where on the board this worker counts and says that it lives; None: nowhere.
    """
    board = board or boards.Board(0)
    _keep_one_heap()
    # What was loaded by now stays: looking through it took a message to 5,000 recipients a sixth of
    # its time, and would write to memory that all workers share.
    gc.freeze()
    record = configuration.file.record
    spool = Spool(record.spool, limit_bytes=record.spool_limit, has_room=True)
    # Before any key is read: from here on nobody can take this worker's silence for a proof.
    acknowledgement = Acknowledgement(record.spool, record.relay or socket.gethostname())
    watch = Watch(
        configuration.keys_directory, time.monotonic, acknowledgement.before_use, known=known
    )
    outages = Outages(record.spool, retry=configuration.file.archive.retry)
    has_alternate = bool(configuration.archive.alternates)
    is_own = configuration.file.milter.protocol == "own"
    services = Services(
        configuration=configuration,
        keyring=watch.current,
        key_complaint=lambda: watch.complaint,
        relay=record.relay,
        archive_addresses=configuration.archive.all_recipients(),
        tally=board.tally(place),
        outages=outages if has_alternate else NoOutages(),
        proofs=Proofs() if is_own else None,
    )
    if has_alternate:
        outages.look()
    sessions = Sessions(services)
    serving = (_Own if is_own else _Libmilter)(listener, sessions, spool, board, place)
    chores = _Chores(watch, acknowledgement, _Pulse(board, place, serving).beat)
    try:
        serving.start()
    except libmilter.error:
        return UNSUPPORTED
    tended = (spool.tend, outages.look) if has_alternate else (spool.tend,)
    threading.Thread(target=_tend, args=(tended,), name="spool", daemon=True).start()
    control.send(READY)
    is_orphaned = _wait_for_drain(control, chores)
    serving.stop(is_orphaned=is_orphaned)
    _finish_connections(serving.connections, chores, configuration.file.milter.drain)
    spool.close()
    return 0


def _keep_one_heap() -> None:
    """Let libmilter's threads allocate from one heap (mallopt(3)).

    glibc gives each thread a heap of its own, and each keeps what its largest message took: after
    messages to 5,000 recipients a worker held up to 88 MB, with one heap up to 66.  It costs
    no rate: nearly every allocation happens under the interpreter's lock anyway.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # only glibc divides its heap
        mallopt(_M_ARENA_MAX, 1)


class _Own:
    """Takes connections and serves them without libmilter."""

    def __init__(
        self,
        listener: socket.socket,
        sessions: Sessions,
        spool: Spool,
        board: Board,
        place: int | None,
    ) -> None:
        self._listener = listener
        rounds = Rounds(sessions, spool, sessions.establish)
        self.held_up, self.place = rounds.held_up, rounds.place
        self._reception = Reception(listener, rounds, board, place)

    def start(self) -> None:
        """Take connections from now on."""
        self._reception.start()

    def stop(self, *, is_orphaned: bool) -> None:
        """Stop taking connections while the open ones go on."""
        self._reception.stop()
        if is_orphaned:
            # Nobody listens any more: give the address back at once.
            try:
                self._listener.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        self._listener.close()

    def connections(self) -> int:
        """How many are open."""
        return self._reception.connections


class _Libmilter:
    """Lets libmilter do both."""

    def __init__(
        self,
        listener: socket.socket,
        sessions: Sessions,
        spool: Spool,
        _board: Board,
        _place: int | None,
    ) -> None:
        self._spool = spool
        self._served = listener.fileno()
        self._address = listener.getsockname()
        self._sessions = sessions
        self._spare = -1

    def start(self) -> None:
        """Take connections from now on.  Raises: libmilter.error where it takes no fd:N."""
        self._sessions.register("carbonseal", self._spool.put)
        # pymilter cannot hand over a HELO argument that is no UTF-8: it prints the fault and goes
        # on, and the argument stays unknown.  Any client can cause that, so it is a line and no
        # traceback.
        sys.excepthook = lambda kind, fault, _: log.warning(
            "callback-argument-unreadable", fault=kind.__name__, text=str(fault)
        )
        self._spare = os.dup(self._served)
        # Debian's libmilter takes an open socket by number; upstream's does not.
        libmilter.setconn(f"fd:{self._served}")
        libmilter.opensocket(False)
        threading.Thread(target=_serve, name="libmilter", daemon=True).start()

    def stop(self, *, is_orphaned: bool) -> None:
        """Stop taking connections while the open ones go on."""
        _let_go(self._served, self._spare, is_orphaned=is_orphaned)

    def held_up(self) -> float:
        """Unknown: the library has a thread for each connection, and they wait each for itself."""
        return 0.0

    def place(self) -> str:
        """See `held_up`."""
        return ""

    def connections(self) -> int:
        """How many are open."""
        return _connections(self._address)


def _serve() -> None:
    try:
        libmilter.main()
    except libmilter.error as fault:
        log.error("libmilter-stopped", fault=str(fault))
    # Reached when libmilter gives up or takes a signal itself: the process would look alive to the
    # supervisor without serving anybody.
    os._exit(70)


def _tend(chores: Iterable[Callable[[], None]]) -> None:
    # A thread of its own: it waits as long as the disk takes to write a record, keys must not.
    watched = [(do, log.Recurring("tend")) for do in chores]
    while True:
        for do, faults in watched:
            try:
                do()
            except Exception as fault:  # an edge: without this thread no segment is ever closed
                faults.failed(fault)
            else:
                faults.succeeded()
        time.sleep(_TEND_EVERY)


class _Serving(Protocol):
    """What carries the mail."""

    def held_up(self) -> float:
        """Seconds for which nothing went on."""

    def place(self) -> str:
        """Where in the code it is."""


class _Pulse:
    """Shows on the board how the worker is, and says when its mail is held up for long."""

    def __init__(self, board: Board, place: int | None, serving: _Serving) -> None:
        self._board = board
        self._place = place
        self._serving = serving
        self._longest = 0.0  # seconds of what was said

    def beat(self) -> None:
        """To be called every `LOOK_EVERY` seconds."""
        seconds = self._serving.held_up()
        self._board.beat(self._place, is_held_up=seconds > 0)
        if seconds > boards.SILENT_AFTER:
            if not self._longest:
                place = self._serving.place()
                self._say(lambda: log.warning("mail-held-up", seconds=round(seconds), place=place))
            self._longest = seconds
        elif self._longest:
            after, self._longest = f"{self._longest:.0f} s", 0.0
            self._say(lambda: log.event("mail-goes-on", after=after))

    def _say(self, say: Callable[[], None]) -> None:
        # Where the log is on the disk that hangs, the main thread must not hang with it.
        with contextlib.suppress(RuntimeError):  # no thread to be had: no reason to end
            threading.Thread(target=say, name="say", daemon=True).start()


class _Chores:
    """What the main thread does beside the mail: about keys, and to show that it lives."""

    def __init__(
        self, watch: Watch, acknowledgement: Acknowledgement, beat: Callable[[], None]
    ) -> None:
        self._watch = watch
        self._acknowledgement = acknowledgement
        self._beat = beat
        self._said: dict[str, str | None] = {}

    def do(self) -> None:
        """One round; to be called every `LOOK_EVERY` seconds."""
        watch, acknowledgement = self._watch, self._acknowledgement
        self._beat()
        watch.look()
        acknowledgement.tend(watch.complaint)
        if self._is_new("use", watch.complaint):
            log.error("keys-unusable", problem=watch.complaint)
        if self._is_new("acknowledgement", acknowledgement.problem):
            log.warning("keys-not-acknowledged", problem=acknowledgement.problem)

    def _is_new(self, about: str, problem: str | None) -> bool:
        known, self._said[about] = self._said.get(about), problem
        return problem is not None and problem != known


def _wait_for_drain(control: socket.socket, chores: _Chores) -> bool:
    """Do the chores until DRAIN or TERM (False), or the supervisor's death (True)."""
    while True:
        if readable.wait(control, LOOK_EVERY):
            return control.recv(1) != DRAIN
        # Blocked since the supervisor began, in every thread, so it waits to be seen.
        if signal.SIGTERM in signal.sigpending():
            _say_farewell(control)
            return False
        chores.do()


def _say_farewell(control: socket.socket) -> None:
    """Have the supervisor start another one now: open sessions may take all of milter.drain."""
    try:
        control.send(LEAVING)
        # It waits for signals, and would find the word seconds later.  Nobody else minds this one,
        # if the supervisor has died just now.
        os.kill(os.getppid(), signal.SIGCHLD)
    except OSError:
        pass  # it is gone, or finds the word by itself


def _let_go(served: int, spare: int, *, is_orphaned: bool) -> None:
    """Stop accepting while the open sessions go on.

    libmilter cannot be told to stop accepting only, so the descriptor it polls is replaced by one
    on which nothing ever arrives.
    """
    silent, _write_end = os.pipe()  # both stay open: a pipe without writer would be readable
    os.dup2(silent, served)
    if is_orphaned:
        # Nobody listens any more: give the address back even while a poll(2) still holds it.
        with socket.socket(fileno=spare) as orphan:
            try:
                orphan.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
    else:
        os.close(spare)


def _finish_connections(connections: Callable[[], int], chores: _Chores, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    look_at = 0.0
    while (count := connections()) and (now := time.monotonic()) < deadline:
        if now >= look_at:
            look_at = now + LOOK_EVERY
            chores.do()
        time.sleep(0.02)
    if count:
        log.warning("sessions-cut", count=count, remedy="raise milter.drain")


def _connections(address: object) -> int:
    """How many connections libmilter holds: descriptors with our listener's address.

    Counted here and not by callbacks, because a connection exists before its first callback: an MTA
    that has just connected must not be cut off.
    """
    return sum(_is_connection(int(number), address) for number in os.listdir("/proc/self/fd"))


def _is_connection(descriptor: int, address: object) -> bool:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False
        with socket.socket(fileno=os.dup(descriptor)) as one:
            listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            return not listens and _is_same_place(one.getsockname(), address)
    except OSError:
        return False  # closed just now


def _is_same_place(one: Any, other: Any) -> bool:
    """Compares paths of UNIX sockets, and ports: a listener may be bound to every address."""
    return bool(one[1] == other[1] if isinstance(other, tuple) and one else one == other)
