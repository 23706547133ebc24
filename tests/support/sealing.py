"""What sealing needs of the process around it, without one; and messages sealed all the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carbonseal.keys.keyring import Keyring
from carbonseal.milter import config, seal
from carbonseal.milter.archive.spool import Spool, Steps, T, taken
from support.carbonseal import Carbonseal


def services(
    directory: Path, sections: dict[str, dict[str, Any]] | None = None, **more: Any
) -> seal.Services:
    """Services without a key, of a configuration with these sections."""
    configuration = config.load(Carbonseal(directory / "seal", sections).file)
    return seal.Services(
        configuration=configuration,
        keyring=Keyring,
        key_complaint=lambda: None,
        relay="mx1",
        archive_addresses=configuration.archive.all_recipients(),
        **more,
    )


def recorded(steps: Steps[T], directory: Path) -> T:
    """What comes of a message whose records go into the spool at `directory`."""
    directory.mkdir(exist_ok=True)
    spool = Spool(directory)
    try:
        return taken(steps, spool.put)
    finally:
        spool.close()
