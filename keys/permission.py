"""Who may read and write private keys, and the sentence that mends it when it is wrong.

The rule.  The keys directory says it for all that is in it: its owner, and with mode 0750 its
group as well.  A packaged installation has root:carbonseal 0750, so that the service reads keys it
cannot change; `access_for` gives new files the same owner and group (0640 or 0600).

* A private key is a regular file of root or of the user this process runs as (for root: also of
  the directory's owner); nobody else has any right, but for read by the group of the keys
  directory, and then this process is root or in that group.
* No directory on the way, up to the root, may be writable by others unless it is sticky like
  /tmp, or by a group that is neither root's nor this process's own.

Raises: `WrongPermission`, naming the path component, its mode and owner, and the command.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from pathlib import Path

from carbonseal.keys import durable
from carbonseal.policies import errors


class WrongPermission(errors.ConfigurationError):
    """A key is open to people it is not for, or closed to this process."""


def access_for(directory: Path, *, is_directory: bool = False) -> durable.Access:
    """What new files (or directories) in the keys directory are to have, after the rule above."""
    about = os.stat(directory)
    shared = bool(about.st_mode & stat.S_IXGRP)
    mode = 0o640 if shared else 0o600
    if is_directory:
        mode = 0o750 if shared else 0o700
    own = os.geteuid()
    uid = about.st_uid if own == 0 and about.st_uid != own else None
    gid = about.st_gid if shared or own == 0 else None
    return durable.Access(mode, uid, gid)


def check_directories(directory: Path) -> None:
    """Refuse a directory in which, or above which, a stranger could put another file."""
    whole = Path(os.path.realpath(directory))
    for component in (*reversed(whole.parents), whole):
        about = _stat(component)
        _check_directory_owner(component, about, inside=component == whole)
        if about.st_mode & stat.S_IWOTH and not about.st_mode & stat.S_ISVTX:
            raise _wrong(component, about, "others may write in it", "chmod o-w")
        if about.st_mode & stat.S_IWGRP and not _harmless_group_write(about):
            raise _wrong(component, about, "its group may write in it", "chmod g-w")


def check_private_file(path: Path, about: os.stat_result, directory: Path) -> None:
    """Refuse a private key file, whose fstat is `about`, that the rule above forbids."""
    if not stat.S_ISREG(about.st_mode):
        raise _wrong(path, about, "it is no regular file", "ls -l")
    shelf = os.stat(directory)
    if about.st_uid not in _own_users(shelf):
        raise _wrong(path, about, "it belongs to another user", f"chown {_user(os.geteuid())}")
    if about.st_mode & 0o037:
        raise _wrong(
            path,
            about,
            "too many may use it",
            f"chmod {'640' if _shared(shelf) else '600'}",
        )
    if about.st_mode & stat.S_IRGRP and not (
        about.st_gid == shelf.st_gid and _shared(shelf) and _in_group(about.st_gid)
    ):
        raise _wrong(
            path,
            about,
            "a group that is not the keys directory's may read it",
            "chmod 600",
        )


def unreadable(path: Path, error: OSError) -> WrongPermission:
    """The sentence for a file or directory that could not be opened: the component that bars."""
    for component in (*reversed(path.absolute().parents), path.absolute()):
        try:
            about = os.stat(component)
        except OSError:
            break
        needed = os.R_OK | os.X_OK if component.is_dir() else os.R_OK
        if component != path.absolute() and component.is_dir():
            needed = os.X_OK
        if not os.access(component, needed, effective_ids=True):
            user = _user(os.geteuid())
            return _wrong(component, about, f"{user} may not read it", _opening(component, about))
    return WrongPermission(
        f"{path}: it cannot be read ({os.strerror(error.errno or 0)}); restore it or its access."
    )


def _opening(component: Path, about: os.stat_result) -> str:
    """The command that opens it: by its group, unless what it lies in is closed to all groups."""
    if stat.S_ISREG(about.st_mode) and not _shared(os.stat(component.parent)):
        return f"chmod 600 {shlex.quote(str(component))} && chown {_user(os.geteuid())}"
    rights = "g+rx" if stat.S_ISDIR(about.st_mode) else "g+r"
    return f"chgrp {_group(os.getegid())} {shlex.quote(str(component))} && chmod {rights}"


def _check_directory_owner(component: Path, about: os.stat_result, *, inside: bool) -> None:
    if os.geteuid() == 0 and inside:
        return  # a service user's own directory, looked at by root
    if about.st_uid not in (0, os.geteuid()) and os.geteuid() != 0:
        raise _wrong(component, about, "it belongs to another user", "chown root")


def _harmless_group_write(about: os.stat_result) -> bool:
    return about.st_gid in (0, os.getegid()) or bool(about.st_mode & stat.S_ISVTX)


def _own_users(shelf: os.stat_result) -> set[int]:
    own = os.geteuid()
    return {0, own, shelf.st_uid} if own == 0 else {0, own}


def _shared(shelf: os.stat_result) -> bool:
    return bool(shelf.st_mode & stat.S_IXGRP)


def _in_group(gid: int) -> bool:
    return os.geteuid() == 0 or gid == os.getegid() or gid in os.getgroups()


def _stat(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise unreadable(path, error) from None


def _wrong(path: Path, about: os.stat_result, what: str, command: str) -> WrongPermission:
    return WrongPermission(
        f"{path}: {what} (mode {stat.S_IMODE(about.st_mode):04o}, owner"
        f" {_user(about.st_uid)}:{_group(about.st_gid)}); run: {command} {shlex.quote(str(path))}"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
