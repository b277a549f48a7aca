"""Set the losses that the course report printed against those of many seeds, and draw both.

    python -m experiments.proofs.report_log                         # the first 25 batches; a minute
    python -m experiments.proofs.report_log --run runs/fashion_cgan # the last five too, by a finished run

Writes tests/golden/report_log.json and docs/report_log.png. The report's own figures, its printed
log, are in tests/golden/report_losses.csv.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cgan_jax.checks import check_int_field
from cgan_jax.data import load
from cgan_jax.errors import RunError
from cgan_jax.presets import PRESETS
from experiments.shared.command_line import parse, run

MODULE = "experiments.proofs.report_log"
REPORT = PRESETS["report"]
ROOT = Path(__file__).parents[2]
REPORT_LOSSES = ROOT / "tests/golden/report_losses.csv"
FIGURES = ROOT / "tests/golden/report_log.json"
PICTURE = ROOT / "docs/report_log.png"

LOSSES = ("d_loss", "g_loss")
FIRST = 25
# Batches of 64 of the last 5 epochs. The report's very last batch has 32 images, and losses that
# scatter wider: it belongs to its like, of which an epoch has one.
FULL_EPOCHS, SMALL_EPOCHS = 5, 50
QUANTILES = (0.005, 0.025, 0.5, 0.975, 0.995)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Flags:
    """Set the losses that the course report printed against those of many seeds, and draw both.

    Examples:
      python -m experiments.proofs.report_log
      python -m experiments.proofs.report_log --run runs/fashion_cgan
    """

    seeds: int = 20
    """How many runs begin."""
    run: Path | None = None
    """The folder of a finished run of 200 epochs, for the last batches. By default what is known
    of them stays."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""

    def check(self) -> None:
        """Raises ConfigError for too few seeds."""
        check_int_field(self, "seeds", 2)


def report_losses() -> tuple[Array, Array]:
    """What the report printed: the first batches `[25, 2]` and the last ones `[5, 2]`."""
    table = np.loadtxt(REPORT_LOSSES, delimiter=",", skiprows=1)
    return table[table[:, 0] == 0, 2:], table[table[:, 0] > 0, 2:]


def first_losses(n_seeds: int, data_dir: Path | None) -> Array:
    """The losses of the report preset's first batches, `[seeds, 25, 2]`."""
    import jax

    from cgan_jax.training.gan import GAN
    from cgan_jax.training.spans import Spans
    from cgan_jax.training.steps import run_keys

    dataset, gan = load(REPORT.dataset, data_dir=data_dir), GAN.from_config(REPORT)
    init, rows = jax.jit(gan.init), []
    for seed in range(n_seeds):
        keys = run_keys(seed)
        spans = Spans(gan, dataset, REPORT.batch_size, keys)
        _, _, losses = spans.run(init(keys.init), 0, at_most=FIRST)
        rows.append(losses)
    return np.stack(rows).astype(float)


def last_losses(folder: Path) -> dict[str, Array]:
    """A finished run's last losses `[n, 2]`: of `full` batches, and of the epochs' `small` last.

    Raises:
        RunError: the folder holds no run, or one that is no finished run of the report preset.
    """
    from cgan_jax.runs.folder import RunFolder

    found = RunFolder.open(folder)
    try:
        lines = found.losses.read_text(encoding="utf-8").splitlines()[1:]
        table = np.array([line.split(",") for line in lines], float)
        finished = table[-1, :2].tolist() == [REPORT.epochs - 1, 937]
    except (OSError, ValueError, IndexError):
        finished = False
    if not finished or found.config.epochs != REPORT.epochs:
        raise RunError(
            f"{folder} holds no finished run of {REPORT.epochs} epochs\n"
            f"expected the losses of epochs 0 to {REPORT.epochs - 1} in {found.losses.name}\n"
            "Name the folder of such a run, or none to keep what is known."
        )
    return last_of(table)


def last_of(table: Array) -> dict[str, Array]:
    """See `last_losses`; the table's columns are those of `losses.csv`."""
    to_go, small = table[-1, 0] - table[:, 0], table[:, 1] == 937
    return {
        "full": table[(to_go < FULL_EPOCHS) & ~small, 2:],
        "small": table[(to_go < SMALL_EPOCHS) & small, 2:],
    }


def summary(losses: Array) -> dict[str, Any]:
    """Mean and standard deviation over the first axis, of either loss."""
    return {
        name: {
            "mean": losses[..., i].mean(0).round(6).tolist(),
            "sd": losses[..., i].std(0, ddof=1).round(6).tolist(),
        }
        for i, name in enumerate(LOSSES)
    }


def summary_of_last(losses: Array) -> dict[str, Any]:
    """The distribution of the last losses of one kind."""
    found: dict[str, Any] = {"steps": len(losses)} | summary(losses)
    for i, name in enumerate(LOSSES):
        values = losses[:, i]
        found[name] |= {"min": float(values.min()), "max": float(values.max())}
        found[name] |= {str(q): round(float(np.quantile(values, q)), 6) for q in QUANTILES}
    return found


def offsets_of_last(figures: dict[str, Any]) -> dict[tuple[str, int], float]:
    """How far the report's last losses are from the mean of their kind, in standard deviations."""
    _, printed = report_losses()
    offsets = {}
    for i, name in enumerate(LOSSES):
        for j, value in enumerate(printed[:, i]):
            seen = figures["last"]["small" if j == len(printed) - 1 else "full"][name]
            offsets[name, j] = float((value - seen["mean"]) / seen["sd"])
    return offsets


def draw(figures: dict[str, Any], path: Path) -> None:
    """The seeds as a band of four standard deviations, the report's printed values as dots."""
    from matplotlib.figure import Figure

    first, last = report_losses()
    known = "last" in figures
    figure = Figure(figsize=(10, 5.5), dpi=110, layout="constrained")
    ratios = {"width_ratios": [5, 1.4]} if known else {}
    axes = figure.subplots(2, 1 + known, squeeze=False, sharex="col", gridspec_kw=ratios)
    for i, (name, title) in enumerate(zip(LOSSES, ("discriminator", "generator"), strict=True)):
        mean, sd = (np.array(figures["first"][name][key]) for key in ("mean", "sd"))
        batches, left = np.arange(FIRST), axes[i][0]
        left.fill_between(
            batches,
            mean - 4 * sd,
            mean + 4 * sd,
            color=f"C{i}",
            alpha=0.2,
            linewidth=0,
            label=f"cgan_jax, {figures['seeds']} seeds: mean ± 4 sd",
        )
        left.plot(batches, mean, f"C{i}", linewidth=1.2)
        left.plot(batches, first[:, i], "k.", label="the report's printed log")
        left.set_ylabel(f"{title} loss")
        left.grid(alpha=0.3)
        left.legend(frameon=False, loc="upper right")
        if known:
            right, last_batch = axes[i][1], 937
            for kind, x in (("full", (932.5, 936.5)), ("small", (936.5, 937.5))):
                seen = figures["last"][kind][name]
                low, high = (seen["mean"] + sign * 4 * seen["sd"] for sign in (-1, 1))
                right.fill_between(x, low, high, color=f"C{i}", alpha=0.2, linewidth=0)
                right.hlines(seen["mean"], *x, color=f"C{i}", linewidth=1.2)
            batches = np.arange(last_batch + 1 - len(last), last_batch + 1)
            right.plot(batches, last[:, i], "k.")
            right.set_xticks(batches, [str(batch) for batch in batches], rotation=45)
            right.grid(alpha=0.3)
    axes[0][0].set_title("epoch 1")
    axes[1][0].set_xlabel("batch")
    if known:
        axes[0][1].set_title(f"epoch {REPORT.epochs}")
        axes[1][1].set_xlabel("batch\n(bands: our last epochs,\nmean ± 4 sd)")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def main() -> None:
    flags = parse(Flags, MODULE)
    flags.check()
    last: dict[str, Any] = {}
    if flags.run is not None:
        kinds = last_losses(flags.run).items()
        last = {"last": {kind: summary_of_last(losses) for kind, losses in kinds}}
    elif FIGURES.exists():
        known = json.loads(FIGURES.read_text(encoding="utf-8"))
        last = {"last": known["last"]} if "last" in known else {}
    first = summary(first_losses(flags.seeds, flags.data_dir))
    figures: dict[str, Any] = {"seeds": flags.seeds, "first": first} | last
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    draw(figures, PICTURE)
    mean, sd = (np.array([first[name][key] for name in LOSSES]).T for key in ("mean", "sd"))
    off = np.abs(report_losses()[0] - mean) / sd
    print(f"First {FIRST} batches: the report is within {off.max():.1f} sd of {flags.seeds} seeds")
    if last:
        worst = max(abs(off) for off in offsets_of_last(figures).values())
        print(f"Last batches: the report is within {worst:.1f} sd of our last epochs")
    print(f"Written: {FIGURES.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    run(main)
