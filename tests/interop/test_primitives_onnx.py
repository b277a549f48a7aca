"""Each of JAX's primitives that ONNX graphs may use, against JAX. Needs the extra `onnx`."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cgan_jax import interop
from cgan_jax.errors import ConfigError
from cgan_jax.interop.onnx_primitives import PRIMITIVES
from cgan_jax.sampling.generator import TrainedGenerator

pytestmark = pytest.mark.slow

WEIGHT = np.random.default_rng(0).standard_normal((4, 4, 3)).astype(np.float32)
KERNEL = np.random.default_rng(1).standard_normal((3, 2, 3, 4)).astype(np.float32)


def convolve(x, kernel=KERNEL, strides=(1, 1), padding="SAME", layout="HWIO", **options):
    image = jnp.concatenate([x[..., None], -x[..., None], x[..., None] ** 2], -1)  # [B, 3, 4, 3]
    dims = ("NHWC", layout, "NHWC")
    return lax.conv_general_dilated(
        image, kernel, strides, padding, dimension_numbers=dims, **options
    )


def transposed(x, kernel=KERNEL, strides=(2, 3), padding="SAME", **options):
    return lax.conv_transpose(jnp.stack([x, -x, x * x], -1), kernel, strides, padding, **options)


def window(x, label):
    return lax.dynamic_slice(x, (label % 2, 0), (2, 4))


# Functions of x, float32 [B, 3, 4], and y, int32 [B]; several for a primitive with variants.
CASES = {
    "abs": [lambda x, y: abs(x), lambda x, y: abs(y - 3)],
    "add": [lambda x, y: x + WEIGHT[0, 0, 0], lambda x, y: y + y],
    "and": [lambda x, y: (x > 0) & (x < 1)],
    "broadcast_in_dim": [
        lambda x, y: lax.broadcast_in_dim(x, (x.shape[0], 3, 2, 4), (0, 1, 3)),
        lambda x, y: jnp.broadcast_to(WEIGHT[0], (x.shape[0], 4, 3)),
        lambda x, y: jnp.zeros_like(x) + y[:, None, None],
        lambda x, y: jnp.broadcast_to(x, (2, *x.shape)).reshape(2, -1).T.reshape(-1, 12, 2),
    ],
    "ceil": [lambda x, y: jnp.ceil(x)],
    "clamp": [lambda x, y: lax.clamp(-0.5, x, 0.7), lambda x, y: lax.clamp(1, y, 2)],
    "concatenate": [
        lambda x, y: jnp.concatenate([x, x * 2, jnp.ones((x.shape[0], 3, 1))], 2),
        lambda x, y: jnp.concatenate([x, -x], 0).reshape(2, -1, 12).swapaxes(0, 1),
    ],
    "conv_general_dilated": [
        lambda x, y: convolve(x),
        lambda x, y: convolve(x, strides=(2, 1), padding=((2, 0), (1, 3))),
        lambda x, y: convolve(x, padding=((2, 2), (2, 2)), rhs_dilation=(2, 3)),
        lambda x, y: convolve(x, KERNEL[:, :, :1, :3], feature_group_count=3),
        lambda x, y: convolve(x, KERNEL.transpose(3, 2, 0, 1), layout="OIHW"),
        lambda x, y: transposed(x),
        lambda x, y: transposed(x, padding="VALID"),
        lambda x, y: transposed(x, padding="VALID", rhs_dilation=(2, 2)),
        lambda x, y: transposed(x, KERNEL[:1, :1]),
        lambda x, y: transposed(x, KERNEL * y[0].astype(float)),
        lambda x, y: lax.conv_general_dilated(x, KERNEL[0, :, :, :3], (1,), "SAME"),
    ],
    "convert_element_type": [
        lambda x, y: (x * 3).astype(jnp.int32),
        lambda x, y: y.astype(jnp.float32) * 0.3,
        lambda x, y: jnp.array(x > 0).astype(jnp.float32),
        lambda x, y: jnp.round(x).astype(bool),
    ],
    "copy": [lambda x, y: jnp.copy(x)],
    "cos": [lambda x, y: jnp.cos(x)],
    "dim_as_value": [lambda x, y: x / x.shape[0]],
    "div": [lambda x, y: x / (2 + y[:, None, None]), lambda x, y: lax.div(y - 2, 2)],
    "dot_general": [
        lambda x, y: x @ WEIGHT[0],
        lambda x, y: jnp.einsum("bij,bkj->bik", x, x),
        lambda x, y: jnp.einsum("bij,bkj->bjik", x, x),
        lambda x, y: jnp.einsum("bij,kij->bk", x, WEIGHT.transpose(0, 2, 1)),
        lambda x, y: jnp.einsum("ji,bj->bi", WEIGHT[0], x[:, 0]),
        lambda x, y: x.reshape(-1, 12) @ np.ones(12, np.float32),
    ],
    "dynamic_slice": [
        lambda x, y: lax.dynamic_slice(x, (0, y[0] % 3, 1), (x.shape[0], 2, 2)),
        lambda x, y: lax.dynamic_slice(x, (0, -7, 9), (x.shape[0], 2, 2)),
        lambda x, y: lax.dynamic_slice(x, (0, y[0] * 0 + 9, 0), (x.shape[0], 2, 2)),
        lambda x, y: lax.dynamic_slice(x, (0, y[0] * 0 - 7, 1), (x.shape[0], 2, 2)),
        lambda x, y: x + lax.dynamic_slice(y, (y[0] * 0 + 9,), (1,)),
    ],
    "eq": [lambda x, y: y[:, None] == jnp.arange(4), lambda x, y: jnp.round(x) == 1],
    "erf": [lambda x, y: lax.erf(x)],
    "erfc": [lambda x, y: lax.erfc(x)],
    "exp": [lambda x, y: jnp.exp(x)],
    "exp2": [lambda x, y: jnp.exp2(x)],
    "expm1": [lambda x, y: jnp.expm1(x)],
    "floor": [lambda x, y: jnp.floor(x)],
    "gather": [
        lambda x, y: jnp.take(WEIGHT, y, axis=0),
        lambda x, y: jnp.take(WEIGHT, y, axis=1).swapaxes(0, 1),
        lambda x, y: jnp.asarray(WEIGHT)[y],
        lambda x, y: jnp.asarray(WEIGHT)[y, :, y % 3],
        lambda x, y: jnp.asarray(WEIGHT)[:, y, y % 3].T,
        lambda x, y: jnp.asarray(WEIGHT)[jnp.stack([y, y - 1], 1)],
        lambda x, y: jnp.take(WEIGHT, y * 3, axis=0, mode="clip"),
        lambda x, y: x[:, jnp.array([2, 0, -1, 1])],
        lambda x, y: x[:, :, jnp.array([[2, 0], [1, 1]])],
        lambda x, y: x[:, 1:],
        lambda x, y: x[:, -1],
        lambda x, y: x[:, y[0] % 3],
        lambda x, y: x[:, 1, 2],
        lambda x, y: x[jnp.arange(x.shape[0]), :, y],
        lambda x, y: x[jnp.arange(x.shape[0]), y % 3, y],
        lambda x, y: jnp.take_along_axis(x, y[:, None, None] % 3, 1),
    ],
    "ge": [lambda x, y: y >= 2, lambda x, y: x >= x[:, :1]],
    "gt": [lambda x, y: y > 2],
    "integer_pow": [lambda x, y: x**3, lambda x, y: lax.integer_pow(x + 5, -2)],
    "iota": [
        lambda x, y: jnp.arange(x.shape[0]) * 2,
        lambda x, y: lax.broadcasted_iota(float, (x.shape[0], 3), 0),
        lambda x, y: lax.broadcasted_iota(int, (x.shape[0], 3), 1),
    ],
    "le": [lambda x, y: y <= 2],
    "log": [lambda x, y: jnp.log(abs(x) + 1)],
    "log1p": [lambda x, y: jax.nn.softplus(x)],
    "logistic": [lambda x, y: nn.swish(x)],
    "lt": [lambda x, y: y < 2],
    "max": [
        lambda x, y: nn.relu(x),
        lambda x, y: jnp.maximum(x, 0.5),
        lambda x, y: jnp.maximum(0.0, x),
        lambda x, y: jnp.maximum(y, 2),
    ],
    "min": [lambda x, y: jnp.minimum(x, 0.5)],
    "mul": [lambda x, y: x * x[:, :1]],
    "ne": [lambda x, y: y != 2],
    "neg": [lambda x, y: -x],
    "not": [lambda x, y: ~(x > 0)],
    "optimization_barrier": [lambda x, y: sum(lax.optimization_barrier((x, -2 * x)))],
    "or": [lambda x, y: (x < 0) | (x > 1)],
    "pad": [
        lambda x, y: jnp.pad(x, ((0, 0), (1, 0), (2, 3)), constant_values=0.5),
        lambda x, y: lax.pad(x, 0.0, ((0, 0, 0), (-1, 2, 0), (1, -2, 0))),
    ],
    "pow": [lambda x, y: abs(x) ** 1.7, lambda x, y: lax.pow(x, y[0])],
    "reduce_max": [lambda x, y: x.max(2), lambda x, y: x.max((1, 2))],
    "reduce_min": [lambda x, y: x.min(1)],
    "reduce_prod": [lambda x, y: x.prod(1)],
    "reduce_sum": [lambda x, y: x.sum(1), lambda x, y: x - x.mean((0, 2), keepdims=True)],
    "rem": [lambda x, y: lax.rem(x, 0.7), lambda x, y: lax.rem(y - 2, 3)],
    "reshape": [
        lambda x, y: x.reshape(-1, 2, 6),
        lambda x, y: x.reshape(-1).reshape(-1, 12),
        lambda x, y: (x - x[:, None]).reshape(x.shape[0], x.shape[0], 12).max(1),
    ],
    "rev": [lambda x, y: x[:, ::-1, ::-1]],
    "round": [lambda x, y: jnp.round(x * 2) + jnp.round(y + 0.5)[:, None, None]],
    "rsqrt": [lambda x, y: lax.rsqrt(abs(x) + 0.1)],
    "select_n": [
        lambda x, y: jnp.where(x > 0, x, -3 * x),
        lambda x, y: nn.leaky_relu(x, 0.3),
        lambda x, y: jnp.where(x >= 0, 0.3 * x, x),
        lambda x, y: jnp.where(x >= 0.5, x, 0.3 * x),
        lambda x, y: jnp.where(x >= 0, x, WEIGHT[0, :3, :1] * x),
        lambda x, y: jnp.where(x >= 0, x, 0.3 * x[:, ::-1]),
        lambda x, y: lax.select(x > 0, x > 1, x > -1),
        lambda x, y: lax.select_n(y[0] > 1, x, -x),
    ],
    "sign": [lambda x, y: jnp.sign(jnp.round(x))],
    "sin": [lambda x, y: jnp.sin(x)],
    "slice": [
        lambda x, y: lax.slice_in_dim(x, 1, 4, 2, axis=2),
        lambda x, y: lax.slice_in_dim(jnp.concatenate([x, -x]), x.shape[0], 2 * x.shape[0]),
        lambda x, y: lax.slice_in_dim(x, 0, 4, axis=2),
    ],
    "split": [lambda x, y: jnp.concatenate(jnp.split(x, [1, 3], axis=2)[::-1], 2)],
    "sqrt": [lambda x, y: jnp.sqrt(abs(x))],
    "square": [lambda x, y: jnp.square(x)],
    "squeeze": [
        lambda x, y: x[..., None, None].squeeze((-1, -2)),
        lambda x, y: x[:, :1].squeeze(1),
        lambda x, y: lax.expand_dims(x[:, :1], (3,)).squeeze(1) + WEIGHT[0, :, :1],
    ],
    "stack": [lambda x, y: jnp.stack([x, -x], -1), lambda x, y: jnp.stack([y, y + 1], 1)],
    "stop_gradient": [lambda x, y: lax.stop_gradient(x)],
    "sub": [lambda x, y: 1 - x],
    "tanh": [lambda x, y: jnp.tanh(x)],
    "tile": [
        lambda x, y: jnp.tile(x, (1, 2, 3)),
        lambda x, y: jnp.tile(WEIGHT[0], (x.shape[0], 1, 1)),
    ],
    "transpose": [lambda x, y: x.transpose(0, 2, 1)],
    "unstack": [lambda x, y: sum(jnp.unstack(x, axis=1)[1:])],
    "xor": [lambda x, y: (x > 0) ^ (x > 1)],
}  # fmt: skip


class Function(nn.Module):
    """A generator without variables; the function's result is a row of `channels` pixels."""

    function: object
    channels: int
    n_classes: int = 4
    latent_dim: int = 12
    img_size: int = 1

    def __call__(self, latent, labels, *, train):
        result = self.function(latent.reshape(-1, 3, 4), labels)
        order = (0, *reversed(range(1, result.ndim)))  # which the wrong rank would not allow
        return result.astype(jnp.float32).transpose(order).reshape(-1, 1, 1, self.channels)


def generator(function) -> TrainedGenerator:
    shapes = jax.ShapeDtypeStruct((2, 3, 4), np.float32), jax.ShapeDtypeStruct((2,), np.int32)
    channels = jax.eval_shape(function, *shapes).size // 2
    return TrainedGenerator(Function(function, channels), {}, ("a", "b", "c", "d"), 0)


def test_each_primitive_has_a_case():
    assert CASES.keys() == PRIMITIVES.keys()


@pytest.mark.parametrize(
    ("name", "function"),
    [
        pytest.param(name, function, id=f"{name}-{i}")
        for name, functions in CASES.items()
        for i, function in enumerate(functions)
    ],
)
def test_the_nodes_of_a_primitive_compute_what_jax_does(name, function, tmp_path, monkeypatch):
    calls = []

    def counted(emit, *arguments):
        calls.append(name)
        return emit(*arguments)

    monkeypatch.setitem(PRIMITIVES, name, partial(counted, PRIMITIVES[name]))
    path, original = tmp_path / "function.onnx", generator(function)
    interop.save_onnx(path, original)
    assert calls, f"JAX used no {name}"
    exported, rng = interop.load_onnx(path), np.random.default_rng(2)
    for n in (1, 2, 5):
        latent, labels = rng.normal(0, 1, (n, 12)), rng.integers(0, 4, n)
        expected = interop.as_exported(original)(latent, labels)
        np.testing.assert_allclose(exported(latent, labels), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, y: jnp.sort(x), "the primitive sort"),
        (lambda x, y: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 0), (0, 0, 1))), "pad between elements"),
        (lambda x, y: lax.select_n(y, y, -y, y, -y), "select_n of more than two cases"),
        (lambda x, y: lax.round(x), "round away from zero"),
        (lambda x, y: y & 1, "and of integers"),
        (
            lambda x, y: x + jnp.zeros(3 * x.shape[0] + 1)[0],
            "the size .* not a multiple of the batch,",
        ),
        (
            lambda x, y: convolve(x, lhs_dilation=(2, 2), strides=(2, 2), padding=((1, 1), (1, 1))),
            "conv.* and groups, strides",
        ),
        (lambda x, y: convolve(x, padding=((-1, 2), (1, 1))), "conv.* negative padding"),
        (lambda x, y: jax.vmap(window)(x, y), "gather of windows"),
        (lambda x, y: jnp.take_along_axis(x, x.astype(int) * 0, 0), "gather with these batch axes"),
        (lambda x, y: lax.fori_loop(0, 3, lambda i, x: x * 2, x), "the primitive (scan|while)"),
    ],
)
def test_what_has_no_nodes_is_refused(function, words, tmp_path):
    with pytest.raises(ConfigError, match=f"it uses {words}.* of JAX\nexpected .*\n.*StableHLO"):
        interop.save_onnx(tmp_path / "function.onnx", generator(function))
