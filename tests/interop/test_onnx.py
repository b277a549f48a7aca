"""Generators as ONNX graphs, run by onnxruntime. Needs the extra `onnx`."""

import json
from dataclasses import replace

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from cgan_jax import interop
from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.errors import ConfigError, DataError
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
        img_size=5,
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
        {"params": state.gen.params, "batch_stats": state.gen.batch_stats},
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
    assert (images.name, images.shape) == ("images", ["batch", 5, 5, 3])
    held = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert json.loads(held["cgan_jax"])["value_range"] == [-1, 1]


def test_other_files_and_other_modules_are_refused(colours, tmp_path):
    path = tmp_path / "generator.onnx"
    path.write_bytes(b"no graph")
    for name in ("generator.onnx", "nowhere.onnx"):
        with pytest.raises(DataError, match=f"{name} cannot be read") as caught:
            interop.load_onnx(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 3
    other = replace(colours, module=GAN.from_config().discriminator)
    with pytest.raises(ConfigError, match="a Discriminator cannot be written as ONNX"):
        interop.save_onnx(path, other)


def test_the_command_writes_a_graph(tmp_path):
    out = tmp_path / "generator.onnx"
    done = command("export", FOLDER, "--format", "onnx", "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Read back, it differs from JAX by at most" in done.stdout
    assert interop.largest_difference(load_generator(FOLDER), interop.load_onnx(out)) <= 1e-5
