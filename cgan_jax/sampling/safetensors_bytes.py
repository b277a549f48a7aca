"""Arrays by name and a table of metadata as the bytes of a safetensors file. Imports no JAX."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy

KEY = "cgan_jax"  # of the metadata in the header, whose values are texts


def parse(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the metadata; empty metadata if another program wrote the file."""
    arrays = safetensors.numpy.load(data)
    # The format: the header's length in 8 bytes, then the header, whose texts load() drops.
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return arrays, json.loads(header.get("__metadata__", {}).get(KEY, "{}"))


def dump(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> bytes:
    """The bytes from which `parse` reads these arrays and metadata, a JSON table."""
    texts = {KEY: json.dumps(metadata)} if metadata else None
    return safetensors.numpy.save(dict(arrays), texts)
