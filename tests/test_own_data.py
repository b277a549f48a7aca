"""`python -m experiments.train` and the example to copy, as a user runs them, on small networks."""

import sys

import numpy as np
import pytest
from PIL import Image

from cgan_jax.errors import RunError
from cgan_jax.run_folder import RunFolder
from cgan_jax.sampling import load_generator
from experiments import digits_cgan, sample, tiny, train, training_flags


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
    """Twelve coloured pictures in two classes, of several sizes."""
    for i in range(12):
        file = tmp_path / "photos" / ("frog", "toad")[i % 2] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20 + i, 30 - i), (20 * i, 90, 30)).save(file)
    return tmp_path / "photos"


def test_a_folder_of_pictures_is_trained_sampled_and_gone_on_with(
    invoke, photos, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(training_flags, "REPORT", tiny.CONFIG)
    flags = (photos, "--img-size", 8, "--batch-size", 4, "--latent-dim", 5, "--eval-every", 1)
    invoke(train, *flags, "--epochs", 1)
    assert "Finished: 3 steps" in capsys.readouterr().out
    run = RunFolder.open(tmp_path / "runs" / "photos")
    assert run.class_names == ("frog", "toad")
    assert (run.config.model.img_size, run.config.model.channels) == (8, 3)
    assert (run.data["name"], run.data["n_images"]) == ("photos", 12)
    with Image.open(run.path / "real.png") as real, Image.open(run.sample_grid(1)) as grid:
        assert real.size == grid.size
        assert np.ptp(np.asarray(real), axis=-1).max() > 50  # there is colour in it
    assert "pixel_fd" in run.measures.read_text()
    assert run.best.is_dir()

    invoke(train, *flags, "--epochs", 2)
    assert "Finished: 3 steps" in capsys.readouterr().out
    assert load_generator(run.path).step == 6
    invoke(sample, run.path, "--label", "toad", "--n", 4, "--out", "toads.npz")
    with np.load("toads.npz") as arrays:
        assert arrays["images"].shape == (4, 8, 8, 3)

    (photos / "toad" / "1.jpg").unlink()
    with pytest.raises(RunError, match="other data .12 images of photos, .* -> 11 images"):
        invoke(train, *flags, "--epochs", 3)


def test_what_sample_writes_can_be_trained_on(invoke, tmp_path, capsys):
    images = np.zeros((8, 4, 4, 1), np.uint8)
    labels, names = np.arange(8, dtype=np.int32) % 2, ("frog", "toad")
    sample.write(images, labels, np.arange(2), names, tmp_path / "fakes.npz")
    invoke(train, tmp_path / "fakes.npz", "--batch-size", 4, "--dry-run")
    out = capsys.readouterr().out
    assert "8 images from the file" in out
    assert "runs/fakes" in out


def test_fashion_mnist_is_the_reports(fashion_mnist):
    flags = train.Flags(data="fashion_mnist")
    np.testing.assert_array_equal(flags.load().images, fashion_mnist.images)
    assert flags.config().for_data(fashion_mnist) == training_flags.REPORT


def test_the_example_to_copy(invoke, tmp_path, capsys):
    images = digits_cgan.digits().images
    assert (images.shape, images.min(), images.max()) == ((1797, 8, 8, 1), 0, 255)
    invoke(digits_cgan, "--epochs", 1)
    assert "Finished: 29 steps" in capsys.readouterr().out
    assert load_generator(tmp_path / "runs" / "digits").generate(["7"]).shape == (1, 8, 8, 1)
