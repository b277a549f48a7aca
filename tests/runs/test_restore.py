"""A run's generator: its running average where it has one, and what callbacks draw and measure."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from cgan_jax.pictures.grids import grid
from cgan_jax.reporting.callbacks import SampleGrids
from cgan_jax.reporting.measures import MeasuresTable
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_generator
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train


def moving_average(average, variables, step):
    return jax.tree.map(lambda a, v: 0.9 * a + 0.1 * v, average, variables)


@pytest.fixture(scope="module")
def averaged(tiny_config, tiny_dataset, tmp_path_factory):
    """A run of a GAN with an average, its GAN, its last state, and the images it measured."""
    config = replace(tiny_config, epochs=1)
    gan = replace(GAN.from_config(config), average=moving_average)
    run = RunFolder.start(tmp_path_factory.mktemp("runs") / "run", config, tiny_dataset.class_names)
    measured = []

    def measure(images, labels):
        measured.append(images)
        return {"mean": float(images.mean())}

    callbacks = [SampleGrids(gan, run, rows=2), MeasuresTable(gan, run, measure, 1, n_images=30)]
    with Checkpoints(run.checkpoints) as checkpoints:
        state = train(gan, config, tiny_dataset, callbacks=callbacks, checkpoints=checkpoints)
    return run, gan, state, measured[-1]


def assert_equal(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_generator_is_the_average_bit_for_bit(averaged):
    run, _, state, _ = averaged
    generator = load_generator(run.path)
    assert generator.step == state.step
    assert jax.tree.leaves(generator.variables["batch_stats"])
    assert_equal(generator.variables, jax.tree.map(np.asarray, state.average))
    for part in ("params", "batch_stats"):  # which the newest variables are not
        newest, average = (jax.tree.leaves(v[part]) for v in (state.gen.variables, state.average))
        assert not all(map(np.array_equal, newest, average))


def test_raw_generator_is_the_newest_one(averaged):
    run, gan, state, _ = averaged
    variables, step = restore_generator(run, gan.generator, raw=True)
    assert step == state.step
    assert_equal(variables, jax.tree.map(np.asarray, state.gen.variables))


def test_grids_and_measures_are_of_the_average(averaged):
    run, _, _, measured = averaged
    generator = load_generator(run.path)
    n = len(run.class_names)
    np.testing.assert_array_equal(measured, generator.generate(np.arange(30) % n))
    images = generator.generate(np.tile(np.arange(n), 2))
    expected = grid(images.reshape(2, n, *images.shape[1:]), run.class_names)
    with Image.open(run.sample_grid(1)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_average_of_an_older_intact_step_is_restored(averaged, tmp_path, tiny_config):
    """The newest manifest is damaged, so it cannot tell whether there is an average."""
    _, gan, state, _ = averaged
    run = RunFolder.start(tmp_path / "run", tiny_config, ("a", "b", "c"))
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(6, state)
        checkpoints.save(7, state)
    (run.checkpoints / "7" / "manifest" / "metadata").write_text("{}")
    variables, _ = restore_generator(run, gan.generator)
    assert_equal(variables, jax.tree.map(np.asarray, state.average))
