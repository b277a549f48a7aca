"""State dicts of NumPy arrays in files: safetensors without PyTorch, `.pt` and `.pth` with it.

The meaning of the arrays is known to torch_weights.py.
"""

import io
import os
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cgan_jax.checks import errors_as, one_line
from cgan_jax.errors import DataError
from cgan_jax.files import atomic_write
from cgan_jax.interop.torch_weights import StateDict, as_array, describe
from cgan_jax.sampling import safetensors_bytes


def load_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """Read a state dict: `.safetensors` without PyTorch, `.pt` or `.pth` with it.

    No code in the file is run (`weights_only=True`).

    Raises:
        DataError: the file is missing, unreadable or of another kind, or needs a library that is
            not installed.
    """
    return _load(path)[0]


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that `save_state_dict` was given; empty for a file without any.

    Raises:
        DataError: as `load_state_dict`.
    """
    return _load(path)[1]


def save_state_dict(
    path: str | os.PathLike[str],
    state_dict: Mapping[str, Any],
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a state dict of arrays as `.safetensors`, or with PyTorch as `.pt` or `.pth`.

    The file appears whole or not at all; an older one of that name is replaced.

    Args:
        path: the file.
        state_dict: arrays by name.
        metadata: a JSON table. Its place is `cgan_jax` in the safetensors header, or in the state
            dict's `_metadata`, where PyTorch keeps its own and ignores other entries.

    Raises:
        DataError: the suffix is another, an entry is not an array or of a dtype that the format
            lacks, or the format needs a library that is not installed.
        RunError: the file cannot be written.
    """
    path = Path(path)
    is_torch = _is_torch(path)
    arrays: StateDict = {}
    for name, value in state_dict.items():
        array = as_array(value)
        if not isinstance(name, str) or array is None or array.dtype.kind not in "biuf":
            raise DataError(
                f"cannot save {one_line(name)}: it is {describe(array)}\n"
                "expected an array of a dtype that NumPy itself has, such as float32\n"
                "Convert it, or omit it."
            )
        arrays[name] = array
    data = (_dump_torch if is_torch else safetensors_bytes.dump)(arrays, metadata or {})
    with atomic_write(path) as file:
        file.write_bytes(data)


def _load(path: str | os.PathLike[str]) -> tuple[StateDict, dict[str, Any]]:
    path = Path(path)
    parse = _parse_torch if _is_torch(path) else safetensors_bytes.parse
    then = "expected a file that you may read\nName another."
    with errors_as(DataError, f"cannot read the weights in {path}", then):
        data = path.read_bytes()
    then = (
        "expected tensors by name, of dtypes that NumPy has (so no bfloat16)\n"
        f"Save `module.state_dict()` again as {path.suffix}."
    )
    # Neither library documents a common error type.
    with errors_as(DataError, f"{path} is damaged or not a state dict", then):
        return parse(data)


def _is_torch(path: Path) -> bool:
    """Whether a file with this suffix is in PyTorch's format, and not in that of safetensors."""
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", ".pt", ".pth"):
        raise DataError(
            f"unknown kind of weights file: {path}\nexpected .safetensors, .pt or .pth\n"
            "Name a file of such a kind."
        )
    return suffix != ".safetensors"


def _parse_torch(data: bytes) -> tuple[StateDict, dict[str, Any]]:
    torch = _torch()
    loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(loaded, Mapping):
        raise TypeError(f"it holds a {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str):
            raise TypeError(f"an entry is called {name!r}")
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"its entry {name} is a {type(value).__name__}")
    arrays = {name: value.detach().numpy() for name, value in loaded.items()}
    notes = getattr(loaded, "_metadata", None)
    return arrays, notes.get(safetensors_bytes.KEY, {}) if isinstance(notes, Mapping) else {}


def _dump_torch(arrays: StateDict, metadata: Mapping[str, Any]) -> bytes:
    torch = _torch()
    buffer = io.BytesIO()
    # The copy gives torch memory that it may write to, which JAX's arrays do not.
    tensors = OrderedDict((name, torch.from_numpy(a.copy())) for name, a in arrays.items())
    if metadata:
        tensors._metadata = {safetensors_bytes.KEY: dict(metadata)}  # type: ignore[attr-defined]
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _torch() -> Any:
    then = "Install it with `pip install torch`, or convert the file to .safetensors."
    what = "weights in .pt and .pth files need PyTorch, which is not installed"
    with errors_as(DataError, what, then, ImportError):
        import torch
    return torch
