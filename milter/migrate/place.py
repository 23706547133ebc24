"""Where a migration writes: a directory of its own, or the configuration of this machine.

Promises: an existing configuration is never overwritten, and is complained of before anything is
changed.  The configuration appears whole or not at all, after the keys it needs.

Raises: `errors.UsageError`, `errors.DataError`, `errors.ConfigurationError`.
"""

from __future__ import annotations

import grp
import os
from dataclasses import dataclass
from pathlib import Path

from carbonseal.keys import durable
from carbonseal.milter import config_path
from carbonseal.milter.migrate.written import Places
from carbonseal.policies import errors

_KEYS = Path("/var/lib/carbonseal/keys")
_GROUP = "postfix"
_NAME = "carbonseal.yaml"


@dataclass(frozen=True, slots=True)
class Target:
    """What is written where."""

    configuration: Path
    keys: Path
    folder: Path | None  # to be made, with a spool and an archive in it
    is_written: bool  # False: everything is only shown

    def places(self, *, domains: tuple[str, ...], archive: tuple[str, ...], beside: bool) -> Places:
        """As they stand in the configuration."""
        own = self.folder
        return Places(
            keys=str(self.keys),
            socket=None if own is None else f"unix:{own}/milter.sock",
            socket_group=_group(),
            spool=None if own is None else str(own / "spool"),
            database=None if own is None else f"sqlite:///{own}/archive/archive.db",
            domains=domains,
            archive=archive,
            dry_run=beside,
        )

    def refuse_existing(self) -> None:
        """An existing configuration stays."""
        if os.path.lexists(self.configuration):
            raise errors.UsageError(
                f"{self.configuration}: a configuration is there already, and is not overwritten;"
                " move it away, or write elsewhere with --to DIRECTORY."
            )
        parent = self.configuration.parent if self.folder is None else self.folder.parent
        if not os.path.isdir(parent):
            raise errors.UsageError(f"{parent}: there is no such directory; make it first.")

    def prepare(self) -> None:
        """Make the directories that nobody else makes."""
        if self.folder is None:
            return
        try:
            durable.make_directory(self.folder, durable.Access(0o755))
            for name in ("spool", "archive"):
                durable.make_directory(self.folder / name, durable.Access(0o700))
        except OSError as error:
            raise _unwritable(self.folder, error) from None

    def write(self, text: str) -> None:
        """The configuration, readable for the services."""
        try:
            durable.write_new(self.configuration, text.encode(), durable.Access(0o644))
        except FileExistsError:
            self.refuse_existing()
        except OSError as error:
            raise _unwritable(self.configuration, error) from None


def chosen(to: Path | None, configuration: Path | None, keys: Path | None) -> Target:
    """The target that the options name; with neither of the first two nothing is written."""
    if to is not None and configuration is not None:
        raise errors.UsageError("--to and --config are two places; give one.")
    if to is not None:
        folder = to.absolute()
        own_keys = folder / "keys" if keys is None else keys.absolute()
        return Target(folder / _NAME, own_keys, folder, is_written=True)
    other_keys = _KEYS if keys is None else keys.absolute()
    path = config_path.DEFAULT_PATH if configuration is None else configuration.absolute()
    return Target(path, other_keys, None, is_written=configuration is not None)


def _group() -> str | None:
    try:
        return grp.getgrnam(_GROUP).gr_name
    except KeyError:
        return None


def _unwritable(path: Path, error: OSError) -> errors.ConfigurationError:
    reason = os.strerror(error.errno or 0)
    return errors.ConfigurationError(
        f"{path}: it cannot be written ({reason}); run the command as root, or write elsewhere."
    )
