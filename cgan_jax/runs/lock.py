"""One process at a time trains in a folder."""

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cgan_jax.errors import RunError
from cgan_jax.files import write_errors

LOCK, HOLDER = ".lock", ".lock.holder"  # two, since Windows lets nobody else read a locked file
LOCK_FILES = {LOCK, HOLDER}
_log = logging.getLogger("cgan_jax")


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep others from training in a folder while the `with` statement lasts.

    The system releases the lock when its process ends, however it ends: the files that stay behind
    block nobody.

    Args:
        folder: created if it does not exist.

    Raises:
        RunError: another process has locked the folder, or it cannot be written.
    """
    holder = folder / HOLDER
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    # Not the library's own fallback: a file that marks the folder would outlive a crash.
    lock = FileLock(folder / LOCK, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        name = ""
        with contextlib.suppress(OSError):  # it may end just now
            name = holder.read_text(encoding="utf-8").strip()
        raise RunError(
            f"{folder} is in use by {name or 'another process'}.\n"
            "Wait for it or stop it; or name another folder."
        ) from None
    except (OSError, NotImplementedError) as error:  # some network file systems have no locks
        _log.warning("%s cannot be locked (%s): let one process at a time use it", folder, error)
    try:
        with write_errors(holder):
            text = f"process {os.getpid()} on {socket.gethostname()}\n"
            holder.write_text(text, encoding="utf-8")
        yield
    finally:
        with contextlib.suppress(OSError):
            holder.unlink()
        lock.release()
