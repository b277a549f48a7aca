"""The reference classifier of Fashion-MNIST, whose features and labels the measures are taken on.

Its weights come with the package. `python -m experiments.proofs.train_reference` made them, from training
images 0 to 54,999; it takes no part in training a GAN, nor in choosing a checkpoint. It is the
second: the first, in larger batches and with shifted images, had 92.3% on the test split, as this
one without mirror images, which were taken in for what they gain on images 55,000 to 59,999.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from cgan_jax.errors import DataError
from cgan_jax.interop import load_state_dict
from cgan_jax.metrics.classifier import apply_in_chunks

WEIGHTS = Path(__file__).with_name("reference.safetensors")
N_TRAINING = 55_000  # of the 60,000 training images, the first; the rest told how it came on
SHA256 = "990e900513f7ef01b369b41fe05b24d78c83e1e01e564a5c667ee730c319174c"


class ReferenceNet(nn.Module):
    """Three convolutional stages (32, 64, twice 128 channels), the mean over places, logits.

    242,410 parameters. Normalised by linen's BatchNorm, which keeps 0.9 of its statistics. Out of
    training an image's features are the mean of its own and of its mirror image's: that gains 0.3
    percentage points on the 5,000 training images that it was not trained on.
    """

    n_classes: int = 10

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Features and logits of images in [-1, 1].

        Args:
            images_BxHxWxC: floats in [-1, 1]; H and W are multiples of 4.
            train: whether the batch's statistics normalise.

        Returns:
            features `[B, 128]`, at least 0, and logits `[B, n_classes]`.
        """
        x = images_BxHxWxC
        if not train:
            x = jnp.concatenate([x, x[:, :, ::-1]])
        x = _stage(x, 32, train, size=5, stride=2)
        x = _halved(_stage(x, 64, train))
        x = _stage(_stage(x, 128, train), 128, train)
        features_BxF = x.mean((1, 2))
        if not train:
            features_BxF = features_BxF.reshape(2, len(images_BxHxWxC), -1).mean(0)
        return features_BxF, nn.Dense(self.n_classes)(features_BxF)


def _stage(x: jax.Array, channels: int, train: bool, size: int = 3, stride: int = 1) -> jax.Array:
    x = nn.Conv(channels, (size, size), (stride, stride), use_bias=False)(x)
    return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))


def _halved(x: jax.Array) -> jax.Array:
    """The largest of each 2x2 places; its gradient is faster than that of linen's max_pool."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).max((2, 4))


@dataclass(frozen=True, eq=False)
class Reference:
    """The reference classifier with its weights.

    Attributes:
        variables: `params` and `batch_stats`.
        sha256: of the file that they came from.
    """

    variables: Any
    sha256: str

    def __call__(
        self, images: np.ndarray, on_chunk: Callable[[int], None] = lambda n: None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Features and predicted labels of images.

        Args:
            images: uint8 `[N, 28, 28, 1]`.
            on_chunk: told of the number of images that are done after each chunk.

        Returns:
            features, float32 `[N, 128]`, and labels, int32 `[N]`. Each image's are its own: they
            do not depend on what else is given.

        Raises:
            DataError: the images are of another shape or dtype.
        """
        if images.shape[1:] != (28, 28, 1):
            raise DataError(
                f"the reference classifier cannot take images {list(images.shape[1:])}\n"
                "expected [28, 28, 1], as Fashion-MNIST's\nGive a run that makes such images."
            )
        return apply_in_chunks(ReferenceNet(), self.variables, images, on_chunk)


@lru_cache
def load_reference() -> Reference:
    """The reference classifier, with the weights that come with the package.

    Raises:
        DataError: they are missing, or not the published ones.
    """
    try:
        found = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    except OSError as error:
        found = f"unreadable ({error.strerror})"
    if found != SHA256:
        raise DataError(
            f"the reference classifier's weights in {WEIGHTS} are {found}\n"
            f"expected SHA-256 {SHA256}\nInstall cgan_jax once more."
        )
    flat = {tuple(name.split(".")): array for name, array in load_state_dict(WEIGHTS).items()}
    return Reference(unflatten_dict(flat), found)
