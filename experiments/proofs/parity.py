"""Prove that this library trains as the PyTorch original does, number by number.

    python -m experiments.proofs.parity   # needs the torch extra; some five minutes on two cores

Prints a table, and ends with code 1 if a bound is broken. The steps are run in parity_runs.py.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from cgan_jax.checks import Count, Range, check_int_field
from cgan_jax.data import load
from cgan_jax.presets import PRESETS
from experiments.shared.command_line import fail, parse, run

MODULE = "experiments.proofs.parity"
REPORT = PRESETS["report"]

StepsOfAnEpoch = Annotated[int, Range(1, 938)]
Part = Literal["float64", "float32", "biases", "theirs", "ours"]
Gaps = Mapping[str, float]
IDLE = "biases before BatchNorm"
ALONE = "PyTorch alone"
UPDATE = "length of the update, relative"

FLOAT64 = {
    "D loss": 1e-9,
    "G loss": 1e-9,
    "fakes": 1e-8,
    "gradients": 1e-9,
    "parameters": 1e-8,
    "first moments": 1e-9,
    "second moments": 1e-9,
    "running means": 1e-8,
    "running variances": 1e-8,
    f"gradients, {IDLE}": 1e-12,
    f"parameters, {IDLE}": 1e-8,
    "images": 1e-8,
    "scores": 1e-8,
}
# In float32, two correct implementations differ by rounding, whose size depends on the processor,
# so the yardstick is measured: PyTorch's float32 against its own float64 on the same step. Three
# bits more are granted, for sums in another order. Numbers that are about 1 may besides differ in
# their last bit, since PyTorch's own rounding of a single number may happen to be zero.
FACTOR = 8
LAST_BIT = 2.0**-23
FLOAT32 = (*FLOAT64, "gradients, relative", UPDATE)
ABOUT_ONE = ("D loss", "G loss", "fakes", "images", "scores", UPDATE)
BIASES = {"D loss": 1e-12, "G loss": 1e-12, "fakes": 1e-10, "gradients": 1e-12, "parameters": 1e-9}
OUTPUTS = {"images": 1e-5, "scores": 1e-4}


class Row(NamedTuple):
    """A line of the table."""

    what: str
    steps: int
    dtype: str
    difference: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.difference <= self.bound

    def __str__(self) -> str:
        cells = f"{self.what:42} {self.steps:5} {self.dtype:8} {self.difference:9.1e}"
        return f"{cells} {self.bound:9.1e} {'ok' if self.ok else 'BROKEN'}"


HEADER = f"{'largest difference of':42} {'steps':>5} {'dtype':8} {'measured':>9} {'bound':>9}"


@dataclass(frozen=True)
class Flags:
    """Compare training steps and images with the PyTorch twin's, and print a table.

    Both start from the same weights and see the same batches of Fashion-MNIST, latent points,
    labels and dropout masks, at the report's full size.

    Examples:
      python -m experiments.proofs.parity
      python -m experiments.proofs.parity --parts float64 --float64-steps 20
    """

    parts: tuple[Part, ...] = ("float64", "float32", "biases", "theirs", "ours")
    """float64: both train freely; float32: each step from PyTorch's state, the median step beside
    PyTorch's own rounding; biases: those before a BatchNorm have no influence; theirs, ours: images
    by weights that PyTorch, or this library, trained."""
    float64_steps: StepsOfAnEpoch = 200
    """Steps in float64. An epoch's last, smaller batch is the middle one."""
    float32_steps: StepsOfAnEpoch = 20
    """Steps in float32."""
    float32_seeds: Count = 5
    """Runs in float32, of the seeds from `seed` on. The median step of all is shown."""
    epoch_batches: StepsOfAnEpoch = 938
    """Steps before images are compared; 938 are an epoch."""
    seed: int = 0
    """Of the weights and of the noise."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""

    def check(self) -> None:
        """Raises ConfigError for a seed out of range."""
        check_int_field(self, "seed", 0, 2**32 - 1 - self.float32_seeds)


def rows(flags: Flags) -> Iterable[Row]:
    """Run the parts one after another. Needs PyTorch."""
    from experiments.proofs import parity_runs

    dataset = load(REPORT.dataset, data_dir=flags.data_dir)
    seed = flags.seed
    if "float64" in flags.parts:
        n = flags.float64_steps
        steps = list(parity_runs.compare_steps(REPORT, dataset, n, dtype="float64", seed=seed))
        yield from worst(steps, FLOAT64, n, "float64")
    if "float32" in flags.parts:
        n = flags.float32_steps
        steps = []
        for one in range(seed, seed + flags.float32_seeds):
            steps += parity_runs.compare_steps(REPORT, dataset, n, dtype="float32", seed=one)
        yield from median(steps, n)
    if "biases" in flags.parts:
        steps = list(parity_runs.compare_shifted(REPORT, dataset, 3, seed=seed))
        for row in worst(steps, BIASES, 3, "float64"):
            yield row._replace(what=f"{row.what}, {IDLE} + 1")
    trained: list[tuple[Part, str, Callable[..., Gaps]]] = [
        ("theirs", "PyTorch's weights", parity_runs.compare_images_of_theirs),
        ("ours", "our weights", parity_runs.compare_images_of_ours),
    ]
    for part, whose, compare in trained:
        if part in flags.parts:
            gaps = compare(REPORT, dataset, flags.epoch_batches, seed)
            for row in worst([gaps], OUTPUTS, flags.epoch_batches, "float32"):
                yield row._replace(what=f"{row.what} by {whose}")


def worst(
    steps: Sequence[Gaps], bounds: Mapping[str, float], n_steps: int, dtype: str
) -> Iterable[Row]:
    """One row per bound, with the largest difference in any step."""
    for what, bound in bounds.items():
        yield Row(what, n_steps, dtype, max(gaps[what] for gaps in steps), bound)


def median(steps: Sequence[Gaps], n_steps: int) -> Iterable[Row]:
    """The float32 rows: the largest difference in the median step, bounded by PyTorch's rounding.

    About one step in twenty is an outlier, in PyTorch as here: rounding flips the sign of an
    activation near zero, and LeakyReLU's gradient jumps. The median does not depend on them.
    """

    def of(what: str) -> float:
        return statistics.median(gaps[what] for gaps in steps)

    for what in FLOAT32:
        bound = FACTOR * of(f"{what}, {ALONE}") + LAST_BIT * (what in ABOUT_ONE)
        yield Row(what, n_steps, "float32", of(what), bound)
    for loss in ("D loss", "G loss"):
        yield Row(f"{loss}, {ALONE}", n_steps, "float32", of(f"{loss}, {ALONE}"), math.inf)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    if not find_spec("torch"):
        fail("this comparison needs PyTorch.\nInstall it with pip install -e '.[torch]'")
    import torch

    # Two threads that wait for each other on a busy machine take many times as long as one.
    torch.set_num_threads(1)
    print(HEADER)
    broken = 0
    for row in rows(flags):
        print(row, flush=True)
        broken += not row.ok
    if broken:
        fail(f"{broken} of the bounds are broken", code=1)


if __name__ == "__main__":
    run(main)
