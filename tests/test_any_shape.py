"""Images that are higher than wide, with alpha: every kind of network, and all that a run makes.

Their ONNX graphs are in interop/test_recipes_onnx.py.
"""

import shlex
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image

from cgan_jax.config import MODEL_KINDS, TrainConfig, from_dict, to_dict
from cgan_jax.data import Batch, Dataset
from cgan_jax.errors import ConfigError
from cgan_jax.pictures.grids import grid, on_white, tiles
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import TrainedGenerator, load_generator
from cgan_jax.training.gan import GAN
from cgan_jax.training.step import train_step
from experiments import animate, sample, train
from experiments.proofs import tiny
from experiments.shared import training
from experiments.shared.training_flags import OutputFlags, parse_job

HEIGHT, WIDTH = 12, 8
IMAGES = np.random.default_rng(0).integers(0, 256, (8, HEIGHT, WIDTH, 4), np.uint8)
DATASET = Dataset.from_arrays(IMAGES, np.arange(8) % 3, tiny.CLASS_NAMES, name="high")


def config_of(kind):
    recipe = TrainConfig(model=MODEL_KINDS[kind]())
    return replace(tiny.shrink(recipe), epochs=1).for_data(DATASET)


@pytest.fixture(scope="module", params=MODEL_KINDS)
def generator(request):
    """An untrained one. A step is traced, not compiled; its numbers are test_networks_live.py's."""
    gan = GAN.from_config(config_of(request.param))
    state = jax.jit(gan.init)(jax.random.key(0))
    batch = Batch(DATASET.images, DATASET.labels)
    after, losses = jax.eval_shape(partial(train_step, gan), state, batch, jax.random.key(1))
    assert (jax.tree.map(np.shape, after), losses.d_loss.shape) == (
        jax.tree.map(np.shape, state),
        (),
    )
    return TrainedGenerator(gan.generator, state.sampling_variables, tiny.CLASS_NAMES, 0)


def test_every_kind_makes_images_of_any_shape(generator, tmp_path):
    images = generator.generate(range(3), n=2)
    assert images.shape == (6, HEIGHT, WIDTH, 4)
    rows = images.reshape(2, 3, *images.shape[1:])
    shown = tiles(grid(rows, generator.class_names), 3, HEIGHT, WIDTH)
    np.testing.assert_array_equal(shown, on_white(rows))
    generator.save(tmp_path / "generator.safetensors")
    again = load_generator(tmp_path / "generator.safetensors")
    np.testing.assert_array_equal(again.generate(range(3), n=2), images)


def test_a_run_of_any_shape(tmp_path, monkeypatch):
    """Its grids, page, animations and pictures."""
    config, path = config_of("report"), tmp_path / "run"
    assert from_dict(to_dict(config)) == config
    monkeypatch.setenv("CGAN_JAX_CACHE", str(tmp_path / "cache"))
    training.run(config, DATASET, path, OutputFlags(), command="the command")
    run = RunFolder.open(path)
    assert run.config == config
    size = f"{HEIGHT} \N{MULTIPLICATION SIGN} {WIDTH} pixels (height"
    assert size in (path / "report.html").read_text("utf-8")

    images = load_generator(path).generate(range(3), n=10)
    with Image.open(path / "real.png") as real, Image.open(run.sample_grid(1)) as samples:
        shown = [tiles(picture, 3, HEIGHT, WIDTH) for picture in (real, samples)]
    np.testing.assert_array_equal(shown[0][0], on_white(IMAGES[:3]))
    np.testing.assert_array_equal(shown[1].reshape(30, HEIGHT, WIDTH, 3), on_white(images))

    animate.animate_training(run, 4, tmp_path / "training.gif")
    for name in ("morph.gif", "strip.png"):
        ids = np.arange(3)
        animate.write(images.reshape(2, 15, *images.shape[1:]), ids, ids, "abc", tmp_path / name)
    sample.write(images[:1], np.arange(1), run.class_names, tmp_path / "single")
    [file] = (tmp_path / "single").rglob("*.png")
    with Image.open(file) as single:
        np.testing.assert_array_equal(np.asarray(single), images[0])  # alpha is kept


@pytest.mark.parametrize(("text", "size"), [("16", 16), ("16x16", 16), ("16x8", (16, 8))])
def test_the_flag_of_a_size(text, size):
    """The networks are checked with it, and the command repeats it."""
    words = ["photos.npz", "--preset", "residual", "--img-size", text]
    job = parse_job(train.Flags, train.MODULE, words)
    assert job.own.size == job.config.model.img_size == size
    assert shlex.split(job.command)[3:] == words
    with pytest.raises(ConfigError, match=r"18x10 cannot .*\n.* of 4, such as 16x8 or 20x12\n"):
        parse_job(train.Flags, train.MODULE, [*words[:-1], "18x10"])


def test_another_preset_is_checked_with_the_size_that_is_given(tmp_path):
    """Also where a run is: its own size counts only with its own preset."""
    RunFolder.start(tmp_path, config_of("report"), tiny.CLASS_NAMES)
    words = ["photos.npz", "--workdir", str(tmp_path), "--preset", "residual", "--img-size"]
    widths = ["--generator-widths", "8", "8", "8", "8"]
    parse_job(train.Flags, train.MODULE, [*words, "16x32", *widths])
    with pytest.raises(ConfigError, match="img_size 16x24 cannot be halved 4 times"):
        parse_job(train.Flags, train.MODULE, [*words, "16x24", *widths])
