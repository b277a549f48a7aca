"""Bars on a terminal, such as one while pictures are read. Imports no JAX."""

from collections.abc import Iterator
from contextlib import contextmanager

from cgan_jax.bars import work_bar
from cgan_jax.data.stack import ProgressFn


@contextmanager
def reading_bar(work: str = "Reading images") -> Iterator[ProgressFn]:
    """A bar of the pictures that are done, with the time left."""
    left = "{desc} {percentage:3.0f}%|{bar:20}| {remaining} left"
    with work_bar(left, desc=work, delay=1) as bar:

        def on_progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield on_progress
