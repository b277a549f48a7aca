"""Training with each modern recipe beside its PyTorch twin, from equal weights, in float64."""

from dataclasses import replace

import jax
import numpy as np
import pytest
import torch
from jax import random

from cgan_jax.data.sources import Batch
from cgan_jax.training.gan import GAN
from cgan_jax.training.step import run_keys, sample_inputs, step_keys, train_step
from experiments.proofs.torch_recipe import Recipe
from tests.helpers import with_schedules

pytestmark = pytest.mark.torch
SIZES = {"n_classes": 3, "latent_dim": 5, "label_dim": 4, "img_size": 8, "channels": 2}
SMALL = {
    "relativistic_mlp": {"generator_widths": (6, 8), "discriminator_widths": (7, 6)},
    "residual": {"generator_widths": (8, 4), "discriminator_widths": (6, 8), "features": 7},
    "projection": {"generator_width": 4, "discriminator_width": 6},
}


def small(name, n_steps):
    """A preset at a small size, with schedules that end with the last step."""
    config = with_schedules(name)
    config = replace(config, model=replace(config.model, **SIZES, **SMALL[name]), batch_size=4)
    return replace(config, schedule_steps=n_steps)


def as_torch(images):
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)


def trajectories(config, n_steps):
    """Both sides' losses, `[n_steps, 2]`, and the averages' images after the last step."""
    gan, key = GAN.from_config(config), run_keys(0).steps
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_steps, 4, 8, 8, 2), np.uint8)
    labels = rng.integers(0, 3, (n_steps, 4), np.int32)
    with jax.enable_x64():
        state = jax.jit(gan.init)(random.key(0))
        state = jax.tree.map(lambda x: x.astype(float) if x.dtype == np.float32 else x, state)
        step = jax.jit(train_step, static_argnames="gan")
        inputs = jax.jit(
            lambda gan, batch, key: sample_inputs(gan, batch, step_keys(gan, key)), static_argnums=0
        )
        twin, losses, theirs = Recipe(config, torch.float64, fused=False), [], []
        twin.load(state.gen.variables, state.disc.variables)
        for i in range(n_steps):
            step_key = random.fold_in(key, i)
            batch = Batch(images[i], labels[i])
            z, fake_labels = inputs(gan, batch, step_key)
            state, ours = step(gan, state, batch, step_key)
            losses.append(ours)
            theirs.append(
                twin.step(
                    as_torch(images[i] / 127.5 - 1),
                    torch.tensor(labels[i]).long(),
                    torch.tensor(np.asarray(z)),
                    torch.tensor(np.asarray(fake_labels)).long(),
                )
            )
        shown = gan.generator.apply(state.sampling_variables, z, labels[0], train=False)
    with torch.no_grad():
        twin_shown = twin.average.eval()(
            torch.tensor(np.asarray(z)), torch.tensor(labels[0]).long()
        )
    return np.asarray(losses), torch.stack(theirs).numpy(), shown, twin_shown.permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", SMALL)
def test_fifty_steps_match_pytorchs(name):
    ours, theirs, shown, twin_shown = trajectories(small(name, 50), 50)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8)
    np.testing.assert_allclose(shown, twin_shown, rtol=0, atol=1e-7)
    assert np.ptp(ours, axis=0).min() > 1e-3  # they move
