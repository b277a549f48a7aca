"""Differentiable augmentation (Zhao et al. 2020): applied to all images before D sees them.

An augmentation is a function; `GAN(augment=...)` takes any with the signature of `Augment`.
"""

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax, random

from cgan_jax.config import AUGMENTATIONS


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


@dataclass(frozen=True)
class DiffAugment:
    """The augmentations of Zhao et al. 2020, section 4, in this order; each image draws its own.

    What one of them draws does not depend on the others.

    Args:
        color: see `color`. It may take pixels out of [-1, 1].
        translation: see `translation`.
        cutout: see `cutout`.
        background: the pixel value that translation and cutout fill in, also of an alpha channel,
            where -1 is transparent.
    """

    color: bool = False
    translation: bool = False
    cutout: bool = False
    background: float = -1.0

    def __call__(self, images: jax.Array, key: jax.Array) -> jax.Array:
        """See `Augment`."""
        color_key, translation_key, cutout_key = random.split(key, 3)
        if self.color:
            images = color(images, color_key)
        if self.translation:
            images = translation(images, translation_key, self.background)
        if self.cutout:
            images = cutout(images, cutout_key, self.background)
        return images


def augment_from_config(policy: str, background: float) -> DiffAugment | None:
    """The augmentation of a configuration's `augment` and `background`; None for an empty policy.

    The order of the policy's words does not matter.
    """
    words = {word: word in policy.split(",") for word in AUGMENTATIONS}
    return DiffAugment(**words, background=background) if policy else None


def color(images: jax.Array, key: jax.Array) -> jax.Array:
    """Brightness, saturation where there are three channels, and contrast, in this order.

    Brightness adds a number in [-1/2, 1/2) to all pixels. Saturation multiplies the distance from
    each pixel's grey by a factor in [0, 2), contrast that from the image's mean by one in
    [1/2, 3/2). Of four channels the last one, alpha, stays, and the others change as three do.
    """
    if images.shape[-1] == 4:
        return jnp.concatenate([color(images[..., :3], key), images[..., 3:]], -1)
    shape = (3, len(images), 1, 1, 1)
    brightness, saturation, contrast = random.uniform(key, shape, images.dtype)
    images = images + (brightness - 0.5)
    if images.shape[-1] == 3:
        grey = images.mean(-1, keepdims=True)
        images = grey + 2 * saturation * (images - grey)
    mean = images.mean((1, 2, 3), keepdims=True)
    return mean + (contrast + 0.5) * (images - mean)


def translation(images: jax.Array, key: jax.Array, background: float) -> jax.Array:
    """Move by up to an eighth of the height and of the width, rounded, in whole pixels.

    The background is moved in.
    """
    _, height, width, _ = images.shape
    y, x = _rounded(height, 8), _rounded(width, 8)
    margins = ((0, 0), (y, y), (x, x), (0, 0))
    padded = jnp.pad(images, margins, constant_values=background)
    starts_Bx2 = random.randint(key, (len(images), 2), 0, jnp.array([2 * y + 1, 2 * x + 1]))

    # On a CPU faster, with both derivatives, than products, masks or an indexed gather.
    def window(image: jax.Array, start: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (*start, 0), images.shape[1:])

    return jax.vmap(window)(padded, starts_Bx2)


def cutout(images: jax.Array, key: jax.Array, background: float) -> jax.Array:
    """Fill a rectangle of half the height and half the width, rounded, with the background.

    Its centre is anywhere in the image, so that a part may lie outside.
    """
    _, height, width, _ = images.shape
    hole = jnp.array([_rounded(height, 2), _rounded(width, 2)])
    # One more place where the size is even: its centre is then a pixel's corner.
    places = jnp.array([height, width]) + 1 - hole % 2
    starts_Bx2 = random.randint(key, (len(images), 2), 0, places) - hole // 2

    def inside(size: int, axis: int) -> jax.Array:
        distances_BxS = jnp.arange(size) - starts_Bx2[:, axis, None]
        return (distances_BxS >= 0) & (distances_BxS < hole[axis])

    hole_BxHxW = inside(height, 0)[:, :, None] & inside(width, 1)[:, None, :]
    return jnp.where(hole_BxHxW[..., None], background, images)


def _rounded(size: int, parts: int) -> int:
    """`size / parts` to the nearest integer, halves upwards."""
    return (2 * size + parts) // (2 * parts)
