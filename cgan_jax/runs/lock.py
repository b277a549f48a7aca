"""One process at a time trains in a folder."""

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from cgan_jax.errors import RunError

LOCK = ".lock"
_log = logging.getLogger("cgan_jax")


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep others from training in a folder while the `with` statement lasts.

    The system lets go of the lock when its process ends, however it ends; so the file that stays
    behind blocks nobody.

    Args:
        folder: made if there is none.

    Raises:
        RunError: another process has the folder, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")  # not emptied: it may be another's
    except OSError as error:
        raise RunError(f"the run folder {folder} cannot be written: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise RunError(
                f"{folder} is in use by {file.read().strip() or 'another process'}.\n"
                "Wait for it or stop it; or name another folder."
            ) from None
        except OSError as error:  # some network file systems know no locks
            _log.warning("%s cannot be locked (%s): use it once at a time", folder, error.strerror)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
