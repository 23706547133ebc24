"""The supervisor: binds the socket, keeps its children alive, reloads and stops.

Its children are the workers, the status process, and the writer where that is no service of its
own.

Promises: a dead child is restarted, at once when it had served and with growing delay when it had
not; HUP puts a new configuration to work without a gap, or keeps the old one with a sentence when
the new one is bad; TERM and INT let open sessions finish.  Segments that a dead worker left open
are closed before its successor starts.

Raises: ConfigurationError at start.  Later nothing: it logs and goes on.

Does not: load libmilter (it would take the signals), seal mail, or touch the database.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from carbonseal.keys import body_hash, keyring
from carbonseal.milter import config, log, service_manager, socket_address
from carbonseal.milter.archive import segments
from carbonseal.milter.config import Configuration
from carbonseal.milter.listener import Listener
from carbonseal.milter.status.board import Board
from carbonseal.policies.errors import CarbonsealError, ConfigurationError

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
_SERVED = 5.0  # seconds after which a child counts as having served
_MAX_DELAY = 10.0
_START_PATIENCE = 15.0
_DRAIN_MARGIN = 5.0  # beyond milter.drain
_WRITER_PATIENCE = 10.0
_PLACES = 4  # on the board, for each worker
_HEAR_EVERY = 0.2
_PULSE = 5.0  # seconds between two looks at what announces itself nowhere
_READINESS = {True: "ready", False: "not ready: see carbonseal status", None: "readiness unknown"}
_READY = b"R"  # worker.READY and lookout.READY; importing worker would load libmilter here
_DRAIN = b"D"
_MAKE_WAY = b"N"  # lookout.MAKE_WAY: for the next one
_SIGHT_PATIENCE = 3.0  # a disk that hangs must not keep a relay from being ready
_UNSUPPORTED = 69


@dataclass(slots=True)
class _Child:
    """One process of ours, or the place of one that is to be started."""

    role: str  # 'worker', 'status' or 'writer'
    main: Callable[[_Child, socket.socket], int]
    pid: int = 0
    control: socket.socket | None = None
    started_at: float = 0.0
    failures: int = 0  # deaths in a row without having served
    due_at: float = 0.0  # when a dead one is to be started again
    is_ready: bool = False
    leave_by: float = 0.0  # when one that was told to leave and is still there is killed
    place: int | None = None  # of a worker on the board


@dataclass(slots=True)
class Supervisor:
    """The parent of all processes of one relay."""

    configuration: Configuration
    with_writer: bool = True
    _listener: Listener | None = None
    _children: list[_Child] = field(default_factory=list)
    _leaving: list[_Child] = field(default_factory=list)
    _is_stopping: bool = False
    # Read once for all workers; they look themselves for what changed since.
    _keyring: keyring.Keyring = keyring.EMPTY
    _board: Board = field(init=False)
    _said: str = ""  # to the service manager
    _pulse_at: float = 0.0

    def run(self) -> int:
        """Serve until TERM or INT; returns the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._keyring = prepare_directories(self.configuration)
        self._listener = self._listen(self.configuration)
        self._recover()
        # Twice the workers live at one time while a reload goes on, and there may be more of them.
        self._board = Board(_PLACES * _workers(self.configuration))
        self._children = self._crew(self.configuration)
        self._start_due(but="status")  # whose first page would say that nobody serves
        if not self._await_ready(self._children):
            log.error("start-failed", remedy="the lines above say why; see carbonseal config check")
            self._stop()
            return 70
        self._start_due()
        self._await_sight()
        self._announce()
        while True:
            received = signal.sigtimedwait(_SIGNALS, self._patience())
            number = received.si_signo if received is not None else 0
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
                return 0
            if number == signal.SIGHUP:
                self._reload()
            if time.monotonic() >= self._pulse_at:
                self._pulse_at = time.monotonic() + _PULSE
                self._recover()  # a live worker abandons a segment after a failed fsync
                self._tell()
            self._reap()
            self._hear_all()
            self._kill_overdue()
            self._start_due()

    def _announce(self) -> None:
        assert self._listener is not None
        service_manager.notify("READY=1")
        if self.configuration.file.milter.dry_run:
            log.warning(
                "dry-run",
                effect="no mail is signed, copied or refused",
                remedy="set milter.dry_run to false to seal mail",
            )
        log.event(
            "ready",
            socket=self._listener.address.postfix_form,
            workers=sum(child.role == "worker" for child in self._children),
            config_version=self.configuration.version,
            body_hash=body_hash.IMPLEMENTATION,
        )

    def _listen(self, configuration: Configuration) -> Listener:
        section = configuration.file.milter
        address = socket_address.parse(section.socket)
        return Listener(address, mode=int(section.socket_mode, 8), group=section.socket_group)

    def _crew(self, configuration: Configuration) -> list[_Child]:
        """The children a configuration asks for, not started yet."""
        assert self._listener is not None
        listener = self._listener.socket

        def work(child: _Child, control: socket.socket) -> int:
            # Loads libmilter, which takes the signals: in the child only.
            from carbonseal.milter import worker  # noqa: PLC0415

            return worker.run(
                configuration,
                listener,
                control,
                known=self._keyring,
                board=self._board,
                place=child.place,
            )

        def look(_child: _Child, control: socket.socket) -> int:
            # No signing key in the process that speaks HTTP: OpenSSL wipes what nobody holds.
            self._keyring = keyring.EMPTY
            # Loads an HTTP server and what writes metrics: in the child only.
            from carbonseal.milter.status import lookout  # noqa: PLC0415

            return lookout.serve(configuration, self._board, control)

        def write(_child: _Child, control: socket.socket) -> int:
            self._keyring = keyring.EMPTY  # nor in the one that speaks with a database
            # Loads SQLAlchemy: in the child only.
            from carbonseal.milter.archive import writer  # noqa: PLC0415

            return writer.serve(
                configuration.spool_directory,
                configuration.database_url,
                control,
                keep_loaded=configuration.file.record.keep_loaded,
                evidence=configuration.evidence,
                indexed=configuration.index_headers,
            )

        count = _workers(configuration)
        self._board.expect(count, with_writer=self.with_writer)
        crew = [_Child("worker", work) for _ in range(count)]
        crew.append(_Child("status", look))
        return [*crew, _Child("writer", write)] if self.with_writer else crew

    def _start_due(self, *, but: str = "") -> None:
        now = time.monotonic()
        for child in self._children:
            if not child.pid and child.due_at <= now and child.role != but:
                self._start(child)

    def _start(self, child: _Child) -> None:
        try:
            self._fork(child)
        except OSError as fault:
            # No memory, processes or descriptors left: those that serve go on serving.
            self._put_off(child)
            log.error(
                "start-failed",
                role=child.role,
                problem=fault.strerror,
                remedy="raise the limits on memory, processes or open files",
            )

    def _fork(self, child: _Child) -> None:
        ours, theirs = socket.socketpair()
        if child.role == "worker" and child.place is None:
            child.place = self._board.take()
        _flush()
        try:
            child.pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            raise
        if child.pid == 0:
            ours.close()  # held open here, it would hide the supervisor's death from this child
            self._become(child, theirs)
        theirs.close()
        child.control = ours
        child.started_at = time.monotonic()
        child.is_ready = False
        if child.place is not None:
            self._board.settle(child.place, child.pid)

    def _put_off(self, child: _Child) -> float:
        """Count a failure; seconds until the next attempt."""
        child.failures += 1
        delay = min(_MAX_DELAY, 0.1 * 2**child.failures) if child.failures > 2 else 0.0
        child.due_at = time.monotonic() + delay
        return delay

    def _become(self, child: _Child, control: socket.socket) -> None:
        """Run in the new process; never returns."""
        status = 70
        try:
            # Ctrl-C in a terminal is for the supervisor; libmilter would take it here and abort.
            os.setpgid(0, 0)
            # A sibling's control socket held open here would hide the supervisor's death from it.
            for other in (*self._children, *self._leaving):
                if other.control is not None:
                    other.control.close()
            if child.role == "worker":
                # libmilter waits for these in a thread of its own.
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            else:
                signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            status = child.main(child, control)
        except CarbonsealError as fault:
            log.error(f"{child.role}-failed", problem=fault.sentence)
            status = fault.exit_code
        except BaseException as fault:
            log.internal_error(child.role, fault)
            if not isinstance(fault, Exception):
                traceback.print_exc()
        finally:
            _flush()
            os._exit(status)

    def _await_ready(self, crew: list[_Child]) -> bool:
        """Whether every worker of `crew` reported ready in time."""
        deadline = time.monotonic() + _START_PATIENCE
        for child in crew:
            if child.role != "worker":
                continue
            if child.control is None:
                return False
            child.control.settimeout(max(0.1, deadline - time.monotonic()))
            try:
                child.is_ready = child.control.recv(1) == _READY
            except TimeoutError:
                return False
            if not child.is_ready:
                return False
            self._hear(child)
        return True

    def _await_sight(self) -> None:
        """Until the page that `carbonseal status` shows is of this crew, or patience is over."""
        for child in self._children:
            if child.role == "status" and child.control is not None:
                child.control.settimeout(_SIGHT_PATIENCE)
                try:
                    child.is_ready = child.control.recv(1) == _READY
                except OSError:
                    continue  # it looks all the same, or is started again

    def _hear(self, child: _Child) -> None:
        """Write on the board that a worker serves, once it has said so."""
        if child.place is not None and child.is_ready:
            self._board.serves(child.place)

    def _hear_all(self) -> None:
        """The same for those that were started again, for whom nobody waits."""
        for child in self._children:
            if child.role == "worker" and child.control is not None and not child.is_ready:
                try:
                    said = child.control.recv(1, socket.MSG_DONTWAIT)
                except OSError:
                    continue
                child.is_ready = said == _READY
                self._hear(child)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._bury(pid, os.waitstatus_to_exitcode(status))

    def _bury(self, pid: int, status: int) -> None:
        for child in (*self._children, *self._leaving):
            if child.pid == pid:
                break
        else:
            return
        child.pid = 0
        if child.control is not None:
            child.control.close()
            child.control = None
        if child in self._leaving:
            self._leaving.remove(child)
            self._give_back(child)
            return
        if self._is_stopping:
            return  # it left before it was told to
        if child.place is not None:
            self._board.rests(child.place)
        child.is_ready = False
        self._board.restarted(child.role)
        if time.monotonic() - child.started_at >= _SERVED:
            child.failures = 0
        delay = self._put_off(child)
        log.error("child-died", role=child.role, pid=pid, status=status, restart_in=delay)
        if status == _UNSUPPORTED:
            log.error("libmilter-unfit", remedy="install Debian's libmilter, which takes fd:N")
        self._recover()

    def _recover(self) -> None:
        """Close the segments whose worker is gone."""
        try:
            for segment in segments.recover(self.configuration.spool_directory):
                log.event("segment-recovered", segment=segment.name)
        except OSError as fault:
            log.error(
                "recovery-failed",
                spool=str(self.configuration.spool_directory),
                problem=fault.strerror,
                remedy="records are safe; mend the spool's file system",
            )

    def _patience(self) -> float:
        """Seconds until a child is due; a slow pulse otherwise."""
        waits = [child.due_at - time.monotonic() for child in self._children if not child.pid]
        if any(child.role == "worker" and not child.is_ready for child in self._children):
            waits.append(_HEAR_EVERY)
        return max(0.0, min([*waits, self._pulse_at - time.monotonic()]))

    def _reload(self) -> None:
        service_manager.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            configuration = config.load(self.configuration.path)
            self._keyring = prepare_directories(configuration)
            fresh = self._replace(configuration)
        except CarbonsealError as fault:
            log.error("reload-refused", problem=fault.sentence, kept=self.configuration.version)
        else:
            if fresh:
                self._announce()
        service_manager.notify("READY=1")

    def _replace(self, configuration: Configuration) -> bool:
        """Start a crew with `configuration` and let the old one leave once it serves."""
        old_listener, old_children = self._listener, self._children
        assert old_listener is not None
        section = configuration.file.milter
        same_socket = socket_address.parse(section.socket) == old_listener.address
        if same_socket:
            old_listener.permit(mode=int(section.socket_mode, 8), group=section.socket_group)
        else:
            self._listener = self._listen(configuration)
        # Two writers would only wait for each other's lock: the old one goes first.
        # And only one status process can have the port.
        self._dismiss([child for child in old_children if child.role == "writer"])
        self._dismiss([child for child in old_children if child.role == "status"], _MAKE_WAY)
        crew = self._crew(configuration)
        self._children = [*(one for one in old_children if one.role == "worker"), *crew]
        log.configure(form=configuration.file.log.format, level=configuration.file.log.level)
        self._start_due()
        if not self._await_ready(crew):
            log.error("reload-refused", problem="the new workers did not start", kept="old workers")
            self._abandon(crew, old_listener, same_socket=same_socket)
            return False
        self._children = crew
        self._dismiss([child for child in old_children if child.role == "worker"])
        self._await_sight()
        self.configuration = configuration
        if not same_socket:
            old_listener.close()
        return True

    def _abandon(
        self, crew: list[_Child], old_listener: Listener | None, *, same_socket: bool
    ) -> None:
        """Go back to the crew that served before a reload that failed."""
        self._children = [child for child in self._children if child not in crew]
        self._dismiss(crew)
        if not same_socket and self._listener is not None:
            self._listener.close()
            self._listener = old_listener
        present = self.configuration.file.log
        log.configure(form=present.format, level=present.level)
        self._children += [one for one in self._crew(self.configuration) if one.role != "worker"]

    def _dismiss(self, children: list[_Child], word: bytes = _DRAIN) -> None:
        """Tell children to leave; those that hang are killed when their time is over."""
        drain = self.configuration.file.milter.drain
        for child in children:
            if not child.pid:
                self._give_back(child)
            elif child.control is not None:
                patience = drain + _DRAIN_MARGIN if child.role == "worker" else _WRITER_PATIENCE
                child.leave_by = time.monotonic() + patience
                self._leaving.append(child)
                try:
                    child.control.send(word)
                except OSError:
                    pass  # it died just now; reaping will find it

    def _give_back(self, child: _Child) -> None:
        if child.place is not None:
            self._board.leave(child.place)
            child.place = None

    def _tell(self) -> None:
        """Tell the service manager how it goes; and that we live, as long as a worker does."""
        placeless = [one for one in self._children if one.role == "worker" and one.place is None]
        self._board.beyond(sum(one.is_ready for one in placeless))
        crew = self._board.crew()
        said = f"{crew.serving} of {crew.wanted} workers, {_READINESS[self._board.is_ready]}"
        states = [f"STATUS={said}"] if said != self._said else []
        self._said = said
        # Not "all": one that hangs is no reason to stop the others.
        if crew.serving > crew.stuck:
            states.append("WATCHDOG=1")
        if states:
            service_manager.notify(*states)

    def _kill_overdue(self) -> None:
        now = time.monotonic()
        for child in self._leaving:
            if child.leave_by <= now:
                log.warning("child-killed", role=child.role, pid=child.pid)
                os.kill(child.pid, signal.SIGKILL)
                child.leave_by = now + _DRAIN_MARGIN

    def _stop(self) -> None:
        service_manager.notify("STOPPING=1")
        log.event("stopping")
        if self._listener is not None:
            self._listener.close()
        self._is_stopping = True
        # The workers first: what they still seal must find its writer.
        self._dismiss([child for child in self._children if child.role == "worker"])
        self._wait_for_leavers()
        self._dismiss([child for child in self._children if child.role != "worker"])
        self._wait_for_leavers()
        self._recover()
        log.event("stopped")

    def _wait_for_leavers(self) -> None:
        while self._leaving:
            self._reap()
            self._kill_overdue()
            if self._leaving:
                signal.sigtimedwait((signal.SIGCHLD,), 0.5)


def _workers(configuration: Configuration) -> int:
    count = configuration.file.milter.workers
    # More than cores: threads of one worker wait for each other's interpreter lock.  With two for
    # each core the slowest of a hundred messages at 32 connections waits a fifth less.
    return 2 * (os.cpu_count() or 1) + 1 if count == "auto" else count


def _flush() -> None:
    """Leave nothing in a buffer that a fork would double; what nobody can read is no fault."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass


def prepare_directories(configuration: Configuration) -> keyring.Keyring:
    """Make the spool directory if its parent allows it, and read the keys.

    Raises: a CarbonsealError with the remedy.  Mail that would have to wait because of a mistake in
    the set-up is better not taken on in the first place.
    """
    spool: Path = configuration.spool_directory
    try:
        spool.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigurationError(
            f"record.spool {spool}: cannot create the directory ({fault.strerror}); create it and "
            f"give it to the service's user"
        ) from None
    ring = keyring.load(configuration.keys_directory)
    for sdid, problem in ring.problems.items():
        log.error("key-unusable", sdid=sdid, problem=problem)
    return ring
