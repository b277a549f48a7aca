"""How classifiers are trained and applied: on sets that a few steps can learn."""

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
    """With batch statistics, as the reference has them."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Dense(8)(images.reshape(len(images), -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return x, nn.Dense(2)(x)


def halves(n):
    """Images that are bright above, or below."""
    labels = np.arange(n) % 2
    images = RNG.integers(0, 100, (n, 4, 4, 1), np.uint8)
    images[labels == 0, :2] += 150
    images[labels == 1, 2:] += 150
    return images, labels


def test_it_learns_what_can_be_learned():
    variables = fit(Small(), *halves(96), RECIPE)
    images, labels = halves(30)
    features, seen = apply_in_chunks(Small(), variables, images)
    assert (features.shape, features.dtype, seen.dtype) == ((30, 8), np.float32, np.int32)
    np.testing.assert_array_equal(seen, labels)


def test_a_seed_gives_the_same_bits_and_another_one_others():
    images, labels = halves(40)
    one, again, other = (fit(Small(), images, labels, RECIPE, seed=s) for s in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    kernel = one["params"]["Dense_0"]["kernel"]
    assert not np.array_equal(kernel, other["params"]["Dense_0"]["kernel"])


def test_every_step_is_told_and_the_rest_of_a_batch_waits():
    told = []
    fit(Small(), *halves(40), RECIPE, on_step=lambda *at: told.append(at))
    assert told == [(i + 1, 16) for i in range(16)]


def test_chunks_do_not_matter(monkeypatch):
    images, _ = halves(11)
    variables = Small().init(random.key(0), jnp.zeros((2, 4, 4, 1)), train=False)
    whole = apply_in_chunks(Small(), variables, images)
    monkeypatch.setattr(classifier, "CHUNK", 4)
    told = []
    parts = apply_in_chunks(Small(), variables, images, told.append)
    assert told == [4, 4, 3]
    # Features are sums of terms of about 1; a small one has as much rounding as a large one.
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(parts[1], whole[1])


def test_augmentation_mirrors_and_moves_and_fills_with_black():
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 1, 1] = 200
    many = np.tile(image, (400, 1, 1, 1))
    found = np.asarray(classifier._augmented(many, Recipe(1, shift=1, flip=True), random.key(0)))
    assert (found.shape, found.dtype) == (many.shape, np.uint8)
    np.testing.assert_array_equal(found.sum((1, 2, 3)), 200)
    places = {(int(y), int(x)) for _, y, x, _ in np.argwhere(found)}
    assert places == {(y, x) for y in (0, 1, 2) for x in (0, 1, 2, 3, 4)}
    plain = classifier._augmented(many, Recipe(1), random.key(0))
    np.testing.assert_array_equal(plain, many)


def test_the_score_of_real_images_is_high_and_that_of_shuffled_labels_low():
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


def test_the_two_classifiers_differ_and_the_references_size_is_as_said():
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


def test_what_cannot_be_learned_from_is_said():
    images, labels = halves(40)
    with pytest.raises(DataError, match="at least 16 images"):
        fit(Small(), images[:15], labels[:15], RECIPE)
    with pytest.raises(DataError, match="one label for each"):
        fit(Small(), images, labels[:30], RECIPE)
    for wrong in (images / 255, images[0], images[:0]):
        with pytest.raises(DataError, match="must be uint8"):
            apply_in_chunks(Small(), {}, wrong)
