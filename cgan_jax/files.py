"""Writing files atomically, with errors that name the file."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cgan_jax.errors import RunError


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError in the `with` statement into an error that names the file.

    Raises:
        RunError: instead of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}\n"
            "expected a place with free space that you may write to; earlier files are intact\n"
            "Free some space, or make it writable, then run the same command again."
        ) from error


def check_path(path: Path) -> None:
    """Check that a path can be looked up; it need not exist.

    From Python 3.14 on, `Path.exists` returns False for a name that is too long.

    Raises:
        RunError: it cannot.
    """
    with write_errors(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.stat()


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` when the `with` statement ends.

    A reader of `path` sees either the old file or the complete new one. After any error the old
    file stays, and the temporary one is removed. Missing folders are created.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}")  # the suffix may determine the format
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text as a whole file; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: Path, contents: Any) -> None:
    """Write a file of JSON; see `atomic_write`."""
    write_text(path, json.dumps(contents, indent=2) + "\n")
