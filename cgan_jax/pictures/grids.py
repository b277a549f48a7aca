"""Grids of images under their class names.

Plots of numbers are in plots.py; moving pictures are in gif.py; fonts for names are in fonts.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from cgan_jax.checks import short_repr
from cgan_jax.errors import ConfigError
from cgan_jax.pictures.fonts import Font, drawable

TILE = 80  # pixels of a tile's width at least, unless it is higher than twice that
GAP, MARGIN, FONT_SIZE = 4, 12, 13
MOST_COLUMNS = 20  # side by side: as wide as a screen
MOST_ROWS, MOST_TILES_DOWN, MOST_CLASSES = 10, 20, 200  # of a grid of a run's classes


def grid(
    images: np.ndarray, column_names: Sequence[str], *, ink: tuple[int, int, int] = (0, 0, 0)
) -> Image.Image:
    """Tile images, with a name above each column.

    Args:
        images: uint8 `[rows, columns, H, W, C]` with one (grey), three (RGB) or four (RGBA)
            channels.
        column_names: one per column.
        ink: the names' colour, RGB in 0..255.

    Returns:
        an RGB picture on white, which shows through images with alpha. Small images are enlarged by
        whole pixels, for long names too; the longest names are shortened. More than 20 columns are
        split into bands of equal width, one below the other, without wider images for long names.

    Raises:
        ConfigError: the array or the names do not fit this.
    """
    dtype = getattr(images, "dtype", type(images).__name__)
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if dtype != np.uint8 or len(shape) != 5 or 0 in shape or shape[-1] not in (1, 3, 4):
        raise ConfigError(
            f"the images of a grid are {dtype} {list(shape)}\n"
            "expected uint8 [rows, columns, H, W, 1, 3 or 4], none of them 0\n"
            "Reshape them; cgan_jax.models.value_range.to_uint8 takes floats in [-1, 1]."
        )
    rows, columns, height, width, _ = shape
    listed = isinstance(column_names, Sequence) and not isinstance(column_names, str)
    good = listed and all(isinstance(n, str) and len(n.splitlines()) < 2 for n in column_names)
    if not good or len(column_names) != columns:
        raise ConfigError(
            f"the names of a grid's {columns} columns are {short_repr(column_names)}\n"
            "expected one text of one line per column\nGive a list with a name for each column."
        )

    titles = [drawable(name, FONT_SIZE) for name in column_names]
    longest = max(font.getlength(text) for text, font in titles)
    widest = 2 * TILE if columns <= MOST_COLUMNS else TILE
    enough = -(-int(min(max(TILE, longest), widest)) // width)
    scale = max(1, min(enough, -(-2 * TILE // height)))
    enlarged = on_white(images).repeat(scale, 2).repeat(scale, 3)
    rgb = np.broadcast_to(enlarged, (*enlarged.shape[:-1], 3))
    layout = _Layout(rows, *_bands(columns), height * scale, width * scale)
    picture = Image.new("RGB", layout.size, "white")
    draw = ImageDraw.Draw(picture)
    for column, (text, font) in enumerate(titles):
        x, y = layout.place(column)
        title = _shortened(text, font, width * scale)
        draw.text((x + width * scale / 2, y), title, ink, font, anchor="mt")
        for row in range(rows):
            tile = Image.fromarray(np.ascontiguousarray(rgb[row, column]))
            picture.paste(tile, layout.place(column, row))
    return picture


def rows_for(n_classes: int) -> int:
    """How many images of each class a run's grids have: 10, or fewer of more than 40 classes.

    So many bands of columns would otherwise be many screens tall.
    """
    bands, _ = _bands(min(n_classes, MOST_CLASSES))
    return min(MOST_ROWS, MOST_TILES_DOWN // bands)


def shown_classes(n_classes: int) -> np.ndarray:
    """The classes that a run's grids have: all, or 200 evenly spaced ones; int32 `[n]`."""
    n_shown = min(n_classes, MOST_CLASSES)
    return np.linspace(0, n_classes - 1, n_shown).round().astype(np.int32)


def tiles(picture: Image.Image, columns: int, height: int, width: int) -> np.ndarray:
    """The images of a grid: the inverse of `grid`.

    Args:
        picture: what `grid` returned.
        columns: its number of columns.
        height: of an image, in its own pixels.
        width: likewise.

    Returns:
        uint8 `[rows, columns, height, width, 3]`: the images themselves, of grey ones three equal
        channels, of those with alpha their colours on white.

    Raises:
        ConfigError: the picture has another size than such a grid.
    """
    bands, across = _bands(columns)
    scale, rest_of_pixels = divmod((picture.width - 2 * MARGIN + GAP) // across - GAP, width)
    band_height = (picture.height - MARGIN) // bands - MARGIN
    rows = (band_height - FONT_SIZE) // max(1, height * scale + GAP)
    layout = _Layout(rows, bands, across, height * scale, width * scale)
    if rest_of_pixels or rows < 1 or scale < 1 or picture.size != layout.size:
        raise ConfigError(
            f"a picture of {picture.width}x{picture.height} pixels is not a grid of "
            f"{columns} columns of {width}x{height} images\n"
            "expected one that cgan_jax.grid returned\nGive the sizes of its images."
        )
    pixels = np.asarray(picture.convert("RGB"))
    images = np.empty((rows, columns, height, width, 3), np.uint8)
    for row, column in np.ndindex(rows, columns):
        x, y = layout.place(column, row)
        tile = pixels[y : y + height * scale : scale, x : x + width * scale : scale]
        images[row, column] = tile
    return images


def _bands(columns: int) -> tuple[int, int]:
    """The number of bands that columns are split into, and of columns in each."""
    bands = -(-columns // MOST_COLUMNS)
    return bands, -(-columns // bands)


class _Layout(NamedTuple):
    """Pixel layout of a grid."""

    rows: int
    bands: int
    across: int
    tile_height: int
    tile_width: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the picture."""
        width = 2 * MARGIN + self.across * (self.tile_width + GAP) - GAP
        return width, MARGIN + self.bands * (self._band_height + MARGIN)

    @property
    def _band_height(self) -> int:
        return FONT_SIZE + self.rows * (GAP + self.tile_height)

    def place(self, column: int, row: int | None = None) -> tuple[int, int]:
        """Left and top of a tile, or without a row of the name above the column."""
        band, x = divmod(column, self.across)
        top = MARGIN + band * (self._band_height + MARGIN)
        if row is not None:
            top += FONT_SIZE + GAP + row * (GAP + self.tile_height)
        return MARGIN + x * (self.tile_width + GAP), top


def _shortened(name: str, font: Font, width: int) -> str:
    if font.getlength(name) <= width:
        return name
    fitting = (n for n in range(len(name), -1, -1) if font.getlength(f"{name[:n]}…") <= width)
    cut = next(fitting, None)
    return "" if cut is None else f"{name[:cut].rstrip()}…"  # nothing above the narrowest images


def on_white(images: np.ndarray) -> np.ndarray:
    """Images with alpha on a white background; others unchanged.

    Args:
        images: uint8 `[..., C]`.

    Returns:
        uint8 `[..., 3]` of four channels, otherwise `images`.
    """
    if images.shape[-1] != 4:
        return images
    color, alpha = images[..., :3].astype(np.uint16), images[..., 3:].astype(np.uint16)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def labelled_examples(
    images: np.ndarray, labels: np.ndarray, n_classes: int, rows: int
) -> np.ndarray:
    """The first `rows` images of each class, for `grid`.

    Args:
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        n_classes: the number of columns.
        rows: images of each class; where there are fewer, the rest is white.

    Returns:
        uint8 `[rows, n_classes, H, W, C]`.
    """
    examples = np.full((rows, n_classes, *images.shape[1:]), 255, np.uint8)
    for label in range(n_classes):
        of_class = images[np.flatnonzero(labels == label)[:rows]]
        examples[: len(of_class), label] = of_class
    return examples
