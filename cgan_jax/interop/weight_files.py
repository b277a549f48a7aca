"""State dicts of NumPy arrays in files: safetensors without PyTorch, `.pt` and `.pth` with it.

What the arrays mean is torch_weights.py's business.
"""

import contextlib
import io
import json
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cgan_jax.checks import one_line
from cgan_jax.errors import DataError
from cgan_jax.interop.torch_weights import StateDict, as_array, describe


def load_state_dict(path: str | os.PathLike[str]) -> StateDict:
    """Read a state dict: `.safetensors` without PyTorch, `.pt` or `.pth` with it.

    No code in the file is run (`weights_only=True`).

    Raises:
        DataError: no such file, unreadable or of another kind, or its library is not installed.
    """
    return load_weights(path)[0]


def load_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_state_dict` was given as metadata; empty for a file without any.

    Raises:
        DataError: as `load_state_dict`.
    """
    return load_weights(path)[1]


def load_weights(path: str | os.PathLike[str]) -> tuple[StateDict, dict[str, Any]]:
    """Read both a state dict and its metadata.

    Raises:
        DataError: as `load_state_dict`.
    """
    path = Path(path)
    parse = _codec(path)[0]
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # the latter for a name that no file can have
        raise DataError(
            f"Cannot read the weights in {path}: {_reason(error)}.\n"
            "Expected a file that you may read.\nName another."
        ) from error
    try:
        loaded = parse(data)
    except DataError:
        raise
    except Exception as error:  # The libraries promise no common error type for a bad file.
        raise DataError(
            f"{path} is damaged or not a state dict: {_reason(error)}.\n"
            "Expected tensors by name, of dtypes that NumPy has (so no bfloat16).\n"
            f"Save `module.state_dict()` once more as {path.suffix}."
        ) from error
    return loaded


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
        metadata: a table as JSON has it, to stand under `cgan_jax` in the safetensors header, or in
            the state dict's `_metadata`, where PyTorch keeps its own and overlooks others'.

    Raises:
        DataError: another suffix, an entry that is no array or of a dtype that the format lacks,
            a folder that cannot be written, or a library that is not installed.
    """
    path = Path(path)
    dump = _codec(path)[1]
    arrays: StateDict = {}
    for name, value in state_dict.items():
        array = as_array(value)
        if array is None or array.dtype.kind not in "biuf":
            raise DataError(
                f"Cannot save {one_line(name)}: it is {describe(array)}.\n"
                "Expected an array of a dtype that NumPy itself has, such as float32.\n"
                "Convert it, or leave it out."
            )
        arrays[name] = array
    try:
        data = dump(arrays, dict(metadata or {}))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"Cannot save as {path.suffix}: {_reason(error)}.\nExpected arrays by name.\n"
            "Pass what generator_to_torch or discriminator_to_torch gave."
        ) from error
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            part.unlink()
        raise DataError(
            f"Cannot write the weights to {path}: {_reason(error)}.\n"
            "Expected a folder that you may write to, with space left.\nName another."
        ) from error


_KEY = "cgan_jax"
_Parse = Callable[[bytes], tuple[StateDict, dict[str, Any]]]
_Dump = Callable[[StateDict, dict[str, Any]], bytes]


def _codec(path: Path) -> tuple[_Parse, _Dump]:
    """How to parse and how to dump the bytes of a file with this suffix."""
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return _parse_safetensors, _dump_safetensors
    if suffix in (".pt", ".pth"):
        return _parse_torch, _dump_torch
    raise DataError(
        f"Unknown kind of weights file: {path}.\nExpected .safetensors, .pt or .pth.\n"
        "Name a file of such a kind."
    )


def _parse_safetensors(data: bytes) -> tuple[StateDict, dict[str, Any]]:
    loaded: StateDict = _safetensors().load(data)
    # The format: the header's length in 8 bytes, then the header, whose texts load() does not give.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return loaded, json.loads(header.get("__metadata__", {}).get(_KEY, "{}"))


def _dump_safetensors(arrays: StateDict, metadata: dict[str, Any]) -> bytes:
    texts = {_KEY: json.dumps(metadata)} if metadata else None
    data: bytes = _safetensors().save(arrays, texts)
    return data


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
    return arrays, notes.get(_KEY, {}) if isinstance(notes, Mapping) else {}


def _dump_torch(arrays: StateDict, metadata: dict[str, Any]) -> bytes:
    torch = _torch()
    buffer = io.BytesIO()
    # The copy gives torch memory that it may write to, which JAX's arrays do not.
    tensors = OrderedDict((name, torch.from_numpy(a.copy())) for name, a in arrays.items())
    if metadata:
        tensors._metadata = {_KEY: metadata}  # type: ignore[attr-defined]
    torch.save(tensors, buffer)
    return buffer.getvalue()


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise DataError(
            "Weights in .safetensors files need the safetensors package.\n"
            "Install it with `pip install safetensors`, or use a .pt file."
        ) from error
    return safetensors.numpy


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise DataError(
            "Weights in .pt and .pth files need PyTorch, which is not installed.\n"
            "Install it with `pip install torch`, or convert the file to .safetensors."
        ) from error
    return torch


def _reason(error: Exception) -> str:
    said = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
    return one_line(said or type(error).__name__).rstrip(".")
