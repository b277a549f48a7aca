"""The reference classifier of Fashion-MNIST: the measures use its features and predictions.

That of other data is trained by own_reference.py, with the same architecture.

The package contains its weights, which `python -m experiments.proofs.train_reference` made from
training images 0 to 54,999. It has no part in training a GAN, nor in choosing a checkpoint. It is
the second one: the first, with larger batches and shifted images, had an accuracy of 92.3% on the
test split, and so has this one without mirror images, which were added because they help on images
55,000 to 59,999.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from cgan_jax.data import SPECS, Dataset
from cgan_jax.errors import DataError
from cgan_jax.interop import load_state_dict
from cgan_jax.metrics.classifier import apply_in_chunks

WEIGHTS = Path(__file__).with_name("reference.safetensors")
N_TRAINING = 55_000  # the first of the 60,000 training images; the rest are its validation images
SHA256 = "990e900513f7ef01b369b41fe05b24d78c83e1e01e564a5c667ee730c319174c"

Classify = Callable[..., tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Reference:
    """What the measures see images with: any features, and a classifier's predictions.

    Attributes:
        classify: a function of images, uint8 `[N, H, W, C]`, and of a callback that is called after
            each chunk with its number of images. It returns features, float32 `[N, F]`, and
            predicted labels, int32 `[N]`; those of an image do not depend on the others.
        sha256: what identifies it in an evaluation's stamp, such as the hash of its weights.
        validation: images from the training data that its weights were not fitted to; None if they
            are unknown.
        accuracy: the share of them that it recognises.
        chance: the share of the commonest class among them.
    """

    classify: Classify
    sha256: str
    validation: Dataset | None = None
    accuracy: float | None = None
    chance: float | None = None

    @property
    def n_validation(self) -> int:
        """How many images its accuracy is measured on."""
        return len(self.validation) if self.validation else 0

    def __call__(
        self, images: np.ndarray, on_chunk: Callable[[int], None] = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and predictions; see `classify`."""
        return self.classify(images, on_chunk)


class ReferenceNet(nn.Module):
    """Convolutional stages of 32, 64, 128 and 128 channels, the mean over positions, logits.

    242,410 parameters for Fashion-MNIST, with BatchNorm of decay 0.9. Images are halved until a
    side has fewer than 8 pixels, first by a stride, then by pooling; sides of 32 and more get
    further stages of 128 channels for it.

    Attributes:
        n_classes: number of classes.
        mirror: whether in evaluation the features are the mean of the image's and of its mirror
            image's. On Fashion-MNIST this gains 0.3 percentage points on the 5,000 validation
            images.
    """

    n_classes: int = 10
    mirror: bool = True

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Features and logits of images in [-1, 1].

        Args:
            images_BxHxWxC: floats in [-1, 1], of any size and number of channels.
            train: whether to normalise by the batch's statistics.

        Returns:
            features `[B, 128]`, at least 0, and logits `[B, n_classes]`.
        """
        x = images_BxHxWxC
        n_halvings = max(0, min(x.shape[1:3]).bit_length() - 3)
        if self.mirror and not train:
            x = jnp.concatenate([x, x[:, :, ::-1]])
        x = _stage(x, 32, train, size=5, stride=2 if n_halvings else 1)
        x = _stage(x, 64, train)
        for i in range(n_halvings - 1):
            x = _halved(_stage(x, 128, train) if i else x)
        x = _stage(_stage(x, 128, train), 128, train)
        features_BxF = x.mean((1, 2))
        if self.mirror and not train:
            features_BxF = features_BxF.reshape(2, len(images_BxHxWxC), -1).mean(0)
        return features_BxF, nn.Dense(self.n_classes)(features_BxF)


def _stage(x: jax.Array, channels: int, train: bool, size: int = 3, stride: int = 1) -> jax.Array:
    x = nn.Conv(channels, (size, size), (stride, stride), use_bias=False)(x)
    return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))


def _halved(x: jax.Array) -> jax.Array:
    """2x2 max pooling, with a faster gradient than that of linen's max_pool."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


def is_fashion_mnist(training: Dataset) -> bool:
    """Whether these are the images that the package's classifier knows, by shape and names."""
    spec = SPECS["fashion_mnist"]
    shape = (*spec.splits["train"].shape, 1)
    return training.images.shape == shape and training.class_names == spec.class_names


@lru_cache
def load_reference() -> Reference:
    """Load the reference classifier with the package's weights.

    Returns:
        a function of images, uint8 `[N, 28, 28, 1]`, and optionally of a callback; see `Reference`.
        Its features are float32 `[N, 128]`. It raises a DataError for images of another shape or
        dtype.

    Raises:
        DataError: the weights are missing or damaged.
    """
    try:
        sha256 = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    except OSError as error:
        sha256 = f"unreadable ({error.strerror})"
    if sha256 != SHA256:
        raise DataError(
            f"the reference classifier's weights in {WEIGHTS} are {sha256}\n"
            f"expected SHA-256 {SHA256}\nReinstall cgan_jax."
        )
    variables = unflatten_dict(load_state_dict(WEIGHTS), sep=".")

    def classify(
        images: np.ndarray, on_chunk: Callable[[int], None] = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray]:
        if images.shape[1:] != (28, 28, 1):
            raise DataError(
                f"the reference classifier cannot take images {list(images.shape[1:])}\n"
                "expected [28, 28, 1], as Fashion-MNIST's\nUse features of your own classifier."
            )
        return apply_in_chunks(ReferenceNet(), variables, images, on_chunk)

    return Reference(classify, SHA256)
