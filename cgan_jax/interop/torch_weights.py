"""PyTorch state dicts <-> linen variables for the report's two networks.

Works on plain dicts of NumPy arrays, without PyTorch; their files are weight_files.py's.
The networks themselves live in cgan_jax.models.report; training state and checkpoints elsewhere.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cgan_jax.checks import check_int, one_line
from cgan_jax.config import INT32_MAX, ModelConfig
from cgan_jax.errors import ConfigError, DataError

StateDict = dict[str, npt.NDArray[Any]]

_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class _Entry:
    """One array under both of its names.

    `pixels` numbers the image's values in linen's order (H, W, C) by their place in PyTorch's
    order (C, H, W); they lead the PyTorch array's axis `pixel_axis`.
    """

    torch_name: str
    linen_name: str
    torch_shape: tuple[int, ...]
    transposed: bool = False
    pixels: npt.NDArray[np.intp] | None = None
    pixel_axis: int = 0

    @property
    def linen_shape(self) -> tuple[int, ...]:
        return self.torch_shape[::-1] if self.transposed else self.torch_shape

    def to_linen(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = np.take(array, self._order(), self.pixel_axis)
        return np.ascontiguousarray(array.T if self.transposed else array)

    def to_torch(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        array = array.T if self.transposed else array
        return np.ascontiguousarray(np.take(array, np.argsort(self._order()), self.pixel_axis))

    def _order(self) -> npt.NDArray[np.intp]:
        order = np.arange(self.torch_shape[self.pixel_axis])
        if self.pixels is not None:
            order[: len(self.pixels)] = self.pixels
        return order


def config_from_torch(
    generator: Mapping[str, Any], discriminator: Mapping[str, Any], *, channels: int = 1
) -> ModelConfig:
    """The sizes of a pair of networks, read off their PyTorch state dicts.

    What shapes do not tell (slopes, dropout rate, BatchNorm's constants) is the report's.

    Args:
        generator: its state dict; see `generator_from_torch`.
        discriminator: its state dict.
        channels: of the images, which are taken to be square.

    Raises:
        DataError: these are not a generator and a discriminator of this kind that fit.
        ConfigError: `channels` is no number of channels.
    """
    channels = check_int("channels", channels, 1, hint="Omit it for the default, 1.")
    gen, disc = _normalised(generator), _normalised(discriminator)
    (n_classes, label_dim), *gen_shapes = _matrix_shapes("generator", gen)
    (disc_classes, disc_label_dim), *disc_shapes = _matrix_shapes("discriminator", disc)
    n_pixels = gen_shapes[-1][0]
    img_size = math.isqrt(n_pixels // channels)
    seen = disc_shapes[0][1] - disc_label_dim
    if (disc_classes, disc_label_dim, seen) != (n_classes, label_dim, n_pixels):
        raise DataError(
            f"The generator makes {n_pixels} values for {n_classes} classes ({label_dim} numbers "
            f"each), but the discriminator takes {seen} for {disc_classes} ({disc_label_dim}).\n"
            "Expected a pair that was trained together.\nPass the generator first."
        )
    if channels * img_size**2 != n_pixels:
        raise DataError(
            f"{n_pixels} values an image are no square of {channels} channels.\n"
            "Expected as many values as a square image of so many channels has.\n"
            "Name the number of channels that the images have."
        )
    try:
        return ModelConfig(
            n_classes=n_classes,
            latent_dim=gen_shapes[0][1] - label_dim,
            label_dim=None if label_dim == n_classes else label_dim,
            img_size=img_size,
            channels=channels,
            generator_widths=tuple(fan_out for fan_out, _ in gen_shapes[:-1]),
            discriminator_widths=tuple(fan_out for fan_out, _ in disc_shapes[:-1]),
        )
    except ConfigError as error:
        reason, _, _ = str(error).partition("\n")
        raise DataError(
            f"These are not the weights of such networks: {reason}.\n"
            "Expected a generator and a discriminator as the report's, of any sizes.\n"
            "Pass the state dicts of such a pair."
        ) from error


def generator_from_torch(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Linen variables of a generator from its PyTorch state dict.

    Args:
        state_dict: arrays by name, as `torch.nn.Module.state_dict()` has them for an
            `nn.Sequential` called `model` and an embedding called `label_embedding` or `label_emb`
            (PyTorch-GAN's name); a leading `module.` on every name (DataParallel) is dropped.
            `num_batches_tracked` has no place in linen: read it with `batches_tracked`.
        config: the sizes that the weights must have.

    Returns:
        `{"params": ..., "batch_stats": ...}`, nested dicts of NumPy arrays of their own memory,
        values and dtypes unchanged.

    Raises:
        DataError: an entry is missing, unknown, misshaped or not an array of floats.
    """
    return _from_torch("generator", state_dict, _generator_entries(config))


def discriminator_from_torch(state_dict: Mapping[str, Any], config: ModelConfig) -> dict[str, Any]:
    """Linen variables of a discriminator, `{"params": ...}`; see `generator_from_torch`."""
    return _from_torch("discriminator", state_dict, _discriminator_entries(config))


def generator_to_torch(
    variables: Mapping[str, Any], config: ModelConfig, steps: int = 0
) -> StateDict:
    """PyTorch state dict of a generator from its linen variables; undoes `generator_from_torch`.

    Args:
        variables: `{"params": ..., "batch_stats": ...}`, nested mappings of arrays.
        config: the sizes that the weights must have.
        steps: batches the generator was trained on, written as each `num_batches_tracked`.

    Returns:
        Arrays by name, in the order of the module's own state dict, dtypes unchanged.

    Raises:
        DataError: an entry is missing, unknown, misshaped or not an array of floats.
    """
    state_dict: StateDict = {}
    for name, array in _to_torch("generator", variables, _generator_entries(config)).items():
        state_dict[name] = array
        if name.endswith(".running_var"):
            state_dict[name.removesuffix(".running_var") + _COUNTER] = np.array(steps, np.int64)
    return state_dict


def discriminator_to_torch(variables: Mapping[str, Any], config: ModelConfig) -> StateDict:
    """PyTorch state dict of a discriminator from its linen variables; see `generator_to_torch`."""
    return _to_torch("discriminator", variables, _discriminator_entries(config))


def batches_tracked(state_dict: Mapping[str, Any]) -> int:
    """The training batches that a state dict's BatchNorm layers have counted; 0 without a count.

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
                    f"{one_line(name)} is {describe(count)}{f', {count}' if good else ''}.\n"
                    "Expected a single number of steps.\nLeave such entries out for 0 steps."
                )
            counts.add(int(count))
    if len(counts) > 1:
        raise DataError(
            f"The BatchNorm layers have counted different numbers of batches: {sorted(counts)}.\n"
            "Expected one number, as layers that are trained together have.\n"
            "Leave such entries out for 0 steps."
        )
    return counts.pop() if counts else 0


def _generator_entries(config: ModelConfig) -> list[_Entry]:
    widths = config.generator_widths
    entries = [_embedding_entry(config)]
    fan_in = config.latent_dim + _label_dim(config)
    position = 0
    for i, width in enumerate(widths):
        entries += _linear_entries(position, f"hidden_{i}", fan_in, width)
        position += 1
        if i > 0:
            torch_name, linen_name = f"model.{position}", f"batch_norm_{i}"
            for torch_leaf, linen_leaf in [
                ("weight", f"params/{linen_name}/scale"),
                ("bias", f"params/{linen_name}/bias"),
                ("running_mean", f"batch_stats/{linen_name}/mean"),
                ("running_var", f"batch_stats/{linen_name}/var"),
            ]:
                entries.append(_Entry(f"{torch_name}.{torch_leaf}", linen_leaf, (width,)))
            position += 1
        position += 1  # LeakyReLU
        fan_in = width
    pixels = _pixels(config)
    weight = (len(pixels), fan_in)
    kernel, bias = "params/output/kernel", "params/output/bias"
    entries += [
        _Entry(f"model.{position}.weight", kernel, weight, transposed=True, pixels=pixels),
        _Entry(f"model.{position}.bias", bias, weight[:1], pixels=pixels),
    ]
    return entries


def _discriminator_entries(config: ModelConfig) -> list[_Entry]:
    entries = [_embedding_entry(config)]
    pixels = _pixels(config)
    fan_in = len(pixels) + _label_dim(config)
    position = 0
    for i, width in enumerate(config.discriminator_widths):
        seen = pixels if i == 0 else None
        entries += _linear_entries(position, f"hidden_{i}", fan_in, width, seen)
        position += 2 if i == 0 else 3  # LeakyReLU, and Dropout before it from the second on.
        fan_in = width
    return entries + _linear_entries(position, "output", fan_in, 1)


def _embedding_entry(config: ModelConfig) -> _Entry:
    shape = (config.n_classes, _label_dim(config))
    return _Entry("label_embedding.weight", "params/label_embedding/embedding", shape)


def _linear_entries(
    position: int,
    linen_name: str,
    fan_in: int,
    fan_out: int,
    input_pixels: npt.NDArray[np.intp] | None = None,
) -> list[_Entry]:
    """A Linear at `model.<position>`, whose input may start with an image."""
    return [
        _Entry(
            f"model.{position}.weight",
            f"params/{linen_name}/kernel",
            (fan_out, fan_in),
            transposed=True,
            pixels=input_pixels,
            pixel_axis=1,
        ),
        _Entry(f"model.{position}.bias", f"params/{linen_name}/bias", (fan_out,)),
    ]


def _label_dim(config: ModelConfig) -> int:
    return config.n_classes if config.label_dim is None else config.label_dim


def _pixels(config: ModelConfig) -> npt.NDArray[np.intp]:
    c, size = config.channels, config.img_size
    return np.arange(c * size * size).reshape(c, size, size).transpose(1, 2, 0).ravel()


def _from_torch(what: str, state_dict: Mapping[str, Any], entries: list[_Entry]) -> dict[str, Any]:
    named = _normalised(state_dict)
    batches_tracked(named)
    layers = {e.torch_name.rpartition(".")[0] for e in entries if e.torch_name.endswith("_var")}
    for layer in layers:
        named.pop(layer + _COUNTER, None)

    arrays = _checked(what, named, {e.torch_name: e.torch_shape for e in entries})
    variables: dict[str, Any] = {}
    for entry in entries:
        *parents, leaf = entry.linen_name.split("/")
        node = variables
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = entry.to_linen(arrays[entry.torch_name])
    return variables


def _normalised(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The entries under the names that this module uses for them."""
    named = dict(state_dict)
    if named and all(name.startswith("module.") for name in named):
        named = {name.removeprefix("module."): value for name, value in named.items()}
    if "label_emb.weight" in named and "label_embedding.weight" not in named:
        named["label_embedding.weight"] = named.pop("label_emb.weight")
    return named


def _matrix_shapes(what: str, named: Mapping[str, Any]) -> list[tuple[int, int]]:
    """The shapes of the embedding and of each Linear's weight, in order of their places."""
    layers = {}
    for name, value in named.items():
        place = re.fullmatch(r"label_embedding\.weight|model\.(\d+)\.weight", name)
        array = as_array(value)
        if place and array is not None and array.ndim == 2:
            layers[int(place[1] or -1)] = array.shape
    if -1 not in layers or len(layers) < 3:
        raise DataError(
            f"These {len(named)} entries are not the weights of a {what}.\n"
            "Expected a label_embedding.weight and at least two Linear layers model.<i>.weight.\n"
            "Pass the state dict of a network as the report's, of any sizes."
        )
    return [layers[place] for place in sorted(layers)]


def _to_torch(what: str, variables: Mapping[str, Any], entries: list[_Entry]) -> StateDict:
    expected = {e.linen_name: e.linen_shape for e in entries}
    arrays = _checked(what, dict(_leaves(variables)), expected)
    return {e.torch_name: e.to_torch(arrays[e.linen_name]) for e in entries}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def _checked(
    what: str, named: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]
) -> StateDict:
    """The expected arrays by name; DataError when anything is missing, left over or wrong."""
    problems = []
    arrays: StateDict = {}
    for name, shape in expected.items():
        if name not in named:
            problems.append(f"{name} of shape {shape} is missing")
            continue
        array = as_array(named[name])
        if array is None or array.shape != shape or not _is_float(array.dtype):
            problems.append(f"{name} is {describe(array)}, expected floats of shape {shape}")
            continue
        arrays[name] = array
    for name in named.keys() - expected.keys():
        found = describe(as_array(named[name]))
        problems.append(f"{name} is {found}, which this {what} does not have")
    if problems:
        shown = "; ".join(problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(
            f"These are not the weights of this {what}: {one_line(shown, 480)}{more}.\n"
            f"Expected {len(expected)} arrays with the sizes of the ModelConfig.\n"
            "Pass the ModelConfig that the weights were trained with."
        )
    return arrays


def as_array(value: Any) -> npt.NDArray[Any] | None:
    """`value` as an array without copying where possible, None if it is none."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if array.dtype.kind in "OSU" else array  # objects and text


def describe(array: npt.NDArray[Any] | None) -> str:
    return "no array" if array is None else f"{array.dtype} of shape {array.shape}"


def _is_float(dtype: np.dtype[Any]) -> bool:
    # NumPy itself does not know the floats of 16 and fewer bits that JAX brings along.
    return np.issubdtype(dtype, np.floating) or dtype.name.startswith(("bfloat", "float"))
