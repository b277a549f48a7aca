"""What JAX says when a GPU or its software fails, as messages that say what to do.

The patterns are from messages of JAX, XLA and CUDA. Imports no JAX.
"""

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import NamedTuple

from cgan_jax.checks import one_line
from cgan_jax.errors import CGANError, RunError


class _Problem(NamedTuple):
    """A pattern in what JAX says, what was wrong, and what was expected and what to do."""

    pattern: str
    what: str
    then: str


# The first that is found counts.
_PROBLEMS = (
    _Problem(
        r"CUDA-enabled jaxlib is not installed",
        "JAX computes on the CPU",
        "Install JAX's part for GPUs: pip install -e '.[cuda12]', or '.[cuda13]' with a driver "
        "from 580 on.",
    ),
    _Problem(
        r"driver version is insufficient|UNSUPPORTED_PTX_VERSION|unsupported toolchain"
        r"|UnsupportedPtxVersion|does not match DSO version|SYSTEM_DRIVER_MISMATCH"
        r"|no kernel image is available|NO_BINARY_FOR_GPU|COMPAT_NOT_SUPPORTED_ON_DEVICE"
        r"|cuLinkAddData fails",
        "the NVIDIA driver, or the GPU, is too old for the CUDA that JAX was installed with",
        "expected a driver from 580 on for the extra cuda13, from 525 on for cuda12\n"
        "Update it (nvidia-smi shows its version), or install the other extra.",
    ),
    _Problem(
        r"Outdated \w+ installation|but JAX was built against|Unable to load \w+\. Is it installed"
        r"|[Uu]nsupported \.version|Loaded runtime CuDNN|Error loading CUDA libraries",
        "JAX found CUDA libraries that it cannot use",
        "expected those that its extra installs\nUnset LD_LIBRARY_PATH, and install the extra "
        "cuda12 or cuda13 in a fresh environment.",
    ),
    _Problem(
        r"CUDA_ERROR_NO_DEVICE|no CUDA-capable device|No visible GPU devices|provides no devices"
        r"|CUDA_ERROR_SYSTEM_NOT_READY|libcuda\.so|UNKNOWN ERROR \(303\)",
        "JAX finds no GPU that it can use",
        "expected one that nvidia-smi shows, and CUDA_VISIBLE_DEVICES does not hide\n"
        "Give it to this machine or container, or compute on the CPU with JAX_PLATFORMS=cpu.",
    ),
    _Problem(
        r"busy or unavailable|DEVICE_UNAVAILABLE|DNN library initialization failed"
        r"|CUDNN_STATUS_(INTERNAL_ERROR|ALLOC_FAILED|NOT_INITIALIZED)"
        r"|CUBLAS_STATUS_(ALLOC_FAILED|NOT_INITIALIZED)|no supported devices found",
        "the GPU, or its memory, is in use, so that CUDA cannot start",
        "expected a GPU for this program alone, or XLA_PYTHON_CLIENT_MEM_FRACTION=0.4 in each of "
        "two\nEnd what else uses it: nvidia-smi shows it.",
    ),
    _Problem(
        r"RESOURCE_EXHAUSTED|[Oo]ut of memory|CUDA_ERROR_OUT_OF_MEMORY",
        "the device has too little memory left",
        "expected what --dry-run says to be free; of a GPU JAX takes 75% "
        "(XLA_PYTHON_CLIENT_MEM_FRACTION)\n"
        "Give a smaller --batch-size or narrower networks, or end what else nvidia-smi shows.",
    ),
    _Problem(
        r"CUDA_ERROR_(ILLEGAL|LAUNCH|MISALIGNED|ECC|HARDWARE|ASSERT|INVALID_PC)|Xid"
        r"|illegal memory access",
        "the GPU failed in the middle of a computation",
        "Earlier checkpoints stay, and the same command resumes.\n"
        "If it fails again, update the driver and JAX, and try another GPU.",
    ),
)


def explain(said: object) -> str | None:
    """A message of at most three lines for what JAX said, a text or an error; None if unknown."""
    text = str(said)
    for pattern, what, then in _PROBLEMS:
        if found := re.search(rf".*({pattern}).*", text):
            return f"{what}: {one_line(found[0], 160)}\n{then}"
    return None


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Turn errors of JAX that are explained here into ours, in a `with` statement or a function.

    Raises:
        RunError: a GPU or its software has failed, or the memory is too small.
    """
    try:
        yield
    except CGANError:
        raise
    except RuntimeError as error:  # the base of JAX's own
        if message := explain(error):
            raise RunError(message) from error
        raise


class ExplainingFilter(logging.Filter):
    """For the logger of JAX's devices: the first problem in our words, and no others after it.

    JAX computes on the CPU after a warning, and after a failed start it says, misleadingly, that
    nothing is installed.
    """

    def __init__(self) -> None:
        super().__init__()
        self._has_told = False

    def filter(self, record: logging.LogRecord) -> bool:
        cause = record.exc_info[1] if record.exc_info else None
        message = explain(f"{record.getMessage()}\n{cause or ''}")
        if message is None:
            return True
        is_first, self._has_told = not self._has_told, True
        record.msg, record.args, record.exc_info, record.exc_text = message, (), None, None
        return is_first
