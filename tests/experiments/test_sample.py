"""`python -m experiments.sample` on the committed run: what it writes, and what it refuses."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgan_jax.data import load_folder
from cgan_jax.errors import ConfigError, RunError
from cgan_jax.pictures.grids import grid
from cgan_jax.runs.checkpoint import Checkpoints
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import load_generator
from cgan_jax.training.gan import GAN
from cgan_jax.training.loop import train
from experiments.report import Flags as ReportFlags
from experiments.sample import MODULE, Flags, main, write
from experiments.shared.choice import Checkpoint, class_ids, square
from experiments.shared.command_line import parse
from tests.golden.make_run_folder import FOLDER
from tests.helpers import check_flags, command


@pytest.fixture(scope="module")
def generator():
    return load_generator(FOLDER)


def test_a_class_by_name_as_a_grid(tmp_path, generator):
    out = tmp_path / "new" / "right.png"
    done = command("sample", FOLDER, "--label", "Right", "--n", 5, "--seed", 3, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"Wrote 5 pictures after 12 steps to {out}." in done.stdout
    expected = grid(*square(generator.generate(["right"] * 5, seed=3), "right"))
    with Image.open(out) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_arrays_and_single_files(tmp_path, generator):
    labels = np.array([2, 0, 2, 0], np.int32)
    images = generator.generate(labels)
    names = generator.class_names
    write(images, np.array([2, 0]), names, tmp_path / "some.npz")
    with np.load(tmp_path / "some.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"], images)
        np.testing.assert_array_equal(arrays["labels"], labels)
        assert arrays["class_names"].tolist() == ["left", "right", "round trip"]
    write(images, np.array([2, 0]), names, tmp_path / "files")
    dataset = load_folder(tmp_path / "files")  # as train does
    np.testing.assert_array_equal(dataset.images, images[[1, 3, 0, 2]])
    assert dataset.class_names == ("left", "round trip")
    assert dataset.labels.tolist() == [0, 0, 1, 1]


def test_a_repeated_class_gets_all_its_files(tmp_path, generator):
    images = generator.generate([2, 2], n=2)
    write(images, np.array([2, 2]), generator.class_names, tmp_path)
    files = sorted(tmp_path.glob("*/*"))
    assert [path.name for path in files] == [f"0000{i}.png" for i in range(4)]
    for path, image in zip(files, images, strict=True):
        with Image.open(path) as picture:
            np.testing.assert_array_equal(np.asarray(picture), image[..., 0])


@pytest.mark.parametrize(
    "words",
    [["--label", "left", "2"], ["--label", "left", "--label", "2"], ["--label=left", "--label=2"]],
)
def test_several_labels_after_one_flag_or_several(words):
    flags = parse(Flags, MODULE, [str(FOLDER), *words])
    assert class_ids(flags.label, ("left", "right", "round trip")).tolist() == [0, 2]


def test_home_is_expanded_in_paths(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = parse(Flags, MODULE, ["~/run", "--out=~/boots.png"])
    assert (flags.run, flags.out) == (tmp_path / "run", tmp_path / "boots.png")
    flags = parse(ReportFlags, "experiments.report", ["~/one", "two"])
    assert flags.runs == (tmp_path / "one", Path("two"))


def test_an_existing_file_is_only_replaced_with_overwrite(tmp_path, monkeypatch, capsys):
    out = tmp_path / "one.png"
    out.write_bytes(b"old")
    words = ["sample", str(FOLDER), "--label", "left", "--n", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(RunError, match=r"one\.png exists already\n.*\n.*--overwrite"):
        main()
    assert out.read_bytes() == b"old"
    monkeypatch.setattr(sys, "argv", [*words, "--overwrite"])
    main()
    assert f"Wrote 1 picture after 12 steps to {out}." in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.format == "PNG"


def test_too_many_pictures_are_refused_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sample", str(FOLDER), "--n", "100000000000"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"n must be an integer in 1\.\.2147483647"):
        main()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("a/b", ".c ", "\u00e9 d", "..", "x" * 300), ["a_b", "c", "\u00e9 d", "_", "x" * 200]),
        (("a", "A", "?"), ["0_a", "1_A", "2__"]),
    ],
)
def test_folders_are_named_as_classes_as_far_as_files_can_be(tmp_path, names, folders):
    images = np.arange(len(names), dtype=np.uint8).reshape(-1, 1, 1, 1)
    write(images, np.arange(len(names)), names, tmp_path)
    assert sorted(path.parent.name for path in tmp_path.glob("*/*.png")) == sorted(folders)


def test_pictures_of_one_class_form_a_square():
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


def test_a_missing_best_checkpoint_names_its_flag():
    with pytest.raises(RunError, match=r"has no best/\n.*--eval-every.*\nOmit --best"):
        load_generator(FOLDER, best=True)


def test_invalid_flags_are_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    for flags, words in (
        ({"n": 0}, "n must be"),
        ({"checkpoint": Checkpoint(step=-1)}, "step must be"),
        ({"checkpoint": Checkpoint(1, True)}, "step does not go with --best"),
        ({"out": tmp_path}, "holds other files"),
        ({"out": tmp_path / "boots.JPG"}, "but .jpg files cannot"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_flags(Flags(FOLDER, **flags))
    with pytest.raises(RunError, match="File name too long"):
        Flags(FOLDER, out=tmp_path / (300 * "a")).check()


def test_a_misspelt_class_gets_suggestions(tmp_path):
    done = command("sample", FOLDER, "--label", "lefft", "--out", tmp_path / "x.png")
    assert done.returncode == 2
    assert "'lefft' is not a class; did you mean 'left'" in done.stderr
    assert not (tmp_path / "x.png").exists()
