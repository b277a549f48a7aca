"""Scaling and grids, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cgan_jax.errors import ConfigError
from cgan_jax.models.value_range import to_uint8, to_unit_range
from cgan_jax.pictures.grids import (
    FONT_SIZE,
    GAP,
    MARGIN,
    grid,
    labelled_examples,
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


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (9, 14, 3), (90, 90, 3)])
def test_tiles_of_a_grid_are_its_images(height, width, channels):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, height, width, channels), np.uint8)
    found = tiles(grid(images, list("abc")), 3, height, width)
    np.testing.assert_array_equal(found, np.broadcast_to(images, (2, 3, height, width, 3)))


@pytest.mark.parametrize(("columns", "across", "bands"), [(20, 20, 1), (47, 16, 3), (41, 14, 3)])
def test_many_columns_go_on_below(columns, across, bands):
    images = np.random.default_rng(0).integers(0, 256, (2, columns, 28, 28, 1), np.uint8)
    picture = grid(images, [str(i) for i in range(columns)])
    assert picture.width == across * (84 + GAP) - GAP + 2 * MARGIN
    assert picture.height % bands == MARGIN % bands
    found = tiles(picture, columns, 28, 28)
    np.testing.assert_array_equal(found, np.broadcast_to(images, (2, columns, 28, 28, 3)))
    band_height = (picture.height - MARGIN) // bands - MARGIN
    for i in range(columns):  # a name above each
        x, y = MARGIN + i % across * (84 + GAP), MARGIN + i // across * (band_height + MARGIN)
        name = np.asarray(picture)[y : y + FONT_SIZE, x : x + 84]
        assert name.min() < 128 and name.mean() > 200


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


def test_labelled_examples_are_the_first_of_each_class():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    examples = labelled_examples(images, np.array([1, 0, 1, 0, 1, 2]), n_classes=3, rows=2)
    assert examples[:, :, 0, 0, 0].tolist() == [[1, 0, 5], [3, 2, 255]]
