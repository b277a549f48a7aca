"""The residual pair: sizes, the state at the start of training, precision, refused sizes."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.config import ResidualConfig
from cgan_jax.errors import ConfigError
from cgan_jax.models import networks
from tests.helpers import change_by_label, each_conditioning, init_pair, n_parameters
from tests.xla import FUSED

SMALL = {"n_classes": 3, "latent_dim": 4, "label_dim": 2, "img_size": 8, "features": 6}
SMALL |= {"generator_widths": (8, 4), "discriminator_widths": (4, 8)}


def shapes_of(config):
    """Shapes of images, scores and variables, without computing any."""
    return jax.eval_shape(lambda: init_pair(config))


def test_parameter_counts():
    """Near R3GAN's structure at the prototype's sizes; the docstrings give the same numbers."""
    *_, gen, disc = shapes_of(ResidualConfig())
    assert (n_parameters(gen), n_parameters(disc)) == (710_532, 1_710_529)


@pytest.mark.parametrize("resampling", ["shuffle", "filter"])
@pytest.mark.parametrize(
    ("size", "channels", "gen_widths", "disc_widths"),
    [
        (28, 1, (8, 4), (4, 8)),
        (32, 3, (8, 8, 4), (4, 8)),
        (64, 4, (8, 4, 4, 2), (2, 4, 4, 8)),
        (2, 1, (4,), (4,)),
        (12, 3, (4,), (4, 8)),
    ],
)
def test_sizes_that_halve(size, channels, gen_widths, disc_widths, resampling):
    config = ResidualConfig(
        img_size=size,
        channels=channels,
        generator_widths=gen_widths,
        discriminator_widths=disc_widths,
        resampling=resampling,
        blocks=2,
    )
    images, scores, *_ = shapes_of(config)
    assert (images.shape, scores.shape) == ((2, size, size, channels), (2,))
    assert (images.dtype, scores.dtype) == (jnp.float32, jnp.float32)


@pytest.mark.parametrize(
    ("size", "nearest"), [(30, "28 or 32"), (27, "24 or 28"), (2, "4"), (3, "4")]
)
def test_sizes_that_do_not_halve_are_refused(size, nearest):
    with pytest.raises(ConfigError) as caught:
        ResidualConfig(img_size=size)
    first, second, third = str(caught.value).splitlines()
    assert first == f"img_size {size} cannot be halved 2 times"
    assert second == f"expected a multiple of 4, such as {nearest}"
    assert third.startswith("Resize the images, or give fewer generator_widths")


@pytest.mark.parametrize("name", ["generator_widths", "discriminator_widths"])
def test_each_network_has_its_own_number_of_stages(name):
    with pytest.raises(ConfigError, match="28 cannot be halved 3 times"):
        ResidualConfig(**{name: (4, 4, 4)})
    ResidualConfig(**{name: (4,)}, img_size=4)


@pytest.mark.parametrize("name", ["generator_widths", "blocks", "features", "n_classes"])
def test_networks_with_too_many_weights_are_refused(name):
    value = (2**20, 2**20) if name == "generator_widths" else 2**30
    with pytest.raises(ConfigError, match=f"with {name} .* too many weights"):
        ResidualConfig(**{name: value})


def test_blocks_are_the_identity_at_the_start():
    """The last convolution of each is zero; the others are scaled down by the number of blocks."""
    config = ResidualConfig(**SMALL | {"generator_widths": (64, 64)}, blocks=2)
    images, _, gen, _ = jax.jit(lambda: init_pair(config), compiler_options=FUSED)()
    params = gen["params"]
    blocks = {name: params[name] for name in params if "block" in name}
    assert len(blocks) == 4
    for name, block in blocks.items():
        assert not np.any(block["expand"]["kernel"])
        gain = np.sqrt(2 / 1.04) * 4**-0.25
        for conv, fan_in in (("reduce", 64), ("mix", 32 * 9)):
            np.testing.assert_allclose(block[conv]["kernel"].std() * fan_in**0.5, gain, rtol=0.15)
        params[name]["reduce"]["kernel"] *= 7  # without effect
    apply = jax.jit(partial(networks(config)[0].apply, train=True), compiler_options=FUSED)
    latent = jax.random.normal(jax.random.key(1), (2, config.latent_dim))
    again = apply({"params": params}, latent, jnp.arange(2))
    np.testing.assert_allclose(images, again, rtol=1e-5)


@each_conditioning
def test_labels_change_images_and_scores(conditioning):
    config = ResidualConfig(**SMALL, discriminator_conditioning=conditioning)
    by_image, by_score = change_by_label(config)
    assert by_image.min() > 1e-2
    assert by_score.min() > 1e-4


@pytest.mark.slow
def test_bfloat16_is_for_the_stages_alone():
    """Parameters, gradients, images and scores stay float32; the numbers stay near."""
    results = []
    for precision in ("float32", "bfloat16"):
        config = ResidualConfig(**SMALL, precision=precision)

        def total(disc, config=config):
            images, scores, gen, new_disc = init_pair(config)
            again = networks(config)[1].apply(disc or new_disc, images, jnp.arange(2), train=True)
            return again.sum(), (images, scores, gen, new_disc)

        assert ("bf16" in str(jax.make_jaxpr(total)(None))) == (precision == "bfloat16")
        shapes = jax.eval_shape(total, None)
        grads = jax.eval_shape(jax.grad(total, has_aux=True), shapes[1][3])
        assert {leaf.dtype for leaf in jax.tree.leaves((shapes, grads))} == {np.dtype(np.float32)}
        results.append(jax.jit(init_pair, static_argnums=0)(config)[:2])
    for exact, near in zip(*results, strict=True):
        assert 0 < jnp.abs(exact - near).max() < 0.1


def test_the_last_layers_compute_in_float32():
    config = ResidualConfig(**SMALL, precision="bfloat16")
    shapes = jax.eval_shape(lambda: init_pair(config))
    inputs = (jnp.ones((2, 4)), jnp.ones((2, 8, 8, 1)))

    def dtypes(which, operation):
        apply = jax.jit(partial(networks(config)[which].apply, train=True))
        text = apply.lower(shapes[2 + which], inputs[which], jnp.arange(2)).as_text()
        return re.findall(rf"stablehlo.{operation}\b.*-> tensor<\S*x(\w+)>", text)

    assert dtypes(0, "convolution") == ["bf16", "bf16", "f32"]  # two blocks, then the pixels
    assert dtypes(1, "convolution") == ["bf16"] * 3
    assert dtypes(1, "dot_general")[-2:] == ["f32", "f32"]  # the last features, and the score
