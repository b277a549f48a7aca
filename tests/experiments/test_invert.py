"""`python -m experiments.invert`, and `animate` from what it wrote."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cgan_jax.errors import ConfigError
from cgan_jax.pictures.grids import tiles
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import load_generator
from cgan_jax.sampling.inversion import load_inverted
from experiments import animate, invert
from experiments.shared.choice import Checkpoint
from tests.golden.make_run_folder import FOLDER
from tests.helpers import check_flags


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Two images that the run's generator made, the second one in colour and wider."""
    monkeypatch.chdir(tmp_path)
    left, right = load_generator(FOLDER).generate(["left", "right"], seed=11)
    Image.fromarray(left[..., 0]).save("a.png")
    wide = np.pad(right, [(0, 0), (1, 1), (0, 0)], constant_values=9).repeat(3, -1)
    Image.fromarray(wide).save("b.png")
    return left, right


def test_a_picture_is_inverted_and_turned_into_others(pictures, monkeypatch, capsys):
    words = [FOLDER, "a.png", "b.png", "--starts", 2, "--steps", 200, "--out", "new/found.png"]
    monkeypatch.setattr(sys, "argv", ["invert", *map(str, words)])
    invert.main()
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("a.png: left at distance 0.0") and "; then " in first
    assert second.startswith("b.png: right at distance ")
    assert last.endswith("to new/found.png, their latent points to new/found.npz.")
    found = load_inverted("new/found.npz")
    np.testing.assert_array_equal(found.targets, np.stack(pictures))
    with Image.open("new/found.png") as picture:
        shown = tiles(picture, 2, 4, 4)
    np.testing.assert_array_equal(shown[0, :, ..., :1], found.targets)
    np.testing.assert_array_equal(shown[1:, :, ..., :1], found.images[:, :2].swapaxes(0, 1))

    run, file = RunFolder.open(FOLDER), (("new/found.npz",),)
    flags = animate.Flags(FOLDER, start=file, end=(("round trip",),), out=Path("x.npz"), frames=3)
    animate.animate_morph(run, flags)
    with np.load("x.npz") as arrays:
        images, ends = arrays["images"], (arrays["start"].tolist(), arrays["end"].tolist())
    assert ends == ([0, 1], [2, 2])
    latent = found.latent[:, 0]
    np.testing.assert_allclose(images[0].astype(int), found.images[:, 0], atol=1)
    expected = load_generator(FOLDER).generate("round trip", latent=latent)
    np.testing.assert_allclose(images[-1].astype(int), expected, atol=1)

    weights = np.array([[[0.5, 0.5, 0]], [[0, 1, 0]]], np.float32)
    replace(found, weights=weights).save("mixed.npz")
    flags = replace(flags, start=(("left",),), end=(("mixed.npz",),))
    animate.animate_morph(run, flags)
    with np.load("x.npz") as arrays:
        mixed = arrays["images"]
    np.testing.assert_allclose(mixed[-1, 1].astype(int), found.images[1, 0], atol=1)
    assert np.abs(mixed[-1, 0].astype(int) - found.images[0, 0]).max() > 1
    start = load_generator(FOLDER).generate("left", n=2)
    np.testing.assert_allclose(mixed[0].astype(int), start, atol=1)

    with pytest.raises(ConfigError, match="n is 3, with a file of pictures"):
        animate.animate_morph(run, replace(flags, n=3))
    with pytest.raises(ConfigError, match=r"mixed\.npz is not the only word"):
        animate.path_end((("left", "mixed.npz"),), run)
    replace(found, class_names=("a", "b", "c")).save("mixed.npz")
    with pytest.raises(ConfigError, match=r"mixed\.npz is of a run with other classes"):
        animate.path_end((("mixed.npz",),), run)


def test_what_is_transparent_becomes_what_it_was_in_training(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / "run")
    light = np.zeros((4, 4, 4), np.uint8)
    light[1:3, 1:3] = 255
    Image.fromarray(light).save(tmp_path / "light.png")
    read, corners = invert.read, []

    def stop_after(*args):
        corners.append(read(*args)[0, 0, 0, 0])
        raise StopIteration

    monkeypatch.setattr(invert, "read", stop_after)
    for trained, flags in (
        ("", ""),  # as suits the picture
        ("--alpha-background white", ""),
        ("--alpha-background white", "--alpha-background black"),
    ):
        (tmp_path / "run/command.txt").write_text(f"python -m experiments.train set {trained}")
        words = f"{tmp_path}/run {tmp_path}/light.png {flags} --out {tmp_path}/new.png"
        monkeypatch.setattr(sys, "argv", ["invert", *words.split()])
        with pytest.raises(StopIteration):
            invert.main()
    assert corners == [0, 255, 0]


def test_invalid_flags_are_refused():
    for flags, words in (
        ({"pictures": ()}, "there is no picture"),
        ({"starts": 0}, "starts must be"),
        ({"steps": 0}, "steps must be"),
        ({"seed": -1}, "seed must be"),
        ({"checkpoint": Checkpoint(1, True)}, "step does not go with --best"),
        ({"out": Path("x.npz")}, r"out is x\.npz, which a grid cannot be written to"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_flags(invert.Flags(FOLDER, **{"pictures": (Path("a.png"),), **flags}))
