"""What a discriminator may return: scores, or more than scores, for losses that ask for it."""

from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import random

from cgan_jax import DiscOutput, train_step, update_networks
from cgan_jax.data import Batch
from cgan_jax.errors import ConfigError
from cgan_jax.losses import LOSSES, AdversarialLoss
from cgan_jax.models.value_range import to_unit_range
from cgan_jax.training.gan import GAN
from cgan_jax.training.penalties import r1
from tests.training.test_gan import Generator

KEY = random.key(3)


class Discriminator(nn.Module):
    """A score and a logit for each class; `returns` says in what form, in training or always."""

    returns: str = "tuple"
    only_in_training: bool = False

    @nn.compact
    def __call__(self, images, labels, *, train):
        h = nn.tanh(nn.Dense(8, name="hidden")(images.reshape(len(images), -1)))
        logits = nn.Dense(3, name="classes")(h)
        column = nn.Dense(1, name="score")(h)
        scores = column[:, 0] + jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
        if self.only_in_training and not train:
            return scores
        return {
            "tuple": (scores, {"logits": logits, "hidden": h}),
            "list": [scores, logits],
            "scores": scores,
            "column": column,
            "column in a tuple": (column, logits),
            "dictionary": {"scores": scores},
            "half": scores[: len(scores) // 2],
            "mean": scores.mean(),
        }[self.returns]


@pytest.fixture(scope="module")
def gan():
    return GAN(Generator(), Discriminator(), optax.sgd(0.5), optax.sgd(0.5))


@pytest.fixture(scope="module")
def state(gan):
    return jax.jit(gan.init)(random.key(0))


@pytest.fixture(scope="module")
def batch(tiny_dataset):
    return Batch(tiny_dataset.images[:4], tiny_dataset.labels[:4])


step, updates_of = (jax.jit(f, static_argnums=0) for f in (train_step, update_networks))


def assert_trees_close(one, other):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), one, other)


@pytest.mark.parametrize("returns", ["tuple", "list"])
@pytest.mark.parametrize("paired", [False, True])
def test_scores_may_come_with_more(returns, paired, gan, state, batch):
    """Loss, penalty and updates are those of the scores alone."""
    loss = LOSSES["relativistic" if paired else "hinge"]
    gan = replace(gan, loss=loss, penalty=r1)
    ways = (returns, "scores")
    results = [step(replace(gan, discriminator=Discriminator(w)), state, batch, KEY) for w in ways]
    assert_trees_close(*results)
    assert not np.array_equal(
        results[0][0].disc.params["score"]["kernel"], state.disc.params["score"]["kernel"]
    )


def cross_entropy(of):
    return optax.softmax_cross_entropy_with_integer_labels(of.output[1]["logits"], of.labels)


@pytest.mark.parametrize("paired", [False, True])
def test_a_loss_may_ask_for_all_that_d_was_given_and_returned(paired, gan, state, batch):
    """Images, labels, scores and the rest, of real and of fake: the losses by hand."""

    def disc_loss(real, fake):
        assert isinstance(real, DiscOutput) and isinstance(fake, DiscOutput)
        on_images = (real.images.mean((1, 2, 3)) - 3 * fake.images.mean((1, 2, 3))) ** 2
        return fake.scores - real.scores + cross_entropy(real) + 2 * cross_entropy(fake) + on_images

    def gen_loss(*outputs):
        *real, fake = outputs
        assert len(real) == paired
        hidden = sum(each.output[1]["hidden"].sum(-1) for each in outputs)
        return cross_entropy(fake) + hidden - fake.scores

    own = replace(gan, loss=AdversarialLoss(disc_loss, gen_loss, paired=paired, outputs=True))
    new, losses = step(own, state, batch, KEY)

    updates = updates_of(own, state, batch, KEY)
    labels = updates[1].fake.labels
    assert (labels == batch.labels).all() == paired
    images, real_images = updates[0].images, to_unit_range(batch.images)

    def of(images, labels):
        output = gan.discriminator.apply(
            state.disc.variables, images, labels, train=True, mutable=[]
        )[0]
        return DiscOutput(output[0], output, images, labels)

    real, fake = of(real_images, batch.labels), of(images, labels)
    np.testing.assert_allclose(losses.d_loss, disc_loss(real, fake).mean(), rtol=1e-5)
    outputs = (real, fake) if paired else (fake,)
    np.testing.assert_allclose(losses.g_loss, gen_loss(*outputs).mean(), rtol=1e-5)
    for one, other in ((updates[1].real, real), (updates[1].fake, fake)):
        assert_trees_close(one, other)
    moved = new.disc.params["classes"]["kernel"] - state.disc.params["classes"]["kernel"]
    assert np.abs(moved).max() > 1e-3


def test_a_penalty_may_ask_for_all_that_d_returns(gan, state, batch):
    def penalty(score, real, fake, *, step, key):
        scores, more = score.output(*real)
        np.testing.assert_array_equal(scores.shape, score(*real).shape)
        return 0.1 * jnp.square(more["hidden"]).sum()

    with_penalty, without = (
        step(g, state, batch, KEY)[0] for g in (replace(gan, penalty=penalty), gan)
    )
    kernels = (each.disc.params["hidden"]["kernel"] for each in (with_penalty, without))
    assert np.abs(np.subtract(*kernels)).max() > 1e-3
    assert_trees_close(with_penalty.gen, without.gen)


@pytest.mark.parametrize(
    ("returns", "given"),
    [
        ("column", r"\[2, 1\]"),
        ("column in a tuple", r"\[2, 1\]"),
        ("half", r"\[1\]"),
        ("mean", r"\[\]"),
        ("dictionary", "dict"),
    ],
)
def test_scores_of_another_shape_are_refused(returns, given, gan, state, batch):
    """When the networks are made; and in the first step, where only that gives them."""

    def words(given, n):
        return f"the discriminator gives {given} for {n} images\nexpected .*, \\[{n}\\].*\nEnd"

    with pytest.raises(ConfigError, match=words(given, 2)):
        jax.eval_shape(replace(gan, discriminator=Discriminator(returns)).init, KEY)
    later = replace(gan, discriminator=Discriminator(returns, only_in_training=True))
    shapes = jax.eval_shape(later.init, KEY)
    given = {r"\[2, 1\]": r"\[4, 1\]", r"\[1\]": r"\[2\]"}.get(given, given)
    with pytest.raises(ConfigError, match=words(given, 4)):
        jax.eval_shape(partial(train_step, later), shapes, batch, KEY)
