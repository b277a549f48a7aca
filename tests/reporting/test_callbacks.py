"""Sample grids of a run that stops in the middle of an epoch, and the nearest training images."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import random
from PIL import Image

from cgan_jax.metrics.diversity import nearest_neighbours
from cgan_jax.pictures.grids import grid, tiles
from cgan_jax.reporting import callbacks
from cgan_jax.reporting.animation import progress_pictures
from cgan_jax.reporting.callbacks import LossesTable, SampleGrids, TensorBoard
from cgan_jax.reporting.page import write_page
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.callbacks import ChunkEnd, EpochEnd, TrainEnd, TrainStart
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from tests.helpers import StopAfter


@pytest.fixture(scope="module")
def gan(tiny_config):
    return GAN.from_config(tiny_config)


def steps_of(gan, config, dataset, path, steps=10**9):
    """Train for this many of the run's 6-step epochs' steps; the names of its sample grids."""
    run = RunFolder.start(path, config, dataset.class_names)
    stop = StopAfter(steps)
    with Checkpoints(run.checkpoints) as checkpoints:
        written = [LossesTable(run), SampleGrids(gan, run, every=2, rows=2), stop]
        train(gan, config, dataset, callbacks=written, checkpoints=checkpoints)
    return run, sorted(file.name for file in (run.path / "samples").iterdir())


def test_a_stop_in_the_middle_of_an_epoch_has_a_grid(gan, tiny_config, tiny_dataset, tmp_path):
    config = replace(tiny_config, epochs=3)
    steps_of(gan, config, tiny_dataset, tmp_path / "run", steps=6)
    # The first chunk of a training is of one step.
    run, names = steps_of(gan, config, tiny_dataset, tmp_path / "run", steps=1)
    step = load_generator(run.path).step
    assert names == ["epoch_0001.png", "stopped.png"] and step == 7
    n = len(run.class_names)
    images = load_generator(run.path).generate(np.tile(np.arange(n), 2))
    expected = grid(images.reshape(2, n, *images.shape[1:]), run.class_names)
    with Image.open(run.stopped_grid) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))

    assert len(progress_pictures(run, 2)) == 1  # an animation is of epochs alone
    page = write_page(run.path).read_text(encoding="utf-8")
    assert page.index('data-when="epoch 1 of 1"') < page.index(f'data-when="step {step}"')
    assert f"Images generated after step {step}, next to" in page

    _, names = steps_of(gan, config, tiny_dataset, run.path)
    assert names == ["epoch_0001.png", "epoch_0002.png", "epoch_0003.png"]
    assert "stopped" not in names and 'data-when="step' not in write_page(run.path).read_text()


def test_the_last_samples_stand_above_the_nearest_training_images(
    gan, tiny_config, tiny_dataset, tmp_path
):
    run = RunFolder.start(tmp_path / "run", tiny_config, tiny_dataset.class_names)
    state = jax.jit(gan.init)(random.key(0))
    grids = SampleGrids(gan, run, training=tiny_dataset.images)
    run.stopped_grid.parent.mkdir()
    grids.on_train_start(TrainStart(gan, tiny_config, state, 0, 18, 6))
    grids.on_train_end(TrainEnd(0, state))
    assert not run.nearest.exists()
    grids.on_train_end(TrainEnd(7, state))
    with Image.open(run.stopped_grid) as picture:
        samples = tiles(picture, 3, 4, 4)[..., :1]
    with Image.open(run.nearest) as picture:
        above, below = np.split(tiles(picture, 3, 8, 4)[..., :1], 2, axis=2)
    np.testing.assert_array_equal(above, samples)
    flat = samples.reshape(-1, 4, 4, 1)
    nearest = tiny_dataset.images[nearest_neighbours(flat, tiny_dataset.images).indices]
    np.testing.assert_array_equal(below.reshape(nearest.shape), nearest)


def test_a_stop_after_an_epoch_without_a_grid_has_one(gan, tiny_config, tiny_dataset, tmp_path):
    """And a stop after an epoch with a grid has no second one."""
    config = replace(tiny_config, epochs=6)
    path = tmp_path / "run"
    for steps, extra in ((6, []), (6, []), (6, ["stopped.png"])):
        run, names = steps_of(gan, config, tiny_dataset, path, steps=steps)
        saved = max((int(path.name) for path in run.checkpoints.glob("[0-9]*")), default=0)
        done = saved // 6
        assert saved % 6 == 0
        assert names == [f"epoch_000{n}.png" for n in (1, 2, 4)[: 1 + done // 2]] + extra


@pytest.mark.parametrize("grids_first", [True, False])
def test_the_events_have_the_grids_wherever_tensorboard_stands(
    grids_first, gan, tiny_config, tiny_dataset, tmp_path
):
    """Each grid once, as it is in its file, the last one too."""
    run = RunFolder.start(tmp_path / "run", tiny_config, tiny_dataset.class_names)
    both = [TensorBoard(run), SampleGrids(gan, run, every=2, rows=2)]
    train(gan, tiny_config, tiny_dataset, callbacks=both[::-1] if grids_first else both)
    (events,) = (run.path / "events").iterdir()
    data = events.read_bytes()
    grids = [path.read_bytes() for path in sorted((run.path / "samples").iterdir())]
    assert [data.count(grid) for grid in grids] == [1, 1, 1]
    assert data.count(b"samples") == 3


@pytest.mark.parametrize(
    ("epoch_seconds", "drawn"), [(60.0, [2, 4, 6, 8, 10, 10]), (1.0, [2, 8, 10]), (0.1, [2, 10])]
)
def test_plots_of_losses_take_a_small_share_of_the_time(
    tmp_path, tiny_config, monkeypatch, epoch_seconds, drawn
):
    """Each takes 0.3 seconds, so there are at least 6 from one to the next; and a last one."""
    now, epochs = [0.0], []

    def plot(losses, steps_per_epoch, path):
        now[0] += 0.3
        epochs.append(len(losses))
        path.touch()

    monkeypatch.setattr(callbacks, "plot_losses", plot)
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now[0])
    table = LossesTable(RunFolder.start(tmp_path / "run", tiny_config, ("a", "b", "c")), 2)
    table.on_train_start(TrainStart(None, tiny_config, None, 0, 10, 1))
    for epoch in range(1, 11):
        now[0] += epoch_seconds
        losses = np.full((1, 2), 0.5)
        table.on_chunk_end(ChunkEnd(epoch - 1, 0, epoch, None, losses, epoch_seconds))
        table.on_epoch_end(EpochEnd(epoch, epoch, None, losses))
    table.on_train_end(TrainEnd(10, None))
    assert epochs == drawn
