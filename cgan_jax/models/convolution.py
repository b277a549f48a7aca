"""Convolutions that are fast in a loop on a CPU, and changes of resolution.

Shape suffixes: B batch, H height, W width, C input channels, F output channels.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
NONE: Padding = ((0, 0), (0, 0))


def convolution(x_BxHxWxC: jax.Array, kernel_HxWxCxF: jax.Array, padding: Padding) -> jax.Array:
    """Cross-correlation with stride 1, as `lax.conv_general_dilated` and PyTorch's `conv2d`.

    Its value and its derivatives of any order are those of JAX, but reverse mode alone works: a
    custom rule keeps them fast inside `scan`, `fori_loop`, `while_loop` and `cond`. There XLA's CPU
    compiler leaves a convolution as it is, and only the layout below (NHWC, HWIO, stride 1) has a
    fast kernel. JAX's own gradients are in other layouts, 30 to 50 times slower (jax issue 12868).

    Args:
        x_BxHxWxC: floats.
        kernel_HxWxCxF: floats of the same dtype.
        padding: zeros before and after the rows, and before and after the columns.

    Returns:
        floats `[B, H', W', F]`, where H' is H plus the padding minus the kernel's height plus 1.
    """
    if kernel_HxWxCxF.shape[:2] == (1, 1) and padding == NONE:
        # One matrix product, which is fast everywhere, and so are its derivatives.
        channels, features = kernel_HxWxCxF.shape[2:]
        y_NxF = x_BxHxWxC.reshape(-1, channels) @ kernel_HxWxCxF.reshape(channels, features)
        return y_NxF.reshape(*x_BxHxWxC.shape[:3], features)
    return _convolution(x_BxHxWxC, kernel_HxWxCxF, padding)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=layout)


def _forward(
    x: jax.Array, kernel: jax.Array, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolution(x, kernel, padding), (x, kernel)


def _backward(
    padding: Padding, residuals: tuple[jax.Array, jax.Array], dy_BxHxWxF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both gradients as `_convolution`, so that it is its own derivative again."""
    x_BxHxWxC, kernel_HxWxCxF = residuals
    # y[p] = sum_q x[p + q - low] k[q], so dx[p] = sum_q dy[p - q + low] k[q]: the kernel flipped.
    (top, bottom), (left, right) = padding
    height, width = kernel_HxWxCxF.shape[:2]
    around: Padding = (
        (height - 1 - top, height - 1 - bottom),
        (width - 1 - left, width - 1 - right),
    )
    flipped_HxWxFxC = jnp.flip(kernel_HxWxCxF, (0, 1)).swapaxes(2, 3)
    dx_BxHxWxC = _convolution(dy_BxHxWxF, flipped_HxWxFxC, around)
    # dk[q] = sum_p x[p + q - low] dy[p]: a convolution of x with dy, summed over the batch.
    x_CxHxWxB, dy_HxWxBxF = x_BxHxWxC.transpose(3, 1, 2, 0), dy_BxHxWxF.transpose(1, 2, 0, 3)
    dkernel_CxHxWxF = _convolution(x_CxHxWxB, dy_HxWxBxF, padding)
    return dx_BxHxWxC, dkernel_CxHxWxF.transpose(1, 2, 0, 3)


_convolution.defvjp(_forward, _backward)


class Conv(nn.Module):
    """A convolution that keeps the image's size. Computes in the dtype of its input.

    Args:
        features: number of output channels.
        size: height and width of the kernel.
        kernel_init: distribution of the kernel, a parameter `[size, size, C, features]`.
        use_bias: whether a bias, which starts at zero, is added.
    """

    features: int
    size: int = 3
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    use_bias: bool = True

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x_BxHxWxC.shape[-1], self.features)
        kernel_HxWxCxF = self.param("kernel", self.kernel_init, shape).astype(x_BxHxWxC.dtype)
        sides = ((self.size - 1) // 2, self.size // 2)
        y_BxHxWxF = convolution(x_BxHxWxC, kernel_HxWxCxF, (sides, sides))
        if not self.use_bias:
            return y_BxHxWxF
        bias_F = self.param("bias", nn.initializers.zeros, (self.features,))
        return y_BxHxWxF + bias_F.astype(y_BxHxWxF.dtype)


def space_to_depth(x_BxHxWxC: jax.Array) -> jax.Array:
    """Every 2x2 square as one pixel with its channels in a row: `[B, H/2, W/2, 4C]`."""
    batch, height, width, channels = x_BxHxWxC.shape
    x = x_BxHxWxC.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // 2, width // 2, 4 * channels)


def depth_to_space(x_BxHxWxC: jax.Array) -> jax.Array:
    """The inverse of `space_to_depth`: `[B, 2H, 2W, C/4]`."""
    batch, height, width, channels = x_BxHxWxC.shape
    x = x_BxHxWxC.reshape(batch, height, width, 2, 2, channels // 4)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, channels // 4)


def filter_upsample(x_BxHxWxC: jax.Array) -> jax.Array:
    """Twice the size, zeros between the pixels filled by the filter [1, 3, 3, 1] / 4 on each axis.

    As StyleGAN's and R3GAN's, with zeros beyond the edges. In the filter's two phases, it is a few
    sums, which are faster than a convolution with one channel.
    """
    x = x_BxHxWxC
    for axis in (1, 2):
        before, after = _neighbours(x, x, axis)
        pair = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis + 1)
        x = pair.reshape(*x.shape[:axis], 2 * x.shape[axis], *x.shape[axis + 1 :])
    return x


def filter_downsample(x_BxHxWxC: jax.Array) -> jax.Array:
    """Half the size: the filter [1, 3, 3, 1] / 8 on each axis, then every second pixel.

    The transpose of `filter_upsample` up to a factor of 4.
    """
    x = x_BxHxWxC
    for axis in (1, 2):
        halves = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
        even, odd = (lax.index_in_dim(halves, i, axis + 1, keepdims=False) for i in (0, 1))
        before, after = _neighbours(odd, even, axis)
        x = (before + 3 * even + 3 * odd + after) / 8
    return x


def _neighbours(left: jax.Array, right: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """For each pixel the one before it in `left` and the one after it in `right`; zeros outside."""
    zeros = jnp.zeros_like(lax.slice_in_dim(left, 0, 1, axis=axis))
    before = jnp.concatenate([zeros, lax.slice_in_dim(left, 0, -1, axis=axis)], axis)
    after = jnp.concatenate([lax.slice_in_dim(right, 1, None, axis=axis), zeros], axis)
    return before, after


def nearest_upsample(x_BxHxWxC: jax.Array) -> jax.Array:
    """Every pixel as a 2x2 square: `[B, 2H, 2W, C]`."""
    batch, height, width, channels = x_BxHxWxC.shape
    x = jnp.broadcast_to(x_BxHxWxC[:, :, None, :, None, :], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def mean_downsample(x_BxHxWxC: jax.Array) -> jax.Array:
    """The mean of every 2x2 square: `[B, H/2, W/2, C]`."""
    batch, height, width, channels = x_BxHxWxC.shape
    return x_BxHxWxC.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))
