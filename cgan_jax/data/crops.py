"""Arrays of one size and number of channels from pictures of any size and mode, one by one.

folder.py, npz.py and tfds_named.py read the pictures; stack.py makes a data set of them.
"""

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from PIL import ExifTags, Image, ImageOps

from cgan_jax.checks import as_int, check_img_size, did_you_mean, height_and_width, short_repr
from cgan_jax.data.dataset import Fill
from cgan_jax.errors import ConfigError, DataError

MAX_NATIVE_SIZE = 128  # pixels per side without an explicit img_size: beyond, the networks are huge
Background = Literal["auto", "white", "black"]
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # by the number of channels
DEEP = "16-bit"  # the kind of grey whose range is known: 0..65535
_WHITE_OF_16_BITS = 65_535.0
RANGES = {DEEP: (0.0, _WHITE_OF_16_BITS), "I": (0.0, _WHITE_OF_16_BITS), "F": (0.0, 1.0)}


class Options(NamedTuple):
    """What the user asks for: (height, width), channels, background; None for what suits."""

    size: tuple[int, int] | None
    channels: int | None
    background: Background


NATIVE = Options(None, None, "auto")


class PictureFormat(NamedTuple):
    """How the pictures of a data set become arrays, those of its test part too.

    Attributes:
        size: height and width.
        channels: 1 for grey, 3 for colour, 4 for colour and opacity.
        background: "white" or "black", where a picture is transparent and opacity is not kept;
            None (white) if no training picture is.
        ranges: lowest and highest grey value by kind of grey; see `grey_kind`.
    """

    size: tuple[int, int]
    channels: int
    background: Fill = None
    ranges: Mapping[str, tuple[float, float]] = RANGES


class Crop(NamedTuple):
    """A picture as uint8 `[height, width, channels]`, and whether it was cropped or resized."""

    image: np.ndarray
    changed: bool


def check_options(img_size: Any, channels: Any, background: Any = "auto") -> Options:
    """The options of a loader, of which `load_folder` has the description.

    Raises:
        ConfigError: one of them is invalid.
    """
    size = None
    if img_size is not None:
        hint = "Omit it for the native size of the images."
        size = height_and_width(check_img_size(img_size, hint))
    if channels is not None and as_int(channels) not in MODES:
        raise ConfigError(
            "channels must be 1 (grey), 3 (colour) or 4 (colour and opacity), not "
            f"{short_repr(channels)}\nOmit it for the channels of the images."
        )
    if not isinstance(background, str) or background not in get_args(Background):
        raise ConfigError(
            f"background must be one of {', '.join(get_args(Background))}, not "
            f"{short_repr(background)}{did_you_mean(background, get_args(Background))}\n"
            "Omit it for the one that suits the images."
        )
    return Options(size, as_int(channels), cast(Background, background))


def native_size(sizes: Collection[tuple[int, int]], name: str) -> tuple[int, int]:
    """The size for images of these heights and widths, if no other is requested.

    It is theirs if they have one in common; else a square of their shorter sides, which are equal.

    Raises:
        DataError: it is too large for networks whose layers are all fully connected.
    """
    own, *others = sizes
    side = min(own)
    if side > MAX_NATIVE_SIZE:
        raise DataError(
            f"the images of {name} are {side} pixels wide, which needs huge networks\n"
            f"expected at most {MAX_NATIVE_SIZE} pixels, or an explicit size\n"
            f"Choose one with --img-size (img_size=): 32 trains fast; {side} keeps all."
        )
    return (side, side) if others or max(own) > MAX_NATIVE_SIZE else own


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an image in its EXIF orientation."""
    # A PNG file without EXIF data before its pixels would be decoded to look for them at its end.
    has_exif = image.format != "PNG" or {"exif", "Raw profile type exif"} & image.info.keys()
    is_turned = has_exif and image.getexif().get(ExifTags.Base.Orientation, 1) > 4
    return (image.width, image.height) if is_turned else (image.height, image.width)


def center_crop(image: Image.Image, into: PictureFormat) -> Crop:
    """Resize the central part of an image that has the shape of a format.

    Its EXIF orientation is applied first. What is transparent becomes the background, unless
    opacity is kept. Grey of more than 8 bits is scaled to 8.

    Args:
        image: of any mode.
        into: what to make of it.

    Raises:
        ValueError: grey values that are not finite.
    """
    height, width = into.size
    if image.size != (width, height):
        # A large JPEG decodes faster when smaller.
        image.draft(None, (2 * max(into.size), 2 * max(into.size)))
    ImageOps.exif_transpose(image, in_place=True)
    changed = image.size != (width, height)
    if kind := grey_kind(image):
        image = _to_8_bits(image, *into.ranges[kind])
    if into.channels != 4 and image.has_transparency_data:
        image, background = image.convert("RGBA"), into.background or "white"
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image)
    if image.mode != MODES[into.channels]:
        image = image.convert(MODES[into.channels])
    if changed:
        image = image.crop(_central_box(*image.size, width, height))
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    return Crop(np.asarray(image).reshape(height, width, into.channels), changed)


def _central_box(
    width: int, height: int, new_width: int, new_height: int
) -> tuple[int, int, int, int]:
    """The largest central box of width to height as the new ones: left, top, right, bottom."""
    if width * new_height > height * new_width:
        box_width, box_height = max(1, round(height * new_width / new_height)), height
    else:
        box_width, box_height = width, max(1, round(width * new_height / new_width))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def grey_kind(image: Image.Image) -> str | None:
    """DEEP for grey of 16 bits, I for integers of 32 bits, F for floats; None for 8 bits."""
    # Older Pillows read 16-bit files of these formats, which have no 32 bits, in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return DEEP
    return image.mode if image.mode in ("I", "F") else None


def grey_range(image: Image.Image) -> tuple[float, float]:
    """The lowest and the highest value of an image of grey.

    Raises:
        ValueError: they are not finite.
    """
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(f"its grey values run from {low:g} to {high:g}")
    return low, high


def scale_of(low: float, high: float, kind: str) -> tuple[float, float]:
    """The values that become black and white, for a data set with these values.

    They are those of the smallest usual range that holds them: 0..1 (floats), 0..255, 0..65535
    (integers); else the lowest and the highest value.
    """
    usual = (1.0, 255.0) if kind == "F" else (255.0, _WHITE_OF_16_BITS)
    return next(((0.0, top) for top in usual if low >= 0 and high <= top), (low, high))


def _to_8_bits(image: Image.Image, black: float, white: float) -> Image.Image:
    """A grey image of more bits in mode L."""
    grey_range(image)
    values = np.asarray(image) - black if black else np.asarray(image)
    scaled = np.rint(values * (255 / ((white - black) or 1)))
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def is_grey(image: Image.Image) -> bool:
    """Whether what is visible of an image is grey; lossy formats may deviate a little."""
    pixels = np.asarray(image.convert("RGBA"))
    visible = pixels[pixels[..., 3] > 0][:, :3]
    return not visible.size or int(np.ptp(visible, axis=-1).max()) <= 8


def to_pillow(image: np.ndarray) -> Image.Image:
    """A Pillow image from uint8 `[H, W, C]` with one, three or four channels."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


@contextlib.contextmanager
def strict_decoding() -> Iterator[None]:
    """Refuse images so large that they may be an attack; silence all other warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
