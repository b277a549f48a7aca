"""Ways between latent points and labels: both ends exact, lengths kept, and mixing in between."""

from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from cgan_jax.errors import ConfigError
from cgan_jax.sampling.generator import load_generator
from cgan_jax.sampling.latent_space import CHUNK, in_chunks, morph, slerp
from tests.golden.make_run_folder import FOLDER


@pytest.fixture(scope="module")
def generator():
    return load_generator(FOLDER)


def test_slerp_is_an_arc_with_exact_ends():
    start, end = random.normal(random.key(0), (2, 50, 100))
    t = jnp.linspace(0, 1, 9)[:, None]
    path = slerp(start, end, t)
    assert path.shape == (9, 50, 100)
    np.testing.assert_array_equal(path[0], start)
    np.testing.assert_array_equal(path[-1], end)
    # In the plane of both, as many degrees from step to step, by White's formula in float64.
    a, b = np.asarray(start, np.float64), np.asarray(end, np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    angle = np.arccos((a * b).sum(-1) / lengths)[:, None]
    for i, at in enumerate(np.linspace(0, 1, 9)):
        expected = (np.sin((1 - at) * angle) * a + np.sin(at * angle) * b) / np.sin(angle)
        np.testing.assert_allclose(path[i], expected, atol=1e-5)
    unit = slerp(jnp.array([3.0, 0]), jnp.array([0, 3.0]), jnp.array([0.25, 0.5]))
    np.testing.assert_allclose(jnp.linalg.norm(unit, axis=-1), 3, rtol=1e-6)


@pytest.mark.parametrize("end", [[1.0, 2.0], [2.0, 4.0], [-1.0, -2.0], [0.0, 0.0]])
def test_slerp_is_a_straight_line_between_collinear_points(end):
    start, end = jnp.array([1.0, 2.0]), jnp.array(end)
    np.testing.assert_allclose(slerp(start, end, 0.25), 0.75 * start + 0.25 * end, rtol=1e-6)


@pytest.mark.parametrize("truncation", [None, 0.7])
def test_the_ends_of_a_morph_are_generated_images(generator, truncation):
    """Bit for bit, in however many chunks, whether labels, points or both move."""
    start, end, frames = ["left", "right"] * 20, ["round trip", "right"] * 20, 9
    assert frames * len(start) > CHUNK
    path = generator.morph(start, end, seed=1, end_seed=2, frames=frames, truncation=truncation)
    assert (path.shape, path.dtype) == ((9, 40, 4, 4, 1), np.uint8)
    of_start, of_end = (
        generator.generate(labels, seed=seed, truncation=truncation)
        for labels, seed in ((start, 1), (end, 2))
    )
    np.testing.assert_array_equal(path[0], of_start)
    np.testing.assert_array_equal(path[-1], of_end)
    assert not np.array_equal(of_start[1::2], of_end[1::2])  # a way from point to point alone
    steps = np.abs(np.diff(path.astype(int), axis=0)).mean((1, 2, 3, 4))
    assert steps.max() < np.abs(of_start.astype(int) - of_end).mean()


def test_the_ends_of_a_morph_may_be_your_own_latent_points(generator):
    a, b = np.asarray(random.normal(random.key(3), (2, 2, 5)))
    first, last = generator.generate("left", latent=a), generator.generate("right", latent=b)
    from_seed = generator.generate(["right"] * 2, seed=4)
    for arguments, ends in (
        ({"latent": a, "end_latent": b}, (first, last)),
        ({"latent": a}, (first, generator.generate("right", latent=a))),
        ({"latent": a, "end_seed": 4, "truncation": 99}, (first, from_seed)),
        ({"end_latent": b, "seed": 4}, (generator.generate(["left"] * 2, seed=4), last)),
    ):
        path = generator.morph("left", "right", frames=3, **arguments)
        assert path.shape == (3, 2, 4, 4, 1)
        for frame, expected in zip(path[::2], ends, strict=True):
            np.testing.assert_allclose(frame.astype(int), expected, atol=1)
    one_hot = np.eye(3)[[0, 2]]
    by_weights = generator.morph(one_hot, "left", latent=a, frames=3)
    by_labels = generator.morph([0, 2], "left", latent=a, frames=3)
    np.testing.assert_allclose(by_weights.astype(int), by_labels.astype(int), atol=1)


def with_embeddings(generator, table):
    params = {**generator.variables["params"], "label_embedding": {"embedding": table}}
    return replace(generator, variables={**generator.variables, "params": params})


def test_labels_are_mixed_in_the_embedding(generator):
    """The middle of three frames is the picture of a class whose embedding is the mean of two."""
    table = 20 * random.normal(random.key(0), (3, 3))  # so that much depends on it
    mean = jnp.tile(table[:2].mean(0), (3, 1))
    morphed = with_embeddings(generator, table).morph("left", "right", seed=3, frames=3)
    expected = with_embeddings(generator, mean).generate(0, seed=3)
    assert np.abs(morphed[0].astype(int) - morphed[2]).max() > 50
    np.testing.assert_allclose(morphed[1].astype(int), expected.astype(int), atol=1)


class OneHot(nn.Module):
    """A generator without an embedding of labels."""

    latent_dim: int = 3

    @nn.compact
    def __call__(self, latent, labels, *, train):
        inputs = jnp.concatenate([latent, jax.nn.one_hot(labels, 2)], axis=-1)
        return nn.tanh(nn.Dense(4)(inputs)).reshape(-1, 2, 2, 1)


def test_labels_of_a_network_without_an_embedding_cannot_be_mixed():
    module, points = OneHot(), (random.key(0), random.key(1))
    zero, one = np.zeros(2, np.int32), np.ones(2, np.int32)
    variables = module.init(random.key(2), jnp.zeros((2, 3)), zero, train=False)
    assert morph(module, variables, (zero, zero), points, 5).shape == (5, 2, 2, 2, 1)
    with pytest.raises(ConfigError, match=r"OneHot has no label embedding.*\n.*Embed"):
        morph(module, variables, (zero, one), points, 5)


def test_invalid_morphs_are_refused(generator):
    for arguments, words in (
        ({"frames": 1}, r"frames must be an integer in 2\.\."),
        ({"end": ["left", "right"]}, "end has 2 labels, start has 3"),
        ({"end": "lefft"}, "did you mean 'left'"),
        ({"end_seed": -1}, "seed must be"),
        ({"truncation": 0}, "truncation must be"),
        ({"frames": 2**31 - 1, "n": 2**31 - 1}, "images are .* GB"),
        ({"latent": np.zeros((2, 5))}, "there are 2 latent points for 3 labels"),
        ({"end_latent": np.zeros(5)}, r"end_latent is .*\nexpected finite numbers \[n, 5\]"),
        ({"end": np.full((1, 3), np.nan)}, r"end is .*\nexpected finite numbers \[n, 3\]"),
        ({"end": np.ones((1, 2))}, r"end is .*\nexpected finite numbers \[n, 3\]"),
        ({"latent": np.zeros((1, 5)), "truncation": 1}, "truncation does not go with latent"),
    ):
        with pytest.raises(ConfigError, match=words):
            generator.morph([0, 1, 2], **arguments)
    assert generator.morph(["left", "right"], "round trip", frames=2).shape[:2] == (2, 2)


def test_many_rows_are_processed_some_at_a_time():
    calls, sizes = [], set()

    def double(numbers):
        sizes.add(len(numbers))
        return numbers * 2, numbers + 1

    results = in_chunks(double, 4, np.arange(10), on_progress=lambda *done: calls.append(done))
    assert [array.tolist() for array in results] == [[*range(0, 20, 2)], [*range(1, 11)]]
    assert (sizes, calls) == ({4}, [(4, 10), (8, 10), (10, 10)])
