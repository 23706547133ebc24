"""Opening a file that somebody named, without waiting for what may never come.

Promises: a FIFO is refused, because to open or to read it waits for whoever writes into it, maybe
for ever; what the shell hands over by a name (`/dev/stdin`, `/dev/fd/63` of `<(...)`) is taken, as
are devices, of which the caller reads as much as it can bear.

Raises: OSError.

Does not: bound what is read.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

_HANDED_OVER: Final = ("/dev/stdin", "/dev/fd/", "/proc/")


def opened(path: Path) -> BinaryIO:
    """The file from its beginning."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(handle).st_mode)
        if is_pipe and not os.path.abspath(path).startswith(_HANDED_OVER):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        os.set_blocking(handle, True)
        return open(handle, "rb")
    except OSError:
        os.close(handle)
        raise
