"""Plots of numbers. Pictures of images are images.py's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def plot_losses(losses: np.ndarray, steps_per_epoch: int, path: Path) -> None:
    """Draw both losses over the epochs: each step's faintly, a running mean on top.

    Args:
        losses: `[steps, 2]`: d_loss and g_loss.
        steps_per_epoch: scales the x axis.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    epochs = np.arange(len(losses)) / steps_per_epoch
    width = max(1, min(steps_per_epoch, len(losses) // 50))
    stride = max(1, len(losses) // 4000)
    smoothed = f" (mean of {width} steps)" if width > 1 else ""
    for column, (name, colour) in enumerate([("discriminator", "C0"), ("generator", "C1")]):
        values = losses[:, column]
        axes.plot(epochs[::stride], values[::stride], colour, alpha=0.25, linewidth=0.6)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        centre = epochs[(width - 1) // 2 :][: len(smooth)]
        axes.plot(centre, smooth, colour, linewidth=1.8, label=name + smoothed)
    axes.set(xlabel="epoch", ylabel="loss", xlim=(0, max(epochs[-1], 1e-9)))
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path)


def plot_confusion(
    matrices: Mapping[str, np.ndarray], class_names: Sequence[str], path: Path
) -> None:
    """Draw which class images were taken for, in per cent of those asked for, from 1 on.

    Args:
        matrices: counts `[classes, classes]` by title, a row the class asked for.
        class_names: one a class.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    n = len(class_names)
    size = 1.6 + 0.42 * n
    figure = Figure(figsize=(size * len(matrices), size), dpi=110, layout="constrained")
    places = np.arange(n)
    for axes, (title, counts) in zip(
        figure.subplots(1, len(matrices), squeeze=False)[0], matrices.items(), strict=True
    ):
        share = 100 * counts / counts.sum(1, keepdims=True)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
        for row, column in zip(*np.nonzero(share >= 1), strict=True):
            value = share[row, column]
            colour = "white" if value > 55 else "black"
            axes.text(
                column, row, f"{value:.0f}", color=colour, ha="center", va="center", fontsize=8
            )
        axes.set_xticks(places, class_names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(places, class_names)
        axes.set(title=f"{title}, per cent", xlabel="taken for", ylabel="asked for")
    figure.savefig(path, bbox_inches="tight")


def plot_per_class(
    values: Mapping[str, Mapping[str, Sequence[float]]], class_names: Sequence[str], path: Path
) -> None:
    """Draw measures of each class as bars, a row of them a measure.

    Args:
        values: by the measure's title, then by whose they are, one value a class.
        class_names: one a class.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.3 * len(values) + 0.6), dpi=110, layout="constrained")
    places = np.arange(len(class_names))
    rows = figure.subplots(len(values), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (title, bars) in zip(rows, values.items(), strict=True):
        width = 0.8 / len(bars)
        for i, (who, heights) in enumerate(bars.items()):
            axes.bar(places + (i + 0.5) * width - 0.4, heights, width, label=who, color=f"C{i}")
        axes.set_title(title, fontsize=10, loc="left")
        axes.grid(axis="y", alpha=0.3)
    rows[0].legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    rows[-1].set_xticks(places, class_names, rotation=30, ha="right", rotation_mode="anchor")
    figure.savefig(path)


def plot_comparison(
    values: Mapping[str, Sequence[float]],
    real: Mapping[str, float],
    names: Sequence[str],
    path: Path,
) -> None:
    """Draw some measures of several runs, a panel a measure: a dot a run, their mean and spread.

    Args:
        values: by the measure's name, one value a run.
        real: the same of real images, where it is known.
        names: one a run.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(values))
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(3 * columns, 2.6 * rows + 0.8), dpi=110, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    places = np.arange(len(names))
    for axes, (name, found) in zip(panels, values.items(), strict=False):
        mean, sd = np.mean(found), np.std(found, ddof=1)
        axes.axhspan(mean - sd, mean + sd, color="C0", alpha=0.15, linewidth=0)
        axes.axhline(mean, color="C0", linewidth=1.2)
        axes.plot(places, found, "C0o")
        if name in real:
            axes.axhline(real[name], color="C1", linestyle="--", linewidth=1.2)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(places, names, rotation=30, ha="right", rotation_mode="anchor", fontsize=8)
        axes.margins(x=0.2, y=0.15)
        axes.grid(axis="y", alpha=0.3)
    for axes in panels[len(values) :]:
        axes.set_axis_off()
    figure.suptitle("dots: runs; band: mean ± sd; dashed: real images", fontsize=10)
    figure.savefig(path)


def plot_measures(epochs: Sequence[int], values: Mapping[str, Sequence[float]], path: Path) -> None:
    """Draw measures over the epochs, a panel each.

    Args:
        epochs: at which they were taken.
        values: by the measure's name, one value an epoch.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(values), 3), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(values), squeeze=False)[0]
    for axes, (name, found) in zip(panels, values.items(), strict=True):
        axes.plot(epochs, found, "C0.-")
        axes.set(title=name, xlabel="epoch")
        axes.grid(alpha=0.3)
    figure.savefig(path)
