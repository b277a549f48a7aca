"""`python -m experiments.train` and the example to copy, run as by a user, on small networks."""

import json
import logging
import re
import shlex
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from cgan_jax.config import ModelConfig, TrainConfig
from cgan_jax.data import SPECS, Dataset
from cgan_jax.data.holdout import hold_out
from cgan_jax.errors import ConfigError, DataError, RunError
from cgan_jax.metrics import own_reference
from cgan_jax.metrics.classifier import Recipe
from cgan_jax.presets import PRESETS
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.restore import restore_run
from cgan_jax.runs.tables import read_class_counts, read_measures
from cgan_jax.sampling.generator import load_generator
from experiments import digits_cgan, evaluate, sample, train
from experiments.proofs import tiny
from experiments.shared import training, training_flags
from experiments.shared.command_line import parse
from experiments.shared.data_flags import DataFlags
from experiments.shared.evaluation_data import Source, source_of
from experiments.shared.reading import reading_bar
from experiments.shared.training import PaceTimer

AUGMENT = "try --augment color,translation,cutout"


@pytest.fixture
def invoke(monkeypatch, tmp_path):
    """Calls a command's main, in the folder tmp_path, as the command line does."""
    monkeypatch.setenv("CGAN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(module, *flags):
        monkeypatch.setattr(sys, "argv", [module.MODULE, *map(str, flags)])
        module.main()

    return call


@pytest.fixture
def photos(tmp_path):
    """Twelve images in colour and of several sizes, in two classes; one is transparent in part."""
    for i in range(12):
        file = tmp_path / "photos" / ("frog", "toad")[i % 2] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + i, 30 - i), (20 * i, 90, 30)).save(file)
    clear = Image.new("RGBA", (20, 30))
    clear.paste((20, 90, 30), (5, 5, 15, 25))
    clear.save(file.with_suffix(".png"))
    file.unlink()
    return tmp_path / "photos"


def test_a_folder_of_images_is_trained_and_other_images_are_refused(
    invoke, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training_flags, "preset", lambda name: tiny.CONFIG)
    flags = (photos, "--img-size", 8, "--batch-size", 4, "--latent-dim", 5, "--eval-every", 1)
    invoke(train, *flags, "--epochs", 1)
    out = capsys.readouterr().out
    assert "Finished: 3 steps" in out
    assert "Only 12 images" in out
    run = RunFolder.open(tmp_path / "runs" / "photos")
    assert run.class_names == ("frog", "toad")
    assert (run.config.model.img_size, run.config.model.channels) == (8, 3)
    assert (run.data["name"], run.data["n_images"]) == ("photos", 12)
    with Image.open(run.path / "real.png") as real, Image.open(run.sample_grid(1)) as grid:
        assert real.size == grid.size
        assert np.ptp(np.asarray(real), axis=-1).max() > 50  # there is colour in it
    assert "The reference classifier recognises" in out
    (measured,) = read_measures(run.measures)
    assert list(measured) == ["epoch", "step", "gan_test", "fcd", "pixel_fd"]
    shutil.rmtree(run.checkpoints)
    run.measures.unlink()  # as after a kill before the last save, when all losses were written
    invoke(train, "--workdir", "runs/photos")
    assert read_measures(run.measures) == [measured]
    assert read_class_counts(run.class_counts, run.class_names) == [6, 6]
    assert run.nearest.exists()
    assert run.best.is_dir()

    assert load_generator(run.path).generate(["toad"]).shape == (1, 8, 8, 3)

    invoke(train, "--workdir", "runs/photos", "--epochs", 2)  # the folder knows the rest
    out = capsys.readouterr().out
    assert "Resuming in runs/photos: step 3 of 6" in out
    assert "Only 12 images" not in out  # a run's settings stay

    (photos / "toad" / "1.jpg").unlink()
    with pytest.raises(RunError, match="other data: 12 images of photos, .* -> 11 images"):
        invoke(train, *flags, "--epochs", 3)


@pytest.mark.slow
def test_a_run_starts_from_another_and_is_resumed_without_it(
    invoke, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training_flags, "preset", lambda name: tiny.CONFIG)
    flags = (photos, "--img-size", 8, "--batch-size", 4, "--latent-dim", 5, "--epochs", 1)
    invoke(train, *flags, "--workdir", "first")
    monkeypatch.setattr(training, "PaceTimer", lambda: PaceTimer(seconds=0))
    new = (*flags, "--workdir", "second", "--init-from", "first", "--holdout", 0.1)
    invoke(train, *new, "--dry-run")
    assert not Path("second").exists()
    invoke(train, *new, "--lr", 1e-3)
    text = capsys.readouterr().out
    assert text.count("Starting at the weights of first after 3 steps: ") == 2
    assert "Training in second: 1 epoch, 3 steps" in text
    starts = [restore_run(RunFolder.open("second"), step=step)[1].gen.params for step in (0, 3)]
    last = restore_run(RunFolder.open("first"))[1].gen.params
    jax.tree.map(np.testing.assert_array_equal, starts[0], last)
    assert not np.array_equal(starts[1]["output"]["kernel"], last["output"]["kernel"])

    with pytest.raises(ConfigError, match="second holds a run that started from first\nexpected"):
        invoke(train, "--workdir", "second", "--init-from", "other")
    with pytest.raises(ConfigError, match="first holds a run that drew its own weights"):
        invoke(train, "--workdir", "first", "--init-from", "second")
    shutil.rmtree("second/checkpoints")
    Path("second/checkpoints/0.orbax-checkpoint-tmp").mkdir(parents=True)  # a save that was cut
    Path("second/losses.csv").unlink()
    invoke(train, "--workdir", "second")
    assert "Starting at the weights of first" in capsys.readouterr().out
    Path("first").rename("moved")
    invoke(train, "--workdir", "second", "--epochs", 2)
    assert "Resuming in second: step 3 of 6" in capsys.readouterr().out
    command = Path("second/command.txt").read_text()
    assert "--init-from first" in command
    assert "--holdout 0.1" in command
    assert "--alpha-background white" in command  # as was decided for all pictures


def test_the_run_of_some_data_is_looked_for_by_their_name_alone(tmp_path, monkeypatch):
    """Not by the value of a flag, whose run would give its settings to the new one."""
    monkeypatch.chdir(tmp_path)
    RunFolder.start("runs/other", tiny.CONFIG, tiny.CLASS_NAMES)
    for words in ("photos --init-from runs/other", "--dry-run photos --preset other"):
        assert train.Flags.folder(words.split()) is None
    for words in ("other", "--dry-run other", "--no-balance other", "--lr=1 other", "--lr 1 other"):
        assert train.Flags.folder(words.split()) == Path("runs/other")


def test_too_few_for_a_batch_are_refused(invoke, photos):
    with pytest.raises(ConfigError, match="batch_size must be at most the 12 training images"):
        invoke(train, photos, "--img-size", 8)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("counts", "pixel", "settings", "expected"),
    [
        ((3000, 1000), 0, {}, [AUGMENT]),
        ((3001, 1000), 255, {}, [f"{AUGMENT} --background 1", "1,000 images of b to 3,001 of a"]),
        ((3001, 1000), 0, {"augment": "color", "balance": True}, []),
        ((5000, 5000), 0, {}, []),
        ((9999, 1), 0, {}, ["from 1 image of b to 9,999 of a: --balance"]),
    ],
)
def test_few_and_unbalanced_images_get_hints(counts, pixel, settings, expected):
    images = np.full((sum(counts), 2, 2, 1), pixel, np.uint8)
    dataset = Dataset.from_arrays(images, np.repeat([0, 1], counts), ["a", "b"])
    lines = list(train.hints(TrainConfig(**settings), dataset))
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line
        assert ("--background" in line) == ("--background" in words)


def test_fashion_mnist_gets_no_hint(fashion_mnist):
    assert not list(train.hints(PRESETS["report"], fashion_mnist))


def test_the_npz_of_sample_can_be_trained_on(tmp_path):
    images = np.arange(8 * 16, dtype=np.uint8).reshape(8, 4, 4, 1)
    labels, names = np.arange(8, dtype=np.int32) % 2, ("frog", "toad")
    sample.write(images, np.arange(2), names, tmp_path / "fakes.npz")
    dataset = train.Flags(data=str(tmp_path / "fakes.npz")).load()
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert dataset.class_names == names


def test_fashion_mnist_matches_the_report(fashion_mnist):
    job = training_flags.parse_job(train.Flags, train.MODULE, ["fashion_mnist"])
    np.testing.assert_array_equal(job.own.load().images, fashion_mnist.images)
    assert job.config.for_data(fashion_mnist) == PRESETS["report"]


@pytest.mark.parametrize("size", [(), ("--img-size", "32")])
def test_networks_may_be_deeper_than_fashion_mnists_size_allows(size):
    widths = ["--generator-widths", "8", "8", "8", "--discriminator-widths", "8", "8", "8"]
    words = ["photos", "--preset", "residual", *widths, *size]
    config = training_flags.parse_job(train.Flags, train.MODULE, words).config
    images = np.zeros((4, 32, 32, 1), np.uint8)
    photos = Dataset.from_arrays(images, np.arange(4) % 2, ["a", "b"], name="photos")
    assert config.for_data(photos).model.img_size == 32


def test_a_size_that_does_not_halve_is_refused_before_data_are_read():
    words = ["photos", "--preset", "residual", "--img-size", "30"]
    with pytest.raises(ConfigError, match="img_size 30 cannot be halved 2 times"):
        training_flags.parse_job(train.Flags, train.MODULE, words)


def test_digits_run_from_black_to_white():
    images = digits_cgan.digits().images
    assert (images.shape, images.min(), images.max()) == ((1797, 8, 8, 1), 0, 255)


@pytest.mark.slow
def test_the_example_to_copy(invoke, tmp_path, capsys):
    invoke(digits_cgan, "--epochs", 1)
    assert "Finished: 29 steps" in capsys.readouterr().out
    assert load_generator(tmp_path / "runs" / "digits").generate(["7"]).shape == (1, 8, 8, 1)


@pytest.fixture
def digits_npz(tmp_path):
    """The first 520 of scikit-learn's digits, which are enough for some to be held out."""
    data = digits_cgan.digits()
    arrays = {"images": data.images[:520], "labels": data.labels[:520]}
    np.savez(tmp_path / "digits.npz", **arrays)
    return tmp_path / "digits.npz"


class Pixels(nn.Module):
    """A classifier that compiles in no time."""

    n_classes: int
    mirror: bool

    @nn.compact
    def __call__(self, images, *, train):
        x = images[:, ::2, ::2].reshape(len(images), -1)
        return x, nn.Dense(self.n_classes)(x)


@pytest.mark.slow
def test_what_is_held_out_is_recorded_and_measured_against(
    invoke, digits_npz, tmp_path, monkeypatch, capsys
):
    """Data that have moved are found, and other data refused."""
    monkeypatch.setattr(training_flags, "preset", lambda name: tiny.CONFIG)
    monkeypatch.setattr(own_reference, "ReferenceNet", Pixels)
    monkeypatch.setattr(own_reference, "default_recipe", lambda data: Recipe(1, batch_size=64))
    invoke(train, digits_npz, "--epochs", 1, "--batch-size", 100)
    out = capsys.readouterr().out
    assert "Holding out 50 of 520 pictures" in out and "5 steps" in out
    run = RunFolder.open(tmp_path / "runs" / "digits")
    assert "--holdout 0.1" in run.command.read_text()
    training, held_out = hold_out(train.Flags(data=str(digits_npz)).load(), 0.1, run.config.seed)
    assert run.data == training.identity() | {"test": held_out.identity()}

    moved = digits_npz.rename(tmp_path / "moved.npz")
    for data, reason in ((digits_npz, "No such file"), ("digits", "no folder, file or .*'$")):
        run.command.write_text(run.command.read_text().replace(str(digits_npz), str(data)))
        for command, words in ((evaluate, [run.path]), (train, ["--workdir", run.path])):
            with pytest.raises(DataError, match="as DATA to train, with --data to eval") as caught:
                invoke(command, *words)
            assert re.search(reason, str(caught.value).splitlines()[0])
    with pytest.raises(ConfigError, match="img_size must be"):
        invoke(train, "--workdir", run.path, "--img-size", "8x")
    invoke(evaluate, run.path, "--fast", "--data", moved)
    out = capsys.readouterr().out
    assert "Training a reference classifier on 470 pictures" in out
    assert "50 fakes and as many test images instead of 2,000" in out
    assert "Test images: held out of training (--holdout 0.1)" in out
    stamp = json.loads((run.path / "evaluation_fast/evaluation.json").read_text())["stamp"]
    assert stamp["protocol"]["class_counts"] == np.bincount(held_out.labels).tolist()
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "Adapted to these data" in page and "held out of training" in page

    np.savez(moved, images=training.images, labels=1 - training.labels % 2)
    with pytest.raises(RunError, match="was trained on other images: 470"):
        invoke(evaluate, run.path, "--data", moved)


def test_a_run_from_before_holdouts_goes_on_with_all_images(digits_npz, tmp_path):
    """Whether it recorded which they are or not; but a share that is asked for decides."""
    flags = train.Flags(data=str(digits_npz))
    whole = flags.load()
    for data in (whole.identity(), None):
        run = RunFolder(tmp_path, tiny.CONFIG.for_data(whole), whole.class_names, data=data)
        assert flags.parts(0, run).held_out is None
        share = replace(flags, holdout=0.2).parts(0, run)
        assert share.held_out.identity() == hold_out(whole, 0.2, 0)[1].identity()
    assert len(flags.parts(0).held_out) == 50
    assert replace(flags, holdout=0).parts(0).held_out is None
    other = replace(run, data={"sha256": "of others"})
    assert len(flags.parts(0, other).held_out) == 50


def test_a_test_part_of_the_data_is_measured_against_and_nothing_held_out(digits_npz, tmp_path):
    arrays = dict(np.load(digits_npz))
    arrays |= {f"test_{name}": array[:80] for name, array in arrays.items()}
    np.savez(tmp_path / "parts.npz", **arrays)
    flags = train.Flags(data=str(tmp_path / "parts.npz"))
    parts = flags.parts(0)
    assert (len(parts.training), parts.held_out) == (520, None)
    record, config = flags.identity(parts), tiny.CONFIG.for_data(parts.training)
    run = RunFolder(tmp_path, config, parts.training.class_names, data=record)
    data = Source(flags).load(run)
    assert (len(data.training), len(data.test)) == (520, 80)
    assert data.about_test == "80 of them copies of training images"
    assert record == data.training.identity() | {"test": data.test.identity()}
    assert flags.identity(parts, run) == data.training.identity()  # its record stays


@pytest.mark.parametrize(
    ("size", "preset", "expected"),
    [
        ((8, 4), "residual", (8, 4)),
        ((6, 4), "residual", (4, 4)),  # as 6 cannot be halved twice
        ((6, 4), "report", (6, 4)),
    ],
)
def test_pictures_of_one_size_keep_it_if_the_networks_can(tmp_path, caplog, size, preset, expected):
    """A run that trains on squares, as older ones do, keeps them; and tests have the same size."""
    images, labels = np.zeros((20, *size), np.uint8), np.arange(20) % 2
    parts = {"images": images, "labels": labels, "test_images": images, "test_labels": labels}
    np.savez(tmp_path / "set.npz", **parts)
    flags, config = DataFlags(str(tmp_path / "set.npz")), PRESETS[preset]
    caplog.set_level(logging.INFO)
    training = flags.parts(0, config=config).training
    told = "set: img_size 6x4 cannot be halved 2 times: reading squares" in caplog.text
    assert told == (size != expected)
    assert training.images.shape[1:3] == expected
    assert flags.load_test(training).images.shape[1:3] == expected
    model = replace(config.model, img_size=4, channels=1, n_classes=2)
    older = RunFolder(tmp_path, replace(config, model=model), ("0", "1"))
    older.command.write_text(f"python -m experiments.train {flags.data}\n")
    data = source_of(older).load(older)
    assert data.training.images.shape == data.test.images.shape == (20, 4, 4, 1)


def test_other_test_images_than_a_run_recorded_are_refused(tmp_path):
    """A test part's or those held out; an older run, without a record, is measured."""
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), np.uint8)
    arrays = {"images": images, "labels": np.arange(20) % 2}
    test = {"test_images": images[:6], "test_labels": np.arange(6) % 2}
    for i, (parts, words) in enumerate(((arrays | test, []), (arrays, ["--holdout", "0.3"]))):
        file = tmp_path / f"{i}.npz"
        np.savez(file, **parts)
        flags = parse(DataFlags, train.MODULE, [str(file), *words])
        split = flags.parts(tiny.CONFIG.seed)
        run = RunFolder.start(
            tmp_path / f"run-{i}", tiny.CONFIG, ("0", "1"), data=flags.identity(split)
        )
        run.command.write_text(shlex.join(["python", "-m", train.MODULE, str(file), *words]))
        run = RunFolder.open(run.path)
        assert len(source_of(run).load(run).test) == 6

        name = "images" if words else "test_images"
        changed = parts[name].copy()
        tested = split.held_out.images[0] if words else changed[0]
        changed[(changed == tested).all((1, 2, 3)), 0, 0] ^= 1
        np.savez(file, **parts | {name: changed})
        with pytest.raises(RunError, match=f"run-{i} recorded other test images: 6, SHA.* has 6"):
            source_of(run).load(run)
        older = replace(run, data=split.training.identity())
        assert len(source_of(older).load(older).test) == 6
    np.savez(tmp_path / "0.npz", **arrays)
    run = RunFolder.open(tmp_path / "run-0")
    with pytest.raises(RunError, match="recorded other test images: 6, .* the data have none"):
        source_of(run).load(run)


def test_where_the_data_of_a_run_are_and_which_are_held_out(tmp_path):
    """Runs of equal sources are measured together."""
    model = replace(tiny.CONFIG.model, n_classes=2)
    names = ("a", "b")

    def source(command, seed=3, **options):
        config = replace(tiny.CONFIG, model=model, seed=seed)
        run = RunFolder(tmp_path, config, names, data={"sha256": "x"})
        run.command.write_text(f"python -m experiments.{command}\n")
        return source_of(run, **options)

    flags = DataFlags("set.npz", img_size="8", channels=1, holdout=0.1)
    words = "train set.npz --lr 0.1 --channels 1 --holdout 0.1 --img-size 8 --workdir runs/x"
    assert source(words) == Source(flags, seed=3, sha256="x")
    assert source(words, data="new.npz").flags == replace(flags, data="new.npz")
    fixed = [source(f"{words} --holdout-seed 1", seed=seed) for seed in (3, 4)]
    assert fixed[0] == fixed[1]
    assert source("train set.npz --skip-unreadable").flags.skip_unreadable
    with pytest.raises(RunError, match="not the command that trained it"):
        source("digits_cgan")
    known = replace(tiny.CONFIG, dataset="fashion_mnist", model=ModelConfig())
    of_report = RunFolder(tmp_path / "report", known, SPECS["fashion_mnist"].class_names)
    assert source_of(of_report, "fashion_mnist") == source_of(of_report)
    expected = DataFlags("set.npz", img_size="4", channels=1)
    assert source("digits_cgan", data="set.npz").flags == expected


def test_without_images_to_hold_out_half_of_them_stand_in(photos, tmp_path):
    flags = train.Flags(data=str(photos), img_size="8")
    whole = flags.load()
    run = RunFolder(tmp_path, tiny.CONFIG, whole.class_names, data=whole.identity())
    data = Source(flags, sha256=whole.identity()["sha256"]).load(run)
    assert (len(data.training), len(data.test)) == (6, 6)
    assert "the run held none out" in data.about_test


def test_a_bar_shows_how_much_is_read(monkeypatch, capsys):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with reading_bar() as on_progress:
        time.sleep(1.05)  # what is faster needs no bar
        on_progress(30, 40)
    assert "Reading images  75%|" in capsys.readouterr().err
