"""What a step of each preset would cost a GPU: an estimate, made without one, for docs/results.md.

    python -m experiments.proofs.gpu_cost   # two minutes of compilation; no GPU needed

XLA counts the operations and bytes of a step that it has compiled for the CPU, with the
convolutions that a GPU has; fusions, products and copies in it stand for a GPU's kernels. On a GPU
XLA fuses otherwise, mostly more, and caches spare it some of the bytes. gpu.py measures.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple
from unittest.mock import patch

import jax
import numpy as np

from cgan_jax.config import TrainConfig
from cgan_jax.data.sources import Batch, steps_per_epoch
from cgan_jax.models import convolution
from cgan_jax.presets import PRESETS, preset
from cgan_jax.training.gan import GAN, image_shape
from cgan_jax.training.step import run_keys, train_step
from experiments.shared.command_line import parse, run

MODULE = "experiments.proofs.gpu_cost"
N_IMAGES = 60_000  # of Fashion-MNIST
LAUNCH = 3e-6  # seconds from one small kernel to the next: an assumption, 2 to 5 are usual
INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?\S+ = (?:\(.*?\)|\S+) ([a-z][\w-]*)\(", re.MULTILINE)
NO_KERNELS = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element"}


class Gpu(NamedTuple):
    """Operations per second on tensor cores without sparsity, and bytes per second."""

    name: str
    tf32: float
    bfloat16: float
    bandwidth: float


GPUS = (
    # NVIDIA's data sheet of the H100, SXM: TF32 989 and bfloat16 1,979 with sparsity, 3.35 TB/s.
    Gpu("H100 SXM", 494.7e12, 989.4e12, 3.35e12),
    # NVIDIA's comparison of laptops: 3,072 cores at up to 2.37 GHz, 128 bits of GDDR6 at 16 Gbit/s.
    # Tensor cores of Ada do as many in TF32 as its cores in float32, and twice as many in bfloat16.
    Gpu("RTX 4060 Laptop", 14.56e12, 29.12e12, 256e9),
)


class Cost(NamedTuple):
    """Operations, bytes that are read and written, and kernels of a step, on average."""

    operations: float
    bytes: float
    kernels: float


@dataclass(frozen=True)
class Flags:
    """Estimate what a step of each preset costs a GPU, without one."""

    presets: tuple[str, ...] = tuple(PRESETS)
    """Which presets."""


def main() -> None:
    flags = parse(Flags, MODULE)
    configs = {name: preset(name).with_schedule_steps(N_IMAGES) for name in flags.presets}
    print(table({name: (config, step_cost(config)) for name, config in configs.items()}))


def step_cost(config: TrainConfig) -> Cost:
    """The mean cost of a step; a penalty may be left out in some."""
    gan = GAN.from_config(config)
    if gan.penalty is None:
        return program_cost(gan, config.batch_size)
    every, penalty = config.penalty.every, replace(gan.penalty, every=1)  # type: ignore[type-var]
    due = program_cost(replace(gan, penalty=penalty), config.batch_size)
    others = due if every == 1 else program_cost(replace(gan, penalty=None), config.batch_size)
    return Cost(
        *(one / every + (1 - 1 / every) * other for one, other in zip(due, others, strict=True))
    )


def program_cost(gan: GAN, batch_size: int) -> Cost:
    """The cost of one training step, by XLA's count."""
    keys = run_keys(0)
    images = jax.ShapeDtypeStruct((batch_size, *image_shape(gan.generator)), np.uint8)
    batch = Batch(images, jax.ShapeDtypeStruct((batch_size,), np.int32))
    state = jax.eval_shape(gan.init, keys.init)
    step = jax.jit(train_step, static_argnums=0, donate_argnums=1)
    with patch.object(convolution, "_convolution", convolution._plain):  # as on a GPU
        program = step.lower(gan, state, batch, keys.steps).compile()
    counted = program.cost_analysis()
    assert counted
    return Cost(counted["flops"], counted["bytes accessed"], count_kernels(program.as_text() or ""))


def count_kernels(program: str) -> int:
    """The instructions of a compiled program's main computation that take a kernel."""
    main = program[program.index("\nENTRY ") :]
    return sum(name not in NO_KERNELS for name in INSTRUCTION.findall(main))


def times(config: TrainConfig, cost: Cost, gpu: Gpu) -> tuple[float, float, float]:
    """Seconds of a step: in products and sums, in memory, and in launches; the largest is a floor.

    A network with bfloat16 inside is taken as all of it.
    """
    inside = getattr(config.model, "precision", "float32")
    rate = gpu.bfloat16 if inside == "bfloat16" else gpu.tf32
    return cost.operations / rate, cost.bytes / gpu.bandwidth, cost.kernels * LAUNCH


def table(costs: Mapping[str, tuple[TrainConfig, Cost]]) -> str:
    """A table in Markdown."""
    titles = ["preset", "GFLOP", "MB", "kernels", "launches, ms"]
    for gpu in GPUS:
        titles += [f"{gpu.name}: arithmetic, ms", "memory, ms", "epoch, s"]
    lines = [titles, ["---"] * len(titles)]
    lines += [row(name, config, cost) for name, (config, cost) in costs.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def row(name: str, config: TrainConfig, cost: Cost) -> list[str]:
    """One preset's line."""
    steps = steps_per_epoch(N_IMAGES, config.batch_size)
    cells = [f"`{name}`", f"{cost.operations / 1e9:,.1f}", f"{cost.bytes / 1e6:,.0f}"]
    cells += [f"{cost.kernels:,.0f}", f"{cost.kernels * LAUNCH * 1e3:.2f}"]
    for gpu in GPUS:
        seconds = times(config, cost, gpu)
        cells += [f"{each * 1e3:.3g}" for each in seconds[:2]] + [f"{steps * max(seconds):.2g}"]
    return cells


if __name__ == "__main__":
    run(main)
