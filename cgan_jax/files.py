"""Writing files that are whole or not there, with errors that say which."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cgan_jax.errors import RunError


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Name the file that the system could not write.

    Raises:
        RunError: in place of any OSError in the `with` statement.
    """
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}.\n"
            "What was saved before is intact. Free some space, or make it writable; then the same "
            "command goes on."
        ) from error


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name to write a file under, which then takes the place of `path`.

    Whoever opens `path`, whenever, sees the old file or the new one. After an error of whatever
    kind in the `with` statement the old one stays, and nothing else.

    Raises:
        RunError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}")  # keeps the suffix, which may tell the format
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
