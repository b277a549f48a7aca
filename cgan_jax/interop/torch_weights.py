"""PyTorch state dicts <-> linen variables for the report's two networks.

Works on plain dicts of NumPy arrays, without PyTorch; weight_files.py reads and writes their files.
The networks themselves are in cgan_jax/models/report.py.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cgan_jax.checks import (
    ImageSize,
    check_img_size,
    check_int,
    height_and_width,
    one_line,
    plural,
    size_text,
)
from cgan_jax.config import ModelConfig
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.model_config import INT32_MAX

StateDict = dict[str, npt.NDArray[Any]]

_COUNTER = ".num_batches_tracked"
_TABLES = {"generator": "label_emb", "discriminator": "label_embedding"}  # PyTorch-GAN's names
_BATCH_NORM = {
    "weight": "params/scale",
    "bias": "params/bias",
    "running_mean": "batch_stats/mean",
    "running_var": "batch_stats/var",
}


class _Entry(NamedTuple):
    """One array under both of its names.

    `indices` has linen's shape, and for each of its values the place in PyTorch's flattened array:
    a linen kernel is the transpose of a PyTorch weight, and image values are in the order (H, W, C)
    there and (C, H, W) here.
    """

    torch_name: str
    torch_shape: tuple[int, ...]
    linen_name: str
    indices: npt.NDArray[np.intp]


def config_from_torch(
    generator: Mapping[str, Any],
    discriminator: Mapping[str, Any],
    *,
    channels: int = 1,
    img_size: ImageSize | None = None,
) -> ModelConfig:
    """The sizes of a pair of networks, read off their PyTorch state dicts.

    Settings without a shape (slopes, dropout rate, BatchNorm's constants) are the report's.

    Args:
        generator: its state dict; see `generator_from_torch`.
        discriminator: its state dict.
        channels: number of channels of the images.
        img_size: their height and width, as in ModelConfig; by default they are square.

    Raises:
        DataError: not a generator and a discriminator of this kind that fit together.
        ConfigError: `channels` is not a positive integer, or `img_size` is not a size.
    """
    channels = check_int("channels", channels, 1, hint="Omit it for the default, 1.")
    if img_size is not None:
        img_size = check_img_size(img_size, "Omit it for square images.")
    (n_classes, label_dim), *gen_shapes = _matrix_shapes("generator", generator)
    (disc_classes, disc_label_dim), *disc_shapes = _matrix_shapes("discriminator", discriminator)
    n_pixels = gen_shapes[-1][0]
    disc_pixels = disc_shapes[0][1] - disc_label_dim
    if (disc_classes, disc_label_dim, disc_pixels) != (n_classes, label_dim, n_pixels):
        raise DataError(
            f"the generator makes {n_pixels} values for {n_classes} classes ({label_dim} numbers "
            f"each), but the discriminator takes {disc_pixels} for {disc_classes} "
            f"({disc_label_dim})\n"
            "expected a pair that was trained together\nPass the generator first."
        )
    size = math.isqrt(n_pixels // channels) if img_size is None else img_size
    if math.prod(height_and_width(size)) * channels != n_pixels:
        shape = "squares" if img_size is None else size_text(img_size)
        raise DataError(
            f"images of {n_pixels} values are not {shape} of {plural(channels, 'channel')}\n"
            "expected the number of values in such an image\n"
            "Pass the channels (--channels), and the size if they are not square (--img-size)."
        )
    try:
        return ModelConfig(
            n_classes=n_classes,
            latent_dim=gen_shapes[0][1] - label_dim,
            label_dim=None if label_dim == n_classes else label_dim,
            img_size=size,
            channels=channels,
            generator_widths=tuple(fan_out for fan_out, _ in gen_shapes[:-1]),
            discriminator_widths=tuple(fan_out for fan_out, _ in disc_shapes[:-1]),
        )
    except ConfigError as error:
        reason, _, _ = str(error).partition("\n")
        raise DataError(
            f"these are not the weights of such networks: {reason}\n"
            "expected a generator and a discriminator like the report's, of any sizes\n"
            "Pass the state dicts of such a pair."
        ) from error


def generator_from_torch(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Linen variables of a generator from its PyTorch state dict.

    Args:
        state_dict: arrays by name, as `torch.nn.Module.state_dict()` has them for an
            `nn.Sequential` called `model` and an embedding called `label_emb` or
            `label_embedding`; a leading `module.` on every name (DataParallel) is dropped.
            `num_batches_tracked` has no place in linen: read it with `batches_tracked`.
        config: the sizes that the weights must have.

    Returns:
        `{"params": ..., "batch_stats": ...}`, nested dicts of NumPy arrays of their own memory,
        values and dtypes unchanged.

    Raises:
        DataError: an entry is missing, unknown, misshaped or not an array of floats.
    """
    return _from_torch("generator", state_dict, config)


def discriminator_from_torch(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Linen variables of a discriminator, `{"params": ...}`; see `generator_from_torch`."""
    return _from_torch("discriminator", state_dict, config)


def generator_to_torch(
    variables: Mapping[str, Any], config: ModelConfig, steps: int = 0
) -> StateDict:
    """PyTorch state dict of a generator from its linen variables; undoes `generator_from_torch`.

    The names are those of PyTorch-GAN's `cgan.py`: the embedding is `label_emb` in the generator,
    `label_embedding` in the discriminator.

    Args:
        variables: `{"params": ..., "batch_stats": ...}`, nested mappings of arrays.
        config: the sizes that the weights must have.
        steps: number of training batches, written as each `num_batches_tracked`.

    Returns:
        Arrays by name, in the order of the module's own state dict, dtypes unchanged.

    Raises:
        DataError: an entry is missing, unknown, misshaped or not an array of floats.
    """
    state_dict: StateDict = {}
    for name, array in _to_torch("generator", variables, config).items():
        state_dict[name] = array
        if counter := _counter(name):
            state_dict[counter] = np.array(steps, np.int64)
    return state_dict


def discriminator_to_torch(variables: Mapping[str, Any], config: ModelConfig) -> StateDict:
    """PyTorch state dict of a discriminator from its linen variables; see `generator_to_torch`."""
    return _to_torch("discriminator", variables, config)


def batches_tracked(state_dict: Mapping[str, Any]) -> int:
    """The number of training batches that a state dict's BatchNorm layers counted; 0 without one.

    Raises:
        DataError: the layers disagree, or a count is not one integer.
    """
    counts = set()
    for name, value in state_dict.items():
        if name.endswith(_COUNTER):
            count = as_array(value)
            good = count is not None and count.shape == () and count.dtype.kind in "iu"
            if count is None or not good or not 0 <= count <= INT32_MAX:
                raise DataError(
                    f"{one_line(name)} is {describe(count)}{f', {count}' if good else ''}\n"
                    "expected a single number of steps\nOmit such entries for 0 steps."
                )
            counts.add(int(count))
    if len(counts) > 1:
        raise DataError(
            f"the BatchNorm layers counted different numbers of batches: {sorted(counts)}\n"
            "expected one number for all layers\nOmit such entries for 0 steps."
        )
    return counts.pop() if counts else 0


def _entries(network: str, config: ModelConfig) -> list[_Entry]:
    """All arrays of a network, in the order of the PyTorch module's state dict.

    The layers in the `nn.Sequential` are Linear, LeakyReLU; then Linear, BatchNorm (in the
    generator) or Dropout (in the discriminator), LeakyReLU for each further width; then Linear.
    """
    is_generator = network == "generator"
    label_dim = config.embedding_width
    height, width, c = config.image_shape
    pixels = np.arange(c * height * width).reshape(c, height, width).transpose(1, 2, 0).ravel()
    if is_generator:
        fan_in, widths = config.latent_dim + label_dim, (*config.generator_widths, len(pixels))
    else:
        fan_in, widths = len(pixels) + label_dim, (*config.discriminator_widths, 1)

    shape = config.n_classes, label_dim
    table = np.arange(math.prod(shape)).reshape(shape)
    entries = [
        _Entry(f"{_TABLES[network]}.weight", shape, "params/label_embedding/embedding", table)
    ]
    position = 0
    for i, width in enumerate(widths):
        is_last = i == len(widths) - 1
        weight, bias = np.arange(width * fan_in).reshape(width, fan_in), np.arange(width)
        if is_generator and is_last:
            weight, bias = weight[pixels], bias[pixels]
        elif not is_generator and i == 0:
            weight[:, : len(pixels)] = weight[:, pixels]  # the label's values come after these
        torch, linen = f"model.{position}", f"params/{'output' if is_last else f'hidden_{i}'}"
        entries += [
            _Entry(f"{torch}.weight", weight.shape, f"{linen}/kernel", weight.T),
            _Entry(f"{torch}.bias", bias.shape, f"{linen}/bias", bias),
        ]
        if is_generator and i > 0 and not is_last:
            for torch_leaf, linen_leaf in _BATCH_NORM.items():
                collection, leaf = linen_leaf.split("/")
                names = f"model.{position + 1}.{torch_leaf}", f"{collection}/batch_norm_{i}/{leaf}"
                entries.append(_Entry(names[0], (width,), names[1], np.arange(width)))
        position += 2 if i == 0 else 3
        fan_in = width
    return entries


def _from_torch(network: str, state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    entries, named = _entries(network, config), _normalised(network, state_dict)
    batches_tracked(named)
    for entry in entries:
        named.pop(_counter(entry.torch_name) or "", None)
    arrays = _checked(network, named, {e.torch_name: e.torch_shape for e in entries})
    variables: dict[str, Any] = {}
    for entry in entries:
        *parents, leaf = entry.linen_name.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = np.take(arrays[entry.torch_name], entry.indices)
    return variables


def _to_torch(network: str, variables: Mapping[str, Any], config: ModelConfig) -> StateDict:
    entries = _entries(network, config)
    expected = {e.linen_name: e.indices.shape for e in entries}
    arrays = _checked(network, dict(_leaves(variables)), expected)
    state_dict: StateDict = {}
    for name, shape, linen_name, indices in entries:
        state_dict[name] = np.empty(shape, arrays[linen_name].dtype)
        state_dict[name].ravel()[indices] = arrays[linen_name]
    return state_dict


def _counter(name: str) -> str | None:
    """The name of a BatchNorm's counter, which PyTorch has after its running variance."""
    layer, _, leaf = name.rpartition(".")
    return layer + _COUNTER if leaf == "running_var" else None


def _normalised(network: str, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The entries, under this network's name for its label embedding and without `module.`."""
    named = dict(state_dict)
    if named and all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): value for name, value in named.items()}
    table = f"{_TABLES[network]}.weight"
    for other in _TABLES.values():
        if table not in named and f"{other}.weight" in named:
            named[table] = named.pop(f"{other}.weight")
    return named


def _matrix_shapes(network: str, state_dict: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The shapes of the embedding and of each Linear's weight, in order of their positions."""
    shapes, table = {}, f"{_TABLES[network]}.weight"
    for name, value in _normalised(network, state_dict).items():
        position = -1 if name == table else re.fullmatch(r"model\.(\d+)\.weight", name)
        array = as_array(value)
        if position and array is not None and array.ndim == 2:
            shapes[position if isinstance(position, int) else int(position[1])] = array.shape
    if -1 not in shapes or len(shapes) < 3:
        raise DataError(
            f"these {len(state_dict)} entries are not the weights of a {network}\n"
            "expected label_emb.weight or label_embedding.weight, and at least two Linear layers "
            "model.<i>.weight\nPass the state dict of a network like the report's, of any sizes."
        )
    return [shapes[position] for position in sorted(shapes)]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _checked(
    network: str, named: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> StateDict:
    """Arrays of these names and shapes.

    Raises:
        DataError: an array is missing, left over, misshaped or not of floats.
    """
    arrays = {name: as_array(value) for name, value in named.items()}
    problems = []
    for name, shape in shapes.items():
        array = arrays.get(name)
        if name not in arrays:
            problems.append(f"{name} of shape {shape} is missing")
        elif array is None or array.shape != shape or not _is_float(array.dtype):
            problems.append(f"{name} is {describe(array)}, expected floats of shape {shape}")
    for name in arrays.keys() - shapes.keys():
        problems.append(f"{name} is {describe(arrays[name])}, which this {network} does not have")
    if problems:
        first = one_line("; ".join(problems[:3]), 480)
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(
            f"these are not the weights of this {network}: {first}{more}\n"
            f"expected {len(shapes)} arrays with the sizes of the ModelConfig\n"
            "Pass the ModelConfig that the weights were trained with."
        )
    return {name: array for name, array in arrays.items() if array is not None}


def as_array(value: Any) -> npt.NDArray[Any] | None:
    """`value` as an array, without copying where possible; None if it is not an array."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if array.dtype.kind in "OSU" else array  # objects and text


def describe(array: npt.NDArray[Any] | None) -> str:
    return "not an array" if array is None else f"{array.dtype} of shape {array.shape}"


def _is_float(dtype: np.dtype[Any]) -> bool:
    # NumPy itself does not know the floats of 16 and fewer bits that JAX brings along.
    return np.issubdtype(dtype, np.floating) or dtype.name.startswith(("bfloat", "float"))
