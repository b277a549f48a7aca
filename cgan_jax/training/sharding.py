"""Data parallelism: each batch is split over a mesh of devices, all else is on each of them.

The step is the same function on any number of devices: BatchNorm's statistics are the whole
batch's, and a row has the same noise wherever it is. Sums are rounded in another order.
"""

from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cgan_jax.errors import ConfigError

AXIS = "batch"
Rows = TypeVar("Rows")


def data_mesh(n_devices: int | None = None) -> Mesh:
    """A mesh of devices to split batches over.

    Args:
        n_devices: how many; by default all, those of all hosts included.

    Raises:
        ConfigError: there are fewer; or of several hosts not all are taken.
    """
    devices = jax.devices()
    n_devices = len(devices) if n_devices is None else n_devices
    if not 1 <= n_devices <= len(devices):
        raise ConfigError(
            f"devices must be in 1..{len(devices)}, not {n_devices}: JAX sees {len(devices)} of "
            f"kind {devices[0].device_kind} here\n"
            "Give fewer. (For trials, JAX_NUM_CPU_DEVICES=8 in the environment makes 8 of a CPU.)"
        )
    if jax.process_count() > 1 and n_devices < len(devices):
        raise ConfigError(
            f"of several hosts all {len(devices)} devices take part, not {n_devices}\n"
            "Omit the number of devices."
        )
    return jax.make_mesh((n_devices,), (AXIS,), (AxisType.Auto,), devices=devices[:n_devices])


def check_shares(batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError where the devices would not have equal shares of a batch."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"a batch of {batch_size} cannot be split equally over {mesh.size} devices\n"
            "Give a batch size that is a multiple of theirs, or another number of devices."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(rows: Rows) -> Rows:
    """Asks for an equal share of the rows on each device of the mesh in whose context jit traces.

    Outside a mesh, or where the rows cannot be shared out equally, as an epoch's last batch, it
    asks for nothing: then each device computes all of them.

    Args:
        rows: a tree of arrays `[B, ...]`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    n_rows = len(jax.tree.leaves(rows)[0])
    if mesh.empty or n_rows % mesh.size:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec(AXIS))
