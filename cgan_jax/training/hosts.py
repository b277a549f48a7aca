"""Several processes that train one run together, each with its own devices: who leads, who follows.

The first process leads: it alone has the run folder, shows progress and hears signals. The others
take the same steps at the same time, as many as it says. How a batch is split over the devices is
cgan_jax/sharding.py's.
"""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from cgan_jax.checks import one_line
from cgan_jax.errors import CGANError, RunError
from cgan_jax.training.gan import GANState

_FAILED = -1


class _LeaderFailedError(RunError):
    """The first process has failed, and has told so."""


def initialize(coordinator: str | None, n_processes: int | None, process_id: int | None) -> None:
    """Meet the other processes. To be called before JAX computes anything.

    Args:
        coordinator: the first process's address, `host:port`; None where JAX finds out by itself,
            as under Slurm, Open MPI or Kubernetes.
        n_processes: how many there are, likewise.
        process_id: this one's number, from 0, likewise.

    Raises:
        RunError: they cannot be found.
    """
    try:
        jax.distributed.initialize(coordinator, n_processes, process_id)
    except (RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0]
        raise RunError(
            f"the other processes cannot be met: {first_line}\n"
            "Give --coordinator, --processes and --process-id, the first two alike to all."
        ) from error


def is_leader() -> bool:
    """Whether this process has the run folder."""
    return jax.process_index() == 0


def broadcast_int(number: int) -> int:
    """The leader's number, in all processes.

    Raises:
        RunError: the leader has failed.
    """
    if jax.process_count() == 1:
        return number
    agreed = int(multihost_utils.broadcast_one_to_all(np.int32(number)))
    if agreed == _FAILED:
        raise _LeaderFailedError("the first process has failed; what it says tells why.")
    return agreed


def broadcast_state(state: GANState | None, like: GANState) -> GANState | None:
    """The leader's state, or that it has none, in all processes."""
    if jax.process_count() == 1 or not broadcast_int(int(state is not None)):
        return state
    if state is None:
        state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    shared: GANState = jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(state))
    return shared


@contextlib.contextmanager
def report_failure() -> Iterator[None]:
    """Around what a process does: should the leader fail, the others hear of it and end, too.

    Raises:
        RunError: another process does not answer.
    """
    try:
        yield
    except _LeaderFailedError:
        raise
    except CGANError:
        # What fails in one mostly fails in all at the same place, so all of them take part.
        multihost_utils.broadcast_one_to_all(np.int32(_FAILED))
        raise
    except jax.errors.JaxRuntimeError as error:
        raise RunError(
            f"another process does not answer: {one_line(error)}\n"
            "What was saved before stays. See what it says, and start all of them again."
        ) from error
