"""Convolutions that are fast in a loop on a CPU, and changes of resolution.

Shape suffixes: B batch, H height, W width, C input channels, F output channels.
"""

from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[tuple[int, int], tuple[int, int]]
NONE: Padding = ((0, 0), (0, 0))
Resize = Literal["double", "halve"] | None


def convolution(x_BxHxWxC: jax.Array, kernel_HxWxCxF: jax.Array, padding: Padding) -> jax.Array:
    """Cross-correlation with stride 1, as `lax.conv_general_dilated` and PyTorch's `conv2d`.

    Its value and its derivatives of any order are those of JAX, but on a CPU reverse mode alone
    works: a custom rule keeps them fast inside `scan`, `fori_loop`, `while_loop` and `cond`. There
    XLA's CPU compiler leaves a convolution as it is, and only the layout below (NHWC, HWIO, stride
    1, small kernels) is fast. JAX's own gradients are in other layouts, 30 to 50 times slower (jax
    issue 12868). Elsewhere JAX's are used.

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
    function = _convolution if jax.default_backend() == "cpu" else _plain
    return function(x_BxHxWxC, kernel_HxWxCxF, padding)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolution(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    return _plain(x, kernel, padding)


def _plain(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=layout)


def _forward(
    x: jax.Array, kernel: jax.Array, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolution(x, kernel, padding), (x, kernel)


def _backward(
    padding: Padding, residuals: tuple[jax.Array, jax.Array], dy_BxHxWxF: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x_BxHxWxC, kernel_HxWxCxF = residuals
    dx_BxHxWxC = _image_gradient(kernel_HxWxCxF, dy_BxHxWxF, padding)
    return dx_BxHxWxC, _kernel_gradient(x_BxHxWxC, dy_BxHxWxF, padding)


_convolution.defvjp(_forward, _backward)


def _image_gradient(kernel: jax.Array, dy: jax.Array, padding: Padding) -> jax.Array:
    """y[p] = sum_q x[p + q - low] k[q], so dx[r] = sum_q dy[r - q + low] k[q]: a flipped kernel."""
    return _convolution(dy, jnp.flip(kernel, (0, 1)).swapaxes(2, 3), _around(kernel.shape, padding))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _kernel_gradient(x_BxHxWxC: jax.Array, dy_BxHxWxF: jax.Array, padding: Padding) -> jax.Array:
    """dk[q] = sum_p x[p + q - low] dy[p] = sum_r x[r] dy[r - q + low], as matrix products.

    The side with fewer channels is shifted. Few channels, or small images, are laid side by side
    for one product; otherwise each shift has its own. As one convolution of x with dy, which has
    kernels of the images' size, it is up to three times slower on a CPU.
    """
    channels, features = x_BxHxWxC.shape[-1], dy_BxHxWxF.shape[-1]
    height, width = size = _kernel_size(x_BxHxWxC, dy_BxHxWxF, padding)
    if channels < features:
        shifted = _shifts(x_BxHxWxC, size, padding)
        fixed_NxF = dy_BxHxWxF.reshape(-1, features)
    else:
        shifted = _shifts(dy_BxHxWxF, size, _around(size, padding))[::-1]
        fixed_NxF = x_BxHxWxC.reshape(-1, channels)
    few = min(channels, features)
    if few <= 16 or len(fixed_NxF) <= 64 * len(x_BxHxWxC):
        products = (fixed_NxF.T @ jnp.concatenate(shifted, -1)).reshape(-1, height, width, few)
        products = products.transpose(1, 2, 3, 0)
    else:
        products = jnp.stack([each_NxC.T @ fixed_NxF for each_NxC in shifted])
        products = products.reshape(height, width, few, -1)
    return products if channels < features else products.swapaxes(2, 3)


def _shifts(x_BxHxWxC: jax.Array, size: tuple[int, int], padding: Padding) -> list[jax.Array]:
    """What a kernel of this size meets at each of its places, row by row: `[B H' W', C]` each."""
    zero = jnp.zeros((), x_BxHxWxC.dtype)
    padded = lax.pad(x_BxHxWxC, zero, ((0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)))
    rows, columns = (n - k + 1 for n, k in zip(padded.shape[1:3], size, strict=True))
    return [
        padded[:, i : i + rows, j : j + columns].reshape(-1, padded.shape[-1])
        for i in range(size[0])
        for j in range(size[1])
    ]


def _kernel_gradient_forward(
    x: jax.Array, dy: jax.Array, padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _kernel_gradient(x, dy, padding), (x, dy)


def _kernel_gradient_backward(
    padding: Padding, residuals: tuple[jax.Array, jax.Array], kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`<kernel, dk>` is `<dy, convolution(x, kernel)>`, so both derivatives are known already."""
    x, dy = residuals
    return _image_gradient(kernel, dy, padding), _convolution(x, kernel, padding)


_kernel_gradient.defvjp(_kernel_gradient_forward, _kernel_gradient_backward)


def _around(kernel_size: tuple[int, ...], padding: Padding) -> Padding:
    """The padding of dy where a kernel of this size slides over it back to the size of x."""
    (top, bottom), (left, right) = padding
    height, width = kernel_size[:2]
    return (height - 1 - top, height - 1 - bottom), (width - 1 - left, width - 1 - right)


def _kernel_size(x: jax.Array, dy: jax.Array, padding: Padding) -> tuple[int, int]:
    """That of the kernel that makes images of dy's size from those of x."""
    height, width = (
        n_in + sum(pads) - n_out + 1
        for n_in, n_out, pads in zip(x.shape[1:3], dy.shape[1:3], padding, strict=True)
    )
    return height, width


class Conv(nn.Module):
    """A convolution that keeps, doubles or halves the image's size, in the dtype of its input.

    Args:
        features: number of output channels.
        size: height and width of the kernel.
        kernel_init: distribution of the kernel, a parameter `[size, size, C, features]`.
        use_bias: whether a bias, which starts at zero, is added.
        resize: `double` for `nearest_upsample` before a 3x3 convolution, `halve` for
            `mean_downsample` after it; each is computed as one convolution at the lower resolution.
    """

    features: int
    size: int = 3
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    use_bias: bool = True
    resize: Resize = None

    @nn.compact
    def __call__(self, x_BxHxWxC: jax.Array) -> jax.Array:
        shape = (self.size, self.size, x_BxHxWxC.shape[-1], self.features)
        kernel_HxWxCxF = self.param("kernel", self.kernel_init, shape).astype(x_BxHxWxC.dtype)
        sides = ((self.size - 1) // 2, self.size // 2)
        if self.resize == "double":
            y_BxHxWxF = _convolution_after_nearest(x_BxHxWxC, kernel_HxWxCxF)
        elif self.resize == "halve":
            y_BxHxWxF = _convolution_before_mean(x_BxHxWxC, kernel_HxWxCxF)
        else:
            y_BxHxWxF = convolution(x_BxHxWxC, kernel_HxWxCxF, (sides, sides))
        if not self.use_bias:
            return y_BxHxWxF
        bias_F = self.param("bias", nn.initializers.zeros, (self.features,))
        return y_BxHxWxF + bias_F.astype(y_BxHxWxF.dtype)


def _convolution_before_mean(x_BxHxWxC: jax.Array, kernel_3x3xCxF: jax.Array) -> jax.Array:
    """`mean_downsample` of a 3x3 convolution: 16 products per output and channel instead of 36.

    Together they are a 4x4 convolution of stride 2, and so a 2x2 one of `space_to_depth`: as one
    matrix product, whose four outputs per place are then added with their shifts.
    """
    channels, features = kernel_3x3xCxF.shape[2:]
    kernel = (_convolved_with_square(kernel_3x3xCxF) / 4).reshape(2, 2, 2, 2, channels, features)
    squares = space_to_depth(jnp.pad(x_BxHxWxC, ((0, 0), (1, 1), (1, 1), (0, 0))))
    kernel = kernel.transpose(1, 3, 4, 0, 2, 5).reshape(4 * channels, 4 * features)
    y = squares.reshape(-1, 4 * channels) @ kernel
    y = y.reshape(*squares.shape[:3], 4, features)
    rows, columns = (n // 2 for n in x_BxHxWxC.shape[1:3])
    upper, lower = (y[:, i : i + rows, :, 2 * i : 2 * i + 2] for i in (0, 1))
    both = upper + lower
    return both[:, :, :columns, 0] + both[:, :, 1 : 1 + columns, 1]


def _convolution_after_nearest(x_BxHxWxC: jax.Array, kernel_3x3xCxF: jax.Array) -> jax.Array:
    """A 3x3 convolution of `nearest_upsample`: 4 products per output and channel instead of 9.

    The transpose of a 4x4 convolution of stride 2: a 2x2 one to four times as many channels, whose
    `depth_to_space` has a pixel too many on each side.
    """
    kernel_4x4xCxF = _convolved_with_square(kernel_3x3xCxF)
    channels, features = kernel_3x3xCxF.shape[2:]
    kernel = jnp.flip(kernel_4x4xCxF.reshape(2, 2, 2, 2, channels, features), (1, 3))
    kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
    y = convolution(x_BxHxWxC, kernel.reshape(2, 2, channels, 4 * features), ((1, 1), (1, 1)))
    return depth_to_space(y)[:, 1:-1, 1:-1]


def _convolved_with_square(kernel_3x3xCxF: jax.Array) -> jax.Array:
    """The sum of the kernel and its three copies one pixel further: `[4, 4, C, F]`."""
    kernel = kernel_3x3xCxF
    for axis in (0, 1):
        before, after = ([(i, 1 - i) if a == axis else (0, 0) for a in range(4)] for i in (0, 1))
        kernel = jnp.pad(kernel, before) + jnp.pad(kernel, after)
    return kernel


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
