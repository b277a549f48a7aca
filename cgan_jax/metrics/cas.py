"""The score of a classifier trained only on generated images (Ravuri and Vinyals 2019)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from cgan_jax.metrics.classification import ConfusionMatrix, confusion_matrix
from cgan_jax.metrics.classifier import Recipe, apply_in_chunks, fit

RECIPE = Recipe(epochs=6, peak_lr=3e-3)
N_IMAGES = 60_000  # the size of Fashion-MNIST's training split
REAL_ACCURACY = 0.9161
"""The score of the 60,000 real training images with RECIPE and seed 0, as measured by
`python -m experiments.evaluate --cas-on-real`. A slow test measures a fifth of them again."""


class ScoreNet(nn.Module):
    """Two strided convolutions, a hidden layer, logits: cheap, and unlike the reference."""

    n_classes: int = 10

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Features `[B, 128]` and logits `[B, n_classes]` of images in [-1, 1]."""
        x = nn.relu(nn.Conv(32, (5, 5), (2, 2))(images_BxHxWxC))
        x = nn.relu(nn.Conv(64, (3, 3), (2, 2))(x))
        features_BxF = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
        return features_BxF, nn.Dense(self.n_classes)(features_BxF)


def classification_accuracy_score(
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    n_classes: int = 10,
    *,
    recipe: Recipe = RECIPE,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> ConfusionMatrix:
    """Train a classifier on some images and test it on real ones.

    Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative Models"; the
    GAN-train of Shmelkov et al. 2018. Low if the images lack fidelity or variety. The weights after
    the last step are tested: none are selected, so real images have no part in training.

    Args:
        images: generated, uint8 `[N, H, W, C]`.
        labels: the requested classes, integers `[N]`.
        test_images: real, uint8 `[M, H, W, C]`.
        test_labels: their classes, integers `[M]`.
        n_classes: number of classes.
        recipe: how the classifier is trained.
        seed: of its weights and of the order of the images.
        on_step: called after each step with the number of steps done and their total.

    Returns:
        how the real images are classified; its `accuracy` is the score.

    Raises:
        DataError: other shapes or dtypes, or too few images.
    """
    module = ScoreNet(n_classes)
    variables = fit(module, images, labels, recipe, seed=seed, on_step=on_step)
    _, predictions = apply_in_chunks(module, variables, test_images)
    return confusion_matrix(test_labels, predictions, n_classes)
