"""A trained generator in one safetensors file: its arrays by name, its description in the header.

Formats for other libraries are in cgan_jax/interop, whose files hold the same description.
"""

import dataclasses
import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cgan_jax.checks import check_class_names, errors_as, one_line, short_repr
from cgan_jax.config import model_from_dict, model_to_dict
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.files import atomic_write
from cgan_jax.models import networks
from cgan_jax.models.base import ConfiguredGenerator
from cgan_jax.models.report import Generator
from cgan_jax.sampling.safetensors_bytes import dump, parse
from cgan_jax.training.gan import check_generator

if TYPE_CHECKING:
    from cgan_jax.sampling.generator import TrainedGenerator

FORMAT = 1


def metadata(generator: "TrainedGenerator") -> dict[str, Any]:
    """The description of a generator in every exported file, as a JSON table.

    Returns:
        `format` (of this table), `cgan_jax` (the version that wrote it), `class_names`,
        `latent_dim`, `img_size` (height and width in pixels; one integer where they are equal),
        `channels`, `value_range` (of the images), `step` (the number of training steps); and to
        build it with, the fields of a `cgan_jax.Generator` under `generator`, or another network's
        configuration under `model`.
    """
    module: Any = generator.module
    table = {
        "format": FORMAT,
        "cgan_jax": version("cgan_jax"),
        "class_names": list(generator.class_names),
        "latent_dim": module.latent_dim,
        "img_size": module.img_size,
        "channels": module.channels,
        "value_range": [-1, 1],
        "step": generator.step,
    }
    if type(module) is Generator:  # a subclass may compute something else
        names = (field.name for field in dataclasses.fields(module))
        settings = {n: getattr(module, n) for n in names if n not in ("parent", "name")}
        table["generator"] = settings
    elif isinstance(module, ConfiguredGenerator) and module == networks(module.config)[0]:
        table["model"] = model_to_dict(module.config)
    return json.loads(json.dumps(table))  # lists for tuples


def check_metadata(table: Any, path: object) -> dict[str, Any]:
    """The metadata of an exported file, checked.

    Raises:
        DataError: they are missing, or of a format that this version cannot read.
    """
    if not isinstance(table, dict) or "format" not in table:
        raise DataError(
            f"{path} was not written by cgan_jax: it lacks the metadata\n"
            "expected a file from TrainedGenerator.save or cgan_jax.interop\nExport it again."
        )
    if table["format"] != FORMAT:
        raise DataError(
            f"{path} has export format {short_repr(table['format'])}\nexpected {FORMAT}\n"
            "Use the version of cgan_jax that wrote it, or a newer one."
        )
    return table


def write(path: Path, generator: "TrainedGenerator") -> None:
    """Write a generator's arrays and metadata; see `TrainedGenerator.save`."""
    arrays = flatten_dict(jax.device_get(generator.variables), sep="/")
    for name, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise ConfigError(
                f"{name} is an array of {array.dtype}\n"
                "expected a dtype that NumPy itself has, such as float32\nConvert it."
            )
    data = dump(arrays, metadata(generator))
    with atomic_write(path) as file:
        file.write_bytes(data)


def read(
    path: Path, module: nn.Module | None = None
) -> tuple[nn.Module, Any, tuple[str, ...], int]:
    """The fields of the `TrainedGenerator` in a file; see `load_generator`.

    Args:
        path: the file.
        module: the network, if it is one of your own.

    Raises:
        DataError: the file is missing or damaged, or its arrays do not fit the network.
        ConfigError: the file does not describe its network and `module` is missing or not a
            generator.
    """
    then = "expected a safetensors file from TrainedGenerator.save\nExport it again."
    with errors_as(DataError, f"{path} cannot be read", then):
        arrays, header = parse(path.read_bytes())
    table = check_metadata(header, path)
    if module is not None:
        check_generator(module)
    elif not table.keys() & {"generator", "model"}:
        raise ConfigError(
            f"{path} holds the weights of a network that is not one of cgan_jax\n"
            "expected that network too\nPass it: load_generator(path, generator=...)."
        )
    try:
        if module is None and "model" in table:
            module = networks(model_from_dict(table["model"]))[0]
        elif module is None:
            # JSON has lists for the widths and the size.
            settings: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in table["generator"].items()
            }
            module = Generator(**settings)
        names, step = check_class_names(table["class_names"], str(path)), int(table["step"])
        inputs = np.zeros((1, module.latent_dim), np.float32), np.zeros(1, np.int32)
        expected = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), *inputs)
    except Exception as error:  # Flax tries to build whatever the header says
        raise _misfit(path, one_line(error)) from error
    expected_shapes = {name: leaf.shape for name, leaf in flatten_dict(expected, sep="/").items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if difference := expected_shapes.items() ^ shapes.items():
        raise _misfit(path, f"{min(difference)[0]} is missing, left over or of another shape")
    return module, unflatten_dict(arrays, sep="/"), names, step


def _misfit(path: object, reason: str) -> DataError:
    return DataError(
        f"{path} does not hold the generator that its header describes: {reason}\n"
        "expected a file from TrainedGenerator.save\nExport it again."
    )
