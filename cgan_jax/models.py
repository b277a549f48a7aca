"""The report's Generator and Discriminator, and the two layers that carry PyTorch's defaults over.

Shape suffixes: B batch, Z latent_dim, E label_dim, H height, W width, C channels, F features.
Losses live in losses.py, optimizers and training state in state.py.
"""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class Linear(nn.Module):
    """`x @ kernel + bias`, both from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as `torch.nn.Linear`.

    Several inputs are taken as one, joined along the last axis. Each is multiplied with its own
    rows of the kernel, so that a gradient is computed only for those that need one: through D's
    first layer, the label's ten columns and not the image's 784.

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

    In training the batch's mean and biased variance normalise, and the running variance takes in
    the *unbiased* one; linen's own layer takes in the biased one. Needs at least two rows then.

    Args:
        epsilon: added to the variance. PyTorch's second positional argument.
        momentum: what the running statistics keep of themselves; 1 - PyTorch's momentum.
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


class Generator(nn.Module):
    """The report's generator: latent points and labels in, images out.

    `[label_embedding(y), z]` -> Linear, LeakyReLU -> (Linear, BatchNorm, LeakyReLU) for each
    further width -> Linear, tanh -> image. 1,511,412 parameters with the defaults.

    The collections are `params` and `batch_stats`; in training pass `mutable=["batch_stats"]`.
    `bn_epsilon=0.8` is the report's: a Keras momentum that reached PyTorch's epsilon argument
    (PyTorch-GAN issue 116). Its figures were made with it.

    Args:
        n_classes: how many classes there are.
        latent_dim: size of a latent point.
        label_dim: width of the label embedding.
        img_size: height and width of the images in pixels.
        channels: 1 for grey images, 3 for colour.
        widths: of the hidden layers; the first has no BatchNorm.
        negative_slope: of LeakyReLU below zero.
        bn_epsilon: added to the variance in BatchNorm.
        bn_momentum: what BatchNorm's running statistics keep of themselves at each step.
    """

    n_classes: int = 10
    latent_dim: int = 100
    label_dim: int = 10
    img_size: int = 28
    channels: int = 1
    widths: tuple[int, ...] = (128, 256, 512, 1024)
    negative_slope: float = 0.2
    bn_epsilon: float = 0.8
    bn_momentum: float = 0.9

    @nn.compact
    def __call__(self, latent_BxZ: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        """Generate one image for each latent point.

        Args:
            latent_BxZ: floats, from N(0, 1) in training.
            labels_B: integers in [0, n_classes).
            train: normalise by the batch's statistics and update the running ones, or use those.

        Returns:
            floats in [-1, 1], `[B, img_size, img_size, channels]`.
        """
        label_BxE = _embed(self.n_classes, self.label_dim)(labels_B)
        inputs: tuple[jax.Array, ...] = (label_BxE.astype(latent_BxZ.dtype), latent_BxZ)
        for i, width in enumerate(self.widths):
            x_BxF = Linear(width, name=f"hidden_{i}")(*inputs)
            if i > 0:
                norm = BatchNorm(self.bn_epsilon, self.bn_momentum, name=f"batch_norm_{i}")
                x_BxF = norm(x_BxF, train=train)
            inputs = (nn.leaky_relu(x_BxF, self.negative_slope),)
        image = (self.img_size, self.img_size, self.channels)
        x_BxF = Linear(math.prod(image), name="output")(*inputs)
        return jnp.tanh(x_BxF).reshape(-1, *image)


class Discriminator(nn.Module):
    """The report's discriminator: images and labels in, one raw score each out (no sigmoid).

    `[flatten(x), label_embedding(y)]` -> Linear, LeakyReLU -> (Linear, Dropout, LeakyReLU) for each
    further width -> Linear to one score. 932,965 parameters with the defaults.

    In training pass `rngs={"dropout": key}`.

    Args:
        n_classes: how many classes there are.
        label_dim: width of the label embedding.
        widths: of the hidden layers; the first has no dropout.
        negative_slope: of LeakyReLU below zero.
        dropout_rate: share of the activations that are dropped, in [0, 1).
    """

    n_classes: int = 10
    label_dim: int = 10
    widths: tuple[int, ...] = (512, 512, 512)
    negative_slope: float = 0.2
    dropout_rate: float = 0.4

    @nn.compact
    def __call__(self, images_BxHxWxC: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        """Score images: towards 1 for real, towards 0 for fake under the report's loss.

        Args:
            images_BxHxWxC: floats in [-1, 1].
            labels_B: integers in [0, n_classes).
            train: whether dropout is active.

        Returns:
            raw scores, floats `[B]`.
        """
        label_BxE = _embed(self.n_classes, self.label_dim)(labels_B)
        flat_BxF = images_BxHxWxC.reshape(len(images_BxHxWxC), -1)
        inputs: tuple[jax.Array, ...] = (flat_BxF, label_BxE.astype(flat_BxF.dtype))
        for i, width in enumerate(self.widths):
            x_BxF = Linear(width, name=f"hidden_{i}")(*inputs)
            if i > 0:
                x_BxF = nn.Dropout(self.dropout_rate, deterministic=not train)(x_BxF)
            inputs = (nn.leaky_relu(x_BxF, self.negative_slope),)
        return Linear(1, name="output")(*inputs)[:, 0]


def _embed(n_classes: int, label_dim: int) -> nn.Embed:
    """A label embedding drawn from N(0, 1), as `torch.nn.Embedding`."""
    init = nn.initializers.normal(1.0)
    return nn.Embed(n_classes, label_dim, embedding_init=init, name="label_embedding")
