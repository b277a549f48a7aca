"""JAX's Threefry-2x32 with its rounds unrolled: the same bits, faster on a CPU.

On a CPU, JAX compiles the rounds as a loop of small kernels, which took an eighth of a training
step; unrolled they are fused with the code that uses the bits.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random
from jax.extend.random import define_prng_impl

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def _threefry(key: jax.Array, high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The block cipher of Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3".

    Args:
        key: uint32 `[2]`.
        high, low: uint32 counters of one shape.

    Returns:
        two words for each counter, uint32.
    """
    words = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x, y = high + words[0], low + words[1]
    for group in range(5):
        for n_bits in _ROTATIONS[group % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(n_bits)) | (y >> np.uint32(32 - n_bits)))
        x = x + words[(group + 1) % 3]
        y = y + words[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def _hash_counters(key: jax.Array, shape: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Two words for each element of an array, from the element's index."""
    size = math.prod(shape)
    assert size < 2**32, "an index has 32 bits"
    low = lax.iota(np.uint32, size).reshape(shape)
    return _threefry(key, jnp.zeros_like(low), low)


def _seed(seed: jax.Array) -> jax.Array:
    return random.key_data(random.key(seed, impl="threefry2x32"))


def _split(key: jax.Array, shape: Sequence[int]) -> jax.Array:
    return _as_key(_hash_counters(key, shape))


def _fold_in(key: jax.Array, data: int | jax.Array) -> jax.Array:
    low = jnp.asarray(data).astype(np.uint32)
    return _as_key(_threefry(key, jnp.zeros_like(low), low))


def _as_key(words: tuple[jax.Array, jax.Array]) -> jax.Array:
    # XLA 0.12 never finishes compiling one cipher fused with the next.
    return lax.optimization_barrier(jnp.stack(words, axis=-1))


def _random_bits(key: jax.Array, width: int, shape: Sequence[int]) -> jax.Array:
    high, low = _hash_counters(key, shape)
    if width == 64:
        return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
    return (high ^ low).astype(f"uint{width}")


THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_unrolled",
    tag="fryu",
)
"""For `jax.random.key(seed, impl=THREEFRY)`: the draws of `jax.random.key(seed)`, faster."""


def jax_threefry(key: jax.Array) -> jax.Array:
    """The same key for JAX's own Threefry, with the same draws; a key of another kind as it is.

    XLA's CPU compiler takes minutes over some small draws from the unrolled rounds, as of
    `uniform(key, (B, 1, 1, 1))`.
    """
    if random.key_impl(key) != THREEFRY:
        return key
    return random.wrap_key_data(random.key_data(key), impl="threefry2x32")
