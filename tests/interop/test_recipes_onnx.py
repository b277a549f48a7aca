"""Each preset's generator as StableHLO and as an ONNX graph. Slow: needs the extra `onnx`."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from cgan_jax.config import MODEL_KINDS, TrainConfig
from cgan_jax.interop import (
    largest_difference,
    load_onnx,
    load_stablehlo,
    save_onnx,
    save_stablehlo,
)
from cgan_jax.models import networks
from cgan_jax.presets import PRESETS
from cgan_jax.sampling.generator import TrainedGenerator
from experiments.proofs import tiny

pytestmark = pytest.mark.slow
# The wide recipe computes in bfloat16, and its ONNX graph in float32.
TOLERANCE = dict.fromkeys(PRESETS, 1e-05) | {"residual_wide": 0.05}


@pytest.fixture(scope="module", params=[name for name in PRESETS if name != "report"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def generator(name):
    """The generator at full size."""
    return random_generator(PRESETS[name].model)


def random_generator(model):
    """With random weights where it starts with zeros."""
    module, _ = networks(model)
    latent, labels = jnp.zeros((2, module.latent_dim)), jnp.zeros(2, jnp.int32)
    variables = jax.jit(module.init, static_argnames="train")(
        jax.random.key(0), latent, labels, train=False
    )
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [
        leaf + 0.01 * jnp.abs(jax.random.normal(key, leaf.shape))
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    names = tuple("ABCDEFGHIJ"[: model.n_classes])
    return TrainedGenerator(module, jax.tree.unflatten(tree, moved), names, 0)


def test_onnx_graph_makes_the_same_images(name, generator, tmp_path):
    save_onnx(tmp_path / "generator.onnx", generator)
    exported = load_onnx(tmp_path / "generator.onnx")
    assert largest_difference(generator, exported) < TOLERANCE[name]


@pytest.mark.parametrize("kind", MODEL_KINDS)
def test_onnx_graph_of_images_higher_than_wide_with_alpha(kind, tmp_path):
    model = tiny.shrink(TrainConfig(model=MODEL_KINDS[kind]())).model
    generator = random_generator(replace(model, img_size=(12, 8), channels=4))
    save_onnx(tmp_path / "generator.onnx", generator)
    assert largest_difference(generator, load_onnx(tmp_path / "generator.onnx")) < 1e-5


def test_stablehlo_program_makes_the_same_images(generator, tmp_path):
    save_stablehlo(tmp_path / "generator.bin", generator)
    exported = load_stablehlo(tmp_path / "generator.bin")
    assert largest_difference(generator, exported) < 1e-6
