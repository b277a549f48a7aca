"""How fast the report preset is: this library beside PyTorch, in turns, and beside arithmetic.

    python -m experiments.proofs.benchmark   # some four minutes on 2 cores; PyTorch: extra `torch`

Other work on the machine slows all of them alike: read the ratios, taken round by round. The
"reference arithmetic" is a step's matrix products and Adam's memory traffic, each timed alone: a
yardstick, not a limit, since XLA overlaps and fuses what is timed apart there. What is timed is in
benchmark_parts.py.
"""

import contextlib
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from cgan_jax.checks import Range
from cgan_jax.files import write_json
from experiments.shared.command_line import parse, run

MODULE = "experiments.proofs.benchmark"
OURS = "cgan_jax, chunks of steps"
PEER = "PyTorch, eager, in memory"  # the report's own loop, which the ratios refer to
PRODUCTS, ADAM = "a step's products alone", "a step's Adam alone"

Part = Literal["training", "machine", "startup", "sampling", "data", "sizes"]


@dataclass(frozen=True)
class Flags:
    """Time the report's GAN: this library and PyTorch in turns, and a step's arithmetic alone.

    Examples:
      python -m experiments.proofs.benchmark --rounds 9 --json speed.json
      python -m experiments.proofs.benchmark --parts startup
    """

    parts: tuple[Part, ...] = ("training", "machine", "startup", "sampling", "data")
    """training: steps per second, in turns; machine: a step's matrix products and Adam's memory
    traffic alone, in the same turns; startup: seconds to the first step, and memory; sampling:
    images per second; data: seconds to load them; sizes: steps per second of larger batches and
    networks, which takes minutes more."""
    rounds: Annotated[int, Range(1, 1000)] = 5
    """How many turns each contestant gets."""
    steps: Annotated[int, Range(1, 468)] = 150
    """Steps per turn; half an epoch at most."""
    compiled: bool = False
    """Let torch.compile take part as well, which takes minutes more and a C++ compiler."""
    json: Path | None = None
    """Write the figures to this file too, with versions and machine."""


def main() -> None:
    flags = parse(Flags, MODULE)
    figures = measure(flags)
    if flags.json:
        from cgan_jax.environment import environment

        processor = from_proc("cpuinfo", "model name") or platform.processor()
        machine = {"system": platform.platform(), "processor": processor}
        write_json(flags.json, machine | environment() | figures)
        print(f"Written to {flags.json}.")


def measure(flags: Flags) -> dict[str, Any]:
    """All parts one after another; each prints its figures."""
    from experiments.proofs import benchmark_parts as parts

    figures: dict[str, Any] = {}
    contestants: dict[str, Callable[[int], float]] = {}
    if "training" in flags.parts:
        contestants = {
            OURS: parts.training_timer(),
            "cgan_jax, single steps from NumPy": parts.single_steps_timer(),
        }
        if find_spec("torch"):
            contestants |= parts.torch_contestants(compiled=flags.compiled)
        else:
            print("PyTorch is not installed (extra `torch`): measuring this library alone.")
    if "machine" in flags.parts:
        contestants |= {PRODUCTS: parts.products(), ADAM: parts.adam()}
    if contestants:
        figures["steps_per_second"] = rates = in_turns(contestants, flags.rounds, flags.steps)
        print(table(rates))
    if OURS in contestants:
        figures |= show({"200 epochs, minutes": 187_600 / statistics.median(rates[OURS]) / 60})
    if PRODUCTS in contestants:
        figures["machine"] = show(arithmetic(rates, parts.flops(), 7 * 4 * parts.n_weights()))
    for part in ("startup", "sampling", "data"):
        if part in flags.parts:
            figures[part] = show(getattr(parts, part)())
    if "sizes" in flags.parts:
        print(f"{'widths':>7} {'batch':>6} {'steps/s':>8} {'images/s':>9} {'of arithmetic':>14}")
        figures["sizes"] = []
        for size in parts.sizes():
            width, batch, rate, ratio = size.values()
            line = f"{width:>6}x {batch:>6} {rate:>8.2f} {rate * batch:>9.0f} {ratio:>14.2f}"
            print(line, flush=True)
            figures["sizes"].append(size)
    return figures


def in_turns(
    contestants: Mapping[str, Callable[[int], float]], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Steps per second of each, A B C A B C ..."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, contestant in contestants.items():
            rates[name].append(contestant(steps))
        print(f"round {turn + 1} of {rounds} is done", flush=True)
    return rates


def table(rates: Mapping[str, list[float]], peer_name: str = PEER) -> str:
    """Median, least and most steps per second, and the ratio to the peer, round by round."""
    peer = rates.get(peer_name)
    lines = [f"{'steps per second':<38} {'median':>7} {'min':>7} {'max':>7} {'ratio':>6}"]
    for name, values in rates.items():
        figures = (statistics.median(values), min(values), max(values))
        line = f"{name:<38} " + " ".join(f"{figure:>7.1f}" for figure in figures)
        if peer:
            line += f" {statistics.median(v / p for v, p in zip(values, peer, strict=True)):>6.2f}"
        lines.append(line)
    return "\n".join(lines)


def arithmetic(rates: Mapping[str, list[float]], flops: int, adam_bytes: int) -> dict[str, float]:
    """The reference arithmetic's speed, and training's ratio to it, round by round."""
    turns = zip(rates[PRODUCTS], rates[ADAM], strict=True)
    reference = [1 / (1 / products + 1 / adam) for products, adam in turns]
    figures = {
        "products, GFLOP per second": statistics.median(rates[PRODUCTS]) * flops / 1e9,
        "Adam's memory, GB per second": statistics.median(rates[ADAM]) * adam_bytes / 1e9,
        "reference arithmetic, steps per second": statistics.median(reference),
    }
    if OURS in rates:
        ratios = [ours / alone for ours, alone in zip(rates[OURS], reference, strict=True)]
        figures["training / reference arithmetic"] = statistics.median(ratios)
    return figures


def show(figures: dict[str, float]) -> dict[str, float]:
    """Print figures, one per line."""
    for name, value in figures.items():
        print(f"{name:<38} {value:>7.2f}", flush=True)
    return figures


def from_proc(file: str, name: str) -> str | None:
    """The value in a line `name: value` of a file in Linux's /proc; None where there is none."""
    with contextlib.suppress(OSError):
        for line in Path("/proc", file).read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None


if __name__ == "__main__":
    run(main)
