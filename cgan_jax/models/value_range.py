"""uint8 pixels to the [-1, 1] of the networks, and back."""

import jax
import jax.numpy as jnp


def to_unit_range(images: jax.Array) -> jax.Array:
    """uint8 images to floats in [-1, 1]: `x / 127.5 - 1`."""
    return images.astype(jnp.result_type(float)) / 127.5 - 1


def to_uint8(images: jax.Array) -> jax.Array:
    """Floats in [-1, 1] to the nearest uint8: the inverse of `to_unit_range`."""
    return jnp.clip(jnp.round((images + 1) * 127.5), 0, 255).astype(jnp.uint8)
