"""Exported generators of all formats: inputs and outputs, and the comparison with JAX.

Each format has a file of its name; that of `TrainedGenerator.save` is in cgan_jax/sampling.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from cgan_jax.checks import short_repr
from cgan_jax.errors import ConfigError
from cgan_jax.sampling import generator_file
from cgan_jax.sampling.generator import TrainedGenerator
from cgan_jax.sampling.generator_file import metadata as metadata

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
            ConfigError: the arrays have other shapes, or a label is not a class.
        """
        latent, labels = np.asarray(latent, np.float32), np.asarray(labels, np.int32)
        width, n_classes = self.metadata["latent_dim"], len(self.metadata["class_names"])
        if latent.ndim != 2 or latent.shape[1] != width or labels.shape != latent.shape[:1]:
            raise ConfigError(
                f"the latent points are {list(latent.shape)}, the labels {list(labels.shape)}\n"
                f"expected [B, {width}] and [B]\nPass one label for each latent point."
            )
        if not len(labels) or labels.min() < 0 or labels.max() >= n_classes:
            raise ConfigError(
                f"the labels are {short_repr(labels.tolist())}\n"
                f"expected one or more, in 0..{n_classes - 1}\nPass indices of class_names."
            )
        return np.asarray(self.function(latent, labels))


def images_function(generator: TrainedGenerator) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The generator in evaluation mode: latent points and labels to floats in [-1, 1]."""

    def images(latent: jax.Array, labels: jax.Array) -> jax.Array:
        floats: Any = generator.module.apply(generator.variables, latent, labels, train=False)
        return floats

    return images


def symbolic_inputs(generator: TrainedGenerator) -> tuple[Any, Any]:
    """Shapes and dtypes of latent points and labels, for batches of any size."""
    (batch,) = export.symbolic_shape("batch")
    latent = jax.ShapeDtypeStruct((batch, generator.module.latent_dim), np.float32)
    return latent, jax.ShapeDtypeStruct((batch,), np.int32)


def as_exported(generator: TrainedGenerator) -> ExportedGenerator:
    """A generator that JAX runs, with the signature of an exported one."""
    return ExportedGenerator(jax.jit(images_function(generator)), metadata(generator))


def save_safetensors(path: str | os.PathLike[str], generator: TrainedGenerator) -> None:
    """Write a generator's arrays and metadata; the same as `TrainedGenerator.save`."""
    generator.save(path)


def load_safetensors(path: str | os.PathLike[str]) -> TrainedGenerator:
    """Read what `save_safetensors` wrote; the same as `load_generator`, which takes runs too.

    Raises:
        DataError: the file is missing or damaged, or its arrays do not fit the network.
        ConfigError: the network is your own; see `load_generator`.
    """
    return TrainedGenerator(*generator_file.read(Path(path)))


def largest_difference(
    generator: TrainedGenerator, exported: ExportedGenerator, batches: Sequence[int] = BATCHES
) -> float:
    """The largest difference between an exported generator's images and those of JAX.

    Args:
        generator: the original.
        exported: the generator that was read back.
        batches: batch sizes to try. The last is increased to hold each class at least once.

    Returns:
        the largest absolute difference of pixel values, which are in [-1, 1]; NaN if a value is.
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
