"""The adversarial losses. `LOSSES` has them by the names that `TrainConfig.loss` takes.

They are defined in cgan_jax/training/losses.py.
"""

from cgan_jax.training.losses import (
    LOSSES,
    AdversarialLoss,
    hinge_discriminator,
    hinge_generator,
    least_squares_discriminator,
    least_squares_generator,
    non_saturating_discriminator,
    non_saturating_generator,
    relativistic_discriminator,
    relativistic_generator,
    wasserstein_discriminator,
    wasserstein_generator,
)

__all__ = [
    "LOSSES",
    "AdversarialLoss",
    "hinge_discriminator",
    "hinge_generator",
    "least_squares_discriminator",
    "least_squares_generator",
    "non_saturating_discriminator",
    "non_saturating_generator",
    "relativistic_discriminator",
    "relativistic_generator",
    "wasserstein_discriminator",
    "wasserstein_generator",
]
