"""Who may hold private keys: the rule, and the sentence when it is broken."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from carbonseal.keys import keyring, permission, store

from .conftest import Keep

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root, because files are given to other users"
)
SERVICE, STAFF, STRANGER = 12345, 12346, 12399


@contextlib.contextmanager
def user(uid: int, gid: int) -> Iterator[None]:
    """Be another user for a moment, without root's groups."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


@pytest.fixture
def installed(shelf: store.Store, keep: Keep, rsa_private: Any, tmp_path: Path) -> store.Store:
    """root:carbonseal 0750, as a package installs it, with one key of example.com."""
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(0o755)
    shelf.directory.mkdir()
    os.chown(shelf.directory, 0, SERVICE)
    shelf.directory.chmod(0o750)
    keep(rsa_private, "s1")
    return shelf


def test_the_service_reads_keys_that_root_made_and_cannot_change_them(
    installed: store.Store,
) -> None:
    """The packaged installation."""
    with user(SERVICE, SERVICE):
        assert keyring.load(installed.directory).sdids == {"example.com"}
        assert not os.access(
            installed.private_path("example.com", "s1"), os.W_OK, effective_ids=True
        )


def test_a_directory_of_the_service_itself_works_for_both(
    shelf: store.Store, keep: Keep, rsa_private: Any, installed: store.Store
) -> None:
    """Owner carbonseal, mode 0700: root makes keys, the service reads them."""
    own = store.Store(shelf.directory.with_name("own"))
    own.directory.mkdir(mode=0o700)
    os.chown(own.directory, SERVICE, SERVICE)
    source = installed.find("example.com", "s1")
    with own.writing(source.sdid) as writer:
        writer.add(source, installed.private_key(source))
    assert keyring.load(own.directory).sdids == {"example.com"}
    with user(SERVICE, SERVICE):
        assert keyring.load(own.directory).sdids == {"example.com"}


Break = Callable[[Path], object]
WRONG: list[Any] = [
    pytest.param(lambda p: p.chmod(0o644), "s1.pem", "chmod 640", id="all-may-read"),
    pytest.param(lambda p: p.chmod(0o660), "s1.pem", "chmod 640", id="group-may-write"),
    pytest.param(lambda p: os.chown(p, STRANGER, SERVICE), "s1.pem", "chown", id="foreign-owner"),
    pytest.param(lambda p: os.chown(p, 0, STAFF), "s1.pem", "chgrp", id="group-bars-service"),
    pytest.param(
        lambda p: (os.chown(p.parent, 0, STRANGER), p.parent.chmod(0o775)),
        "example.com",
        "chmod g-w",
        id="foreign-group-writes",
    ),
    pytest.param(lambda p: p.parent.chmod(0o757), "example.com", "chmod o-w", id="all-write"),
    pytest.param(lambda p: p.parent.chmod(0o700), "example.com", "chgrp", id="folder-closed"),
    pytest.param(
        lambda p: os.chown(p.parent, STRANGER, SERVICE), "example.com", "chown root", id="owner"
    ),
    pytest.param(
        lambda p: p.parent.parent.parent.chmod(0o777), "", "chmod o-w", id="parent-directory"
    ),
]


@pytest.mark.parametrize(("break_access", "component", "command"), WRONG)
def test_wrong_access_names_the_component_and_the_command(
    break_access: Break, component: str, command: str, installed: store.Store
) -> None:
    """Seen by the service: path, mode, owner, and what to type."""
    break_access(installed.private_path("example.com", "s1"))
    with user(SERVICE, SERVICE), pytest.raises(permission.WrongPermission) as refusal:
        installed.private_key(_record(installed))
    sentence = refusal.value.sentence
    assert command in sentence
    assert "mode 0" in sentence
    named = sentence.split(":", 1)[0]
    assert named.endswith(component or installed.directory.parent.name)


def _record(shelf: store.Store) -> Any:
    """Its record, read as root, so that only the private key is at stake."""
    uid = os.geteuid()
    os.seteuid(0)
    try:
        return shelf.find("example.com", "s1")
    finally:
        os.seteuid(uid)


def test_the_command_in_the_sentence_mends_it(installed: store.Store) -> None:
    """A remedy that does not help is worse than none: run it and look again."""
    path = installed.private_path("example.com", "s1")
    for break_access in (
        lambda: path.chmod(0o644),
        lambda: os.chown(path, STRANGER, SERVICE),
        lambda: os.chown(path, 0, STAFF),
        lambda: path.parent.chmod(0o757),
        lambda: path.parent.chmod(0o700),
    ):
        break_access()
        for _ in range(3):  # some breakages have two halves
            try:
                with user(SERVICE, SERVICE):
                    installed.private_key(_record(installed))
                break
            except permission.WrongPermission as refusal:
                command = refusal.sentence.split("run: ", 1)[1]
                assert os.system(command) == 0
        else:
            pytest.fail(command)


def test_the_command_mends_a_key_that_root_left_in_the_services_own_directory(
    installed: store.Store,
) -> None:
    """Its group has no rights there: what opens the key to a group would only close it anew."""
    path = installed.private_path("example.com", "s1")
    for place in (installed.directory, path.parent):
        os.chown(place, SERVICE, SERVICE)
        place.chmod(0o700)
    os.chown(path, 0, 0)
    path.chmod(0o600)
    with user(SERVICE, SERVICE), pytest.raises(permission.WrongPermission) as refusal:
        installed.private_key(_record(installed))
    assert os.system(refusal.value.sentence.split("run: ", 1)[1]) == 0
    with user(SERVICE, SERVICE):
        assert installed.private_key(_record(installed))


def test_sticky_directories_like_tmp_are_no_danger(installed: store.Store, tmp_path: Path) -> None:
    """Others may write there, but not replace what is ours."""
    tmp_path.chmod(0o1777)
    with user(SERVICE, SERVICE):
        assert installed.private_key(_record(installed))
