"""Which background suits pictures with transparent parts: white or black."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from cgan_jax.checks import plural
from cgan_jax.data.crops import Background
from cgan_jax.data.dataset import Fill

N_SAMPLED = 64
_SIDE = 128  # pixels, of the reduced pictures that are looked at
T = TypeVar("T")


def sample(items: Sequence[T]) -> list[T]:
    """At most N_SAMPLED of the items, evenly spaced."""
    places = np.linspace(0, len(items) - 1, min(N_SAMPLED, len(items))).astype(int)
    return [items[i] for i in places]


def choose(
    wanted: Background, pictures: Iterable[Image.Image], name: str
) -> tuple[Fill, list[str]]:
    """White for pictures whose opaque parts have dark edges, black for those with light ones.

    Args:
        wanted: what the user asks for; pictures count only if it is "auto".
        pictures: a sample of those with transparent parts, of any mode.
        name: the data set's.

    Returns:
        The background, None for either if no picture has such parts; and notices of it.
    """
    if wanted != "auto":
        return wanted, []
    edges = [_edge_grey(picture) for picture in pictures]
    greys = [grey for grey in edges if grey is not None]
    if not greys:
        return None, []
    grey = np.mean(greys)
    background: Fill = "white" if grey <= 127.5 else "black"
    return background, [
        f"{name}: what is transparent becomes {background}: the edges in "
        f"{plural(len(greys), 'sampled image')} have a mean grey of {grey:.0f} of 255. "
        "--alpha-background (background=) chooses another."
    ]


def _edge_grey(picture: Image.Image) -> float | None:
    """The mean grey, 0 to 255, of opaque pixels beside transparent ones."""
    picture = picture.convert("RGBA")
    picture.thumbnail((_SIDE, _SIDE))
    pixels = np.asarray(picture)
    opaque = pixels[..., 3] >= 128
    around = np.pad(opaque, 1, mode="edge")
    inner = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    edge = opaque & ~inner
    return float(np.asarray(picture.convert("L"))[edge].mean()) if edge.any() else None
