"""The latent points whose images are nearest to given pictures: `invert`.

Reading pictures is up to the caller; a path from the result to other images is
`TrainedGenerator.morph`.
"""

import os
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cgan_jax.checks import as_path, check_class_names, check_int, check_seed, errors_as, short_repr
from cgan_jax.data.stack import ProgressFn
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.files import atomic_write
from cgan_jax.models.value_range import to_uint8, to_unit_range
from cgan_jax.sampling.generator import Labels, TrainedGenerator, label_ids
from cgan_jax.sampling.latent_space import apply_mixed, in_chunks, latent_points

ROWS = 64  # points that are fitted at a time
LEARNING_RATE = 0.5  # Adam's, which falls to 0 along a cosine
WEIGHT_STEP = 0.1  # by which the weights of classes move less than a latent point


@dataclass(frozen=True, eq=False)
class Inverted:
    """What `invert` found: candidates for each picture, the nearest first.

    Attributes:
        latent: latent points, float32 `[n, candidates, latent_dim]`.
        labels: class ids, int32 `[n, candidates]`.
        weights: weights of all classes, whose embeddings are mixed with them, float32
            `[n, candidates, classes]`; 1 for the label alone unless they were fitted too.
        distance: float32 `[n, candidates]`; see `distance`.
        images: of the candidates, uint8 `[n, candidates, H, W, C]`.
        targets: the pictures, uint8 `[n, H, W, C]`.
        class_names: one per class.
    """

    latent: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    distance: np.ndarray
    images: np.ndarray
    targets: np.ndarray
    class_names: tuple[str, ...]

    @property
    def pixel_error(self) -> np.ndarray:
        """Root mean square of the difference in grey levels of 0 to 255, `[n, candidates]`."""
        difference = self.images.astype(np.float32) - self.targets[:, None]
        return np.sqrt(np.square(difference).mean((2, 3, 4)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the attributes as the arrays of an .npz file, which `load_inverted` reads.

        Raises:
            RunError: the file cannot be written.
        """
        with atomic_write(as_path(path, "path")) as file, file.open("wb") as stream:
            np.savez(stream, **{field.name: getattr(self, field.name) for field in fields(self)})


def load_inverted(path: str | os.PathLike[str]) -> Inverted:
    """Read a file that `Inverted.save` wrote.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    file = as_path(path, "path")
    then = "expected a file that experiments.invert or Inverted.save wrote\nName another."
    with (
        errors_as(DataError, f"{file} cannot be read", then),
        file.open("rb") as stream,
        np.load(stream) as arrays,
    ):
        found = {field.name: arrays[field.name] for field in fields(Inverted)}
        names = check_class_names(found["class_names"].tolist(), str(file))
        kinds = {"latent": ("f", 3), "labels": ("i", 2), "weights": ("f", 3), "distance": ("f", 2)}
        kinds |= {"images": ("u", 5), "targets": ("u", 4)}
        for name, (kind, ndim) in kinds.items():
            if (found[name].dtype.kind, found[name].ndim) != (kind, ndim) or found[name].size == 0:
                raise ValueError(f"{name} is {found[name].dtype} {list(found[name].shape)}")
        if len({len(found[name]) for name in kinds}) > 1:
            raise ValueError("its arrays are of different lengths")
    return Inverted(**{**found, "class_names": names})


def invert(
    generator: TrainedGenerator,
    images: np.ndarray,
    labels: Labels | None = None,
    *,
    starts: int = 8,
    steps: int = 300,
    seed: int = 0,
    embedding: bool = False,
    on_progress: ProgressFn | None = None,
) -> Inverted:
    """The latent points whose images are nearest to pictures, by gradient descent.

    Adam lowers `distance` from several random points at once. After each step, points beyond the
    ball that holds 999 of 1000 normal points are moved back to its surface, since the generator
    was not trained on such.

    Args:
        generator: a trained generator.
        images: the pictures, uint8 `[n, H, W, C]`, of the generator's size and channels.
        labels: their classes, ids or names, one per picture, or one for all; by default all classes
            are tried for each picture.
        starts: random points to start from, for each picture and class.
        steps: of Adam.
        seed: of the random points, in [0, 2**32). They are the same for each picture.
        embedding: also fit the label's embedding, as a mixture of those of all classes.
        on_progress: called as `on_progress(done, total)` with numbers of candidates.

    Returns:
        for each picture `starts` candidates, or `starts` of each class, the nearest first.

    Raises:
        ConfigError: the images do not fit the generator, a label is not a class, an argument is out
            of range, or the network has no embedding to fit.
    """
    starts = check_int("starts", starts, 1, hint="Omit it for the default, 8.")
    steps = check_int("steps", steps, 1, hint="Omit it for the default, 300.")
    key, n_classes = jax.random.key(check_seed(seed)), len(generator.class_names)
    targets = _check_images(generator, images)
    ids = _classes(generator, labels, len(targets)).repeat(starts, 1)
    points = np.asarray(latent_points(key, jnp.arange(starts), generator.module.latent_dim))
    latent = np.resize(points, (ids.size, points.shape[1]))
    weights = np.eye(n_classes, dtype=np.float32)[ids.ravel()]
    program = partial(_fit, generator.module, steps, embedding, generator.variables)
    rows = latent, weights, targets.repeat(ids.shape[1], 0)
    fitted = in_chunks(program, min(ROWS, ids.size), *rows, on_progress=on_progress)
    results = [ids, *(array.reshape(*ids.shape, *array.shape[1:]) for array in fitted)]
    order = results[-1].argsort(1, kind="stable")
    row = np.arange(len(targets))[:, None]
    ids, latent, weights, made, distances = (array[row, order] for array in results)
    return Inverted(latent, ids, weights, distances, made, targets, generator.class_names)


def _classes(generator: TrainedGenerator, labels: Labels | None, n: int) -> np.ndarray:
    """The classes to try for each of n images, int32 `[n, classes]`."""
    if labels is None:
        ids = np.arange(len(generator.class_names), dtype=np.int32)[None]
    else:
        ids = label_ids(labels, generator.class_names)[:, None]
    if len(ids) not in (1, n):
        raise ConfigError(
            f"there are {len(ids)} labels for {n} images\n"
            "expected one per image, or one for all\nGive one label for each image, or none."
        )
    return np.broadcast_to(ids, (n, ids.shape[1]))


def distance(images: jax.Array, targets: jax.Array) -> jax.Array:
    """How different images look: of pixels, and of detail at every scale.

    The root mean square of the pixels' differences, and the mean absolute difference in each band
    of a Laplacian pyramid, added up (Ling and Okada 2006; Bojanowski et al. 2018, "Optimizing the
    Latent Space of Generative Networks", whose generators learn by it). It needs no network, so it
    suits any data, size and number of channels.

    Args:
        images: floats in [-1, 1], `[n, H, W, C]`.
        targets: the same.

    Returns:
        floats `[n]`; 0 for equal images.
    """
    difference = images - targets
    pixels = jnp.sqrt(jnp.square(difference).mean((1, 2, 3)) + 1e-12)  # a gradient at 0 too
    bands = jnp.zeros(len(images))
    while min(difference.shape[1:3]) > 2:
        height, width = difference.shape[1:3]
        half = nn.avg_pool(difference, (2, 2), (2, 2), "SAME", count_include_pad=False)
        enlarged = half.repeat(2, 1).repeat(2, 2)[:, :height, :width]
        bands += jnp.abs(difference - enlarged).mean((1, 2, 3))
        difference = half
    return pixels + bands + jnp.abs(difference).mean((1, 2, 3))


def _check_images(generator: TrainedGenerator, images: Any) -> np.ndarray:
    """Images as uint8 `[n, H, W, C]`, as the generator makes."""
    module: Any = generator.module
    point = jnp.zeros((1, module.latent_dim)), jnp.zeros(1, jnp.int32)
    made: Any = jax.eval_shape(partial(module.apply, train=False), generator.variables, *point)
    shape: tuple[int, ...] = getattr(images, "shape", ())
    dtype = getattr(images, "dtype", None)
    if dtype != np.uint8 or len(shape) != 4 or shape[1:] != made.shape[1:] or shape[0] == 0:
        actual = short_repr(images) if dtype is None else f"{dtype} {list(shape)}"
        raise ConfigError(
            f"the images are {actual}\nexpected uint8 [n, {str(list(made.shape[1:]))[1:]}, as the "
            "generator makes\nResize and convert them."
        )
    return np.asarray(images)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(
    module: nn.Module,
    steps: int,
    embedding: bool,
    variables: Any,
    latent: jax.Array,
    weights: jax.Array,
    targets: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Latent points, weights, images and distances after `steps` steps from the given ones."""
    optimizer = optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps))
    longest = jnp.sqrt(module.latent_dim) + 3.09 / jnp.sqrt(2)  # lengths are about N(sqrt(d), 1/2)
    labels, wanted = weights.argmax(-1), to_unit_range(targets)

    def images(point: tuple[jax.Array, jax.Array]) -> jax.Array:
        latent, change = point
        if not embedding:
            made: Any = module.apply(variables, latent, labels, train=False)
            return jnp.asarray(made)
        mixture = weights + WEIGHT_STEP * change
        return apply_mixed(module, variables, latent, mixture, lambda embed: embed(mixture))

    def step(_: int, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        point, state = carry
        # No row depends on another, so the sum's gradient is each row's own.
        gradient = jax.grad(lambda point: distance(images(point), wanted).sum())(point)
        updates, state = optimizer.update(gradient, state)
        latent, change = optax.apply_updates(point, updates)
        length = jnp.linalg.norm(latent, axis=-1, keepdims=True)
        return (latent * jnp.minimum(1, longest / length), change), state

    point = latent, jnp.zeros_like(weights)
    point, _ = jax.lax.fori_loop(0, steps, step, (point, optimizer.init(point)))
    made = images(point)
    return point[0], weights + WEIGHT_STEP * point[1], to_uint8(made), distance(made, wanted)
