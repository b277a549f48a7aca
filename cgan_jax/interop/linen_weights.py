"""A generator in one safetensors file: its arrays under plain names, what it needs in the header.

How arrays are stored is weight_files.py's; PyTorch's names for them are torch_weights.py's.
"""

import os
from functools import partial

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cgan_jax.checks import check_class_names, one_line
from cgan_jax.errors import DataError
from cgan_jax.interop.exported import check_metadata, library_module, metadata
from cgan_jax.interop.weight_files import load_weights, save_state_dict
from cgan_jax.models.report import Generator
from cgan_jax.sampling.generator import TrainedGenerator


def save_safetensors(path: str | os.PathLike[str], generator: TrainedGenerator) -> None:
    """Write a generator's parameters and batch statistics, and what is needed to build it again.

    The arrays are called `params/hidden_0/kernel`, `batch_stats/batch_norm_1/mean` and so on. The
    header's metadata hold `metadata`'s table as JSON, under `cgan_jax`.

    Args:
        path: the file, with the suffix `.safetensors`; an older one of that name is replaced.
        generator: one whose module is a `cgan_jax.Generator`, which the header can describe.

    Raises:
        ConfigError: its module is another.
        DataError: the suffix is another, or the file cannot be written.
    """
    library_module(generator, "safetensors")
    arrays = flatten_dict(jax.device_get(generator.variables), sep="/")
    save_state_dict(path, arrays, metadata(generator))


def load_safetensors(path: str | os.PathLike[str]) -> TrainedGenerator:
    """Read what `save_safetensors` wrote: the generator, as `load_generator` gives it.

    Raises:
        DataError: no such file, damaged, or its arrays are not those of the generator it describes.
    """
    arrays, header = load_weights(path)
    table = check_metadata(header, path)
    try:
        settings = table["generator"]
        module = Generator(**settings | {"widths": tuple(settings["widths"])})
        names, step = check_class_names(table["class_names"], str(path)), int(table["step"])
        inputs = np.zeros((1, module.latent_dim), np.float32), np.zeros(1, np.int32)
        wanted = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), *inputs)
    except Exception as error:  # whatever the header says, Flax tries to build
        raise _unfit(path, one_line(error)) from error
    shapes = {name: leaf.shape for name, leaf in flatten_dict(wanted, sep="/").items()}
    if found := shapes.items() ^ {name: array.shape for name, array in arrays.items()}.items():
        raise _unfit(path, f"{min(found)[0]} is missing, left over or of another shape")
    return TrainedGenerator(module, unflatten_dict(arrays, sep="/"), names, step)


def _unfit(path: object, reason: str) -> DataError:
    return DataError(
        f"{path} does not hold the generator that its header describes: {reason}\n"
        "expected what save_safetensors wrote\nExport it again."
    )
