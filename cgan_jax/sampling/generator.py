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
from cgan_jax.data.stack import ProgressFn, machine_memory
from cgan_jax.errors import ConfigError
from cgan_jax.model_config import INT32_MAX
from cgan_jax.models import networks
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_generator
from cgan_jax.sampling import generator_file, latent_space
from cgan_jax.training.gan import condition_dim, image_shape

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
        variables: its collections, such as `params` and `batch_stats`.
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
            labels: class ids or names, or one of them; of a generator with a `condition_dim`,
                vectors, floats `[labels, condition_dim]`.
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
        ids = self._repeat(self._labels(labels), n)
        limit, points = _truncation(truncation), None
        if latent is not None:
            _refuse_truncation(limit)
            ids, points = _as_long(ids, self._points("latent", latent))
        return latent_space.generate(
            self.module,
            self.variables,
            ids,
            _key(seed),
            limit,
            latent=points,
            on_progress=on_progress,
        )

    def apply(self, latent: jax.Array, labels: jax.Array, **options: Any) -> jax.Array:
        """The generator as a plain JAX function, for jit, vmap and grad. Nothing is checked.

        Args:
            latent: floats `[n, latent_dim]`.
            labels: class ids, integers `[n]`; or vectors, floats `[n, K]`.
            options: of Flax's `apply`, such as `rngs` for a network that draws noise.

        Returns:
            floats in [-1, 1], `[n, H, W, C]`.
        """
        images: Any = self.module.apply(self.variables, latent, labels, train=False, **options)
        return jnp.asarray(images)

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
        latent: npt.ArrayLike | None = None,
        end_latent: npt.ArrayLike | None = None,
    ) -> np.ndarray:
        """Generate the images between some labels, some latent points, or both, and others.

        The first frame is `generate(start, n=n, seed=seed)`, the last is
        `generate(end, n=n, seed=end_seed)`. Between them a label's embedding moves along a straight
        line, a latent point along an arc; see `cgan_jax.sampling.latent_space.slerp`.

        Args:
            start: class ids or names, or one of them; or weights of all classes, whose embeddings
                are mixed with them, floats `[labels, n_classes]`, as in `Inverted`.
            end: the same, one per start label; a single label is broadcast. By default `start`.
            n: number of latent points for each label.
            seed: of the latent points at the start, in [0, 2**32), as in `generate`.
            end_seed: of the latent points at the end; by default `seed`.
            frames: number of images on each path, at least 2.
            truncation: keep each latent number of the seeds within this of 0.
            latent: your own latent points at the start, as in `generate`.
            end_latent: those at the end; by default the points of `end_seed`, or without it those
                at the start.

        Returns:
            uint8 `[frames, n * labels, H, W, C]`.

        Raises:
            ConfigError: a label is not a class, `start` and `end` have different lengths, an
                argument is out of range, the images do not fit in memory, or labels are to be mixed
                in a network without a `flax.linen.Embed`.
        """
        frames = check_int("frames", frames, 2, INT32_MAX, hint="Omit it for the default, 30.")
        both = np.broadcast_arrays(*self._both_labels(start, end))
        starts, ends = (self._repeat(labels, n, frames) for labels in both)
        limit = _truncation(truncation)
        keys: Any = _key(seed), _key(seed if end_seed is None else end_seed)
        points: Any = None
        if latent is not None or end_latent is not None:
            first = None if latent is None else self._points("latent", latent)
            last = first if end_seed is None else None
            if end_latent is not None:
                last = self._points("end_latent", end_latent)
            starts, ends, *points = self._path_ends(starts, ends, (first, last), keys, limit)
        return latent_space.morph(
            self.module, self.variables, (starts, ends), keys, frames, limit, latent=points
        )

    def _both_labels(self, start: Labels, end: Labels | None) -> tuple[np.ndarray, np.ndarray]:
        """Class ids at both ends of a path, or weights of all classes at both."""
        starts = self._classes("start", start)
        ends = starts if end is None else self._classes("end", end)
        if len(starts) != len(ends) and 1 not in (len(starts), len(ends)):
            raise ConfigError(
                f"end has {len(ends)} labels, start has {len(starts)}\n"
                "expected one per start label, or a single label\nPass one end for each start."
            )
        if starts.ndim != ends.ndim:
            one_hot = np.eye(len(self.class_names), dtype=np.float32)
            starts, ends = (one_hot[ids] if ids.ndim == 1 else ids for ids in (starts, ends))
        return starts, ends

    def _path_ends(
        self,
        starts: np.ndarray,
        ends: np.ndarray,
        points: tuple[np.ndarray | None, np.ndarray | None],
        keys: tuple[jax.Array, jax.Array],
        limit: float | None,
    ) -> list[np.ndarray]:
        """Labels and latent points at both ends, one per path; None are drawn with their key."""
        given = [each for each in points if each is not None]
        if len(given) == 2:
            _refuse_truncation(limit)
        starts, ends, *_ = _as_long(starts, ends, *given)
        indices = jnp.arange(len(starts))
        drawn = partial(latent_space.latent_points, indices=indices, truncation=limit)
        dim: int = self.module.latent_dim
        both = [
            np.asarray(drawn(key, latent_dim=dim)) if each is None else each
            for each, key in zip(points, keys, strict=True)
        ]
        return _as_long(starts, ends, *both)

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
        n_bytes = math.prod(image_shape(self.module))
        _check_memory(n * len(ids) * frames, "images", n_bytes)
        return np.concatenate([ids] * n)

    def _labels(self, labels: Any) -> np.ndarray:
        """Class ids of labels; or the vectors that a generator with a `condition_dim` takes."""
        width = condition_dim(self.module)
        if width is None:
            return label_ids(labels, self.class_names)
        return _rows("labels", labels, width, "Pass one row per image, as the data's labels are.")

    def _classes(self, name: str, labels: Any) -> np.ndarray:
        """Class ids of labels, or a user's weights of all classes as float32 `[n, classes]`."""
        is_array = hasattr(labels, "dtype") and hasattr(labels, "ndim")
        if is_array and labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating):
            hint = "Pass one row per label, one column per class."
            return _rows(name, labels, len(self.class_names), hint)
        return label_ids(labels, self.class_names)

    def _points(self, name: str, latent: Any) -> np.ndarray:
        """A user's latent points as float32 `[n, latent_dim]`."""
        hint = "Pass one row per latent point, as of generate_latent_points."
        return _rows(name, latent, self.module.latent_dim, hint)


def _rows(name: str, values: Any, width: int, hint: str) -> np.ndarray:
    """A user's finite numbers as float32 `[n, width]`."""
    try:
        rows = np.asarray(values)
        numbers = any(jnp.issubdtype(rows.dtype, kind) for kind in (jnp.floating, jnp.integer))
        rows = rows.astype(np.float32) if numbers else rows
    except (TypeError, ValueError):  # ragged lists, and what refuses to be an array
        rows, numbers = np.empty(0), False
    if not numbers or rows.shape[1:] != (width,) or not np.isfinite(rows).all():
        raise ConfigError(
            f"{name} is {short_repr(values)}\nexpected finite numbers [n, {width}]\n{hint}"
        )
    return rows


def _as_long(labels: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
    """Arrays with as many rows as the longest has; a single row is repeated.

    Raises:
        ConfigError: latent points, which follow the labels, are not as many.
    """
    arrays = [labels, *others]
    n = next((len(array) for array in arrays if len(array) != 1), 1)
    if wrong := [len(array) for array in arrays if len(array) not in (1, n)]:
        others_are = "labels" if len(labels) == n else "others"
        raise ConfigError(
            f"there are {wrong[0]} latent points for {n} {others_are}\n"
            "expected one point per label, or only one point or label\n"
            "Pass one label for each point."
        )
    return [np.broadcast_to(array, (n, *array.shape[1:])) for array in arrays]


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
    memory = machine_memory()
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


def _refuse_truncation(limit: float | None) -> None:
    """Raises ConfigError for a truncation, where no latent point is drawn."""
    if limit is not None:
        raise ConfigError("truncation does not go with latent\nexpected one of them\nOmit one.")


def _key(seed: int) -> jax.Array:
    return random.key(check_seed(seed))
