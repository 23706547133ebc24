"""The compiled key of a machine whose arithmetic goes wrong: every signature that it makes."""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Final

# What happens around OpenSSL's own function, before and after.
FAULTS: Final = {
    "signature": ("", "made[*size / 2] ^= 1;"),
    "first octet": ("", "made[0] ^= 0x80;"),
    "length": ("", "--*size;"),
    "digest": ("lost[7] ^= 1;", ""),
    "refusal": ("", "answer = 0;"),
}
_AROUND = """
#include <openssl/rsa.h>
#include <string.h>
static int faulty_sign(int type, const unsigned char *digest, unsigned digest_size,
                       unsigned char *made, unsigned *size, RSA *key) {
    unsigned char lost[32];
    memcpy(lost, digest, sizeof lost);
    %s
    int answer = RSA_sign(type, lost, digest_size, made, size, key);
    %s
    return answer;
}
#define RSA_sign faulty_sign
"""


def build(source: Path, directory: Path, fault: str) -> ModuleType:
    """`_held_key.c` with one of `FAULTS`."""
    around = directory / "around.h"
    around.write_text(_AROUND % FAULTS[fault])
    built = directory / f"{source.stem}.so"
    flags = ["-shared", "-fPIC", "-std=c11", "-w", "-D_GNU_SOURCE", "-include", str(around)]
    include = "-I" + sysconfig.get_paths()["include"]
    subprocess.run(["cc", *flags, include, str(source), "-lcrypto", "-o", str(built)], check=True)
    spec = importlib.util.spec_from_file_location(source.stem, built)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
