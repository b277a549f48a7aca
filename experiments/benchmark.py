"""How fast the report preset trains: this library beside PyTorch, in turns, in one process.

    python -m experiments.benchmark        # about 2 minutes on 2 cores; needs the extra `torch`

Whoever else uses the machine slows all of them alike: read the ratios, taken round by round.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

from cgan_jax.errors import ConfigError
from experiments.command_line import parse, run

MODULE = "experiments.benchmark"
PEER = "PyTorch, eager, in memory"  # the report's own loop, which the ratios refer to


@dataclass(frozen=True)
class Flags:
    """Time the training of the report's GAN: this library and PyTorch in turns.

    Example:
      python -m experiments.benchmark --rounds 9
    """

    rounds: int = 5
    """How many turns each contestant gets."""
    steps: int = 150
    """Steps a turn; half an epoch at most."""


def main() -> None:
    flags = parse(Flags, MODULE)
    for name, value, most in (("rounds", flags.rounds, 1000), ("steps", flags.steps, 468)):
        if not 1 <= value <= most:
            raise ConfigError(f"{name} must be in 1..{most}, not {value}")
    contestants = {"cgan_jax, scanned": ours()}
    if find_spec("torch"):
        contestants |= torchs()
    else:
        print("PyTorch is not installed (extra `torch`): measuring this library alone.")
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(flags.rounds):
        for name, measure in contestants.items():
            rates[name].append(measure(flags.steps))
        print(f"round {turn + 1} of {flags.rounds} is done", flush=True)
    print(table(rates))


def table(rates: dict[str, list[float]]) -> str:
    """Steps a second as median, least and most, and the ratio to the peer, round by round."""
    peer = rates.get(PEER)
    lines = [f"{'steps a second':<30} {'median':>7} {'min':>7} {'max':>7} {'ratio':>6}"]
    for name, values in rates.items():
        ratio = ""
        if peer:
            ratio = f"{statistics.median(v / p for v, p in zip(values, peer, strict=True)):.2f}"
        lines.append(
            f"{name:<30} {statistics.median(values):>7.1f} {min(values):>7.1f} "
            f"{max(values):>7.1f} {ratio:>6}"
        )
    return "\n".join(lines)


def ours() -> Callable[[int], float]:
    """Our loop over a span of steps: the data on the device, nothing read back until its end."""
    import jax

    from cgan_jax.data import load
    from cgan_jax.spans import Spans
    from cgan_jax.state import GAN
    from cgan_jax.steps import run_keys

    gan, keys = GAN.from_config(), run_keys(0)
    spans, init = Spans(gan, load(), 64, keys), jax.jit(gan.init)

    def measure(steps: int) -> float:
        state, _, _ = spans.take(init(keys.init), 0, steps)  # compiles once, warms up each time
        began = time.perf_counter()
        _, span, _ = spans.take(state, steps, steps)
        return span.n_steps / (time.perf_counter() - began)

    return measure


def torchs() -> dict[str, Callable[[int], float]]:
    """The report's loop in PyTorch, as it is and with its fused Adam."""
    import torch

    from cgan_jax.data import load
    from experiments.torch_cgan import measure_steps_per_second

    dataset, device = load(), "cuda" if torch.cuda.is_available() else "cpu"

    def contestant(variant: str) -> Callable[[int], float]:
        return lambda steps: measure_steps_per_second(
            variant, dataset.images, dataset.labels, n_steps=steps, device=device
        )

    return {PEER: contestant("eager"), "PyTorch, fused Adam, in memory": contestant("fused")}


if __name__ == "__main__":
    run(main)
