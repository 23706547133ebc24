"""Making lines durable: the compiled half against plain Python, call by call, faults among them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import sanitizers

from carbonseal.milter.archive import merkle
from carbonseal.milter.archive.open_segment import append_plainly, compiled

SOURCE = Path(__file__).resolve().parents[2] / "milter/archive/_open_segment.c"
EXAMPLES = settings(max_examples=300, deadline=None)
needs_compiled = pytest.mark.skipif(compiled is None, reason="no compiler was at hand")
# Only the module that is built for that run asks the script what its calls do.
needs_script = pytest.mark.skipif(not sanitizers.are_at_work(), reason="for that run")

STATX_INO = 0x100  # of linux/stat.h

Append = Callable[..., tuple[int, int, int, list[bytes]]]
IMPLEMENTATIONS = [
    pytest.param(append_plainly, id="python"),
    pytest.param(getattr(compiled, "append", None), id="compiled", marks=needs_compiled),
]

# Each call takes the next act: 0 does what it does, a number above writes so many octets at most,
# one below is the errno of a fault.
SCRIPT = """
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

int acts[64], acts_left;
int begin_fault, begun; /* errno of sync_file_range, and how often it was called */
unsigned asked_for;
char said[8192];
static const int *next_act = acts;
static size_t said_size;

void begin(void) {
    next_act = acts;
    said_size = 0;
    said[0] = 0;
}

static int act(const char *name, size_t size, long long offset) {
    said_size += (size_t)snprintf(said + said_size, sizeof said - said_size, "%s %zu %lld\\n", name,
                                  size, offset);
    if (acts_left <= 0) return 0;
    acts_left--;
    return *next_act++;
}

static ssize_t scripted_pwrite(int file, const void *octets, size_t size, off_t offset) {
    int much = act("pwrite", size, (long long)offset);
    if (much < 0) return errno = -much, -1;
    return pwrite(file, octets, much && (size_t)much < size ? (size_t)much : size, offset);
}

static int scripted_fdatasync(int file) {
    int much = act("fdatasync", 0, 0);
    return much < 0 ? (errno = -much, -1) : fdatasync(file);
}

static int scripted_begin(int file, off_t offset, off_t size, unsigned flags) {
    begun++;
    return begin_fault ? (errno = begin_fault, -1) : sync_file_range(file, offset, size, flags);
}

static int scripted_statx(int from, const char *path, int flags, unsigned mask, struct statx *to) {
    asked_for |= mask;
    return statx(from, path, flags, mask, to);
}

#define pwrite scripted_pwrite
#define fdatasync scripted_fdatasync
#define sync_file_range scripted_begin
#define statx(...) scripted_statx(__VA_ARGS__)
"""
ACTS = st.lists(
    st.integers(0, 40)
    | st.sampled_from([-errno.EINTR, -errno.ENOSPC, -errno.EDQUOT, -errno.EIO, -errno.EFBIG]),
    max_size=8,
)


class File:
    """An open file with a name."""

    def __init__(self, directory: Path, content: bytes = b"") -> None:
        self.path = directory / "file"
        self.path.write_bytes(content)
        self.handle = os.open(self.path, os.O_RDWR)
        self.place = (os.fsencode(self.path), os.fstat(self.handle).st_ino, self.handle)

    def take(
        self,
        append: Append,
        octets: bytes,
        needed: int,
        offset: int,
        lines: list[bytes],
        meanwhile: Callable[[], object] | None = None,
    ) -> tuple[int, int, int, list[bytes]]:
        """What `append` says of it."""
        return append((*self.place, offset), octets, needed, lines, meanwhile)

    def close(self) -> bytes:
        """What stands in it."""
        os.close(self.handle)
        return self.path.read_bytes()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[File]:
    made = File(tmp_path)
    yield made
    os.close(made.handle)


def by_python(acts: list[int], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has Python's calls do what is written; returns where they are noted."""
    said: list[str] = []
    left = iter(acts)
    pwrite, fdatasync = os.pwrite, os.fdatasync

    def act(name: str, size: int, offset: int) -> int:
        # Python makes an interrupted call again itself, below what can be put in place here.
        while True:
            said.append(f"{name} {size} {offset}")
            much = next(left, 0)
            if much >= 0:
                return much
            if much != -errno.EINTR:
                raise OSError(-much, os.strerror(-much))

    def scripted_pwrite(handle: int, octets: bytes, offset: int) -> int:
        much = act("pwrite", len(octets), offset)
        return pwrite(handle, octets[:much] if much else octets, offset)

    def scripted_fdatasync(handle: int) -> None:
        act("fdatasync", 0, 0)
        fdatasync(handle)

    monkeypatch.setattr(os, "pwrite", scripted_pwrite)
    monkeypatch.setattr(os, "fdatasync", scripted_fdatasync)
    return said


def by_compiled(acts: list[int]) -> Callable[[], list[str]]:
    """The same for the compiled half; returns what tells the calls."""
    assert compiled is not None
    library = ctypes.CDLL(compiled.__file__)
    (ctypes.c_int * 64).in_dll(library, "acts")[: len(acts)] = acts
    ctypes.c_int.in_dll(library, "acts_left").value = len(acts)
    library.begin()
    said = (ctypes.c_char * 8192).in_dll(library, "said")
    return lambda: said.value.decode().splitlines()


@needs_script
@EXAMPLES
@given(
    acts=ACTS,
    lines=st.lists(st.binary(max_size=60), max_size=5),
    before=st.binary(max_size=10),
    room=st.integers(0, 50),
    offset=st.integers(0, 5000),
    meanwhile=st.sampled_from([None, list]),
)
@example([-errno.ENOSPC], [b"one\n"], b"", 50, 0, None)
@example([-errno.ENOSPC, -errno.ENOSPC], [b"one\n"], b"", 50, 0, None)
@example([0, -errno.EIO], [b"one\n"], b"", 0, 0, list)
def test_both_make_the_same_calls_and_say_the_same_of_every_fault(
    acts: list[int],
    lines: list[bytes],
    before: bytes,
    room: int,
    offset: int,
    meanwhile: Callable[[], object] | None,
) -> None:
    """Short writes, interrupted and failing calls, room behind the lines and a torn line before."""
    data = before + b"".join(lines)
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory() as name:
        octets = data + bytes(room)
        plain = File(Path(name))
        said = by_python(acts, monkeypatch)
        answer = plain.take(append_plainly, octets, len(data), offset, lines, meanwhile)
        content = plain.close()
        assert compiled is not None
        quick = File(Path(name))
        told = by_compiled(acts)
        arguments = (octets, len(data), offset, lines, meanwhile)
        assert quick.take(compiled.append, *arguments) == answer
        assert told() == said
        assert quick.close() == content
        by_compiled([])  # the other tests have no script


@pytest.mark.parametrize("append", IMPLEMENTATIONS)
def test_lines_are_written_where_they_belong_and_their_leaves_told(
    append: Append, file: File
) -> None:
    """Of any number and any length; room may follow, and is no line."""
    for lines in ([], [b"one\n"], [b"x" * 5000, b"", b"two\n"], [b"y\n"] * 300):
        data = b"".join(lines)
        # Without lines nothing is needed, and nothing written.
        written = len(data) + 7 if data else 0
        leaves = [merkle.leaf_hash(one) for one in lines]
        assert file.take(append, data + bytes(7), len(data), 3, lines) == (0, 0, written, leaves)
        assert file.path.read_bytes()[3 : 3 + len(data)] == data


@needs_script
def test_the_times_of_the_file_are_not_asked_for(file: File) -> None:
    """Linux keeps exact ones for those that were asked for, and each sync would write them."""
    assert compiled is not None
    library = ctypes.CDLL(compiled.__file__)
    asked_for = ctypes.c_uint.in_dll(library, "asked_for")
    asked_for.value = 0
    file.take(compiled.append, b"one\n", 4, 0, [b"one\n"])
    assert asked_for.value == STATX_INO


@pytest.mark.parametrize("append", IMPLEMENTATIONS)
@pytest.mark.parametrize("what", ["removed", "another"])
def test_nothing_is_written_into_a_file_that_has_lost_its_name(
    append: Append, file: File, what: str
) -> None:
    """No reader would find it."""
    file.path.unlink()
    if what == "another":
        file.path.write_bytes(b"")
    assert file.take(append, b"one\n", 4, 0, [b"one\n"]) == (1, 0, 0, [])
    assert os.fstat(file.handle).st_size == 0


@pytest.mark.parametrize("append", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("path", "answer"),
    [
        pytest.param("/dev/full", (2, errno.ENOSPC, 0, []), id="no-space"),
        # It takes everything and cannot be synced.
        pytest.param("/dev/null", (3, errno.EINVAL, 4, []), id="no-sync"),
    ],
)
def test_a_fault_is_told_with_its_number(
    append: Append, path: str, answer: tuple[int, int, int, list[bytes]]
) -> None:
    """Where it happened decides whether the file may be used again."""
    handle = os.open(path, os.O_WRONLY)
    place = (os.fsencode(path), os.stat(path).st_ino, handle, 0)
    told: list[int] = []
    assert append(place, b"one\n", 4, [b"one\n"], lambda: told.append(1)) == answer
    assert len(told) == (answer[0] == 3)
    os.close(handle)


@pytest.mark.parametrize("append", IMPLEMENTATIONS)
@pytest.mark.parametrize("is_faulty", [False, True], ids=["", "with-a-fault-in-it"])
def test_what_is_done_meanwhile_comes_after_the_write(
    append: Append, file: File, is_faulty: bool
) -> None:
    """Once; what becomes of it changes nothing of what is said of the lines."""
    seen: list[bytes] = []

    def look() -> None:
        seen.append(file.path.read_bytes())
        if is_faulty:
            raise RuntimeError("a fault")

    answer = append((*file.place, 0), b"one\n", 4, [b"one\n"], look)
    assert answer == (0, 0, 4, [merkle.leaf_hash(b"one\n")])
    assert seen == [b"one\n"]


def test_room_that_the_disk_has_no_space_for_costs_no_line(
    file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ext4 may refuse lines and room together, and then write not even a part (Linux 6.18)."""
    said = by_python([-errno.ENOSPC], monkeypatch)
    answer = file.take(append_plainly, b"one\n" + bytes(5000), 4, 0, [b"one\n"])
    assert answer == (0, 0, 4, [merkle.leaf_hash(b"one\n")])
    assert said == ["pwrite 5004 0", "pwrite 4 0", "fdatasync 0 0"]
    assert file.path.read_bytes() == b"one\n"


@contextlib.contextmanager
def beginning(fault: int) -> Iterator[ctypes.c_int]:
    """The compiled half's sync_file_range fails; yields how often it was called."""
    assert compiled is not None
    library = ctypes.CDLL(compiled.__file__)
    begin_fault = ctypes.c_int.in_dll(library, "begin_fault")
    begun = ctypes.c_int.in_dll(library, "begun")
    begun.value, begin_fault.value = 0, fault
    yield begun
    begin_fault.value = 0


@needs_script
@pytest.mark.parametrize("fault", [errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.ENOSPC])
def test_a_fault_of_the_begun_write_is_one_of_the_sync(file: File, fault: int) -> None:
    """ext4 says it once: what it found no place for is gone, and a later sync finds nothing amiss.

    Seen on 6.18, with and without a journal, where a checksum of a block bitmap was wrong
    (`errors=continue`): fdatasync answered 0, and the file was empty after the next mount.
    """
    assert compiled is not None
    done: list[int] = []
    with beginning(fault):
        answer = file.take(compiled.append, b"one\n", 4, 0, [b"one\n"], lambda: done.append(1))
    assert answer == (3, fault, 4, [])
    assert not done


@needs_script
@pytest.mark.parametrize("fault", [errno.ENOSYS, errno.EPERM, errno.ESPIPE])
def test_where_no_write_can_be_begun_the_sync_does_it(file: File, fault: int) -> None:
    """Old sandboxes lack the call or forbid it."""
    assert compiled is not None
    done: list[int] = []
    with beginning(fault) as begun:
        answer = file.take(compiled.append, b"one\n", 4, 0, [b"one\n"], lambda: done.append(1))
        assert begun.value == 1
    assert answer == (0, 0, 4, [merkle.leaf_hash(b"one\n")])
    assert done


@needs_script
def test_where_nothing_is_done_meanwhile_no_write_is_begun(file: File) -> None:
    """One call less, and the interpreter lock is not taken in between."""
    assert compiled is not None
    with beginning(errno.EIO) as begun:
        assert file.take(compiled.append, b"one\n", 4, 0, [b"one\n"])[0] == 0
        assert begun.value == 0


@needs_compiled
def test_what_cannot_be_is_refused(file: File) -> None:
    """Before anything is written."""
    assert compiled is not None
    _, *rest = place = (*file.place, 0)
    with pytest.raises(ValueError, match="not as many octets"):
        compiled.append(place, b"one", 4, [], None)
    with pytest.raises(ValueError, match="not as many octets"):
        compiled.append((*file.place, -1), b"one", 3, [], None)
    with pytest.raises(TypeError):
        compiled.append(place, b"one", 3, ["one"], None)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="null"):
        compiled.append((b"a\0b", *rest), b"one", 3, [], None)
    assert os.fstat(file.handle).st_size == 0


@pytest.mark.skipif(sanitizers.are_at_work(), reason="this is that run")
def test_no_test_here_makes_the_compiled_half_misbehave(tmp_path: Path) -> None:
    """The same tests, with its memory and its arithmetic watched, and its calls scripted."""
    script = tmp_path / "script.h"
    script.write_text(SCRIPT)
    sanitizers.run(SOURCE, __file__, tmp_path, "-include", str(script), "-lcrypto")
