"""Several processes that train one run together, each with its own devices.

The first process is the leader: it alone has the run folder, shows progress and receives signals.
The others take the same steps at the same time, and it decides how many. How a batch is split over
the devices is in sharding.py.
"""

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import jax
import jaxlib.utils  # type: ignore[import-not-found]
import numpy as np
from jax.experimental import multihost_utils

from cgan_jax.checks import one_line
from cgan_jax.device_errors import explain
from cgan_jax.errors import CGANError, RunError
from cgan_jax.training.gan import GANState

_FAILED = -1
_ADVICE = "Earlier checkpoints stay. See its own message, and start all processes again."
_ending = threading.Lock()  # taken by what ends this process, and says why


class _LeaderFailedError(RunError):
    """The leader has failed, and has sent `_FAILED`."""


def initialize(
    coordinator: str | None, n_processes: int | None, process_id: int | None, peer_timeout: int = 60
) -> None:
    """Connect to the other processes. Call it before JAX computes anything.

    If one of them ends or hangs, this one exits with a message and code 1. One that is only busy
    does no harm, however long it is: a thread of JAX's runtime answers for it.

    Under Slurm, Open MPI or Kubernetes JAX knows the first three arguments: pass None.

    Args:
        coordinator: the first process's address, `host:port`.
        n_processes: number of processes.
        process_id: number of this process, from 0.
        peer_timeout: seconds without an answer after which a process counts as dead.

    Raises:
        RunError: an argument is missing or wrong.
    """
    _explain_aborts()
    try:
        jax.distributed.initialize(
            coordinator, n_processes, process_id, heartbeat_timeout_seconds=peer_timeout
        )
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"cannot connect to the other processes: {one_line(error)}\n"
            "Give the first one's address, how many there are, and the number of this one."
        ) from error


def _explain_aborts() -> None:
    """Exit with a message where JAX's runtime would abort, with 30 lines of log.

    It aborts when another process is dead. Its callback for that crashes: a C++ type that it passes
    is unknown to Python. Set TF_CPP_MIN_LOG_LEVEL, such as to 0, to see its log.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "1":  # JAX's default
        jaxlib.utils.absl_set_min_log_level(4)  # fatal errors are of level 3
    if os.name == "posix":
        ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_: int) -> None:
    """Called within the thread that aborts: a handler of Python's would run too late."""
    _end(f"another process has ended or does not answer\n{_ADVICE}", 1)


def _end(message: str, code: int) -> None:
    """End this process from any thread, the main one being held up in a step."""
    if _ending.acquire(blocking=False):
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        end_of_bar = "\n" if os.isatty(2) else ""
        os.write(2, f"{end_of_bar}error: {message}\n".encode())
    else:
        time.sleep(5)  # the main thread is about to exit
    os._exit(code)


def is_leader() -> bool:
    """Whether this is the first process, which has the run folder."""
    return jax.process_index() == 0


def broadcast_int(number: int) -> int:
    """The leader's number in all processes.

    Raises:
        RunError: the leader has failed.
    """
    if jax.process_count() == 1:
        return number
    received = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    if received == _FAILED:
        raise _LeaderFailedError("the first process has failed; see its own message.")
    return received


def broadcast_state(state: GANState | None, like: GANState) -> GANState | None:
    """The leader's state, or None, in all processes."""
    if jax.process_count() == 1 or not broadcast_int(int(state is not None)):
        return state
    if state is None:
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(state))


@contextlib.contextmanager
def report_failure(peer_timeout: int = 60) -> Iterator[None]:
    """Let the processes begin and end together, also if one fails within the `with` statement.

    Args:
        peer_timeout: seconds that a process that has failed waits for the others.

    Raises:
        RunError: another process does not answer, or the leader has failed.
    """
    stop = None
    try:
        broadcast_int(0)  # to connect the devices, for which JAX waits 30 seconds only
        try:
            yield
        except SystemExit as signalled:
            stop = signalled
        broadcast_int(0)  # at its end a process waits 5 minutes only for the leader's last files
    except _LeaderFailedError:
        raise
    except BaseException as error:
        of_device = _is_of_jax(error) or _is_of_jax(error.__cause__)
        if isinstance(error, CGANError) and not of_device and _all_fail(error, peer_timeout):
            raise
        _exit_alone(error)
        if not _is_of_jax(error):
            raise
        raise RunError(
            explain(error)  # of this process's own device
            or f"another process does not answer: {one_line(error)}\n{_ADVICE}"
        ) from error
    if stop:
        raise stop


def _is_of_jax(error: BaseException | None) -> bool:
    # jit makes a ValueError of some failures of the network.
    return isinstance(error, jax.errors.JaxRuntimeError) or "Gloo" in str(error)


def _all_fail(error: CGANError, timeout: int) -> bool:
    """Whether all processes fail here, as with a wrong flag, or are told that the leader does.

    If the others are within a step, this one ends alone after the timeout.
    """
    timer = threading.Timer(timeout, _end, (str(error), 2))
    timer.start()
    try:
        return int(multihost_utils.broadcast_one_to_all(np.int32(_FAILED))) == _FAILED
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    finally:
        timer.cancel()


def _exit_alone(error: BaseException) -> None:
    """Let this process end without waiting for the others, which may wait for it in a step."""
    if not _ending.acquire(blocking=False):
        time.sleep(60)  # another thread is about to exit
    is_interrupt = isinstance(error, KeyboardInterrupt)
    code = 128 + signal.SIGINT if is_interrupt else 2 if isinstance(error, CGANError) else 1
    atexit.register(os._exit, code)
