"""Layers with PyTorch's defaults: linear, batch normalisation, label embedding.

Shape suffixes: B batch, I inputs, F features, E label_dim.
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class Linear(nn.Module):
    """`x @ kernel + bias`, both from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as `torch.nn.Linear`.

    Several inputs are treated as one, concatenated along the last axis. Each is multiplied by its
    own rows of the kernel, so that gradients are computed only for inputs that need one: in D's
    first layer, for the label's ten columns and not for the image's 784.

    Args:
        features: size of the last axis of the output.
    """

    features: int

    @nn.compact
    def __call__(self, *inputs_BxI: jax.Array) -> jax.Array:
        ends = list(itertools.accumulate(x.shape[-1] for x in inputs_BxI))
        fan_in = ends.pop()

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            bound = 1 / math.sqrt(fan_in)
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        kernel_IxF = self.param("kernel", uniform, (fan_in, self.features))
        bias_F = self.param("bias", uniform, (self.features,))
        products = map(jnp.matmul, inputs_BxI, jnp.split(kernel_IxF, ends))
        return sum(products, start=bias_F)


class BatchNorm(nn.Module):
    """Batch normalisation over the first axis (Ioffe and Szegedy 2015), as `torch.nn.BatchNorm1d`.

    In training the batch's mean and biased variance normalise, and the running variance is
    updated with the *unbiased* one; linen's own layer uses the biased one. Training needs at least
    two rows.

    Args:
        epsilon: added to the variance. PyTorch's second positional argument.
        momentum: decay of the running statistics; 1 - PyTorch's momentum.
    """

    epsilon: float
    momentum: float

    @nn.compact
    def __call__(self, x_BxF: jax.Array, *, train: bool) -> jax.Array:
        features = x_BxF.shape[-1:]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        scale_F = self.param("scale", nn.initializers.ones, features)
        bias_F = self.param("bias", nn.initializers.zeros, features)

        if train:
            mean_F = x_BxF.mean(0)
            var_F = jnp.square(x_BxF - mean_F).mean(0)
            if not self.is_initializing():
                rows = x_BxF.shape[0]
                unbiased_F = var_F * (rows / (rows - 1))
                keep, take = self.momentum, 1 - self.momentum
                running_mean.value = keep * running_mean.value + take * mean_F
                running_var.value = keep * running_var.value + take * unbiased_F
        else:
            mean_F, var_F = running_mean.value, running_var.value

        return (x_BxF - mean_F) * (scale_F * jax.lax.rsqrt(var_F + self.epsilon)) + bias_F


def label_embedding(n_classes: int, label_dim: int) -> nn.Embed:
    """A label embedding drawn from N(0, 1), as `torch.nn.Embedding`."""
    init = nn.initializers.normal(1.0)
    return nn.Embed(n_classes, label_dim, embedding_init=init, name="label_embedding")
