"""Measures in the course of a run: the table, the best checkpoint, and resuming after any stop."""

import contextlib
import json
from dataclasses import replace

import jax
import numpy as np
import pytest
from jax import random

from cgan_jax.errors import ConfigError, RunError
from cgan_jax.reporting import measures as measures_module
from cgan_jax.reporting.callbacks import TensorBoard
from cgan_jax.reporting.measures import BestCheckpoint, MeasuresTable
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import read_measures
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.callbacks import Callback, EpochEnd
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from tests.helpers import first_fast

# Such that neither the first nor the last epoch of the tiny run is the best.
TARGET = 128


def measure(images, labels):
    """Cheap ones, that change from epoch to epoch."""
    mean = float(images.mean())
    return {"mean": mean, "badness": abs(mean - TARGET), "zeros": float((labels == 0).mean())}


class Stop(Callback):
    """Ends training after so many epochs: saved, or as a kill would, before the save."""

    def __init__(self, epochs, killed=False):
        self.left, self.killed = epochs, killed

    def on_epoch_end(self, epoch):
        self.left -= 1
        if self.left == 0 and self.killed:
            raise KeyboardInterrupt

    def should_stop(self):
        return self.left <= 0


@pytest.fixture(autouse=True)
def quick_plots(monkeypatch):
    """A plot takes longer than an epoch here; only the run `whole` draws them."""
    monkeypatch.setattr(measures_module, "plot_measures", lambda *args: args[-1].touch())


def run_on(config, dataset, folder, *others, stop=None, every=1):
    gan = GAN.from_config(replace(config, epochs=6))  # one for all, so that it compiles once
    run = RunFolder.start(folder, config, dataset.class_names)
    stop = stop or Stop(10**9)
    with Checkpoints(run.checkpoints) as checkpoints:
        state = None
        if checkpoints.latest() is not None:
            state = checkpoints.restore(jax.eval_shape(gan.init, random.key(0)))
        return run, train(
            gan,
            config,
            dataset,
            state=state,
            callbacks=[
                MeasuresTable(gan, run, measure, every, n_images=30),
                BestCheckpoint(run, by="badness"),
                *(other(run) for other in others),
                stop,
            ],
            checkpoints=checkpoints,
            checkpoint_every=2,
        )


def test_the_order_of_callbacks_does_not_matter(whole, config, tiny_dataset, tmp_path):
    """All get the measures of all, one of the user's own among them, after every epoch."""

    class Own(Callback):
        def __init__(self):
            self.seen = []

        def measure(self, epoch):
            return {"doubled": 2.0 * epoch.epoch}

        def on_epoch_end(self, epoch):
            self.seen.append(dict(epoch.measures))

    gan = GAN.from_config(config)
    run, own = RunFolder.start(tmp_path / "run", config, tiny_dataset.class_names), Own()
    best, table = BestCheckpoint(run, "badness"), MeasuresTable(gan, run, measure, 1, n_images=30)
    train(gan, config, tiny_dataset, callbacks=[own, best, table])
    rows, expected = read_measures(run.measures), read_measures(whole.measures)
    assert [row.pop("doubled") for row in rows] == [2, 4, 6, 8, 10, 12]
    assert rows == expected
    assert [row["badness"] for row in own.seen] == pytest.approx([r["badness"] for r in rows])
    jax.tree.map(np.testing.assert_array_equal, arrays(run), arrays(whole))


def test_the_best_by_an_unknown_measure_is_refused(config, tiny_dataset, tmp_path):
    gan = GAN.from_config(config)
    run = RunFolder.start(tmp_path / "run", config, tiny_dataset.class_names)
    callbacks = [BestCheckpoint(run, "fid"), MeasuresTable(gan, run, measure, 1, n_images=30)]
    with pytest.raises(ConfigError, match="by 'fid'\nexpected one of .*mean, badness, zeros"):
        train(gan, config, tiny_dataset, callbacks=callbacks)


@pytest.fixture(scope="module")
def config(tiny_config):
    return replace(tiny_config, epochs=6)


@pytest.fixture(scope="module")
def whole(config, tiny_dataset, tmp_path_factory):
    run, _ = run_on(config, tiny_dataset, tmp_path_factory.mktemp("runs") / "whole", TensorBoard)
    return run


def arrays(run):
    return jax.tree.map(np.asarray, restore_run(run, best=True)[1])


def test_one_row_per_epoch_and_the_lowest_is_the_best(whole):
    rows = read_measures(whole.measures)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows] == [6, 12, 18, 24, 30, 36]
    assert list(rows[0]) == ["epoch", "step", "mean", "badness", "zeros"]
    assert rows[0]["zeros"] == pytest.approx(1 / 3)
    best = min(rows, key=lambda row: row["badness"])
    assert int(arrays(whole).step) == best["step"]
    about = json.loads((whole.best / "measure.json").read_text())
    assert about.keys() == {"epoch", "badness"} and about["epoch"] == best["epoch"]
    assert float(f"{about['badness']:.9g}") == best["badness"]  # the table has nine digits
    assert {path.name for path in whole.best.iterdir()} == {"measure.json", str(int(best["step"]))}
    assert (whole.path / "measures.png").stat().st_size > 5_000
    assert not list(whole.path.glob(".best*"))


def test_the_best_is_what_was_measured(whole):
    generator = load_generator(whole.path, best=True)
    labels = np.arange(30) % 3
    row = min(read_measures(whole.measures), key=lambda row: row["badness"])
    assert generator.step == row["step"]
    measures = measure(generator.generate(labels), labels)
    assert measures["badness"] == pytest.approx(row["badness"], rel=1e-6)
    assert load_generator(whole.path).step == 36


def test_measuring_does_not_change_training(whole, config, tiny_dataset):
    gan = GAN.from_config(config)
    jax.tree.map(
        np.testing.assert_array_equal, restore_run(whole)[1], train(gan, config, tiny_dataset)
    )


@pytest.mark.parametrize(("epochs", "killed"), first_fast((3, True), (1, False), (5, True)))
def test_a_resumed_run_is_the_uninterrupted_one(
    epochs, killed, whole, config, tiny_dataset, tmp_path
):
    """Bitwise: the table, the best and the latest state. A kill loses the epochs since a save."""
    with pytest.raises(KeyboardInterrupt) if killed else contextlib.nullcontext():
        run_on(config, tiny_dataset, tmp_path / "run", stop=Stop(epochs, killed))
    run, state = run_on(config, tiny_dataset, tmp_path / "run")
    assert run.measures.read_bytes() == whole.measures.read_bytes()
    jax.tree.map(np.testing.assert_array_equal, arrays(run), arrays(whole))
    jax.tree.map(np.testing.assert_array_equal, state, restore_run(whole)[1])


def test_rows_of_every_second_epoch(config, tiny_dataset, tmp_path):
    run, _ = run_on(replace(config, epochs=5), tiny_dataset, tmp_path / "run", every=2)
    assert [row["epoch"] for row in read_measures(run.measures)] == [2, 4]


def test_tensorboard_has_the_measures(whole):
    (events,) = (whole.path / "events").iterdir()
    assert events.read_bytes().count(b"measures/badness") == 6
    assert b"measures/step" not in events.read_bytes()


@pytest.mark.slow
def test_old_best_stays_until_the_next_is_complete(
    whole, config, tiny_dataset, tmp_path, monkeypatch
):
    """The disk is full at the second best."""
    saves = []
    save = Checkpoints.save

    def full(self, step, state, source=None):
        if self._directory.name == ".best.new":
            saves.append(step)
            if len(saves) == 2:
                raise RunError("no space")
        save(self, step, state, source)

    monkeypatch.setattr(Checkpoints, "save", full)
    with pytest.raises(RunError, match="no space"):
        run_on(config, tiny_dataset, tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    assert int(arrays(run).step) == saves[0]
    monkeypatch.undo()
    run, _ = run_on(config, tiny_dataset, tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, arrays(run), arrays(whole))


def test_a_kill_between_the_two_renames_loses_nothing(config, tiny_dataset, tmp_path):
    run, _ = run_on(replace(config, epochs=2), tiny_dataset, tmp_path / "run")
    before = arrays(run)
    run.best.rename(run.path / ".best.old")
    run, _ = run_on(replace(config, epochs=3), tiny_dataset, tmp_path / "run", every=4)
    jax.tree.map(np.testing.assert_array_equal, arrays(run), before)


@pytest.mark.parametrize("damage", ["epoch,step,a\n1,six,2\n", "a,b\n1,2\n", "epoch,step\n1\n"])
def test_a_damaged_table_is_an_error(damage, config, tiny_dataset, tmp_path):
    run, _ = run_on(replace(config, epochs=1), tiny_dataset, tmp_path / "run")
    run.measures.write_text(damage)
    with pytest.raises(RunError, match=r"measures.csv cannot be read: .*\nexpected rows of"):
        run_on(config, tiny_dataset, tmp_path / "run")
    assert run.measures.read_text() == damage


def test_a_best_without_its_measure_is_an_error(config, tiny_dataset, tmp_path):
    run, _ = run_on(replace(config, epochs=1), tiny_dataset, tmp_path / "run")
    (run.best / "measure.json").unlink()
    with pytest.raises(RunError, match="measure.json cannot be read"):
        run_on(config, tiny_dataset, tmp_path / "run")


def test_a_run_that_resumes_with_more_measures_keeps_its_rows(config, tiny_dataset, tmp_path):
    """As older runs on a user's own data do, which had no reference classifier."""
    run, _ = run_on(replace(config, epochs=1), tiny_dataset, tmp_path / "run")
    more = lambda images, labels: {"first": 0.5} | measure(images, labels)  # noqa: E731
    gan = GAN.from_config(replace(config, epochs=6))
    table = MeasuresTable(gan, run, more, every=1, n_images=20)
    before, state = read_measures(run.measures), restore_run(run)[1]
    end = EpochEnd(2, 12, state, np.zeros((6, 2)))
    table.on_epoch_end(replace(end, measures=table.measure(end)))
    row, new = read_measures(run.measures)
    assert np.isnan(row.pop("first")) and [row] == before
    assert list(new) == ["epoch", "step", "first", "mean", "badness", "zeros"]
    assert new["first"] == 0.5


def test_a_decline_is_a_warning(config, tiny_dataset, tmp_path, caplog):
    """After the fourth evaluation, the third that is clearly worse than the best."""
    run = RunFolder.start(tmp_path / "run", config, tiny_dataset.class_names)
    table, n_warnings = MeasuresTable(GAN.from_config(config), run, measure, every=1), []
    for epoch, coverage in enumerate((0.6, 0.3, 0.3, 0.2, 0.5), start=1):
        table.on_epoch_end(EpochEnd(epoch, 6 * epoch, None, None, {"coverage": coverage}))
        n_warnings.append(len(caplog.records))
    assert n_warnings == [0, 0, 0, 1, 1]
    message = caplog.records[0].getMessage()
    assert message.startswith("WARNING: coverage has been clearly worse than its best for 3 ")
    assert "0.2 now, 0.6 after epoch 1. The GAN may be collapsing" in message
