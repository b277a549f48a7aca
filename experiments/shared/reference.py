"""The reference classifier of a user's own data: its progress, and how good it is."""

import time
from typing import TYPE_CHECKING

from tqdm import tqdm

from cgan_jax.bars import duration, work_bar
from cgan_jax.checks import plural
from cgan_jax.data import Dataset

if TYPE_CHECKING:
    from cgan_jax.metrics.reference import Reference


def own_reference(training: Dataset) -> "Reference":
    """Train the reference classifier of some data, or take it from the cache, and say how good."""
    from cgan_jax.metrics.own_reference import train_reference

    start = time.perf_counter()
    left = "{percentage:3.0f}%|{bar:20}| {remaining} left at most  {desc}"
    with work_bar(left, desc="the reference classifier") as bar:

        def on_step(done: int, total: int) -> None:
            if done == 1:
                n = plural(len(training), "picture")
                tqdm.write(f"Training a reference classifier on {n}; it is cached.")
            bar.total = total
            bar.update()

        reference = train_reference(training, on_step=on_step)
        took = f", after {duration(time.perf_counter() - start)}" if bar.total else ", cached"
    print(
        f"The reference classifier recognises {reference.accuracy:.1%} of "
        f"{plural(reference.n_validation, 'picture')} that chose its weights "
        f"(by chance {reference.chance:.1%}){took}."
    )
    return reference
