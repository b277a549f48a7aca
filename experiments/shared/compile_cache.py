"""Caches compiled programs between starts of a command."""

import jax

from cgan_jax.data.cache import default_directory
from cgan_jax.environment import cores


def keep_programs() -> None:
    """Let JAX cache compiled programs in the user's cache folder, which is safe to delete.

    There is one folder per number of cores, since XLA divides a program among them, on which its
    last bits depend, but JAX would load it for any number. A folder that the user has set stays.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        folder = default_directory() / f"programs-{cores()}-cores"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
