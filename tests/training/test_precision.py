"""In what precision a recipe computes: products on a GPU, and bfloat16 inside the wide networks."""

import re
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgan_jax.data import Batch, DatasetSource
from cgan_jax.models.value_range import to_unit_range
from cgan_jax.presets import PRESETS
from cgan_jax.training.chunks import ChunkRunner
from cgan_jax.training.gan import GAN
from cgan_jax.training.step import run_keys, train_step
from experiments.proofs import tiny

KEYS = run_keys(0)


def gan_and_runner(recipe, precision):
    config = replace(tiny.shrink(recipe), matmul_precision=precision)
    gan, source = GAN.from_config(config), DatasetSource(tiny.dataset(), 4, KEYS.order)
    return gan, ChunkRunner(gan, source, KEYS.steps, config)


@pytest.mark.parametrize("precision", ["default", "float32"])
def test_every_product_and_convolution_has_the_precision_that_is_asked_for(precision):
    """On a GPU the highest is float32, and the default TensorFloat-32."""
    gan, runner = gan_and_runner(PRESETS["residual"], precision)
    program = runner.lower(jax.eval_shape(gan.init, KEYS.init)).as_text()
    found = re.findall(r"stablehlo\.(dot_general|convolution)\b(.*)", program)
    assert {name for name, _ in found} == {"dot_general", "convolution"}
    highest = sum(line.count("HIGHEST") == 2 for _, line in found)
    assert highest == (len(found) if precision == "float32" else 0)


@pytest.mark.slow
def test_a_cpu_computes_the_same_bits_in_both():
    ends = []
    for precision in ("default", "float32"):
        gan, runner = gan_and_runner(PRESETS["report"], precision)
        chunk = runner.run(jax.jit(gan.init)(KEYS.init), 0, 3)
        ends.append((chunk.state, chunk.losses))
    jax.tree.map(np.testing.assert_array_equal, *ends)


@partial(jax.jit, static_argnums=0)
def three_steps(gan, batch):
    """The state after three steps, their losses, and what both networks make of the batch then."""
    state, losses = jax.lax.scan(
        lambda state, key: train_step(gan, state, batch, key),
        gan.init(KEYS.init),
        jax.random.split(KEYS.steps, 3),
    )

    def score(images, labels):
        return gan.discriminator.apply(state.disc.variables, images, labels, train=True)

    latent = jax.random.normal(jax.random.key(1), (len(batch.labels), 3))
    images = gan.generator.apply(state.gen.variables, latent, batch.labels, train=True)
    real, fake = (to_unit_range(batch.images), batch.labels), (images, batch.labels)
    penalty = gan.penalty(score, real, fake, step=state.step, key=KEYS.steps)
    return state, losses, images, score(*fake), penalty


@pytest.mark.slow
def test_bfloat16_is_inside_the_networks_alone_and_changes_little():
    """The state, the average in it, images, scores, losses and penalties are in float32."""
    config, data = tiny.shrink(PRESETS["residual_wide"]), tiny.dataset()
    assert config.model.precision == "bfloat16"
    batch = Batch(jnp.asarray(data.images[:4]), jnp.asarray(data.labels[:4]))
    config = replace(config, model=replace(config.model, blocks=1))  # compiles sooner
    exact_config = replace(config, model=replace(config.model, precision="float32"))
    rounded, exact = (three_steps(GAN.from_config(c), batch) for c in (config, exact_config))
    floats = [leaf for leaf in jax.tree.leaves(rounded) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {np.dtype(np.float32)}
    (state, *seen), (exact_state, *exact_seen) = rounded, exact
    for name, bound in {"losses": 0.01, "images": 0.02, "scores": 0.01, "penalty": 1e-3}.items():
        ours, theirs = np.array(seen.pop(0)), np.array(exact_seen.pop(0))
        assert 0 < np.abs(ours - theirs).max() < bound, name
    # Where rounding turns a gradient's sign, Adam goes the other way: 2 lr a step.
    close = partial(np.testing.assert_allclose, rtol=0, atol=6 * config.optimizer.lr)
    jax.tree.map(
        close,
        (state.gen.params, state.disc.params),
        (exact_state.gen.params, exact_state.disc.params),
    )
    jax.tree.map(close, state.average, exact_state.average)
