"""What hashing and measuring a body costs next to SHA-256 alone: `python -m benchmarks.body`.

CPU time per megabyte of both implementations, in turns with plain SHA-256 over the same octets in
the same chunks; best of all turns, because the machine is never idle.  The last line is what a
message of one 4 KB chunk costs, in microseconds.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

from carbonseal.keys import body_hash

MEGABYTE = 1 << 20
CHUNK = 65_535  # what the milter protocol carries at once
TURNS = 15

SENTENCE = b"The quick brown fox jumps over the lazy dog, and then a few more words."
PAGE = (
    b'<table>\r\n  <tr>\r\n    <td class="a">   Name   </td>   \r\n'
    b"\t\t\t<td>&nbsp;  x    y    </td>\r\n          </tr>\r\n</table>          \r\n"
)
BODIES = {
    "text": SENTENCE + b"\r\n",
    "text, every line ends in SP": SENTENCE + b" \r\n",
    "HTML with runs of white space": PAGE,
    "base64": b"QUJD" * 19 + b"\r\n",
    "one line without white space": b"x",
    "8-bit": b"\xc3\xa4",
    "spaces on one line": b" ",
    "tabs on one line": b"\t",
    "a letter, two spaces": b"a  ",
    "empty lines": b"\r\n",
    "bare line feeds": b"\n",
}


def main() -> None:
    """Print the table."""
    names = ["sha256", *body_hash.IMPLEMENTATIONS]
    print(f"MB per second of CPU time (times sha256); in use: {body_hash.IMPLEMENTATION}\n")
    print(f"{'relaxed body':32}" + "".join(f"{name:>18}" for name in names))
    for about, pattern in BODIES.items():
        body = (pattern * (MEGABYTE // len(pattern) + 1))[:MEGABYTE]
        chunks = [body[at : at + CHUNK] for at in range(0, MEGABYTE, CHUNK)]
        best = in_turns({name: task(name, [chunks]) for name in names})
        print(f"{about:32}" + cells(best, {name: 1 / best[name] for name in names}))
    letter = (BODIES["text"] * 60)[:4096]
    count = 500
    best = in_turns({name: task(name, [[letter]] * count) for name in names})
    micro = {name: best[name] / count * 1e6 for name in names}
    print(f"{'one 4 KB text, microseconds':32}" + cells(best, micro))


def task(name: str, bodies: list[list[bytes]]) -> Callable[[], None]:
    """Hash all bodies as the mail path does: in chunks, facts at the end, the digest twice."""

    def plain() -> None:
        for chunks in bodies:
            one = hashlib.sha256()
            for chunk in chunks:
                one.update(chunk)
            one.digest()

    def canonical() -> None:
        for chunks in bodies:
            one = body_hash.IMPLEMENTATIONS[name]("relaxed")
            for chunk in chunks:
                one.update(chunk)
            one.facts(), one.digest(), one.digest()

    return plain if name == "sha256" else canonical


def in_turns(tasks: dict[str, Callable[[], None]]) -> dict[str, float]:
    """Least CPU seconds of each task."""
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(TURNS):
        for name, run in tasks.items():
            before = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - before)
    return best


def cells(best: dict[str, float], shown: dict[str, float]) -> str:
    """One row: the figure, and in brackets the time as a multiple of that of SHA-256."""
    return "".join(f"{shown[name]:10.1f} ({best[name] / best['sha256']:5.2f})" for name in best)


if __name__ == "__main__":
    main()
