"""Convolutions and changes of resolution: values and derivatives beside JAX's own, and by hand."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from cgan_jax.models.convolution import (
    Conv,
    convolution,
    depth_to_space,
    filter_downsample,
    filter_upsample,
    mean_downsample,
    nearest_upsample,
    space_to_depth,
)

NONE = ((0, 0), (0, 0))
# batch, height, width, inputs, outputs, kernel, padding
SHAPES = {
    "3x3": (4, 6, 5, 3, 2, (3, 3), ((1, 1), (1, 1))),
    "one image": (1, 4, 4, 2, 3, (3, 3), ((1, 1), (1, 1))),
    "even kernel, odd batch": (5, 5, 6, 2, 3, (4, 2), ((1, 2), (0, 1))),
    "uneven padding": (3, 4, 7, 1, 2, (3, 5), ((0, 2), (3, 1))),
    "more padding than kernel": (2, 3, 3, 2, 2, (2, 2), ((3, 0), (2, 2))),
    "no padding": (3, 5, 5, 2, 1, (5, 3), NONE),
    "many channels of large images": (2, 9, 8, 17, 18, (3, 2), ((1, 1), (1, 0))),
    "more inputs than outputs": (1, 9, 8, 18, 17, (2, 3), ((0, 1), (1, 1))),
    "1x1": (3, 4, 5, 3, 2, (1, 1), NONE),
    "1x1 with padding": (2, 3, 3, 2, 2, (1, 1), ((1, 0), (0, 2))),
}


def jax_convolution(x, kernel, padding):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def arguments(request, float64):
    batch, height, width, inputs, outputs, size, padding = request.param
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, height, width, inputs))
    return x, rng.normal(size=(*size, inputs, outputs)), padding


def test_value_and_derivatives_are_jaxs(arguments):
    """The first by both arguments, and the second, of the gradient's squared norm."""
    x, kernel, padding = arguments

    def derivatives(function):
        def smooth(x, kernel):
            return jnp.sin(function(x, kernel, padding)).sum()

        def penalty(x, kernel):
            by_x, by_kernel = jax.grad(smooth, (0, 1))(x, kernel)
            return (by_x**2).sum() + (by_kernel**3).sum()

        def everything(x, kernel):
            first = jax.grad(smooth, (0, 1))(x, kernel)
            return function(x, kernel, padding), first, jax.grad(penalty, (0, 1))(x, kernel)

        return jax.jit(everything)(x, kernel)

    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-11)
    jax.tree.map(close, derivatives(convolution), derivatives(jax_convolution))


@pytest.mark.parametrize("name", ["3x3", "even kernel, odd batch"])
def test_derivatives_are_those_of_finite_differences(name, float64):
    batch, height, width, inputs, outputs, size, padding = SHAPES[name]
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, height, width, inputs))
    kernel = rng.normal(size=(*size, inputs, outputs))
    function = jax.jit(lambda x, kernel: jnp.tanh(convolution(x, kernel, padding)))
    check_grads(function, (x, kernel), order=2, modes=["rev"], eps=1e-5, rtol=1e-6, atol=1e-6)


def test_every_derivative_has_the_fast_layout(monkeypatch):
    """In a loop on a CPU any other is 30 times slower; elsewhere JAX's own are the fast ones."""
    x, kernel = jnp.ones((2, 4, 4, 3)), jnp.ones((3, 3, 3, 5))

    def layouts(function):
        def penalty(kernel):
            def score(x):
                return jnp.sin(function(x, kernel, ((1, 1), (1, 1)))).sum()

            return (jax.grad(score)(x) ** 2).sum()

        text = jax.jit(jax.grad(penalty)).lower(kernel).as_text()
        layouts = re.findall(r"dim_numbers = (.*?), window", text)
        assert len(layouts) >= 3  # the kernel's gradient may be a product
        return set(layouts)

    assert len(layouts(jax_convolution)) > 1
    assert layouts(convolution) == {"[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert layouts(convolution) == layouts(jax_convolution)


def test_layer_keeps_the_size_and_the_dtype():
    x = jnp.ones((2, 5, 4, 3), jnp.bfloat16)

    def shapes(layer, x):
        return jax.eval_shape(layer.init_with_output, jax.random.key(0), x)

    for size in (1, 2, 3, 4, 5):
        y, variables = shapes(Conv(6, size), x)
        assert (y.shape, y.dtype) == ((2, 5, 4, 6), jnp.bfloat16)
        assert variables["params"]["kernel"].shape == (size, size, 3, 6)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    for resize, shape in {"double": (2, 8, 8, 6), "halve": (2, 2, 2, 6)}.items():
        y, _ = shapes(Conv(6, resize=resize), x[:, :4])
        assert (y.shape, y.dtype) == (shape, jnp.bfloat16)
    assert list(shapes(Conv(6, use_bias=False), x)[1]["params"]) == ["kernel"]


def test_layer_by_hand():
    """A 2x2 kernel sees a pixel and those to its right and below; the bias is added."""
    params = {"kernel": jnp.array([[1.0, 10], [100, 1000]]).reshape(2, 2, 1, 1)}
    x = jnp.array([[1.0, 2], [3, 4]]).reshape(1, 2, 2, 1)
    y = Conv(1, 2).apply({"params": params | {"bias": jnp.array([0.5])}}, x)
    assert y[0, :, :, 0].tolist() == [[4321.5, 402.5], [43.5, 4.5]]


def test_space_to_depth_by_hand():
    """A pixel's four parts follow one another by rows, each with all of its channels."""
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    y = space_to_depth(x)
    assert y.shape == (2, 2, 3, 12)
    square = [x[1, 2, 4], x[1, 2, 5], x[1, 3, 4], x[1, 3, 5]]
    np.testing.assert_array_equal(y[1, 1, 2], np.concatenate(square))
    np.testing.assert_array_equal(depth_to_space(y), x)


def test_nearest_and_mean_by_hand():
    x = jnp.array([[1.0, 2], [3, 5]]).reshape(1, 2, 2, 1)
    up = nearest_upsample(x)
    rows = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 5, 5], [3, 3, 5, 5]]
    assert up[0, :, :, 0].tolist() == rows
    np.testing.assert_array_equal(mean_downsample(up), x)
    assert mean_downsample(x).tolist() == [[[[2.75]]]]


@pytest.mark.parametrize("size", [(4, 6), (2, 2)])
@pytest.mark.parametrize("resize", ["double", "halve"])
def test_resizing_convolution_is_both_in_turn(resize, size, float64):
    """The layer's value, and its derivatives up to the second, with 3 and 5 channels."""
    rng = np.random.default_rng(0)
    x, layer = rng.normal(size=(3, *size, 3)), Conv(5)
    params = jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape), layer.init(jax.random.key(0), x)
    )

    def in_turn(params, x):
        if resize == "double":
            return layer.apply(params, nearest_upsample(x))
        return mean_downsample(layer.apply(params, x))

    def derivatives(function):
        def penalty(params, x):
            by_both = jax.grad(lambda *args: jnp.sin(function(*args)).sum(), (0, 1))(params, x)
            return sum((leaf**2).sum() for leaf in jax.tree.leaves(by_both))

        value = function(params, x)
        return value, jax.value_and_grad(penalty, (0, 1))(params, x)

    derivatives = jax.jit(derivatives, static_argnums=0)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10)
    jax.tree.map(close, derivatives(Conv(5, resize=resize).apply), derivatives(in_turn))


def dilated(x, factor=2):
    """Zeros after every pixel."""
    batch, height, width, channels = x.shape
    y = np.zeros((batch, factor * height, factor * width, channels))
    y[:, ::factor, ::factor] = x
    return y


def test_filter_is_the_kernel_1_3_3_1(float64):
    """As a convolution of each channel: before every second pixel, or after zeros between them."""
    x = np.random.default_rng(0).normal(size=(2, 6, 4, 3))
    line = np.array([1, 3, 3, 1]) / 8
    kernel = np.einsum("h,w,cf->hwcf", line, line, np.eye(3))
    down = jax_convolution(x, kernel, ((1, 2), (1, 2)))[:, ::2, ::2]
    np.testing.assert_allclose(filter_downsample(x), down, rtol=1e-12, atol=1e-13)
    up = jax_convolution(dilated(x), 4 * kernel, ((2, 1), (2, 1)))
    np.testing.assert_allclose(filter_upsample(x), up, rtol=1e-12, atol=1e-13)


def test_filters_are_transposes_of_one_another(float64):
    rng = np.random.default_rng(0)
    small, large = rng.normal(size=(2, 3, 5, 2)), rng.normal(size=(2, 6, 10, 2))
    upsample, downsample = jax.jit(filter_upsample), jax.jit(filter_downsample)
    one = (upsample(small) * large).sum()
    np.testing.assert_allclose(one, 4 * (small * downsample(large)).sum(), rtol=1e-12)
    constant = np.ones((1, 8, 8, 1))
    np.testing.assert_allclose(downsample(constant)[:, 1:-1, 1:-1], 1, rtol=1e-12)
    np.testing.assert_allclose(upsample(constant)[:, 1:-1, 1:-1], 1, rtol=1e-12)


def test_members_of_a_sweep_have_convolutions_of_their_own(float64):
    """Under vmap, with kernels that differ."""
    rng = np.random.default_rng(0)
    x, kernels = rng.normal(size=(3, 2, 4, 4, 2)), rng.normal(size=(3, 3, 3, 2, 2))
    padding = ((1, 1), (1, 1))
    loss = jax.grad(lambda kernel, x: jnp.sin(convolution(x, kernel, padding)).sum())
    together = jax.jit(jax.vmap(loss))(kernels, x)
    np.testing.assert_allclose(together, [loss(*pair) for pair in zip(kernels, x, strict=True)])
