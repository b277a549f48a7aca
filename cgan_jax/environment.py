"""What a run's last digits depend on, besides its configuration.

On one machine with one set of versions a run is bitwise repeatable. Another version, device or
number of cores adds up in another order: the first step differs by some 1e-9, and training, which
is chaotic, ends in other numbers of the same distribution. So does a GPU, unless XLA_FLAGS has
`--xla_gpu_deterministic_ops=true`.
"""

import os
from collections.abc import Mapping
from importlib.metadata import version

PACKAGES = ("cgan_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_ARITHMETIC = ("cgan_jax", "jax", "jaxlib", "device", "devices", "cores", "xla_flags")


def environment(n_devices: int = 1) -> dict[str, str]:
    """Versions, kind and number of devices, cores that XLA divides work among, and XLA's flags."""
    import jax  # here, so that a command line can look into a folder without JAX

    return {package: version(package) for package in PACKAGES} | {
        "device": jax.devices()[0].device_kind,
        "devices": str(n_devices),
        "cores": str(cores()),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def cores() -> int:
    """As XLA counts them: those that this process may use, or what NPROC says."""
    usable = getattr(os, "sched_getaffinity", None)  # not on all systems
    return int(os.environ.get("NPROC") or (len(usable(0)) if usable else os.cpu_count() or 1))


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Where two environments differ such that bits may, as `jax: 0.10.1 -> 0.10.2`."""
    return [
        f"{name}: {before[name] or 'none'} -> {now[name] or 'none'}"
        for name in _ARITHMETIC
        if name in before and before[name] != now[name]
    ]
