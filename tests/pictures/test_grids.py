"""Scaling and grids, by hand."""

from pathlib import Path

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont

from cgan_jax.errors import ConfigError
from cgan_jax.models.value_range import to_uint8, to_unit_range
from cgan_jax.pictures import fonts
from cgan_jax.pictures.fonts import drawable
from cgan_jax.pictures.grids import (
    FONT_SIZE,
    GAP,
    MARGIN,
    grid,
    labelled_examples,
    rows_for,
    shown_classes,
    tiles,
)


def test_scaling_is_the_reports_and_can_be_undone():
    every = jnp.arange(256, dtype=jnp.uint8)
    scaled = to_unit_range(every)
    assert scaled.dtype == jnp.float32
    np.testing.assert_allclose(scaled, np.arange(256) / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(to_uint8(scaled), every)


def test_to_uint8_rounds_and_never_wraps_around():
    values = jnp.array([-1.1, -1.0, 0.0, 0.0041, 1.0, 1.1, jnp.inf])
    assert to_uint8(values).tolist() == [0, 0, 128, 128, 255, 255, 255]


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_puts_each_tile_under_its_name(channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 28, 28, channels), np.uint8)
    picture = np.asarray(grid(images, ["Bag", "T-shirt/top", "Ankle boot"]))
    tile = 28 * 3
    assert picture.shape[1] == 3 * (tile + GAP) - GAP + 2 * MARGIN
    top = picture.shape[0] - MARGIN - 2 * (tile + GAP) + GAP
    for row in range(2):
        for column in range(3):
            y, x = top + row * (tile + GAP), MARGIN + column * (tile + GAP)
            shown = picture[y : y + tile : 3, x : x + tile : 3]
            np.testing.assert_array_equal(shown, np.broadcast_to(images[row, column], (28, 28, 3)))
    for column in range(3):  # something is written above each column, and nothing is cut off
        x = MARGIN + column * (tile + GAP)
        assert (picture[:top, x : x + tile] < 128).any()
    assert (picture[:, :4] == 255).all()
    assert (picture[:4] == 255).all()


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(28, 28, 1), (9, 14, 3), (90, 90, 3), (50, 3, 3), (3, 200, 1)]
)
def test_tiles_of_a_grid_are_its_images(height, width, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, height, width, channels), np.uint8)
    result = tiles(grid(images, list("abc")), 3, height, width)
    np.testing.assert_array_equal(result, np.broadcast_to(images, (2, 3, height, width, 3)))


@pytest.mark.parametrize(("columns", "across", "bands"), [(20, 20, 1), (47, 16, 3), (41, 14, 3)])
def test_many_columns_continue_below(columns, across, bands):
    images = np.random.default_rng(0).integers(0, 256, (2, columns, 28, 28, 1), np.uint8)
    picture = grid(images, [str(i) for i in range(columns)])
    assert picture.width == across * (84 + GAP) - GAP + 2 * MARGIN
    assert picture.height % bands == MARGIN % bands
    result = tiles(picture, columns, 28, 28)
    np.testing.assert_array_equal(result, np.broadcast_to(images, (2, columns, 28, 28, 3)))
    band_height = (picture.height - MARGIN) // bands - MARGIN
    for i in range(columns):  # a name above each
        x, y = MARGIN + i % across * (84 + GAP), MARGIN + i // across * (band_height + MARGIN)
        name = np.asarray(picture)[y : y + FONT_SIZE, x : x + 84]
        assert name.min() < 128 and name.mean() > 200


def test_alpha_lets_the_white_through():
    """In a grid each colour is at its alpha's share of the way from white, and so in its tiles."""
    colors, alphas = [[0, 100, 255], [10, 20, 30]], [0, 51, 128, 255]
    images = np.array([[[[[*c, a] for a in alphas] for c in colors]]], np.uint8)
    shown = tiles(grid(images, ["a"]), 1, 2, 4)[0, 0]
    for color, row in zip(colors, shown, strict=True):
        for alpha, pixel in zip(alphas, row, strict=True):
            assert pixel.tolist() == [round(255 + (c - 255) * alpha / 255) for c in color]


def test_images_of_any_shape_are_enlarged_in_measure():
    """Their names fit above wide ones; high ones stay low; above the narrowest is no name."""
    sizes = {(8, 8): (80, 80), (8, 16): (40, 80), (64, 48): (128, 96), (40, 2): (160, 8)}
    for (height, width), (tile_height, tile_width) in sizes.items():
        picture = grid(np.zeros((1, 1, height, width, 1), np.uint8), ["Bag"])
        assert picture.width == tile_width + 2 * MARGIN
        assert picture.height == tile_height + 2 * MARGIN + FONT_SIZE + GAP


def test_a_runs_grids_stay_within_two_screens():
    """Of Fashion-MNIST's ten classes, ten rows."""
    assert [rows_for(n) for n in (1, 10, 40, 41, 100, 200, 100_000)] == [10, 10, 10, 6, 4, 2, 2]
    assert shown_classes(200).tolist() == list(range(200))
    shown = shown_classes(1000)
    assert (len(shown), shown[0], shown[-1], shown.dtype) == (200, 0, 999, np.int32)
    assert set(np.diff(shown)) == {5, 6}
    images = np.zeros((2, 200, 28, 28, 1), np.uint8)
    picture = grid(images, [f"a long name of the class {i}" for i in range(200)])
    assert picture.width < 2000 and picture.height < 2100


def test_tiles_of_another_picture_are_refused():
    picture = Image.new("RGB", (900, 917))
    assert tiles(picture, 10, 28, 28).shape == (10, 10, 28, 28, 3)
    for columns, size in ((9, (900, 917)), (10, (900, 918)), (10, (900, 37)), (10, (64, 64))):
        with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]} pixels is not a grid"):
            tiles(Image.new("RGB", size), columns, 28, 28)


def test_long_names_get_wider_tiles_and_the_longest_are_shortened():
    images = np.zeros((1, 2, 28, 28, 1), np.uint8)
    usual, wide, widest = (
        np.asarray(grid(images, [name, "Bag"]))
        for name in ("Ankle boot", "A pair of sandals", 9 * "a long name of a class ")
    )
    assert usual.shape[1] < wide.shape[1] < widest.shape[1] == 2 * 168 + GAP + 2 * MARGIN
    for picture in (wide, widest):  # between the names is a gap
        tile = (picture.shape[1] - 2 * MARGIN - GAP) // 2
        assert (picture[: MARGIN + 13, MARGIN + tile : MARGIN + tile + GAP] == 255).all()


def band_of_names(names):
    """The pixels above the columns of a grid, one array per name."""
    picture = np.asarray(grid(np.full((1, len(names), 28, 28, 1), 255, np.uint8), names))
    width = (picture.shape[1] - 2 * MARGIN + GAP) // len(names)
    return np.split(
        picture[: MARGIN + FONT_SIZE, MARGIN : MARGIN + width * len(names)],
        [width * i for i in range(1, len(names))],
        axis=1,
    )


def test_names_outside_ascii_are_drawn_and_not_as_boxes(caplog):
    """A font without them draws one box for each, so that all such names of a length look alike."""
    for one, other in (("Ä", "Ö"), ("λλ", "ππ"), ("Жы", "ык")):
        drawn = [ImageFont.load_default(FONT_SIZE).getmask(name) for name in (one, other)]
        assert bytes(drawn[0]) == bytes(drawn[1])  # as boxes
        first, second = band_of_names([one, other])
        assert not np.array_equal(first, second)
        text, font = drawable(one, FONT_SIZE)
        assert text == one and font.getname()[0] == "DejaVu Sans"
    assert caplog.text == ""


def test_ascii_names_are_drawn_in_the_default_font():
    text, font = drawable("Bag", FONT_SIZE)
    assert (text, font.getname()) == ("Bag", ImageFont.load_default(FONT_SIZE).getname())


def test_names_that_no_font_has_are_drawn_as_numbers_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [__file__])
    fonts.drawable.cache_clear()
    fonts._warn_once.cache_clear()
    for name, text in (("日本語", r"\u65e5\u672c\u8a9e"), ("Ä 語", r"\xc4 \u8a9e")):
        assert drawable(name, FONT_SIZE)[0] == text
        assert band_of_names([name, "Bag"])[0].min() < 128
    assert len(caplog.records) == 1
    assert "Install a font" in caplog.text
    fonts.drawable.cache_clear()


def test_names_that_a_font_of_the_system_has_are_drawn_with_it(monkeypatch):
    """Here with a font of matplotlib's in the place of one for Chinese, Japanese and Korean."""
    path = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "STIXGeneral.ttf"))
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [__file__, path])
    fonts.drawable.cache_clear()
    only_there = chr(min(FT2Font(path).get_charmap().keys() - dejavu().keys()))
    text, font = drawable(only_there, FONT_SIZE)
    assert (text, font.getname()[0]) == (only_there, "STIXGeneral")
    fonts.drawable.cache_clear()


def dejavu():
    path = str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))
    return FT2Font(path).get_charmap()


def test_labelled_examples_are_the_first_of_each_class():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    examples = labelled_examples(images, np.array([1, 0, 1, 0, 1, 2]), n_classes=3, rows=2)
    assert examples[:, :, 0, 0, 0].tolist() == [[1, 0, 5], [3, 2, 255]]
