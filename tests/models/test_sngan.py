"""The SNGAN pair: sizes, where labels and statistics go, spectral norms, precision."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.config import SNGANConfig
from cgan_jax.errors import ConfigError
from cgan_jax.models import networks
from tests.helpers import change_by_label, each_conditioning, init_pair

SMALL = {"n_classes": 3, "latent_dim": 4, "img_size": 8}
SMALL |= {"generator_width": 4, "discriminator_width": 6}


@pytest.mark.parametrize(
    ("size", "channels", "stages"), [(28, 1, 2), (32, 3, 3), (64, 4, 4), (6, 1, 1)]
)
def test_sizes_that_halve(size, channels, stages):
    config = SNGANConfig(img_size=size, channels=channels, stages=stages)
    images, scores, gen, disc = jax.eval_shape(lambda: init_pair(config))
    assert (images.shape, scores.shape) == ((2, size, size, channels), (2,))
    assert (images.dtype, scores.dtype) == (jnp.float32, jnp.float32)
    assert sum("block" in name for name in gen["params"]) == stages
    assert sum("block" in name for name in disc["params"]) == stages + 2


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(ConfigError, match=r"img_size 28 .* 3 times\n.* such as 24 or 32\n.*stages"):
        SNGANConfig(stages=3)


@pytest.mark.parametrize("name", ["generator_width", "discriminator_width", "n_classes"])
def test_networks_with_too_many_weights_are_refused(name):
    with pytest.raises(ConfigError, match=f"with {name} .* too many weights"):
        SNGANConfig(**{name: 2**25})


def test_every_layer_of_the_discriminator_is_spectrally_normalised():
    config = SNGANConfig(**SMALL)
    disc = jax.eval_shape(lambda: init_pair(config))[3]

    def layers(tree, path=()):
        for name, value in tree.items():
            if not isinstance(value, dict):
                yield path
                return
            yield from layers(value, (*path, name))

    weights = set(layers(disc["params"]))
    vectors = {
        tuple(name.removesuffix("_norm") for name in path) for path in layers(disc["batch_stats"])
    }
    assert weights == vectors
    assert len(weights) == 2 * 4 + 2 + 2  # convolutions, shortcuts, the two terms of the score


@each_conditioning
def test_labels_change_scores(conditioning):
    config = SNGANConfig(**SMALL, stages=1, discriminator_conditioning=conditioning)
    assert change_by_label(config)[1].min() > 1e-4


@pytest.mark.slow
def test_the_label_enters_the_first_layer_instead():
    config = SNGANConfig(**SMALL, generator_conditioning="concatenation")
    *_, gen, _ = jax.eval_shape(lambda: init_pair(config))
    assert gen["params"]["first"]["kernel"].shape[0] == 4 + 3
    assert gen["params"]["block_0"]["batch_norm_0"]["scale"].shape == (4,)
    assert change_by_label(config)[0].min() > 1e-2


@pytest.mark.slow
def test_the_label_enters_every_batch_norm():
    """Another scale and bias for class 2 there alone changes its image, and no other."""
    config = SNGANConfig(**SMALL)
    *_, gen, _ = jax.jit(lambda: init_pair(config))()
    generate = jax.jit(partial(networks(config)[0].apply, train=False))
    latent, labels = jnp.ones((3, 4)), jnp.arange(3)
    before = generate(gen, latent, labels)
    np.testing.assert_allclose(before[0], before[2], atol=1e-6)  # all classes begin alike
    for block in ("block_0", "block_1"):
        for norm in ("batch_norm_0", "batch_norm_1"):
            changed = jax.tree.map(np.array, gen)
            tables = changed["params"][block][norm]
            tables["scale"]["embedding"][2] += 0.5
            tables["bias"]["embedding"][2] += 0.5
            after = generate(changed, latent, labels)
            np.testing.assert_array_equal(before[:2], after[:2])
            assert jnp.abs(before[2] - after[2]).max() > 1e-3, (block, norm)


@pytest.mark.slow
def test_statistics_change_in_training_alone():
    config = SNGANConfig(**SMALL)
    images, _, gen, disc = jax.jit(lambda: init_pair(config))()
    inputs = (jax.random.normal(jax.random.key(1), (2, 4)), images)
    for module, variables, x in zip(networks(config), (gen, disc), inputs, strict=True):
        for train in (True, False):
            apply = jax.jit(partial(module.apply, train=train, mutable=["batch_stats"]))
            _, updated = apply(variables, x, jnp.arange(2))
            same = jax.tree.map(np.array_equal, variables["batch_stats"], updated["batch_stats"])
            assert all(jax.tree.leaves(same)) == (not train)


@pytest.mark.slow
def test_bfloat16_is_for_the_blocks_alone():
    results = []
    for precision in ("float32", "bfloat16"):
        config = SNGANConfig(**SMALL, stages=1, precision=precision)
        state = jax.jit(lambda config=config: init_pair(config))()
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float32)}
        text = str(jax.make_jaxpr(lambda config=config: init_pair(config))())
        assert ("bf16" in text) == (precision == "bfloat16")
        results.append(state[:2])
    for exact, near in zip(*results, strict=True):
        assert 0 < jnp.abs(exact - near).max() < 0.2
