"""Set the losses that the course report printed against those of many seeds, and draw both.

    python -m experiments.proofs.report_log       # the first 25 batches; half a minute
    python -m experiments.proofs.report_log --run runs/fashion_cgan    # a finished run's last, too

Writes tests/golden/report_log.json and docs/report_log.png. The report's own figures, its printed
log, are in tests/golden/report_losses.csv.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from cgan_jax.checks import Range
from cgan_jax.data import Dataset, load
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
LAST_BATCH = 937
# Batches of 64 of the last 5 epochs. The report's very last batch has 32 images, whose losses vary
# more, so it is compared with the last batches of more epochs.
FULL_EPOCHS, SMALL_EPOCHS = 5, 50
# Runs whose own first losses are stored too, for the test that trains them again.
EXAMPLES = 3
QUANTILES = (0.005, 0.025, 0.5, 0.975, 0.995)

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Flags:
    """Set the losses that the course report printed against those of many seeds, and draw both.

    Examples:
      python -m experiments.proofs.report_log
      python -m experiments.proofs.report_log --run runs/fashion_cgan
    """

    seeds: Annotated[int, Range(2)] = 20
    """How many runs are begun."""
    run: Path | None = None
    """The folder of a finished run of 200 epochs, for the last batches. By default their known
    figures stay."""
    data_dir: Path | None = None
    """A directory with the data. By default they are looked for, and fetched if need be."""


def report_losses() -> tuple[Array, Array]:
    """What the report printed: the first batches `[25, 2]` and the last ones `[5, 2]`."""
    table = np.loadtxt(REPORT_LOSSES, delimiter=",", skiprows=1)
    return table[table[:, 0] == 0, 2:], table[table[:, 0] > 0, 2:]


def first_losses(n_seeds: int, dataset: Dataset) -> Array:
    """The losses of the report preset's first batches, `[seeds, 25, 2]`."""
    from experiments.proofs.bare_run import BareRun  # imports JAX

    runs = (BareRun(REPORT, dataset, seed) for seed in range(n_seeds))
    rows = [run.take(run.fresh_state(), 0, FIRST)[1] for run in runs]
    return np.stack(rows).astype(float)


def last_losses(folder: Path) -> dict[str, Array]:
    """A finished run's last losses `[n, 2]`: of `full` batches, and of the epochs' `small` last.

    Raises:
        RunError: not a run folder, or not a finished run of the report preset.
    """
    from cgan_jax.runs.folder import RunFolder

    folder_of_run = RunFolder.open(folder)
    try:
        table = np.loadtxt(folder_of_run.losses, delimiter=",", skiprows=1, ndmin=2)
        finished = table[-1, :2].tolist() == [REPORT.epochs - 1, LAST_BATCH]
    except (OSError, ValueError, IndexError):
        finished = False
    if not finished or folder_of_run.config.epochs != REPORT.epochs:
        raise RunError(
            f"{folder} holds no finished run of {REPORT.epochs} epochs\n"
            f"expected the losses of epochs 0 to {REPORT.epochs - 1} in {folder_of_run.losses.name}"
            "\nName the folder of such a run, or none to keep what is known."
        )
    epochs_left, small = table[-1, 0] - table[:, 0], table[:, 1] == LAST_BATCH
    return {
        "full": table[(epochs_left < FULL_EPOCHS) & ~small, 2:],
        "small": table[(epochs_left < SMALL_EPOCHS) & small, 2:],
    }


def summary(losses: Array) -> dict[str, Any]:
    """Mean and standard deviation over the first axis, of each loss."""
    return {
        name: {
            "mean": losses[..., i].mean(0).round(6).tolist(),
            "sd": losses[..., i].std(0, ddof=1).round(6).tolist(),
        }
        for i, name in enumerate(LOSSES)
    }


def summary_of_last(losses: Array) -> dict[str, Any]:
    """The distribution of the last losses of one kind."""
    figures: dict[str, Any] = {"steps": len(losses)} | summary(losses)
    for name, values in zip(LOSSES, losses.T, strict=True):
        figures[name] |= {"min": float(values.min()), "max": float(values.max())}
        figures[name] |= {str(q): round(float(np.quantile(values, q)), 6) for q in QUANTILES}
    return figures


def offsets_of_first(figures: dict[str, Any], losses: Array | None = None) -> Array:
    """How far first losses `[25, 2]`, by default the report's, are from the seeds' mean.

    In standard deviations.
    """
    mean, sd = (np.transpose([figures["first"][n][key] for n in LOSSES]) for key in ("mean", "sd"))
    return ((report_losses()[0] if losses is None else losses) - mean) / sd


def offsets_of_last(figures: dict[str, Any]) -> Array:
    """How far the report's last losses are from the mean of their kind, in standard deviations."""
    kinds = [figures["last"][kind] for kind in ("full", "full", "full", "full", "small")]
    mean, sd = (np.array([[k[n][key] for n in LOSSES] for k in kinds]) for key in ("mean", "sd"))
    return (report_losses()[1] - mean) / sd


def draw(figures: dict[str, Any], path: Path) -> None:
    """The seeds as a band of four standard deviations, the report's printed values as dots."""
    from matplotlib.figure import Figure

    first, last = report_losses()
    known = "last" in figures
    figure = Figure(figsize=(10, 5.5), dpi=110, layout="constrained")
    ratios = {"width_ratios": [5, 1.4]} if known else {}
    axes = figure.subplots(2, 1 + known, squeeze=False, sharex="col", gridspec_kw=ratios)
    label = f"cgan_jax, {figures['seeds']} seeds: mean ± 4 sd"
    for i, (name, title) in enumerate(zip(LOSSES, ("discriminator", "generator"), strict=True)):
        left, batches = axes[i][0], np.arange(FIRST)
        _draw_band(left, batches, figures["first"][name], f"C{i}", label)
        left.plot(batches, first[:, i], "k.", label="the report's printed log")
        left.set_ylabel(f"{title} loss")
        left.legend(frameon=False, loc="upper right")
        if known:
            right, batches = axes[i][1], np.arange(LAST_BATCH + 1 - len(last), LAST_BATCH + 1)
            for kind, x in (("full", (932.5, 936.5)), ("small", (936.5, 937.5))):
                _draw_band(right, x, figures["last"][kind][name], f"C{i}")
            right.plot(batches, last[:, i], "k.")
            right.set_xticks(batches, [str(batch) for batch in batches], rotation=45)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    axes[0][0].set_title("epoch 1")
    axes[1][0].set_xlabel("batch")
    if known:
        axes[0][1].set_title(f"epoch {REPORT.epochs}")
        axes[1][1].set_xlabel("batch\n(bands: our last epochs,\nmean ± 4 sd)")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path)


def _draw_band(axis: Any, x: Any, losses: Any, color: str, label: str | None = None) -> None:
    mean, sd = (np.broadcast_to(losses[key], len(x)) for key in ("mean", "sd"))
    low, high = mean - 4 * sd, mean + 4 * sd
    axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0, label=label)
    axis.plot(x, mean, color, linewidth=1.2)


def main() -> None:
    flags = parse(Flags, MODULE)
    last: dict[str, Any] = {}
    if flags.run is not None:
        kinds = last_losses(flags.run).items()
        last = {"last": {kind: summary_of_last(losses) for kind, losses in kinds}}
    elif FIGURES.exists():
        known = json.loads(FIGURES.read_text(encoding="utf-8"))
        last = {"last": known["last"]} if "last" in known else {}
    losses = first_losses(flags.seeds, load(REPORT.dataset, data_dir=flags.data_dir))
    first = summary(losses)
    for i, name in enumerate(LOSSES):
        first[name]["examples"] = losses[:EXAMPLES, :, i].round(6).tolist()
    figures: dict[str, Any] = {"seeds": flags.seeds, "first": first} | last
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    draw(figures, PICTURE)
    worst = np.abs(offsets_of_first(figures)).max()
    print(f"First {FIRST} batches: the report is within {worst:.1f} sd of {flags.seeds} seeds")
    if last:
        worst = np.abs(offsets_of_last(figures)).max()
        print(f"Last batches: the report is within {worst:.1f} sd of our last epochs")
    print(f"Written: {FIGURES.relative_to(ROOT)}, {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    run(main)
