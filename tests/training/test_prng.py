"""The unrolled Threefry: the same bits as JAX's own."""

import jax
import numpy as np
import pytest
from jax import random

from cgan_jax.training.prng import THREEFRY, jax_threefry
from cgan_jax.training.step import run_keys

DRAWS = {
    "normal": lambda key: random.normal(key, (3, 5)),
    "a scalar": lambda key: random.normal(key, ()),
    "nothing": lambda key: random.normal(key, (0, 3)),
    "randint": lambda key: random.randint(key, (7,), 0, 10),
    "bernoulli": lambda key: random.bernoulli(key, 0.6, (64, 3)),
    "permutation": lambda key: random.permutation(key, 1000),
    "uint8": lambda key: random.bits(key, (5,), "uint8"),
    "uint16": lambda key: random.bits(key, (5,), "uint16"),
    "split": lambda key: random.key_data(random.split(key, (2, 3))),
    "fold_in": lambda key: random.key_data(random.fold_in(key, 2**32 - 1)),
    "many keys": lambda key: jax.vmap(random.normal)(random.split(key, 4)),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("seed", [0, 2**31 - 1, -5])
def test_bits_equal_those_of_jax(name, seed):
    draw = jax.jit(DRAWS[name])
    expected, drawn = draw(random.key(seed)), draw(random.key(seed, impl=THREEFRY))
    assert expected.dtype == drawn.dtype
    np.testing.assert_array_equal(expected, drawn)


def test_64_bits_equal_those_of_jax():
    with jax.enable_x64(True):
        for draw in (random.normal, lambda key: random.bits(key, (9,), "uint64")):
            drawn = draw(random.key(1, impl=THREEFRY))
            assert drawn.dtype.itemsize == 8
            np.testing.assert_array_equal(drawn, draw(random.key(1)))


@pytest.mark.parametrize("seed", [3, 2**32 - 1])
def test_run_keys_use_it(seed):
    for ours, plain in zip(run_keys(seed), random.split(random.key(seed), 3), strict=True):
        assert random.key_impl(ours) == THREEFRY
        np.testing.assert_array_equal(random.key_data(ours), random.key_data(plain))


@pytest.mark.parametrize("impl", [THREEFRY, None, "rbg"], ids=["ours", "JAX's", "rbg"])
def test_keys_for_functions_of_the_users_have_the_same_draws(impl):
    key = random.key(5, impl=impl)
    other = jax_threefry(key)
    np.testing.assert_array_equal(random.uniform(key, (3,)), random.uniform(other, (3,)))
    assert str(random.key_impl(other)) == ("rbg" if impl == "rbg" else "threefry2x32")
