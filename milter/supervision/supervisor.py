"""The supervisor: binds the socket, keeps its children alive, reloads and stops.

Its children are the workers, the status process, and the writer where that is no service of its
own (`crew`).

Promises: HUP puts a new configuration to work without a gap, or keeps the old one with a sentence
when the new one is bad; TERM and INT let open sessions finish.  Segments that a dead worker left
open are closed before its successor starts.

Raises: ConfigurationError at start.  Later nothing: it logs and goes on.

Does not: load libmilter (it would take the signals), seal mail, or touch the database.
"""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from carbonseal.keys import body_hash, keyring
from carbonseal.milter import config, log, socket_address
from carbonseal.milter.archive import segments
from carbonseal.milter.config import Configuration
from carbonseal.milter.listener import Listener
from carbonseal.milter.supervision import children, crew
from carbonseal.milter.supervision.child import SIGNALS, Child
from carbonseal.milter.supervision.children import Children
from carbonseal.milter.supervision.service_manager import Notices
from carbonseal.policies.errors import CarbonsealError, ConfigurationError

_PULSE: Final = 5.0  # seconds between two looks at what announces itself nowhere


@dataclass(slots=True)
class Supervisor:
    """The parent of all processes of one relay."""

    configuration: Configuration
    with_writer: bool = True
    _listener: Listener = field(init=False)
    _crews: crew.Crews = field(init=False)
    _children: Children = field(init=False)
    _notices: Notices = field(default_factory=Notices)
    _pulse_at: float = 0.0

    def run(self) -> int:
        """Serve until TERM or INT; returns the exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not self._start():
            log.error("start-failed", remedy="the lines above say why; see carbonseal config check")
            self._stop()
            return 70
        while True:
            received = signal.sigtimedwait(SIGNALS, self._patience())
            number = received.si_signo if received is not None else 0
            if number in (signal.SIGTERM, signal.SIGINT):
                self._stop()
                return 0
            if number == signal.SIGHUP:
                self._reload()
            if time.monotonic() >= self._pulse_at:
                self._pulse_at = time.monotonic() + _PULSE
                self._recover()  # a live worker abandons a segment after a failed fsync
                self._children.count_placeless()
                self._notices.alive(self._children.board)
            if self._children.reap():
                self._recover()
            self._children.hear()
            self._children.kill_overdue()
            self._children.start_due()

    def _patience(self) -> float:
        """Seconds until a child or the pulse is due."""
        pulse = max(0.0, self._pulse_at - time.monotonic())
        return min(pulse, self._children.patience())

    # --- starting ---------------------------------------------------------------------------------

    def _start(self) -> bool:
        """Whether it serves now."""
        board = crew.board(self.configuration)
        # No name for the keys here: children that do not sign must be able to forget them.
        self._crews = crew.Crews(board, self.with_writer, prepare_directories(self.configuration))
        self._children = Children(board)
        self._listener = _listen(self.configuration)
        self._recover()
        self._children.present = self._crew(self.configuration)
        self._children.start_due(but="status")  # whose first page would say that nobody serves
        if not self._children.await_workers(self._children.present):
            return False
        self._children.start_due()
        self._children.await_sight()
        self._announce()
        return True

    def _crew(self, configuration: Configuration) -> list[Child]:
        return self._crews.crew(configuration, self._listener.socket)

    def _announce(self) -> None:
        self._notices.ready()
        if self.configuration.file.milter.dry_run:
            log.warning(
                "dry-run",
                effect="no mail is signed, copied or refused",
                remedy="set milter.dry_run to false to seal mail",
            )
        log.event(
            "ready",
            socket=self._listener.address.postfix_form,
            workers=len(self._children.workers),
            config_version=self.configuration.version,
            body_hash=body_hash.IMPLEMENTATION,
        )

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

    # --- reloading --------------------------------------------------------------------------------

    def _reload(self) -> None:
        self._notices.reloading()
        try:
            configuration = config.load(self.configuration.path)
            self._crews.ring = prepare_directories(configuration)
            is_fresh = self._replace(configuration)
        except CarbonsealError as fault:
            log.error("reload-refused", problem=fault.sentence, kept=self.configuration.version)
        else:
            if is_fresh:
                self._announce()
        self._notices.ready()

    def _replace(self, configuration: Configuration) -> bool:
        """Start a crew with `configuration` and let the old one leave once it serves."""
        old_listener, old = self._listener, self._children.present
        old_workers = self._children.workers
        section = configuration.file.milter
        same_socket = socket_address.parse(section.socket) == old_listener.address
        if same_socket:
            old_listener.permit(mode=int(section.socket_mode, 8), group=section.socket_group)
        else:
            self._listener = _listen(configuration)
        # Two writers would only wait for each other's lock: the old one goes first.
        # And only one status process can have the port.
        self._children.dismiss(child for child in old if child.role == "writer")
        self._children.dismiss((one for one in old if one.role == "status"), children.MAKE_WAY)
        fresh = self._crew(configuration)
        self._children.present = [*old_workers, *fresh]
        log.configure(form=configuration.file.log.format, level=configuration.file.log.level)
        self._children.start_due()
        if not self._children.await_workers(fresh):
            log.error("reload-refused", problem="the new workers did not start", kept="old workers")
            self._abandon(fresh, old_workers, old_listener)
            return False
        self._children.present = fresh
        self._children.dismiss(old_workers)
        self._children.await_sight()
        self.configuration = configuration
        if not same_socket:
            old_listener.close()
        return True

    def _abandon(
        self, fresh: list[Child], old_workers: list[Child], old_listener: Listener
    ) -> None:
        """Go back to the crew that served before a reload that failed."""
        self._children.present = old_workers
        self._children.dismiss(fresh)
        if self._listener is not old_listener:
            self._listener.close()
            self._listener = old_listener
        present = self.configuration.file.log
        log.configure(form=present.format, level=present.level)
        others = [one for one in self._crew(self.configuration) if not one.is_worker]
        self._children.present = [*old_workers, *others]

    # --- stopping ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._notices.stopping()
        log.event("stopping")
        self._listener.close()
        self._children.end()
        self._recover()
        log.event("stopped")


def _listen(configuration: Configuration) -> Listener:
    section = configuration.file.milter
    address = socket_address.parse(section.socket)
    return Listener(address, mode=int(section.socket_mode, 8), group=section.socket_group)


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
