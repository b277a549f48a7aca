"""Animated pictures, decoded again, and `python -m experiments.animate`, which writes them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from cgan_jax.errors import ConfigError, RunError
from cgan_jax.pictures.gif import (
    HOLD_MS,
    LAST_MS,
    morph_pictures,
    save_gif,
    save_there_and_back,
)
from cgan_jax.pictures.grids import FONT_SIZE, MARGIN, grid
from cgan_jax.reporting.animation import CAPTION_SIZE, progress_pictures
from cgan_jax.runs.folder import RunFolder
from cgan_jax.sampling.generator import load_generator
from experiments.animate import Flags, write
from experiments.shared.choice import Checkpoint
from tests.golden.make_run_folder import FOLDER
from tests.helpers import check_flags, command


def decoded(file):
    """A GIF's frames, uint8 [frames, H, W, 3], and how long each is shown."""
    with Image.open(file) as gif:
        assert (gif.format, gif.info["loop"]) == ("GIF", 0)
        every = ImageSequence.Iterator(gif)
        frames = [(frame.convert("RGB"), frame.info["duration"]) for frame in every]
    return np.stack([np.asarray(frame) for frame, _ in frames]), [shown for _, shown in frames]


@pytest.fixture
def pictures():
    """Five grey pictures of 3 x 4 noisy tiles."""
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 8, 8, 1), np.uint8)
    return [grid(frame, ["a", "b", "c", "d"]) for frame in images]


def test_a_gif_runs_there_and_back_and_pauses_at_both_ends(pictures, tmp_path):
    save_there_and_back(pictures, tmp_path / "x.gif")
    frames, durations = decoded(tmp_path / "x.gif")
    assert durations == [HOLD_MS, 50, 50, 50, HOLD_MS, 50, 50, 50]
    expected = np.stack([np.asarray(pictures[i]) for i in (0, 1, 2, 3, 4, 3, 2, 1)])
    # 32 levels lie 255 / 31 apart; black and white are among them.
    assert np.abs(frames.astype(int) - expected).max() <= 5
    assert (frames[expected == 255] == 255).all() and (frames[expected == 0] == 0).all()


def test_colours_are_exact(tmp_path):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (3, 60, 3), np.uint8)
    pictures = [Image.fromarray(some[rng.integers(0, 60, (20, 30))]) for some in colours]
    save_gif(pictures, tmp_path / "x.gif", [100, 200, 300])
    frames, durations = decoded(tmp_path / "x.gif")
    assert durations == [100, 200, 300]
    np.testing.assert_array_equal(frames, np.stack([np.asarray(p) for p in pictures]))


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_names_fade_from_the_start_to_the_end(columns):
    images = np.full((5, 1, columns, 28, 28, 1), 7, np.uint8)
    start, end = ["Coat"] * columns, ["Bag"] * columns
    headers = [np.asarray(p)[: MARGIN + FONT_SIZE] for p in morph_pictures(images, start, end)]
    darkest = [header.min() for header in headers]
    assert (darkest[0], darkest[2], darkest[4]) == (0, 255, 0)
    assert 100 < darkest[1] == darkest[3] < 150
    assert 300 < headers[0].shape[1] < 520
    same = [np.asarray(p)[: MARGIN + FONT_SIZE] for p in morph_pictures(images, start, start)]
    assert all((header == headers[0]).all() for header in same)
    assert not (headers[4] == headers[0]).all()


@pytest.fixture
def run(tmp_path):
    """A run's folder without sample grids."""
    return RunFolder.start(tmp_path / "run", RunFolder.open(FOLDER).config, ("left", "right"))


def test_training_frames_are_in_the_order_of_epochs(run, tmp_path):
    for epoch in (10_000, 2, 1):
        picture = grid(np.full((3, 2, 4, 4, 1), epoch % 256, np.uint8), ("left", "right"))
        run.sample_grid(epoch).parent.mkdir(exist_ok=True)
        picture.save(run.sample_grid(epoch))
    (run.path / "samples" / "epoch_x.png").touch()
    done = command("animate", run.path, "--n", 2, "--out", tmp_path / "new" / "x.gif")
    assert done.returncode == 0, done.stderr
    assert "Wrote 3 pictures up to epoch 10000 to" in done.stdout
    frames, durations = decoded(tmp_path / "new" / "x.gif")
    assert durations[-1] == LAST_MS > durations[0] == durations[1]
    for frame, epoch in zip(frames, (1, 2, 10_000), strict=True):
        expected = np.asarray(
            grid(np.full((2, 2, 4, 4, 1), epoch % 256, np.uint8), ("left", "right"))
        )
        assert len(frame) == CAPTION_SIZE + len(expected)
        below = frame[CAPTION_SIZE:, : expected.shape[1]].astype(int) - expected
        assert np.abs(below[MARGIN:]).max() <= 5  # the caption reaches into the margin
    captions = frames[:, : CAPTION_SIZE + MARGIN]
    assert not np.array_equal(captions[0], captions[1])
    for edge in (captions[:, :5], captions[:, :, :MARGIN], captions[:, :, -MARGIN + 2 :]):
        assert (edge == 255).all()  # nothing is cut off


def test_a_run_without_pictures_or_with_a_damaged_one(run):
    with pytest.raises(RunError, match=r"no sample grids\n.*epoch_0001\.png"):
        progress_pictures(run, 4)
    run.sample_grid(1).parent.mkdir()
    run.sample_grid(1).write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"epoch_0001\.png cannot be read"):
        progress_pictures(run, 4)
    Image.new("RGB", (99, 99)).save(run.sample_grid(1))
    with pytest.raises(
        RunError, match=r"epoch_0001\.png is 99x99 pixels\nexpected the size of a sample grid"
    ):
        progress_pictures(run, 4)


def test_tiles_enlarged_for_long_names_are_cut_between_two_rows(tmp_path):
    names = ("a name that no tile of 80 pixels is wide enough for", "right")
    run = RunFolder.start(tmp_path / "run", RunFolder.open(FOLDER).config, names)
    run.sample_grid(1).parent.mkdir()
    images = np.random.default_rng(0).integers(0, 200, (3, 2, 4, 4, 1), np.uint8)
    grid(images, names).save(run.sample_grid(1))
    (shown,) = progress_pictures(run, 2)
    np.testing.assert_array_equal(
        np.asarray(shown)[CAPTION_SIZE + MARGIN :], np.asarray(grid(images[:2], names))[MARGIN:]
    )


def test_a_class_into_another(tmp_path):
    out = tmp_path / "x.gif"
    flags = ("--from", "left", "--to", "round trip", "--n", 3, "--frames", 4)
    done = command("animate", FOLDER, *flags, "--out", out)
    assert done.returncode == 0, done.stderr
    assert f"Wrote 4 frames of 3 pictures after 12 steps to {out}." in done.stdout
    way = load_generator(FOLDER).morph(["left"] * 3, "round trip", frames=4)
    frames, _ = decoded(out)
    assert len(frames) == 6
    for made, frame in zip(way, frames[:4], strict=True):
        white = np.full((1, 4, 4, 1), 255, np.uint8)
        square = np.concatenate([made, white]).reshape(1, 2, 2, 4, 4, 1)
        expected = morph_pictures(square, ["", ""], ["", ""])[0]
        below = slice(MARGIN + FONT_SIZE, None)
        assert np.abs(frame[below].astype(int) - np.asarray(expected)[below]).max() <= 5


def test_a_strip_and_arrays(tmp_path):
    names, (start, end) = ("left", "right", "round trip"), (np.array([0, 1]), np.array([2, 2]))
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 4, 1), np.uint8)
    write(frames, start, end, names, tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"], frames)
        assert arrays["start"].tolist() == [0, 1] * 3
        assert arrays["end"].tolist() == [2] * 6
        assert arrays["class_names"].tolist() == list(names)
    write(frames, start, end, names, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        strip = np.asarray(picture)
    for found, i in zip(np.split(strip, 2), (0, 1), strict=True):
        rows = frames[:, i::2].swapaxes(0, 1)
        np.testing.assert_array_equal(found, grid(rows, [names[i], "", "", "", "round trip"]))


LEFT = (("left",),)


def test_invalid_flags_are_refused():
    for flags, words in (
        ({"n": 0}, "n must be"),
        ({"start": LEFT, "frames": 1}, "frames must be"),
        ({"start": LEFT, "checkpoint": Checkpoint(step=-1)}, "step must be"),
        ({"start": LEFT, "checkpoint": Checkpoint(1, True)}, "step does not go with --best"),
        ({"start": LEFT, "out": "x.mp4"}, r"x\.mp4, .*\n.*\.gif or \.png or \.npz"),
        ({"out": "x.png"}, r"the training cannot be written to\n.*ends in \.gif"),
        ({"end": LEFT}, "--to does not apply to the training"),
        ({"checkpoint": Checkpoint(best=True)}, "--step or --best does not apply"),
        ({"end_seed": 3}, "--to-seed does not apply"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_flags(Flags(FOLDER, **{**flags, "out": Path(flags.get("out", "x.gif"))}))
