"""A trained run as an object: its generator and its discriminator. generator.py has the former."""

from dataclasses import dataclass
from os import PathLike
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cgan_jax.checks import as_path
from cgan_jax.config import TrainConfig
from cgan_jax.models import networks
from cgan_jax.models.value_range import to_unit_range
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_discriminator
from cgan_jax.sampling.generator import Labels, TrainedGenerator, label_ids, load_generator
from cgan_jax.sampling.latent_space import CHUNK, in_chunks
from cgan_jax.training.gan import scores_of


@dataclass(frozen=True, eq=False, repr=False)  # arrays have no truth value, and are long
class TrainedDiscriminator:
    """A discriminator with its weights, in evaluation mode.

    Attributes:
        module: the network.
        variables: its collections, such as `params` and `batch_stats`.
        class_names: one per class.
    """

    module: nn.Module
    variables: Any
    class_names: tuple[str, ...]

    def score(self, images: np.ndarray, labels: Labels) -> np.ndarray:
        """How real images of some classes look to it: raw scores, as its loss has them.

        Args:
            images: uint8 `[n, H, W, C]`.
            labels: class ids or names, one per image, or one for all; vectors, floats `[n, K]`, of
                a run that was trained on such.

        Returns:
            float32 `[n]`.

        Raises:
            ConfigError: a label is not a class.
        """
        is_vectors = np.ndim(labels) == 2
        rows = np.asarray(labels, np.float32) if is_vectors else label_ids(labels, self.class_names)
        rows = np.broadcast_to(rows, (len(images), *rows.shape[1:]))
        (scores,) = in_chunks(jax.jit(self._scores), CHUNK, np.asarray(images), rows)
        return scores

    def apply(self, images: jax.Array, labels: jax.Array, **options: Any) -> Any:
        """The discriminator as a plain JAX function, for jit, vmap and grad. Nothing is checked.

        Args:
            images: floats in [-1, 1], `[n, H, W, C]`.
            labels: class ids, integers `[n]`; or vectors, floats `[n, K]`.
            options: of Flax's `apply`.

        Returns:
            what the network returns: scores `[n]`, or a tuple that begins with them.
        """
        return self.module.apply(self.variables, images, labels, train=False, **options)

    def _scores(self, images: jax.Array, labels: jax.Array) -> jax.Array:
        output = self.apply(to_unit_range(images), labels)
        return scores_of(output, len(images)).astype(jnp.float32)


@dataclass(frozen=True, eq=False)
class Run:
    """A trained run.

    Attributes:
        config: its settings.
        class_names: one per class.
        generator: its generator.
        discriminator: its discriminator.
    """

    config: TrainConfig
    class_names: tuple[str, ...]
    generator: TrainedGenerator
    discriminator: TrainedDiscriminator


def load_run(
    run_dir: str | PathLike[str],
    *,
    generator: nn.Module | None = None,
    discriminator: nn.Module | None = None,
    step: int | None = None,
    best: bool = False,
    raw: bool = False,
) -> Run:
    """Both networks of a run folder's newest intact checkpoint.

    Args:
        run_dir: the run folder.
        generator: the network, if it is one of your own; by default that of the configuration.
        discriminator: likewise.
        step: take the checkpoint of this step instead of the newest.
        best: take the checkpoint in `best/` instead of the newest.
        raw: take the generator as it is trained, even where the run keeps an average of it.

    Raises:
        RunError: not a run folder, or it has no checkpoint that can be read.
        ConfigError: `generator` is not a generator.
    """
    run = RunFolder.open(as_path(run_dir, "run_dir"))
    trained = load_generator(run.path, generator=generator, step=step, best=best, raw=raw)
    network = networks(run.config.model)[1] if discriminator is None else discriminator
    variables = restore_discriminator(run, network, trained.module, step=trained.step, best=best)
    judge = TrainedDiscriminator(network, variables, run.class_names)
    return Run(run.config, run.class_names, trained, judge)
