"""Generators as ONNX graphs, run by onnxruntime. Needs the extra `onnx`.

The nodes of each primitive are in test_primitives_onnx.py.
"""

import json
from dataclasses import replace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

from cgan_jax import interop
from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.errors import ConfigError, DataError
from cgan_jax.models.report import Generator
from cgan_jax.sampling.generator import TrainedGenerator, load_generator
from cgan_jax.training.gan import GAN
from tests.golden.make_run_folder import FOLDER
from tests.helpers import command

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def colours() -> TrainedGenerator:
    """Of colour images, with a label width of its own, other constants and no array at 0 or 1."""
    model = ModelConfig(
        n_classes=70,
        latent_dim=6,
        label_dim=4,
        img_size=(5, 4),
        channels=3,
        generator_widths=(8, 16, 16),
        negative_slope=0.3,
        bn_epsilon=0.05,
    )
    gan = GAN.from_config(TrainConfig(model=model))
    state = gan.init(jax.random.key(1))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: leaf + rng.uniform(0, 0.3, leaf.shape).astype(np.float32),
        state.gen.variables,
    )
    return TrainedGenerator(gan.generator, variables, tuple(map(str, range(70))), 9)


def test_the_graph_makes_the_same_images_in_batches_of_any_size(colours, tmp_path):
    path = tmp_path / "generator.onnx"
    interop.save_onnx(path, colours)
    back = interop.load_onnx(path)
    assert interop.largest_difference(colours, back, batches=(1, 2, 300)) <= 1e-5
    assert np.ptp(back(np.zeros((70, 6)), np.arange(70))) > 0.5
    assert back.metadata == interop.metadata(colours)


def test_the_graph_declares_its_inputs_and_outputs(colours, tmp_path):
    path = tmp_path / "generator.onnx"
    interop.save_onnx(path, colours)
    session = onnxruntime.InferenceSession(path)
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("latent", "tensor(float)", ["batch", 6]),
        ("labels", "tensor(int32)", ["batch"]),
    ]
    (images,) = session.get_outputs()
    assert (images.name, images.shape) == ("images", ["batch", 5, 4, 3])
    held = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(held["cgan_jax"])["value_range"] == [-1, 1]


def test_the_graph_keeps_the_names_of_arrays_and_has_each_once(colours, tmp_path):
    path = tmp_path / "generator.onnx"
    interop.save_onnx(path, colours)
    weights = {w.name: onnx.numpy_helper.to_array(w) for w in onnx.load(path).graph.initializer}
    kernel = colours.variables["params"]["hidden_2"]["kernel"]
    np.testing.assert_array_equal(weights["params.hidden_2.kernel"], kernel)
    contents = [(w.dtype.str, w.shape, w.tobytes()) for w in weights.values()]
    assert len(set(contents)) == len(contents)
    n_values = sum(leaf.size for leaf in jax.tree.leaves(colours.variables))
    assert sum(w.size for w in weights.values()) <= n_values


def test_leaky_relu_is_one_node_and_nothing_is_left_over(colours, tmp_path):
    path = tmp_path / "generator.onnx"
    interop.save_onnx(path, colours)
    graph = onnx.load(path).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("LeakyRelu") == 3
    assert operators.count("Where") == 1  # of the labels, which may be negative
    used = {name for node in graph.node for name in node.input}
    outputs = {name for node in graph.node for name in node.output}
    assert used == {"latent", "labels"} | {w.name for w in graph.initializer} | outputs - {"images"}


def test_other_files_are_refused(colours, tmp_path):
    path = tmp_path / "generator.onnx"
    path.write_bytes(b"no graph")
    for name in ("generator.onnx", "nowhere.onnx"):
        with pytest.raises(DataError, match=f"{name} cannot be read") as caught:
            interop.load_onnx(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 3
    other = replace(colours, module=GAN.from_config().discriminator)
    with pytest.raises(ConfigError, match="the generator Discriminator has no latent_dim"):
        interop.save_onnx(path, other)


def test_labels_outside_the_classes_are_refused(colours, tmp_path):
    path = tmp_path / "generator.onnx"
    interop.save_onnx(path, colours)
    with pytest.raises(ConfigError, match="expected one or more, in 0..69"):
        interop.load_onnx(path)(np.zeros((1, 6)), [70])
    inputs = {"latent": np.zeros((1, 6), np.float32), "labels": np.array([70], np.int32)}
    with pytest.raises(Exception, match="out of"):
        onnxruntime.InferenceSession(path).run(None, inputs)


class Own(nn.Module):
    """Common fields of the generators below, which are a user's own."""

    n_classes: int = 5
    latent_dim: int = 6
    img_size: int = 8
    channels: int = 3


class Inverted(Generator):
    """A subclass of the library's generator that computes something else."""

    def __call__(self, latent, labels, *, train):
        return -super().__call__(latent, labels, train=train)


class OneGrey(Own):
    """Each class is one grey, whatever the latent point is."""

    @nn.compact
    def __call__(self, latent, labels, *, train):
        grey = self.param("grey", nn.initializers.normal(), (self.n_classes,))
        shape = (self.img_size, self.img_size, self.channels)
        return jnp.tanh(grey)[labels][:, None, None, None] * jnp.ones(shape)


@jax.custom_vjp
def convolve(x, kernel):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims)


convolve.defvjp(lambda x, k: (convolve(x, k), None), lambda _, dy: (dy, dy))


class Residual(Own):
    """1x1 and 3x3 convolutions, a residual, depth to space and a [1, 3, 3, 1] filter."""

    @nn.compact
    def __call__(self, latent, labels, *, train):
        normal = nn.initializers.normal(0.3)
        label = nn.Embed(self.n_classes, 4, embedding_init=normal)(labels)
        x = nn.Dense(4 * 4 * 8)(jnp.concatenate([latent, label], -1)).reshape(-1, 4, 4, 8)
        y = nn.leaky_relu(x, 0.2)
        y = convolve(y, self.param("first", normal, (1, 1, 8, 16)))
        y = convolve(nn.leaky_relu(y, 0.2), self.param("second", normal, (3, 3, 16, 8)))
        x = nn.Conv(12, (1, 1))(x + 0.5 * y)
        x = x.reshape(-1, 4, 4, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 8, 8, 3)
        taps = jnp.array([1.0, 3, 3, 1]) / 8
        kernel = jnp.tile(jnp.outer(taps, taps)[:, :, None, None], (1, 1, 1, 3))
        dims = ("NHWC", "HWIO", "NHWC")
        return jnp.tanh(
            jax.lax.conv_general_dilated(
                x, kernel, (1, 1), ((1, 2), (2, 1)), dimension_numbers=dims, feature_group_count=3
            )
        )


class SNGAN(Own):
    """Conditional BatchNorm with its running statistics, nearest upsampling, ReLU."""

    @nn.compact
    def __call__(self, latent, labels, *, train):
        x = nn.Dense(4 * 4 * 8)(latent).reshape(-1, 4, 4, 8)
        norm = nn.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False)
        scale = nn.Embed(self.n_classes, 8)(labels)[:, None, None, :]
        shift = nn.Embed(self.n_classes, 8)(labels)[:, None, None, :]
        x = nn.relu(norm(x) * (1 + scale) + shift)
        x = jax.image.resize(x, (x.shape[0], 8, 8, 8), "nearest")
        return jnp.tanh(nn.Conv(3, (3, 3))(nn.remat(nn.Conv)(8, (3, 3))(x)))


class DCGAN(Own):
    """Transposed convolutions of several kinds, BatchNorm, a learned constant."""

    @nn.compact
    def __call__(self, latent, labels, *, train):
        one_hot = jax.nn.one_hot(labels, self.n_classes)
        x = nn.Dense(2 * 2 * 8)(latent) + nn.Dense(2 * 2 * 8)(one_hot)
        start = self.param("start", nn.initializers.normal(), (1, 2, 2, 8))
        x = x.reshape(-1, 2, 2, 8) + jnp.repeat(start, x.shape[0], 0)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.ConvTranspose(8, (4, 4), strides=(2, 2))(x)
        x = nn.ConvTranspose(6, (1, 1), strides=(2, 2))(nn.swish(x))
        x = nn.ConvTranspose(3, (3, 2), kernel_dilation=(1, 2))(nn.gelu(x, approximate=False))
        return jnp.tanh(x)


class Attention(Own):
    """Layer normalisation, attention between pixels, bilinear resizing, modulation."""

    @nn.compact
    def __call__(self, latent, labels, *, train):
        x = nn.Dense(4 * 4 * 8)(latent).reshape(-1, 16, 8)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
        x = nn.GroupNorm(2)(x.reshape(-1, 4, 4, 8)) * nn.Embed(5, 8)(labels)[:, None, None]
        x = jax.image.resize(x, (x.shape[0], 8, 8, 8), "bilinear")
        return jnp.tanh(nn.Dense(3)(nn.softplus(x)))


def with_variables(module: nn.Module) -> TrainedGenerator:
    """A generator with random variables; no running statistic is 0 or 1."""
    latent, labels = np.zeros((1, module.latent_dim), np.float32), np.zeros(1, np.int32)
    variables = module.init(jax.random.key(0), latent, labels, train=False)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: leaf + rng.uniform(-0.1, 0.1, leaf.shape).astype(np.float32), variables
    )
    return TrainedGenerator(module, variables, tuple(map(str, range(module.n_classes))), 7)


MODULES = [
    *(Inverted(n_classes=5, latent_dim=6, label_dim=3, img_size=4, widths=(8, 16)), OneGrey()),
    *(Residual(), SNGAN(), DCGAN(), Attention()),
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: type(module).__name__)
def test_a_custom_module_is_exported(module, tmp_path):
    generator, path = with_variables(module), tmp_path / "own.onnx"
    interop.save_onnx(path, generator)
    back = interop.load_onnx(path)
    assert interop.largest_difference(generator, back, batches=(1, 2, 5, 130)) <= 1e-5
    images = back(np.random.default_rng(1).standard_normal((5, 6)), np.arange(5))
    assert images.std(axis=0).max() > 0.01  # labels and latent points are used


def test_bfloat16_inside_becomes_float32(tmp_path):
    class Half(Own):
        dtype: jnp.dtype = jnp.bfloat16

        @nn.compact
        def __call__(self, latent, labels, *, train):
            x = nn.Dense(8 * 8 * 3, dtype=self.dtype)(latent) + jnp.ones((), self.dtype)
            return jnp.tanh(x.astype(jnp.float32)).reshape(-1, 8, 8, 3)

    generator = with_variables(Half())
    variables = generator.variables
    interop.save_onnx(tmp_path / "half.onnx", generator)
    back = interop.load_onnx(tmp_path / "half.onnx")
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(np.float32), variables)
    exact = replace(generator, module=Half(dtype=jnp.float32), variables=rounded)
    assert interop.largest_difference(exact, back) <= 1e-5
    assert 1e-4 < interop.largest_difference(generator, back) < 0.05


class Sorted(Own):
    @nn.compact
    def __call__(self, latent, labels, *, train):
        return jnp.sort(nn.Dense(192)(latent)).reshape(-1, 8, 8, 3)


class FixedBatch(Own):
    @nn.compact
    def __call__(self, latent, labels, *, train):
        return nn.Dense(192)(latent).reshape(len(latent), 8, 8, 3)


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Sorted(), ("a Sorted cannot be written as ONNX", "the primitive sort", "StableHLO")),
        (FixedBatch(), ("a FixedBatch cannot be written as ONNX", "any size", r"x\.shape\[0\]")),
    ],
)
def test_a_module_that_onnx_cannot_express_is_refused(module, words, tmp_path):
    path = tmp_path / "own.onnx"
    with pytest.raises(ConfigError, match="(?s)" + ".*".join(words)) as caught:
        interop.save_onnx(path, with_variables(module))
    assert len(str(caught.value).splitlines()) == 3
    assert not path.exists()


def test_the_command_writes_a_graph(tmp_path):
    out = tmp_path / "generator.onnx"
    done = command("export", FOLDER, "--format", "onnx", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Read back, it differs from JAX by at most" in done.stdout
    assert interop.largest_difference(load_generator(FOLDER), interop.load_onnx(out)) <= 1e-5
