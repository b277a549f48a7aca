"""Failures of a GPU and its software, simulated by what JAX's issues show that it says then."""

import logging
import os
import threading

import jax
import pytest

from cgan_jax.device_errors import ExplainingFilter, explain
from cgan_jax.errors import RunError
from cgan_jax.training import hosts, loop
from cgan_jax.training.gan import GAN
from experiments.proofs import tiny
from tests.experiments.test_command_line import run_script

MEMORY, IN_USE, NONE = "too little memory", "is in use", "no GPU that it can use"
DRIVER, LIBRARIES, FAILED = "driver, or the GPU, is too old", "libraries", "the GPU failed"
NO_PLUGIN = (
    "An NVIDIA GPU may be present on this machine, but a CUDA-enabled jaxlib is not installed. "
    "Falling back to cpu."
)
OUT_OF_MEMORY = (
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.\n"
    "BufferAssignment OOM Debugging.\nBufferAssignment stats:\n"
    "             parameter allocation:  372.76MiB\n"
)
OUTDATED = (
    "Unable to use CUDA because of the following issues with CUDA components:\n"
    "Outdated cuSPARSE installation found.\nVersion JAX was built against: 12200\n"
    "Minimum supported: 12100\nInstalled version: 12002\n"
)
SAID = {  # what JAX says: what is said in its place; the numbers are of JAX's issues
    OUT_OF_MEMORY: MEMORY,
    "RESOURCE_EXHAUSTED: Failed to allocate request for 6.27GiB (6727663616B) on device ordinal "
    "0": MEMORY,
    "RESOURCE_EXHAUSTED: Out of memory allocating 35184372088832 bytes.": MEMORY,  # on a CPU
    # 16901, 28752; 19035
    "FAILED_PRECONDITION: DNN library initialization failed. Look at the errors above for more "
    "details.": IN_USE,
    "Could not create cudnn handle: CUDNN_STATUS_INTERNAL_ERROR": IN_USE,
    "INTERNAL: CUDA-capable device(s) is/are busy or unavailable": IN_USE,
    "Unable to initialize backend 'cuda': INTERNAL: no supported devices found for platform CUDA": (
        IN_USE
    ),
    # 28376, 9859
    "Unable to initialize backend 'cuda': FAILED_PRECONDITION: No visible GPU devices.": NONE,
    "INTERNAL: CUDA error: Failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is "
    "detected": NONE,
    "Unable to initialize backend 'gpu': Backend 'cuda' provides no devices.": NONE,
    # 11967, 15961, 25344
    "INTERNAL: CUDA driver version is insufficient for CUDA runtime version": DRIVER,
    "kernel version 470.182.3 does not match DSO version 520.61.5 -- cannot find working devices in"
    " this configuration": DRIVER,
    "INTERNAL: CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled with an "
    "unsupported toolchain.": DRIVER,
    "Unknown: no kernel image is available for execution on the device": DRIVER,
    # 18027, 16901, 25344
    OUTDATED: LIBRARIES,
    "Found cuDNN version 8600, but JAX was built against version 8906, which is newer.": LIBRARIES,
    "Unable to load cuDNN. Is it installed?": LIBRARIES,
    "ptxas fatal   : Unsupported .version 8.4; current version is '8.2'": LIBRARIES,
    # 25002, 53
    "INTERNAL: Failed to retrieve branch_index value on stream 0x5583cca477e0: CUDA error: Could "
    "not synchronize CUDA stream: CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was "
    "encountered.": FAILED,
    NO_PLUGIN: "JAX computes on the CPU",
}


@pytest.mark.parametrize(("said", "answer"), SAID.items())
def test_what_jax_says_becomes_what_to_do(said, answer):
    message = explain(RuntimeError(said))
    assert answer in message.splitlines()[0]
    assert len(message.splitlines()) <= 3
    assert max(map(len, message.splitlines())) <= 260


def test_other_errors_are_left_as_they_are():
    assert explain("INVALID_ARGUMENT: Argument does not match host shape or layout") is None
    done = run_script("raise ValueError('RESOURCE_EXHAUSTED')", capture_output=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_command_says_it_in_three_lines():
    """On this CPU, whose memory is too small too."""
    body = "import jax.numpy as jnp; jnp.zeros(1 << 43)"
    done = run_script(body, capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the device has {MEMORY} left: RESOURCE_EXHAUSTED: Out ")
    assert len(done.stderr.splitlines()) == 3


def test_training_raises_it(monkeypatch):
    def out_of_memory(*arguments, **options):
        raise jax.errors.JaxRuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr(loop, "ChunkRunner", out_of_memory)
    with pytest.raises(RunError, match=MEMORY) as caught:
        loop.train(GAN.from_config(tiny.CONFIG), tiny.CONFIG, tiny.dataset())
    assert isinstance(caught.value.__cause__, jax.errors.JaxRuntimeError)


def test_one_of_several_processes_says_it_without_the_others(monkeypatch):
    """They are within a step, and would never take part; nor does it wait for them at its end."""
    at_exit = []
    monkeypatch.setattr(hosts.multihost_utils, "broadcast_one_to_all", lambda number: 1 / 0)
    monkeypatch.setattr(hosts.atexit, "register", lambda *call: at_exit.append(call))
    monkeypatch.setattr(hosts, "_ending", threading.Lock())
    error = RunError(explain(OUT_OF_MEMORY))
    with pytest.raises(RunError, match=MEMORY), hosts.report_failure():
        raise error from jax.errors.JaxRuntimeError(OUT_OF_MEMORY)
    assert at_exit == [(os._exit, 2)]


def test_warnings_are_explained_once(caplog):
    """After a failed start JAX says that nothing is installed (its issue 29068)."""
    logger = logging.getLogger("jax._src.xla_bridge")
    explaining = ExplainingFilter()
    logger.addFilter(explaining)
    try:
        try:
            raise RuntimeError(OUTDATED)
        except RuntimeError:
            logger.exception("Jax plugin configuration error: Exception when calling %s.x()", "a")
        logger.warning(NO_PLUGIN)
        logger.warning("Platform 'METAL' is experimental")
    finally:
        logger.removeFilter(explaining)
    first, other = caplog.records
    assert LIBRARIES in first.getMessage()
    assert first.exc_info is None
    assert other.getMessage() == "Platform 'METAL' is experimental"
