"""The two networks and their layers, against the report's figures and hand-computed values."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

from cgan_jax.models.layers import BatchNorm, Linear
from cgan_jax.models.report import Discriminator, Generator
from tests.helpers import n_parameters

KEY = random.key(0)


@pytest.fixture(scope="module")
def generator():
    module = Generator()
    latent, labels = random.normal(KEY, (6, 100)), jnp.arange(6)
    variables = jax.jit(lambda: module.init(KEY, latent, labels, train=True))()
    return module, variables, latent, labels


@pytest.fixture(scope="module")
def discriminator():
    module = Discriminator()
    images, labels = random.uniform(KEY, (6, 28, 28, 1), minval=-1), jnp.arange(6)
    variables = jax.jit(lambda: module.init(KEY, images, labels, train=False))()
    return module, variables, images, labels


def test_report_parameter_counts(generator, discriminator):
    assert n_parameters(generator[1]) == 1_511_412
    assert n_parameters(discriminator[1]) == 932_965


def test_shapes_dtypes_and_ranges(generator, discriminator):
    module, variables, latent, labels = generator
    images = module.apply(variables, latent, labels, train=False)
    assert (images.shape, images.dtype) == ((6, 28, 28, 1), jnp.float32)
    assert jnp.abs(images).max() <= 1
    module, variables, images, labels = discriminator
    scores = module.apply(variables, images, labels, train=False)
    assert (scores.shape, scores.dtype) == ((6,), jnp.float32)


def test_every_size_is_a_field():
    generator = Generator(
        n_classes=3, latent_dim=7, label_dim=4, img_size=5, channels=3, widths=(6, 8)
    )
    latent, labels = jnp.zeros((2, 7)), jnp.array([0, 2])
    images, variables = generator.init_with_output(KEY, latent, labels, train=True)
    assert images.shape == (2, 5, 5, 3)
    params = variables["params"]
    assert params["label_embedding"]["embedding"].shape == (3, 4)
    assert params["hidden_0"]["kernel"].shape == (4 + 7, 6)
    assert params["hidden_1"]["kernel"].shape == (6, 8)
    assert set(variables["batch_stats"]) == {"batch_norm_1"}
    discriminator = Discriminator(n_classes=3, label_dim=4, widths=(9,))
    params = discriminator.init(KEY, images, labels, train=False)["params"]
    assert params["hidden_0"]["kernel"].shape == (75 + 4, 9)
    assert params["output"]["kernel"].shape == (9, 1)


def test_generator_by_hand(generator):
    """Evaluation mode, layer by layer in NumPy: the label before the noise, eps 0.8, slope 0.2."""
    module, variables, latent, labels = generator
    rng = np.random.default_rng(0)
    stats = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 2, leaf.shape).astype(np.float32), variables["batch_stats"]
    )
    params = jax.tree.map(np.asarray, variables["params"])

    x = np.concatenate([params["label_embedding"]["embedding"][labels], latent], axis=1)
    for i in range(4):
        x = x @ params[f"hidden_{i}"]["kernel"] + params[f"hidden_{i}"]["bias"]
        if i > 0:
            norm, stat = params[f"batch_norm_{i}"], stats[f"batch_norm_{i}"]
            x = (x - stat["mean"]) / np.sqrt(stat["var"] + 0.8) * norm["scale"] + norm["bias"]
        x = np.where(x >= 0, x, 0.2 * x)
    x = np.tanh(x @ params["output"]["kernel"] + params["output"]["bias"])

    variables = {"params": variables["params"], "batch_stats": stats}
    images = module.apply(variables, latent, labels, train=False)
    np.testing.assert_allclose(images, x.reshape(6, 28, 28, 1), atol=1e-6)


def test_discriminator_by_hand(discriminator):
    """Evaluation mode in NumPy: the image before the label, no sigmoid."""
    module, variables, images, labels = discriminator
    params = jax.tree.map(np.asarray, variables["params"])
    embedding = params["label_embedding"]["embedding"][labels]
    x = np.concatenate([np.reshape(images, (6, 784)), embedding], axis=1)
    for i in range(3):
        x = x @ params[f"hidden_{i}"]["kernel"] + params[f"hidden_{i}"]["bias"]
        x = np.where(x >= 0, x, 0.2 * x)
    expected = (x @ params["output"]["kernel"] + params["output"]["bias"])[:, 0]
    scores = module.apply(variables, images, labels, train=False)
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_dropout_stands_before_the_activation_in_all_layers_but_the_first(discriminator):
    """A dropped unit is 0 when it reaches LeakyReLU, and a kept one is scaled by 1 / 0.6."""
    module, variables, images, labels = discriminator
    calls = []

    def record(next_function, args, kwargs, context):
        output = next_function(*args, **kwargs)
        if isinstance(context.module, Linear | nn.Dropout):
            calls.append((type(context.module).__name__, args[0], output))
        return output

    with nn.intercept_methods(record):
        module.apply(variables, images, labels, train=True, rngs={"dropout": KEY})
    assert [name for name, *_ in calls] == [
        *("Linear", "Linear", "Dropout", "Linear", "Dropout", "Linear")
    ]
    first, second, dropout, third = calls[0][2], calls[1], calls[2], calls[3]
    np.testing.assert_array_equal(second[1], nn.leaky_relu(first, 0.2))
    np.testing.assert_array_equal(dropout[1], second[2])
    np.testing.assert_array_equal(third[1], nn.leaky_relu(dropout[2], 0.2))
    kept = dropout[2] != 0
    assert 0.55 < kept.mean() < 0.65
    np.testing.assert_allclose(dropout[2][kept], dropout[1][kept] / 0.6, rtol=1e-6)


def test_a_label_changes_the_image_and_the_score(generator, discriminator):
    module, variables, latent, labels = generator
    one = module.apply(variables, latent, labels, train=False)
    other = module.apply(variables, latent, (labels + 1) % 10, train=False)
    assert jnp.abs(one - other).max(axis=(1, 2, 3)).min() > 1e-3
    module, variables, images, labels = discriminator
    one = module.apply(variables, images, labels, train=False)
    other = module.apply(variables, images, (labels + 1) % 10, train=False)
    assert jnp.abs(one - other).min() > 1e-4


def test_linear_is_initialised_as_in_pytorch():
    """Weight and bias ~ U(-1/sqrt(fan_in), 1/sqrt(fan_in)): bounds, mean and variance."""
    params = Linear(1000).init(KEY, jnp.zeros((1, 400)))["params"]
    for leaf in params.values():
        bound = 1 / 20
        assert jnp.abs(leaf).max() <= bound
        assert jnp.abs(leaf).max() > 0.99 * bound
        assert abs(leaf.mean()) < 0.1 * bound
        np.testing.assert_allclose(leaf.var(), bound**2 / 3, rtol=0.1)
    assert params["kernel"].shape == (400, 1000)


def test_embeddings_are_initialised_as_in_pytorch(generator, discriminator):
    """N(0, 1), a hundred numbers each."""
    for _, variables, *_ in (generator, discriminator):
        table = variables["params"]["label_embedding"]["embedding"]
        assert table.shape == (10, 10)
        assert abs(table.mean()) < 0.4
        assert 0.75 < table.std() < 1.25


def test_batch_norm_by_hand():
    """Two features, three rows: the biased variance normalises, the unbiased one is kept."""
    module = BatchNorm(epsilon=0.8, momentum=0.9)
    x = jnp.array([[1.0, 0.0], [2.0, 0.0], [6.0, 3.0]])
    variables = module.init(KEY, x, train=True)
    assert variables["batch_stats"]["mean"].tolist() == [0, 0]
    assert variables["batch_stats"]["var"].tolist() == [1, 1]

    y, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
    mean, biased, unbiased = np.array([3.0, 1.0]), np.array([14 / 3, 2.0]), np.array([7.0, 3.0])
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(biased + 0.8), rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["mean"], 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(updated["batch_stats"]["var"], 0.9 + 0.1 * unbiased, rtol=1e-6)

    after = {"params": variables["params"], **updated}
    y, kept = module.apply(after, x, train=False, mutable=["batch_stats"])
    np.testing.assert_allclose(y, (x - 0.1 * mean) / np.sqrt(0.9 + 0.1 * unbiased + 0.8), rtol=1e-6)
    np.testing.assert_array_equal(kept["batch_stats"]["var"], updated["batch_stats"]["var"])
