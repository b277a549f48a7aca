"""Keeps compiled programs from one start of a command to the next."""

from pathlib import Path

import jax

from cgan_jax.data.cache import default_directory
from cgan_jax.environment import cores


def keep_programs() -> None:
    """Have JAX keep what it compiles in the user's cache folder, which is safe to delete.

    A folder for each number of cores: a program is cut into as many parts, on which its last bits
    depend, but JAX would load it for any number. A folder that the user gave to JAX stays.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(_folder()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _folder() -> Path:
    return default_directory() / f"programs-{cores()}-cores"
