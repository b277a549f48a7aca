"""Prove that this library trains as the PyTorch original does, number by number.

    python -m experiments.proofs.parity      # needs the torch extra; some five minutes on two CPU cores

Prints a table, and ends with code 1 if a bound is broken. The steps are run in parity_runs.py.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from cgan_jax.checks import check_int_field
from cgan_jax.data import load
from cgan_jax.presets import PRESETS
from experiments.shared.command_line import fail, parse, run

MODULE = "experiments.proofs.parity"
REPORT = PRESETS["report"]

Part = Literal["float64", "float32", "biases", "theirs", "ours"]
IDLE = "biases before BatchNorm"

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
FLOAT32 = {
    "D loss": 1e-5,
    "G loss": 1e-5,
    # In one run of five, rounding turns the sign of an activation that is all but zero, where
    # LeakyReLU's gradient jumps; and Adam moves a parameter by 2e-4 whatever its gradient's size.
    # What comes out of the parameters differs accordingly, and from PyTorch's own float64 as much.
    "fakes": 3e-3,
    "gradients": 3e-3,
    "parameters": 20 * 2e-4,
    "first moments": 2e-3,
    "second moments": 1e-7,
    "running means": 5e-4,
    "running variances": 1e-4,
    f"gradients, {IDLE}": 1e-7,
    f"parameters, {IDLE}": 20 * 2e-4,
    "images": 5e-3,
    "scores": 2e-4,
    # Against PyTorch's own float64: no bound, for comparison.
    "D loss, PyTorch alone": math.inf,
    "G loss, PyTorch alone": math.inf,
}
FIRST_STEP = {"gradients, relative": 1e-5}
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
    """float64, float32: the trajectory; biases: those before a BatchNorm have no influence;
    theirs, ours: images by weights that PyTorch, or this library, trained."""
    float64_steps: int = 200
    """Steps in float64. An epoch's last, smaller batch is the middle one."""
    float32_steps: int = 20
    """Steps in float32."""
    float32_seeds: int = 5
    """Runs in float32, of the seeds from `seed` on. The worst of all is shown."""
    epoch_batches: int = 938
    """Steps before images are compared; 938 are an epoch."""
    seed: int = 0
    """Of the weights and of the noise."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""

    def check(self) -> None:
        """Raises ConfigError for a number that is out of range."""
        for name in ("float64_steps", "float32_steps", "epoch_batches"):
            check_int_field(self, name, 1, 938)
        check_int_field(self, "float32_seeds", 1)
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
        runs = [
            list(parity_runs.compare_steps(REPORT, dataset, n, dtype="float32", seed=seed + i))
            for i in range(flags.float32_seeds)
        ]
        yield from worst([gaps for run in runs for gaps in run], FLOAT32, n, "float32")
        yield from worst([run[0] for run in runs], FIRST_STEP, 1, "float32")
    if "biases" in flags.parts:
        steps = list(parity_runs.compare_shifted(REPORT, dataset, 3, seed=seed))
        for row in worst(steps, BIASES, 3, "float64"):
            yield row._replace(what=f"{row.what}, {IDLE} + 1")
    trained: list[tuple[Part, str, Callable[..., dict[str, float]]]] = [
        ("theirs", "PyTorch's weights", parity_runs.compare_images_of_theirs),
        ("ours", "our weights", parity_runs.compare_images_of_ours),
    ]
    for part, whose, compare in trained:
        if part in flags.parts:
            found = compare(REPORT, dataset, flags.epoch_batches, seed)
            for row in worst([found], OUTPUTS, flags.epoch_batches, "float32"):
                yield row._replace(what=f"{row.what} by {whose}")


def worst(
    steps: list[dict[str, float]], bounds: dict[str, float], n_steps: int, dtype: str
) -> Iterable[Row]:
    """One row a bound, with the largest difference in any step."""
    for what, bound in bounds.items():
        yield Row(what, n_steps, dtype, max(gaps[what] for gaps in steps), bound)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    try:
        import torch
    except ImportError:
        fail("this comparison needs PyTorch.\nInstall it with pip install -e '.[torch]'")
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
