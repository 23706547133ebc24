"""Where the configuration file is unless the command line says otherwise.

Promises: nothing else is loaded to know it.

Does not: look whether a file is there (`config`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

DEFAULT_PATH: Final = Path("/etc/carbonseal/carbonseal.yaml")
