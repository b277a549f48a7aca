"""`python -m experiments.sample` on the committed run: what it writes, and what it refuses."""

import numpy as np
import pytest
from PIL import Image

from cgan_jax.errors import ConfigError, RunError
from cgan_jax.pictures.grids import grid
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from experiments.sample import Flags, write
from experiments.shared.choice import square
from tests.golden.make_run_folder import FOLDER
from tests.helpers import command


@pytest.fixture(scope="module")
def generator():
    return load_generator(FOLDER)


def test_a_class_by_name_as_a_grid(tmp_path, generator):
    out = tmp_path / "new" / "right.png"
    done = command("sample", FOLDER, "--label", "Right", "--n", 5, "--seed", 3, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"5 pictures after 12 steps are in {out}." in done.stdout
    expected = grid(*square(generator.generate(["right"] * 5, seed=3), "right"))
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_arrays_and_single_files(tmp_path, generator):
    labels = np.array([2, 0, 2, 0], np.int32)
    images = generator.generate(labels)
    names = generator.class_names
    write(images, labels, np.array([2, 0]), names, tmp_path / "some.npz")
    with np.load(tmp_path / "some.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"], images)
        np.testing.assert_array_equal(arrays["labels"], labels)
        assert arrays["class_names"].tolist() == ["left", "right", "round trip"]
    write(images, labels, np.array([2, 0]), names, tmp_path / "files")
    files = sorted(path.name for path in (tmp_path / "files").iterdir())
    assert files == [
        "left_00000.png",
        "left_00001.png",
        "round_trip_00000.png",
        "round_trip_00001.png",
    ]
    with Image.open(tmp_path / "files" / "round_trip_00001.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), images[2, ..., 0])


def test_names_that_make_the_same_file_name_get_their_numbers(tmp_path):
    images, labels = np.arange(3, dtype=np.uint8).reshape(3, 1, 1, 1), np.arange(3)
    write(images, labels, labels, ("a", "A", "+"), tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["0_a_00000.png", "1_a_00000.png", "2_00000.png"]


def test_pictures_of_one_class_make_a_square():
    rows, names = square(np.zeros((7, 4, 4, 1), np.uint8), "left")
    assert rows.shape == (3, 3, 4, 4, 1)
    assert names == ["left", "", ""]
    assert (rows[2, 1:] == 255).all() and (rows[2, 0] == 0).all()
    rows, names = square(np.zeros((1000, 4, 4, 1), np.uint8), "left")
    assert rows.shape[:2] == (50, len(names)) == (50, 20)  # no wider than a screen


def test_truncation_keeps_latent_numbers_in_bounds(generator):
    """In the limit all pictures of a class are those of the latent point 0."""
    pictures = generator.generate([1] * 8, truncation=1e-6)
    assert (pictures == pictures[0]).all()
    assert np.ptp(generator.generate([1] * 8).astype(int), axis=0).max() > 0
    wide = generator.generate([1] * 8, truncation=50.0)
    assert not np.array_equal(wide, pictures)
    for bad in (0, -1.0, float("nan"), "0.5", True):
        with pytest.raises(ConfigError, match="truncation must be a number above 0"):
            generator.generate([1], truncation=bad)


def test_a_step_may_be_chosen(tiny_config, tiny_dataset, tmp_path):
    run = RunFolder.start(tmp_path / "run", tiny_config, tiny_dataset.class_names)
    gan = GAN.from_config(tiny_config)
    with Checkpoints(run.checkpoints) as checkpoints:
        train(gan, tiny_config, tiny_dataset, checkpoints=checkpoints, checkpoint_every=1)
    assert [load_generator(run.path, step=step).step for step in (6, None, 12)] == [6, 18, 12]
    with pytest.raises(RunError, match=r"no checkpoint of step 7\nexpected one of 6, 12, 18"):
        load_generator(run.path, step=7)
    (run.checkpoints / "12" / "manifest" / "metadata").write_text("{}")
    with pytest.raises(RunError, match=r"step 12 .* is damaged\n.*\nGive another step, such as 6"):
        load_generator(run.path, step=12)


def test_without_a_best_checkpoint_one_hears_what_keeps_it():
    with pytest.raises(RunError, match=r"has no best/\n.*--eval-every.*\nOmit --best"):
        load_generator(FOLDER, best=True)


def test_flags_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    for flags, words in (
        ({"n": 0}, "n must be"),
        ({"step": -1}, "step must be"),
        ({"step": 1, "best": True}, "step does not go with --best"),
        ({"label": ()}, "there is no label"),
        ({"out": tmp_path}, "holds other files"),
        ({"out": tmp_path / "boots.JPG"}, "but .jpg files are not made"),
    ):
        with pytest.raises(ConfigError, match=words):
            Flags(FOLDER, **flags).check()
    with pytest.raises(RunError, match="File name too long"):
        Flags(FOLDER, out=tmp_path / (300 * "a")).check()


def test_a_misspelt_class_gets_the_nearest_names(tmp_path):
    done = command("sample", FOLDER, "--label", "lefft", "--out", tmp_path / "x.png")
    assert done.returncode == 2
    assert "'lefft' is no class; did you mean 'left'" in done.stderr
    assert not (tmp_path / "x.png").exists()
