"""The MLP pair without normalisation: sizes, conditioning, and the variance at the start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.config import MLPConfig
from cgan_jax.errors import ConfigError
from cgan_jax.models import networks
from tests.helpers import change_by_label, init_pair, n_parameters


def test_parameter_counts():
    """The report's, less its BatchNorm's two for each of 1792 features."""
    *_, gen, disc = jax.eval_shape(lambda: init_pair(MLPConfig()))
    assert n_parameters(gen) == 1_511_412 - 2 * (256 + 512 + 1024)
    assert n_parameters(disc) == 932_965
    assert set(gen) == set(disc) == {"params"}
    projection = MLPConfig(discriminator_conditioning="projection")
    disc = jax.eval_shape(lambda: init_pair(projection))[3]
    assert n_parameters(disc) == 932_965 - 10 * 10 - 10 * 512 + 10 * 512


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (5, 3), (3, 4)])
def test_any_size_works(size, channels):
    config = MLPConfig(img_size=size, channels=channels, generator_widths=(3,))
    images, scores, *_ = jax.eval_shape(lambda: init_pair(config))
    assert (images.shape, scores.shape) == ((2, size, size, channels), (2,))


@pytest.mark.parametrize("conditioning", ["concatenation", "projection", "projection_only"])
def test_labels_change_images_and_scores(conditioning):
    config = MLPConfig(
        n_classes=3,
        latent_dim=4,
        img_size=4,
        generator_widths=(8, 8),
        discriminator_widths=(8, 8),
        discriminator_conditioning=conditioning,
    )
    by_image, by_score = change_by_label(config)
    assert by_image.min() > 1e-2
    assert by_score.min() > 1e-3


def test_layers_keep_the_variance():
    """What every layer of the generator gives has a mean square near 2 / (1 + 0.2^2)."""
    config = MLPConfig()
    generator = networks(config)[0]
    latent, labels = jax.random.normal(jax.random.key(1), (64, 100)), jnp.arange(64) % 10

    def hidden():
        variables = generator.init(jax.random.key(0), latent, labels, train=True)
        capture = {"capture_intermediates": True, "mutable": ["intermediates"]}
        _, state = generator.apply(variables, latent, labels, train=True, **capture)
        return state["intermediates"]

    for name, layer in jax.jit(hidden)().items():
        if name.startswith("hidden"):
            mean_square = jnp.square(layer["__call__"][0]).mean()
            np.testing.assert_allclose(mean_square, 2 / 1.04, rtol=0.25, err_msg=name)


def test_a_table_of_projections_counts():
    with pytest.raises(ConfigError, match="n_classes .* too many weights"):
        MLPConfig(n_classes=2**23, label_dim=1, discriminator_conditioning="projection")
    MLPConfig(n_classes=2**23, label_dim=1)
