"""The summary of a sweep: a table, on the screen and in sweep.csv, and a plot with bands."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cgan_jax.config import TrainConfig
from cgan_jax.files import atomic_write, write_text
from cgan_jax.runs.folder import RunFolder
from cgan_jax.runs.tables import read_losses
from experiments.shared.sweep_folder import SweepFolder

HEADER = "setting,seed,d_loss,g_loss,diverged_in_step\n"


def summarize(
    sweep: SweepFolder, members: Mapping[str, TrainConfig], per_epoch: Mapping[str, int]
) -> str:
    """Write sweep.csv and sweep.png, and return the table: mean and standard deviation over seeds.

    Losses are means of a run's last epoch, of `per_epoch[member]` steps. Diverged runs are counted,
    but are not in the means.
    """
    rows, curves = [HEADER], dict[str, list[np.ndarray]]()
    for name, config in members.items():
        setting = name.removesuffix(f"seed_{config.seed}").strip("_") or "all the same"
        curves.setdefault(setting, [])
        if name in sweep.diverged:
            cells = f",,{sweep.diverged[name]}"
        else:
            losses = read_losses(RunFolder.open(sweep.path / name).losses)
            epochs = losses.reshape(-1, per_epoch[name], 2).mean(axis=1)
            curves[setting].append(epochs)
            cells = f"{epochs[-1, 0]:.6g},{epochs[-1, 1]:.6g},"
        rows.append(f"{setting},{config.seed},{cells}\n")
    write_text(sweep.path / "sweep.csv", "".join(rows))
    with atomic_write(sweep.path / "sweep.png") as file:
        plot_bands({name: np.stack(runs) for name, runs in curves.items() if runs}, file)
    n_seeds = len({config.seed for config in members.values()})
    lines = [f"{'setting':<32} {'finished':>9} {'D loss':>17} {'G loss':>17}"]
    for setting, runs in curves.items():
        last = np.array([run[-1] for run in runs]).reshape(-1, 2)
        columns = [_spread(losses) for losses in last.T] if runs else []
        lines.append(" ".join([f"{setting:<32} {f'{len(runs)} of {n_seeds}':>9}", *columns]))
    return "\n".join(lines)


def plot_bands(curves: Mapping[str, np.ndarray], path: Path) -> None:
    """Draw both losses over the epochs: the mean over seeds, and one standard deviation around it.

    Args:
        curves: for each setting float `[seeds, epochs, 2]`: d_loss and g_loss, means per epoch.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2)
    for column, (axes, name) in enumerate(zip(panels, ("discriminator", "generator"), strict=True)):
        for setting, runs in curves.items():
            values = runs[..., column]
            epochs = np.arange(1, values.shape[1] + 1)
            mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=min(1, len(values) - 1))
            (line,) = axes.plot(epochs, mean, ".-", markersize=3, label=setting)
            band = (mean - deviation, mean + deviation)
            axes.fill_between(epochs, *band, color=line.get_color(), alpha=0.25, linewidth=0)
        axes.set(title=name, xlabel="epoch", ylabel="mean loss of an epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    panels[1].legend(frameon=False, title="mean, standard deviation over seeds")
    figure.savefig(path)


def _spread(values: np.ndarray) -> str:
    """Mean and standard deviation; the latter needs at least two values."""
    deviation = f"{np.std(values, ddof=1):.4f}" if len(values) > 1 else "     -"
    return f"{f'{np.mean(values):.4f} +- {deviation}':>17}"
