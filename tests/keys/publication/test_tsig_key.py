"""TSIG key files: what tsig-keygen prints is read, everything else is refused in one sentence."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbonseal.keys.publication import secret_file, tsig_key
from carbonseal.policies import errors

SECRET = base64.b64encode(bytes(range(32))).decode()
GOOD = f'key "dkim-key" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A private file."""
    path = tmp_path / "tsig.key"
    path.touch(mode=0o600)
    return path


@pytest.mark.parametrize(
    "command",
    [
        ["tsig-keygen", "dkim-key"],
        ["tsig-keygen", "-a", "hmac-sha512", "dkim-key"],
        ["ddns-confgen", "-q", "-k", "dkim-key"],
    ],
    ids=" ".join,
)
def test_what_binds_tools_print_is_read(file: Path, command: list[str]) -> None:
    """As it comes, with any algorithm of ours."""
    printed = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    file.write_text(printed)
    key = tsig_key.read(file)
    assert key.name == "dkim-key"
    assert base64.b64encode(key.secret).decode() in printed
    assert key.algorithm in printed


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(GOOD, id="as-printed"),
        pytest.param(f"key dkim-key{{secret {SECRET};algorithm HMAC-SHA256.;}};", id="bare"),
        pytest.param(f"# a\n// b\n/* c\n */{GOOD}# end", id="comments"),
        pytest.param(GOOD.replace("\n", "\r\n"), id="crlf"),
        pytest.param(GOOD.replace("dkim-key", "DKIM-Key."), id="capitals-and-dot"),
    ],
)
def test_the_form_may_vary_as_named_allows(file: Path, text: str) -> None:
    file.write_text(text)
    assert tsig_key.read(file) == tsig_key.TsigKey("dkim-key", "hmac-sha256", bytes(range(32)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "does not begin", id="empty"),
        pytest.param(SECRET, "does not begin", id="bare-secret"),
        pytest.param(GOOD + GOOD, "one key", id="two-keys"),
        pytest.param(GOOD.replace("};", ""), "one key", id="cut-short"),
        pytest.param(GOOD + "nsupdate -k <keyfile>", "one key", id="ddns-confgen-with-its-advice"),
        pytest.param(GOOD.replace(SECRET, "x"), "not base64", id="no-base64"),
        pytest.param(GOOD.replace(SECRET, "c2hvcnQ="), "guessed", id="short-secret"),
        pytest.param(GOOD.replace("sha256", "md5"), "algorithm is none of", id="md5"),
        pytest.param(GOOD.replace("algorithm hmac-sha256;", ""), "both", id="no-algorithm"),
        pytest.param(GOOD.replace("algorithm", "secret"), "each once", id="secret-twice"),
        pytest.param(GOOD.replace("algorithm", "include"), "nothing else", id="other-clause"),
        pytest.param(GOOD.replace("dkim-key", "a..b"), "no domain name", id="name"),
        pytest.param("/* " + GOOD, "line 1 cannot be read", id="open-comment"),
        pytest.param(GOOD.replace("dkim", "dkím"), "ASCII", id="not-ascii"),
        pytest.param(GOOD + "#" * secret_file.MAX_SIZE, "16 KiB", id="too-long"),
    ],
)
def test_everything_else_is_refused_without_telling_the_secret(
    file: Path, text: str, said: str
) -> None:
    """One sentence with the path and a remedy."""
    file.write_text(text)
    with pytest.raises(errors.ConfigurationError) as caught:
        tsig_key.read(file)
    assert said in caught.value.sentence
    assert str(file) in caught.value.sentence
    assert SECRET not in caught.value.sentence
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text(st.sampled_from('key{};"/*#\n a='), max_size=300))
def test_any_text_is_a_key_or_one_sentence(text: str) -> None:
    """The reader is total."""
    path = Path("tsig.key")
    with contextlib.suppress(errors.ConfigurationError):
        tsig_key._tokens(path, text)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o660, 0o602])
def test_a_file_that_others_may_use_is_refused(file: Path, mode: int) -> None:
    """With the command that mends it."""
    file.write_text(GOOD)
    file.chmod(mode)
    with pytest.raises(errors.ConfigurationError, match=r"too many may use it.*run: chmod 6"):
        tsig_key.read(file)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_private_file_is_read(file: Path, mode: int) -> None:
    """A group may read it: the service's."""
    file.write_text(GOOD)
    file.chmod(mode)
    assert tsig_key.read(file).name == "dkim-key"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, because the file is given away")
def test_a_strangers_file_is_refused(file: Path) -> None:
    """Its owner could change it at any time."""
    file.write_text(GOOD)
    os.chown(file, 12399, -1)
    with pytest.raises(errors.ConfigurationError, match="another user"):
        tsig_key.read(file)


@pytest.mark.parametrize("kind", ["directory", "fifo", "missing"])
def test_what_is_no_file_does_not_hold_us(tmp_path: Path, kind: str) -> None:
    """A FIFO would wait for a writer for ever."""
    path = tmp_path / "key"
    if kind == "directory":
        path.mkdir(mode=0o700)
    if kind == "fifo":
        os.mkfifo(path, 0o600)
    with pytest.raises(errors.ConfigurationError, match=r"no regular file|cannot be read"):
        tsig_key.read(path)
