"""Data parallelism: each batch is split over a mesh of devices; everything else is replicated.

The step is the same function on any number of devices: BatchNorm's statistics are those of the
whole batch, and a row has the same noise on any device. Only the order of summation differs.
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
        n_devices: number of devices; by default all, those of all hosts included.

    Raises:
        ConfigError: there are fewer; or there are several hosts, and these are not all devices.
    """
    devices = jax.devices()
    n_devices = len(devices) if n_devices is None else n_devices
    if not 1 <= n_devices <= len(devices):
        raise ConfigError(
            f"devices must be in 1..{len(devices)}, not {n_devices}: JAX has {len(devices)} of "
            f"kind {devices[0].device_kind} here\n"
            "Give fewer. (To try several, set JAX_NUM_CPU_DEVICES=8, which divides a CPU into 8.)"
        )
    if jax.process_count() > 1 and n_devices < len(devices):
        raise ConfigError(
            f"devices must be {len(devices)}, all of the several hosts, not {n_devices}\n"
            "Omit the number of devices."
        )
    return jax.make_mesh((n_devices,), (AXIS,), (AxisType.Auto,), devices=devices[:n_devices])


def check_shares(batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError if a batch cannot be split equally over the devices."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"a batch of {batch_size} cannot be split equally over {mesh.size} devices\n"
            f"Give a batch size that is a multiple of {mesh.size}, or another number of devices."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding that puts the whole array on each device."""
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(rows: Rows) -> Rows:
    """Constrain rows to be split equally over the devices of the mesh in the context of jit.

    Outside a mesh, or if the rows cannot be split equally, as in an epoch's last batch, there is no
    constraint: then each device computes all rows.

    Args:
        rows: a tree of arrays `[B, ...]`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    n_rows = len(jax.tree.leaves(rows)[0])
    if mesh.empty or n_rows % mesh.size:
        return rows
    return jax.lax.with_sharding_constraint(rows, PartitionSpec(AXIS))
