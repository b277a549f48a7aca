"""A folder of pictures as a source: any image files that Pillow reads.

listing.py finds the files and their classes; stack.py decodes them; picture_cache.py keeps them.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from cgan_jax.checks import ImageSize, as_path, first_names, one_line, plural
from cgan_jax.data import background as backgrounds
from cgan_jax.data import crops, picture_cache, stack
from cgan_jax.data.crops import Background, Crop, Options, PictureFormat
from cgan_jax.data.dataset import Dataset
from cgan_jax.data.listing import Listing, check_split, list_pictures, list_test_pictures
from cgan_jax.data.picture_cache import Pictures
from cgan_jax.data.stack import ProgressFn
from cgan_jax.errors import DataError


class Probe(NamedTuple):
    """What a file says about its picture before its pixels are decoded.

    Attributes:
        size: height and width, in pixels.
        colour: whether there is colour; None where only the pixels tell.
        transparent: whether parts of it may be transparent.
        kind: see `crops.grey_kind`.
        values: lowest and highest, of grey whose range the kind does not tell.
    """

    size: tuple[int, int]
    colour: bool | None
    transparent: bool
    kind: str | None
    values: tuple[float, float] = (0.0, 0.0)


def load_folder(
    path: str | PathLike[str],
    img_size: ImageSize | None = None,
    channels: int | None = None,
    *,
    split: str = "train",
    background: Background = "auto",
    skip_unreadable: bool = False,
    on_progress: ProgressFn | None = None,
) -> Dataset:
    """Load the images of a folder, whose sub-folders or label file say their classes.

    The folder has one sub-folder per class; or a file labels.csv (file name, class) or
    dataset.json (as StyleGAN2-ADA's); or sub-folders train and test (val, valid, validation) with
    classes in one of these ways. Classes are sorted by name, or by number if all names are
    numbers; images by file name.

    Grey of more than 8 bits is scaled: files of 16 bits from 0..65535; others by the whole data
    set, see `crops.scale_of`. What takes long to read is kept in the user's cache directory.

    Args:
        path: the folder.
        img_size: height and width, or one number for both, that the central part of each image is
            resized to; by default their own, or a square where only their shorter sides are equal.
        channels: 1 for grey, 3 for colour, 4 for colour and opacity; by default 3 if any image has
            colour, else 1.
        split: "train", or "test" for the test part, in the classes, size, channels, background
            and scale of the training part.
        background: what transparent pixels become: "white", "black", or the one of them that the
            edges of what is opaque contrast with.
        skip_unreadable: leave out files that cannot be read, with a notice.
        on_progress: called as `on_progress(done, total)` while images are decoded.

    Returns:
        uint8 `[N, height, width, channels]`, named after the folder.

    Raises:
        ConfigError: an invalid option.
        DataError: no such folder or part; a class without images or with another's name; labels
            that do not fit the files; broken images, images of several sizes without `img_size`, or
            too many for this machine's memory.
    """
    options = crops.check_options(img_size, channels, background)
    check_split(split)
    folder = as_path(path, "the data folder")
    train = list_pictures(folder)
    listing = train if split == "train" else list_test_pictures(folder, train)
    files = dict.fromkeys([*listing.files, *train.files])  # which decide on the format
    facts = listing.labels, listing.class_names, skip_unreadable
    mark = picture_cache.fingerprint(folder, files, *facts)
    name = os.path.basename(os.path.abspath(folder)) or "images"
    read = partial(_read, train, listing, options, name, skip_unreadable, on_progress)
    pictures = picture_cache.load_or_read(folder, split, mark, options, read)
    stack.tell(pictures.notices)
    about = listing.class_names, name, f"the folder {listing.folder}", pictures.background
    keep = None if split == "train" else train.labels
    return stack.to_dataset(pictures.images, pictures.labels, *about, keep=keep)


def _read(
    train: Listing,
    listing: Listing,
    options: Options,
    name: str,
    skip_unreadable: bool,
    on_progress: ProgressFn | None,
) -> Pictures:
    """Decode the pictures of a listing as those of the training part suggest."""

    def load(file: str) -> Crop | str:
        with _reasons() as reasons, Image.open(file) as image:
            return crops.center_crop(image, into)
        return reasons[0]

    with crops.strict_decoding():
        probes = list(stack.parallel(_probe, train.files))
        into, notices = _decide(train, probes, options, name)
        files = listing.files
        stacked = stack.stack(load, files, len(files), into, name, on_progress)
    unreadable = stacked.unreadable
    if unreadable:
        notices.append(_check_unreadable(listing, unreadable, name, skip_unreadable))
    labels = [label for i, label in enumerate(listing.labels) if i not in unreadable]
    notices += stack.change_notices(name, stacked.n_changed)
    return Pictures(stacked.images, labels, notices, into.background)


def _probe(file: str) -> Probe | str:
    """What a file says about its picture; or why it cannot be read."""
    with _reasons() as reasons, Image.open(file) as image:
        kind = crops.grey_kind(image)
        values = crops.grey_range(image) if kind in ("I", "F") else (0.0, 0.0)
        colour = Image.getmodebase(image.mode) != "L"
        # These have no mode for grey, or none that writers use.
        unsure = colour and (image.mode in ("P", "PA", "CMYK") or image.format == "WEBP")
        size = crops.upright_size(image)
        return Probe(size, None if unsure else colour, image.has_transparency_data, kind, values)
    return reasons[0]


def _decide(
    train: Listing, probes: list[Probe | str], options: Options, name: str
) -> tuple[PictureFormat, list[str]]:
    """How pictures become arrays, and the notices about it."""
    rows = [(f, p) for f, p in zip(train.files, probes, strict=True) if isinstance(p, Probe)]
    if not rows:
        _check_unreadable(train, {i: str(p) for i, p in enumerate(probes)}, name, skip=False)
    size = options.size or _common_size(Counter(probe.size for _, probe in rows), train.folder)
    channels = options.channels or (3 if _has_colour(rows) else 1)
    transparent = [file for file, probe in rows if probe.transparent and channels != 4]
    sample = map(_open, backgrounds.sample(transparent))
    background, notices = backgrounds.choose(options.background, sample, name)
    scales, scaled = dict(crops.RANGES), []
    for kind, n in sorted(Counter(probe.kind for _, probe in rows if probe.kind).items()):
        if kind != crops.DEEP:
            lows, highs = zip(*(p.values for _, p in rows if p.kind == kind), strict=True)
            scales[kind] = crops.scale_of(min(lows), max(highs), kind)
        low, high = scales[kind]
        scaled.append(f"{n:,} of {kind} grey from {low:g}..{high:g}")
    if scaled:
        notices.append(f"{name}: scaled to 8 bits: {', '.join(scaled)}")
    return PictureFormat(size, channels, background, scales), notices


def _has_colour(rows: list[tuple[str, Probe]]) -> bool:
    """Whether any picture has colour; pixels are decoded only where modes do not tell."""
    if any(probe.colour for _, probe in rows):
        return True
    return any(not crops.is_grey(_open(file)) for file, probe in rows if probe.colour is None)


def _open(file: str) -> Image.Image:
    """A decoded picture; an empty one if the file is broken, which is found later."""
    with contextlib.suppress(Exception), Image.open(file) as image:
        return image.convert("RGBA")
    return Image.new("RGBA", (1, 1))


@contextlib.contextmanager
def _reasons() -> Iterator[list[str]]:
    """Catch any error, of which each of Pillow's many formats has its own, as a text."""
    reasons: list[str] = []
    try:
        yield reasons
    except Exception as error:
        text = str(error).partition(" '/")[0] if isinstance(error, OSError) else str(error)
        reasons.append(one_line(text or type(error).__name__, 80))


def _check_unreadable(listing: Listing, unreadable: dict[int, str], name: str, skip: bool) -> str:
    """The notice that files were left out.

    Raises:
        DataError: they must not be, or nothing is left of a class.
    """
    files = [os.path.relpath(listing.files[i], listing.folder) for i in unreadable]
    reasons = [
        f"{file} ({reason})" for file, reason in zip(files, unreadable.values(), strict=True)
    ]
    what = plural(len(files), "picture")
    if not skip:
        raise DataError(
            f"{listing.folder}: {what} cannot be read: {first_names(reasons)}\n"
            "expected intact images\nRepair or remove them; or leave them out with "
            "--skip-unreadable (skip_unreadable=True)."
        )
    left = {label for i, label in enumerate(listing.labels) if i not in unreadable}
    if empty := sorted(set(listing.labels) - left):
        names = [listing.class_names[i] for i in empty]
        raise DataError(
            f"{listing.folder}: no image can be read of {first_names(names)}; {what} of all "
            f"classes cannot: {first_names(reasons)}\nexpected intact images\n"
            "Repair them, or remove these classes."
        )
    return f"{name}: left out {what} that cannot be read: {first_names(reasons)}"


def _common_size(sizes: Counter[tuple[int, int]], folder: Path) -> tuple[int, int]:
    sides = Counter[int]()
    for size, n in sizes.items():
        sides[min(size)] += n
    if len(sides) > 1:
        most_common = sides.most_common(1)[0][0]
        raise DataError(
            f"the images in {folder} have {len(sides)} sizes, their shorter sides from "
            f"{min(sides)} to {max(sides)} pixels\nexpected one size, or an explicit --img-size\n"
            f"Choose one (img_size=): {most_common} is the most common, 32 trains fast."
        )
    return crops.native_size(sizes, str(folder))
