"""Adversarial losses on raw scores, each with its paper. They return one value per example.

`LOSSES` has them by the names that `TrainConfig.loss` takes. The training step takes the mean. A
penalty on D's gradients is not a loss on scores: see training/penalties.py.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import relu, softplus

from cgan_jax.config import LossName


class DiscOutput(NamedTuple):
    """What the discriminator made of some images.

    Attributes:
        scores: floats `[B]`.
        output: all that it returned: the scores, or a tuple that begins with them.
        images: what it was shown, before augmentation: floats in [-1, 1], `[B, H, W, C]`.
        labels: their labels, int32 `[B]` or floats `[B, K]`.
    """

    scores: jax.Array
    output: Any
    images: jax.Array
    labels: jax.Array


class AdversarialLoss(NamedTuple):
    """What the two players minimise, as functions of the discriminator's raw scores.

    Attributes:
        discriminator: `(real_scores_B, fake_scores_B) -> losses_B`.
        generator: `(fake_scores_B) -> losses_B`; of a paired loss
            `(real_scores_B, fake_scores_B) -> losses_B`.
        paired: whether score i of the fakes is compared with score i of the real images. Then the
            fakes take the batch's labels, the generator's half is given the real scores too, and
            real and fake images go through D in a pass each.
        outputs: whether both functions are given a `DiscOutput` in the place of each array of
            scores, so that they may use labels, images and whatever else D returns.
    """

    discriminator: Callable[..., Any]
    generator: Callable[..., Any]
    paired: bool = False
    outputs: bool = False

    def of_discriminator(self, real: DiscOutput, fake: DiscOutput) -> jax.Array:
        """The discriminator's losses, `[B]`, or their mean."""
        return self._call(self.discriminator, real, fake)

    def of_generator(self, *outputs: DiscOutput) -> jax.Array:
        """The generator's losses, `[B]`, or their mean."""
        return self._call(self.generator, *outputs)

    def _call(self, half: Callable[..., Any], *outputs: DiscOutput) -> jax.Array:
        losses = half(*(each if self.outputs else each.scores for each in outputs))
        return jnp.asarray(losses)


def least_squares_discriminator(real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
    """`((D(x) - 1)^2 + D(G(z))^2) / 2`. Mao et al. 2017, equation 9, with a = 0 and b = 1."""
    return (jnp.square(real_B - 1) + jnp.square(fake_B)) / 2


def least_squares_generator(fake_B: jax.Array) -> jax.Array:
    """`(D(G(z)) - 1)^2`. Mao et al. 2017, equation 9, with c = 1; not halved, as in the report."""
    return jnp.square(fake_B - 1)


def non_saturating_discriminator(real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
    """`-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))`. Goodfellow et al. 2014, equation 1."""
    return softplus(-real_B) + softplus(fake_B)


def non_saturating_generator(fake_B: jax.Array) -> jax.Array:
    """`-log sigmoid(D(G(z)))`. Goodfellow et al. 2014, section 3."""
    return softplus(-fake_B)


def hinge_discriminator(real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
    """`max(0, 1 - D(x)) + max(0, 1 + D(G(z)))`. Lim and Ye 2017; Miyato et al. 2018, eq. 16."""
    return relu(1 - real_B) + relu(1 + fake_B)


def hinge_generator(fake_B: jax.Array) -> jax.Array:
    """`-D(G(z))`. Lim and Ye 2017; Miyato et al. 2018, eq. 17."""
    return -fake_B


def relativistic_discriminator(real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
    """`softplus(-(D(x) - D(G(z))))`. RpGAN: Jolicoeur-Martineau 2018; Huang et al. 2024, eq. 2."""
    return softplus(fake_B - real_B)


def relativistic_generator(real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
    """`softplus(-(D(G(z)) - D(x)))`, the mirror of the discriminator's half."""
    return softplus(real_B - fake_B)


def wasserstein_discriminator(real_B: jax.Array, fake_B: jax.Array) -> jax.Array:
    """`D(G(z)) - D(x)`. Arjovsky et al. 2017, algorithm 1, as a loss.

    D's slope has to be bounded, as by WGAN-GP: see training/penalties.py.
    """
    return fake_B - real_B


def wasserstein_generator(fake_B: jax.Array) -> jax.Array:
    """`-D(G(z))`. Arjovsky et al. 2017, algorithm 1."""
    return -fake_B


LOSSES: Mapping[LossName, AdversarialLoss] = {
    "least_squares": AdversarialLoss(least_squares_discriminator, least_squares_generator),
    "non_saturating": AdversarialLoss(non_saturating_discriminator, non_saturating_generator),
    "hinge": AdversarialLoss(hinge_discriminator, hinge_generator),
    "relativistic": AdversarialLoss(
        relativistic_discriminator, relativistic_generator, paired=True
    ),
    "wasserstein": AdversarialLoss(wasserstein_discriminator, wasserstein_generator),
}
"""The losses by the names that a `TrainConfig` has for them; `least_squares` is the report's."""
