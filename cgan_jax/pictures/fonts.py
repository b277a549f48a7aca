"""Fonts that can draw a name: Pillow's default has ASCII alone."""

import contextlib
import logging
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_log = logging.getLogger("cgan_jax")


@lru_cache
def drawable(name: str, size: int) -> tuple[str, Font]:
    """A text for a name, and a font that has all of its characters.

    The font is Pillow's default, matplotlib's DejaVu Sans (Latin, Greek, Cyrillic and more) or one
    of the system's. If none has them the text is the name with numbers for them, as `\\u65e5`.
    """
    if name.isascii():
        return name, ImageFont.load_default(size)

    from matplotlib.ft2font import FT2Font

    needed = {ord(character) for character in name if not character.isspace()}
    for path in _font_files():
        with contextlib.suppress(OSError, RuntimeError):  # neither reads every kind of font
            if needed <= FT2Font(path).get_charmap().keys():
                return name, ImageFont.truetype(path, size)
    _warn_once()
    return name.encode("ascii", "backslashreplace").decode(), ImageFont.load_default(size)


def _font_files() -> Iterator[str]:
    import matplotlib

    yield str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))

    from matplotlib import font_manager

    yield from sorted(font_manager.findSystemFonts())


@lru_cache
def _warn_once() -> None:
    _log.warning(
        "No font of this system has all characters of the class names: pictures show the numbers "
        "of the missing ones. Install a font that has them, such as Noto Sans CJK."
    )
