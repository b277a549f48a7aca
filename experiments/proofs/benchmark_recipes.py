"""How fast each modern preset trains: this library beside a PyTorch twin of the same recipe.

    python -m experiments.proofs.benchmark_recipes   # some ten minutes on 2 cores; extra `torch`

Both train the same networks with the same losses, penalty, optimizers and average on the same
images, in turns and in processes of their own, since their threads would hinder one another: read
the ratios, taken round by round. The twin is eager PyTorch, channels last, with fused Adam:
torch_recipe.py.
"""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from cgan_jax.checks import Range
from cgan_jax.config import TrainConfig
from cgan_jax.errors import ConfigError
from cgan_jax.files import write_json
from cgan_jax.presets import PRESETS, preset
from experiments.proofs.benchmark import in_turns, table
from experiments.proofs.processes import Timer, in_own_process
from experiments.shared.command_line import parse, run

MODULE = "experiments.proofs.benchmark_recipes"
PEER = "PyTorch, eager, channels last"


@dataclass(frozen=True)
class Flags:
    """Time the modern presets beside PyTorch twins, in turns.

    Examples:
      python -m experiments.proofs.benchmark_recipes --presets residual --rounds 9
    """

    presets: tuple[str, ...] = ("relativistic_mlp", "residual", "projection")
    """Which presets."""
    rounds: Annotated[int, Range(1, 1000)] = 5
    """How many turns each side gets."""
    seconds: float = 8.0
    """About how long a turn is timed."""
    json: Path | None = None
    """Write the figures to this file too, with versions."""

    def check(self) -> None:
        """Raises ConfigError for a preset without a twin."""
        for name in self.presets:
            if preset(name) is PRESETS["report"]:
                raise ConfigError(
                    "the report has a benchmark of its own\nexpected other presets\n"
                    "Run python -m experiments.proofs.benchmark."
                )


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()

    from experiments.proofs.benchmark_parts import training_timer

    figures = {}
    for name in flags.presets:
        with contextlib.ExitStack() as stack:
            sides = {
                f"cgan_jax, {name}": stack.enter_context(
                    in_own_process(training_timer, PRESETS[name])
                ),
                PEER: stack.enter_context(in_own_process(twin, PRESETS[name])),
            }
            every = PRESETS[name].penalty.every
            steps = steps_per_turn(list(sides.values()), every, flags.seconds)
            rates = in_turns(sides, flags.rounds, steps)
        print(table(rates, PEER))
        figures[name] = {"steps per turn": steps} | rates
    if flags.json:
        from cgan_jax.environment import environment

        write_json(flags.json, environment() | figures)
        print(f"Written to {flags.json}.")


def steps_per_turn(timers: Sequence[Timer], every: int, seconds: float) -> int:
    """How many steps the slowest takes in some seconds: whole periods of its lazy penalty."""
    slowest = min(timer(4 * every) for timer in timers)
    return min(400, every * max(2, round(seconds * slowest / every)))


def twin(config: TrainConfig) -> Timer:
    """Times the twin's loop, its batches from memory, its losses read once."""
    import torch

    from cgan_jax.data import load
    from experiments.proofs.torch_recipe import Recipe

    dataset = load()
    config = config.for_data(dataset)
    recipe, n = Recipe(config), config.batch_size
    images = torch.from_numpy(dataset.images.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    labels = torch.from_numpy(dataset.labels.astype(np.int64))
    order = torch.randperm(len(labels))

    def step(i: int) -> torch.Tensor:
        rows = order[(i % (len(order) // n)) * n :][:n]
        z = torch.randn(n, config.model.latent_dim)
        return recipe.step(
            images[rows], labels[rows], z, torch.randint(config.model.n_classes, (n,))
        )

    def measure(steps: int) -> float:
        for i in range(config.penalty.every):
            step(i)
        began = time.perf_counter()
        losses = [step(i) for i in range(steps)]
        torch.stack(losses).tolist()
        return steps / (time.perf_counter() - began)

    return measure


if __name__ == "__main__":
    run(main)
