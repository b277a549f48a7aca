"""The tutorial's recipes of other libraries: WGAN-GP beside PyTorch, and batches of two loaders.

PyTorch and Grain come with the extra `dev`.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax import random

from cgan_jax import Batch, run_keys, sample_inputs, step_keys, train_step
from cgan_jax.data import Dataset
from cgan_jax.data.sources import as_source
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.training.gan import GAN
from experiments.proofs import torch_networks
from tests.helpers import assert_resumes, float64_state

pytestmark = pytest.mark.torch


def as_torch(array):
    return torch.tensor(np.asarray(array))


class WGAN:
    """Gulrajani et al. 2017, algorithm 1, in float64, with what it draws from outside.

    The generator's update stands before the last one of the discriminator, on the same fakes.
    """

    def __init__(self, model, state):
        self.G, self.D = (net.double() for net in torch_networks.networks(model))
        self.G.load(state.gen.variables)
        self.D.load(state.disc.variables)
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.0, 0.9))
            for net in (self.G, self.D)
        ]

    def step(self, parts):
        """Losses of the discriminator, without penalty, and of the generator."""
        d_losses = []
        for i, (real, labels, z, fake_labels, share) in enumerate(parts):
            fake = self.G(z, fake_labels)
            if i == len(parts) - 1:
                g_loss = -self.D(fake, fake_labels).mean()
                self.descend(self.optimizers[0], g_loss)
            fake = fake.detach()
            mixed = (share * real + (1 - share) * fake).requires_grad_()
            scores = self.D(mixed, labels).sum()
            (slope,) = torch.autograd.grad(scores, mixed, create_graph=True)
            penalty = ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()
            d_loss = self.D(fake, fake_labels).mean() - self.D(real, labels).mean()
            self.descend(self.optimizers[1], d_loss + 10 * penalty)
            d_losses.append(d_loss.item())
        return np.mean(d_losses), g_loss.item()

    def descend(self, optimizer, loss):
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def drawn_parts(gan, batch, key):
    """What each update of a step is given: its share of the batch, and what it draws."""
    for i in range(5):
        keys = step_keys(gan, random.fold_in(key, i) if i < 4 else key)
        part = jax.tree.map(lambda rows, i=i: rows[4 * i :][:4], batch)
        z, fake_labels = sample_inputs(gan, part, keys)
        share = random.uniform(keys.penalty, (4, 1, 1, 1), float)
        images = as_torch(part.images / 127.5 - 1).permute(0, 3, 1, 2)
        labels, fake_labels = (as_torch(each).long() for each in (part.labels, fake_labels))
        yield images, labels, as_torch(z), fake_labels, as_torch(share)


@pytest.mark.usefixtures("float64")
def test_wgan_gp_matches_pytorchs(tutorial):
    [call] = tutorial("More discriminator steps")["calls"]
    config, n_steps = call["config"], 30
    model = replace(
        config.model,
        img_size=4,
        channels=2,
        n_classes=3,
        latent_dim=5,
        generator_widths=(8, 6),
        discriminator_widths=(7, 6),
    )
    gan, key = GAN.from_config(replace(config, model=model)), run_keys(0).steps
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n_steps, 20, 4, 4, 2), np.uint8)
    labels = rng.integers(0, 3, (n_steps, 20), np.int32)
    state = float64_state(gan)
    twin, step = WGAN(model, state), jax.jit(train_step, static_argnames="gan")
    ours, theirs = [], []
    for i in range(n_steps):
        batch, step_key = Batch(images[i], jnp.asarray(labels[i])), random.fold_in(key, i)
        state, losses = step(gan, state, batch, step_key)
        parts = list(drawn_parts(gan, batch, step_key))
        assert len({part[2].numpy().tobytes() for part in parts}) == 5  # each has its own fakes
        ours.append(losses)
        theirs.append(twin.step(parts))
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=1e-9)
    assert np.ptp(ours, axis=0).min() > 1e-3  # they move
    z, fake_labels = parts[-1][2:4]
    images = gan.generator.apply(
        state.gen.variables, jnp.asarray(z.numpy()), jnp.asarray(fake_labels.numpy()), train=False
    )
    with torch.no_grad():
        expected = twin.G(z, fake_labels).permute(0, 2, 3, 1)
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def numbered():
    """22 images that are their own number in each pixel, of three classes."""
    numbers = np.arange(22, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None, None], (22, 4, 4, 1)).copy()
    return Dataset.from_arrays(images, numbers % 3, ("a", "b", "c"))


def numbers_of(source, n):
    """The images of the first n steps, each step a list; their labels belong to them."""
    numbers = []
    while len(numbers) < n:
        images, labels = source.batches(len(numbers), 1)
        np.testing.assert_array_equal(images[0, :, 0, 0, 0] % 3, labels[0])
        assert labels.dtype == np.int32
        numbers.append(images[0, :, 0, 0, 0].tolist())
    return numbers


def test_a_pytorch_loader_is_resumed(tutorial, tiny_config, numbered, tmp_path):
    """Each epoch has all images, in another order; a new loader has the same orders."""

    def make():
        names = tutorial("A PyTorch loader", data=numbered, changes=[("64", "4")])
        return names["calls"][0]["data"]

    steps = numbers_of(as_source(make()), 12)
    for epoch in (steps[:6], steps[6:]):
        assert sorted(np.concatenate(epoch)) == list(range(22))
        assert [len(step) for step in epoch] == [4] * 5 + [2]
    assert steps[:6] != steps[6:]
    gan, folder = GAN.from_config(tiny_config), tmp_path / "checkpoints"
    assert_resumes(gan, tiny_config, make, folder)
    assert source_states(folder) == {None}


def test_a_grain_loader_is_resumed_where_it_was(tutorial, tiny_config, numbered, tmp_path):
    """By its own state, which checkpoints have."""

    def make():
        return tutorial("A Grain loader", data=numbered, changes=[("64", "4")])["source"]

    steps = numbers_of(make(), 11)
    whole = np.concatenate(steps).tolist()
    assert sorted(whole[:22]) == sorted(whole[22:44]) == list(range(22))
    assert whole[:22] != whole[22:44]
    gan, folder = GAN.from_config(tiny_config), tmp_path / "checkpoints"
    state = assert_resumes(gan, tiny_config, make, folder)
    assert state.step == 3 * 5
    assert source_states(folder).isdisjoint({None})

    with Checkpoints(folder) as checkpoints:
        step = checkpoints.steps()[0]
        fresh = make()
        fresh.set_state(step, checkpoints.source_state(step))
    assert numbers_of_next(fresh, step) == numbers_of(make(), step + 1)[step]
    fresh = make()
    fresh.set_state(3, fresh.get_state(0))  # of the beginning
    assert numbers_of_next(fresh, 3) == steps[0]  # so no batch was read and dropped


def numbers_of_next(source, step):
    return source.batches(step, 1).images[0, :, 0, 0, 0].tolist()


def source_states(folder):
    with Checkpoints(folder) as checkpoints:
        return {str(s) if s else None for s in map(checkpoints.source_state, checkpoints.steps())}
