"""Several processes that train one run together, each with its own devices.

The first process is the leader: it alone has the run folder, shows progress and receives signals.
The others take the same steps at the same time, and it decides how many. How a batch is split over
the devices is in sharding.py.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from cgan_jax.checks import one_line
from cgan_jax.device_errors import explain
from cgan_jax.errors import CGANError, RunError
from cgan_jax.training.gan import GANState

_FAILED = -1


class _LeaderFailedError(RunError):
    """The leader has failed, and has sent `_FAILED`."""


def initialize(coordinator: str | None, n_processes: int | None, process_id: int | None) -> None:
    """Connect to the other processes. Call it before JAX computes anything.

    Under Slurm, Open MPI or Kubernetes JAX knows all three arguments: pass None.

    Args:
        coordinator: the first process's address, `host:port`.
        n_processes: number of processes.
        process_id: number of this process, from 0.

    Raises:
        RunError: the other processes cannot be reached.
    """
    try:
        jax.distributed.initialize(coordinator, n_processes, process_id)
    except (RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise RunError(
            f"cannot connect to the other processes: {first_line}\n"
            "Give --coordinator, --processes and --process-id, the first two alike for all."
        ) from error


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
def report_failure() -> Iterator[None]:
    """End all processes if the leader fails within the `with` statement.

    Raises:
        RunError: another process does not answer, or the leader has failed.
    """
    try:
        yield
    except _LeaderFailedError:
        raise
    except CGANError as error:
        # An error in one process mostly occurs in all at the same place, so all take part; but one
        # device may fail alone.
        if not isinstance(error.__cause__, jax.errors.JaxRuntimeError):
            multihost_utils.broadcast_one_to_all(np.int32(_FAILED))
        raise
    except jax.errors.JaxRuntimeError as error:
        raise RunError(
            explain(error)  # of this process's own device
            or f"another process does not answer: {one_line(error)}\n"
            "Earlier checkpoints stay. See its own message, and start all processes again."
        ) from error
