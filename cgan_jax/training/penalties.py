"""Penalties on the discriminator's gradients: what the training step calls between its two losses.

A penalty is a function; `GAN(penalty=...)` takes any with the signature of `Penalty`.
"""

from collections.abc import Callable
from typing import Protocol

import jax

ScoreFn = Callable[[jax.Array, jax.Array], jax.Array]
"""The discriminator in training mode: images `[B, H, W, C]` and labels `[B]` to scores `[B]`."""


class Penalty(Protocol):
    """A term that is added to the discriminator's loss."""

    def __call__(
        self,
        score: ScoreFn,
        real: tuple[jax.Array, jax.Array],
        fake: tuple[jax.Array, jax.Array],
        *,
        step: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """The penalty of one batch.

        Args:
            score: the discriminator, augmentation included, to differentiate by its images.
            real: images in [-1, 1], `[B, H, W, C]`, and their labels, int32 `[B]`.
            fake: the same of the fakes, which are constants here.
            step: int32 scalar, how many steps are done.
            key: for what the penalty draws.

        Returns:
            a float scalar.
        """
