"""What exported generators of all formats share: metadata, inputs and outputs, the comparison.

How a format is written and read is in the file of its name.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from cgan_jax.checks import short_repr
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.models.report import Generator
from cgan_jax.sampling.generator import TrainedGenerator

FORMAT = 1
BATCHES = (1, 7, 64)


@dataclass(frozen=True)
class ExportedGenerator:
    """A generator as a function of arrays, whatever library runs it.

    Attributes:
        function: from latent points and labels to images; called by `__call__`.
        metadata: see `metadata`.
    """

    function: Callable[[np.ndarray, np.ndarray], Any]
    metadata: Mapping[str, Any]

    def __call__(self, latent: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Generate one image for each latent point.

        Args:
            latent: float32 `[B, latent_dim]`, from N(0, 1) in training; B is at least 1.
            labels: int32 `[B]`, in [0, number of classes).

        Returns:
            float32 `[B, H, W, C]` in [-1, 1].

        Raises:
            ConfigError: the arrays have other shapes, or a label is no class.
        """
        latent, labels = np.asarray(latent, np.float32), np.asarray(labels, np.int32)
        width, n_classes = self.metadata["latent_dim"], len(self.metadata["class_names"])
        if latent.ndim != 2 or latent.shape[1] != width or labels.shape != latent.shape[:1]:
            raise ConfigError(
                f"the latent points are {list(latent.shape)}, the labels {list(labels.shape)}\n"
                f"expected [B, {width}] and [B]\nGive one label for each latent point."
            )
        if not len(labels) or labels.min() < 0 or labels.max() >= n_classes:
            raise ConfigError(
                f"the labels are {short_repr(labels.tolist())}\n"
                f"expected one or more, in 0..{n_classes - 1}\nGive places in class_names."
            )
        return np.asarray(self.function(latent, labels))


def images_function(generator: TrainedGenerator) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The generator in evaluation mode: latent points and labels to floats in [-1, 1]."""

    def images(latent: jax.Array, labels: jax.Array) -> jax.Array:
        made: Any = generator.module.apply(generator.variables, latent, labels, train=False)
        return made

    return images


def as_exported(generator: TrainedGenerator) -> ExportedGenerator:
    """A generator that JAX runs, called as those of other libraries are."""
    return ExportedGenerator(jax.jit(images_function(generator)), metadata(generator))


def metadata(generator: TrainedGenerator) -> dict[str, Any]:
    """What stands in each exported file, as JSON has it.

    Returns:
        `format` (of this table), `cgan_jax` (the version that wrote it), `class_names`,
        `latent_dim`, `img_size` (height and width in pixels), `channels`, `value_range` (of the
        images), `step` (how many it was trained for); and for a `cgan_jax.Generator`, under
        `generator`, the settings to build it with.
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
    if isinstance(module, Generator):
        names = (field.name for field in dataclasses.fields(module))
        settings = {n: getattr(module, n) for n in names if n not in ("parent", "name")}
        table["generator"] = settings | {"widths": list(module.widths)}
    return table


def library_module(generator: TrainedGenerator, what: str) -> Generator:
    """The generator's module, if its layers are known.

    Raises:
        ConfigError: it is not the library's own; `what` names the format.
    """
    module = generator.module
    if not isinstance(module, Generator):
        raise ConfigError(
            f"a {type(module).__name__} cannot be written as {what}\n"
            "expected a cgan_jax.Generator, whose layers are known\n"
            "Export it as StableHLO, which takes any module."
        )
    return module


def check_metadata(table: Any, where: object) -> dict[str, Any]:
    """Metadata that were read from a file.

    Raises:
        DataError: they are none, or of a format that this version cannot read.
    """
    if not isinstance(table, dict) or "format" not in table:
        raise DataError(
            f"{where} is no generator that cgan_jax exported: it lacks the metadata\n"
            "expected what python -m experiments.export wrote\nExport it again."
        )
    if table["format"] != FORMAT:
        raise DataError(
            f"{where} has export format {short_repr(table['format'])}\nexpected {FORMAT}\n"
            "Use the version of cgan_jax that made it, or a newer one."
        )
    return table


def largest_difference(
    generator: TrainedGenerator, exported: ExportedGenerator, batches: Sequence[int] = BATCHES
) -> float:
    """How far an exported generator's images are from those that JAX makes here.

    Args:
        generator: the original.
        exported: what was read back.
        batches: batch sizes to try. The last also holds each class at least once.

    Returns:
        the largest difference of two floats of the images, which are in [-1, 1]; not a number if
        one of them is not.
    """
    ours = as_exported(generator)
    n_classes = len(generator.class_names)
    rng = np.random.default_rng(0)
    gaps = []
    for n in (*batches[:-1], max(batches[-1], n_classes)):
        latent = rng.standard_normal((n, ours.metadata["latent_dim"]), np.float32)
        labels = np.arange(n, dtype=np.int32) % n_classes
        gaps.append(np.abs(exported(latent, labels) - ours(latent, labels)).max())
    return float(np.max(gaps))
