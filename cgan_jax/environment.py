"""What the last digits of a run depend on, besides its configuration.

On one machine with one set of versions a run is bitwise repeatable. Another version, device or
number of cores sums in another order: the first step differs by about 1e-9, and training, which is
chaotic, ends in different numbers from the same distribution. A GPU does so as well, unless
XLA_FLAGS contains `--xla_gpu_deterministic_ops=true`.
"""

import os
from collections.abc import Mapping
from importlib.metadata import version

PACKAGES = ("cgan_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_ARITHMETIC = ("cgan_jax", "jax", "jaxlib", "device", "devices", "cores", "xla_flags")


def environment(n_devices: int = 1) -> dict[str, str]:
    """Package versions, kind and number of devices, cores that XLA uses, and XLA_FLAGS."""
    import jax  # here, so that a command line can look into a folder without JAX

    return {package: version(package) for package in PACKAGES} | {
        "device": jax.devices()[0].device_kind,
        "devices": str(n_devices),
        "cores": str(cores()),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def cores() -> int:
    """The number of cores as XLA counts them: those of this process, unless NPROC is set."""
    affinity = getattr(os, "sched_getaffinity", None)  # missing on some systems
    return int(os.environ.get("NPROC") or (len(affinity(0)) if affinity else os.cpu_count() or 1))


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The differences between two environments that may change bits: `jax: 0.10.1 -> 0.10.2`."""
    return [
        f"{name}: {before[name] or 'none'} -> {now[name] or 'none'}"
        for name in _ARITHMETIC
        if name in before and before[name] != now[name]
    ]
