"""A fault and its outcome, and what must not change: files and arrays."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cgan_jax.runs.lock import LOCK_FILES

Outcome = Literal["same bits", "detected", "harmless", "silently wrong", "crashed"]
Verdict = tuple[Outcome, str]  # and why


class Try(NamedTuple):
    """A fault, and its outcome."""

    what: str
    outcome: Outcome
    why: str = ""

    @property
    def survived(self) -> bool:
        return self.outcome in ("same bits", "detected", "harmless")


class _NotSurvivedError(Exception):
    """A fault was not survived: the outcome, and why."""


def attempt(what: str, check: Callable[[], Verdict]) -> Try:
    """Try a fault: the verdict of a check, which `expect` and any error end."""
    try:
        return Try(what, *check())
    except _NotSurvivedError as end:
        return Try(what, *end.args)
    except Exception as error:
        return Try(what, "crashed", f"{type(error).__name__}: {last_lines(str(error))}")


def expect(condition: object, why: str, otherwise: Outcome = "crashed") -> None:
    """End an attempt with this outcome unless a condition holds."""
    if not condition:
        raise _NotSurvivedError(otherwise, why)


def census(folder: Path) -> Counter[str]:
    """How often each content is in a folder's files, whatever their names.

    Locks and events are not counted.
    """
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in LOCK_FILES)
    return Counter(digest(file.read_bytes()) for file in files if file.parent.name != "events")


def digests(tree: Any) -> dict[str, str]:
    """Digests of a tree's arrays by path, shape and dtype included."""
    import jax

    return {
        jax.tree_util.keystr(path): digest(repr((leaf.dtype, leaf.shape)).encode() + leaf.tobytes())
        for path, leaf in jax.tree.leaves_with_path(jax.tree.map(np.asarray, tree))
    }


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def flip(path: Path, byte: int, bit: int) -> None:
    """Invert one bit of a file."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def last_lines(text: str) -> str:
    """The last lines of what a command printed, as one short line."""
    return " / ".join(text.strip().splitlines()[-3:])[-300:]
