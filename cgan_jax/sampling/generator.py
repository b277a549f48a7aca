"""Pictures on demand: seeds, labels by name, and a trained generator.

The arithmetic is latent_space.py's, reading a run folder run_folder.py's, drawing images.py's.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from os import PathLike
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from cgan_jax.checks import as_int, check_int, check_seed, one_line, short_repr
from cgan_jax.errors import ConfigError
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_generator
from cgan_jax.sampling import latent_space
from cgan_jax.training.gan import GAN

Labels = int | str | Sequence[int | str] | np.ndarray


def generate_latent_points(
    latent_dim: int, n_samples: int, n_classes: int = 10, *, seed: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Draw the generator's inputs, as the report's function of this name.

    Args:
        latent_dim: size of a latent point.
        n_samples: how many.
        n_classes: labels are uniform in [0, n_classes).
        seed: in [0, 2**32). Point i depends on `(seed, i)` alone.

    Returns:
        latent points from N(0, 1), float32 `[n_samples, latent_dim]`, and labels, int32
        `[n_samples]`.

    Raises:
        ConfigError: a number is no whole one, or out of range.
    """
    most = 2**31 - 1
    latent_dim = check_int("latent_dim", latent_dim, 1, most, hint="Give the generator's.")
    n_classes = check_int("n_classes", n_classes, 1, most, hint="Omit it for the default, 10.")
    n_samples = check_int("n_samples", n_samples, 0, most, hint="Give as many as you want images.")
    indices = jnp.arange(n_samples)
    latent = latent_space.latent_points(_key(seed), indices, latent_dim)
    label_keys = jax.vmap(partial(random.fold_in, random.fold_in(_key(seed), 1)))(indices)
    labels = jax.vmap(lambda key: random.randint(key, (), 0, n_classes))(label_keys)
    return latent, labels


def label_ids(labels: Labels, class_names: Sequence[str]) -> np.ndarray:
    """Class ids of labels given as ids, as names (upper or lower case), or as a mixture.

    Returns:
        int32 `[n]`; a single label gives one.

    Raises:
        ConfigError: a label is no class; a misspelt name is answered with the nearest ones.
    """
    flat: Iterable[Any]
    if isinstance(labels, Sequence) and not isinstance(labels, str | bytes):
        flat = labels
    else:  # an array, of NumPy's or another library's, or one label
        flat = np.atleast_1d(labels) if hasattr(labels, "__array__") else [labels]
    return np.array([_label_id(label, class_names) for label in flat], np.int32)


def _label_id(label: Any, class_names: Sequence[str]) -> int:
    ids, near = f"0..{len(class_names) - 1}", ""
    if isinstance(label, str):
        text = label.strip().casefold()
        by_name: dict[str, list[int]] = {}
        for i, name in enumerate(class_names):
            by_name.setdefault(name.strip().casefold(), []).append(i)
        found = by_name.get(text, [])
        if len(found) == 1:
            return found[0]
        if found:
            raise ConfigError(
                f"{len(found)} classes are called {short_repr(label)}\n"
                f"expected a label that is one class's alone\nGive an id: {one_line(found, 50)}."
            )
        if text.isdecimal() and len(text) < 20:
            label = int(text)
        else:
            names = difflib.get_close_matches(text, by_name, n=2, cutoff=0.4)
            near = " or ".join(short_repr(class_names[by_name[name][0]]) for name in names)
    class_id = as_int(label)
    if class_id is None or not 0 <= class_id < len(class_names):
        raise ConfigError(
            f"{short_repr(label)} is no class" + (f"; did you mean {near}?" if near else "") + "\n"
            f"expected one label, or a flat list of them: class ids in {ids}, or names\n"
            f"Give some of {one_line(', '.join(class_names))}."
        )
    return class_id


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator with its weights, in evaluation mode.

    Attributes:
        module: the network.
        variables: its `params` and `batch_stats`.
        class_names: one a class.
        step: how many steps it was trained for.
    """

    module: nn.Module
    variables: Any
    class_names: tuple[str, ...]
    step: int

    def generate(
        self, labels: Labels, *, seed: int = 0, truncation: float | None = None
    ) -> np.ndarray:
        """Generate one image a label.

        Args:
            labels: class ids or names, or one of them.
            seed: in [0, 2**32). Image i depends on `(seed, i, labels[i])` alone, and not on what
                else is asked for with it.
            truncation: keep each latent number within this of 0; see
                `cgan_jax.sampling.latent_space.latent_points`.

        Returns:
            uint8 `[n, H, W, C]`.

        Raises:
            ConfigError: a label is no class, or the seed or the truncation is out of range.
        """
        limit, ids = _truncation(truncation), label_ids(labels, self.class_names)
        return latent_space.generate(self.module, self.variables, ids, _key(seed), limit)

    def morph(
        self,
        start: Labels,
        end: Labels | None = None,
        *,
        seed: int = 0,
        end_seed: int | None = None,
        frames: int = 30,
        truncation: float | None = None,
    ) -> np.ndarray:
        """Generate images on the way from some labels, some latent points, or both, to others.

        The first frame is `generate(start, seed=seed)`, the last `generate(end, seed=end_seed)`.
        Between them a label's embedding moves along a straight line, a latent point along an arc;
        see `cgan_jax.sampling.latent_space.slerp`.

        Args:
            start: class ids or names, or one of them.
            end: the same, as many; one stands for as many as the others are. By default `start`.
            seed: in [0, 2**32); of the latent points at the start, as in `generate`.
            end_seed: of those at the end; by default `seed`.
            frames: how many, at least 2.
            truncation: keep each latent number at both ends within this of 0.

        Returns:
            uint8 `[frames, n, H, W, C]`.

        Raises:
            ConfigError: a label is no class, there are not as many at the end as at the start, a
                number is out of range, or labels are to be mixed in a network without a
                `flax.linen.Embed`.
        """
        frames = check_int("frames", frames, 2, hint="Omit it for the default, 30.")
        starts = label_ids(start, self.class_names)
        ends = starts if end is None else label_ids(end, self.class_names)
        if len(starts) != len(ends) and 1 not in (len(starts), len(ends)):
            raise ConfigError(
                f"end has {len(ends)} labels, start has {len(starts)}\n"
                "expected as many, or one of them alone\nGive one end for each start."
            )
        starts, ends = np.broadcast_arrays(starts, ends)
        keys = _key(seed), _key(seed if end_seed is None else end_seed)
        limit = _truncation(truncation)
        return latent_space.morph(self.module, self.variables, (starts, ends), keys, frames, limit)


def load_generator(
    run_dir: str | PathLike[str],
    *,
    generator: nn.Module | None = None,
    step: int | None = None,
    best: bool = False,
) -> TrainedGenerator:
    """The generator of a run folder, from its newest intact checkpoint, on any machine.

    Whatever discriminator, loss and optimizers it was trained with: only its own arrays are read.

    Args:
        run_dir: the folder.
        generator: the network, where it is one of your own; by default the configuration's.
        step: take the checkpoint of this step in place of the newest.
        best: take the checkpoint in `best/`, which `--eval-every` keeps, in place of the newest.

    Raises:
        RunError: the folder is no run, or holds no checkpoint that can be read.
        ConfigError: `generator` is none.
    """
    run = RunFolder.open(run_dir)
    network = GAN.from_config(run.config).generator if generator is None else generator
    variables, reached = restore_generator(run, network, step=step, best=best)
    return TrainedGenerator(network, variables, run.class_names, reached)


def _truncation(truncation: Any) -> float | None:
    if truncation is None:
        return None
    real = isinstance(truncation, Real) and not isinstance(truncation, bool)
    if not (real and truncation > 0):
        raise ConfigError(
            f"truncation must be a number above 0, not {short_repr(truncation)}\n"
            "Omit it for all of the normal distribution."
        )
    return float(truncation)


def _key(seed: int) -> jax.Array:
    return random.key(check_seed(seed))
