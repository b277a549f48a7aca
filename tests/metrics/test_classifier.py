"""Training and applying classifiers, on data that a few steps can learn."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from cgan_jax.errors import DataError
from cgan_jax.metrics import classifier
from cgan_jax.metrics.cas import ScoreNet, classification_accuracy_score
from cgan_jax.metrics.classifier import Recipe, apply_in_chunks, fit
from cgan_jax.metrics.reference import ReferenceNet

RNG = np.random.default_rng(0)
RECIPE = Recipe(epochs=8, batch_size=16)


class Small(nn.Module):
    """With batch statistics, like the reference."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(8)(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return x, nn.Dense(2)(x)


def halves(n):
    """Images with a bright upper or lower half, and their labels."""
    labels = np.arange(n) % 2
    images = RNG.integers(0, 100, (n, 4, 4, 1), np.uint8)
    images[labels == 0, :2] += 150
    images[labels == 1, 2:] += 150
    return images, labels


def test_a_classifier_learns_separable_classes():
    variables = fit(Small(), *halves(96), RECIPE)
    images, labels = halves(30)
    features, predictions = apply_in_chunks(Small(), variables, images)
    assert (features.shape, features.dtype, predictions.dtype) == ((30, 8), np.float32, np.int32)
    np.testing.assert_array_equal(predictions, labels)


def test_weights_depend_on_the_seed_alone_and_every_step_is_reported():
    """An epoch of 40 images has two batches of 16."""
    images, labels = halves(40)
    steps = []
    first = fit(Small(), images, labels, RECIPE, seed=1, on_step=lambda *args: steps.append(args))
    again, other = (fit(Small(), images, labels, RECIPE, seed=seed) for seed in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    kernel = first["params"]["Dense_0"]["kernel"]
    assert not np.array_equal(kernel, other["params"]["Dense_0"]["kernel"])
    assert steps == [(i + 1, 16) for i in range(16)]


def test_results_do_not_depend_on_the_chunk_size(monkeypatch):
    images, _ = halves(11)
    variables = Small().init(random.key(0), jnp.zeros((2, 4, 4, 1)), train=False)
    whole = apply_in_chunks(Small(), variables, images)
    monkeypatch.setattr(classifier, "CHUNK", 4)
    sizes = []
    parts = apply_in_chunks(Small(), variables, images, sizes.append)
    assert sizes == [4, 4, 3]
    # Features are sums of terms of about 1; a small one has as much rounding as a large one.
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(parts[1], whole[1])


def test_augmentation_mirrors_shifts_and_pads_with_black():
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 1, 1] = 200
    images = np.tile(image, (400, 1, 1, 1))
    augment = lambda recipe: np.asarray(classifier._augmented(images, recipe, random.key(0)))  # noqa: E731
    augmented = augment(Recipe(1, shift=1, flip=True))
    assert (augmented.shape, augmented.dtype) == (images.shape, np.uint8)
    np.testing.assert_array_equal(augmented.sum((1, 2, 3)), 200)
    positions = {(int(y), int(x)) for _, y, x, _ in np.argwhere(augmented)}
    assert positions == {(y, x) for y in (0, 1, 2) for x in (0, 1, 2, 3, 4)}
    np.testing.assert_array_equal(augment(Recipe(1)), images)


def test_cas_is_high_for_real_images_and_low_for_swapped_labels():
    images, labels = halves(200)
    test_images, test_labels = halves(60)
    recipe = Recipe(epochs=3, batch_size=20)
    good = classification_accuracy_score(images, labels, test_images, test_labels, 2, recipe=recipe)
    swapped = classification_accuracy_score(
        images, 1 - labels, test_images, test_labels, 2, recipe=recipe
    )
    assert good.accuracy == 1
    assert swapped.accuracy == 0
    np.testing.assert_array_equal(good.counts, [[30, 0], [0, 30]])


def test_the_two_classifiers_differ_and_the_reference_has_its_documented_size():
    def size(module):
        shapes = jax.eval_shape(
            lambda: module.init(random.key(0), jnp.zeros((2, 28, 28, 1)), train=False)
        )
        return {
            name: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in shapes.items()
        }

    assert size(ReferenceNet())["params"] == 242_410
    assert "batch_stats" in size(ReferenceNet())
    assert "batch_stats" not in size(ScoreNet())


def test_wrong_images_and_labels_are_refused():
    images, labels = halves(40)
    with pytest.raises(DataError, match="15 images cannot .*\n.* batch of 16"):
        fit(Small(), images[:15], labels[:15], RECIPE)
    with pytest.raises(DataError, match=r"labels must be \[40\], not \[30\]"):
        fit(Small(), images, labels[:30], RECIPE)
    for wrong in (images / 255, images[0], images[:0]):
        with pytest.raises(DataError, match="must be uint8"):
            apply_in_chunks(Small(), {}, wrong)
        with pytest.raises(DataError, match="must be uint8"):
            fit(Small(), wrong, labels, RECIPE)
