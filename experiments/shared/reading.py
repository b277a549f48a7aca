"""A bar on a terminal while pictures are read, or worked on. Imports no JAX."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm

from cgan_jax.data.stack import ProgressFn


@contextmanager
def reading_bar(work: str = "Reading images") -> Iterator[ProgressFn]:
    """A bar of the pictures that are done, with the time left."""
    with tqdm(
        disable=not sys.stderr.isatty(),
        bar_format="{desc} {percentage:3.0f}%|{bar:20}| {remaining} left",
        desc=work,
        dynamic_ncols=True,
        leave=False,
        delay=1,
    ) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_progress
