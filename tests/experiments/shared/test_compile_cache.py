"""Compiled programs that outlive a command: used again, never in the way."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

SCRIPT = """
import logging, sys
import jax, jax.numpy as jnp
from experiments.shared.compile_cache import keep_programs

keep_programs()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
logging.getLogger("jax._src.compiler").setLevel(logging.DEBUG)
logging.basicConfig(stream=sys.stdout)
print(jax.jit(lambda x: jnp.cumsum(2 * x))(jnp.arange(5)))
"""


@pytest.fixture
def start(tmp_path):
    """Starts the script in a process of its own; the cache is in `tmp_path/cgan_jax`."""

    def start(**variables):
        environment = os.environ | {"CGAN_JAX_CACHE": str(tmp_path / "cgan_jax")}
        del environment["JAX_COMPILATION_CACHE_DIR"]  # of the tests; see conftest.py
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            cwd=ROOT,
            env=environment | variables,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return start


def kept(folder):
    return [path for path in folder.rglob("jit__lambda*") if path.is_file()]


def test_the_second_start_compiles_nothing(start, tmp_path):
    assert "PERSISTENT COMPILATION CACHE MISS" in start()
    assert kept(tmp_path / "cgan_jax")
    again = start()
    assert "Persistent compilation cache hit for 'jit__lambda" in again
    assert "[ 0  2  6 12 20]" in again


def test_another_number_of_cores_has_programs_of_its_own(start):
    start(NPROC="2")
    assert "PERSISTENT COMPILATION CACHE MISS for 'jit__lambda" in start(NPROC="1")


def test_a_damaged_program_is_compiled_again(start, tmp_path):
    start()
    for path in kept(tmp_path):
        path.write_bytes(path.read_bytes()[:40])
    assert "[ 0  2  6 12 20]" in start()


def test_the_users_own_folder_is_used(start, tmp_path):
    start(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "own"))
    assert kept(tmp_path / "own")
    assert not (tmp_path / "cgan_jax").exists()
