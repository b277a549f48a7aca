"""Differentiable augmentation (Zhao et al. 2020): applied to all images before D sees them.

An augmentation is a function; `GAN(augment=...)` takes any with the signature of `Augment`.
"""

from typing import Protocol

import jax


class Augment(Protocol):
    """A random change of images through which gradients flow."""

    def __call__(self, images: jax.Array, key: jax.Array) -> jax.Array:
        """Augment images, each in its own way.

        Args:
            images: floats in [-1, 1], `[B, H, W, C]`.
            key: the source of all randomness.

        Returns:
            images of the same shape.
        """
