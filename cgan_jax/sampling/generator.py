"""Trained generators: images by seed and by label name.

The arithmetic is in latent_space.py, the file format of `TrainedGenerator.save` in
generator_file.py.
"""

import difflib
import math
import os
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
import numpy.typing as npt
from jax import random

from cgan_jax.checks import (
    as_int,
    as_path,
    check_int,
    check_seed,
    normalize_name,
    one_line,
    short_repr,
)
from cgan_jax.errors import ConfigError
from cgan_jax.model_config import INT32_MAX
from cgan_jax.models import networks
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_generator
from cgan_jax.sampling import generator_file, latent_space
from cgan_jax.sampling.latent_space import ProgressFn

Labels = int | str | Sequence[int | str] | np.ndarray


def generate_latent_points(
    latent_dim: int, n_samples: int, n_classes: int = 10, *, seed: int = 0
) -> tuple[jax.Array, jax.Array]:
    """Draw the generator's inputs, as the report's function of this name.

    Args:
        latent_dim: size of a latent point.
        n_samples: number of latent points and labels.
        n_classes: labels are uniform in [0, n_classes).
        seed: in [0, 2**32). Point i depends on `(seed, i)` alone.

    Returns:
        latent points from N(0, 1), float32 `[n_samples, latent_dim]`, and labels, int32
        `[n_samples]`.

    Raises:
        ConfigError: an argument is not an integer, or is out of range, or the points do not fit in
            memory.
    """
    hints = "Pass the generator's.", "Omit it for the default, 10.", "Pass the number of images."
    latent_dim = check_int("latent_dim", latent_dim, 1, INT32_MAX, hint=hints[0])
    n_classes = check_int("n_classes", n_classes, 1, INT32_MAX, hint=hints[1])
    n_samples = check_int("n_samples", n_samples, 0, INT32_MAX, hint=hints[2])
    _check_memory(n_samples, "latent points", 4 * latent_dim)
    indices = jnp.arange(n_samples)
    latent = latent_space.latent_points(_key(seed), indices, latent_dim)
    label_keys = jax.vmap(partial(random.fold_in, random.fold_in(_key(seed), 1)))(indices)
    labels = jax.vmap(lambda key: random.randint(key, (), 0, n_classes))(label_keys)
    return latent, labels


def label_ids(labels: Labels, class_names: Sequence[str]) -> np.ndarray:
    """Class ids of labels given as ids, as names, or as a mixture.

    Neither case nor the number of spaces matters in a name.

    Returns:
        int32 `[n]`; `[1]` for a single label.

    Raises:
        ConfigError: a label is not a class; the message suggests the nearest names.
    """
    flat: Iterable[Any]
    if isinstance(labels, Sequence) and not isinstance(labels, str | bytes):
        flat = labels
    else:  # an array, of NumPy's or another library's, or one label
        flat = np.atleast_1d(labels) if hasattr(labels, "__array__") else [labels]
    return np.array([_label_id(label, class_names) for label in flat], np.int32)


def _label_id(label: Any, class_names: Sequence[str]) -> int:
    suggestion = ""
    if isinstance(label, str):
        text = normalize_name(label)
        by_name: dict[str, list[int]] = {}
        for i, name in enumerate(class_names):
            by_name.setdefault(normalize_name(name), []).append(i)
        ids = by_name.get(text, [])
        if len(ids) == 1:
            return ids[0]
        if ids:
            raise ConfigError(
                f"{len(ids)} classes are called {short_repr(label)}\n"
                f"expected the label of a single class\nPass an id: {one_line(ids, 50)}."
            )
        if text.isdecimal() and len(text) < 20:
            label = int(text)
        else:
            names = difflib.get_close_matches(text, by_name, n=2, cutoff=0.4)
            near = " or ".join(short_repr(class_names[by_name[name][0]]) for name in names)
            suggestion = f"; did you mean {near}?" if near else ""
    class_id = as_int(label)
    if class_id is None or not 0 <= class_id < len(class_names):
        raise ConfigError(
            f"{short_repr(label)} is not a class{suggestion}\nexpected one label, or a flat list "
            f"of labels: class ids in 0..{len(class_names) - 1}, or names\n"
            f"Pass some of {one_line(', '.join(class_names))}."
        )
    return class_id


@dataclass(frozen=True, eq=False, repr=False)  # arrays have no truth value, and are long
class TrainedGenerator:
    """A generator with its weights, in evaluation mode.

    Attributes:
        module: the network.
        variables: its `params` and `batch_stats`.
        class_names: one per class.
        step: the number of training steps.
    """

    module: nn.Module
    variables: Any
    class_names: tuple[str, ...]
    step: int

    def __repr__(self) -> str:
        what = f"{type(self.module).__name__}, {len(self.class_names)} classes, step {self.step}"
        return f"<TrainedGenerator: {what}>"

    def generate(
        self,
        labels: Labels,
        *,
        n: int = 1,
        seed: int = 0,
        truncation: float | None = None,
        latent: npt.ArrayLike | None = None,
        on_progress: ProgressFn | None = None,
    ) -> np.ndarray:
        """Generate images of some labels.

        `generate("Bag", n=16)` is `generate(["Bag"] * 16)`, and `generate(["Bag", "Coat"], n=2)` is
        `generate(["Bag", "Coat", "Bag", "Coat"])`.

        Args:
            labels: class ids or names, or one of them.
            n: number of images for each of them.
            seed: in [0, 2**32). Image i depends on `(seed, i, labels[i])` alone, and not on what
                else is asked for with it.
            truncation: keep each latent number within this of 0; see
                `cgan_jax.sampling.latent_space.latent_points`.
            latent: your own latent points instead of those of the seed, floats
                `[images, latent_dim]`; a single point, or a single label, is broadcast.
            on_progress: called as `on_progress(done, total)` after each chunk of images.

        Returns:
            uint8 `[images, H, W, C]`.

        Raises:
            ConfigError: a label is not a class, an argument is out of range, the latent points have
                another shape, or the images do not fit in memory.
        """
        ids = self._repeat(label_ids(labels, self.class_names), n)
        limit = _truncation(truncation)
        key: jax.Array | None = _key(seed)
        points = None
        if latent is not None:
            if limit is not None:
                raise ConfigError(
                    "truncation does not go with latent\nexpected one of them\nOmit one."
                )
            points, key = self._points(latent), None
            if len(points) != len(ids) and 1 not in (len(points), len(ids)):
                raise ConfigError(
                    f"there are {len(points)} latent points for {len(ids)} labels\n"
                    "expected one point per label, or only one point or label\n"
                    "Pass one label for each point."
                )
            length = np.broadcast_shapes(ids.shape, points.shape[:1])
            points = np.broadcast_to(points, (*length, points.shape[1]))
            ids = np.broadcast_to(ids, length)
        return latent_space.generate(
            self.module, self.variables, ids, key, limit, latent=points, on_progress=on_progress
        )

    def morph(
        self,
        start: Labels,
        end: Labels | None = None,
        *,
        n: int = 1,
        seed: int = 0,
        end_seed: int | None = None,
        frames: int = 30,
        truncation: float | None = None,
    ) -> np.ndarray:
        """Generate the images between some labels, some latent points, or both, and others.

        The first frame is `generate(start, n=n, seed=seed)`, the last is
        `generate(end, n=n, seed=end_seed)`. Between them a label's embedding moves along a straight
        line, a latent point along an arc; see `cgan_jax.sampling.latent_space.slerp`.

        Args:
            start: class ids or names, or one of them.
            end: target labels, one per start label; a single label is broadcast. By default
                `start`.
            n: number of latent points for each label.
            seed: of the latent points at the start, in [0, 2**32), as in `generate`.
            end_seed: of the latent points at the end; by default `seed`.
            frames: number of images on each path, at least 2.
            truncation: keep each latent number at both ends within this of 0.

        Returns:
            uint8 `[frames, n * labels, H, W, C]`.

        Raises:
            ConfigError: a label is not a class, `start` and `end` have different lengths, an
                argument is out of range, the images do not fit in memory, or labels are to be mixed
                in a network without a `flax.linen.Embed`.
        """
        frames = check_int("frames", frames, 2, INT32_MAX, hint="Omit it for the default, 30.")
        starts = label_ids(start, self.class_names)
        ends = starts if end is None else label_ids(end, self.class_names)
        if len(starts) != len(ends) and 1 not in (len(starts), len(ends)):
            raise ConfigError(
                f"end has {len(ends)} labels, start has {len(starts)}\n"
                "expected one per start label, or a single label\nPass one end for each start."
            )
        starts, ends = (self._repeat(i, n, frames) for i in np.broadcast_arrays(starts, ends))
        keys = _key(seed), _key(seed if end_seed is None else end_seed)
        limit = _truncation(truncation)
        return latent_space.morph(self.module, self.variables, (starts, ends), keys, frames, limit)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the weights and what describes them as one file, which `load_generator` reads.

        The arrays are called `params/hidden_0/kernel`, `batch_stats/batch_norm_1/mean` and so on;
        the header has the table of `cgan_jax.interop.metadata` as JSON, under `cgan_jax`.

        Args:
            path: the file, by convention with the suffix `.safetensors`; an older one of that name
                is replaced.

        Raises:
            ConfigError: an array is of a dtype that NumPy lacks, such as bfloat16.
            RunError: the file cannot be written.
        """
        generator_file.write(as_path(path, "path"), self)

    def _repeat(self, ids: np.ndarray, n: int, frames: int = 1) -> np.ndarray:
        """The class ids n times over, if `frames` images of each fit in memory."""
        n = check_int("n", n, 1, INT32_MAX, hint="Omit it for one image per label.")
        module: Any = self.module
        n_bytes = module.img_size**2 * module.channels
        _check_memory(n * len(ids) * frames, "images", n_bytes)
        return np.tile(ids, n)

    def _points(self, latent: Any) -> np.ndarray:
        """A user's latent points as float32 `[n, latent_dim]`."""
        width: int = self.module.latent_dim
        try:
            points = np.asarray(latent)
            numbers = any(
                jnp.issubdtype(points.dtype, kind) for kind in (jnp.floating, jnp.integer)
            )
            points = points.astype(np.float32) if numbers else points
        except (TypeError, ValueError):  # ragged lists, and what refuses to be an array
            points, numbers = np.empty(0), False
        if not numbers or points.shape[1:] != (width,) or not np.isfinite(points).all():
            raise ConfigError(
                f"latent is {short_repr(latent)}\nexpected finite numbers [n, {width}]\n"
                "Pass one row per latent point, as of generate_latent_points."
            )
        return points


def load_generator(
    run_dir: str | PathLike[str],
    *,
    generator: nn.Module | None = None,
    step: int | None = None,
    best: bool = False,
    raw: bool = False,
) -> TrainedGenerator:
    """The generator of a run folder's newest intact checkpoint, or of a saved file, on any machine.

    Only the generator's own arrays are read, so the discriminator, loss and optimizers of the run
    do not matter.

    Args:
        run_dir: the run folder, or a file that `TrainedGenerator.save` wrote.
        generator: the network, if it is one of your own; by default that of the configuration.
        step: take the checkpoint of this step instead of the newest.
        best: take the checkpoint in `best/`, which `--eval-every` keeps, instead of the newest.
        raw: take the generator as it is trained, even where the run keeps an average of it.

    Raises:
        RunError: not a run folder, or it has no checkpoint that can be read.
        DataError: the saved file is damaged, or `run_dir` is not a path.
        ConfigError: `generator` is not a generator, or is missing; or `step`, `best` or `raw` is
            given for a saved file.
    """
    path = as_path(run_dir, "run_dir")
    if os.path.isfile(path):  # unlike Path.is_file, no error for a name that is too long
        if step is not None or best or raw:
            raise ConfigError(
                f"{path} is a file\nexpected a run folder, for step, best and raw\nOmit them."
            )
        return TrainedGenerator(*generator_file.read(path, generator))
    run = RunFolder.open(path)
    network = networks(run.config.model)[0] if generator is None else generator
    variables, reached = restore_generator(run, network, step=step, best=best, raw=raw)
    return TrainedGenerator(network, variables, run.class_names, reached)


def _check_memory(n: int, what: str, n_bytes: int) -> None:
    """Raises ConfigError if n items of `n_bytes` bytes do not fit in memory."""
    try:
        memory = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # the system does not say
        memory = math.inf
    if n > INT32_MAX or n * n_bytes > memory:
        limit = f"{INT32_MAX:,}" + f", in {memory / 1e9:.1f} GB of memory" * math.isfinite(memory)
        raise ConfigError(
            f"{n:,} {what} are {n * n_bytes / 1e9:,.1f} GB\nexpected at most {limit}\n"
            "Ask for fewer at a time, with another seed each time."
        )


def _truncation(truncation: Any) -> float | None:
    if truncation is None:
        return None
    is_number = isinstance(truncation, Real) and not isinstance(truncation, bool)
    if not (is_number and truncation > 0):
        raise ConfigError(
            f"truncation must be a number above 0, not {short_repr(truncation)}\n"
            "Omit it to use the whole normal distribution."
        )
    return float(truncation)


def _key(seed: int) -> jax.Array:
    return random.key(check_seed(seed))
