"""Differentiable augmentation by hand, pixel by pixel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from jax.test_util import check_grads

from cgan_jax.training import augment
from cgan_jax.training.augment import (
    DiffAugment,
    augment_from_config,
    color,
    cutout,
    translation,
)
from tests.helpers import first_fast

KEY = random.key(0)
SIZES = [(28, 28, 1), (32, 32, 3), (9, 14, 4)]
ALL = DiffAugment(color=True, translation=True, cutout=True)
WORDS = ("color", "translation", "cutout")


def images(n, size):
    return random.uniform(random.key(1), (n, *size), minval=-1)


def same(n, size):
    """One image n times."""
    return jnp.repeat(images(1, size), n, axis=0)


def moved(images, y, x, background):
    """By y down and x to the right, pixel by pixel."""
    result = np.full_like(images, background)
    _, height, width, _ = images.shape
    for i in range(height):
        for j in range(width):
            if 0 <= i - y < height and 0 <= j - x < width:
                result[:, i, j] = images[:, i - y, j - x]
    return result


# Translation


@pytest.mark.parametrize(
    ("size", "most"), [((28, 28, 1), (4, 4)), ((32, 32, 3), (4, 4)), ((9, 14, 4), (1, 2))]
)
def test_a_translation_moves_every_pixel_by_the_same(size, most):
    """By up to an eighth, rounded, each way; each distance occurs about as often as the others."""
    n, background = 300, 0.25
    before = np.asarray(images(n, size))
    after = np.asarray(translation(before, KEY, background))
    shifts = [(y, x) for y in range(-most[0], most[0] + 1) for x in range(-most[1], most[1] + 1)]
    fits_SxB = np.array([(moved(before, *s, background) == after).all((1, 2, 3)) for s in shifts])
    assert (fits_SxB.sum(0) == 1).all()
    drawn = np.array(shifts)[fits_SxB.argmax(0)]
    for axis in (0, 1):
        n_values = 2 * most[axis] + 1
        share = np.bincount(drawn[:, axis] + most[axis], minlength=n_values) / n
        assert len(share) == n_values
        np.testing.assert_allclose(share, 1 / n_values, atol=0.09)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.2


def test_a_translation_of_a_tiny_image_is_none():
    """An eighth of three pixels is none."""
    np.testing.assert_array_equal(
        translation(images(4, (3, 3, 1)), KEY, -1.0), images(4, (3, 3, 1))
    )


# Cutout


@pytest.mark.parametrize("size", SIZES)
def test_a_cutout_is_a_rectangle_of_half_the_size(size):
    """Where it lies inside. The rest of the image stays; all channels are cut."""
    n, background = 300, 0.5
    before, after = images(n, size), np.asarray(cutout(images(n, size), KEY, background))
    hole = (after == background).all(-1)
    np.testing.assert_array_equal(after[~hole], np.asarray(before)[~hole])
    height, width, _ = size
    starts = []
    for one in hole:
        rows, columns = (np.flatnonzero(one.any(axis)) for axis in (1, 0))
        assert one.sum() == len(rows) * len(columns) > 0
        ends = []
        for lines, whole in ((rows, height), (columns, width)):
            half = (whole + 1) // 2
            assert list(lines) == list(range(lines[0], lines[-1] + 1))
            at_edge = lines[0] == 0 or lines[-1] == whole - 1
            assert len(lines) == half or (at_edge and half // 2 <= len(lines) < half)
            ends.append(lines[0] if len(lines) == half or lines[0] else lines[-1] + 1 - half)
        starts.append(ends)
    # From the centre in the first pixel (or on its edge) to the last.
    for axis, whole in enumerate((height, width)):
        half, axis_starts = (whole + 1) // 2, np.array(starts)[:, axis]
        assert axis_starts.min() == -(half // 2)
        assert axis_starts.max() == whole - half % 2 - half // 2
        assert abs((axis_starts + half / 2).mean() - whole / 2) < 0.05 * whole
    assert abs(np.corrcoef(np.array(starts).T)[0, 1]) < 0.2


# Colour


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_color_by_hand(channels):
    """In NumPy, from the numbers drawn: brightness, saturation of three channels, contrast."""
    with jax.enable_x64(True):
        before = random.uniform(random.key(1), (6, 5, 4, channels), minval=-1)
        after = color(before, KEY)
        drawn = np.asarray(random.uniform(KEY, (3, 6)))
    if channels == 4:  # alpha stays
        np.testing.assert_array_equal(after[..., 3], before[..., 3])
        before, after = before[..., :3], after[..., :3]
    for image, result, (b, s, c) in zip(np.asarray(before), after, drawn.T, strict=True):
        image = image + b - 0.5
        if channels >= 3:
            grey = (image[..., :1] + image[..., 1:2] + image[..., 2:]) / 3
            image = grey + 2 * s * (image - grey)
        mean = image.sum() / image.size
        np.testing.assert_allclose(result, mean + (0.5 + c) * (image - mean), atol=1e-14)


def test_the_ranges_of_color():
    """Read off from images of two values: the mean moves by the brightness, the rest scales."""
    n = 4000
    pixels = jnp.array([[0.0, 0.3, 0.9], [-0.6, -0.3, 0.3]])  # of one saturation, but not one grey
    after = color(jnp.tile(pixels, (n, 1, 1, 1)), KEY)
    brightness = after.mean((1, 2, 3)) - pixels.mean()
    grey = after.mean(-1)[:, 0]
    contrast = (grey[:, 0] - grey[:, 1]) / (pixels.mean(1)[0] - pixels.mean(1)[1])
    saturation = (after[:, 0, 0, 2] - after[:, 0, 0, 0]) / 0.9 / contrast
    for values, low, high in ((brightness, -0.5, 0.5), (contrast, 0.5, 1.5), (saturation, 0, 2)):
        assert low - 1e-5 <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high + 1e-5
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
    corr = np.corrcoef([brightness, contrast, saturation])
    assert np.abs(corr - np.eye(3)).max() < 0.06


# All of them


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("word", WORDS)
def test_each_image_draws_its_own(word, size):
    after = jax.jit(DiffAugment(**{word: True}))(same(40, size), KEY)
    assert after.shape == (40, *size)
    assert after.dtype == jnp.float32
    assert len(np.unique(np.asarray(after), axis=0)) > 10


def test_a_key_decides():
    before = images(8, (12, 12, 3))
    np.testing.assert_array_equal(ALL(before, KEY), ALL(before, random.key(0)))
    assert not np.allclose(ALL(before, KEY), ALL(before, random.key(2)))


def test_what_one_draws_does_not_depend_on_the_others():
    """And color comes first: the background stays what it is."""
    before = images(8, (12, 12, 1))
    each = before
    for word in WORDS:
        each = DiffAugment(**{word: True}, background=0.1)(each, KEY)
    together = DiffAugment(color=True, translation=True, cutout=True, background=0.1)
    np.testing.assert_allclose(together(before, KEY), each, atol=1e-6)
    assert (each == 0.1).mean() > 0.1


def test_each_of_them_has_a_key_of_its_own(monkeypatch):
    keys = []

    def draw_nothing(images, key, *background):
        keys.append(tuple(np.asarray(random.key_data(key))))
        return images

    for word in WORDS:
        monkeypatch.setattr(augment, word, draw_nothing)
    ALL(images(2, (4, 4, 1)), KEY)
    assert len(set(keys)) == 3


@pytest.mark.parametrize("channels", first_fast(1, 3))
def test_gradients_equal_finite_differences(channels):
    """First and second: a penalty differentiates twice."""
    with jax.enable_x64(True):
        before = random.uniform(random.key(1), (3, 8, 6, channels), minval=-1)
        smooth = jax.jit(lambda images: jnp.sin(2 * ALL(images, KEY)))
        check_grads(smooth, (before,), order=2, modes=["rev"], atol=1e-6, rtol=1e-6)
        grad = jax.grad(lambda images: smooth(images).sum())(before)
    assert np.abs(grad).max() > 0.1


@pytest.mark.parametrize("word", ["translation", "cutout"])
def test_no_gradient_flows_into_what_is_cut_or_moved_out(word):
    """Each pixel that is still seen has a gradient of 1, the others 0."""
    before = images(20, (16, 16, 1))
    change = DiffAugment(**{word: True}, background=-3.0)
    grad = np.asarray(jax.grad(lambda images: change(images, KEY).sum())(before))
    assert set(np.unique(grad)) == {0, 1}
    np.testing.assert_array_equal(
        grad.sum((1, 2, 3)), (np.asarray(change(before, KEY)) != -3).sum((1, 2, 3))
    )


def test_from_a_configuration():
    assert augment_from_config("", -1.0) is None
    one, other = (augment_from_config(p, 0.0) for p in ("cutout,color", "color,cutout"))
    assert one == other == DiffAugment(color=True, cutout=True, background=0.0)
    assert hash(one) == hash(other)
    assert one != augment_from_config("cutout,color", -1.0)
