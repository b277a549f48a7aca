"""A training step with noise from outside, to compare it with the same step elsewhere."""

from collections import deque
from unittest import mock

import flax.linen as nn
import jax.numpy as jnp
from jax import random

from cgan_jax.training import step
from cgan_jax.training.step import train_step


def replay_step(gan, state, batch, noise):
    """The library's `train_step` with noise from outside. Jit it with `gan` static.

    What `step.sample_inputs` and linen's Dropout draw is replaced while the step is traced. A
    dropout layer that is switched off takes no mask.

    Raises:
        AssertionError: the step draws noise of other shapes, or has other dropout layers.
    """
    for_g, real, fake = noise.masks
    masks = deque([*for_g, *(jnp.concatenate(pair) for pair in zip(real, fake, strict=True))])

    def drop(next_function, args, kwargs, context):
        if not isinstance(context.module, nn.Dropout) or context.module.deterministic:
            return next_function(*args, **kwargs)
        assert masks, "more dropout than masks"
        mask, (x,) = masks.popleft(), args
        assert mask.shape == x.shape, f"a mask of {mask.shape} for {x.shape}"
        return jnp.where(mask, x / (1 - context.module.rate), 0)

    def inputs(gan, batch, keys):
        n = len(batch.labels)
        assert noise.latent.shape == (n, gan.generator.latent_dim)
        assert noise.labels.shape == (n,)
        return jnp.asarray(noise.latent), jnp.asarray(noise.labels)

    with mock.patch.object(step, "sample_inputs", inputs), nn.intercept_methods(drop):
        new, losses = train_step(gan, state, batch, random.key(0))
    assert not masks, "less dropout than masks"
    return new, losses
