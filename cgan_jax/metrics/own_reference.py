"""A reference classifier for any data, trained on their training images and cached.

Fashion-MNIST has one of its own, with fixed weights: reference.py.
"""

import hashlib
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cgan_jax.checks import as_path, one_line
from cgan_jax.data import Dataset
from cgan_jax.data.cache import default_directory
from cgan_jax.data.holdout import choose_held_out, take_rows
from cgan_jax.errors import DataError, RunError
from cgan_jax.interop import load_state_dict, save_state_dict
from cgan_jax.interop.weight_files import load_metadata
from cgan_jax.metrics.classifier import Recipe, apply_in_chunks, fit
from cgan_jax.metrics.reference import Reference, ReferenceNet

VERSION = 1  # of the recipe: another number trains every cached classifier again
VALIDATION = 0.1  # the share of the images that decides when to stop
IMAGES, MOST_EPOCHS, FEWEST_EPOCHS = 75_000, 40, 4  # one training sees about this many images
_log = logging.getLogger("cgan_jax")


def default_recipe(training: Dataset) -> Recipe:
    """How to train a reference classifier: fewer epochs of more images, and no mirror images.

    Mirror images are other classes in some data: b and d, left and right.
    """
    n, height, width, _ = training.images.shape
    return Recipe(
        epochs=min(MOST_EPOCHS, max(FEWEST_EPOCHS, IMAGES // n)),
        batch_size=min(64, max(min(16, n), n // 8)),
        peak_lr=3e-3,
        shift=min(height, width) // 16,
    )


def train_reference(
    training: Dataset,
    recipe: Recipe | None = None,
    *,
    seed: int = 0,
    cache_dir: str | PathLike[str] | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Reference:
    """Train a classifier on a generator's training images, or take that of an earlier call.

    A tenth of each class validates it: the weights are those of the epoch that recognises most of
    it, and training stops early once it recognises no more. The classifier is kept in the cache, by
    the data's identity. A damaged file there is replaced; a cache that cannot be written costs time
    alone.

    Args:
        training: the images; no image that the generator is measured against may be among them.
        recipe: how to train; by default as the size of the data suggests.
        seed: in [0, 2**32); of weights, order and validation images.
        cache_dir: by default $CGAN_JAX_CACHE or the user's cache directory.
        on_step: called after each step with the number of steps done and the most there may be. It
            is not called if there is nothing to train.

    Returns:
        the classifier, with features of 128 numbers, its validation images and accuracy on them.

    Raises:
        ConfigError: `seed` is out of range.
        DataError: no class has two images.
    """
    recipe = recipe or default_recipe(training)
    fitted, held = choose_held_out(training, VALIDATION, seed)
    validation = take_rows(training, held)
    recipe = recipe._replace(batch_size=min(recipe.batch_size, len(fitted)))
    module = ReferenceNet(len(training.class_names), mirror=recipe.flip)
    about = f"{VERSION} {recipe} {seed} {training.identity()['sha256']}"
    key = hashlib.sha256(about.encode()).hexdigest()[:32]
    directory = as_path(cache_dir, "cache_dir") if cache_dir else default_directory()
    file = directory / "references" / f"{key}.safetensors"
    weights = _load(file, _shapes(module, training))
    if weights is None:
        best = _Best(module, validation, patience=max(3, recipe.epochs // 4))
        fit(
            module,
            *(training.images, training.labels, recipe),
            rows=fitted,
            seed=seed,
            on_step=on_step,
            stop_after=best.stop_after,
        )
        weights = flatten_dict(best.variables, sep=".")
        _store(file, weights)
    return _reference(module, weights, validation)


class _Best:
    """Keeps the weights that recognise most validation images; of equals, the later ones."""

    def __init__(self, module: nn.Module, validation: Dataset, patience: int) -> None:
        self._module, self._validation, self._patience = module, validation, patience
        self._most, self._epochs_without = -1.0, 0
        self.variables: Any = None

    def stop_after(self, variables: Any) -> bool:
        accuracy = _accuracy(self._module, variables, self._validation)
        self._epochs_without = 0 if accuracy > self._most else self._epochs_without + 1
        if accuracy >= self._most:
            self._most, self.variables = accuracy, jax.device_get(variables)
        return self._epochs_without >= self._patience


def _accuracy(module: nn.Module, variables: Any, validation: Dataset) -> float:
    _, predictions = apply_in_chunks(module, variables, validation.images)
    return float((predictions == validation.labels).mean())


def _reference(
    module: nn.Module, weights: Mapping[str, np.ndarray], validation: Dataset
) -> Reference:
    variables = unflatten_dict(dict(weights), sep=".")
    shape = validation.images.shape[1:]

    def classify(
        images: np.ndarray, on_chunk: Callable[[int], None] = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray]:
        if images.shape[1:] != shape:
            raise DataError(
                f"the reference classifier cannot take images {list(images.shape[1:])}\n"
                f"expected {list(shape)}, as its training images\nGive such images."
            )
        return apply_in_chunks(module, variables, images, on_chunk)

    accuracy = _accuracy(module, variables, validation)
    chance = float(np.bincount(validation.labels).max() / len(validation))
    return Reference(classify, _digest(weights), validation, accuracy, chance)


def _shapes(module: nn.Module, data: Dataset) -> dict[str, tuple[int, ...]]:
    """The shape of each array of the classifier."""
    example = np.zeros((2, *data.images.shape[1:]), np.float32)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), example, train=False))
    return {name: leaf.shape for name, leaf in flatten_dict(variables, sep=".").items()}


def _digest(weights: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name]).tobytes())
    return digest.hexdigest()


def _load(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray] | None:
    """The weights in a file; None if there is none, or a damaged one, which is logged."""
    if not file.exists():
        return None
    try:
        weights = dict(load_state_dict(file))
        if {name: array.shape for name, array in weights.items()} != shapes:
            raise DataError("it holds arrays of other names or shapes")
        if load_metadata(file).get("sha256") != _digest(weights):
            raise DataError("its arrays are not those that were written")
        return weights
    except DataError as error:
        _log.info("the reference classifier in %s is unusable (%s)", file, one_line(error))
        return None


def _store(file: Path, weights: Mapping[str, np.ndarray]) -> None:
    try:
        save_state_dict(file, weights, {"sha256": _digest(weights)})
    except RunError as error:
        _log.info("the reference classifier is not cached: %s", one_line(error))
