"""Layers: linear, batch normalisation, label embedding, score, spectral normalisation.

The first three have PyTorch's defaults. Convolutions are in convolution.py. Shape suffixes: B
batch, I inputs, F features, E label_dim.
"""

import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cgan_jax.model_config import DiscriminatorConditioning, Precision

Initializer = nn.initializers.Initializer


class Linear(nn.Module):
    """`x @ kernel + bias`, by default both from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as PyTorch's.

    Several inputs are treated as one, concatenated along the last axis. Each is multiplied by its
    own rows of the kernel, so that gradients are computed only for inputs that need one: in D's
    first layer, for the label's ten columns and not for the image's 784.

    Args:
        features: size of the last axis of the output.
        kernel_init: another distribution for the kernel; the bias then starts at zero.
    """

    features: int
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, *inputs_BxI: jax.Array) -> jax.Array:
        ends = list(itertools.accumulate(x.shape[-1] for x in inputs_BxI))
        fan_in = ends.pop()

        def uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            bound = 1 / math.sqrt(fan_in)
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        bias_init = nn.initializers.zeros if self.kernel_init else uniform
        kernel_IxF = self.param("kernel", self.kernel_init or uniform, (fan_in, self.features))
        bias_F = self.param("bias", bias_init, (self.features,))
        products = map(jnp.matmul, inputs_BxI, jnp.split(kernel_IxF, ends))
        return sum(products, start=bias_F)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015), as PyTorch's.

    In training the batch's mean and biased variance normalise, and the running variance is
    updated with the *unbiased* one; linen's own layer uses the biased one. Training needs at least
    two rows. Statistics are at least float32, the output has the input's dtype.

    With `n_classes` it is conditional (de Vries et al. 2017): every class has its own scale and
    bias, while all classes share the statistics.

    Args:
        epsilon: added to the variance. PyTorch's second positional argument.
        momentum: decay of the running statistics; 1 - PyTorch's momentum.
        n_classes: number of classes with their own scale and bias; None for one of each.
    """

    epsilon: float
    momentum: float
    n_classes: int | None = None

    @nn.compact
    def __call__(
        self, x_BxF: jax.Array, labels_B: jax.Array | None = None, *, train: bool
    ) -> jax.Array:
        """Normalise `[B, F]` or `[B, H, W, F]`; only a conditional layer reads the labels."""
        features, dtype = x_BxF.shape[-1:], x_BxF.dtype
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        running_var = self.variable("batch_stats", "var", jnp.ones, features)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        if self.n_classes is None:
            scale_F = self.param("scale", ones, features)
            bias_F = self.param("bias", zeros, features)
        else:
            if labels_B is None:
                raise TypeError("conditional batch normalisation needs the labels")
            # Embeddings, so that two labels can be mixed like any others.
            n_classes, width, between = self.n_classes, x_BxF.shape[-1], range(1, x_BxF.ndim - 1)
            scale = nn.Embed(n_classes, width, embedding_init=ones, name="scale")
            bias = nn.Embed(n_classes, width, embedding_init=zeros, name="bias")
            scale_F, bias_F = (jnp.expand_dims(t(labels_B), between) for t in (scale, bias))

        x_BxF = x_BxF.astype(jnp.promote_types(dtype, jnp.float32))
        if train:
            rows = tuple(range(x_BxF.ndim - 1))
            mean_F = x_BxF.mean(rows)
            var_F = jnp.square(x_BxF - mean_F).mean(rows)
            if not self.is_initializing():
                n_rows = math.prod(x_BxF.shape[:-1])
                unbiased_F = var_F * (n_rows / (n_rows - 1))
                keep, take = self.momentum, 1 - self.momentum
                running_mean.value = keep * running_mean.value + take * mean_F
                running_var.value = keep * running_var.value + take * unbiased_F
        else:
            mean_F, var_F = running_mean.value, running_var.value

        y_BxF = (x_BxF - mean_F) * (scale_F * jax.lax.rsqrt(var_F + self.epsilon)) + bias_F
        return y_BxF.astype(dtype)


def label_embedding(n_classes: int, label_dim: int) -> nn.Embed:
    """A label embedding drawn from N(0, 1), as `torch.nn.Embedding`."""
    init = nn.initializers.normal(1.0)
    return nn.Embed(n_classes, label_dim, embedding_init=init, name="label_embedding")


def with_label_planes(x_BxHxWxC: jax.Array, label_BxE: jax.Array) -> jax.Array:
    """An image with its label's embedding as E further channels, constant over the image."""
    label_Bx1x1xE = label_BxE[:, None, None, :].astype(x_BxHxWxC.dtype)
    planes_BxHxWxE = jnp.broadcast_to(label_Bx1x1xE, (*x_BxHxWxC.shape[:3], label_BxE.shape[-1]))
    return jnp.concatenate([x_BxHxWxC, planes_BxHxWxE], -1)


def with_precision(x: jax.Array, precision: Precision) -> jax.Array:
    """The same array in the dtype in which a network's inner layers compute."""
    return x.astype(jnp.bfloat16) if precision == "bfloat16" else x


def scaled_normal(gain: float = 1.0) -> Initializer:
    """N(0, gain^2 / fan_in): keeps the variance where the next step multiplies it by 1 / gain^2."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal")


def leaky_gain(negative_slope: float) -> float:
    """The gain of `scaled_normal` before LeakyReLU (He et al. 2015)."""
    return math.sqrt(2 / (1 + negative_slope**2))


class SpectralNorm(nn.Module):
    """A layer with its kernel or table divided by its largest singular value (Miyato et al. 2018).

    As `torch.nn.utils.parametrizations.spectral_norm`: sigma = u^T W v, with vectors u and v in
    `batch_stats`. Each pass in training begins with one step of power iteration, u = W v and then
    v = W^T u, both normalised. Gradients pass through W in sigma, with u and v as constants.

    Args:
        layer: a layer with a `kernel` (outputs on the last axis) or an `embedding` (classes first).
    """

    layer: nn.Module

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
        def normalized(variables: Any) -> Any:
            params = dict(variables["params"])
            name = "embedding" if "embedding" in params else "kernel"
            params[name] = params[name] / self._sigma(params[name], name == "embedding", train)
            return {"params": params}

        mapped = nn.map_variables(
            lambda layer: layer(*inputs),
            "params",
            normalized,
            init=self.is_initializing(),
            mutable=True,
        )
        return mapped(self.layer)

    def _sigma(self, weight: jax.Array, rows_first: bool, train: bool) -> jax.Array:
        # PyTorch's matrix: one row per output, or per class.
        matrix_FxI = weight if rows_first else weight.reshape(-1, weight.shape[-1]).T
        constant_FxI = jax.lax.stop_gradient(matrix_FxI)

        def iterate(v_I: jax.Array) -> tuple[jax.Array, jax.Array]:
            u_F = _unit(constant_FxI @ v_I)
            return u_F, _unit(u_F @ constant_FxI)

        def random_v() -> jax.Array:
            v_I = jax.random.normal(self.make_rng("params"), matrix_FxI.shape[1:])
            return jax.lax.fori_loop(0, 15, lambda _, v_I: iterate(v_I)[1], v_I)

        v_I = self.variable("batch_stats", "v", random_v)
        u_F = self.variable("batch_stats", "u", lambda: _unit(constant_FxI @ v_I.value))
        if train and not self.is_initializing():
            u_F.value, v_I.value = iterate(v_I.value)
        return u_F.value @ (matrix_FxI @ v_I.value)


def spectral(layer: nn.Module, x: jax.Array, *, train: bool) -> jax.Array:
    """A layer's output for its input, with `SpectralNorm`; the layer must have a name."""
    return SpectralNorm(layer, name=f"{layer.name}_norm")(x, train=train)


def _unit(vector: jax.Array) -> jax.Array:
    return vector / jnp.maximum(jnp.linalg.norm(vector), 1e-12)


class ConditionalScore(nn.Module):
    """A discriminator's last layer: `linear(h) + <e(y), h>` (Miyato and Koyama 2018).

    Args:
        n_classes: number of classes.
        conditioning: `projection` for both terms, `projection_only` for the second,
            `concatenation` for the first, where the label has entered before.
        spectral_norm: whether both layers are spectrally normalised.
    """

    n_classes: int
    conditioning: DiscriminatorConditioning
    spectral_norm: bool = False

    @nn.compact
    def __call__(self, h_BxF: jax.Array, labels_B: jax.Array, *, train: bool) -> jax.Array:
        """Raw scores `[B]` of last features `[B, F]`."""
        terms = []
        if self.conditioning != "projection_only":
            linear = Linear(1, scaled_normal(), name="linear")
            terms.append(self._call(linear, h_BxF, train)[:, 0])
        if self.conditioning != "concatenation":
            init = nn.initializers.normal(h_BxF.shape[-1] ** -0.5)
            embed = nn.Embed(self.n_classes, h_BxF.shape[-1], embedding_init=init, name="embedding")
            terms.append((self._call(embed, labels_B, train) * h_BxF).sum(-1))
        return sum(terms[1:], start=terms[0])

    def _call(self, layer: nn.Module, x: jax.Array, train: bool) -> jax.Array:
        return spectral(layer, x, train=train) if self.spectral_norm else layer(x)
